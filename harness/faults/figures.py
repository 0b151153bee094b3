"""What a history shows besides verdicts: counts by phase, moves and how exposed they were, times out of service.

A campaign adds these up over its runs. All of it is computed from the history, so a saved run can be counted again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from attrs import frozen

from harness.faults.checkers.activations import Turn, turns_of
from harness.faults.history import Fault, History, Operation, Outcome, Phase

MS = 1_000_000
TRACED = ("turn", "table", "granted", "ended")
"""Notes that an incarnation of a host writes itself."""


def figures_of(history: History) -> dict[str, Any]:
    """Counts of what was done and seen, ready for JSON."""
    moves = moves_of(history)
    return {
        "live_s": round(live_s(history), 1),
        "operations": operations_by_phase(history),
        "notes": dict(sorted(Counter(note.kind for note in history.notes).items())),
        "sidecar_orders": orders_by_phase(history),
        "stale_refused": sum(not note.fields["accepted"] for note in history.notes_of("store")),
        "moves": len(moves),
        "moves_exposed": sum(move.exposed for move in moves),
        "leader_epochs": len(leader_epochs(history)),
        "leaders": len({replica for _, replica in leader_epochs(history)}),
        "faults": faults_by_kind(history),
        "out_of_service": out_of_service(history),
        "stalls_ms": [note.fields["late_ms"] for note in history.notes_of("stall")],
    }


def operation_name(operation: Operation) -> str:
    """ "add counter": the function and the kind of object that it is called on."""
    return f"{operation.function} {operation.key.partition('/')[0]}"


def operations_by_phase(history: History) -> dict[str, dict[str, dict[str, int]]]:
    """Counts by operation, phase and outcome."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for operation in history.operations:
        phases = found.setdefault(operation_name(operation), {})
        outcomes = phases.setdefault(operation.phase.value, {})
        outcomes[operation.outcome.value] = outcomes.get(operation.outcome.value, 0) + 1
    return {name: found[name] for name in sorted(found)}


def orders_by_phase(history: History) -> dict[str, int]:
    """How many orders reached simulated sidecars in each phase."""
    begun = [(note.at_ns, note.fields["phase"]) for note in history.notes_of("phase")]
    found = Counter[str]()
    for note in history.notes_of("order"):
        entered = [phase for at_ns, phase in begun if at_ns <= note.at_ns]
        found.update(entered[-1:])
    return {phase.value: found[phase.value] for phase in Phase}


def span_ns(history: History) -> tuple[int, int]:
    """The first and the last instant of the history; (0, 0) of an empty one."""
    times = [note.at_ns for note in history.notes if note.kind in {"phase", "process", "replica", "committed"}]
    for operation in history.operations:
        times += [operation.called_ns, operation.returned_ns or operation.called_ns]
    return (min(times), max(times)) if times else (0, 0)


def live_s(history: History) -> float:
    """How long the cluster was live under load."""
    first, last = span_ns(history)
    return (last - first) / 1e9


# -- moves -----------------------------------------------------------------------------------------------


@frozen
class Move:
    """An actor whose next turn ran in another incarnation. `exposed`: the earlier one was still there then (it wrote
    something later), so that it could have acted at the same time, had nothing stopped it."""

    before: Turn
    after: Turn
    exposed: bool


def moves_of(history: History) -> list[Move]:
    """All moves of all actors that were called before and after."""
    last_seen: dict[tuple[str, int], int] = {}
    for note in history.notes:
        if note.kind in TRACED and "incarnation" in note.fields:
            place = (note.fields["host"], note.fields["incarnation"])
            last_seen[place] = max(last_seen.get(place, 0), note.at_ns)
    return [
        Move(before, after, last_seen.get((before.host, before.incarnation), 0) > after.begun_ns)
        for turns in turns_of(history).values()
        for before, after in pairwise(turns)
        if (before.host, before.incarnation) != (after.host, after.incarnation)
    ]


def leader_epochs(history: History) -> list[tuple[int, str]]:
    """Epochs in office that were seen, with their replicas, in order."""
    seen = {
        (note.fields["epoch"], note.fields["replica"])
        for note in history.notes_of("replica")
        if note.fields.get("in_office")
    }
    return sorted(seen)


# -- faults ----------------------------------------------------------------------------------------------


def faults_by_kind(history: History) -> dict[str, dict[str, int]]:
    """How many of each kind were injected, and how many of them were seen to bite."""
    found: dict[str, dict[str, int]] = {}
    for fault in history.faults:
        counts = found.setdefault(fault.kind, {"injected": 0, "bitten": 0})
        counts["injected"] += 1
        counts["bitten"] += bool(fault.bit)
    return dict(sorted(found.items()))


def out_of_service(history: History) -> dict[str, dict[str, list[int]]]:
    """By kind of fault and operation: for each fault the longest time in ms around it in which no such operation of any
    client on any object succeeded. (Faults that overlap share such a time.)"""
    answered: dict[str, list[int]] = {}
    for operation in history.operations:
        if operation.outcome is Outcome.OK and operation.returned_ns is not None:
            answered.setdefault(operation_name(operation), []).append(operation.returned_ns)
    _, end_ns = span_ns(history)
    found: dict[str, dict[str, list[int]]] = {}
    for fault in history.faults:
        kind = found.setdefault(fault.kind, {})
        for name, times in answered.items():
            kind.setdefault(name, []).append(longest_gap_ms(sorted(times), fault, end_ns))
    return found


def longest_gap_ms(times: Sequence[int], fault: Fault, end_ns: int) -> int:
    """The longest time without an element of `times` (sorted) that overlaps the fault."""
    ended_ns = fault.ended_ns or end_ns
    first = max(0, bisect_right(times, fault.begun_ns) - 1)
    last = min(len(times), bisect_right(times, ended_ns) + 1)
    window = [*times[first:last]]
    if not window or window[0] > fault.begun_ns:
        window.insert(0, fault.begun_ns)
    if window[-1] < ended_ns:
        window.append(ended_ns)
    return max((after - before for before, after in pairwise(window)), default=0) // MS


# -- numbers for people ----------------------------------------------------------------------------------


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie, by the nearest rank; 0 for none."""
    if not values:
        return 0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def spread(values: Sequence[float]) -> Mapping[str, float]:
    """Count, median, 95 % and largest."""
    return {
        "count": len(values),
        "p50": quantile(values, 0.5),
        "p95": quantile(values, 0.95),
        "max": max(values, default=0),
    }
