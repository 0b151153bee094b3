"""Work that goes on while a fault lasts: restarts one after the other, crashes, resets."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Background:
    """A task whose failure is told: a fault that stopped half-way is not what the schedule says."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.ensure_future(work)

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        return self._task.done()

    def check(self) -> None:
        """Raises what it failed of."""
        if self._task.done() and not self._task.cancelled():
            self._task.result()

    async def stop(self) -> None:
        """End it where it is. Raises what it had failed of, or fails of now."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.check()


async def stopped(work: Background | None) -> None:
    """`Background.stop`, if it was begun."""
    if work is not None:
        await work.stop()
