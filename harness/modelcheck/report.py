"""The table of results, for people (rich), for README files (Markdown) and for machines (JSON)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.modelcheck.execute import Outcome

HEADINGS = ("module", "config", "property", "result", "generated", "distinct", "depth", "time")


def result_text(outcome: Outcome) -> str:
    """One word for the table; the reasons of a surprise are printed below it."""
    if not outcome.verdict.ok:
        return "SURPRISE"
    if outcome.verdict.result == "violated":
        return "killed" if outcome.task.category == "mutant" else "violated, as expected"
    return "pass"


def _cells(outcome: Outcome) -> tuple[str, ...]:
    output = outcome.run.output
    numbers = ["" if n is None else f"{n:,}" for n in (output.generated, output.distinct, output.depth)]
    return (
        outcome.task.module,
        outcome.task.name,
        outcome.task.checks,
        result_text(outcome),
        *numbers,
        f"{outcome.run.seconds:.1f} s",
    )


def in_order(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Canary first, then module by module: configs, unfair models, mutants."""
    rank = {"canary": 0, "config": 1, "unfair": 2, "mutant": 3}
    return sorted(outcomes, key=lambda o: (rank[o.task.category] == 3, o.task.module, rank[o.task.category]))


def print_table(outcomes: Sequence[Outcome], console: Console) -> None:
    """One table with a row for each run, then the mutants' score and every surprise."""
    table = Table(*HEADINGS, title="Model checking", title_justify="left")
    for column in table.columns[4:]:
        column.justify = "right"
        column.no_wrap = True
    for outcome in in_order(outcomes):
        cells = _cells(outcome)
        style = "green" if outcome.verdict.ok else "bold red"
        table.add_row(*cells[:3], Text(cells[3], style=style), *cells[4:])
    console.print(table)
    for line in summary_lines(outcomes):
        console.print(line, highlight=False, markup=False)


def summary_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The mutants' score, what was run, and each surprise with the file that holds TLC's output."""
    mutants = [o for o in outcomes if o.task.category == "mutant"]
    bad = [o for o in outcomes if not o.verdict.ok]
    lines = []
    if mutants:
        lines.append(f"mutants killed: {sum(o.verdict.ok for o in mutants)}/{len(mutants)}")
    lines.append(f"runs: {len(outcomes)}, surprises: {len(bad)}")
    for outcome in bad:
        lines += [
            f"SURPRISE {outcome.task.module} {outcome.task.name}: {text} ({outcome.run.output_file})"
            for text in outcome.verdict.surprises
        ]
    return lines


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    """The same table for a README."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * 4 + "---:|" * 4]
    lines += ["| " + " | ".join(_cells(o)) + " |" for o in in_order(outcomes)]
    return "\n".join([*lines, "", *summary_lines(outcomes)])


def as_json(outcomes: Sequence[Outcome], notes: Sequence[str]) -> str:
    """One object: `ok`, `notes`, `mutants` and a list of `runs`."""
    mutants = [o for o in outcomes if o.task.category == "mutant"]
    document = {
        "ok": all(o.verdict.ok for o in outcomes),
        "notes": list(notes),
        "mutants": {"killed": sum(o.verdict.ok for o in mutants), "total": len(mutants)},
        "runs": [_run_object(o) for o in in_order(outcomes)],
    }
    return json.dumps(document, indent=2)


def _run_object(outcome: Outcome) -> dict[str, Any]:
    task, run, verdict = outcome.task, outcome.run, outcome.verdict
    return {
        "category": task.category,
        "module": task.module,
        "name": task.name,
        "bounds": task.bounds,
        "checks": task.checks,
        "expected": task.expected,
        "result": verdict.result,
        "violated": verdict.violated or None,
        "ok": verdict.ok,
        "surprises": list(verdict.surprises),
        "states_generated": run.output.generated,
        "states_distinct": run.output.distinct,
        "depth": run.output.depth,
        "seconds": round(run.seconds, 2),
        "exit_code": run.exit_code,
        "output": str(run.output_file),
    }
