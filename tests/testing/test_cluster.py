"""The cluster for applications' tests: it behaves as the real one, and the same each time."""

from __future__ import annotations

import asyncio
import inspect
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import pytest

import callboard.testing
from callboard.core.slot_records import HandoffSettings
from callboard.host import (
    Actor,
    ActorFailedError,
    CallSettings,
    DeactivationReason,
    MemoryStore,
    NotServedError,
    OutcomeUnknownError,
    Policy,
    StaleFenceError,
    StateStore,
    method,
)
from callboard.testing import ActorTestCluster, settle

HANDOFF = HandoffSettings()


class Cart(Actor):
    """Counts, keeps its count, and can be held."""

    doors: ClassVar[dict[str, asyncio.Event]] = {}
    ends: ClassVar[list[str]] = []

    async def on_activate(self) -> None:
        self.count = int(await self.context.load() or b"0")

    async def on_deactivate(self, reason: DeactivationReason) -> None:
        Cart.ends.append(reason.value)

    async def on_reminder(self, name: str, payload: bytes) -> None:
        Cart.ends.append(f"{name} {payload.decode()}")

    @method
    async def add(self, quantity: int = 1) -> int:
        self.count += quantity
        await self.context.save(str(self.count).encode())
        return self.count

    @method
    async def fence(self) -> int:
        return self.context.fence

    @method
    async def hold(self, door: str) -> int:
        await Cart.doors.setdefault(door, asyncio.Event()).wait()
        return await self.add()

    @method
    async def remind(self, due_ms: int) -> None:
        await self.context.remind("r", due_ms=due_ms, payload=b"now")


class Buyer(Actor):
    """Calls carts, wherever they are."""

    cluster: ClassVar[ActorTestCluster]

    @method
    async def buy(self, carts: list[str]) -> int:
        host = Buyer.cluster.hosts[Buyer.cluster.owner(Buyer, self.context.actor_id)]
        return sum([await host.client.actor(Cart, cart).add() for cart in carts])


@pytest.fixture(autouse=True)
def fresh() -> None:
    Cart.doors, Cart.ends = {}, []


def test_the_example_of_the_package_runs() -> None:
    text = inspect.getdoc(callboard.testing) or ""
    lines = text.splitlines()
    example = "\n".join(line for line in lines if line.startswith("    ") or not line)
    names: dict[str, Any] = {}
    exec(compile(textwrap.dedent(example), "example", "exec"), names)  # noqa: S102
    asyncio.run(names["test_a_cart_survives_its_host"]())


def test_the_example_of_the_readme_runs() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    application, test = (
        block.partition("```")[0] for block in readme.split("```python\n")[1:] if "Cart" in block.partition("```")[0]
    )
    names: dict[str, Any] = {}
    exec(compile(application.partition("\nasync with ")[0], "application", "exec"), names)  # noqa: S102
    exec(compile(test, "test", "exec"), names)  # noqa: S102
    asyncio.run(names["test_a_cart_survives_its_host"]())


async def test_calls_reach_actors_on_all_hosts() -> None:
    async with ActorTestCluster(actors=[Cart, Buyer], hosts=3) as cluster:
        names = [f"c{number}" for number in range(60)]
        assert [await cluster.client.actor(Cart, name).add() for name in names] == [1] * 60
        assert {cluster.owner(Cart, name) for name in names} == {"host-1", "host-2", "host-3"} == set(cluster.hosts)
        assert sum(cluster.activations().values()) == 60
        Buyer.cluster = cluster
        assert await cluster.client.actor(Buyer, "bob").buy(names) == 2 * 60
        figures = cluster.hosts[cluster.owner(Buyer, "bob")].client.figures
        assert min(figures.local, figures.remote) > 0


async def test_a_killed_hosts_actors_come_back_when_its_lease_is_over() -> None:
    async with ActorTestCluster(actors=[Cart], hosts=2) as cluster:
        cart = cluster.client.actor(Cart, "alice", timeout_ms=60_000)
        await cart.add()
        before = await cart.fence()
        held = asyncio.ensure_future(cart.hold("never"))
        await settle()
        await cluster.kill(cluster.owner(Cart, "alice"))
        with pytest.raises(OutcomeUnknownError):
            await held
        began_ms = cluster.clock.now_ms()
        waiting = asyncio.ensure_future(cart.add())
        await cluster.advance(HANDOFF.failure_timeout_ms - HANDOFF.lease_ms - 1)
        assert not waiting.done(), "the dead host could still have been serving"
        assert await cluster.run(waiting_for(waiting)) == 2
        assert cluster.clock.now_ms() - began_ms >= HANDOFF.failure_timeout_ms - HANDOFF.tick_ms
        assert await cart.fence() > before


async def waiting_for(task: asyncio.Task[int]) -> int:
    return await task


