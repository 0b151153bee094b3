"""The command line: ``python -m harness.conformance``."""

from __future__ import annotations

import click

from harness.conformance.paths import paths
from harness.conformance.trace_mutants import trace_mutants
from harness.conformance.traces import traces
from harness.mutation.command import mutants


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Hold the code to its specification. Exit code 1 means a difference, 2 a bad setup."""


main.add_command(paths)
main.add_command(traces)
main.add_command(mutants)
main.add_command(trace_mutants)

if __name__ == "__main__":
    main(prog_name="python -m harness.conformance")
