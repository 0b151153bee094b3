"""Checkers of replicas, of positions in the log, and of logs of processes; and which checkers a run gets."""

from __future__ import annotations

from typing import Any

import pytest

from harness.faults.checkers.replicas import (
    check_logs,
    check_positions,
    check_processes,
    check_replicas,
    check_wire,
)
from harness.faults.checkers.verdict import Verdict
from harness.faults.history import History, Note
from harness.faults.verdicts import judge
from tests.faults.histories import operation


def note(kind: str, **fields: Any) -> Note:
    return Note(kind, 1, fields)


def history(*notes: Note, operations: tuple[Any, ...] = (), **settings: Any) -> History:
    return History(operations, notes=notes, settings=settings)


def replica(name: str, index: int, digest: str, *, epoch: int = 1, in_office: bool = False) -> Note:
    return note(
        "replica",
        replica=name,
        alive=True,
        generation=0,
        applied_index=index,
        state_digest=digest,
        epoch=epoch,
        in_office=in_office,
    )


def test_replicas_at_one_position_are_in_one_state() -> None:
    right = history(replica("r1", 5, "a"), replica("r2", 5, "a"), replica("r1", 6, "b"))
    assert check_replicas(right).verdict is Verdict.VALID
    assert check_replicas(right).figures == {"states": 3, "compared": 1, "votes": 0}
    wrong = check_replicas(history(replica("r1", 5, "a"), replica("r2", 5, "b")))
    assert wrong.explanation == ("position 5 has digest a at r1, b at r2",)
    assert check_replicas(history(note("replica", replica="r1", alive=False))).verdict is Verdict.UNKNOWN


def test_an_epoch_has_one_leader() -> None:
    change = history(replica("r1", 5, "a", epoch=1, in_office=True), replica("r2", 6, "b", epoch=2, in_office=True))
    assert check_replicas(change).verdict is Verdict.VALID
    both = history(replica("r1", 5, "a", epoch=2, in_office=True), replica("r2", 6, "b", epoch=2, in_office=True))
    assert check_replicas(both).explanation == ("epoch 2 is held by r1 and by r2",)


def vote(term: int, voted_for: str, *, directory: str = "d1") -> Note:
    state = replica("r1", 5, "a")
    return Note("replica", 1, {**state.fields, "directory": directory, "vote_term": term, "voted_for": voted_for})


@pytest.mark.parametrize(
    ("votes", "right"),
    [
        ([vote(3, "nobody"), vote(3, "r2"), vote(3, "r2"), vote(4, "r1"), vote(6, "nobody")], True),
        ([vote(3, "r2"), vote(1, "nobody", directory="d2"), vote(4, "r2")], True),
        ([vote(3, "r2"), vote(3, "r1")], False),
        ([vote(3, "r2"), vote(3, "nobody")], False),
        ([vote(3, "r2"), vote(2, "nobody")], False),
    ],
)
def test_a_replica_keeps_its_term_and_its_vote(votes: list[Note], right: bool) -> None:
    result = check_replicas(history(*votes))
    assert result.verdict is (Verdict.VALID if right else Verdict.INVALID)
    assert result.figures["votes"] == len(votes)
    if not right:
        assert result.explanation[0].startswith("r1 knew term 3 and voted for r2, and later term ")


def lookup(
    called: int, returned: int, index: int, *, owner: int = 1, version: int = 1, linearizable: bool = True
) -> Any:
    result = {"version": version, "incarnation": owner, "name": "h1", "granted": True, "slot": 3}
    argument = {"linearizable": linearizable, "replica": "replica-1"}
    return operation("lookup", called, returned, argument, result, index=index, key="lookup/Tally/k1")


def test_answers_do_not_go_back() -> None:
    assert check_positions(history(operations=(lookup(0, 5, 10), lookup(4, 8, 9)))).verdict is Verdict.VALID, "at once"
    old = history(operations=(lookup(0, 5, 10), lookup(6, 8, 9)))
    result = check_positions(old)
    assert result.verdict is Verdict.INVALID
    assert "position 10" in result.explanation[1]
    assert "position 9" in result.explanation[2]
    stale = history(operations=(lookup(0, 5, 10), lookup(6, 8, 9, linearizable=False)))
    assert check_positions(stale).verdict is Verdict.VALID, "it did not ask for the newest"
    assert check_positions(history()).verdict is Verdict.UNKNOWN