async def test_calls_of_a_turn_end_with_the_call_that_the_turn_is_for() -> None:
    ends: list[tuple[str, int]] = []

    class Asks(Actor):
        @method
        async def ask(self, cart: str) -> None:
            host = cluster.hosts[cluster.owner(Asks, self.context.actor_id)]
            try:
                await host.client.actor(Cart, cart).hold("never")
            except OutcomeUnknownError:
                ends.append((self.context.actor_id, cluster.clock.now_ms()))

    async with ActorTestCluster(actors=[Cart, Asks], hosts=2) as cluster:
        start_ms = cluster.clock.now_ms()
        names = {cluster.owner(Cart, f"c{number}"): f"c{number}" for number in range(9)}
        for cart in names.values():  # one in the same host, one in another
            with pytest.raises(OutcomeUnknownError, match="still runs at the call's deadline"):
                await cluster.run(cluster.client.actor(Asks, f"asks {cart}", timeout_ms=700).ask(cart))
        await cluster.advance(1)
        expected = [(f"asks {cart}", start_ms + 700 * number) for number, cart in enumerate(names.values(), start=1)]
        assert len(names) == 2
        assert ends == expected


async def test_moves_lose_nothing() -> None:
    async with ActorTestCluster(actors=[Cart], hosts=3) as cluster:
        cart = cluster.client.actor(Cart, "alice")
        for count in range(1, 6):
            before = cluster.owner(Cart, "alice")
            assert await cart.add() == count
            assert await cluster.move(Cart, "alice") != before
        assert Cart.ends == ["moved"] * 5


async def test_moves_wait_for_running_turns_or_cancel_them() -> None:
    async with ActorTestCluster(actors=[Cart], hosts=2) as cluster:
        held = asyncio.ensure_future(cluster.client.actor(Cart, "alice").hold("door"))
        await settle()
        moving = asyncio.ensure_future(cluster.move(Cart, "alice"))
        await settle()
        Cart.doors["door"].set()
        assert await held == 1
        await moving
        assert await cluster.client.actor(Cart, "alice").add() == 2
        held = asyncio.ensure_future(cluster.client.actor(Cart, "alice").hold("never"))
        await settle()
        await cluster.move(Cart, "alice")
        with pytest.raises(OutcomeUnknownError, match="was cancelled: its host lost the slot"):
            await held
        assert await cluster.client.actor(Cart, "alice").add() == 3


async def test_stopped_hosts_hand_over_and_new_ones_take_their_share() -> None:
    async with ActorTestCluster(actors=[Cart], hosts=2) as cluster:
        carts = [cluster.client.actor(Cart, f"c{number}") for number in range(30)]
        assert [await cart.add() for cart in carts] == [1] * 30
        await cluster.stop("host-1")
        assert set(Cart.ends) == {"leaving"}
        assert [await cart.add() for cart in carts] == [2] * 30
        assert await cluster.add_host() == "host-3"
        assert await cluster.add_host("host-1") == "host-1"
        assert [await cart.add() for cart in carts] == [3] * 30
        assert {cluster.owner(Cart, f"c{number}") for number in range(30)} == {"host-1", "host-2", "host-3"}


async def test_an_isolated_host_stops_by_itself_and_its_late_writes_are_refused() -> None:
    store = MemoryStore()
    async with ActorTestCluster(actors=[Cart], hosts=2, store=store) as cluster:
        cart = cluster.client.actor(Cart, "alice", timeout_ms=60_000)
        await cart.add()
        owner = cluster.owner(Cart, "alice")
        fence, old = await cart.fence(), cluster.hosts[owner]
        await cluster.isolate(owner)
        assert await cart.add() == 2, "its lease still runs"
        await cluster.advance(HANDOFF.lease_ms)
        assert old.runtime.activation_count() == 0
        assert old.runtime.figures.deactivations == {"lease": 1}
        assert await cluster.run(cart.add()) == 3
        assert cluster.owner(Cart, "alice") != owner
        (key,) = store._values
        with pytest.raises(StaleFenceError):
            await store.save(key, b"late", expected_version=3, fence=fence)
        await cluster.rejoin(owner)
        assert await cart.add() == 4


async def test_reminders_and_hours_pass_in_a_moment() -> None:
    async with ActorTestCluster(actors=[Cart], hosts=2) as cluster:
        await cluster.client.actor(Cart, "alice").remind(3_600_000)
        await cluster.advance(1_800_000)
        await cluster.kill(cluster.owner(Cart, "alice"))
        await cluster.advance(1_799_999)
        assert "r now" not in Cart.ends
        await cluster.advance(1)
        assert Cart.ends[-1] == "r now"


async def test_eventual_namespaces_have_no_fences() -> None:
    async with ActorTestCluster(actors=[Cart], hosts=2, policy=Policy.EVENTUAL) as cluster:
        cart = cluster.client.actor(Cart, "alice", timeout_ms=60_000)
        assert await cart.add() == 1
        assert await cart.fence() == 0
        await cluster.kill(cluster.owner(Cart, "alice"))
        assert await cluster.run(cart.add()) == 2


