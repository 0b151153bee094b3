"""`python -m harness.simulation`: whole clusters on virtual time, one for each seed; replays, shrinks, measures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from attrs import asdict, evolve
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from harness.simulation import bench as benchmark
from harness.simulation.campaign import Totals, append_result, read_results, run_seeds, run_world
from harness.simulation.hunt import BUGS, hunt
from harness.simulation.plan import Plan, draw
from harness.simulation.rare import FREQUENT, RARE
from harness.simulation.record import write_campaign
from harness.simulation.shrink import shrink
from harness.simulation.world import World

SPEC = Path(__file__).resolve().parents[2] / "spec" / "README.md"
README = Path(__file__).with_name("README.md")
ALL_SEEDS = 2000
"""From so many seeds on every rare situation has to be met, from FEW_SEEDS on the frequent ones."""
FEW_SEEDS = 100


@click.group(invoke_without_command=True, help=__doc__)
@click.option("--seeds", default="1-100", show_default=True, help="First and last seed.")
@click.option("--seed", type=int, help="One seed only.")
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log", is_flag=True, help="With --seed: print everything that happens.")
@click.option("--shrink", "shrinks", is_flag=True, help="With --seed: make the failing plan smaller, and print it.")
@click.option("--faults", help="With --seed: keep only the faults of these numbers, as in 0,3,4 (- for none).")
@click.option("--without-scars", is_flag=True, help="With --seed: nothing stays broken after the heal.")
@click.option("--rate-error-ppm", type=int, help="Clocks' rate error; beyond the settings' bound as a control.")
@click.option(
    "--results", type=click.Path(path_type=Path), help="Keep results here; seeds that it has are not run again."
)
@click.option("--record", is_flag=True, help="Write the summary into spec/README.md.")
@click.pass_context
def main(  # noqa: PLR0917 - one parameter per option
    context: click.Context,
    seeds: str,
    seed: int | None,
    jobs: int,
    output: str,
    log: bool,
    shrinks: bool,
    faults: str | None,
    without_scars: bool,
    rate_error_ppm: int | None,
    results: Path | None,
    record: bool,
) -> None:
    """Run seeds."""
    if context.invoked_subcommand is not None:
        return
    if seed is not None:
        plan = _reduced(draw(seed), faults, without_scars, rate_error_ppm)
        sys.exit(_one(plan, log=log, shrinks=shrinks, output=output))
    if log or shrinks or faults or without_scars:
        raise click.UsageError("--log, --shrink, --faults and --without-scars need --seed")
    first, last = _range(seeds)
    totals = _campaign(range(first, last + 1), jobs, rate_error_ppm, results)
    missing = totals.never_met(RARE if totals.seeds >= ALL_SEEDS else FREQUENT if totals.seeds >= FEW_SEEDS else ())
    toothless = totals.never_bitten() if totals.seeds >= FEW_SEEDS else []
    summary = {**totals.summary(), "never_met": missing, "never_bitten": toothless}
    if output == "json":
        click.echo(json.dumps(summary, indent=2))
    else:
        _print(summary)
    if record:
        write_campaign(SPEC, summary)
    sys.exit(1 if totals.violations or missing or toothless else 0)


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    try:
        found = int(first), int(last if dash else first)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not FIRST-LAST", param_hint="--seeds") from None
    if found[0] > found[1]:
        raise click.BadParameter(f"{text!r} has no seeds", param_hint="--seeds")
    return found


def _reduced(plan: Plan, faults: str | None, without_scars: bool, rate_error_ppm: int | None) -> Plan:
    if faults is not None:
        try:
            kept = [] if faults == "-" else [int(each) for each in faults.split(",")]
            plan = evolve(plan, faults=tuple(plan.faults[at] for at in kept))
        except (ValueError, IndexError):
            raise click.BadParameter(
                f"{faults!r}: the plan has faults 0 to {len(plan.faults) - 1}", param_hint="--faults"
            ) from None
    if without_scars:
        plan = evolve(plan, scars=())
    return plan if rate_error_ppm is None else evolve(plan, rate_error_ppm=rate_error_ppm)


def _one(plan: Plan, *, log: bool, shrinks: bool, output: str) -> int:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if shrinks:
        smaller = shrink(plan)
        left = [str(plan.faults.index(fault)) for fault in smaller.faults if fault in plan.faults]
        if len(left) == len(smaller.faults):
            scars = "" if smaller.scars or not plan.scars else " --without-scars"
            console.print(f"about: --seed {plan.seed} --faults {','.join(left) or '-'}{scars}")
        plan = smaller
    world = World(plan, digest=True, keep_log=log)
    result = run_world(world)
    for line in world.log.lines:
        click.echo(line)
    if output == "json":
        click.echo(json.dumps(asdict(result), indent=2))
    else:
        _print_plan(console, plan)
        console.print(
            f"seed {plan.seed}: {result.violated + ': ' + result.text if result.violated else 'every property held'}"
        )
        console.print(f"{result.events} events, {result.simulated_ms} ms simulated, log {result.digest}")
    return 1 if result.violated else 0


def _print_plan(console: Console, plan: Plan) -> None:
    for namespace in plan.namespaces:
        console.print(f"namespace {namespace.name}: {namespace.policy}, {namespace.hosts} hosts at the start")
    for number, fault in enumerate(plan.faults):
        console.print(
            f"fault {number}: at {fault.at_ms} ms {fault.kind} for {fault.for_ms} ms ({fault.target}, {fault.other})"
        )
    for scar in plan.scars:
        console.print(f"for ever: {scar.what} (target {scar.target})")


def _campaign(seeds: range, jobs: int, rate_error_ppm: int | None, results: Path | None) -> Totals:
    totals = Totals()
    known = read_results(results) if results is not None else {}
    for seed in seeds:
        if seed in known:
            totals.add(known[seed])
    left = [seed for seed in seeds if seed not in known]
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("seeds", total=len(left))
        for result in run_seeds(left, jobs=jobs, rate_error_ppm=rate_error_ppm):
            totals.add(result)
            if results is not None:
                append_result(results, result)
            if result.violated:
                console.print(f"seed {result.seed}: {result.violated}: {result.text}")
                clocks = "" if rate_error_ppm is None else f" --rate-error-ppm {rate_error_ppm}"
                console.print(
                    f"  replay: python -m harness.simulation --seed {result.seed}{clocks} --log   (or --shrink)"
                )
            progress.advance(task)
    return totals


def _print(summary: dict[str, object]) -> None:
    table = Table("what", "value", title=f"{summary['seeds']} seeds")
    for name, value in summary.items():
        if isinstance(value, dict):
            for key, count in value.items():
                table.add_row(f"{name.replace('_', ' ')}: {key}", str(count))
        else:
            table.add_row(
                name.replace("_", " "), str(len(value) if name == "violations" and isinstance(value, list) else value)
            )
    Console().print(table)


@main.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--simulated-s", default=30, show_default=True, help="How long each cluster runs, in its own time.")
@click.option("--record", is_flag=True, help="Write the table into harness/simulation/README.md.")
def bench(output: str, simulated_s: int, record: bool) -> None:
    """Three replicas, ten hosts, callers, no faults: events per processor second, simulated over processor time."""
    rows = benchmark.measure(simulated_s)
    if record:
        benchmark.write_bench(README, rows, simulated_s)
    if output == "json":
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table(
        "cluster", "calls/s (simulated)", "events/cpu s", "simulated/cpu s", "busy ms", "busy/cpu s",
        title="simulator, one process",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.what, f"{row.calls_per_simulated_s:.0f}", f"{row.events_per_cpu_s:,.0f}",
            f"{row.simulated_per_cpu:.0f} x", f"{row.busy_percent:.0f} %", f"{row.busy_per_cpu:.0f} x",
        )  # fmt: skip
    Console().print(table)


@main.command(name="hunt")
@click.option("--bug", "names", multiple=True, help="Only these; by default all.")
@click.option("--seeds", default=300, show_default=True, help="Seeds for each bug, at most.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def hunt_bugs(names: tuple[str, ...], seeds: int, output: str) -> None:
    """Seed bugs into core, one at a time: which property catches each, after how many seeds."""
    unknown = set(names) - {bug.name for bug in BUGS}
    if unknown:
        raise click.BadParameter(f"no bug {', '.join(sorted(unknown))}", param_hint="--bug")
    table = Table("bug", "found as", "seeds", "events", title=f"seeded bugs, at most {seeds} seeds each")
    finds = []
    for bug in BUGS:
        if not names or bug.name in names:
            find = hunt(bug, range(1, seeds + 1))
            finds.append(find)
            table.add_row(find.bug, find.violated or "not found", str(find.seeds), f"{find.events:,}")
            click.echo(f"{find.bug}: {find.violated or 'not found'}", err=True)
    if output == "json":
        click.echo(json.dumps([asdict(find) for find in finds], indent=2))
    else:
        Console(width=110).print(table)


if __name__ == "__main__":
    main()
