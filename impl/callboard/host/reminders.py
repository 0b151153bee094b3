"""Reminders: kept in the state store, delivered as turns by whichever host serves the actor, at least once.

A host looks through the reminders of slots when it is granted them, and through all that it holds every `scan_ms`. In
memory it keeps only what is due soon, and that only says when to look: a delivery is a turn which first reads the
reminder under its fence, then calls `on_reminder`, and then takes it off (or on to its next time) if it still is the
one that was read. A host that dies in between leaves it for the next owner.

When: never before the reminder's time, by the wall clock of the host that delivers it. After it as soon as the actor
has a turn for it; later by the handoff if its host dies; and by up to `scan_ms` if it was written by a host in the
moment in which that host lost the slot. Times that passed while nobody served the actor are delivered once, not each.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from attrs import define, evolve, field, frozen

from callboard.core.handoff_messages import Held, SlotRun
from callboard.core.slot_index import slot_runs
from callboard.core.slot_records import slot_of
from callboard.host.activation import Activation, Services, fenced
from callboard.host.actors import Actor
from callboard.host.clock import Clock, Timer
from callboard.host.errors import CallError, NotOwnerError
from callboard.host.logs import library_logger
from callboard.host.stores import ActorKey, Reminder, ReminderQuery, StateStore, positions

log = library_logger(__name__)

CLOCK_CHECK_MS = 5_000
"""The wall clock may be set: it is looked at again after so long."""


@frozen
class ReminderSettings:
    """`scan_ms`: how often all reminders of this host are looked through. `loaded_max`: of those kept in memory; what
    is beyond waits for others to be delivered. `retry_ms`: before a failed delivery is tried again, doubled up to
    `retry_max_ms`."""

    scan_ms: int = 60_000
    page: int = 500
    loaded_max: int = 100_000
    deliveries_max: int = 100
    retry_ms: int = 1_000
    retry_max_ms: int = 60_000


class Turns(Services, Protocol):
    """What reminders need of the runtime."""

    @property
    def slot_bits(self) -> int:
        """Of the installed table."""

    async def activate(self, actor_type: str, actor_id: str) -> Activation:
        """The actor's activation, if this host may serve it now. Raises CallError."""

    async def own_turn(self, activation: Activation, body: Callable[[Actor], Awaitable[int | None]]) -> int | None:
        """Run something as a turn that nobody called for. Raises CallError."""


Name = tuple[str, str, str]
"""Actor type, actor id, reminder."""


@define
class _Entry:
    """When to look at a reminder. `failures`: deliveries in a row that failed."""

    due_ms: int
    slot: int
    failures: int = 0


