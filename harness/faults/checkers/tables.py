"""Checkers of tables: `TableMonotonic` and `TableAgreement`. (`Convergence` has a module of its own.)"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.history import History, Note

TABLE = "table"
"""Note of a table that a host or watcher installed: host, incarnation, version, digest."""
ENDING = "ending"
"""Note of the moment from which processes were ended and nobody watched the replicas any more."""
COMMITTED = "committed"
"""Note of a table in the replicated state of some replica: version, digest, replica."""


def check_tables(history: History) -> CheckResult:
    """An incarnation never installs an older or equal version after a newer one; one version has one digest
    everywhere; and nobody installs what was never committed."""
    installed = list(history.notes_of(TABLE))
    committed = list(history.notes_of(COMMITTED))
    ending_ns = min((note.at_ns for note in history.notes_of(ENDING)), default=None)
    watched = [note for note in installed if ending_ns is None or note.at_ns < ending_ns]
    figures = {"installed": len(installed), "committed": len(committed)}
    problem = _not_monotonic(installed) or _disagreement([*committed, *installed]) or _uncommitted(watched, committed)
    if problem:
        return CheckResult("tables", Verdict.INVALID, (problem,), figures)
    verdict = Verdict.VALID if installed else Verdict.UNKNOWN
    return CheckResult("tables", verdict, () if installed else ("no table was installed",), figures)


def _not_monotonic(installed: Iterable[Note]) -> str:
    newest: dict[tuple[str, int], int] = {}
    for note in installed:
        who, version = (note.fields["host"], note.fields["incarnation"]), note.fields["version"]
        if version <= newest.get(who, -1):
            return f"{who[0]}/{who[1]} installs version {version} after {newest[who]}"
        newest[who] = version
    return ""


def _disagreement(notes: Iterable[Note]) -> str:
    digests: dict[int, tuple[str, str]] = {}
    for note in notes:
        version, digest = note.fields["version"], note.fields["digest"]
        who = str(note.fields.get("host", note.fields.get("replica")))
        first = digests.setdefault(version, (digest, who))
        if first[0] != digest:
            return f"version {version} has digest {first[0]} at {first[1]} and {digest} at {who}"
    return ""


def _uncommitted(installed: Iterable[Note], committed: Sequence[Note]) -> str:
    known = {note.fields["version"] for note in committed}
    gaps = list(_gaps(committed))
    for note in installed:
        version = note.fields["version"]
        if known and version not in known and not any(first < version < last for first, last in gaps):
            return f"{note.fields['host']} installs version {version}, which no replica committed"
    return ""


def _gaps(committed: Iterable[Note]) -> Iterator[tuple[int, int]]:
    """Between which versions a replica may have had others that its watch did not see: before its first snapshot,
    before another one after a pause, within a delta over several changes."""
    newest: dict[str, int] = {}
    for note in committed:
        replica, version, since = note.fields["replica"], note.fields["version"], note.fields["from_version"]
        yield since or newest.get(replica, 0), version
        newest[replica] = version
