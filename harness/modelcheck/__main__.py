"""Start of the command line."""

from __future__ import annotations

import signal

from harness.modelcheck.cli import main

if __name__ == "__main__":
    # TLC runs in process groups of its own: a runner that is told to end must end them, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
