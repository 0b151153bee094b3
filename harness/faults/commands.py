"""The command line of the fault-injection suite."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import secrets
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from callboard.core.durations import parse_duration_ms
from harness.faults import controls, summary
from harness.faults.campaign import Campaign, Limits
from harness.faults.exploration import draw, regression
from harness.faults.history import HistoryError
from harness.faults.nemeses import KINDS, ScheduleError
from harness.faults.pages.campaign import campaign_page
from harness.faults.plan import EACH_S, Choices, plan
from harness.faults.progress import CampaignProgress, summary_table
from harness.faults.runner import ALL_WORKLOADS, HISTORY, SCHEDULE, RunReport, RunSettings, commit, reanalyse, run
from harness.faults.schedules import GROUPS, Schedule, load, scenarios

DEFAULT_OUT = Path(".build/faults")
LINE_MAX = 240


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(prog="callboard-faults", description="Fault injection against real processes.")
    commands = top.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="one run after the other; each with its verdicts")
    runs.add_argument("--time", default="60s", help="how long faults come and go in each run")
    runs.add_argument("--runs", type=int, default=1)
    runs.add_argument("--schedule", type=Path, action="append", default=[], help="replay stored faults")
    runs.add_argument("--scenario", action="append", default=[], help="stored schedules by name (see `list`), or all")
    runs.add_argument("--directory", type=Path, default=None, help="exactly where a single run leaves its files")
    campaigns = commands.add_parser("campaign", help="many runs, some clusters at a time, and one summary")
    campaigns.add_argument("--time", default="10m", help="live cluster time in all; the campaign ends after it")
    campaigns.add_argument("--each", default=f"{EACH_S:.0f}s", help="how long faults come and go in each drawn run")
    campaigns.add_argument("--runs", type=int, default=None, help="end after so many runs")
    campaigns.add_argument("--jobs", type=int, default=1, help="clusters at a time")
    campaigns.add_argument(
        "--record", type=Path, default=None, help="put the summary between the markers of this document"
    )
    for one in (runs, campaigns):
        some = one is campaigns
        one.add_argument("--seed", type=int, default=None, help="of the first run; the next has the next number")
        one.add_argument("--workload", action="append", choices=ALL_WORKLOADS, help="again for several; default: all")
        one.add_argument("--fault", action="append", default=[], help="kinds or groups (see `list`); default: all")
        one.add_argument("--engine", choices=("pysyncobj", "memory", "etcd"), default=None if some else "pysyncobj")
        one.add_argument("--policy", choices=("exclusive", "eventual"), default=None if some else "exclusive")
        one.add_argument("--replicas", type=int, choices=(1, 3, 5), default=None if some else 3)
        one.add_argument("--hosts", type=int, default=None if some else 3)
        one.add_argument("--out", type=Path, default=None, help=f"default: {DEFAULT_OUT}/TIME")
    checks = commands.add_parser("check", help="check saved histories again; changes nothing")
    reports = commands.add_parser("report", help="check again, and write results and pages anew")
    seeded = controls.add_parser(commands)
    lists = commands.add_parser("list", help="kinds of faults, their groups, and the stored scenarios")
    for one in (checks, reports):
        one.add_argument("directories", type=Path, nargs="+", help="of a run, or of many; or a history.jsonl")
    reports.add_argument("--record", type=Path, default=None, help="put a campaign's summary into this document")
    for one in (runs, campaigns, checks, reports, seeded, lists):
        one.add_argument("-o", "--output", choices=("text", "json"), default="text")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 all passed, 1 something was found, 2 a bad option or file."""
    options = parser().parse_args(arguments)
    # Machines read standard output; people are talked to beside it.
    console = Console(soft_wrap=True, stderr=options.output == "json")
    commands = {
        "list": list_all,
        "check": check_again,
        "report": report_again,
        "run": run_all,
        "campaign": run_campaign,
        "controls": controls.command,
    }
    try:
        return commands[options.command](options, console)
    except (ScheduleError, HistoryError, ValueError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 2


def say_json(options: argparse.Namespace, content: object) -> None:
    """For machines, if they asked."""
    if options.output == "json":
        sys.stdout.write(json.dumps(content, indent=2) + "\n")


# -- runs ------------------------------------------------------------------------------------------------


def run_all(options: argparse.Namespace, console: Console) -> int:
    """`run`."""
    schedules = schedules_of(options)
    if options.directory is not None and len(schedules) != 1:
        raise ValueError(f"--directory {options.directory} is for one run; there are {len(schedules)}")
    out = (options.out or DEFAULT_OUT / time.strftime("%Y%m%d-%H%M%S")).resolve()
    reports = []
    for schedule in schedules:
        directory = options.directory or fresh(out / schedule.name)
        report = asyncio.run(one_run(schedule, directory, console))
        show(report, console)
        reports.append(report)
        if report.interrupted:
            break
    failed = sum(not report.passed for report in reports)
    console.print(f"{len(reports)} runs, {failed} failed; pages and records are in {options.directory or out}")
    say_json(options, [report.as_json() | {"directory": str(report.directory)} for report in reports])
    return 1 if failed else 0


def fresh(directory: Path) -> Path:
    """This directory, or one beside it with a number: a history is never written over."""
    numbered = directory
    for number in itertools.count(2):
        if not (numbered / HISTORY).exists():
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


async def one_run(schedule: Schedule, directory: Path, console: Console) -> RunReport:
    """One run with its progress. Signals end it in order."""
    console.rule(f"{schedule.name}: {len(schedule.faults)} faults in {schedule.duration_s:g} s")
    if schedule.about:
        console.print(schedule.about)
    for fault in schedule.faults:
        console.print(f"  {fault}", highlight=False)
    begun = time.monotonic()

    def say(what: str) -> None:
        console.print(f"{time.monotonic() - begun:6.1f} s  {what}", highlight=False)

    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(run(RunSettings.of(directory, schedule), schedule, say))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    return await running


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
    show_findings([result for result in report.results if result["verdict"] != "valid"], console)
    for line in report.problems:
        console.print(f"FAILED: {line}", style="bold red", highlight=False, markup=False)
    if not report.passed:
        command = f"callboard-faults run --schedule {shlex.quote(str(report.directory / SCHEDULE))}"
        console.print(f"again: {command}", highlight=False)
        path = report.directory / "regression.py"
        path.write_text(regression(report.schedule, about="; ".join(report.problems)[:300], command=command))
        console.print(f"as a test, for tests/faults/regressions: {path}\n", highlight=False)
        console.print(path.read_text(), highlight=False, markup=False)


def show_findings(results: list[dict[str, Any]], console: Console) -> None:
    """Verdicts with their reasons."""
    for result in results:
        console.print(f"{result['verdict'].upper()} {result['checker']}", style="bold red")
        for line in result["explanation"]:
            console.print(f"  {line[:LINE_MAX]}", highlight=False, markup=False)


# -- campaigns -------------------------------------------------------------------------------------------


def run_campaign(options: argparse.Namespace, console: Console) -> int:
    """`campaign`."""
    for name in ("jobs", "runs", "hosts"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}; at least 1")
    choices = Choices(
        seed=options.seed if options.seed is not None else secrets.randbelow(1_000_000),
        each_s=parse_duration_ms(options.each) / 1000,
        engine=options.engine,
        policy=options.policy,
        replicas=options.replicas,
        hosts=options.hosts,
        workloads=tuple(options.workload or ()),
        faults=tuple(options.fault),
    )
    next(plan(choices))  # bad choices end here, with one line
    wanted_s = parse_duration_ms(options.time) / 1000
    out = (options.out or DEFAULT_OUT / time.strftime("campaign-%Y%m%d-%H%M%S")).resolve()
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out {out} is not empty")
    begun, date = time.monotonic(), time.strftime("%Y-%m-%d")
    with CampaignProgress(console, wanted_s, options.jobs) as progress:
        campaign = Campaign(out, plan(choices), Limits(wanted_s, options.runs), options.jobs, progress)
        asyncio.run(campaign.run())
    about = {
        "command": command_of(options, choices),
        "date": date,
        "commit": commit(),
        "ended": campaign.stopped_because,
        "wall_s": round(time.monotonic() - begun, 1),
    }
    return finish_campaign(options, out, about, console)


def command_of(options: argparse.Namespace, choices: Choices) -> str:
    """What repeats a campaign."""
    parts = [
        "callboard-faults",
        "campaign",
        "--time",
        options.time,
        "--each",
        options.each,
        "--seed",
        str(choices.seed),
    ]
    for name in ("runs", "jobs", "engine", "policy", "replicas", "hosts"):
        if getattr(options, name) is not None:
            parts += [f"--{name}", str(getattr(options, name))]
    for name in ("workload", "fault"):
        for value in getattr(options, name) or ():
            parts += [f"--{name}", value]
    return shlex.join(parts)


def finish_campaign(options: argparse.Namespace, out: Path, about: dict[str, Any], console: Console) -> int:
    """Write the summary of the runs in a directory, and show it; returns the exit code."""
    runs = summary.load_runs(out)
    summed = summary.summarise(runs, about)
    (out / summary.CAMPAIGN).write_text(json.dumps(summed, indent=2) + "\n")
    (out / summary.MARKDOWN).write_text(summary.markdown(summed))
    (out / summary.PAGE).write_text(campaign_page(summed, runs))
    if options.record is not None:
        summary.record(summed, options.record)
    console.print(summary_table(summed))
    console.print(f"everything is in {out}; the page is {out / summary.PAGE}")
    say_json(options, summed)
    return 1 if summed["failed"] or not summed["runs"] else 0


# -- saved runs ------------------------------------------------------------------------------------------


def saved_runs(paths: list[Path]) -> list[Path]:
    """Histories at or below these. Raises HistoryError."""
    found: list[Path] = []
    for path in paths:
        here = [path] if path.is_file() else sorted(path.rglob(HISTORY))
        if not here:
            raise HistoryError(f"{path}: there is no {HISTORY} in it")
        found += here
    return found


def check_again(options: argparse.Namespace, console: Console) -> int:
    """`check`."""
    failed, all_results = 0, []
    for path in saved_runs(options.directories):
        report = reanalyse(path)
        bad = [result for result in report.results if result["verdict"] != "valid"]
        console.print(f"{path}: {len(report.results)} verdicts, {len(bad)} of them not valid")
        show_findings(bad, console)
        for line in report.problems:
            console.print(f"FAILED: {line}", style="bold red", highlight=False, markup=False)
        failed += not report.passed
        all_results.append(report.as_json() | {"directory": str(report.directory)})
    say_json(options, all_results)
    return 1 if failed else 0


def report_again(options: argparse.Namespace, console: Console) -> int:
    """`report`."""
    for path in saved_runs(options.directories):
        reanalyse(path).write()
        console.print(f"{path.parent}: written", highlight=False)
    code = 0
    for path in options.directories:
        kept = path / summary.CAMPAIGN
        if kept.exists():
            code |= finish_campaign(options, path, json.loads(kept.read_text())["about"], console)
    return code


# -- lists -----------------------------------------------------------------------------------------------


def list_all(options: argparse.Namespace, console: Console) -> int:
    """`list`."""
    console.print(kinds_table())
    console.print(scenarios_table())
    stored = {name: load(path).about for name, path in scenarios().items()}
    say_json(options, {"groups": GROUPS, "kinds": sorted(KINDS), "scenarios": stored, "workloads": ALL_WORKLOADS})
    return 0


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
