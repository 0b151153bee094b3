"""Commands that come again, name somebody who is not there, or use a name again."""

from __future__ import annotations

import pytest
from attrs import evolve

from callboard.core import membership
from callboard.core.commands import (
    BeginRestore,
    CommitBatch,
    CommitNativeBatch,
    CreateNamespace,
    CreateNativeNamespace,
    DeleteNamespace,
    MalformedCommandError,
    OpenSession,
    RaiseGeneration,
    Removal,
    RepeatRound,
    Request,
    RequestId,
    decode_request,
)
from callboard.core.membership import apply
from callboard.core.records import Answer, AnswerCode
from callboard.core.slot_records import HandoffSettings
from callboard.core.snapshot import encode_state
from callboard.core.versions import Policy, Version
from tests.core.test_bounds import Log, native, sidecar


def repeated(log: Log, session: int, sequence: int) -> Answer:
    request = Request(RepeatRound(1, "dapr"), RequestId(session, sequence, 1))
    log.state, answer = apply(log.state, log.state.applied_index + 1, request)
    return answer


@pytest.mark.parametrize("beyond", [1, 2, 3])
def test_the_newest_answers_of_a_session_are_kept_and_older_commands_are_not_applied_again(beyond: int) -> None:
    """`ApplyOnce`: a repetition is answered as before, or refused where that is forgotten."""
    log = Log()
    session = log.add(OpenSession()).number
    last = membership.ANSWERS_PER_SESSION_MAX + beyond
    for sequence in range(1, last + 1):
        repeated(log, session, sequence)
    for sequence in range(1, beyond + 1):
        assert repeated(log, session, sequence).code is AnswerCode.STALE_REQUEST
    for sequence in (beyond + 1, beyond + 2, last):
        answer = repeated(log, session, sequence)
        assert answer == Answer(AnswerCode.OK, Version(0, sequence).wire)
    assert log.state.namespaces["dapr"].version.counter == last


@pytest.mark.parametrize("body", [b"\x91\x01", b"\xc0", b"\x81\xa5epoch\xa1x"])
def test_known_commands_with_impossible_content_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedCommandError, match="repeat_round command: "):
        decode_request(b"\x96\x01\xacrepeat_round\x00\x00\x01" + body)


def test_a_name_that_is_used_again_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "NAMESPACES_MAX", 5)
    log = Log()
    for command in (
        CreateNamespace("a", Policy.BARRIER),
        CreateNativeNamespace("b", Policy.EVENTUAL, 4, HandoffSettings()),
    ):
        for again in (command, DeleteNamespace(command.namespace), command):
            assert log.add(again).code is AnswerCode.OK
    assert log.add(CreateNamespace("c", Policy.BARRIER)).code is AnswerCode.OK
    log.refused(CreateNamespace("d", Policy.BARRIER), AnswerCode.LIMIT, "more than 5 namespaces")


def test_removals_of_those_who_are_not_there_do_nothing() -> None:
    log = Log()
    assert log.add(CommitBatch(1, "dapr", (), (Removal("stranger", 1),))).code is AnswerCode.UNCHANGED
    assert log.add(CommitNativeBatch(1, "shop", (), (Removal("stranger", 1),))).code is AnswerCode.UNCHANGED


def test_a_name_keeps_its_version_whoever_used_it_last() -> None:
    log = Log()
    log.add(CreateNativeNamespace("x", Policy.EVENTUAL, 4, HandoffSettings()))
    log.add(CommitNativeBatch(1, "x", (native(),)))
    incarnation = log.state.native["x"].members["h"].incarnation
    log.add(CommitNativeBatch(1, "x", (), (Removal("h", incarnation),)))
    assert log.add(DeleteNamespace("x")).succeeded
    assert log.add(CreateNamespace("x", Policy.BARRIER)).number == Version(0, 2).wire
    log.add(CommitBatch(1, "x", (sidecar(),)))
    incarnation = log.state.namespaces["x"].members["h"].incarnation
    log.add(CommitBatch(1, "x", (), (Removal("h", incarnation),)))
    assert log.add(DeleteNamespace("x")).succeeded
    created = log.add(CreateNativeNamespace("x", Policy.EVENTUAL, 4, HandoffSettings()))
    assert created.number == Version(0, 4).wire


def test_a_cluster_with_a_namespace_of_native_hosts_is_not_empty() -> None:
    log = Log()
    assert log.add(DeleteNamespace("dapr")).succeeded
    log.refused(BeginRestore("backup", 8, 6, 20), AnswerCode.CONFLICT, "this one has 1 namespaces")


@pytest.mark.parametrize(("policy", "waits"), [(Policy.EXCLUSIVE, 1), (Policy.EVENTUAL, 0)])
@pytest.mark.parametrize("generation", [0, 1, 2])
def test_a_namespace_of_a_later_generation_waits_for_hosts_of_a_former_life(
    policy: Policy, waits: int, generation: int
) -> None:
    log = Log()
    if generation:
        log.add(RaiseGeneration(generation))
    issued = log.state.next_incarnation
    answer = log.add(CreateNativeNamespace("x", policy, 4, HandoffSettings()))
    namespace = log.state.native["x"]
    expected = waits if generation else 0
    assert answer.number == namespace.version.wire == Version(generation, 0).wire
    assert list(namespace.tombstones) == [issued] * expected
    assert log.state.next_incarnation == issued + expected


def test_a_newcomer_gets_its_share_and_a_leave_moves_nothing_else() -> None:
    log = Log()
    for name in "abcde":
        log.add(CommitNativeBatch(1, "shop", (native(name=name),)))
    before = log.state.native["shop"].tables["T"].owners
    log.add(CommitNativeBatch(1, "shop", (native(name="f"),)))
    newcomer = log.state.native["shop"].members["f"].incarnation
    after = log.state.native["shop"].tables["T"].owners
    assert after.count(newcomer) == 2, "16 slots among 6: two and two thirds"
    assert all(new in (old, newcomer) for old, new in zip(before, after, strict=True))
    relabelled = native(name="f", labels=(("zone", "x"),))
    log.add(CommitNativeBatch(1, "shop", (relabelled,)))
    assert log.state.native["shop"].tables["T"].owners == after


def test_equal_states_are_equal_bytes_whatever_their_order_in_memory() -> None:
    log = Log()
    log.add(CommitBatch(1, "dapr", (sidecar(name="a"), sidecar(name="b"))))
    log.add(CreateNamespace("another", Policy.BARRIER))
    state = log.state
    dapr = state.namespaces["dapr"]
    turned = evolve(dapr, members=dict(reversed(dapr.members.items())))
    namespaces = dict(reversed({**state.namespaces, "dapr": turned}.items()))
    assert encode_state(evolve(state, namespaces=namespaces)) == encode_state(state)


def test_a_command_is_late_only_below_what_is_forgotten() -> None:
    """Forgetting one answer forgets no number above it: the command that comes late is applied."""
    log = Log()
    session = log.add(OpenSession()).number
    for sequence in [1, *range(3, membership.ANSWERS_PER_SESSION_MAX + 3)]:
        repeated(log, session, sequence)
    assert repeated(log, session, 1).code is AnswerCode.STALE_REQUEST
    assert repeated(log, session, 2).succeeded
