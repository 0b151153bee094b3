"""Reminders: at least once, under the owner's fence, never early, wherever the actor is; each with a seeded bug."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import evolve

from callboard.core.slot_records import slot_of
from callboard.host import Actor, ActorFailedError, ActorKey, MemoryStore, Reminder, SqliteStore, method
from callboard.host.activation import Activation
from callboard.host.limits import RuntimeLimits
from callboard.host.reminders import Reminders, ReminderSettings
from callboard.server.replica import Replica
from callboard.server.settings import NativeSettings
from callboard.testing.clock import ManualClock
from harness.processes import wait_until
from tests.host.lone_host import NAMESPACE, LoneHost
from tests.host.test_calls import QUICK, host_of
from tests.server.support import memory_settings, serving, until

MINUTE_MS = 60_000
Store = SqliteStore | MemoryStore


class Sleeper(Actor):
    """Notes when it is woken."""

    clock: ClassVar[ManualClock]
    woken: ClassVar[list[tuple[str, str, bytes]]] = []
    failures: ClassVar[int] = 0
    door: ClassVar[asyncio.Event | None] = None
    again_ms: ClassVar[int | None] = None

    @method
    async def remind(self, name: str, due_ms: int, period_ms: int | None = None, payload: bytes = b"") -> None:
        await self.context.remind(name, due_ms=due_ms, period_ms=period_ms, payload=payload)

    @method
    async def cancel(self, name: str) -> bool:
        return await self.context.cancel_reminder(name)

    @method
    async def touch(self) -> None:
        await self.context.load()

    async def on_reminder(self, name: str, payload: bytes) -> None:
        if Sleeper.door is not None:
            await Sleeper.door.wait()
        if Sleeper.failures > 0:
            Sleeper.failures -= 1
            raise RuntimeError("not now")
        Sleeper.woken.append((self.context.actor_id, name, payload))
        if Sleeper.again_ms is not None:
            again_ms, Sleeper.again_ms = Sleeper.again_ms, None
            await self.context.remind(name, due_ms=again_ms)


class Deaf(Actor):
    """Has no on_reminder."""

    @method
    async def remind(self) -> None:
        await self.context.remind("r", due_ms=1)


class Hosts:
    """Hosts on one store and one clock; `settled` waits for the store's own thread too."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = ManualClock()
        self.hosts: list[LoneHost] = []
        Sleeper.woken, Sleeper.failures, Sleeper.door, Sleeper.again_ms = [], 0, None, None

    def add(self, **reminders: int) -> LoneHost:
        """One more, with a fence above the others'. It gets its slots at once."""
        limits = RuntimeLimits(reminders=ReminderSettings(**reminders))
        fence = max((host.fence for host in self.hosts), default=0)
        host = LoneHost(Sleeper, Deaf, store=self.store, limits=limits, fence=fence, clock=self.clock)
        host.give()
        self.hosts.append(host)
        return host

    async def advance(self, duration_ms: int, step_ms: int = 1000) -> None:
        """Let time pass, and the store keep up."""
        while duration_ms > 0:
            await self.settled()
            await self.clock.advance(min(step_ms, duration_ms))
            duration_ms -= step_ms
        await self.settled()

    async def settled(self) -> None:
        """Until no host looks or delivers, but for those that tests hold."""

        async def quiet() -> bool:
            await self.clock.advance(0)
            return not any(
                each.runtime.reminders._scanning or (each.runtime.reminders._deliveries and Sleeper.door is None)
                for each in self.hosts
            )

        await wait_until(quiet, deadline_s=20, what="reminders are delivered")

    async def kept(self) -> list[str]:
        """Names of what the store holds."""
        query = (await self.store.list_reminders(_everything())) if self.hosts else ()
        return [reminder.name for reminder in query]


def _everything() -> Any:
    from callboard.host import ReminderQuery

    return ReminderQuery(NAMESPACE, "Sleeper", 0, 1 << 16, 1 << 60)


# -- scenarios -------------------------------------------------------------------------------------------

Scenario = Callable[[Hosts], Awaitable[None]]


