"""`python -m harness.raftsim`: run random schedules over an engine, replay and shorten failing ones."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from harness.raftsim.engines import ENGINES, engine_kind
from harness.raftsim.runner import Failure, Totals, run_many, shorten
from harness.raftsim.scenarios import SCENARIOS, run_scenario
from harness.raftsim.schedule import generate

_POWER = {"any": None, "kill": False, "power": True}


@click.group(invoke_without_command=True, help=__doc__)
@click.option("--engine", type=click.Choice(ENGINES), default="hardened", show_default=True)
@click.option("--schedules", default=200, show_default=True, help="How many seeds to run, from --seed on.")
@click.option("--seed", default=0, show_default=True)
@click.option("--size", type=click.Choice(["3", "5"]), help="Replicas; by default each seed draws it.")
@click.option(
    "--crashes",
    type=click.Choice(list(_POWER)),
    default="any",
    show_default=True,
    help="kill: crashes keep what was written; power: they lose what was not synced, and disks report errors; "
    "any: each seed draws it.",
)
@click.option("--stop-after", default=1, show_default=True, help="Stop after so many failing seeds; 0: never.")
@click.option("--trace", is_flag=True, help="Shorten the first failing schedule and print its events.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--report", type=click.Path(path_type=Path), help="Also write the JSON report to this file.")
@click.pass_context
def main(  # noqa: PLR0917 - one parameter per option
    context: click.Context,
    engine: str,
    schedules: int,
    seed: int,
    size: str | None,
    crashes: str,
    stop_after: int,
    trace: bool,
    output: str,
    report: Path | None,
) -> None:
    """Run random schedules."""
    if context.invoked_subcommand is not None:
        return
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    again = f"python -m harness.raftsim --engine {engine} --crashes {crashes}" + (f" --size {size}" if size else "")

    def tell(failure: Failure) -> None:
        console.print(f"seed {failure.schedule.seed}: {failure.rule}: {failure.detail}")
        console.print(f"  replay: {again} --schedules 1 --seed {failure.schedule.seed} --trace")

    kind = engine_kind(engine)
    seeds = iter(range(seed, seed + schedules))
    total = run_many(
        kind, seeds, size=int(size) if size else None, power=_POWER[crashes],
        stop_after=stop_after or None, on_failure=tell,
    )  # fmt: skip
    summary = _summary(engine, again, seed, total)
    if report is not None:
        report.write_text(json.dumps(summary, indent=2) + "\n")
    if output == "json":
        click.echo(json.dumps(summary, indent=2))
    else:
        _print_totals(summary)
    if trace and total.failures:
        shortest = shorten(kind, total.failures[0])
        console.print(f"shortest found: {shortest.rule}: {shortest.detail}")
        console.print(f"  {shortest.schedule.size} replicas, power lost: {shortest.schedule.power}")
        console.print(f"  {shortest.schedule.settings}")
        for number, event in enumerate(shortest.schedule.events):
            console.print(f"  {number:3} {' '.join(map(str, event))}")
    sys.exit(1 if total.failures else 0)


@main.command(name="scenario")
@click.argument("name", type=click.Choice(["all", *SCENARIOS]))
@click.option("--engine", type=click.Choice(ENGINES), default="unguarded", show_default=True)
def scenario(name: str, engine: str) -> None:
    """Run one scripted defect, or all. Exit status 1 if something went wrong in one."""
    wrong = 0
    for one in SCENARIOS if name == "all" else [name]:
        if SCENARIOS[one].library_only and engine != "unguarded":
            click.echo(f"{one}: this engine has no such function")
            continue
        finding = run_scenario(one, engine_kind(engine))
        wrong += finding is not None
        click.echo(f"{one}: {finding or 'clean'}")
    sys.exit(1 if wrong else 0)


@main.command()
@click.argument("seed", type=int)
def show(seed: int) -> None:
    """Print the schedule of a seed."""
    schedule = generate(seed)
    click.echo(f"{schedule.size} replicas, power {schedule.power}, {schedule.settings}")
    for event in schedule.events:
        click.echo(" ".join(map(str, event)))


def _summary(engine: str, again: str, seed: int, total: Totals) -> dict[str, Any]:
    return {
        "engine": engine,
        "command": f"{again} --seed {seed} --schedules {total.schedules}",
        "first_seed": seed,
        "schedules": total.schedules,
        "events": total.events,
        "proposals": total.proposals,
        "acknowledged": total.acknowledged,
        "messages": total.messages,
        "disk_changes": total.disk_changes,
        "crashes": total.crashes,
        "restarts": total.restarts,
        "elections": total.elections,
        "logs_cut": total.cuts,
        "snapshots_installed": total.installs,
        "seconds": round(total.seconds, 2),
        "cpu_seconds": round(total.cpu_seconds, 2),
        "schedules_per_cpu_second": round(total.per_second, 1),
        "failures": len(total.failures),
        "rules": dict(sorted(total.rules.items())),
        "first_failures": [
            {"seed": failure.schedule.seed, "rule": failure.rule, "detail": failure.detail}
            for failure in itertools.islice(total.failures, 20)
        ],
    }


def _print_totals(summary: dict[str, Any]) -> None:
    table = Table("what", "value", title=f"{summary['engine']}: {summary['schedules']} schedules")
    for name, value in summary.items():
        if name not in ("first_failures", "command"):
            table.add_row(name.replace("_", " "), str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
