"""A clock that stands still until a test moves it, and waiting until an event loop has nothing more to do."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Sized
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from weakref import WeakKeyDictionary

from attrs import define, field

SETTLE_ROUNDS_MAX = 100_000
_BLIND_ROUNDS = 100
"""For event loops that do not show what is ready: enough for calls across a few actors."""


@define(order=True)
class ManualTimer:
    """Waits in a `ManualClock`."""

    due_ms: int
    number: int
    callback: Callable[[], object] = field(order=False)
    cancelled: bool = field(order=False, default=False)

    def cancel(self) -> None:
        """Idempotent."""
        self.cancelled = True


class ManualClock:
    """A `callboard.host.clock.Clock` that only `advance` moves. Timers due at the same time fire in their order."""

    def __init__(self, now_ms: int = 1_000_000, wall_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._wall_offset_ms = wall_ms - now_ms
        self._timers: list[ManualTimer] = []
        self._last_number = 0
        self._moving = asyncio.Lock()

    def now_ms(self) -> int:
        """See `Clock`."""
        return self._now_ms

    def wall_ms(self) -> int:
        """See `Clock`."""
        return self._now_ms + self._wall_offset_ms

    def call_later(self, delay_ms: int, callback: Callable[[], object]) -> ManualTimer:
        """See `Clock`."""
        self._last_number += 1
        timer = ManualTimer(self._now_ms + max(0, delay_ms), self._last_number, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def timeout(self, delay_ms: int) -> AbstractAsyncContextManager[object]:
        """See `Clock`."""
        return self._timeout(delay_ms)

    @asynccontextmanager
    async def _timeout(self, delay_ms: int) -> AsyncIterator[object]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:
            if delay_ms <= 0:
                limit.reschedule(loop.time())
            timer = self.call_later(delay_ms, lambda: limit.reschedule(loop.time()))
            try:
                yield limit
            finally:
                timer.cancel()

    def next_due_ms(self) -> int | None:
        """When the next timer is due; None if there is none."""
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0].due_ms if self._timers else None

    async def advance(self, duration_ms: int) -> None:
        """Let so much time pass: fires each timer at its time, and lets the tasks that it wakes run before the next."""
        until_ms = self._now_ms + duration_ms
        while await self._step(until_ms):
            pass
        self._now_ms = max(self._now_ms, until_ms)

    async def step(self) -> bool:
        """Go to the next timer that is due, and fire it. False if nothing waits for time."""
        return await self._step(None)

    async def _step(self, until_ms: int | None) -> bool:
        async with self._moving:  # one at a time: others wait until the tasks that were woken have run
            await settle()
            due_ms = self.next_due_ms()
            if due_ms is None or (until_ms is not None and due_ms > until_ms):
                return False
            self._now_ms = max(self._now_ms, due_ms)
            heapq.heappop(self._timers).callback()
            await settle()
            return True

    def jump(self, duration_ms: int) -> None:
        """Time passes while nothing runs, as in a process that is stopped: timers that became due fire later."""
        self._now_ms += duration_ms


async def settle() -> None:
    """Return once every other task waits for something that is not there yet (a timer, or the outside world).

    Raises:
        RuntimeError: the tasks keep each other busy.
    """
    loop = asyncio.get_running_loop()
    other = _settling.get(loop)
    if other is not None:  # two that look at each other would never see the other one wait
        await asyncio.shield(other)
        return
    done = _settling[loop] = loop.create_future()
    try:
        await _wait_until_all_wait(getattr(loop, "_ready", None))
    finally:
        del _settling[loop]
        done.set_result(None)


_settling: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Future[None]] = WeakKeyDictionary()


async def _wait_until_all_wait(ready: Sized | None) -> None:
    for number in range(SETTLE_ROUNDS_MAX):
        await asyncio.sleep(0)
        if not ready and (ready is not None or number >= _BLIND_ROUNDS):
            return
    raise RuntimeError(f"the tasks of this event loop are still busy after {SETTLE_ROUNDS_MAX} rounds")
