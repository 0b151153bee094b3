"""Checkers of replicas and of all processes: `ReplicaAgreement`, positions of answers, leaders of epochs, logs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.faults.checkers.linearizability import describe
from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.history import History, Note, Operation, Outcome

LEAKS = re.compile(
    r"Traceback|AssertionError|was never awaited|was never retrieved|was destroyed but it is pending|"
    r"leaked task|ResourceWarning|Fatal Python error|unexpected error"
)
"""What no process may write, whatever happens to it: bugs that an outer loop caught, tasks that nobody waits for."""

NO_VOTE = "nobody"


def check_replicas(history: History) -> CheckResult:
    """Replicas that applied the same position are in the same state, an epoch is held by one replica only, and no
    replica forgets a term or its vote in it, whatever happens to its process."""
    digests: dict[tuple[int, int], tuple[str, str]] = {}
    holders: dict[int, str] = {}
    votes: dict[str, tuple[int, str]] = {}
    figures = {"states": 0, "compared": 0, "votes": 0}
    for note in history.notes_of("replica"):
        fields = note.fields
        if not fields["alive"]:
            continue
        figures["states"] += 1
        place = (fields["generation"], fields["applied_index"])
        digest, replica = digests.setdefault(place, (fields["state_digest"], fields["replica"]))
        figures["compared"] += replica != fields["replica"]
        problem = ""
        if digest != fields["state_digest"]:
            other = f"{fields['state_digest']} at {fields['replica']}"
            problem = f"position {place[1]} has digest {digest} at {replica}, {other}"
        elif fields["in_office"] and holders.setdefault(fields["epoch"], fields["replica"]) != fields["replica"]:
            problem = f"epoch {fields['epoch']} is held by {holders[fields['epoch']]} and by {fields['replica']}"
        elif "vote_term" in fields:
            figures["votes"] += 1
            problem = _forgotten_vote(fields, votes)
        if problem:
            return CheckResult("replicas", Verdict.INVALID, (problem,), figures)
    verdict = Verdict.VALID if figures["states"] else Verdict.UNKNOWN
    return CheckResult("replicas", verdict, () if figures["states"] else ("no replica was asked",), figures)


def _forgotten_vote(fields: Mapping[str, Any], votes: dict[str, tuple[int, str]]) -> str:
    """What is wrong with a durable vote after the earlier ones of the same directory; empty if nothing is."""
    present = (int(fields["vote_term"]), str(fields["voted_for"]))
    term, voted_for = votes.get(fields["directory"], (0, NO_VOTE))
    votes[fields["directory"]] = present
    if present[0] < term or (present[0] == term and voted_for not in {NO_VOTE, present[1]}):
        earlier = f"term {term} and voted for {voted_for}"
        return f"{fields['replica']} knew {earlier}, and later term {present[0]} and voted for {present[1]}"
    return ""


def check_positions(history: History) -> CheckResult:
    """By log position, cheap enough for every answer: who asks after an answer from position n, linearizably, is
    answered from n or later; and at one version of the tables all replicas name the same owner of a slot."""
    answers = sorted(_positioned(history), key=lambda operation: operation.returned_ns or 0)
    figures = {"answers": len(answers)}
    problem = _old_answer(answers) or _two_owners(answers)
    if problem:
        return CheckResult("positions", Verdict.INVALID, problem, figures)
    verdict = Verdict.VALID if answers else Verdict.UNKNOWN
    return CheckResult("positions", verdict, () if answers else ("no answer names its position",), figures)


def _positioned(history: History) -> list[Operation]:
    return [
        operation
        for operation in history.operations
        if operation.outcome is Outcome.OK and operation.index is not None and operation.returned_ns is not None
    ]


def _linearizable(operation: Operation) -> bool:
    return operation.function != "lookup" or bool(operation.argument["linearizable"])


def _old_answer(answers: list[Operation]) -> tuple[str, ...]:
    """Walk along calls and returns: the highest position that was answered before a call."""
    newest: Operation | None = None
    returned = 0
    for operation in sorted(answers, key=lambda one: one.called_ns):
        while returned < len(answers) and (answers[returned].returned_ns or 0) < operation.called_ns:
            seen = answers[returned]
            if newest is None or (seen.index or 0) > (newest.index or 0):
                newest = seen
            returned += 1
        if newest is not None and _linearizable(operation) and (operation.index or 0) < (newest.index or 0):
            return ("a linearizable answer is older than one before its question", _line(newest), _line(operation))
    return ()


def _two_owners(answers: list[Operation]) -> tuple[str, ...]:
    owners: dict[tuple[str, int, int], Operation] = {}
    for operation in answers:
        if operation.function == "lookup" and operation.result is not None:
            result = operation.result
            kind = operation.key.split("/")[1]
            first = owners.setdefault((kind, result["slot"], result["version"]), operation)
            if first.result["incarnation"] != result["incarnation"]:
                text = f"two owners of slot {result['slot']} of {kind} at version {result['version']}"
                return (text, _line(first), _line(operation))
    return ()


def _line(operation: Operation) -> str:
    return f"  position {operation.index}: {describe(operation)}"


def check_logs(history: History) -> CheckResult:
    """No process of the run wrote of a bug in itself."""
    lines = [note for note in history.notes_of("log") if LEAKS.search(note.fields["line"])]
    figures = {"lines_with_errors": sum(1 for _ in history.notes_of("log")), "bad": len(lines)}
    if lines:
        shown = tuple(f"  {note.fields['process']}: {note.fields['line'][:300]}" for note in lines[:5])
        return CheckResult("logs", Verdict.INVALID, ("a process wrote of a bug in itself", *shown), figures)
    return CheckResult("logs", Verdict.VALID, (), figures)


def check_processes(history: History) -> CheckResult:
    """No process ends by itself, but where a fault is there to make it end, or a host whose turns outlived their right
    (it says so in its trace): exit codes and logs need not say more."""
    watched = [name for note in history.notes_of("watched") for name in note.fields["processes"]]
    ends = [note for note in history.notes_of("process") if "code" in note.fields]
    by_itself = [note for note in ends if not note.fields["expected"]]
    unexpected = [note for note in by_itself if not _overdue(history, note)]
    figures = {
        "watched": len(watched),
        "ended_by_fault": len(ends) - len(by_itself),
        "overdue": len(by_itself) - len(unexpected),
        "unexpected": len(unexpected),
    }
    if unexpected:
        lines = [
            f"{note.fields['name']} ended by itself at {note.at_ns / 1e6:.3f} ms, exit code {note.fields['code']}"
            for note in unexpected[:5]
        ]
        return CheckResult("processes", Verdict.INVALID, tuple(lines), figures)
    verdict = Verdict.VALID if watched else Verdict.UNKNOWN
    return CheckResult("processes", verdict, () if watched else ("no process was watched",), figures)


def _overdue(history: History, end: Note) -> bool:
    """Whether this process of a host has said before its end that its turns outlived their right."""
    name = end.fields["name"]
    starts = [
        note.at_ns
        for note in history.notes_of("process")
        if note.fields["what"] == "started" and note.fields["name"] == name and note.at_ns <= end.at_ns
    ]
    since_ns = max(starts, default=0)
    return any(
        note.fields["overdue"] and note.fields["host"] == name and since_ns <= note.at_ns <= end.at_ns
        for note in history.notes_of("out")
    )


def check_wire(history: History) -> CheckResult:
    """`BarrierOrder` and `TableMonotonic` as simulated sidecars saw them on the wire (harness/sidecars/checks.py)."""
    violations = [note.fields["violation"] for note in history.notes_of("wire")]
    figures = {"orders": sum(1 for _ in history.notes_of("order")), "violations": len(violations)}
    if violations:
        return CheckResult("wire", Verdict.INVALID, tuple(violations[:5]), figures)
    verdict = Verdict.VALID if figures["orders"] else Verdict.UNKNOWN
    return CheckResult("wire", verdict, () if figures["orders"] else ("no sidecar got an order",), figures)
