"""The command line: ``python -m harness.modelcheck``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from harness.modelcheck.counts import update_counts
from harness.modelcheck.diagram import draw
from harness.modelcheck.errors import ModelCheckError
from harness.modelcheck.execute import Listener, Outcome, available_cores, execute
from harness.modelcheck.explain import print_steps, steps_of
from harness.modelcheck.lint import lint_suite
from harness.modelcheck.manifest import TIERS, Diagram, Suite, load_suite
from harness.modelcheck.plan import canary_task, plan
from harness.modelcheck.progress import ProgressView
from harness.modelcheck.record import write_results
from harness.modelcheck.report import as_json, as_markdown, print_table
from harness.modelcheck.tools import Tools, find_tools

_FILE_WIDTH = 180
REPOSITORY = Path(__file__).resolve().parents[2]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--tier", type=click.Choice([*TIERS, "all"]), default="quick", show_default=True)
@click.option("--only", metavar="GLOB", help="Only configs or mutants whose name, module or Module/name matches.")
@click.option("--module", "modules", multiple=True, help="Read only this protocol module's manifest; repeatable.")
@click.option("--jobs", type=click.IntRange(min=1), help="Cores to use.  [default: all that this process may use]")
@click.option("-o", "--output", type=click.Choice(["table", "json", "markdown"]), default="table", show_default=True)
@click.option("--update-counts", "update", is_flag=True, help="Write the found state counts into the manifest.")
@click.option("--record", "recording", is_flag=True, help="Write the table into README.md of the specification.")
@click.option("--timeout-factor", type=float, default=1.0, show_default=True, help="For slow machines.")
@click.option("--spec", type=click.Path(path_type=Path, file_okay=False), default=REPOSITORY / "tla", help="Folder.")
@click.option("--explain", metavar="NAME", help="Run one config or mutant and print its counterexample.")
@click.option("--svg", type=click.Path(path_type=Path), help="With --explain: draw it as a sequence diagram, too.")
@click.option("--build", type=click.Path(path_type=Path), help="Folder for TLC's outputs.  [.build/modelcheck]")
def main(
    *,
    tier: str,
    only: str | None,
    modules: tuple[str, ...],
    jobs: int | None,
    output: str,
    update: bool,
    recording: bool,
    timeout_factor: float,
    spec: Path,
    explain: str | None,
    svg: Path | None,
    build: Path | None,
) -> None:
    """Run TLC over tla/ and compare each result with the manifest. Exit code 1 means a surprise, 2 a bad setup."""
    console = make_console(stderr=output != "table")
    try:
        suite = load_suite(spec.resolve(), modules)
        tools = find_tools()
        for note in tools.notes:
            console.print(f"note: {note}", markup=False)
        lint(suite, console)
        folder = build or REPOSITORY / ".build" / "modelcheck"
        if explain is not None:
            explain_one(suite, tools, folder, name=explain, svg=svg, console=console)
            sys.exit(0)
        tiers = frozenset(TIERS) if tier == "all" else frozenset([tier])
        tasks = plan(suite, tiers=tiers, only=only, timeout_factor=timeout_factor)
        outcomes = [run_canary(suite, tools, folder)]
        with ProgressView(console, len(tasks)) as listener:
            outcomes += execute(tasks, tools, folder, jobs or available_cores(), listener)
    except ModelCheckError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    show(outcomes, output, tools, console)
    if recording:
        write_results(spec / "README.md", tier, as_markdown(outcomes))
    if update:
        for line in update_counts(suite, outcomes):
            console.print(f"updated {line}", markup=False)
    sys.exit(0 if all(o.verdict.ok for o in outcomes) else 1)


def make_console(*, stderr: bool) -> Console:
    """A console that does not squeeze the table when the output is a file."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_FILE_WIDTH)


def lint(suite: Suite, console: Console) -> None:
    """Check that knowledge travels by messages only, before anything runs.

    Raises:
        ModelCheckError: with all faults.
    """
    report = lint_suite(suite)
    for line in report.allowed:
        console.print(f"lint exception: {line}", markup=False)
    if report.faults:
        raise ModelCheckError("lint: " + "\n       ".join(report.faults))


def run_canary(suite: Suite, tools: Tools, build: Path) -> Outcome:
    """Run the canary alone and first.

    Raises:
        ModelCheckError: when its known violation is not found as it must be.
    """
    task = canary_task(suite)
    (outcome,) = execute([task], tools, build, 1, Listener())
    if not outcome.verdict.ok:
        raise ModelCheckError(
            f"the canary did not fail as it must, nothing else was run: {'; '.join(outcome.verdict.surprises)} "
            f"(see {outcome.run.output_file})"
        )
    return outcome


def explain_one(suite: Suite, tools: Tools, build: Path, *, name: str, svg: Path | None, console: Console) -> None:
    """Run what is named and print its counterexample, and draw it if `svg` is given.

    Raises:
        ModelCheckError: when the name fits nothing or several, or when there is no counterexample.
    """
    tasks = plan(suite, tiers=frozenset(TIERS), only=name)
    if len(tasks) > 1:
        raise ModelCheckError(f"--explain {name} fits several: {', '.join(f'{t.module}/{t.name}' for t in tasks)}")
    (outcome,) = execute(tasks, tools, build, available_cores(), Listener())
    if not outcome.run.output.trace:
        reason = "; ".join(outcome.verdict.surprises) or "no property is violated"
        raise ModelCheckError(f"{name} has no counterexample: {reason} (see {outcome.run.output_file})")
    title = f"{outcome.task.module}: {outcome.task.name} violates {outcome.verdict.violated}"
    print_steps(title, outcome.run.output, console)
    if svg is not None:
        settings = suite.diagrams.get(outcome.task.module, Diagram())
        svg.write_text(draw(title, steps_of(outcome.run.output.trace), settings), encoding="utf-8")
        console.print(f"drawn to {svg}", markup=False)


def show(outcomes: Sequence[Outcome], output: str, tools: Tools, console: Console) -> None:
    """Print the results in the wanted form; forms for machines go to standard output alone."""
    if output == "json":
        click.echo(as_json(outcomes, tools.notes))
    elif output == "markdown":
        click.echo(as_markdown(outcomes))
    else:
        print_table(outcomes, console)
