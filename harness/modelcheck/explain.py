"""A counterexample as a table: for each step its action and what it changed, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.modelcheck.messages import Output, TraceState
from harness.modelcheck.values import Change, Value, differences, parse_value


@attrs.frozen
class Step:
    """One step of a behaviour; the first one has all variables as changes."""

    number: int
    action: str
    values: dict[str, Value]
    changes: tuple[Change, ...]


def steps_of(trace: Sequence[TraceState]) -> list[Step]:
    """Parse a trace and compare each state with the one before."""
    steps: list[Step] = []
    for state in trace:
        values = {name: parse_value(text) for name, text in state.variables.items()}
        before = steps[-1].values if steps else None
        if before is None:
            changes = tuple(Change(name, None, value) for name, value in values.items())
        else:
            changes = tuple(c for name, value in values.items() for c in differences(name, before[name], value))
        steps.append(Step(state.number, state.action, values, changes))
    return steps


def print_steps(title: str, output: Output, console: Console) -> None:
    """Print a counterexample; of the first state only what is not empty."""
    table = Table("step", "action", "what changed", title=title, title_justify="left", show_lines=True)
    for step in steps_of(output.trace):
        if step.number == 1:
            lines = [str(c).replace(" + ", " = ", 1) for c in step.changes if not _is_empty(c.after)]
        else:
            lines = [str(change) for change in step.changes]
        table.add_row(str(step.number), Text(step.action), Text("\n".join(lines) or "(nothing)"))
    console.print(table)
    if output.loop:
        console.print(f"and then: {output.loop}")
    violated = output.violated or "nothing"
    console.print(f"violated: {violated}", markup=False)


def _is_empty(value: Value | None) -> bool:
    return value is not None and not isinstance(value, (int, str)) and getattr(value, "items", None) == ()
