"""The command `mutants` of `python -m harness.conformance`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from harness.mutation.judge import HYPOTHESIS_PROFILE, REPOSITORY


def in_fresh_process(arguments: tuple[str, ...]) -> int:
    """Run `harness.mutation` in a process that has imported nothing of callboard, with fixed hashes of strings."""
    environment = {**os.environ, "PYTHONHASHSEED": "0", "HYPOTHESIS_PROFILE": HYPOTHESIS_PROFILE}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "impl")])
    environment.pop("CI", None)
    command = [sys.executable, "-m", "harness.mutation", *arguments]
    return subprocess.run(command, env=environment, cwd=Path.cwd(), check=False).returncode


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    short_help="Put small faults into the core, one at a time; the tests have to notice each.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def mutants(arguments: tuple[str, ...]) -> None:
    """Options: see `python -m harness.conformance mutants --help`."""
    raise SystemExit(in_fresh_process(arguments))
