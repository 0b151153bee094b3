"""Checkers of what reached the outside: `FenceMonotonic` at the store; acknowledged work that is there once, and work
that was said to have failed that is not there (`DefiniteOrUnknown`)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

from harness.faults.checkers.activations import turns_of
from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.history import History, Operation, Outcome

STORE = "store"
"""Note of one write at a store, in the order of the store: actor, fence, accepted (true or false), host."""
STORE_TIMES_NS = 100_000_000
"""The store's own times are good to some milliseconds only."""
CLOCKS = "host_clock_rate"


def check_fences(history: History) -> CheckResult:
    """The fences of accepted writes of one actor never fall, and what was refused was older than what was accepted.
    Turns count as well: each has read its actor's state under its fence, and nothing older is accepted after that."""
    ended = _turns_by_end(history)
    accepted: dict[str, int] = {}
    figures = {"writes": 0, "refused": 0}
    for note in history.notes_of(STORE):
        actor, fence = note.fields["actor"], note.fields["fence"]
        newest = accepted.get(actor, 0)
        figures["writes"] += 1
        if note.fields["accepted"]:
            since = _newest_turn(ended.get(actor, []), note.at_ns - STORE_TIMES_NS)
            if fence < max(newest, since):
                after = f"one under {newest}" if fence < newest else f"a turn under {since} had ended"
                text = f"actor {actor}: a write under fence {fence} was accepted after {after}"
                return CheckResult("fence_monotonic", Verdict.INVALID, (text,), figures)
            accepted[actor] = fence
        else:
            figures["refused"] += 1
            if fence >= newest:
                text = (
                    f"actor {actor}: a write under fence {fence} was refused although none above {newest} was accepted"
                )
                return CheckResult("fence_monotonic", Verdict.INVALID, (text,), figures)
    verdict = Verdict.VALID if figures["writes"] else Verdict.UNKNOWN
    return CheckResult("fence_monotonic", verdict, () if figures["writes"] else ("no writes at the store",), figures)


def _turns_by_end(history: History) -> dict[str, list[tuple[int, int]]]:
    """By actor (end, highest fence up to then), in order. Nothing if clocks were falsified: then the store's times are
    those of such clocks."""
    found: dict[str, list[tuple[int, int]]] = {}
    if any(fault.kind == CLOCKS for fault in history.faults):
        return found
    for actor, turns in turns_of(history).items():
        highest = 0
        for turn in sorted(turns, key=lambda turn: turn.ended_ns):
            highest = max(highest, turn.fence)
            found.setdefault(actor, []).append((turn.ended_ns, highest))
    return found


def _newest_turn(ended: Sequence[tuple[int, int]], before_ns: int) -> int:
    """The highest fence of turns that ended before."""
    place = bisect_left(ended, (before_ns, 0))
    return ended[place - 1][1] if place else 0


def check_acknowledged_once(
    appended: Mapping[str, Sequence[Operation]], final: Mapping[str, Sequence[object]]
) -> CheckResult:
    """Jepsen's set-full, with counts: what was acknowledged is in the final list once, what failed is not in it, what
    has an unknown outcome at most once, and nothing else is.

    Args:
        appended: operations `append(value)` by key; values are distinct within a key.
        final: the list of each key, read after everything was healed.
    """
    figures = {"keys": len(appended), "acknowledged": 0, "lost": 0, "unknown": 0, "unknown_present": 0}
    problems: list[str] = []
    for key, operations in sorted(appended.items()):
        found = Counter(final.get(key, ()))
        for operation in operations:
            count = found.pop(operation.argument, 0)
            value = f"value {operation.argument!r} of {key}"
            match operation.outcome:
                case Outcome.OK:
                    figures["acknowledged"] += 1
                    figures["lost"] += count == 0
                    if count != 1:
                        problems.append(f"acknowledged {value} is there {count} times")
                case Outcome.FAIL:
                    if count:
                        problems.append(f"{value} surely failed ({operation.error}), but is there {count} times")
                case Outcome.INFO:
                    figures["unknown"] += 1
                    figures["unknown_present"] += count > 0
                    if count > 1:
                        problems.append(f"{value} of unknown outcome is there {count} times")
        problems += [f"value {value!r} of {key} was never appended" for value in found]
    verdict = Verdict.INVALID if problems else Verdict.VALID if figures["acknowledged"] else Verdict.UNKNOWN
    if verdict is Verdict.UNKNOWN:
        problems.append("nothing was acknowledged")
    return CheckResult("acknowledged_once", verdict, tuple(problems[:20]), figures)
