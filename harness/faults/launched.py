"""Runs a replica or a host of a fault run with a seeded bug, or with a witness of its syncs:

python -m harness.faults.launched [--bug NAME] [--witness FILE] PROGRAM ARGUMENTS...

PROGRAM is `replica` (whose arguments are those of `callboard`) or `host` (those of harness.faults.workload_host).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from callboard.cli.main import main as callboard
from harness.faults import bugs, witness, workload_host


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bug", choices=sorted(bugs.BUGS))
    parser.add_argument("--witness", type=Path)
    parser.add_argument("program", choices=[bugs.Where.REPLICA.value, bugs.Where.HOST.value])
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.witness is not None:
        witness.install(options.witness)
    if options.bug is not None:
        bugs.break_process(options.bug)
    sys.argv = [options.program, *options.arguments]
    if options.program == bugs.Where.HOST:
        return workload_host.main()
    callboard()
    return 0


if __name__ == "__main__":
    sys.exit(main())
