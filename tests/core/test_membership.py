"""The replicated state machine: stateful properties, the bugs they must catch, and cases worth naming."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from callboard.core import commands, membership, snapshot
from callboard.core.commands import (
    CommitBatch,
    CreateNamespace,
    MalformedCommandError,
    OpenSession,
    RaiseFeatureLevel,
    Removal,
    Request,
    RequestId,
    TakeOffice,
    UnknownCommandError,
)
from callboard.core.membership import UnknownFeatureLevelError
from callboard.core.records import Answer, AnswerCode, HostRecord, ReplicatedState
from callboard.core.versions import Policy, Version
from tests.core.membership_machine import MembershipMachine

TestMembership = MembershipMachine.TestCase
TestMembership.settings = settings(stateful_step_count=40)

Mutation = Callable[[pytest.MonkeyPatch], None]


def _forget_answers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(membership, "_repetition", lambda _state, _identity: None)


def _version_always_rises(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(membership, "_tables_differ", lambda _before, _after: True)


def _version_never_rises(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(membership, "_tables_differ", lambda _before, _after: False)


def _any_epoch_may_write(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(membership, "_refuse_epoch", lambda _state, _epoch: None)


def _floor_is_lost(patch: pytest.MonkeyPatch) -> None:
    original = membership._delete_namespace

    def mutant(state: ReplicatedState, command: Any) -> tuple[ReplicatedState, Answer]:
        state, answer = original(state, command)
        return evolve(state, deleted_namespaces={}), answer

    patch.setattr(membership, "_delete_namespace", mutant)


def _removal_ignores_incarnation(patch: pytest.MonkeyPatch) -> None:
    original = membership._commit_batch

    def mutant(state: ReplicatedState, command: CommitBatch) -> tuple[ReplicatedState, Answer]:
        namespace = state.namespaces.get(command.namespace)
        present = namespace.members if namespace else {}
        removals = tuple(
            Removal(removal.name, present[removal.name].incarnation)
            for removal in command.removals
            if removal.name in present
        )
        return original(state, evolve(command, removals=removals))

    patch.setattr(membership, "_commit_batch", mutant)


def _snapshot_loses_sessions(patch: pytest.MonkeyPatch) -> None:
    original = snapshot.encode_state
    patch.setattr(snapshot, "encode_state", lambda state: original(evolve(state, sessions={})))


def _incarnations_start_again(patch: pytest.MonkeyPatch) -> None:
    original = membership._commit_batch

    def mutant(state: ReplicatedState, command: CommitBatch) -> tuple[ReplicatedState, Answer]:
        state, answer = original(evolve(state, next_incarnation=1), command)
        return state, answer

    patch.setattr(membership, "_commit_batch", mutant)


def _generation_keeps_counters(patch: pytest.MonkeyPatch) -> None:
    def mutant(state: ReplicatedState, command: Any) -> tuple[ReplicatedState, Answer]:
        return evolve(state, generation=command.generation), Answer(AnswerCode.OK, command.generation)

    patch.setattr(membership, "_raise_generation", mutant)


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(_forget_answers, id="ApplyOnce: answers are forgotten"),
        pytest.param(_version_always_rises, id="GenerationExact: version rises without a change"),
        pytest.param(_version_never_rises, id="GenerationExact: version stays although a table changed"),
        pytest.param(_floor_is_lost, id="GenerationExact: a deleted namespace loses its floor"),
        pytest.param(_generation_keeps_counters, id="GenerationExact: a new generation keeps old versions"),
        pytest.param(_any_epoch_may_write, id="LinearizableMembership: a deposed leader's batch takes effect"),
        pytest.param(
            _removal_ignores_incarnation, id="LinearizableMembership: a late removal hits a newer incarnation"
        ),
        pytest.param(_incarnations_start_again, id="LinearizableMembership: an incarnation is issued twice"),
        pytest.param(_snapshot_loses_sessions, id="DurableMembership: snapshots lose sessions"),
    ],
)
def test_seeded_bug_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    bounded = settings(
        max_examples=400,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(MembershipMachine, settings=bounded)


class Log:
    """A state and the position of its next entry, for tests that name a case."""

    def __init__(self) -> None:
        self.state = ReplicatedState()

    def add(self, command: Any, identity: RequestId = commands.UNPROTECTED) -> Answer:
        entry = commands.encode_request(Request(command, identity))
        self.state, answer = membership.apply(self.state, self.state.applied_index + 1, commands.decode_request(entry))
        return answer


def in_office() -> Log:
    log = Log()
    log.add(OpenSession())
    log.add(TakeOffice("r1", "nonce"))
    log.add(CreateNamespace("default", Policy.BARRIER))
    return log


def host(name: str = "10.0.0.1:50002", *types: str) -> HostRecord:
    return HostRecord(name, "shop", types or ("Cart",))


def test_entries_at_or_below_the_applied_index_are_skipped() -> None:
    log = in_office()
    before = log.state
    state, answer = membership.apply(before, before.applied_index, Request(OpenSession()))
    assert state is before
    assert answer.code is AnswerCode.STALE_REQUEST


def test_unchanged_registration_raises_nothing() -> None:
    log = in_office()
    assert log.add(CommitBatch(1, "default", (host(),))).code is AnswerCode.OK
    before = log.state.namespaces
    answer = log.add(CommitBatch(1, "default", (host(),)))
    assert (answer.code, answer.number) == (AnswerCode.UNCHANGED, Version(0, 1).wire)
    assert log.state.namespaces == before


def test_a_batch_is_one_change_of_version() -> None:
    log = in_office()
    log.add(CommitBatch(1, "default", (host("a"), host("b"))))
    incarnation = log.state.namespaces["default"].members["a"].incarnation
    answer = log.add(CommitBatch(1, "default", (host("c"), host("b", "Lamp")), (Removal("a", incarnation),)))
    assert answer == Answer(AnswerCode.OK, Version(0, 2).wire)
    assert sorted(log.state.namespaces["default"].members) == ["b", "c"]


def test_a_restarted_process_under_the_same_name_is_a_new_incarnation() -> None:
    log = in_office()
    log.add(CommitBatch(1, "default", (evolve(host(), process="first"),)))
    before = log.state.namespaces["default"].members["10.0.0.1:50002"].incarnation
    log.add(CommitBatch(1, "default", (evolve(host(), process="second"),)))
    assert log.state.namespaces["default"].members["10.0.0.1:50002"].incarnation > before


def test_answers_are_bounded_and_forgotten_ones_refused() -> None:
    log = in_office()
    for sequence in range(1, membership.ANSWERS_PER_SESSION_MAX + 3):
        log.add(CreateNamespace("default", Policy.BARRIER), RequestId(1, sequence, 1))
    session = log.state.sessions[1]
    assert len(session.answers) == membership.ANSWERS_PER_SESSION_MAX
    answer = log.add(CommitBatch(1, "default", (host(),)), RequestId(1, 1, 1))
    assert answer.code is AnswerCode.STALE_REQUEST
    assert not log.state.namespaces["default"].members


def test_sessions_expire_by_log_entries_and_by_number() -> None:
    log = in_office()
    log.state = evolve(log.state, entries_applied=log.state.entries_applied + membership.SESSION_IDLE_ENTRIES + 1)
    log.add(OpenSession())
    assert sorted(log.state.sessions) == [2]
    assert log.add(CommitBatch(1, "default", (host(),)), RequestId(1, 1, 1)).code is AnswerCode.EXPIRED_SESSION
    for _ in range(membership.SESSIONS_MAX + 5):
        log.add(OpenSession())
    assert len(log.state.sessions) == membership.SESSIONS_MAX
    assert max(log.state.sessions) == log.state.next_session - 1


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (HostRecord("", "a", ("T",)), "host name"),
        (HostRecord("h" * 256, "a", ("T",)), "host name"),
        (HostRecord("h", "a", ()), "no actor types"),
        (HostRecord("h", "a", ("B", "A")), "not sorted"),
        (HostRecord("h", "a", ("A", "A")), "not sorted"),
        (HostRecord("h", "a", tuple(f"T{i:05}" for i in range(1001))), "1001 actor types; the limit is 1000"),
        (HostRecord("h", "a", ("",)), "0 characters"),
        (HostRecord("h", "a", tuple(f"{i:0200}" for i in range(900))), "the limit is 32768"),
    ],
)
def test_impossible_hosts_are_refused_and_change_nothing(bad: HostRecord, words: str) -> None:
    log = in_office()
    answer = log.add(CommitBatch(1, "default", (host(), bad)))
    assert answer.code is AnswerCode.INVALID
    assert words in answer.detail
    assert not log.state.namespaces["default"].members


def test_the_number_of_namespaces_is_bounded() -> None:
    log = in_office()
    for number in range(membership.NAMESPACES_MAX - 1):
        assert log.add(CreateNamespace(f"n{number}", Policy.BARRIER)).succeeded
    assert log.add(CreateNamespace("one more", Policy.BARRIER)).code is AnswerCode.LIMIT


def test_an_unknown_feature_level_stops_the_replica() -> None:
    log = in_office()
    level = membership.KNOWN_FEATURE_LEVEL + 1
    with pytest.raises(UnknownFeatureLevelError, match=f"needs feature level {level}"):
        log.add(RaiseFeatureLevel(1, level))
    newer = snapshot.encode_state(evolve(log.state, feature_level=level))
    with pytest.raises(UnknownFeatureLevelError, match=f"needs feature level {level}"):
        snapshot.decode_state(newer)


def test_commands_of_a_newer_callboard_are_told_from_garbage() -> None:
    with pytest.raises(UnknownCommandError, match="'split_slot'"):
        commands.decode_request(b"\x96\x01\xaasplit_slot\x00\x00\x01\x80")
    with pytest.raises(UnknownCommandError, match="encoding version 9"):
        commands.decode_request(b"\x96\x09\xaasplit_slot\x00\x00\x01\x80")


@given(st.binary(max_size=200))
def test_garbage_is_no_command(entry: bytes) -> None:
    with pytest.raises((MalformedCommandError, UnknownCommandError)):
        commands.decode_request(entry)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damaged_snapshots_are_refused(noise: bytes, position: int) -> None:
    log = in_office()
    log.add(CommitBatch(1, "default", (host(),)))
    good = snapshot.encode_state(log.state)
    damaged = bytearray(good)
    damaged[position % len(good)] ^= 0x40
    for bad in (noise, good[: position % len(good)], bytes(damaged)):
        with pytest.raises(ValueError):
            snapshot.decode_state(bad)
