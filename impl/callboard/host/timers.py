"""Timers of actors: kept in memory, fired as turns of their own, gone with the activation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define, field

from callboard.host.activation import Activation
from callboard.host.actors import Actor
from callboard.host.clock import Clock
from callboard.host.errors import CallError
from callboard.host.logs import library_logger

log = library_logger(__name__)


@define(eq=False)
class Timers:
    """Starts timers. `own_turn` runs something as a turn that nobody called for; `per_actor_max` bounds one actor's.

    A periodic timer is started anew when its turn is over: its turns never pile up. A firing at which no turn may begin
    (the lease is nearly over) is left out.
    """

    clock: Clock
    own_turn: Callable[[Activation, Callable[[Actor], Awaitable[None]]], Awaitable[None]]
    per_actor_max: int
    _firing: set[asyncio.Task[None]] = field(init=False, factory=set)

    def start(
        self, activation: Activation, name: str, callback: Callable[[], Any], due_ms: int, period_ms: int | None
    ) -> None:
        """See `ActorContext.start_timer`."""
        if due_ms < 0 or (period_ms is not None and period_ms < 1):
            raise ValueError(f"timer {name!r} of {activation.key}: due_ms {due_ms}, period_ms {period_ms} is too small")
        present = activation.timers.pop(name, None)
        if present is not None:
            present.cancel()
        if activation.closing is not None:
            return
        if len(activation.timers) >= self.per_actor_max:
            raise ValueError(f"{activation.key} has {len(activation.timers)} timers, the most allowed")

        async def fire() -> None:
            await self._fire(activation, name, callback)
            if activation.timers.get(name) is timer:  # neither cancelled nor started anew meanwhile
                del activation.timers[name]
                if period_ms is not None:
                    self.start(activation, name, callback, period_ms, period_ms)

        def due() -> None:
            task = asyncio.ensure_future(fire())
            self._firing.add(task)
            task.add_done_callback(self._firing.discard)

        timer = activation.timers[name] = self.clock.call_later(due_ms, due)

    async def _fire(self, activation: Activation, name: str, callback: Callable[[], Any]) -> None:
        timer, last_used_ms = activation.timers.get(name), activation.last_used_ms

        async def body(_actor: Actor) -> None:
            activation.last_used_ms = last_used_ms  # timers do not keep an activation alive
            if timer is None or activation.timers.get(name) is not timer:
                return
            result = callback()
            if asyncio.iscoroutine(result):
                await result

        try:
            await self.own_turn(activation, body)
        except CallError as error:
            log.warning("a timer failed", actor=str(activation.key), timer=name, error=str(error))

    async def close(self) -> None:
        """Cancel what fires at the moment."""
        for task in self._firing:
            task.cancel()
        await asyncio.gather(*self._firing, return_exceptions=True)