def test_one_version_has_one_owner() -> None:
    moved = history(operations=(lookup(0, 5, 10, owner=1), lookup(6, 8, 11, owner=2, version=2)))
    assert check_positions(moved).verdict is Verdict.VALID
    two = check_positions(history(operations=(lookup(0, 5, 10, owner=1), lookup(6, 8, 11, owner=2))))
    assert two.explanation[0] == "two owners of slot 3 of Tally at version 1"


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        "Task exception was never retrieved",
        "Task was destroyed but it is pending!",
        "coroutine 'x' was never awaited",
        "AssertionError",
        "host h1: leaked task <Task pending name='Task-9'>",
    ],
)
def test_tracebacks_and_leaked_tasks_are_found(line: str) -> None:
    fine = note("log", process="replica-1", line="[error] the disk is full")
    assert check_logs(history(fine)).verdict is Verdict.VALID
    assert check_logs(history(fine)).figures == {"lines_with_errors": 1, "bad": 0}
    result = check_logs(history(fine, note("log", process="h2", line=line)))
    assert result.verdict is Verdict.INVALID
    assert line in result.explanation[1]


def test_what_sidecars_saw_on_the_wire() -> None:
    assert check_wire(history(note("order"))).figures == {"orders": 1, "violations": 0}
    result = check_wire(history(note("wire", violation="two locks without an update between")))
    assert result.explanation == ("two locks without an update between",)
    assert check_wire(history()).verdict is Verdict.UNKNOWN


EXCLUSIVE = {"linearizability_counter", "linearizability_list", "single_activation", "stale_turns", "fence_monotonic"}


def history_of_nothing(policy: str) -> History:
    """A run that healed and settled, of which nothing but one table is known."""
    settings: dict[str, Any] = {
        "policy": policy,
        "workloads": ["actors", "members", "lookups", "sidecars"],
        "replicas": 3,
        "election_ms": 3000,
        "namespaces": {
            "actors": {"policy": policy, "tick_ms": 1, "failure_timeout_ms": 1, "drain_ms": 1, "margin_ms": 1},
            "sidecars": {"policy": "barrier", "disseminate_timeout_ms": 1, "coalesce_ms": 0},
        },
    }
    table = note("table", namespace="sidecars", host="x", incarnation=1, version=1, digest="d")
    return history(note("healed"), note("settled", hosts=[], actors=[]), table, **settings)


@pytest.mark.parametrize("policy", ["exclusive", "eventual"])
def test_every_checker_that_applies_has_to_see_something(policy: str) -> None:
    """A run in which nothing happened is unknown to each of them: nothing passes by looking at nothing."""
    found = {result.checker: result.verdict for result in judge(history_of_nothing(policy))}
    assert (found.keys() >= EXCLUSIVE) is (policy == "exclusive")
    assert ("duplicate_window" in found) is (policy == "eventual")
    assert found.keys() >= {"exactly_one", "acknowledged_once", "availability", "convergence_sidecars", "rounds"}
    passed = {checker for checker, verdict in found.items() if verdict is Verdict.VALID}
    assert passed == {"logs", "tables_sidecars"}, "no line with an error, and one table"


def test_a_process_that_ends_by_itself_is_found() -> None:
    watched = note("watched", processes=["replica-1", "h1"])
    killed = note("process", name="h1", what="killed")
    refused = note("process", name="replica-1", what="exited", code=1, expected=True)
    result = check_processes(history(killed, refused, watched))
    assert result.verdict is Verdict.VALID
    assert result.figures == {"watched": 2, "ended_by_fault": 1, "overdue": 0, "unexpected": 0}
    gone = note("process", name="h1", what="exited", code=0, expected=False)
    result = check_processes(history(killed, gone, watched))
    assert result.verdict is Verdict.INVALID
    assert result.explanation[0].startswith("h1 ended by itself at ")
    assert check_processes(history(killed)).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("host", "at_ns", "overdue", "right"),
    [("h1", 15, True, True), ("h1", 15, False, False), ("h2", 15, True, False), ("h1", 5, True, False)],
)
def test_a_host_whose_turns_outlived_their_right_is_to_end(host: str, at_ns: int, overdue: bool, right: bool) -> None:
    started = Note("process", 10, {"name": "h1", "what": "started"})
    out = Note("out", at_ns, {"host": host, "incarnation": 1, "reason": "turns did not end", "overdue": overdue})
    end = Note("process", 20, {"name": "h1", "what": "exited", "code": 0, "expected": False})
    result = check_processes(history(started, out, end, note("watched", processes=["h1"])))
    assert (result.verdict is Verdict.VALID) is right
    assert result.figures["overdue"] == right
