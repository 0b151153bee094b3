"""Checkers of rights and of owners that are dead: what they accuse, and what they must not accuse."""

from __future__ import annotations

from typing import Any

import pytest

from harness.faults.checkers.failover import check_failover
from harness.faults.checkers.rights import check_gate, check_grants, check_renewals
from harness.faults.checkers.verdict import Verdict
from harness.faults.history import History, Note, Operation
from tests.faults.histories import operation

MS = 1_000_000
TIMES = {"failure_timeout_ms": 3000, "tick_ms": 200}
SETTINGS = {"namespaces": {"actors": TIMES}}


def history(*notes: Note, operations: tuple[Operation, ...] = ()) -> History:
    return History(operations, notes=notes, settings=SETTINGS)


def note(kind: str, at_ms: int = 0, **fields: Any) -> Note:
    return Note(kind, at_ms * MS, fields)


def granted(host: str, incarnation: int, fence: int, first: int = 0, count: int = 4) -> Note:
    span: dict[str, Any] = {"actor_type": "Tally", "first": first, "count": count, "since": 1, "fence": fence}
    return note("granted", host=host, incarnation=incarnation, **span)


def turn(host: str, fence: int, begun_ms: int) -> Note:
    times = {"begun_ns": begun_ms * MS, "ended_ns": (begun_ms + 1) * MS}
    return note("turn", actor="Tally/k1", host=host, incarnation=fence, fence=fence, chain="", **times)


def passed(fence: int, asked_ms: int) -> Note:
    return note("passed", actor="Tally/k1", host="h1", incarnation=1, fence=fence, asked_ns=asked_ms * MS)


def test_rights_that_follow_each_other() -> None:
    notes = granted("h1", 1, 5), granted("h2", 2, 6), granted("h1", 1, 7), granted("h1", 1, 5, first=4)
    assert check_grants(history(*notes)).verdict is Verdict.VALID


@pytest.mark.parametrize("again", [granted("h2", 2, 5, first=3), granted("h1", 1, 5)])
def test_a_fence_that_is_granted_twice(again: Note) -> None:
    result = check_grants(history(granted("h1", 1, 5), again))
    assert result.verdict is Verdict.INVALID
    assert "under fence 5" in result.explanation[0]


def test_the_policy_eventual_has_no_fences() -> None:
    assert check_grants(history(granted("h1", 1, 0), granted("h2", 2, 0))).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("asked_ms", "verdict"), [(5, Verdict.VALID), (10, Verdict.VALID), (11, Verdict.INVALID)], ids=str
)
def test_a_gate_that_is_open_after_the_right(asked_ms: int, verdict: Verdict) -> None:
    notes = turn("h1", 1, 1), turn("h2", 2, 10), passed(1, asked_ms)
    assert check_gate(history(*notes)).verdict is verdict


def test_a_gate_that_is_open_in_its_right() -> None:
    assert check_gate(history(turn("h1", 1, 1), turn("h2", 2, 10), passed(2, 20))).verdict is Verdict.VALID


@pytest.mark.parametrize(
    ("epoch", "sent_ms", "verdict"),
    [(1, 90, Verdict.VALID), (1, 101, Verdict.INVALID), (2, 101, Verdict.VALID)],
    ids=str,
)
def test_renewals_that_a_deposed_leader_answers(epoch: int, sent_ms: int, verdict: Verdict) -> None:
    offices = status("a", 1, "x", 10), status("b", 2, "y", 100, epoch=2)
    renewed = note("renewed", host="h1", incarnation=1, epoch=epoch, sent_ns=sent_ms * MS)
    assert check_renewals(history(*offices, renewed)).verdict is verdict


def status(replica: str, index: int, digest: str, at_ms: int = 0, epoch: int = 1) -> Note:
    state = {"applied_index": index, "state_digest": digest, "in_office": True, "epoch": epoch}
    return note("replica", at_ms, replica=replica, alive=True, **state)


def looked_up(at_ms: int, name: str = "h1") -> Operation:
    argument = {"linearizable": True, "replica": "replica-1"}
    return operation("lookup", at_ms * MS, at_ms * MS + 1, argument, {"name": name}, index=5, key="lookup/Tally/k1")


def commits(*spans_ms: tuple[int, int]) -> list[Note]:
    """A leader whose index rises, twice a second, in these spans of time."""
    times = [at_ms for first, last in spans_ms for at_ms in range(first, last, 500)]
    return [status("a", at_ms, "x", at_ms) for at_ms in times]


def test_owners_that_are_dead() -> None:
    killed, working = note("process", 1000, name="h1", what="killed"), commits((0, 30_000))
    late = (looked_up(16_000),)
    assert check_failover(history(*working, killed, operations=(looked_up(13_000),))).verdict is Verdict.VALID
    assert check_failover(history(*working, killed, operations=late)).verdict is Verdict.INVALID
    again = note("process", 2000, name="h1", what="started")
    assert check_failover(history(*working, killed, again, operations=late)).verdict is Verdict.VALID
    assert check_failover(history(*working, killed, operations=(looked_up(16_000, "h2"),))).verdict is Verdict.VALID


@pytest.mark.parametrize(
    ("spans_ms", "verdict"),
    [
        ([(0, 3000), (4500, 30_000)], Verdict.INVALID),
        ([(0, 3000), (9000, 30_000)], Verdict.VALID),
        ([(0, 3000), (16_500, 30_000)], Verdict.VALID),
        ([(0, 3000)], Verdict.VALID),
        ([], Verdict.VALID),
    ],
    ids=str,
)
def test_owners_that_nobody_could_remove(spans_ms: list[tuple[int, int]], verdict: Verdict) -> None:
    killed = note("process", 1000, name="h1", what="killed")
    assert check_failover(history(*commits(*spans_ms), killed, operations=(looked_up(16_000),))).verdict is verdict


def test_without_anything_to_look_at() -> None:
    for check in (check_grants, check_gate, check_renewals, check_failover):
        assert check(history()).verdict is Verdict.UNKNOWN
