"""The command line: ``python -m harness.mutation``, or ``python -m harness.conformance mutants``."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.mutation import explained, hundred, report
from harness.mutation.baseline import Baseline, BaselineError, measure, measure_costs
from harness.mutation.campaign import Campaign, Result, Task, refuse_imported
from harness.mutation.command import in_fresh_process
from harness.mutation.judge import HYPOTHESIS_PROFILE, REPOSITORY, Source, read_core
from harness.mutation.memory import Memory


def _commit() -> str:
    command = ("git", "describe", "--always", "--dirty", "--abbrev=10")
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout.strip()


def _again(path: Path) -> set[str]:
    mutants = json.loads(path.read_text())["mutants"]
    return {each["mutant"] for each in mutants if each["outcome"] in ("survived", "unreached")}


def _choose(sources: dict[str, Source], sample: int | None, seed: int, again: Path | None) -> list[Task]:
    tasks = [Task(name, index) for name, source in sources.items() for index in range(len(source.mutants))]
    if again is not None:
        names = _again(again)
        tasks = [each for each in tasks if sources[each.module].mutants[each.index].name in names]
    if sample is not None and sample < len(tasks):
        chosen = set(random.Random(seed).sample(range(len(tasks)), sample))
        tasks = [each for index, each in enumerate(tasks) if index in chosen]
    return tasks


def _judge_new(
    sources: dict[str, Source], *, memory: Memory, baseline: Baseline, tasks: list[Task], jobs: int, budget_s: float
) -> list[Result]:
    """As `_judge`, but what is known of earlier runs and still holds is not judged again."""
    recalled = [(task, memory.recall(sources[task.module], task.index)) for task in tasks]
    new = [task for task, result in recalled if result is None]
    judged = _judge(sources, baseline, new, jobs=jobs, budget_s=budget_s, remember=memory.note) if new else []
    memory.write()
    of_task = dict(zip(new, _in_order(sources, new, judged), strict=True))
    return [of_task[task] if result is None else result for task, result in recalled]


def _in_order(sources: dict[str, Source], tasks: list[Task], results: list[Result]) -> list[Result]:
    by_name = {each.mutant.name: each for each in results}
    return [by_name[sources[task.module].mutants[task.index].name] for task in tasks]


def _judge(
    sources: dict[str, Source],
    baseline: Baseline,
    tasks: list[Task],
    *,
    jobs: int,
    budget_s: float = math.inf,
    remember: Callable[[Result], None] = lambda _result: None,
) -> list[Result]:
    results: list[Result] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("mutants", total=len(tasks))
        survived = 0

        def note(result: Result) -> None:
            nonlocal survived
            results.append(result)
            remember(result)
            survived += not report.is_killed(result) and result.outcome != "same code"
            progress.update(bar, advance=1, description=f"mutants, {survived} unnoticed")

        code = Campaign(sources, baseline, jobs, note, budget_s).run(tasks)
    if len(results) != len(tasks):
        raise click.ClickException(f"{len(results)} of {len(tasks)} mutants were judged; pytest's exit code is {code}")
    return results


def _verdict(console: Console, results: list[Result], reasons: dict[str, str]) -> bool:
    """Print what survives, and which explanations are wrong. Returns whether none is."""
    for each in report.surviving(results, reasons):
        console.print(f"survives ({each.outcome}), line {each.mutant.lines[0]}: {each.mutant.name}", markup=False)
    wrong = [each for each in results if report.is_killed(each) and each.mutant.name in reasons]
    for each in wrong:
        console.print(f"explained, but killed by {each.killer}: {each.mutant.name}", markup=False)
    return not wrong


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--module", "modules", multiple=True, metavar="NAME", help="Only this module of the core (repeatable).")
@click.option("--sample", type=click.IntRange(1), help="Only so many mutants, drawn with --seed.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Children at a time.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write all results as JSON.")
@click.option("--again", type=click.Path(path_type=Path, exists=True), help="Only what survived in this JSON.")
@click.option("--known", is_flag=True, help="Only what earlier runs came to; what survived is judged again.")
@click.option(
    "--budget", type=click.FloatRange(0.1), metavar="S", help="Seconds of tests for each mutant; all if unset."
)
@click.option(
    "--share",
    type=click.FloatRange(0, 100),
    default=95.0,
    show_default=True,
    help="Percent to be killed, of what is not explained.",
)
@click.option("--record", is_flag=True, help="Write the table into CONTRIBUTING.md, and choose the hundred anew.")
@click.option("--hundred", "fixed", is_flag=True, help="The fixed hundred of make test; all must be killed.")
def main(
    *,
    modules: tuple[str, ...],
    sample: int | None,
    seed: int,
    jobs: int,
    output: Path | None,
    again: Path | None,
    known: bool,
    budget: float | None,
    share: float,
    record: bool,
    fixed: bool,
) -> None:
    """Put small faults into impl/callboard/core, one at a time; the fast tests have to notice each.

    Exit code 0: the share was reached, each explanation holds and, without --sample and --known, each mutant was killed
    or is explained; 1: not so; 2: the run is not possible.
    """
    if os.environ.get("PYTHONHASHSEED") != "0" or os.environ.get("HYPOTHESIS_PROFILE") != HYPOTHESIS_PROFILE:
        raise SystemExit(in_fresh_process(tuple(sys.argv[1:])))
    if record and (modules or again or fixed):
        raise click.UsageError("--record is for runs over all modules, without --module, --again and --hundred")
    refuse_imported()
    console = Console(width=160 if not sys.stdout.isatty() else None, soft_wrap=True)
    try:
        reasons = explained.read()
        sources = read_core(modules)
        began = time.monotonic()
        if fixed:
            raise SystemExit(_hundred(console, sources, reasons, jobs))
        tasks = _choose(sources, sample, seed, again)
        names = [mutant.name for source in sources.values() for mutant in source.mutants]
        stale = explained.missing(reasons, sources, names)
        baseline = measure()
    except KeyError as error:
        raise click.BadParameter(f"the core has no module {error}", param_hint="--module") from None
    except (BaselineError, explained.ExplanationError) as error:
        raise click.UsageError(str(error)) from None
    for name in stale:
        console.print(f"explained, but does not exist: {name}", markup=False)
    memory = Memory(baseline, budget or math.inf)
    if known:
        tasks = [each for each in tasks if memory.knows(sources[each.module].mutants[each.index].name)]
    results = _judge_new(sources, memory=memory, baseline=baseline, tasks=tasks, jobs=jobs, budget_s=budget or math.inf)
    rows = report.rows(results, reasons)
    holds = _verdict(console, results, reasons)
    console.print(report.table(rows))
    console.print(
        f"{len(results)} mutants in {time.monotonic() - began:.0f} s, judged by {len(baseline.costs_s)} tests"
    )
    if output is not None:
        report.write(output, report.document(results, reasons, _commit()))
    if record:
        options = f" --sample {sample} --seed {seed}" if sample else " --known" if known else ""
        options += f" --budget {budget:g}" if budget else ""
        what = f"{len(tasks):,} of {len(names):,} mutants" if sample or known else "all mutants"
        command = f"python -m harness.conformance mutants{options} --record"
        report.record(rows, f"{what} (`{command}`), judged by {len(baseline.costs_s)} tests:")
        hundred.write(hundred.choose(results, baseline.costs_s))
    passed = report.passes(results, reasons, share=share, drawn=sample is not None or known)
    raise SystemExit(0 if passed and holds and not stale else 1)


def _hundred(console: Console, sources: dict[str, Source], reasons: dict[str, str], jobs: int) -> int:
    """The recorded mutants, each judged by the test that killed it; first these tests without a mutant."""
    recorded = {each["killer"] for each in json.loads(hundred.HUNDRED.read_text())}
    costs_s = measure_costs(recorded)
    tasks, changed = hundred.tasks(sources, list(costs_s), hundred.HUNDRED)
    for name in changed:
        console.print(f"left out, for its code or its test has changed: {name}")
    if len(tasks) < hundred.LEFT_MIN:
        anew = "python -m harness.conformance mutants --budget 5 --record"
        console.print(f"only {len(tasks)} of the hundred are left: choose them anew with {anew}")
        return 1
    results = _judge(sources, Baseline(costs_s, {}, frozenset(), {}), tasks, jobs=jobs)
    succeeded = _verdict(console, results, reasons)
    console.print(f"{sum(map(report.is_killed, results))} of {len(results)} mutants killed")
    return 0 if succeeded and all(map(report.is_killed, results)) else 1


if __name__ == "__main__":
    main(prog_name="python -m harness.conformance mutants")
