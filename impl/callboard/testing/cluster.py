"""`ActorTestCluster`: hosts with real runtimes, a real leader and a clock that stands still, all in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self, TypeVar

from callboard.core.native_host_records import Right
from callboard.core.slot_records import HandoffSettings, HostMark
from callboard.core.versions import Policy
from callboard.host.actors import Actor, ActorType
from callboard.host.client import CallSettings, Client
from callboard.host.limits import RuntimeLimits
from callboard.host.stores import MemoryStore, StateStore
from callboard.testing.clock import ManualClock, settle
from callboard.testing.host import TestHost, TestHostSettings, TestTables, client_of
from callboard.testing.leader import TestLeader, Work

NAMESPACE = "test"
LIMIT_MS = 600_000
"""How far `run` and `until` move the clock at most."""

Result = TypeVar("Result")


class ActorTestCluster:
    """Runs actors for a test; see the package's description. An async context manager.

    `hosts`: how many there are at first, named host-1, host-2 ... `store`: where actors keep state; by default in
    memory. `handoff`: leases and drain times of the namespace. `client` calls from outside; each host has its own.

    Time stands still: a call that needs time (its actor is moving, its host was killed) waits until the test moves the
    clock, by `advance`, or by `run(call)`, which moves it as far as the call needs. Nothing here is random: the same
    test takes the same course each time, as far as the actors themselves do.
    """

    def __init__(
        self,
        actors: Sequence[type[Actor]],
        *,
        hosts: int = 1,
        store: StateStore | None = None,
        policy: Policy = Policy.EXCLUSIVE,
        handoff: HandoffSettings | None = None,
        slot_bits: int = 6,
        calls: CallSettings | None = None,
        limits: RuntimeLimits | None = None,
    ) -> None:
        if not actors:
            raise ValueError("actors is empty: there is nothing to run")
        if hosts < 1:
            raise ValueError(f"hosts is {hosts}: a cluster has at least one")
        self.clock = ManualClock()
        self.store: StateStore = store or MemoryStore()
        self.hosts: dict[str, TestHost] = {}
        """By name; those that were killed or stopped are not in it."""
        self._kinds = {kind.name: kind for kind in map(ActorType.of, actors)}
        self._first_hosts = hosts
        self._calls = calls or CallSettings()
        self._limits = limits
        self._policy = policy
        self._work = Work()
        self._names = 0
        self._marked: str | None = None
        self._leader = TestLeader(
            name=NAMESPACE,
            policy=policy,
            slot_bits=slot_bits,
            settings=handoff or HandoffSettings(),
            clock=self.clock,
            work=self._work,
            on_table=self._table_changed,
        )
        self._tables = TestTables(self.clock, lambda: self._leader.view)
        self.client: Client = client_of(NAMESPACE, self._tables, self.clock, calls=self._calls, host_of=self._host_of)
        self._settings: TestHostSettings | None = None

    def _table_changed(self) -> None:
        self._tables.notify()

    def _host_of(self, incarnation: int) -> TestHost | None:
        return next((host for host in self.hosts.values() if host.machine.incarnation == incarnation), None)

    async def __aenter__(self) -> Self:
        self._settings = TestHostSettings(
            namespace=NAMESPACE,
            policy=self._policy,
            kinds=self._kinds,
            store=self.store,
            store_id=await self.store.open(),
            calls=self._calls,
            limits=self._limits,
            host_of=self._host_of,
        )
        for _ in range(self._first_hosts):
            self._start_host(None)
        await self.until(self.settled, "every actor is served")
        return self

    async def __aexit__(self, *_: object) -> None:
        for host in list(self.hosts.values()):
            await host.die()
        self.hosts.clear()
        await self.store.close()

    # -- time --------------------------------------------------------------------------------------------

    async def advance(self, duration_ms: int) -> None:
        """Let time pass: leases, timers and reminders take their course."""
        await self.clock.advance(duration_ms)

    async def run(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Await something, and let as much time pass as it needs. Raises TimeoutError after ten minutes of it."""
        task = asyncio.ensure_future(call)
        try:
            await self.until(task.done, "what was run is done")
        except BaseException:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        return await task

    async def until(self, condition: Callable[[], bool], what: str = "the condition holds") -> None:
        """Let time pass until the condition holds. Raises TimeoutError that names `what` after ten minutes of it."""
        end_ms = self.clock.now_ms() + LIMIT_MS
        await settle()
        while not condition():
            if self.clock.now_ms() >= end_ms or not await self.clock.step():
                raise TimeoutError(f"{what}: not within {LIMIT_MS} ms of the cluster's time")

    # -- actors ------------------------------------------------------------------------------------------

    def owner(self, actor_class: type[Actor], actor_id: str) -> str:
        """Name of the host that the newest table gives the actor to. Raises LookupError if there is none."""
        entry = self.client.owner(actor_class.__name__, actor_id)
        if entry is None:
            raise LookupError(f"nobody owns actor {actor_class.__name__}/{actor_id}")
        return entry.name

    def activations(self) -> dict[str, int]:
        """How many actors are active, by host."""
        return {name: host.runtime.activation_count() for name, host in self.hosts.items()}

    def settled(self) -> bool:
        """Whether every slot of every actor type is served by the host that the newest table names."""
        view, now = self._leader.view, self.clock.now_ms()
        running = [host for host in self.hosts.values() if host.stopped is None]
        if not view.tables or len(view.hosts) < len(running):
            return False
        for kind, table in view.tables.items():
            for slot, owner in enumerate(table.owners):
                host = self._host_of(owner)
                if host is None or not isinstance(host.machine.admit(kind, slot, now), Right):
                    return False
        return True

    async def move(self, actor_class: type[Actor], actor_id: str) -> str:
        """Drain the host that has the actor, and wait until another one serves it. Returns that one's name.

        The drained host stays, without actors, until the next `move`. Raises ValueError if there is no other host.
        """
        if self._marked is not None:
            self._leader.mark(HostMark(self._marked))
            self._marked = None
            await self.until(self.settled, "every actor is served")
        owner = self.owner(actor_class, actor_id)
        if len(self.hosts) < 2:
            raise ValueError(f"{actor_class.__name__}/{actor_id} cannot move: {owner} is the only host")
        self._leader.mark(HostMark(owner, draining=True))
        self._marked = owner
        await self.until(
            lambda: self.owner(actor_class, actor_id) != owner and self.settled(), f"actors of {owner} are served"
        )
        return self.owner(actor_class, actor_id)

    # -- hosts -------------------------------------------------------------------------------------------

    async def add_host(self, name: str | None = None) -> str:
        """One more, or one that was killed or stopped before; waits until it has its share. Returns its name."""
        name = self._start_host(name)
        await self.until(self.settled, f"{name} has its share")
        return name

    def _start_host(self, name: str | None) -> str:
        if self._settings is None:
            raise RuntimeError("the cluster is not started: use `async with`")
        if name is None:
            self._names += 1
            name = f"host-{self._names}"
        if name in self.hosts:
            raise ValueError(f"{name} runs already")
        host = self.hosts[name] = TestHost(name, self._settings, self._leader, self.clock, self._work)
        host.connect()
        return name

    async def kill(self, name: str) -> None:
        """End a host at once, as kill -9 does: its turns end, and its actors move when its lease has run out.

        That needs time; this returns before. Raises LookupError if there is no such host.
        """
        host = self._host(name)
        del self.hosts[name]
        await host.die()
        await settle()

    async def stop(self, name: str) -> None:
        """Stop a host in order: its turns end, its actors move, callers only wait."""
        host = self._host(name)
        host.leave()
        await self.until(lambda: host.stopped is not None, f"{name} leaves")
        self.hosts.pop(name, None)
        await host.die()

    async def isolate(self, name: str) -> None:
        """Cut a host off from the placement service, but not from callers: it serves until its lease runs out."""
        self._host(name).isolate()
        await settle()

    async def rejoin(self, name: str) -> None:
        """The end of `isolate`; waits until every actor is served again."""
        self._host(name).rejoin()
        await self.until(self.settled, "every actor is served")

    def _host(self, name: str) -> TestHost:
        if name not in self.hosts:
            raise LookupError(f"there is no host {name!r}; there are {', '.join(sorted(self.hosts))}")
        return self.hosts[name]
