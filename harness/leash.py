"""Run a command that dies with its parent: python -I -S harness/leash.py PARENT_PID PROGRAM ARGUMENTS...

A test run that is killed would otherwise leave its servers behind. The kernel is asked to send SIGKILL when the
parent's starting thread ends, and then this process becomes the program. Nothing is imported that costs time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Entry point; does not return."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(f"leash: the parent {parent} died before {program} was started")
    os.execv(program, sys.argv[2:])  # noqa: S606


if __name__ == "__main__":
    main()
