"""What every state store must do. Each scenario gets a function that opens one more handle on the same data."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from callboard.host import (
    ActorKey,
    Reminder,
    ReminderQuery,
    StaleFenceError,
    StateStore,
    Stored,
    StoreError,
    VersionConflictError,
)
from callboard.host.stores import (
    ID_BYTES_MAX,
    PAGE_MAX,
    REMINDER_PAYLOAD_BYTES_MAX,
    REMINDERS_PER_ACTOR_MAX,
    VALUE_BYTES_MAX,
    positions,
)

Connect = Callable[[], Awaitable[StateStore]]
StoreScenario = Callable[[Connect], Awaitable[None]]

KEY = ActorKey("shop", "Cart", "alice")
BOB = ActorKey("shop", "Cart", "bob")
DUE_MS = 1_700_000_000_000


async def values_have_versions(connect: Connect) -> None:
    one, two = await connect(), await connect()
    assert await one.load(KEY, 0) == Stored(None, 0)
    assert await one.save(KEY, b"first", expected_version=0, fence=0) == 1
    assert await two.load(KEY, 0) == Stored(b"first", 1)
    assert await two.save(KEY, b"", expected_version=1, fence=0) == 2
    for wrong in (0, 1, 3):
        with pytest.raises(VersionConflictError, match=f"shop/Cart/alice has version 2, not {wrong}"):
            await one.save(KEY, b"lost", expected_version=wrong, fence=0)
    with pytest.raises(VersionConflictError, match="shop/Cart/bob has version 0, not 1"):
        await one.save(BOB, b"lost", expected_version=1, fence=0)
    assert await one.load(KEY, 0) == Stored(b"", 2)
    others = [ActorKey("other", "Cart", "alice"), ActorKey("shop", "Lamp", "alice"), BOB]
    assert [await one.load(each, 0) for each in others] == [Stored(None, 0)] * 3


async def old_fences_are_refused(connect: Connect) -> None:
    old, new = await connect(), await connect()
    assert await old.save(KEY, b"old", expected_version=0, fence=5) == 1
    assert await old.load(KEY, 5) == Stored(b"old", 1)
    assert await new.load(KEY, 6) == Stored(b"old", 1), "a successor's first read"
    with pytest.raises(StaleFenceError, match="shop/Cart/alice: fence 5 is older than 6"):
        await old.save(KEY, b"late", expected_version=1, fence=5)
    with pytest.raises(StaleFenceError, match="shop/Cart/alice: fence 5 is older than 6"):
        await old.load(KEY, 5)
    assert await new.save(KEY, b"new", expected_version=1, fence=7) == 2
    with pytest.raises(StaleFenceError, match="fence 6 is older than 7"):
        await new.load(KEY, 6)
    assert await new.load(KEY, 0) == Stored(b"new", 2), "0 is not checked"
    assert await old.load(BOB, 1) == Stored(None, 0), "fences are each actor's own"


async def a_refused_write_changes_nothing(connect: Connect) -> None:
    store = await connect()
    await store.save(KEY, b"value", expected_version=0, fence=5)
    with pytest.raises(VersionConflictError):
        await store.save(KEY, b"other", expected_version=0, fence=9)
    assert await store.load(KEY, 5) == Stored(b"value", 1), "neither the value nor the fence"


async def fences_reach_reminders(connect: Connect) -> None:
    old, new = await connect(), await connect()
    assert await old.save_reminder(reminder(), fence=5)
    assert await new.load_reminder(KEY, "wake", fence=6) == reminder()
    accesses: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: old.save_reminder(reminder(token="late"), fence=5),
        lambda: old.delete_reminder(KEY, "wake", fence=5),
        lambda: old.load_reminder(KEY, "wake", fence=5),
        lambda: old.load(KEY, 5),
    )
    for access in accesses:
        with pytest.raises(StaleFenceError, match="shop/Cart/alice: fence 5 is older than 6"):
            await access()
    assert await new.load_reminder(KEY, "wake", fence=6) == reminder()
    assert await new.delete_reminder(KEY, "wake", fence=7)
    with pytest.raises(StaleFenceError):
        await new.load(KEY, 6)


async def ids_are_of_the_data(connect: Connect) -> None:
    one, two = await connect(), await connect()
    assert await one.open() == await two.open() != ""


async def sizes_are_bounded(connect: Connect) -> None:
    store = await connect()
    largest = bytes(VALUE_BYTES_MAX)
    await store.save(KEY, largest, expected_version=0, fence=0)
    assert (await store.load(KEY, 0)).value == largest
    with pytest.raises(StoreError, match=f"has {VALUE_BYTES_MAX + 1} bytes; the limit is {VALUE_BYTES_MAX}"):
        await store.save(KEY, largest + b"x", expected_version=1, fence=0)
    longest = ActorKey("n" * 255, "t" * 255, "é" * (ID_BYTES_MAX // 2))
    assert await store.save(longest, b"v", expected_version=0, fence=1) == 1
    assert await store.save_reminder(reminder(longest, name="n" * 255), fence=1)
    for wrong, text in (
        (ActorKey("shop", "Cart", "x" * (ID_BYTES_MAX + 1)), "actor id 'xxx.*has 1025 bytes; the limit is 1024"),
        (ActorKey("shop", "Cart", "a\0b"), "is empty or has a zero character"),
        (ActorKey("shop", "Cart", ""), "is empty or has a zero character"),
        (ActorKey("shop", "Cart", "\udc80"), "is no valid text"),
        (ActorKey("shop", "T" * 256, "a"), "actor type 'TTT.*has 256 bytes; the limit is 255"),
    ):
        with pytest.raises(StoreError, match=text):
            await store.save(wrong, b"", expected_version=0, fence=0)
        with pytest.raises(StoreError, match=text):
            await store.load(wrong, 0)


async def reminders_are_bounded(connect: Connect) -> None:
    store = await connect()
    largest = bytes(REMINDER_PAYLOAD_BYTES_MAX)
    assert await store.save_reminder(reminder(payload=largest), fence=0)
    loaded = await store.load_reminder(KEY, "wake", fence=0)
    assert loaded is not None
    assert loaded.payload == largest
    for wrong, text in (
        (reminder(payload=largest + b"x"), "payload has 65537 bytes; the limit is 65536"),
        (reminder(name="n" * 256), "has 256 bytes; the limit is 255"),
        (reminder(due_ms=-1), "due_ms -1 is not between"),
        (reminder(period_ms=0), "period_ms 0 is not between"),
    ):
        with pytest.raises(StoreError, match=text):
            await store.save_reminder(wrong, fence=0)
    for number in range(1, REMINDERS_PER_ACTOR_MAX):
        await store.save_reminder(reminder(name=f"r{number}"), fence=0)
    with pytest.raises(StoreError, match="shop/Cart/alice has 100 reminders, the most allowed"):
        await store.save_reminder(reminder(name="one more"), fence=0)
    assert await store.save_reminder(reminder(), fence=0), "one of a name that is there"
    with pytest.raises(StoreError, match="a page of 1001 reminders"):
        await store.list_reminders(everything(limit=PAGE_MAX + 1))


async def reminders_are_written_by_token(connect: Connect) -> None:
    store = await connect()
    assert await store.load_reminder(KEY, "wake", fence=0) is None
    assert not await store.delete_reminder(KEY, "wake", fence=0)
    assert not await store.save_reminder(reminder(token="b"), fence=0, replaces="a")
    assert await store.save_reminder(reminder(token="a"), fence=0)
    assert await store.save_reminder(reminder(token="b", due_ms=DUE_MS + 1, period_ms=7, payload=b"p"), fence=0)
    assert not await store.delete_reminder(KEY, "wake", fence=0, token="a")
    assert not await store.save_reminder(reminder(token="c"), fence=0, replaces="a")
    kept = reminder(token="b", due_ms=DUE_MS + 1, period_ms=7, payload=b"p")
    assert await store.load_reminder(KEY, "wake", fence=0) == kept
    assert await store.save_reminder(reminder(token="c"), fence=0, replaces="b")
    assert await store.delete_reminder(KEY, "wake", fence=0, token="c")
    assert await store.list_reminders(everything()) == ()


async def reminders_come_in_pages(connect: Connect) -> None:
    store = await connect()
    kept = [
        reminder(ActorKey("shop", "Cart", f"cart-{number}"), name=name, due_ms=DUE_MS + number)
        for number in range(40)
        for name in ("Zoo", "a", "ä")
    ]
    for each in kept:
        assert await store.save_reminder(each, fence=0)
    await store.save_reminder(reminder(ActorKey("other", "Cart", "cart-1")), fence=0)
    await store.save_reminder(reminder(ActorKey("shop", "Lamp", "cart-1")), fence=0)
    kept.sort(key=lambda each: each.place)
    for limit in (1, 7, 120, 1000):
        assert await pages(store, everything(limit=limit)) == kept
    first, count = positions(3, 2, 4)
    within = [each for each in kept if first <= each.key.position < first + count]
    assert 0 < len(within) < len(kept), "the example must have some in these slots"
    assert await pages(store, everything(first=first, count=count, limit=5)) == within
    early = [each for each in kept if each.due_ms < DUE_MS + 20]
    assert await pages(store, everything(due_before_ms=DUE_MS + 20, limit=9)) == early


async def writers_at_the_same_time_lose_nothing(connect: Connect) -> None:
    writers, writes = 4, 10

    async def write(store: StateStore) -> None:
        done = 0
        while done < writes:
            stored = await store.load(KEY, 3)
            try:
                count = int(stored.value or b"0") + 1
                await store.save(KEY, str(count).encode(), expected_version=stored.version, fence=3)
                done += 1
            except VersionConflictError:
                continue

    stores = [await connect() for _ in range(writers)]
    await asyncio.gather(*(write(store) for store in stores))
    assert await stores[0].load(KEY, 3) == Stored(str(writers * writes).encode(), writers * writes)


async def a_read_shuts_writers_out_at_once(connect: Connect) -> None:
    """What a successor reads is the last that its predecessor wrote."""
    old, new = await connect(), await connect()
    version, began = 0, asyncio.Event()

    async def write_on() -> None:
        nonlocal version
        while True:
            version = await old.save(KEY, b"v", expected_version=version, fence=1)
            if version == 20:
                began.set()
            await asyncio.sleep(0)

    writing = asyncio.ensure_future(write_on())
    await began.wait()
    read = await new.load(KEY, 2)
    with pytest.raises(StaleFenceError):
        await writing
    assert await new.load(KEY, 2) == read
    assert read.version == version


def reminder(
    key: ActorKey = KEY,
    *,
    name: str = "wake",
    due_ms: int = DUE_MS,
    period_ms: int | None = None,
    payload: bytes = b"",
    token: str = "t",  # noqa: S107
) -> Reminder:
    """With what a test does not care about."""
    return Reminder(key, name, due_ms, period_ms, payload, token)


def everything(
    *, first: int = 0, count: int = 1 << 16, due_before_ms: int = 1 << 61, limit: int = PAGE_MAX
) -> ReminderQuery:
    """All reminders of carts."""
    return ReminderQuery("shop", "Cart", first, count, due_before_ms, limit=limit)


async def pages(store: StateStore, query: ReminderQuery) -> list[Reminder]:
    """All pages."""
    found: list[Reminder] = []
    after = None
    while True:
        page = await store.list_reminders(
            ReminderQuery(
                query.namespace, query.actor_type, query.first, query.count, query.due_before_ms, after, query.limit
            )
        )
        assert len(page) <= query.limit
        found += page
        if len(page) < query.limit:
            return found
        after = page[-1].place


SCENARIOS: tuple[StoreScenario, ...] = (
    values_have_versions,
    old_fences_are_refused,
    a_refused_write_changes_nothing,
    fences_reach_reminders,
    ids_are_of_the_data,
    sizes_are_bounded,
    reminders_are_bounded,
    reminders_are_written_by_token,
    reminders_come_in_pages,
    writers_at_the_same_time_lose_nothing,
    a_read_shuts_writers_out_at_once,
)