async def one_comes_once_and_not_early(hosts: Hosts) -> None:
    host = hosts.add()
    await host.actor(Sleeper).remind("wake", 5000, payload=b"up")
    await hosts.advance(4999)
    assert Sleeper.woken == []
    await hosts.advance(1)
    assert Sleeper.woken == [("a", "wake", b"up")]
    assert await hosts.kept() == []
    await hosts.advance(3 * MINUTE_MS, step_ms=10_000)
    assert len(Sleeper.woken) == 1


async def far_ones_come_too(hosts: Hosts) -> None:
    host = hosts.add(scan_ms=10_000)
    await host.actor(Sleeper).remind("wake", 3 * MINUTE_MS)
    assert host.runtime.reminders._entries == {}, "what is not due soon needs no memory"
    await hosts.advance(3 * MINUTE_MS - 1, step_ms=5000)
    assert Sleeper.woken == []
    await hosts.advance(1)
    assert len(Sleeper.woken) == 1


async def periods_go_on_until_cancelled(hosts: Hosts) -> None:
    host = hosts.add()
    await host.actor(Sleeper).remind("tick", 1000, 2000)
    await hosts.advance(5500, step_ms=500)
    assert len(Sleeper.woken) == 3, "after 1, 3 and 5 s"
    assert await host.actor(Sleeper).cancel("tick")
    assert not await host.actor(Sleeper).cancel("tick")
    await hosts.advance(10_000)
    assert len(Sleeper.woken) == 3


async def times_that_passed_come_once(hosts: Hosts) -> None:
    first = hosts.add()
    await first.actor(Sleeper).remind("tick", 1000, 1000)
    first.take_away()
    await hosts.advance(10_500, step_ms=5000)
    assert Sleeper.woken == []
    hosts.add()
    await hosts.advance(499, step_ms=100)
    assert len(Sleeper.woken) == 1
    await hosts.advance(1)
    assert len(Sleeper.woken) == 2, "and then in its old rhythm"


async def failures_are_tried_again(hosts: Hosts) -> None:
    host = hosts.add(retry_ms=1000, retry_max_ms=4000)
    Sleeper.failures = 4
    await host.actor(Sleeper).remind("wake", 1000)
    await hosts.advance(1000 + 1000 + 2000 + 4000, step_ms=500)
    assert Sleeper.failures == 0
    assert Sleeper.woken == []
    assert await hosts.kept() == ["wake"]
    await hosts.advance(4000)
    assert len(Sleeper.woken) == 1
    assert await hosts.kept() == []


async def another_host_delivers(hosts: Hosts) -> None:
    first = hosts.add()
    await first.actor(Sleeper).remind("wake", 5000)
    await first.runtime.close()
    second = hosts.add()
    await hosts.advance(5000)
    assert len(Sleeper.woken) == 1
    assert (first.runtime.reminders.delivered, second.runtime.reminders.delivered) == (0, 1)


async def a_delivery_that_was_cut_off_is_repeated(hosts: Hosts) -> None:
    first = hosts.add()
    Sleeper.door = asyncio.Event()
    await first.actor(Sleeper).remind("wake", 1000)
    await hosts.advance(1000)
    assert first.runtime.activation_count() == 1
    await first.runtime.close()
    Sleeper.door = None
    assert Sleeper.woken == []
    hosts.add()
    await hosts.settled()
    assert len(Sleeper.woken) == 1


async def old_owners_deliver_nothing(hosts: Hosts) -> None:
    """An owner that still believes in its right is stopped by its fence before it wakes the actor."""
    old = hosts.add()
    await old.actor(Sleeper).remind("wake", 5000)
    new = hosts.add()
    await new.actor(Sleeper).touch()
    new.take_away()
    await hosts.advance(6000)
    assert Sleeper.woken == []
    assert old.runtime.figures.stale_refused > 0
    assert await hosts.kept() == ["wake"]
    await old.runtime.close()


async def what_a_delivery_writes_stays(hosts: Hosts) -> None:
    host = hosts.add()
    Sleeper.again_ms = 3000
    await host.actor(Sleeper).remind("wake", 1000)
    await hosts.advance(1000)
    assert await hosts.kept() == ["wake"], "the new one was taken for the old one"
    await hosts.advance(3000)
    assert len(Sleeper.woken) == 2
    assert await hosts.kept() == []


