"""Calls that came before their slot was granted: they wait here, within their deadlines and a bound."""

from __future__ import annotations

import asyncio

from callboard.host.clock import Clock
from callboard.host.errors import BusyError


class EarlyCalls:
    """Who waits for which slot to change, woken in the order in which they came. `limit`: of all together; more are
    refused."""

    def __init__(self, clock: Clock, limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._waiting: dict[tuple[str, int], dict[asyncio.Future[None], None]] = {}
        self.count = 0
        """Calls that wait now."""

    async def wait(self, actor_type: str, slot: int, timeout_ms: int) -> None:
        """Until the next `wake`, or the time is over. Raises BusyError if too many wait already."""
        if self.count >= self._limit:
            raise BusyError(f"{self.count} calls wait for slots that are not granted yet")
        changed = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault((actor_type, slot), {})
        waiting[changed] = None
        self.count += 1
        try:
            async with self._clock.timeout(timeout_ms):
                await changed
        except TimeoutError:
            pass
        finally:
            self.count -= 1
            waiting.pop(changed, None)
            if not waiting and self._waiting.get((actor_type, slot)) is waiting:
                del self._waiting[actor_type, slot]

    def wake(self) -> None:
        """Grants, tables or leases changed: let those who wait look again."""
        for waiting in self._waiting.values():
            for changed in waiting:
                if not changed.done():
                    changed.set_result(None)
