"""The clock by which leases are counted."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ms() -> int:
    """Milliseconds that never go back. Where the system has such a clock it goes on while the machine is suspended."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000
