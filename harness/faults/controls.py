"""Negative controls: seeded bugs in real processes (see `bugs`), each with the schedule that shows it, and the checkers
of which one has to see it.

`python -m harness.faults controls` runs them; a bug that survives is a failure of the suite.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from attrs import Factory, define, evolve, frozen
from rich.console import Console
from rich.table import Table

from harness.faults.bugs import BUGS, Where, broken
from harness.faults.checkers.verdict import Verdict
from harness.faults.cluster import ClusterSettings
from harness.faults.nemeses import FaultSpec, ScheduleError
from harness.faults.runner import RunReport, RunSettings, Say, cluster_settings, commit, run
from harness.faults.schedules import Schedule
from harness.faults.workloads import Habits

DEFAULT_OUT = Path(".build/faults/controls")
RECORD = Path("harness/CONTROLS.md")
RUNS_MAX = 3
BUDGET_S = 300.0
"""The budget of each control: so many runs, and so many seconds for all of them, with start, heal and checks."""
NOBODY = "**nobody**"
RECOVERY = "recovery"
"""Not a checker of the history: what the run itself says if not everything works again after the heal."""
BEFORE_S = 2.0
AFTER_S = 2.0
SETTLE_S = 30.0
LONG_LEASE = {"lease_ms": 8000, "failure_timeout_ms": 8400}
BUSY = Habits(long_turns=0.7)
COMPUTING = Habits(long_turns=0.0, blocking_turns=0.8)


@frozen
class Control:
    """One bug and how it shows. `checkers`: any of these kills it."""

    bug: str
    checkers: tuple[str, ...]
    duration_s: float
    faults: tuple[FaultSpec, ...] = ()
    workloads: tuple[str, ...] = ("actors",)
    options: dict[str, Any] = Factory(dict)
    habits: Habits = Factory(Habits)
    slow: bool = True
    """Not among the few that `make test` runs."""
    remark: str = ""
    """For the page of the documentation."""


@define
class Outcome:
    """What became of one control."""

    control: Control
    killed_by: str = ""
    runs: int = 0
    seconds: float = 0.0
    commit: str = Factory(lambda: commit()[:12] or "unknown")
    """When it began."""
    seen: list[str] = Factory(list)
    """Everything else that was found."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "bug": self.control.bug,
            "what": BUGS[self.control.bug].what,
            "where": BUGS[self.control.bug].where.value,
            "expected": list(self.control.checkers),
            "killed_by": self.killed_by,
            "runs": self.runs,
            "seconds": round(self.seconds, 1),
            "also": self.seen,
        }


def _cut_off(at_s: float, duration_s: float, **parameters: str) -> FaultSpec:
    """h1 and one caller, together, away from all others: the caller goes on calling it."""
    return FaultSpec("partition_named", at_s, duration_s, "network", "h1,c1", parameters)


DRAINS = tuple(FaultSpec("host_drain", 0.5 + 4 * place, 3, "hosts", f"h{place + 1}") for place in range(3))
"""One host after the other gives all its slots away, and gets some back."""