@define(eq=False)
class Reminders:
    """See the module's description. `types`: the actor types that have reminders at all."""

    namespace: str
    types: frozenset[str]
    clock: Clock
    store: StateStore
    turns: Turns
    settings: ReminderSettings
    delivered: int = field(init=False, default=0)
    """Since the start; a delivery that failed does not count."""
    _held: set[tuple[str, int]] = field(init=False, factory=set)
    _to_scan: set[tuple[str, int]] = field(init=False, factory=set)
    _entries: dict[Name, _Entry] = field(init=False, factory=dict)
    _queue: list[tuple[int, Name]] = field(init=False, factory=list)
    _ready: deque[Name] = field(init=False, factory=deque)
    _timer: Timer | None = field(init=False, default=None)
    _scan_timer: Timer | None = field(init=False, default=None)
    _scanning: asyncio.Task[None] | None = field(init=False, default=None)
    _deliveries: set[asyncio.Task[None]] = field(init=False, factory=set)
    _closed: bool = field(init=False, default=False)

    # -- what actors ask for

    async def save(self, activation: Activation, name: str, due_ms: int, period_ms: int | None, payload: bytes) -> None:
        """See `ActorContext.remind`."""
        key = activation.key
        if key.actor_type not in self.types:
            raise TypeError(f"actor type {key.actor_type} has no on_reminder: nobody would hear reminder {name!r}")
        if due_ms < 0:
            raise ValueError(f"reminder {name!r} of {key}: due_ms {due_ms} is negative")
        reminder = Reminder(key, name, self.clock.wall_ms() + due_ms, period_ms, payload, secrets.token_hex(8))
        store = self.turns.store_at_gate(activation)
        await fenced(self.turns, store.save_reminder(reminder, fence=activation.right.fence))
        self._keep((key.actor_type, key.actor_id, name), activation.slot, reminder.due_ms)

    async def cancel(self, activation: Activation, name: str) -> bool:
        """See `ActorContext.cancel_reminder`."""
        key = activation.key
        store = self.turns.store_at_gate(activation)
        self._entries.pop((key.actor_type, key.actor_id, name), None)
        return await fenced(self.turns, store.delete_reminder(key, name, fence=activation.right.fence))

    # -- slots

    def granted(self, spans: Iterable[Held]) -> None:
        """Look for what earlier owners left."""
        slots = {slot for slot in _slots(spans) if slot[0] in self.types}
        if slots:
            self._held |= slots
            self._to_scan |= slots
            self._scan_soon()

    def lost(self, spans: Iterable[SlotRun]) -> None:
        """Others will deliver."""
        slots = set(_slots(spans)) & self._held
        if slots:
            self._held -= slots
            self._to_scan -= slots
            self._entries = {name: entry for name, entry in self._entries.items() if (name[0], entry.slot) not in slots}

    # -- looking through the store

    def _scan_soon(self) -> None:
        if self._scanning is None and not self._closed:
            self._scanning = asyncio.ensure_future(self._scan())
            self._scanning.add_done_callback(self._scan_ended)

    async def _scan(self) -> None:
        while self._to_scan:
            taken = slot_runs(sorted(self._to_scan))
            for run in taken:
                # Before it begins: a slot that is lost and granted anew meanwhile is looked through once more.
                self._to_scan.difference_update(_slots((run,)))
                await self._scan_run(run)

    async def _scan_run(self, run: SlotRun) -> None:
        bits, settings = self.turns.slot_bits, self.settings
        first, count = positions(run.first, run.count, bits)
        query = ReminderQuery(self.namespace, run.actor_type, first, count, self._horizon_ms(), limit=settings.page)
        while len(self._entries) < settings.loaded_max:
            page = await self.store.list_reminders(query)
            for reminder in page:
                name = (run.actor_type, reminder.key.actor_id, reminder.name)
                if name not in self._entries:  # what is there is as new, or newer
                    self._keep(name, slot_of(run.actor_type, reminder.key.actor_id, bits), reminder.due_ms)
            if len(page) < query.limit:
                return
            query = evolve(query, after=page[-1].place)
        log.warning("too many reminders are due: some come late", loaded=len(self._entries))

    def _scan_ended(self, done: asyncio.Task[None]) -> None:
        self._scanning = None
        if self._closed or done.cancelled():
            return
        error = done.exception()
        if error is not None:
            log.warning("reminders could not be looked through", error=repr(error))
        elif self._to_scan:
            self._scan_soon()
            return
        delay_ms = self.settings.scan_ms if error is None else self.settings.retry_ms
        if self._scan_timer is not None:
            self._scan_timer.cancel()
        self._scan_timer = self.clock.call_later(delay_ms, self._scan_all)

    def _scan_all(self) -> None:
        self._to_scan |= self._held
        self._scan_soon()

    def _horizon_ms(self) -> int:
        return self.clock.wall_ms() + 2 * self.settings.scan_ms

    # -- when

    def _keep(self, name: Name, slot: int, due_ms: int, failures: int = 0) -> None:
        """Look at a reminder at that time, if it is this host's and not so late that a later scan will find it."""
        self._entries.pop(name, None)
        if (name[0], slot) not in self._held or due_ms >= self._horizon_ms():
            return
        self._entries[name] = _Entry(due_ms, slot, failures)
        heapq.heappush(self._queue, (due_ms, name))
        if self._queue[0] == (due_ms, name):
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and self._is_outdated(*self._queue[0]):
            heapq.heappop(self._queue)
        if self._queue and not self._closed:
            delay_ms = min(max(0, self._queue[0][0] - self.clock.wall_ms()), CLOCK_CHECK_MS)
            self._timer = self.clock.call_later(delay_ms, self._due)

    def _is_outdated(self, due_ms: int, name: Name) -> bool:
        entry = self._entries.get(name)
        return entry is None or entry.due_ms != due_ms

    def _due(self) -> None:
        self._timer = None
        now_ms = self.clock.wall_ms()
        while self._queue and self._queue[0][0] <= now_ms:
            due_ms, name = heapq.heappop(self._queue)
            if not self._is_outdated(due_ms, name):
                self._ready.append(name)
        self._arm()
        self._deliver_ready()

    # -- deliveries

    def _deliver_ready(self) -> None:
        while self._ready and len(self._deliveries) < self.settings.deliveries_max and not self._closed:
            name = self._ready.popleft()
            entry = self._entries.get(name)
            if entry is None or entry.due_ms > self.clock.wall_ms():
                continue
            del self._entries[name]
            task = asyncio.ensure_future(self._deliver(name, entry))
            self._deliveries.add(task)
            task.add_done_callback(self._delivery_ended)

    def _delivery_ended(self, done: asyncio.Task[None]) -> None:
        self._deliveries.discard(done)
        self._deliver_ready()
        if not done.cancelled() and (error := done.exception()) is not None:
            log.warning("a reminder waits for the next look through the store", error=repr(error))

    async def _deliver(self, name: Name, entry: _Entry) -> None:
        actor_type, actor_id, reminder = name
        failures = 0
        try:
            activation = await self.turns.activate(actor_type, actor_id)
            next_ms = await self.turns.own_turn(activation, lambda actor: self._turn(activation, actor, reminder))
        except CallError as error:
            failures = entry.failures + 1
            next_ms = self.clock.wall_ms() + self._pause_ms(failures)
            if not isinstance(error, NotOwnerError):
                key = ActorKey(self.namespace, actor_type, actor_id)
                log.warning("a reminder failed", actor=str(key), reminder=reminder, error=str(error))
        if next_ms is not None and name not in self._entries:
            self._keep(name, entry.slot, next_ms, failures)

    def _pause_ms(self, failures: int) -> int:
        return min(self.settings.retry_ms << min(failures - 1, 16), self.settings.retry_max_ms)

    async def _turn(self, activation: Activation, actor: Actor, name: str) -> int | None:
        """Deliver it if it is due; returns when to look again."""
        key, fence = activation.key, activation.right.fence
        store = self.turns.store_at_gate(activation)
        reminder = await fenced(self.turns, store.load_reminder(key, name, fence=fence))
        now_ms = self.clock.wall_ms()
        if reminder is None or reminder.due_ms > now_ms:
            return None if reminder is None else reminder.due_ms
        await actor.on_reminder(name, reminder.payload)
        self.delivered += 1
        store = self.turns.store_at_gate(activation)
        if reminder.period_ms is None:
            await fenced(self.turns, store.delete_reminder(key, name, fence=fence, token=reminder.token))
            return None
        passed = (self.clock.wall_ms() - reminder.due_ms) // reminder.period_ms + 1
        following = evolve(reminder, due_ms=reminder.due_ms + passed * reminder.period_ms, token=secrets.token_hex(8))
        kept = await fenced(self.turns, store.save_reminder(following, fence=fence, replaces=reminder.token))
        return following.due_ms if kept else None

    async def close(self) -> None:
        """Deliver nothing any more. Idempotent."""
        self._closed = True
        for timer in (self._timer, self._scan_timer):
            if timer is not None:
                timer.cancel()
        tasks = [*self._deliveries, *([self._scanning] if self._scanning is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _slots(spans: Iterable[Held | SlotRun]) -> Iterable[tuple[str, int]]:
    return ((span.actor_type, slot) for span in spans for slot in range(span.first, span.first + span.count))
