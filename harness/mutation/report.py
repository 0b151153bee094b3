"""Counts, tables and files of a run over mutants."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from rich.table import Table

from harness.mutation.campaign import Result
from harness.mutation.judge import REPOSITORY

DOCUMENT = REPOSITORY / "CONTRIBUTING.md"
BEGIN, END = "<!-- mutants: begin, written by --record -->", "<!-- mutants: end -->"
COLUMNS = ("module", "mutants", "killed", "timed out", "explained", "surviving", "share killed")


@frozen
class Row:
    """Counts of one module; mutants that compile to the same code are not counted at all."""

    module: str
    mutants: int
    killed: int
    timed_out: int
    explained: int
    surviving: int

    @property
    def share(self) -> str:
        """Killed or timed out, of all that are not explained, in percent, rounded down."""
        judged = self.mutants - self.explained
        return f"{1000 * (self.killed + self.timed_out) // judged / 10:.1f} %" if judged else "-"

    @property
    def cells(self) -> tuple[str, ...]:
        """As texts, in the order of `COLUMNS`."""
        numbers = (self.mutants, self.killed, self.timed_out, self.explained, self.surviving)
        return (self.module, *(f"{number:,}" for number in numbers), self.share)


def is_killed(result: Result) -> bool:
    """Whether some test noticed the mutant."""
    return result.outcome in ("killed", "timeout")


def surviving(results: Iterable[Result], reasons: dict[str, str]) -> list[Result]:
    """Mutants that nothing noticed and nobody explained."""
    return [each for each in results if _survives(each) and each.mutant.name not in reasons]


def _survives(result: Result) -> bool:
    return result.outcome in ("survived", "unreached")


def passes(results: Sequence[Result], reasons: dict[str, str], *, share: float, drawn: bool) -> bool:
    """Whether a run came out well: the share in percent was killed and, unless mutants were `drawn`, all were."""
    left, killed = surviving(results, reasons), sum(map(is_killed, results))
    return killed * 100 >= share * (killed + len(left)) and (drawn or not left)


def rows(results: Sequence[Result], reasons: dict[str, str]) -> list[Row]:
    """One for each module, and their sum."""

    def row(name: str, some: list[Result]) -> Row:
        explained = [each for each in some if _survives(each) and each.mutant.name in reasons]
        return Row(
            name,
            len(some),
            sum(each.outcome == "killed" for each in some),
            sum(each.outcome == "timeout" for each in some),
            len(explained),
            len(surviving(some, reasons)),
        )

    counted = [each for each in results if each.outcome != "same code"]
    modules = sorted({each.mutant.module for each in counted})
    found = [row(module, [each for each in counted if each.mutant.module == module]) for module in modules]
    return [*found, row("all", counted)]


def table(found: Sequence[Row]) -> Table:
    """For people."""
    shown = Table(*COLUMNS, title="mutants of impl/callboard/core")
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in found:
        shown.add_row(*row.cells, end_section=row is found[-2] if len(found) > 1 else False)
    return shown


def document(results: Sequence[Result], reasons: dict[str, str], commit: str) -> dict[str, Any]:
    """For machines."""
    mutants = [
        {
            "mutant": each.mutant.name,
            "module": each.mutant.module,
            "line": each.mutant.lines[0],
            "operator": each.mutant.operator,
            "outcome": each.outcome,
            "killer": each.killer,
            "seconds": round(each.seconds, 3),
            "reason": reasons.get(each.mutant.name) if _survives(each) else None,
        }
        for each in results
    ]
    counts = [dict(zip(COLUMNS, (*row.cells,), strict=True)) for row in rows(results, reasons)]
    return {"commit": commit, "modules": counts, "mutants": mutants}


def write(path: Path, content: dict[str, Any]) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def record(found: Sequence[Row], caption: str, target: Path = DOCUMENT) -> None:
    """Put the table between the markers of the document."""
    lines = [caption[0].upper() + caption[1:], ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" + "|--:" * (len(COLUMNS) - 1) + "|"]
    lines += ["| " + " | ".join(row.cells) + " |" for row in found]
    before, found_begin, rest = target.read_text().partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not found_begin or not found_end:
        raise ValueError(f"{target.name} has no markers {BEGIN} and {END}")
    target.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after)
