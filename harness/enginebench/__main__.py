"""`python -m harness.enginebench`: crash trials and a benchmark on real processes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from harness.enginebench.group import ENGINES
from harness.enginebench.measure import measure
from harness.enginebench.trials import Trial, report, run_trials

_output = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
_report = click.option("--report", "report_file", type=click.Path(path_type=Path), help="Also write the JSON here.")


@click.group(help=__doc__)
def main() -> None:
    """Entry point."""


@main.command(name="kill-trials")
@click.option("--engine", type=click.Choice(["pysyncobj", "unguarded"]), default="pysyncobj", show_default=True)
@click.option("--trials", default=40, show_default=True)
@click.option("--seed", default=1, show_default=True)
@_output
@_report
def kill_trials(engine: str, trials: int, seed: int, output: str, report_file: Path | None) -> None:
    """Kill -9 all replicas at the moment of compaction, under load. Exit status 1 if anything acknowledged is lost."""
    console = Console(stderr=True, highlight=False, markup=False)

    def tell(trial: Trial) -> None:
        result = trial.error or (f"LOST {trial.lost}" if trial.lost else "nothing lost")
        console.print(f"trial {trial.number + 1}: {trial.acknowledged} acknowledged, {result}", soft_wrap=True)

    done = asyncio.run(run_trials(engine, trials, seed=seed, tell=tell))
    summary = report(engine, seed, done)
    _write(summary, report_file)
    if output == "json":
        click.echo(json.dumps(summary, indent=2))
    else:
        table = Table("what", "value", title=f"kill -9 of all replicas during compaction: {engine}")
        for name, value in summary.items():
            if name not in ("each", "command"):
                table.add_row(name.replace("_", " "), str(value))
        Console().print(table)
    sys.exit(1 if summary["lost"] or summary["not_recovered"] else 0)


@main.command()
@click.option("--engines", default=",".join(ENGINES), show_default=True, help="Comma-separated.")
@click.option("--failovers", default=20, show_default=True)
@click.option("--seconds", default=6.0, show_default=True, help="Longest time of each load.")
@_output
@_report
def bench(engines: str, failovers: int, seconds: float, output: str, report_file: Path | None) -> None:
    """Commits per second, latency and failover of the engines, one after another."""
    chosen = engines.split(",")
    for engine in chosen:
        if engine not in ENGINES:
            raise click.BadParameter(f"{engine!r} is none of {', '.join(ENGINES)}", param_hint="--engines")
    console = Console(stderr=True, highlight=False, markup=False)
    results: list[dict[str, Any]] = []
    summary = {"command": f"python -m harness.enginebench bench --engines {engines}", "engines": results}
    for engine in chosen:
        console.print(f"{engine} ...")
        results.append(asyncio.run(measure(engine, failovers=failovers, seconds=seconds)))
        _write(summary, report_file)
    if output == "json":
        click.echo(json.dumps(summary, indent=2))
    else:
        _print_table(results)


def _print_table(results: list[dict[str, Any]]) -> None:
    table = Table(title="engines, three replicas on one machine (memory: one)")
    for title in ("engine", "fsync", "one in flight: /s", "p50 ms", "p99 ms", "pipelined: /s", "p50 ms", "p99 ms",
                  "failover median s", "max s", "of"):  # fmt: skip
        table.add_column(title, justify="right")
    for result in results:
        single, pipelined, failover = result["single"], result["pipelined"], result["failover"]
        table.add_row(
            result["engine"],
            "yes" if result["durable"] else "no",
            f"{single['per_second']:.0f}",
            f"{single['p50_ms']:.2f}",
            f"{single['p99_ms']:.2f}",
            f"{pipelined['per_second']:.0f}",
            f"{pipelined['p50_ms']:.1f}",
            f"{pipelined['p99_ms']:.1f}",
            f"{failover['median_s']:.2f}" if failover else "-",
            f"{failover['max_s']:.2f}" if failover else "-",
            str(failover["count"]) if failover else "-",
        )
    Console(width=130).print(table)


def _write(summary: dict[str, Any], report_file: Path | None) -> None:
    if report_file is not None:
        report_file.write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
