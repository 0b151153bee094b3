"""The replicated state machine: cases worth naming. Its properties are checked beside a model in tests/model."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_session_that_was_used_just_recently_enough_is_kept() -> None:
    log = in_office()
    for more, kept in ((0, [1, 2]), (1, [2])):
        used = log.state.sessions[1].last_used_entry
        # The entry that opens a session counts as well.
        idle = evolve(log.state, entries_applied=used + membership.SESSION_IDLE_ENTRIES - 1 + more)
        state, answer = membership.apply(idle, idle.applied_index + 1, Request(OpenSession()))
        assert answer.code is AnswerCode.OK
        assert sorted(state.sessions) == kept


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
