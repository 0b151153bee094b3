"""Hosts with real actors against a real replica: calls here and there, turns, moves, leaves, lost leases, fences."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest
from attrs import evolve

from callboard.core.slot_records import HandoffSettings, slot_of
from callboard.host import (
    Actor,
    ActorFailedError,
    ActorKey,
    BadCallError,
    CallSettings,
    Client,
    DeactivationReason,
    Host,
    HostRefusedError,
    HostSettings,
    MemoryStore,
    NotServedError,
    Router,
    SqliteStore,
    StaleFenceError,
    method,
)
from callboard.server.replica import Replica
from callboard.server.settings import NativeSettings
from tests.server.support import memory_settings, serving, until

QUICK = HandoffSettings(lease_ms=1500, drain_ms=300, margin_ms=200, tick_ms=100, failure_timeout_ms=2500)
SETTINGS = HostSettings(linger_ms=50, stop_grace_ms=200, calls=CallSettings(timeout_ms=20_000))


class Cart(Actor):
    """Counts, keeps its count, and notes what happens to it."""

    log: ClassVar[list[str]] = []

    async def on_activate(self) -> None:
        stored = await self.context.load()
        self.count = int(stored) if stored else 0
        self.running = 0

    async def on_deactivate(self, reason: DeactivationReason) -> None:
        Cart.log.append(f"{self.context.actor_id} {reason.value}")

    @method
    async def add(self, sku: str, quantity: int = 1) -> int:
        self.running += 1
        assert self.running == 1, "two turns at once"
        await asyncio.sleep(0)
        self.count += quantity
        await self.context.save(str(self.count).encode())
        self.running -= 1
        return self.count

    @method
    async def fence(self) -> int:
        return self.context.fence

    @method
    async def fail(self) -> None:
        raise KeyError("no such thing")


class Buyer(Actor):
    """Calls another actor, and, through it, itself."""

    reentrant = True
    host: Host

    @method
    async def buy(self, cart: str) -> int:
        return await Buyer.host.client.actor(Cart, cart).add("sku")

    @method
    async def ring(self, depth: int) -> int:
        if depth == 0:
            return 0
        return 1 + await Buyer.host.client.actor(Buyer, self.context.actor_id).ring(depth - 1)


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    native = NativeSettings(slot_bits=5, handoff=QUICK)
    async with serving(evolve(memory_settings(), native=native)) as replica:
        yield replica


def host_of(replica: Replica, name: str, store: MemoryStore | SqliteStore, *actors: type[Actor]) -> Host:
    return Host(
        listen="127.0.0.1:0",
        cluster=f"127.0.0.1:{replica.grpc_port}",
        actors=actors or (Cart, Buyer),
        name=name,
        store=store,
        settings=SETTINGS,
    )


async def test_calls_reach_actors_wherever_they_are_and_keep_their_state(replica: Replica) -> None:
    store = MemoryStore()
    async with host_of(replica, "h1", store) as one:
        assert await one.client.actor(Cart, "alice").add("sku", quantity=2) == 2
        async with host_of(replica, "h2", store) as two:
            await until(lambda: two.view is not None and len(two.view.hosts) == 2, "both are in the table")
            for caller in (one, two):
                results = await asyncio.gather(*(caller.client.actor(Cart, f"c{n}").add("sku") for n in range(40)))
                assert results == [1 if caller is one else 2] * 40
            assert min(one.client.figures.local, one.client.figures.remote, two.client.figures.remote) > 0
            assert await two.client.actor(Cart, "alice").add("sku") == 3
        for n in range(40):
            assert await one.client.actor(Cart, f"c{n}").add("sku") == 3, "an acknowledged count was lost"
        assert not [line for line in Cart.log if "lease" in line]


async def test_turns_follow_each_other(replica: Replica) -> None:
    async with host_of(replica, "h1", MemoryStore()) as host:
        cart = host.client.actor(Cart, "busy")
        assert sorted(await asyncio.gather(*(cart.add("sku") for _ in range(100)))) == list(range(1, 101))


async def test_chains_may_come_back_and_failures_are_told(replica: Replica) -> None:
    async with host_of(replica, "h1", MemoryStore()) as host:
        Buyer.host = host
        assert await host.client.actor(Buyer, "bob").buy("alice") == 1
        assert await host.client.actor(Buyer, "bob").ring(5) == 5
        with pytest.raises(ActorFailedError, match=r"ReentrancyError: .* at depth 33; the limit is 32"):
            await host.client.actor(Buyer, "bob").ring(40)
        with pytest.raises(ActorFailedError, match="KeyError: 'no such thing'"):
            await host.client.actor(Cart, "alice").fail()
        with pytest.raises(BadCallError, match="missing a required argument: 'sku'"):
            await host.client.actor(Cart, "alice").add()  # type: ignore[call-arg]
        with pytest.raises(BadCallError, match="Expected `int`, got `str`"):
            await host.client.actor(Cart, "alice").add("sku", "two")  # type: ignore[arg-type]


async def test_a_leave_moves_everything_without_an_error(replica: Replica) -> None:
    store, errors, calls = MemoryStore(), [], 0
    async with host_of(replica, "h1", store) as stays:
        leaves = host_of(replica, "h2", store)
        await leaves.start()
        await until(lambda: stays.view is not None and len(stays.view.hosts) == 2, "both are in the table")
        done = asyncio.Event()

        async def call_steadily(number: int) -> None:
            nonlocal calls
            while not done.is_set():
                try:
                    await stays.client.actor(Cart, f"steady{number}").add("sku")
                    calls += 1
                except Exception as error:  # noqa: BLE001
                    errors.append(error)

        callers = [asyncio.ensure_future(call_steadily(number)) for number in range(20)]
        await until(lambda: calls > 200, "calls flow")
        assert await leaves.leave()
        after = calls
        await until(lambda: calls > after + 200, "calls flow on")
        done.set()
        await asyncio.gather(*callers)
        assert errors == []
        counts = [await stays.client.actor(Cart, f"steady{number}").add("sku", 0) for number in range(20)]
        assert sum(counts) == calls


async def test_a_router_calls_without_hosting(replica: Replica) -> None:
    async with host_of(replica, "h1", MemoryStore()) as host:
        await host.client.actor(Cart, "alice").add("sku")
        async with Router(cluster=f"127.0.0.1:{replica.grpc_port}", calls=CallSettings(timeout_ms=2000)) as router:
            assert await router.client.actor(Cart, "alice").add("sku") == 2
            with pytest.raises(NotServedError, match="nobody hosts actor type Nobody"):
                await router.client.call("Nobody", "a", "m", b"", timeout_ms=100)
            assert router.watched is not None
            assert router.watched.leader_known
            assert router.watched.applied_index > 0
        async with Router(cluster=f"127.0.0.1:{replica.grpc_port}", namespace="nowhere") as router:
            await until(lambda: "nowhere" in router.trouble, "it is told why")
            with pytest.raises(NotServedError, match=r"namespace nowhere yet: .*: NOT_FOUND: no namespace"):
                await router.client.actor(Cart, "alice", timeout_ms=100).add("sku")


def owner_name(client: Client, cart: str) -> str:
    entry = client.owner("Cart", cart)
    return "" if entry is None else entry.name


async def test_an_answer_heals_an_older_table_at_once(replica: Replica) -> None:
    """The table of this router stays what it was; the answers of hosts lead it to the owner all the same."""
    store = MemoryStore()
    cluster = f"127.0.0.1:{replica.grpc_port}"
    async with host_of(replica, "h1", store), Router(cluster=cluster, calls=SETTINGS.calls) as router:
        assert await router.client.actor(Cart, "alice").add("sku") == 1
        assert router._watching is not None
        router._watching.cancel()
        async with host_of(replica, "h2", store) as two:
            await until(lambda: two.view is not None and len(two.view.hosts) == 2, "both are in the table")
            moved = [f"c{n}" for n in range(40) if owner_name(two.client, f"c{n}") == "h2"]
            assert moved
            assert [await router.client.actor(Cart, name).add("sku") for name in moved] == [1] * len(moved)
            assert {owner_name(router.client, name) for name in moved} == {"h1"}
            slots = {slot_of("Cart", name, 5) for name in moved}
            assert router.client.figures.healed == len(slots), "once for each slot, not for each call"
            assert [await router.client.actor(Cart, name).add("sku") for name in moved] == [2] * len(moved)
            assert router.client.figures.healed == len(slots)


async def test_a_zombie_is_stopped_at_the_store(replica: Replica, tmp_path: Path) -> None:
    """The fence of a host that lost its lease is refused once its successor has touched the actor."""
    path = tmp_path / "state.db"
    store = SqliteStore(path)
    async with host_of(replica, "h1", SqliteStore(path)) as one:
        await one.client.actor(Cart, "alice").add("sku")
        old = await one.client.actor(Cart, "alice").fence()
        await one.session.stop()  # as if frozen: it says nothing more, and its lease runs out
        async with host_of(replica, "h2", SqliteStore(path)) as two:
            assert await two.client.actor(Cart, "alice").add("sku") == 2
            assert await two.client.actor(Cart, "alice").fence() > old
            await store.open()
            with pytest.raises(StaleFenceError):
                await store.save(ActorKey("default", "Cart", "alice"), b"666", expected_version=2, fence=old)
            assert store.refused == 1
            await store.close()


async def test_hosts_with_different_stores_are_refused(replica: Replica, tmp_path: Path) -> None:
    async with host_of(replica, "h1", SqliteStore(tmp_path / "one.db")):
        other = host_of(replica, "h2", SqliteStore(tmp_path / "two.db"))
        with pytest.raises(HostRefusedError, match="store"):
            await other.start()


def test_calls_are_checked_by_mypy(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from callboard.host import Actor, Client, method\n"
        "class Cart(Actor):\n"
        "    @method\n"
        "    async def add(self, sku: str, quantity: int = 1) -> int:\n"
        "        return quantity\n"
        "async def use(client: Client) -> str:\n"
        "    good: int = await client.actor(Cart, 'alice').add('sku', quantity=2)\n"
        "    await client.actor(Cart, 'alice').add(1)\n"
        "    return await client.actor(Cart, 'alice').add('sku')\n"
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--cache-dir",
        str(tmp_path),
        str(program),
    ]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, env={"MYPYPATH": "impl", "PATH": ""})
    lines = [line.split(": ", 2)[2] for line in checked.stdout.splitlines() if "program.py" in line]
    assert lines == [
        'Argument 1 to "add" of "Cart" has incompatible type "int"; expected "str"  [arg-type]',
        'Incompatible return value type (got "int", expected "str")  [return-value]',
    ], checked.stdout + checked.stderr