CONTROLS = (
    Control("turns_at_once", ("turn_based",), 3, habits=BUSY, slow=False),
    Control("unlock_before_update", ("wire",), 5, workloads=("sidecars",)),
    Control("fences_do_not_rise", ("grants",), 2, (FaultSpec("host_kill", 0.2, 1.5, "hosts", "h1"),), slow=False),
    Control(
        "incarnations_used_again",
        ("tables_actors", "grants"),
        5,
        (FaultSpec("host_kill", 0.2, 0.3, "hosts", "h1"),),
        options={"times": LONG_LEASE},
        remark="`grants` was named first, and sees it only if the new process gets a lease before it is given up; that "
        "it installs a version a second time under the old number is seen always.",
    ),
    Control("dealt_by_hash_seed", ("replicas", "tables_actors"), 7, (FaultSpec("host_kill", 0.5, 6, "hosts", "h1"),)),
    Control("a_task_is_lost", ("logs",), 2),
    Control(
        "deltas_not_checked",
        ("tables_actors",),
        8,
        (FaultSpec("storm", 0.5, 7, "hosts", parameters={"pause_ms": 1500}),),
    ),
    Control("lease_expiry_ignored", ("stale_turns",), 12, (_cut_off(0.5, 11),)),
    Control(
        "lease_wait_skipped",
        ("stale_turns", "single_activation"),
        9,
        (_cut_off(0.5, 8), FaultSpec("host_removed", 2.0, 1, "hosts", "h1")),
        options={"times": LONG_LEASE},
    ),
    Control(
        "new_leader_does_not_wait",
        ("stale_turns", "single_activation"),
        12,
        (
            _cut_off(0.5, 11),
            FaultSpec("kill", 1.0, 9, "replicas", "leader"),
            FaultSpec("host_removed", 2.5, 1, "hosts", "h1"),
        ),
        options={"times": LONG_LEASE},
    ),
    Control(
        "renewals_without_quorum",
        ("renewals",),
        16,
        (
            FaultSpec("partition_named", 0.3, 15, "h1", "h1,c1", {"from": "followers", "style": "refuse"}),
            FaultSpec("partition_named", 4.0, 11, "leader", "leader", {"from": "followers"}),
            FaultSpec("pause", 5.7, 6.5, "pause", "leader"),
        ),
    ),
    Control("grants_without_release", ("single_activation",), 13, DRAINS, habits=BUSY),
    Control("released_before_drained", ("single_activation",), 13, DRAINS, habits=BUSY),
    Control(
        "gate_not_checked",
        ("gate",),
        10,
        (FaultSpec("host_pause", 1.0, 8, "hosts", "h1,h2"),),
        habits=COMPUTING,
    ),
    Control("store_ignores_fences", ("fence_monotonic",), 10, (FaultSpec("host_pause", 1.0, 8, "hosts", "h1,h2"),)),
    Control(
        "store_ignores_fences_on_read",
        ("fence_monotonic",),
        22,
        (
            FaultSpec("host_pause", 1.0, 8, "hosts", "h1,h2"),
            FaultSpec("host_pause", 12.0, 8, "hosts", "h2,h3"),
        ),
        habits=Habits(reads=0.95),
        remark="What a zombie writes is accepted only if the next owner has read and not yet written by then.",
    ),
    Control("host_ends_when_removed", ("processes",), 5, (FaultSpec("host_removed", 0.5, 3, "hosts", "h1"),)),
    Control(
        "granted_of_another_since",
        (RECOVERY,),
        4,
        (FaultSpec("host_kill", 0.5, 2, "hosts", "h1"),),
        remark="A host takes no grant whose `since` is not that of its table, so nobody serves the slots.",
    ),
    Control(
        "votes_not_persisted",
        ("replicas",),
        7,
        (FaultSpec("kill", 0.5, 2, "replicas", "follower"),),
        workloads=("members", "lookups"),
    ),
    Control(
        "sessions_forgotten",
        ("replicas",),
        9,
        (FaultSpec("kill", 0.5, 2, "replicas", "leader"),),
        workloads=("members", "lookups"),
        remark="Its state, of which sessions are a part, differs from that of the others at the same position. That a "
        "repeated command has two effects is not shown by this.",
    ),
    Control(
        "unknown_outcomes_retried",
        ("acknowledged_once", "linearizability_list"),
        8,
        (FaultSpec("resets", 0.5, 7, "network", "host", {"pause_ms": 500}),),
        habits=BUSY,
    ),
    Control("removal_ignored", (RECOVERY,), 9, (FaultSpec("host_pause", 0.5, 8, "hosts", "h1"),)),
    Control(
        "members_never_removed",
        ("failover",),
        21,
        (FaultSpec("host_kill", 0.3, 20, "hosts", "h1"),),
        workloads=("actors", "lookups"),
    ),
    Control(
        "reads_without_quorum",
        ("positions", "linearizability_member"),
        6,
        (FaultSpec("partition_replicas", 0.5, 5, "network", "follower", {"style": "black_hole"}),),
        workloads=("members", "lookups"),
    ),
    Control(
        "leader_commits_alone",
        ("linearizability_member", "replicas", "positions"),
        7,
        (FaultSpec("partition_replicas", 0.5, 6, "network", "leader", {"style": "black_hole"}),),
        workloads=("members", "lookups"),
    ),
    Control(
        "journal_not_synced",
        ("linearizability_member", "replicas", "positions"),
        8,
        (FaultSpec("tail_loss", 2.0, 5, "replicas", "all", {"drawn": 0}),),
        workloads=("members", "lookups"),
    ),
    Control(
        "only_the_newest_watch_is_told",
        ("convergence_actors", "convergence_register"),
        5,
        (FaultSpec("host_kill", 0.5, 3, "hosts", "h1"),),
        workloads=("members", "lookups"),
    ),
    Control(
        "new_leaders_refuse_changes",
        ("availability",),
        28,
        (FaultSpec("kill", 0.5, 3, "replicas", "leader"),),
        workloads=("members", "lookups"),
    ),
    Control(
        "watch_goes_back",
        ("tables_actors",),
        14,
        (
            FaultSpec("partition_named", 0.3, 13, "network", "replica-2", {"from": "replica-1,replica-3"}),
            FaultSpec("host_kill", 1.5, 6, "hosts", "h3"),
            FaultSpec("kill", 7.0, 4, "replicas", "replica-1"),
        ),
    ),
)


