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
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from callboard.core.durations import parse_duration_ms
from harness.faults import controls, coverage, summary
from harness.faults.campaign import STOPPED, Campaign, Limits, kept_runs
from harness.faults.exploration import draw, regression
from harness.faults.history import HistoryError
from harness.faults.nemeses import KINDS, ScheduleError
from harness.faults.pages.campaign import campaign_page
from harness.faults.plan import EACH_S, Choices, Planned, plan, within
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
    campaigns = commands.add_parser(
        "campaign",
        help="many runs, some clusters at a time, and one summary",
        description="Many runs, some clusters at a time, and one summary. The exit code is 1 if a run failed, and if a "
        "campaign that is long enough for everything (see --plan) has not shown something in the end.",
    )
    campaigns.add_argument("--time", default="10m", help="live cluster time in all; the campaign ends after it")
    campaigns.add_argument("--each", default=f"{EACH_S:.0f}s", help="how long faults come and go in each drawn run")
    campaigns.add_argument("--runs", type=int, default=None, help="end after so many runs")
    campaigns.add_argument("--jobs", type=int, default=1, help="clusters at a time")
    campaigns.add_argument("--plan", action="store_true", help="show what would run, and what would be left out")
    campaigns.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with an interrupted campaign; all but --record is its own"
    )
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
    kept: dict[int, dict[str, Any]] = {}
    if options.resume is not None:
        options = resumed(options)
        kept = kept_runs(options.out)
    choices = choices_of(options)
    next(plan(choices))  # bad choices end here, with one line
    wanted_s = parse_duration_ms(options.time) / 1000
    if options.plan:
        return show_plan(options, within(choices, wanted_s, options.runs), choices, console)
    out = (options.out or DEFAULT_OUT / time.strftime("campaign-%Y%m%d-%H%M%S")).resolve()
    if options.resume is None and out.exists() and any(out.iterdir()):
        raise ValueError(f"--out {out} is not empty")
    about = about_of(options, choices, wanted_s)
    begun = time.monotonic()

    def written(ended: str) -> dict[str, Any]:
        more = {"ended": ended, "wall_s": round(time.monotonic() - begun, 1)}
        return write_summary(out, about | more)

    with CampaignProgress(console, wanted_s, options.jobs) as progress:
        rest = (planned for planned in plan(choices) if planned.number not in kept)
        campaign = Campaign(out, rest, Limits(wanted_s, options.runs), options.jobs, progress)
        campaign.after_each = lambda: progress.lacks(written("it still runs")["missing"])
        campaign.runs = len(kept)
        campaign.live_s = sum(float(result["figures"].get("live_s", 0.0)) for result in kept.values())
        asyncio.run(campaign.run())
    return finish_campaign(options, out, written(campaign.stopped_because), console)


def choices_of(options: argparse.Namespace) -> Choices:
    """What the options fix. Raises ValueError."""
    for name in ("jobs", "runs", "hosts"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}; at least 1")
    return Choices(
        seed=options.seed if options.seed is not None else secrets.randbelow(1_000_000),
        each_s=parse_duration_ms(options.each) / 1000,
        engine=options.engine,
        policy=options.policy,
        replicas=options.replicas,
        hosts=options.hosts,
        workloads=tuple(options.workload or ()),
        faults=tuple(options.fault),
    )


def about_of(options: argparse.Namespace, choices: Choices, wanted_s: float) -> dict[str, Any]:
    """What a campaign's summary says of how it was started. `everything`: nothing was chosen. `whole`: there is time
    for all that there is, so that what is missing in the end is a failure."""
    return {
        "command": command_of(options, choices),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "everything": not choices.fixed,
        "whole": not choices.fixed and not coverage.unplanned(within(choices, wanted_s, options.runs)),
        "resumed": options.resume is not None,
    }


def resumed(options: argparse.Namespace) -> argparse.Namespace:
    """The options of the campaign that is to go on. Raises ValueError."""
    directory: Path = options.resume.resolve()
    try:
        about = json.loads((directory / summary.CAMPAIGN).read_text())["about"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"--resume {directory}: no campaign that ended a run: {error}") from None
    if about["commit"] != commit():
        raise ValueError(f"--resume {directory} ran commit {about['commit'][:12]}; here is {commit()[:12]}")
    _, *arguments = shlex.split(about["command"])
    earlier = parser().parse_args(arguments)
    earlier.out, earlier.resume, earlier.output = directory, directory, options.output
    earlier.record, earlier.plan = options.record, options.plan
    return earlier


def show_plan(options: argparse.Namespace, runs: list[Planned], choices: Choices, console: Console) -> int:
    """`--plan`: what would run, by estimates of how long each takes."""
    console.print(plan_table(runs))
    live_s = sum(planned.estimated_s for planned in runs)
    console.print(f"{len(runs)} runs, about {summary.duration(live_s)} of live cluster time", highlight=False)
    left_out = [] if choices.fixed else coverage.unplanned(runs)
    for line in left_out:
        console.print(line, style="bold yellow", markup=False, highlight=False)
    if not left_out and not choices.fixed:
        console.print("every kind of fault, every scenario, every workload is in it")
    shown = [planned.schedule.as_json() | {"folder": planned.folder} for planned in runs]
    say_json(options, {"runs": shown, "live_s": live_s, "left_out": left_out})
    return 0


def plan_table(runs: list[Planned]) -> Table:
    """The runs, and after them how often each kind of fault is planned."""
    table = Table("run", "cluster", "workloads", "faults")
    counts = Counter[str]()
    for planned in runs:
        settings = RunSettings.of(Path(), planned.schedule)
        cluster = settings.cluster
        kinds = Counter(fault.kind for fault in planned.schedule.faults)
        counts.update(kinds)
        table.add_row(
            planned.folder,
            f"{cluster.engine}, {cluster.policy.value}, {cluster.replicas}+{cluster.hosts}",
            "all" if set(settings.workloads) == set(ALL_WORKLOADS) else ", ".join(settings.workloads),
            _counted(kinds),
        )
    table.add_section()
    table.add_row("together", "", "", _counted(counts))
    return table


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {count}" if count > 1 else kind for kind, count in sorted(kinds.items()))


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


def write_summary(out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write the summary of the runs in a directory, and return it."""
    summed = summary.summarise(summary.load_runs(out), about)
    (out / summary.CAMPAIGN).write_text(json.dumps(summed, indent=2) + "\n")
    (out / summary.MARKDOWN).write_text(summary.markdown(summed))
    return summed


def finish_campaign(options: argparse.Namespace, out: Path, summed: dict[str, Any], console: Console) -> int:
    """Write the page of a campaign whose summary is written, and show it; returns the exit code."""
    (out / summary.PAGE).write_text(campaign_page(summed, summary.load_runs(out)))
    if options.record is not None:
        summary.record(summed, options.record)
    console.print(summary_table(summed))
    console.print(f"everything is in {out}; the page is {out / summary.PAGE}")
    say_json(options, summed)
    return exit_code(summed)


def exit_code(summed: dict[str, Any]) -> int:
    """Of a campaign: 1 if something was found, if nothing ran, or if one that was long enough for everything, and came
    to its end, has not shown something."""
    about = summed["about"]
    lacks = about.get("whole") and about["ended"] != STOPPED and summed["missing"]
    return 1 if summed["failed"] or not summed["runs"] or lacks else 0


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
            summed = write_summary(path, json.loads(kept.read_text())["about"])
            code |= finish_campaign(options, path, summed, console)
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
