"""Checker of lookups: a host that is dead is not named as an owner for ever (`EventuallyServed`)."""

from __future__ import annotations

from harness.faults.checkers.linearizability import describe
from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.history import History, Outcome

SLACK_MS = 10_000
"""For failover: what commits on slow links and a busy machine may take beside the times of the settings."""
STALL_NS = 2_500_000_000
"""For failover: without a commit for so long nobody could be removed, and the time counts from the next one."""


def check_failover(history: History) -> CheckResult:
    """A host that died is not looked up any more once its failure timeout is over under leaders that commit."""
    settings = history.settings["namespaces"].get("actors", {})
    if "failure_timeout_ms" not in settings:
        return CheckResult("failover", Verdict.UNKNOWN, ("the settings of the run have no failure timeout",))
    bound_ms = settings["failure_timeout_ms"] + 2 * settings["tick_ms"] + SLACK_MS
    deaths, starts = _times(history, "killed"), _times(history, "started")
    working = _working(history)
    figures = {"lookups": 0, "deaths": len(deaths), "bound_ms": bound_ms}
    for operation in history.operations:
        if operation.function != "lookup" or operation.outcome is not Outcome.OK:
            continue
        if not (operation.argument and operation.argument["linearizable"]):
            continue
        figures["lookups"] += 1
        name, called = operation.result["name"], operation.called_ns
        died = max((at for who, at in deaths if who == name and at < called), default=None)
        if died is None or any(who == name and died < at < called for who, at in starts):
            continue
        from_ns = max(died, next((first for first, last in working if first <= called <= last), called))
        late_ms = (called - from_ns) // 1_000_000
        if late_ms > bound_ms:
            lines = (f"{name} is dead, and still owns actors after {late_ms} ms; the bound is {bound_ms} ms",)
            return CheckResult("failover", Verdict.INVALID, (*lines, f"  {describe(operation)}"), figures)
    if not figures["lookups"]:
        return CheckResult("failover", Verdict.UNKNOWN, ("nobody was looked up",), figures)
    return CheckResult("failover", Verdict.VALID, (), figures)


def _times(history: History, what: str) -> list[tuple[str, int]]:
    return [(note.fields["name"], note.at_ns) for note in history.notes_of("process") if note.fields["what"] == what]


def _working(history: History) -> list[tuple[int, int]]:
    """Spans of time in which leaders committed, to be seen by indexes that rise."""
    spans: list[tuple[int, int]] = []
    newest = 0
    for note in history.notes_of("replica"):
        if not note.fields.get("in_office") or note.fields["applied_index"] <= newest:
            continue
        newest = note.fields["applied_index"]
        if spans and note.at_ns - spans[-1][1] <= STALL_NS:
            spans[-1] = (spans[-1][0], note.at_ns)
        else:
            spans.append((note.at_ns, note.at_ns))
    return spans
