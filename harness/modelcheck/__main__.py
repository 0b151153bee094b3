"""Start of the command line."""

from __future__ import annotations

from harness.modelcheck.cli import main

if __name__ == "__main__":
    main()
