"""The command line of the fault-injection suite."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import secrets
import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from callboard.core.durations import parse_duration_ms
from harness.faults.history import HistoryError, read_history
from harness.faults.nemeses import KINDS, ScheduleError
from harness.faults.runner import ALL_WORKLOADS, RunReport, RunSettings, cluster_settings, results_of, run
from harness.faults.schedules import GROUPS, Schedule, draw, load, scenarios

DEFAULT_OUT = Path(".build/faults")
LINE_MAX = 240


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(prog="python -m harness.faults", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run faults against a cluster of real processes and check the history")
    runs.add_argument("--time", default="60s", help="how long faults come and go in each run")
    runs.add_argument("--seed", type=int, default=None, help="of the first run; the next has the next number")
    runs.add_argument("--runs", type=int, default=1)
    runs.add_argument("--workload", action="append", choices=ALL_WORKLOADS, help="again for several; default: all")
    runs.add_argument("--fault", action="append", default=[], help="kinds or groups (see `list`); default: all")
    runs.add_argument("--engine", choices=("pysyncobj", "memory", "etcd"), default="pysyncobj")
    runs.add_argument("--policy", choices=("exclusive", "eventual"), default="exclusive")
    runs.add_argument("--replicas", type=int, choices=(1, 3, 5), default=3)
    runs.add_argument("--hosts", type=int, default=3)
    runs.add_argument("--schedule", type=Path, action="append", default=[], help="replay stored faults")
    runs.add_argument("--out", type=Path, default=None, help=f"default: {DEFAULT_OUT}/TIME")
    runs.add_argument("--scenario", action="append", default=[], help="stored schedules by name (see `list`), or all")
    checks = commands.add_parser("check", help="check saved histories again")
    checks.add_argument("histories", type=Path, nargs="+", help="history.jsonl, or a directory with some below it")
    commands.add_parser("list", help="kinds of faults, their groups, and the stored scenarios")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options, console = parser().parse_args(arguments), Console(soft_wrap=True)
    if options.command == "list":
        console.print(kinds_table())
        console.print(scenarios_table())
        return 0
    if options.command == "check":
        return check_again(options.histories, console)
    try:
        schedules = schedules_of(options)
    except (ScheduleError, ValueError) as error:
        console.print(f"error: {error}", style="red")
        return 2
    out = options.out or DEFAULT_OUT / time.strftime("%Y%m%d-%H%M%S")
    failed = 0
    for schedule in schedules:
        directory = fresh(out / schedule.name)
        report = asyncio.run(one_run(options, schedule, directory, console))
        show(report, console)
        failed += not report.passed
    console.print(f"{len(schedules)} runs, {failed} failed; histories are in {out}")
    return 1 if failed else 0


def fresh(directory: Path) -> Path:
    """This directory, or one beside it with a number: a history is never written over."""
    numbered = directory
    for number in itertools.count(2):
        if not (numbered / "history.jsonl").exists():
            break
        numbered = directory.with_name(f"{directory.name}-{number}")
    return numbered


def schedules_of(options: argparse.Namespace) -> list[Schedule]:
    """Stored or drawn ones. Raises ScheduleError, ValueError."""
    stored = [load(path) for path in [*options.schedule, *scenario_paths(options.scenario)]]
    if stored:
        return stored
    duration_s = parse_duration_ms(options.time) / 1000
    first = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    chosen = {
        "engine": options.engine,
        "policy": options.policy,
        "replicas": options.replicas,
        "hosts": options.hosts,
        "workloads": options.workload or list(ALL_WORKLOADS),
    }
    return [
        draw(seed, duration_s, allowed=options.fault, settings=chosen) for seed in range(first, first + options.runs)
    ]


def scenario_paths(names: list[str]) -> list[Path]:
    """Files of stored schedules. Raises ScheduleError."""
    known = scenarios()
    for name in names:
        if name != "all" and name not in known:
            raise ScheduleError(f"scenario {name!r} is none of {', '.join(known)}")
    return [path for name, path in known.items() if name in names or "all" in names]


def check_again(paths: list[Path], console: Console) -> int:
    """Check saved histories; returns the exit code."""
    failed = 0
    for path in paths:
        for file in sorted(path.rglob("history.jsonl")) if path.is_dir() else [path]:
            try:
                results = results_of(read_history(file))
            except HistoryError as error:
                console.print(f"error: {error}", style="red")
                return 2
            bad = [result for result in results if result["verdict"] != "valid"]
            console.print(f"{file}: {len(results)} verdicts, {len(bad)} of them not valid")
            show_findings(bad, console)
            failed += bool(bad)
    return 1 if failed else 0


async def one_run(_options: argparse.Namespace, schedule: Schedule, directory: Path, console: Console) -> RunReport:
    """One run with its progress."""
    console.rule(f"{schedule.name}: {len(schedule.faults)} faults in {schedule.duration_s:g} s")
    if schedule.about:
        console.print(schedule.about)
    for fault in schedule.faults:
        console.print(f"  {fault}", highlight=False)
    begun = time.monotonic()

    def say(what: str) -> None:
        console.print(f"{time.monotonic() - begun:6.1f} s  {what}", highlight=False)

    settings = RunSettings(
        directory,
        tuple(schedule.settings.get("workloads", ALL_WORKLOADS)),
        cluster_settings(schedule.settings),
    )
    return await run(settings, schedule, say)


def show(report: RunReport, console: Console) -> None:
    """The verdict, and how to see it again."""
    table = Table("checker", "verdict", "looked at")
    for result in report.results:
        figures = ", ".join(f"{name} {value}" for name, value in result["figures"].items())
        style = "" if result["verdict"] == "valid" else "bold red"
        table.add_row(result["checker"], result["verdict"], figures, style=style)
    console.print(table)
    faults = Table("fault", "hit", "proof that it bit")
    for fault in report.faults:
        faults.add_row(fault.spec.kind, fault.target, fault.proof or f"NONE: {fault.problem}")
    console.print(faults)
    console.print(figures_line(report.figures), highlight=False)
    show_findings([result for result in report.results if result["verdict"] != "valid"], console)
    for finding in report.findings:
        console.print(f"FAILED: {finding}", style="bold red", highlight=False)
    for line in [*report.failures, *report.gates]:
        console.print(f"FAILED: {line}", style="bold red", highlight=False)
    if not report.passed:
        path = shlex.quote(str(report.directory / "schedule.json"))
        console.print(f"again: python -m harness.faults run --schedule {path}")


def show_findings(results: list[dict[str, Any]], console: Console) -> None:
    """Verdicts with their reasons."""
    for result in results:
        console.print(f"{result['verdict'].upper()} {result['checker']}", style="bold red")
        for line in result["explanation"]:
            console.print(f"  {line[:LINE_MAX]}", highlight=False)


def figures_line(figures: dict[str, Any]) -> str:
    """Figures of a run in a few lines."""
    operations = ", ".join(f"{name} {count}" for name, count in figures.get("operations", {}).items())
    rest = ", ".join(f"{name} {value}" for name, value in figures.items() if name not in {"operations", "notes"})
    return f"operations: {operations}\n{rest}"


def scenarios_table() -> Table:
    """What `--scenario` takes."""
    table = Table("scenario", "about")
    for name, path in scenarios().items():
        table.add_row(name, load(path).about)
    return table


def kinds_table() -> Table:
    """What `--fault` takes."""
    table = Table("group", "kinds")
    for group, kinds in GROUPS.items():
        table.add_row(group, ", ".join(kinds))
    grouped = {kind for kinds in GROUPS.values() for kind in kinds}
    alone = sorted(KINDS.keys() - grouped)
    if alone:
        table.add_row("-", ", ".join(alone))
    return table
