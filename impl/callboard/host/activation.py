"""One live actor instance: whose turn it is, who waits for a turn, and what the actor knows of itself."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from attrs import define, field

from callboard.core.native_host_records import Right
from callboard.host.actors import Actor, ActorType, Chain, DeactivationReason
from callboard.host.clock import Timer
from callboard.host.errors import BusyError, ReentrancyError
from callboard.host.stores import ActorKey, StaleFenceError, StateStore

Result = TypeVar("Result")

RESERVED = Chain("(reserved)")
"""The turn was given to a call that has not woken up yet."""
DEACTIVATION = Chain("(deactivation)")
"""The last turn."""


@define(eq=False)
class Activation:
    """`TurnBased`: `running` is the chain of calls whose turn it is; others wait in `waiting`, first come first."""

    key: ActorKey
    slot: int
    right: Right
    kind: ActorType
    actor: Actor
    last_used_ms: int
    running: Chain | None = None
    activated: bool = False
    closing: DeactivationReason | None = None
    last_turn_ends_ms: int | None = None
    """Its gate shuts soon: the last turn must be over by then."""
    waiting: deque[asyncio.Future[None]] = field(factory=deque)
    tasks: set[asyncio.Task[Any]] = field(factory=set)
    timers: dict[str, Timer] = field(factory=dict)
    closed: asyncio.Event = field(factory=asyncio.Event)

    @property
    def name(self) -> str:
        """As in the paths of chains: "type/id"."""
        return f"{self.key.actor_type}/{self.key.actor_id}"

    def reenters(self, chain: Chain) -> bool:
        """Whether a call of this chain may run within the turn that runs.

        Raises:
            ReentrancyError: the chain waits for itself here, and the actor is not reentrant, or it is too deep.
        """
        running = self.running
        if running is None or not chain.chain_id or running.chain_id != chain.chain_id or self.name not in chain.path:
            return False
        actor = self.kind.actor_class
        if not actor.reentrant:
            raise ReentrancyError(f"{self.name} is called by a chain of calls that it waits for, and is not reentrant")
        if chain.depth > actor.reentrancy_depth_max:
            raise ReentrancyError(
                f"{self.name} is called at depth {chain.depth}; the limit is {actor.reentrancy_depth_max}"
            )
        return True

    def queue(self) -> asyncio.Future[None]:
        """A place in the mailbox: done when the turn is given to it. Raises BusyError if the mailbox is full."""
        if len(self.waiting) >= self.kind.actor_class.mailbox_max:
            raise BusyError(f"{len(self.waiting)} calls wait for {self.name}")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(place)
        return place

    def pass_on(self) -> bool:
        """The turn is over: give it to the next who waits. Whether there was one."""
        self.running = None
        while self.waiting:
            place = self.waiting.popleft()
            if not place.done():
                self.running = RESERVED
                place.set_result(None)
                return True
        return False

    def refuse_waiting(self, error: Exception) -> None:
        """Nobody who waits gets a turn any more."""
        for place in self.waiting:
            if not place.done():
                place.set_exception(error)
        self.waiting.clear()

    def cancel_timers(self) -> None:
        """None of them fires any more."""
        for timer in self.timers.values():
            timer.cancel()
        self.timers.clear()


class Services(Protocol):
    """What an actor may use of its host: the runtime."""

    def store_at_gate(self, activation: Activation) -> StateStore:
        """The store, for one access now. Raises OutcomeUnknownError if the gate is shut."""

    def note_stale(self) -> None:
        """The store refused a fence."""

    def lease_remaining_ms(self) -> int | None:
        """How long the gate stays open without another renewal; None for ever."""

    def start_timer(
        self, activation: Activation, name: str, callback: Callable[[], Any], due_ms: int, period_ms: int | None
    ) -> None:
        """See `ActorContext.start_timer`."""


async def fenced(services: Services, access: Awaitable[Result]) -> Result:
    """An access to the store; counts those that were refused for their fence."""
    try:
        return await access
    except StaleFenceError:
        services.note_stale()
        raise


class Keeper(Protocol):
    """Who keeps reminders."""

    async def save(self, activation: Activation, name: str, due_ms: int, period_ms: int | None, payload: bytes) -> None:
        """See `ActorContext.remind`."""

    async def cancel(self, activation: Activation, name: str) -> bool:
        """See `ActorContext.cancel_reminder`."""


class Context:
    """The `ActorContext` of one activation."""

    def __init__(self, services: Services, reminders: Keeper, activation: Activation) -> None:
        self._services = services
        self._reminders = reminders
        self._activation = activation
        self._version = 0

    @property
    def actor_type(self) -> str:
        """See `ActorContext`."""
        return self._activation.key.actor_type

    @property
    def actor_id(self) -> str:
        """See `ActorContext`."""
        return self._activation.key.actor_id

    @property
    def fence(self) -> int:
        """See `ActorContext`."""
        return self._activation.right.fence

    def lease_remaining_ms(self) -> int | None:
        """See `ActorContext`."""
        return self._services.lease_remaining_ms()

    async def load(self) -> bytes | None:
        """See `ActorContext`."""
        store = self._services.store_at_gate(self._activation)
        stored = await fenced(self._services, store.load(self._activation.key, self.fence))
        self._version = stored.version
        return stored.value

    async def save(self, value: bytes) -> None:
        """See `ActorContext`."""
        store = self._services.store_at_gate(self._activation)
        key, version = self._activation.key, self._version
        access = store.save(key, value, expected_version=version, fence=self.fence)
        self._version = await fenced(self._services, access)

    def start_timer(self, name: str, callback: Callable[[], Any], *, due_ms: int, period_ms: int | None = None) -> None:
        """See `ActorContext`."""
        self._services.start_timer(self._activation, name, callback, due_ms, period_ms)

    def cancel_timer(self, name: str) -> None:
        """See `ActorContext`."""
        timer = self._activation.timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    async def remind(self, name: str, *, due_ms: int, period_ms: int | None = None, payload: bytes = b"") -> None:
        """See `ActorContext`."""
        await self._reminders.save(self._activation, name, due_ms, period_ms, payload)

    async def cancel_reminder(self, name: str) -> bool:
        """See `ActorContext`."""
        return await self._reminders.cancel(self._activation, name)
