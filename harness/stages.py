"""Run the stages of `make test` one after the other, and print what each took beside its budget.

    python -m harness.stages [--only style,types,...] [--keep-going]

Exits with 1 if a stage fails. A stage over its budget is reported, not failed: speed is no test.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from attrs import frozen
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SUMMARY = re.compile(r"(\d+) (passed|failed|error|errors)\b")


@frozen
class Stage:
    """One stage: commands that must all exit with 0, and the seconds it should stay below on two cores."""

    name: str
    what: str
    budget_s: int
    commands: tuple[tuple[str, ...], ...]


def hypothesis_seed() -> int:
    """A seed that changes with each commit, so that CI explores new examples and can replay them."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return int(commit.stdout.strip()[:8] or "0", 16)


def stages() -> list[Stage]:
    """All stages in their order."""
    python = sys.executable
    pytest = (python, "-m", "pytest", "-q", "-n", "2", "--dist=worksteal", f"--hypothesis-seed={hypothesis_seed()}")
    return [
        Stage("style", "ruff", 10, ((str(BIN / "ruff"), "check", "."), (str(BIN / "ruff"), "format", "--check", "."))),
        Stage("types", "mypy --strict", 90, ((str(BIN / "mypy"),),)),
        Stage("layers", "import-linter", 15, ((str(BIN / "lint-imports"), "--no-cache"),)),
        Stage("protos", "generated code matches spec/protos", 10, ((python, "-m", "harness.protos", "--check"),)),
        Stage("tests", "pytest, two workers", 900, (pytest,)),
        Stage("model", "TLC, quick tier", 240, ((python, "-m", "harness.modelcheck", "--tier", "quick"),)),
    ]


def run(stage: Stage, counts: dict[str, int]) -> bool:
    """Run one stage with its output passed through; counts of a test runner's summary line go into `counts`."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    for command in stage.commands:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line if SUMMARY.search(line) else last
        for number, word in SUMMARY.findall(last):
            key = "passed" if word == "passed" else "failed"
            counts[key] += int(number)
        if process.wait() != 0:
            print(f"stage {stage.name}: exit code {process.returncode}: {' '.join(command)}", flush=True)
            return False
    return True


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated names of stages")
    parser.add_argument("--keep-going", action="store_true", help="run later stages after a failure too")
    options = parser.parse_args(arguments)
    chosen = stages()
    if options.only:
        wanted = options.only.split(",")
        unknown = set(wanted) - {stage.name for stage in chosen}
        if unknown:
            parser.error(f"--only: no stage {', '.join(sorted(unknown))}; there are {[s.name for s in chosen]}")
        chosen = [stage for stage in chosen if stage.name in wanted]
    table = Table("stage", "what", "result", "used s", "budget s", title="make test")
    counts = {"passed": 0, "failed": 0}
    succeeded = True
    for stage in chosen:
        if not succeeded and not options.keep_going:
            table.add_row(stage.name, stage.what, "not run", "", str(stage.budget_s))
            continue
        print(f"\n=== {stage.name}: {stage.what} (budget {stage.budget_s} s)", flush=True)
        started = time.monotonic()
        passed = run(stage, counts)
        used = time.monotonic() - started
        late = " (over budget)" if used > stage.budget_s else ""
        table.add_row(stage.name, stage.what, ("ok" if passed else "FAILED") + late, f"{used:.0f}", str(stage.budget_s))
        succeeded = succeeded and passed
    Console(width=110).print(table)
    print(f"{counts['passed']} passed, {counts['failed']} failed", flush=True)
    return 0 if succeeded else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
