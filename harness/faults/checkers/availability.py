"""While a majority of replicas runs and reaches each other and the clients, changes and linearizable reads of members
succeed again within a bound: whatever happens to the minority, and whoever of the majority has to become leader."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

from harness.faults.bounds import available_ms, stalled_ms
from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.history import History, Outcome
from harness.faults.windows import Window, with_quorum

MS = 1_000_000
FUNCTIONS = ("upsert", "read")
PREFIX = "member/"


def check_availability(history: History) -> CheckResult:
    """No gap without a success is longer than the bound in any window with a quorum."""
    windows = with_quorum(history)
    bound_ms = available_ms(history.settings)
    figures = {"windows": len(windows), "operations": 0, "longest_ms": 0}
    for function in FUNCTIONS:
        times = sorted(
            operation.returned_ns
            for operation in history.operations
            if operation.function == function and operation.key.startswith(PREFIX)
            if operation.outcome is Outcome.OK and operation.returned_ns is not None
        )
        figures["operations"] += len(times)
        for window in windows if times else ():
            first, last = _longest_gap(times, window)
            gap_ms = (last - first) // MS
            figures["longest_ms"] = max(figures["longest_ms"], gap_ms)
            if gap_ms > bound_ms + stalled_ms(history, first, last):
                text = f"no {function} of a member succeeded for {gap_ms} ms with a quorum; the bound is {bound_ms} ms"
                lines = (text, f"  from {first / 1e6:.3f} ms to {last / 1e6:.3f} ms", *_around(history, window))
                return CheckResult("availability", Verdict.INVALID, lines, figures)
    verdict = Verdict.VALID if figures["operations"] and windows else Verdict.UNKNOWN
    lines = () if verdict is Verdict.VALID else ("no operations on members, or never a quorum",)
    return CheckResult("availability", verdict, lines, figures)


def _longest_gap(times: list[int], window: Window) -> tuple[int, int]:
    inside = times[bisect_right(times, window.begun_ns) : bisect_right(times, window.ended_ns)]
    return max(pairwise([window.begun_ns, *inside, window.ended_ns]), key=lambda pair: pair[1] - pair[0])


def _around(history: History, window: Window) -> list[str]:
    return [
        f"  fault {fault.kind} on {fault.target}: [{fault.begun_ns / 1e6:.3f}, {(fault.ended_ns or 0) / 1e6:.3f}] ms"
        for fault in history.faults
        if fault.begun_ns <= window.ended_ns and (fault.ended_ns or window.ended_ns) >= window.begun_ns
    ]
