"""The clocks of a host: the one by which leases and deadlines are counted, and the wall clock of reminders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ms() -> int:
    """Milliseconds that never go back. Where the system has such a clock it goes on while the machine is suspended."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


class Timer(Protocol):
    """Something that will be called."""

    def cancel(self) -> None:
        """Idempotent."""


class Clock(Protocol):
    """Time as the runtime sees it: the system's, or one that a test moves (`callboard.testing.ManualClock`)."""

    def now_ms(self) -> int:
        """Milliseconds that never go back."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970: comparable between hosts as far as their clocks agree."""

    def call_later(self, delay_ms: int, callback: Callable[[], object]) -> Timer:
        """Call once after so long."""

    def timeout(self, delay_ms: int) -> AbstractAsyncContextManager[object]:
        """As `asyncio.timeout`: cancels what is inside after so long, and raises TimeoutError."""


class SystemClock:
    """The system's clocks and the event loop's timers."""

    def now_ms(self) -> int:
        """See `Clock`."""
        return now_ms()

    def wall_ms(self) -> int:
        """See `Clock`."""
        return time.time_ns() // 1_000_000

    def call_later(self, delay_ms: int, callback: Callable[[], object]) -> Timer:
        """See `Clock`."""
        return asyncio.get_running_loop().call_later(max(0, delay_ms) / 1000, callback)

    def timeout(self, delay_ms: int) -> AbstractAsyncContextManager[object]:
        """See `Clock`."""
        return asyncio.timeout(max(0, delay_ms) / 1000)