def chosen(names: list[str]) -> list[Control]:
    """Controls by their bugs; none for all. Raises ScheduleError."""
    known = {control.bug: control for control in CONTROLS}
    for name in names:
        if name not in known:
            raise ScheduleError(f"control {name!r} is none of {', '.join(known)}")
    return [known[name] for name in names] or list(CONTROLS)


async def run_once(control: Control, directory: Path, seed: int, say: Say) -> RunReport:
    """One run with the bug."""
    settings: ClusterSettings = evolve(cluster_settings(control.options), bug=control.bug)
    schedule = Schedule(seed, control.duration_s, control.faults, control.bug, control.options)
    run_settings = RunSettings(
        directory, control.workloads, settings, BEFORE_S, AFTER_S, settle_s=SETTLE_S, habits=control.habits
    )
    here = broken(control.bug) if BUGS[control.bug].where is Where.CLIENT else contextlib.nullcontext()
    with here:
        return await run(run_settings, schedule, say)


def found(report: RunReport) -> list[str]:
    """Checkers that found something, and whether the cluster did not recover."""
    names = [str(each["checker"]) for each in report.results if each["verdict"] == Verdict.INVALID.value]
    return [*names, *([RECOVERY] if any("not everything works again" in line for line in report.failures) else [])]


async def execute(
    control: Control, out: Path, *, say: Say, runs_max: int = RUNS_MAX, budget_s: float = BUDGET_S
) -> Outcome:
    """Run it until one of its checkers finds it, or the budget is used. A late find does not count."""
    outcome = Outcome(control)
    begun = time.monotonic()
    for seed in range(1, runs_max + 1):
        directory = out / f"{control.bug}-{seed}"
        shutil.rmtree(directory, ignore_errors=True)
        report = await run_once(control, directory, seed, say)
        outcome.runs, outcome.seconds = seed, time.monotonic() - begun
        names = found(report)
        outcome.killed_by = next((name for name in control.checkers if name in names), "")
        outcome.seen = sorted({*outcome.seen, *names} - {outcome.killed_by})
        for line in report.failures:
            say(f"  {line.splitlines()[0][:200]}")
        if outcome.seconds > budget_s:
            outcome.killed_by = ""
            break
        if outcome.killed_by:
            break
    return outcome


