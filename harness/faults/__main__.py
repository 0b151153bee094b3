"""`python -m harness.faults run`: fault injection against real processes."""

from __future__ import annotations

import sys

from harness.faults.commands import main

if __name__ == "__main__":
    sys.exit(main())
