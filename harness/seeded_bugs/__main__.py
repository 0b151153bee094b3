"""`python -m harness.seeded_bugs`: put each bug of core in, let everybody look for it, say who found it how quickly."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from harness.seeded_bugs import OF_CORE, all_bugs
from harness.seeded_bugs.finders import FINDERS, Finding, Limits
from harness.seeded_bugs.registry import Bug
from spec.catalogue import README, replaced

BEGIN, END = "<!-- seeded bugs: made by python -m harness.seeded_bugs --write -->", "<!-- end of seeded bugs -->"
Results = dict[str, dict[str, str]]


def _bugs() -> list[tuple[str, Bug]]:
    """Those of core, with the part that they are in."""
    return [
        (Path(place).stem, bug) for place, bugs in all_bugs().items() for bug in bugs if Path(place).stem in OF_CORE
    ]


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--bug", "names", multiple=True, help="Only this bug; may be repeated.")
@click.option("--real", is_flag=True, help="Only bugs that a real system had.")
@click.option("--finder", "finders", multiple=True, type=click.Choice(list(FINDERS)), help="Only this finder.")
@click.option("--examples", default=100, show_default=True, help="Examples of each machine.")
@click.option("--walks", default=100, show_default=True, help="Random walks.")
@click.option("--seeds", default=200, show_default=True, help="Seeds of the simulator.")
@click.option("--results", type=click.Path(path_type=Path), help="Keep results here; what it has is not run again.")
@click.option("--write", is_flag=True, help="Put the table into spec/README.md.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(  # noqa: PLR0917 - one parameter per option
    names: tuple[str, ...],
    real: bool,
    finders: tuple[str, ...],
    examples: int,
    walks: int,
    seeds: int,
    results: Path | None,
    write: bool,
    output: str,
) -> None:
    """Exit code 1 if some bug is found by nobody."""
    bugs = _bugs()
    unknown = set(names) - {bug.name for _, bug in bugs}
    if unknown:
        raise click.UsageError(f"--bug {min(unknown)}: no such bug; there are {', '.join(b.name for _, b in bugs)}")
    for option, number in (("--examples", examples), ("--walks", walks), ("--seeds", seeds)):
        if number < 1:
            raise click.UsageError(f"{option} {number} is not positive")
    chosen = [(part, bug) for part, bug in bugs if (not names or bug.name in names) and (bug.origin or not real)]
    known: Results = json.loads(results.read_text(encoding="utf-8")) if results and results.exists() else {}
    limits = Limits(examples, walks, seeds)
    with Progress(console=Console(stderr=True)) as progress:
        for part, bug in progress.track(chosen, description="bugs"):
            row = known.setdefault(bug.name, {})
            for name in finders or FINDERS:
                if name not in row:
                    row[name] = str(_look(name, part, bug, limits))
            if results:
                results.write_text(json.dumps(known, indent=1), encoding="utf-8")
    if write:
        text = README.read_text(encoding="utf-8")
        README.write_text(replaced(text, BEGIN, END, markdown(bugs, known)), encoding="utf-8")
    if output == "json":
        click.echo(json.dumps({bug.name: known[bug.name] for _, bug in chosen}, indent=1))
    else:
        Console(width=200).print(_table(chosen, known))
    missed = [bug.name for _, bug in chosen if not is_found(known[bug.name])]
    for name in missed:
        click.echo(f"{name}: found by nobody", err=True)
    sys.exit(1 if missed and not finders else 0)


def _look(finder: str, part: str, bug: Bug, limits: Limits) -> Finding:
    began = time.process_time()
    found = FINDERS[finder](part, bug, limits)
    click.echo(f"{bug.name}: {finder}: {found} {found.named} ({time.process_time() - began:.1f} s)", err=True)
    return found


def is_found(row: dict[str, str]) -> bool:
    """Whether somebody other than the specification found it: TLC looks at the specification's own mutant."""
    return any(cell != "-" and not cell.startswith("no (") for name, cell in row.items() if name != "TLC")


def markdown(bugs: list[tuple[str, Bug]], known: Results) -> str:
    """The table of spec/README.md: bugs that were looked for, and who looked."""
    looked = [name for name in FINDERS if any(name in row for row in known.values())]
    lines = ["| bug | breaks | " + " | ".join(looked) + " |", "|" + "---|" * (len(looked) + 2)]
    for _, bug in bugs:
        row = known.get(bug.name, {})
        if not row:
            continue
        origin = f" ({bug.origin})" if bug.origin else ""
        cells = [row.get(name, "not tried") for name in looked]
        lines.append(f"| {bug.what}{origin} | {', '.join(bug.properties)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _table(bugs: list[tuple[str, Bug]], known: Results) -> Table:
    table = Table("bug", "part", *FINDERS, title="Seeded bugs, and what found them")
    for part, bug in bugs:
        table.add_row(bug.name, part, *(known[bug.name].get(name, "not tried") for name in FINDERS))
    return table


if __name__ == "__main__":
    main(prog_name="python -m harness.seeded_bugs")