def table(outcomes: list[Outcome]) -> Table:
    """For people at a terminal."""
    shown = Table("seeded bug", "in", "expected", "killed by", "runs", "seconds", "also found by")
    for outcome in outcomes:
        control = outcome.control
        shown.add_row(
            f"{control.bug}: {BUGS[control.bug].what}",
            BUGS[control.bug].where.value,
            " or ".join(control.checkers),
            outcome.killed_by or "NOBODY",
            str(outcome.runs),
            f"{outcome.seconds:.0f}",
            ", ".join(outcome.seen),
            style="" if outcome.killed_by else "bold red",
        )
    return shown


def record(outcomes: list[Outcome], path: Path) -> None:
    """Write the table as a page of the documentation. Rows of bugs that were not run now stay as they are."""
    rows = _recorded(path) | {outcome.control.bug: _measured(outcome) for outcome in outcomes}
    lines = [
        "# Negative controls of the fault suite",
        "",
        "Each row is callboard with one seeded bug (harness/faults/bugs.py), in real processes under the faults that",
        "show it (harness/faults/controls.py). The checkers were named before; any of them counts. Written by",
        "",
        "    callboard-faults controls --record        # or one: --only BUG --record",
        "",
        f"Each bug has {RUNS_MAX} runs and {BUDGET_S:.0f} seconds. They count whole runs, with start, heal, checks.",
        "",
        "| bug | what is wrong | in | expected | killed by | runs | s | at commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    shown = [control for control in CONTROLS if control.bug in rows]
    for control in shown:
        known = BUGS[control.bug]
        expected = " or ".join(f"`{name}`" for name in control.checkers)
        cells = (f"`{control.bug}`", known.what, known.where.value, expected, *rows[control.bug])
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"`{control.bug}`: {control.remark}" for control in shown if control.remark)]
    killed = sum(rows[control.bug][0] != NOBODY for control in shown)
    lines += ["", f"{killed} of {len(CONTROLS)} were killed."]
    path.write_text("\n".join(lines) + "\n")


def _measured(outcome: Outcome) -> tuple[str, ...]:
    killer = f"`{outcome.killed_by}`" if outcome.killed_by else NOBODY
    return (killer, str(outcome.runs), f"{outcome.seconds:.0f}", outcome.commit)


def _recorded(path: Path) -> dict[str, tuple[str, ...]]:
    """What an earlier page says was measured, by bug."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| `")]
    return {cells[0].strip("`"): tuple(cells[4:]) for cells in rows}


def add_parser(commands: Any) -> Any:
    """The subcommand's options."""
    parser = commands.add_parser("controls", help="seeded bugs in callboard that the suite has to find")
    parser.add_argument("--only", action="append", default=[], metavar="BUG", help="again for several; default: all")
    parser.add_argument("--budget", type=int, default=RUNS_MAX, metavar="RUNS", help="of each bug at most")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, metavar="SECONDS", help="for these runs together")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--record", action="store_true", help=f"write the table to {RECORD}")
    return parser


def command(options: argparse.Namespace, console: Console) -> int:
    """Run them; the exit code is 1 if a bug survives. Raises ScheduleError."""
    outcomes = []
    for control in chosen(options.only):
        console.rule(f"{control.bug}: {BUGS[control.bug].what}")
        begun = time.monotonic()

        def say(what: str, begun: float = begun) -> None:
            console.print(f"{time.monotonic() - begun:6.1f} s  {what}", highlight=False)

        outcome = asyncio.run(
            execute(control, options.out, say=say, runs_max=options.budget, budget_s=options.budget_s)
        )
        say(f"killed by {outcome.killed_by}" if outcome.killed_by else f"NOT KILLED; found: {outcome.seen}")
        outcomes.append(outcome)
    console.print(table(outcomes))
    if options.record:
        record(outcomes, RECORD)
    if options.output == "json":
        sys.stdout.write(json.dumps([outcome.as_json() for outcome in outcomes], indent=2) + "\n")
    return 0 if all(outcome.killed_by for outcome in outcomes) else 1
