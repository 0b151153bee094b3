"""What clients do all the time while faults come and go: calls to actors, changes of members, lookups, sidecars."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Iterable
from typing import Any, Protocol, Self, cast

from attrs import Factory, define, field, frozen

from harness.faults.clients import ActorClient, Caller, Channels, OperatorClient, StandIn
from harness.faults.cluster import SIDECARS, FaultCluster
from harness.faults.history import Outcome, Recorder
from harness.faults.keys import UNKNOWN_PER_KEY, Key
from harness.faults.observers import RecordingChecks
from harness.processes import wait_until
from harness.sidecars.events import SidecarSpec
from harness.sidecars.fleet import Fleet, Generation
from harness.sidecars.shell import Sidecar

COUNTERS = 6
LISTS = 6
MEMBERS = 4
ALWAYS_MEMBERS = 2
"""Nobody says at which log position a host became a member: only the changes of those that stay have all one."""
AWAY_S = (0.3, 0.8)
STAYS_S = (0.5, 1.5)
LOOKED_UP = 6
CALLERS_PER_KEY = 2
SIDECARS_AT_FIRST = 5
CHURN_S = (4.0, 9.0)
FINAL_AT_ONCE = 12
LONG_TURNS = 0.04
BLOCK_MS = 350
HOLDS_MS = (100, 300, 900, 1500)
SETTLE_DEADLINE_S = 90.0


class Workload(Protocol):
    """Runs from `start` until `stop`."""

    async def start(self) -> None:
        """Begin; returns when it runs."""

    async def settle(self) -> None:
        """After the heal: return once it works again. Raises TimeoutError."""

    async def stop(self) -> None:
        """End all operations, and do what can only be done at the end."""


@frozen
class Habits:
    """How often turns are unlike the others: `long_turns` take long, `blocking_turns` compute for long; `reads` change
    nothing."""

    long_turns: float = LONG_TURNS
    blocking_turns: float = 0.0
    reads: float = 0.3


@define(eq=False)
class Base:
    """What workloads share: tasks that end when they are told to."""

    cluster: FaultCluster
    recorder: Recorder
    random: random.Random
    habits: Habits = Factory(Habits)
    _stopping: bool = False
    _tasks: list[asyncio.Future[Any]] = Factory(list)

    def _begin(self, work: Awaitable[Any]) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    async def _pause(self, shortest_s: float, longest_s: float) -> None:
        await asyncio.sleep(self.random.uniform(shortest_s, longest_s))

    async def abandon(self) -> None:
        """End at once, when the run cannot be finished anyway."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def failed(self) -> BaseException | None:
        """What a task died of."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                return task.exception()
        return None

    async def _end_tasks(self) -> None:
        """Let each operation end, and raise what a task died of."""
        self._stopping = True
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)


@define(eq=False)
class Actors(Base):
    """Counters and lists, each called by a few callers from different ends."""

    clients: list[ActorClient] = Factory(list)
    used: dict[str, Key] = Factory(dict)
    _current: dict[tuple[str, int], Key] = Factory(dict)
    _numbers: itertools.count[int] = Factory(lambda: itertools.count(1))
    _values: itertools.count[int] = Factory(lambda: itertools.count(1))

    async def start(self) -> None:
        """See `Workload`."""
        self.clients = [ActorClient(self.cluster, source, self.recorder) for source in self.cluster.clients()]
        for client in self.clients:
            await client.router.__aenter__()
        for kind, count in (("counter", COUNTERS), ("list", LISTS)):
            for place in range(count):
                for number in range(CALLERS_PER_KEY):
                    client = self.clients[number % len(self.clients)]
                    self._begin(self._call_steadily(client, Caller(self.recorder), kind, place))

    def _key(self, kind: str, place: int) -> Key:
        key = self._current.get((kind, place))
        if key is None or key.spent:
            key = Key(f"{kind}/k{next(self._numbers)}")
            self._current[kind, place] = self.used[key.name] = key
        return key

    async def _call_steadily(self, client: ActorClient, caller: Caller, kind: str, place: int) -> None:
        while not self._stopping:
            key = self._key(kind, place)
            actor_id = key.name.partition("/")[2]
            if self.random.random() < self.habits.reads:
                outcome, _ = await client.read(caller, key.name)
            elif kind == "counter":
                outcome = await client.add(caller, actor_id, self.random.randint(1, 9))
            else:
                hold_ms, block_ms = self._pace()
                value = next(self._values)
                outcome = await client.append(caller, actor_id, value, hold_ms=hold_ms, block_ms=block_ms)
            key.note(outcome)
            await self._pause(0.1, 0.35)

    def _pace(self) -> tuple[int, int]:
        """How long a turn waits, and how long it computes."""
        habits = self.habits
        # Some turns outlive the drain time: an actor that moves away must not wait for them for ever.
        hold_ms = self.random.choice(HOLDS_MS) if self.random.random() < habits.long_turns else 0
        return hold_ms, BLOCK_MS if self.random.random() < habits.blocking_turns else 0

    def actors(self) -> list[str]:
        """Those that are called now, as turns name them."""
        return sorted(actor_name(key.name) for key in self._current.values())

    async def read_until_ok(self, key: str) -> Any:
        """The value of a key, however often it has to be asked. Raises TimeoutError."""
        client, caller = self.clients[0], Caller(self.recorder)
        values: list[Any] = []

        async def answered() -> bool:
            outcome, value = await client.read(caller, key)
            values.append(value)
            return outcome is Outcome.OK

        await wait_until(answered, deadline_s=SETTLE_DEADLINE_S, what=f"an answer of {key}")
        return values[-1]

    async def settle(self) -> None:
        """See `Workload`."""
        await asyncio.gather(*(self.read_until_ok(key.name) for key in list(self._current.values())))

    async def abandon(self) -> None:
        """See `Base`."""
        await super().abandon()
        for client in self.clients:
            await client.router.__aexit__()

    async def stop(self) -> None:
        """See `Workload`. Reads every key once more, and those in use twice."""
        await self._end_tasks()
        for key in self._current.values():
            await self.read_until_ok(key.name)
        gate = asyncio.Semaphore(FINAL_AT_ONCE)

        async def read(key: str) -> None:
            async with gate:
                self.recorder.note("final", key=key, value=await self.read_until_ok(key))

        await asyncio.gather(*(read(key) for key in self.used))
        for client in self.clients:
            await client.router.__aexit__()


def actor_name(key: str) -> str:
    """How turns name the actor of a key."""
    kind, _, actor_id = key.partition("/")
    return f"{'Tally' if kind == 'counter' else 'Journal'}/{actor_id}"


@define(eq=False)
class Members(Base):
    """Registers: members of a namespace and their weights, changed and read through every replica. Some are removed and
    join again all the time."""

    operators: list[OperatorClient] = Factory(list)
    _channels: list[Channels] = Factory(list)
    _stand_ins: dict[str, StandIn] = Factory(dict)
    _current: dict[int, Key] = Factory(dict)
    _renewing: dict[int, asyncio.Lock] = Factory(dict)
    _numbers: itertools.count[int] = Factory(lambda: itertools.count(1))
    _came_back: dict[int, int] = Factory(dict)
    """How often the member of each place was surely removed, and is back."""

    async def start(self) -> None:
        """See `Workload`."""
        self._channels, self.operators = operators(self.cluster)
        for place in range(MEMBERS):
            self._renewing[place] = asyncio.Lock()
            await self._key(place)
            for number in range(CALLERS_PER_KEY):
                operator = self.operators[number % len(self.operators)]
                self._begin(self._work(operator, Caller(self.recorder), place))
            if place >= ALWAYS_MEMBERS:
                self._came_back[place] = 0
                self._begin(self._come_and_go(place))

    async def _key(self, place: int) -> Key:
        async with self._renewing[place]:
            key = self._current.get(place)
            if key is None or key.spent:
                key = Key(f"r{next(self._numbers)}")
                caller = Caller(self.recorder)
                stand_in = self._stand_in(key, place)
                await stand_in.start()
                await self._note_repeated(caller, key, stand_in)
                while await self.operators[0].upsert(caller, key.name, 100) is not Outcome.OK and not self._stopping:
                    await self._pause(0.2, 0.4)
                self._current[place] = key
            return key

    def _stand_in(self, key: Key, place: int) -> StandIn:
        source = self.cluster.clients()[place % self.cluster.settings.clients]
        stand_in = StandIn(key.name, self.cluster.addresses(source))
        self._stand_ins[key.name] = stand_in
        return stand_in

    @staticmethod
    async def _note_repeated(caller: Caller, key: Key, stand_in: StandIn) -> None:
        # Of many nobody could tell when the last one arrives: the key is spent then, and not removed any more.
        for _ in range(min(stand_in.asked - 1, UNKNOWN_PER_KEY)):
            key.note(await stand_in.may_join_late(caller))

    async def _work(self, operator: OperatorClient, caller: Caller, place: int) -> None:
        while not self._stopping:
            key = await self._key(place)
            if self.random.random() < 0.5:
                replica = self.random.choice(operator.replicas)
                outcome = await operator.read(caller, key.name, replica)
            else:
                outcome = await operator.upsert(caller, key.name, self.random.randint(1, 10_000))
            key.note(outcome)
            await self._pause(0.3, 0.9)

    async def _come_and_go(self, place: int) -> None:
        operator, caller = self.operators[place % len(self.operators)], Caller(self.recorder)
        while not self._stopping:
            key = await self._key(place)
            if key.spent:  # already: see _note_repeated
                continue
            removed = await self._remove(operator, caller, key)
            await self._pause(*AWAY_S)
            stand_in = self._stand_in(key, place)
            key.note(await stand_in.join(caller))
            await self._note_repeated(caller, key, stand_in)
            self._came_back[place] += removed is Outcome.OK
            await self._pause(*STAYS_S)

    async def _remove(self, operator: OperatorClient, caller: Caller, key: Key) -> Outcome:
        """Remove a member, however often it has to be asked for. Its stand-in is stopped first: it would come back."""
        await self._stand_ins[key.name].stop()
        while True:
            outcome = await operator.remove(caller, key.name)
            key.note(outcome)
            if outcome is not Outcome.FAIL or self._stopping:
                return outcome
            await self._pause(0.2, 0.4)

    async def settle(self) -> None:
        """See `Workload`."""
        caller, before = Caller(self.recorder), dict(self._came_back)

        async def came_back() -> bool:
            return all(self._came_back[place] > count for place, count in before.items())

        async def works() -> bool:
            outcomes = [
                await self.operators[0].read(caller, key.name, replica)
                for key in self._current.values()
                for replica in self.operators[0].replicas
            ]
            return all(outcome is Outcome.OK for outcome in outcomes)

        await wait_until(came_back, deadline_s=SETTLE_DEADLINE_S, what="members that are removed and come back")
        await wait_until(works, deadline_s=SETTLE_DEADLINE_S, what="linearizable reads at every replica")

    async def abandon(self) -> None:
        """See `Base`."""
        await super().abandon()
        await self._close()

    async def stop(self) -> None:
        """See `Workload`."""
        await self._end_tasks()
        await self._close()

    async def _close(self) -> None:
        await asyncio.gather(*(stand_in.stop() for stand_in in self._stand_ins.values()))
        for channels in self._channels:
            await channels.close()


def operators(cluster: FaultCluster) -> tuple[list[Channels], list[OperatorClient]]:
    """One operator at each client end."""
    channels = [Channels(cluster, source) for source in cluster.clients()]
    return channels, [OperatorClient(end, list(cluster.replicas)) for end in channels]


@define(eq=False)
class Lookups(Base):
    """Who owns an actor, asked at every replica, with and without a quorum."""

    _channels: list[Channels] = Factory(list)
    _succeeded: int = 0

    async def start(self) -> None:
        """See `Workload`."""
        self._channels, found = operators(self.cluster)
        for operator in found:
            self._begin(self._work(operator, Caller(self.recorder)))

    async def _work(self, operator: OperatorClient, caller: Caller) -> None:
        while not self._stopping:
            actor_type = self.random.choice(("Tally", "Journal"))
            actor_id = f"k{self.random.randint(1, LOOKED_UP)}"
            replica = self.random.choice(operator.replicas)
            linearizable = self.random.random() < 0.5
            outcome = await operator.lookup(caller, actor_type, actor_id, replica, linearizable=linearizable)
            self._succeeded += outcome is Outcome.OK
            await self._pause(0.2, 0.5)

    async def settle(self) -> None:
        """See `Workload`."""
        before = self._succeeded

        async def works() -> bool:
            return self._succeeded > before + 2

        await wait_until(works, deadline_s=SETTLE_DEADLINE_S, what="lookups")

    async def stop(self) -> None:
        """See `Workload`."""
        await self._end_tasks()
        for channels in self._channels:
            await channels.close()


@define(eq=False)
class Sidecars(Base):
    """Simulated Dapr sidecars of both generations in a namespace of their own; one comes, goes or dies now and then."""

    fleet: Fleet = field(init=False)
    _leaving: set[Sidecar] = Factory(set)
    _numbers: itertools.count[int] = Factory(lambda: itertools.count(1))

    async def start(self) -> None:
        """See `Workload`."""
        self.fleet = Fleet(self.cluster.addresses("sidecars"), seed=self.random.randrange(1 << 32))
        self.fleet.checks = RecordingChecks(self.recorder)
        self.cluster.sidecars = self
        for _ in range(SIDECARS_AT_FIRST):
            self.add()
        self._begin(self._churn())

    def add(self) -> Sidecar:
        """See `SimulatedSidecars`."""
        number = next(self._numbers)
        spec = SidecarSpec(f"10.0.{number // 200}.{number % 200 + 1}:50002", "app", ("Cart", "Lamp"), SIDECARS)
        self.recorder.note("process", name=spec.name, what="started")
        return self.fleet.add(spec, self.random.choice((Generation.V1_16, Generation.V1_18)))

    def awake(self) -> list[Sidecar]:
        """See `SimulatedSidecars`."""
        return [sidecar for sidecar in self.fleet.sidecars if not sidecar.paused and sidecar not in self._leaving]

    async def kill(self, sidecar: Sidecar) -> None:
        """See `SimulatedSidecars`."""
        self.recorder.note("process", name=sidecar.name, what="killed")
        await self.fleet.kill(sidecar)

    async def _churn(self) -> None:
        while not self._stopping:
            step, awake = self.random.choice(("add", "kill", "stop")), self.awake()
            if step == "add" or len(awake) < SIDECARS_AT_FIRST - 1:
                self.add()
            elif step == "kill":
                await self.kill(self.random.choice(awake))
            else:
                await self._leave(self.random.choice(awake))
            until = self.random.uniform(*CHURN_S)
            while until > 0 and not self._stopping:
                await asyncio.sleep(0.5)
                until -= 0.5

    async def _leave(self, sidecar: Sidecar) -> None:
        self.recorder.note("process", name=sidecar.name, what="leaving")
        self._leaving.add(sidecar)
        try:
            await self.fleet.stop(sidecar)
        except TimeoutError:  # behind a cut link nobody ends the stream
            await self.fleet.kill(sidecar)

    async def settle(self) -> None:
        """See `Workload`. Ends the coming and going: what is there then must get one table."""
        await self._end_tasks()
        names = sorted(sidecar.machine.spec.name for sidecar in self.fleet.sidecars)
        self.recorder.note("connected", namespace=SIDECARS, hosts=names)
        await self.fleet.wait_converged(deadline_s=SETTLE_DEADLINE_S)

    async def abandon(self) -> None:
        """See `Base`."""
        await super().abandon()
        await self.fleet.__aexit__()

    async def stop(self) -> None:
        """See `Workload`."""
        await self._end_tasks()
        await self.fleet.__aexit__()


KINDS: dict[str, type[Base]] = {"actors": Actors, "members": Members, "lookups": Lookups, "sidecars": Sidecars}


@define(eq=False)
class Workloads:
    """Several at once."""

    by_name: dict[str, Any]
    started: list[Any] = Factory(list)

    @classmethod
    def of(
        cls, names: Iterable[str], cluster: FaultCluster, recorder: Recorder, seed: int, habits: Habits | None = None
    ) -> Self:
        """Raises KeyError for an unknown name."""
        known = habits or Habits()
        return cls({name: KINDS[name](cluster, recorder, random.Random(f"{seed}/{name}"), known) for name in names})

    async def start(self) -> None:
        """Begin all."""
        for workload in self.by_name.values():
            self.started.append(workload)
            await workload.start()

    async def settle(self) -> None:
        """Wait until all work again. Raises TimeoutError."""
        await asyncio.gather(*(workload.settle() for workload in self.by_name.values()))

    async def abandon(self) -> None:
        """End all at once."""
        for workload in self.started:
            await workload.abandon()

    async def stop(self) -> None:
        """End all."""
        while self.started:
            await self.started[0].stop()
            del self.started[0]

    def failed(self) -> BaseException | None:
        """What a workload's task died of, if one did: a fault of the harness, never of the service."""
        for workload in self.by_name.values():
            error = workload.failed()
            if error is not None:
                return cast("BaseException", error)
        return None