async def late_writes_are_found(hosts: Hosts) -> None:
    """By a predecessor, after this host looked through the slot."""
    host = hosts.add(scan_ms=10_000)
    await hosts.settled()
    reminder = Reminder(ActorKey(NAMESPACE, "Sleeper", "b"), "late", hosts.clock.wall_ms() + 100, None, b"", "t")
    await hosts.store.save_reminder(reminder, fence=0)
    await hosts.advance(10_000)
    assert [name for _, name, _ in Sleeper.woken] == ["late"]
    assert host.runtime.reminders.delivered == 1


async def many_come_in_pages(hosts: Hosts) -> None:
    for number in range(60):
        key = ActorKey(NAMESPACE, "Sleeper", f"s{number}")
        await hosts.store.save_reminder(Reminder(key, "r", hosts.clock.wall_ms(), None, b"", "t"), fence=0)
    host = hosts.add(page=7, loaded_max=25, deliveries_max=3, scan_ms=2000)
    await hosts.advance(10_000, step_ms=500)
    assert sorted(actor for actor, _, _ in Sleeper.woken) == sorted(f"s{number}" for number in range(60))
    assert host.runtime.reminders.delivered == 60
    assert host.runtime.reminders._entries == {}


async def only_held_slots_are_served(hosts: Hosts) -> None:
    host = hosts.add()
    slot = slot_of("Sleeper", "a", 4)
    await host.actor(Sleeper).remind("wake", 1000)
    host.take_away()
    await hosts.advance(5000)
    assert Sleeper.woken == []
    assert ("Sleeper", slot) not in host.runtime.reminders._held


# -- bugs ------------------------------------------------------------------------------------------------


def nothing_is_looked_for(patch: pytest.MonkeyPatch) -> None:
    def granted(reminders: Reminders, spans: Any) -> None:
        reminders._held |= {(span.actor_type, slot) for span in spans for slot in range(span.first, span.count)}

    patch.setattr(Reminders, "granted", granted)


def no_second_look(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reminders, "_scan_all", lambda _reminders: None)


def first_page_only(patch: pytest.MonkeyPatch) -> None:
    for store in (MemoryStore, SqliteStore):
        real = store.list_reminders

        async def list_reminders(store: Any, query: Any, real: Any = real) -> tuple[Reminder, ...]:
            found: tuple[Reminder, ...] = await real(store, query)
            return () if query.after is not None else found

        patch.setattr(store, "list_reminders", list_reminders)


def early(patch: pytest.MonkeyPatch) -> None:
    real = Reminders.save

    async def save(reminders: Reminders, activation: Activation, name: str, due_ms: int, *rest: Any) -> None:
        await real(reminders, activation, name, due_ms - 1, *rest)

    patch.setattr(Reminders, "save", save)


def from_memory(patch: pytest.MonkeyPatch) -> None:
    """Delivers without asking the store, and takes off what it finds afterwards."""

    async def turn(reminders: Reminders, activation: Activation, actor: Actor, name: str) -> int | None:
        await actor.on_reminder(name, b"up")
        reminders.delivered += 1
        await reminders.store.delete_reminder(activation.key, name, fence=0)
        return None

    patch.setattr(Reminders, "_turn", turn)


def taken_off_first(patch: pytest.MonkeyPatch) -> None:
    """At most once."""
    real = Reminders._turn

    async def turn(reminders: Reminders, activation: Activation, actor: Actor, name: str) -> int | None:
        reminder = await reminders.store.load_reminder(activation.key, name, fence=0)
        if reminder is not None and reminder.due_ms <= reminders.clock.wall_ms():
            await reminders.store.delete_reminder(activation.key, name, fence=0)
            await actor.on_reminder(name, reminder.payload)
            return None
        return await real(reminders, activation, actor, name)

    patch.setattr(Reminders, "_turn", turn)


def every_time_that_passed(patch: pytest.MonkeyPatch) -> None:
    real = MemoryStore.save_reminder

    async def save(store: MemoryStore, reminder: Reminder, *, fence: int, replaces: str | None = None) -> bool:
        if replaces is not None:
            present = await store.load_reminder(reminder.key, reminder.name, fence=0)
            assert present is not None
            assert present.period_ms is not None
            reminder = evolve(reminder, due_ms=present.due_ms + present.period_ms)
        return await real(store, reminder, fence=fence, replaces=replaces)

    patch.setattr(MemoryStore, "save_reminder", save)
    turn = Reminders._turn

    async def again(reminders: Reminders, activation: Activation, actor: Actor, name: str) -> int | None:
        await turn(reminders, activation, actor, name)
        kept = await reminders.store.load_reminder(activation.key, name, fence=0)
        return None if kept is None else kept.due_ms

    patch.setattr(Reminders, "_turn", again)


