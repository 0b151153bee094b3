"""A bound on the bytes of orders that are being written to all streams together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteWindow:
    """At most `limit_bytes` are in flight; further writers wait their turn, first come first served.

    A single message larger than the window is let through alone, so that a small window slows and never blocks.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.in_flight_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def contended(self) -> bool:
        """Whether writers wait for their turn."""
        return any(not turn.cancelled() for _, turn in self._waiting)

    @asynccontextmanager
    async def reserve(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold `size_bytes` of the window for the time of the block. Safe to cancel."""
        await self._acquire(size_bytes)
        try:
            yield
        finally:
            self.in_flight_bytes -= size_bytes
            self._wake()

    async def _acquire(self, size_bytes: int) -> None:
        if not self._waiting and self._fits(size_bytes):
            self.in_flight_bytes += size_bytes
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.in_flight_bytes -= size_bytes  # the turn came before the cancellation
            self._wake()
            raise

    def _fits(self, size_bytes: int) -> bool:
        return self.in_flight_bytes == 0 or self.in_flight_bytes + size_bytes <= self.limit_bytes

    def _wake(self) -> None:
        while self._waiting:
            size_bytes, turn = self._waiting[0]
            if not turn.cancelled():  # its writer was cancelled, but has not run since
                if not self._fits(size_bytes):
                    return
                self.in_flight_bytes += size_bytes
                turn.set_result(None)
            self._waiting.popleft()
