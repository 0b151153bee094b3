"""`DuplicateWindow` under policy `barrier`: an unlocked sidecar sends calls by its table, so two unlocked sidecars with
different tables can run one actor twice."""

from __future__ import annotations

from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.history import History, Note

MS = 1_000_000


def check_rounds(history: History, *, bound_ms: int, healed_ns: int) -> CheckResult:
    """From `bound_ms` after the heal on, those sidecars that are still connected then differ only while locked."""
    connected = {host for note in history.notes_of("connected") for host in note.fields["hosts"]}
    orders = sorted((note for note in history.notes_of("order") if note.fields["sidecar"] in connected), key=_at)
    tables: dict[str, int] = {}
    unlocked: set[str] = set()
    differing_since: int | None = None
    longest, figures = 0, {"sidecars": len(connected), "orders": len(orders), "longest_after_heal_ms": 0}
    for note in orders:
        _follow(note, tables, unlocked)
        differ = len({tables[name] for name in unlocked if name in tables}) > 1
        if not differ and differing_since is not None:
            longest = max(longest, note.at_ns - healed_ns)
        differing_since = (differing_since or note.at_ns) if differ else None
    if differing_since is not None:
        versions = ", ".join(f"{name} {tables[name]}" for name in sorted(unlocked) if name in tables)
        line = f"unlocked sidecars end with different versions: {versions}"
        return CheckResult("rounds", Verdict.INVALID, (line,), figures)
    figures["longest_after_heal_ms"] = max(0, longest // MS)
    if figures["longest_after_heal_ms"] > bound_ms:
        line = f"unlocked sidecars differed {longest // MS} ms after the heal; the bound is {bound_ms} ms"
        return CheckResult("rounds", Verdict.INVALID, (line,), figures)
    verdict = Verdict.VALID if orders else Verdict.UNKNOWN
    return CheckResult("rounds", verdict, () if orders else ("no sidecar got an order",), figures)


def _at(note: Note) -> int:
    return note.at_ns


def _follow(note: Note, tables: dict[str, int], unlocked: set[str]) -> None:
    name = note.fields["sidecar"]
    match note.fields["operation"]:
        case "lock":
            unlocked.discard(name)
        case "update":
            tables[name] = note.fields["version"]
        case "unlock":
            unlocked.add(name)