def lost_slots_are_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reminders, "lost", lambda _reminders, _spans: None)


SCENARIOS: list[tuple[Scenario, tuple[Callable[[pytest.MonkeyPatch], None], ...]]] = [
    (one_comes_once_and_not_early, (early,)),
    (far_ones_come_too, (no_second_look,)),
    (periods_go_on_until_cancelled, (from_memory,)),
    (times_that_passed_come_once, (every_time_that_passed,)),
    (failures_are_tried_again, (taken_off_first,)),
    (another_host_delivers, (nothing_is_looked_for,)),
    (a_delivery_that_was_cut_off_is_repeated, (taken_off_first,)),
    (old_owners_deliver_nothing, (from_memory,)),
    (what_a_delivery_writes_stays, (from_memory,)),
    (late_writes_are_found, (no_second_look,)),
    (many_come_in_pages, (first_page_only,)),
    (only_held_slots_are_served, (lost_slots_are_kept,)),
]
BUGS = [(scenario, bug) for scenario, bugs in SCENARIOS for bug in bugs]


async def play(scenario: Scenario, store: Store) -> None:
    """With a store that is opened and closed."""
    hosts = Hosts(store)
    await store.open()
    try:
        await scenario(hosts)
    finally:
        for host in hosts.hosts:
            await host.runtime.close()
        await store.close()


@pytest.mark.parametrize("scenario", [each for each, _ in SCENARIOS], ids=lambda each: each.__name__)
async def test_reminders(scenario: Scenario, tmp_path: Path) -> None:
    await play(scenario, SqliteStore(tmp_path / "state.db"))


@pytest.mark.parametrize(("scenario", "bug"), BUGS, ids=lambda each: each.__name__)
async def test_scenarios_catch_bugs(
    scenario: Scenario, bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        await play(scenario, MemoryStore())


async def test_mistakes_are_named() -> None:
    hosts = Hosts(MemoryStore())
    host = hosts.add()
    with pytest.raises(ActorFailedError, match="TypeError: actor type Deaf has no on_reminder"):
        await host.actor(Deaf).remind()
    with pytest.raises(ActorFailedError, match="ValueError: reminder 'r' of default/Sleeper/a: due_ms -1 is negative"):
        await host.actor(Sleeper).remind("r", -1)
    with pytest.raises(ActorFailedError, match=r"StoreError: .*period_ms 0 is not between 1 and"):
        await host.actor(Sleeper).remind("r", 1, 0)
    await host.runtime.close()


# -- a real cluster --------------------------------------------------------------------------------------


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    async with serving(evolve(memory_settings(), native=NativeSettings(slot_bits=5, handoff=QUICK))) as replica:
        yield replica


async def test_reminders_survive_their_host(replica: Replica, tmp_path: Path) -> None:
    """The owner is killed without a word; whoever gets its slots delivers."""
    Sleeper.woken, Sleeper.failures, Sleeper.door, Sleeper.again_ms = [], 0, None, None

    def store() -> SqliteStore:
        return SqliteStore(tmp_path / "state.db")

    actors = [f"s{number}" for number in range(20)]
    async with host_of(replica, "h1", store(), Sleeper) as stays:
        dies = host_of(replica, "h2", store(), Sleeper)
        await dies.start()
        await until(lambda: stays.view is not None and len(stays.view.hosts) == 2, "both are in the table")
        for actor in actors:
            await stays.client.actor(Sleeper, actor).remind("wake", 3000, payload=actor.encode())
        assert dies.runtime.activation_count() > 0
        await dies.kill()
        already = len(Sleeper.woken)
        await until(lambda: {actor for actor, _, _ in Sleeper.woken} == set(actors), "every reminder arrives")
        assert stays.runtime.reminders.delivered >= len(actors) - already
        assert all(payload == actor.encode() for actor, _, payload in Sleeper.woken)
