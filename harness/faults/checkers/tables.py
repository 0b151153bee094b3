"""Checkers of tables: `TableMonotonic`, `TableAgreement`, and `Convergence` after a heal."""

from __future__ import annotations

from collections.abc import Iterable

from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.history import History, Note

TABLE = "table"
"""Note of a table that a host or watcher installed: host, incarnation, version, digest."""
COMMITTED = "committed"
"""Note of a table in the replicated state of some replica: version, digest, replica."""


def check_tables(history: History) -> CheckResult:
    """An incarnation never installs an older or equal version after a newer one; one version has one digest
    everywhere; and nobody installs what was never committed."""
    installed = list(history.notes_of(TABLE))
    committed = list(history.notes_of(COMMITTED))
    figures = {"installed": len(installed), "committed": len(committed)}
    problem = _not_monotonic(installed) or _disagreement([*committed, *installed]) or _uncommitted(installed, committed)
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


def _uncommitted(installed: Iterable[Note], committed: Iterable[Note]) -> str:
    known = {note.fields["version"] for note in committed}
    for note in installed:
        if known and note.fields["version"] not in known:
            return f"{note.fields['host']} installs version {note.fields['version']}, which no replica committed"
    return ""


def check_convergence(history: History, *, healed_ns: int, bound_ms: int, hosts: Iterable[str]) -> CheckResult:
    """Within `bound_ms` after the heal each of `hosts` has the newest version, and keeps it.

    `bound_ms` is computed from the settings of the run; a version that was committed after the heal counts from then.
    """
    newest, since_ns = 0, healed_ns
    for note in history.notes_of(COMMITTED):
        if note.fields["version"] > newest:
            newest, since_ns = note.fields["version"], max(healed_ns, note.at_ns)
    arrived: dict[str, int] = {}
    for note in history.notes_of(TABLE):
        if note.fields["version"] == newest:
            arrived[note.fields["host"]] = max(since_ns, note.at_ns)
    wanted = sorted(hosts)
    delays = {host: (arrived[host] - since_ns) // 1_000_000 for host in wanted if host in arrived}
    figures = {"hosts": len(wanted), "slowest_ms": max(delays.values(), default=0)}
    for host in wanted:
        if host not in delays:
            text = f"{host} never installed the newest version {newest}"
        elif delays[host] > bound_ms:
            text = f"{host} installed version {newest} after {delays[host]} ms; the bound is {bound_ms} ms"
        else:
            continue
        return CheckResult("convergence", Verdict.INVALID, (text,), figures)
    verdict = Verdict.VALID if wanted and newest else Verdict.UNKNOWN
    lines = () if verdict is Verdict.VALID else ("no hosts or no committed version to look at",)
    return CheckResult("convergence", verdict, lines, figures)