async def test_an_isolated_host_of_policy_eventual_stops_in_the_end_if_it_is_told_to() -> None:
    times = HandoffSettings(max_isolation_ms=20_000)
    async with ActorTestCluster(actors=[Cart], hosts=2, policy=Policy.EVENTUAL, handoff=times) as cluster:
        await cluster.client.actor(Cart, "alice").add()
        old = cluster.hosts[cluster.owner(Cart, "alice")]
        await cluster.isolate(old.name)
        await cluster.advance(times.failure_timeout_ms + times.tick_ms)
        assert cluster.owner(Cart, "alice") != old.name
        assert old.runtime.activation_count() == 1, "it goes on serving whoever is cut off with it"
        await cluster.advance(times.max_isolation_ms)
        assert old.runtime.activation_count() == 0
        assert old.runtime.figures.deactivations == {"lease": 1}
        await cluster.rejoin(old.name)


async def course() -> list[object]:
    """A test with everything in it; what happened, with times."""
    seen: list[object] = []
    Cart.ends = []
    async with ActorTestCluster(actors=[Cart], hosts=3) as cluster:
        start_ms = cluster.clock.now_ms()
        for name in "abcdef":
            cart = cluster.client.actor(Cart, name, timeout_ms=60_000)
            seen.append((await cart.add(), await cart.fence(), cluster.owner(Cart, name)))
        await cluster.kill("host-2")
        calls = [cluster.run(cluster.client.actor(Cart, name, timeout_ms=60_000).add()) for name in "abcdef"]
        seen += await asyncio.gather(*calls)
        seen.append(await cluster.move(Cart, "a"))
        seen.append(cluster.clock.now_ms() - start_ms)
        seen.append(cluster.activations())
        seen.append(await cluster.client.actor(Cart, "a").fence())
    return [*seen, *Cart.ends]


async def test_the_course_is_the_same_each_time() -> None:
    assert await course() == await course()


async def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="actors is empty"):
        ActorTestCluster(actors=[])
    with pytest.raises(ValueError, match="hosts is 0"):
        ActorTestCluster(actors=[Cart], hosts=0)
    with pytest.raises(ValueError, match=r"slot bits 40 are not between 4 and 16"):
        ActorTestCluster(actors=[Cart], slot_bits=40)
    with pytest.raises(ValueError, match="lease 10 ms is not above"):
        ActorTestCluster(actors=[Cart], handoff=HandoffSettings(lease_ms=10))
    with pytest.raises(ValueError, match="max isolation 10 ms is not above"):
        ActorTestCluster(actors=[Cart], policy=Policy.EVENTUAL, handoff=HandoffSettings(max_isolation_ms=10))
    async with ActorTestCluster(actors=[Cart], calls=CallSettings(timeout_ms=100)) as cluster:
        with pytest.raises(LookupError, match="there is no host 'host-9'; there are host-1"):
            await cluster.kill("host-9")
        with pytest.raises(ValueError, match="Cart/alice cannot move: host-1 is the only host"):
            await cluster.move(Cart, "alice")
        with pytest.raises(ValueError, match="host-1 runs already"):
            await cluster.add_host("host-1")
        await cluster.kill("host-1")
        with pytest.raises(NotServedError, match="host host-1 does not answer"):
            await cluster.run(cluster.client.actor(Cart, "alice").add())
        with pytest.raises(TimeoutError, match="never happens: not within 600000 ms of the cluster's time"):
            await cluster.until(lambda: False, "never happens")


class ForgetsFences(MemoryStore):
    """The seeded bug: a store under which a zombie may write."""

    def _check(self, key: Any, fence: int) -> None:
        pass


async def zombie_is_refused(store: StateStore) -> bool:
    """How an application tests that its store keeps zombies out."""
    async with ActorTestCluster(actors=[Cart], hosts=2, store=store) as cluster:
        cart = cluster.client.actor(Cart, "alice", timeout_ms=60_000)
        await cart.add()
        old = cluster.hosts[cluster.owner(Cart, "alice")]
        (activation,) = old.runtime._activations.values()
        await cluster.kill(old.name)
        assert await cluster.run(cart.add()) == 2
        fence = activation.right.fence
        try:
            await store.save(activation.key, b"zombie", expected_version=2, fence=fence)
        except StaleFenceError:
            return True
        return False


async def test_stores_without_fences_are_found_out() -> None:
    assert await zombie_is_refused(MemoryStore())
    assert not await zombie_is_refused(ForgetsFences())


async def test_failures_of_actors_reach_callers() -> None:
    class Fails(Actor):
        @method
        async def fail(self) -> None:
            raise KeyError("no such thing")

    async with ActorTestCluster(actors=[Fails]) as cluster:
        with pytest.raises(ActorFailedError, match="KeyError: 'no such thing'"):
            await cluster.client.actor(Fails, "a").fail()
