"""The conformance suite of the contract in `callboard.consensus.interface`, for every engine.

To test an engine, subclass `Cluster` (how to run n replicas of it) and `EngineConformance` (in a `test_*.py` module,
with a fixture `cluster`). What an engine cannot do by nature (the memory engine is not durable and has one replica)
it leaves out of `Cluster.abilities`; the tests that need it are then skipped.
"""

from __future__ import annotations

import abc
import asyncio
import enum
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from callboard.consensus.interface import (
    Applied,
    BarrierFailed,
    Engine,
    EngineLimits,
    Leadership,
    NotApplied,
    NotLeader,
    OutcomeUnknown,
    QueueFull,
)
from tests.consensus.machine import RAISE, ListMachine

PATIENCE_S = 30.0
"""How long a test waits for something that must happen. Generous: the machine may be busy."""

TIMEOUT_MS = 20_000
LIMITS = EngineLimits(pending_proposals=64, command_bytes=4096)
"""Small bounds, which every tested engine is built with."""


class Ability(enum.Enum):
    """What a cluster under test can do."""

    DURABLE = enum.auto()
    """Acknowledged commands survive `kill` of every replica."""
    ISOLATE = enum.auto()
    """`isolate` and `heal` work."""
    COMPACT = enum.auto()
    """`compact` makes a replica replace its log by a snapshot."""
    HANG = enum.auto()
    """An isolated leader keeps proposals waiting for a while (so that a queue can be filled)."""


class Cluster(abc.ABC):
    """n replicas of one engine in this process. `start` makes a new machine and a new engine on the old files."""

    abilities: frozenset[Ability] = frozenset()

    def __init__(self, replica_ids: Sequence[str]) -> None:
        self.replica_ids = tuple(replica_ids)
        self.engines: dict[str, Engine] = {}
        self.machines: dict[str, ListMachine] = {}

    @abc.abstractmethod
    def build(self, replica_id: str, machine: ListMachine) -> Engine:
        """A new engine object for `replica_id` with `LIMITS`, over the files that this replica left."""

    async def kill(self, replica_id: str) -> None:
        """End the replica with as little ceremony as the engine allows: no farewell, no last write."""
        raise NotImplementedError

    async def isolate(self, replica_id: str) -> None:
        """Cut the replica off from all others; it keeps running."""
        raise NotImplementedError

    async def heal(self) -> None:
        """Undo every `isolate`."""
        raise NotImplementedError

    async def compact(self, replica_id: str) -> None:
        """Replace the replica's log up to its applied index by a snapshot."""
        raise NotImplementedError

    async def start(self, replica_id: str) -> Engine:
        """Start the replica on its old files, with an empty machine."""
        machine = ListMachine()
        engine = self.build(replica_id, machine)
        await engine.start()
        self.machines[replica_id] = machine
        self.engines[replica_id] = engine
        return engine

    async def stop(self, replica_id: str) -> None:
        """Stop the replica cleanly."""
        engine = self.engines.pop(replica_id)
        await engine.stop()

    async def start_all(self) -> None:
        """Start what does not run."""
        for replica_id in self.replica_ids:
            if replica_id not in self.engines:
                await self.start(replica_id)

    async def close(self) -> None:
        """Stop everything that still runs."""
        for replica_id in list(self.engines):
            await self.stop(replica_id)

    async def leader(self, among: Sequence[str] | None = None) -> str:
        """Wait until one replica leads and has proved it by a barrier."""
        names = [name for name in (among or self.replica_ids) if name in self.engines]
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for name in names:
                engine = self.engines[name]
                if not engine.leadership().is_local:
                    continue
                try:
                    await engine.barrier(timeout_ms=2000)
                except BarrierFailed:
                    continue
                if engine.leadership().is_local:
                    return name
            await asyncio.sleep(0.01)
        raise AssertionError(f"no leader: {[(name, self.engines[name].leadership()) for name in names]}")

    async def append(self, command: bytes, among: Sequence[str] | None = None) -> Applied:
        """Propose at whoever leads, until it is acknowledged. Only for commands of which a duplicate does no harm."""
        deadline = time.monotonic() + PATIENCE_S
        names = [name for name in (among or self.replica_ids) if name in self.engines]
        while time.monotonic() < deadline:
            engine = next((self.engines[name] for name in names if self.engines[name].leadership().is_local), None)
            if engine is not None:
                try:
                    return await engine.propose(command, timeout_ms=TIMEOUT_MS)
                except (NotApplied, OutcomeUnknown):
                    pass
            await asyncio.sleep(0.01)
        raise AssertionError("nothing was acknowledged")


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"
        await asyncio.sleep(0.01)


async def settled(cluster: Cluster) -> list[bytes]:
    """Wait for every running replica, check that all hold the same entries, and return the commands."""
    await cluster.leader()
    for engine in cluster.engines.values():
        await retry_barrier(engine)
    machines = [cluster.machines[name] for name in cluster.engines]
    await eventually(lambda: len({tuple(machine.entries) for machine in machines}) == 1, "all replicas agree")
    for machine in machines:
        machine.assert_order()
    return machines[0].commands


async def retry_barrier(engine: Engine) -> int:
    """A barrier, repeated while elections are going on."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await engine.barrier(timeout_ms=2000)
        except BarrierFailed:
            assert time.monotonic() < deadline, "no barrier ever succeeded"
            await asyncio.sleep(0.02)


async def outcome(proposal: Awaitable[Applied]) -> Applied | NotApplied | OutcomeUnknown:
    """The result of a proposal or the way in which it was refused, as a value."""
    try:
        return await proposal
    except (NotApplied, OutcomeUnknown) as error:
        return error


def needs(cluster: Cluster, *abilities: Ability, replicas: int = 1) -> None:
    """Skip the test unless the cluster can do all this."""
    missing = [ability.name.lower() for ability in abilities if ability not in cluster.abilities]
    if missing:
        pytest.skip(f"this engine cannot: {', '.join(missing)}")
    if len(cluster.replica_ids) < replicas:
        pytest.skip(f"needs {replicas} replicas")


class EngineConformance:
    """Inherit this in a test module that defines the fixture `cluster` (started, closed by the fixture)."""

    async def test_propose_returns_its_position_and_result(self, cluster: Cluster) -> None:
        leader = await cluster.leader()
        engine, machine = cluster.engines[leader], cluster.machines[leader]
        first = await engine.propose(b"one", timeout_ms=TIMEOUT_MS)
        second = await engine.propose(b"", timeout_ms=TIMEOUT_MS)
        assert (first.result, second.result) == (1, 2)
        assert first.index < second.index
        assert machine.entries == [(first.index, b"one"), (second.index, b"")]

    async def test_concurrent_proposals_get_their_own_results(self, cluster: Cluster) -> None:
        engine = cluster.engines[await cluster.leader()]
        commands = [b"c%d" % number for number in range(60)]
        answers = await asyncio.gather(*(engine.propose(command, timeout_ms=TIMEOUT_MS) for command in commands))
        applied = await settled(cluster)
        assert sorted(applied) == sorted(commands)
        assert [applied[int(str(answer.result)) - 1] for answer in answers] == commands
        assert len({answer.index for answer in answers}) == len(commands)

    async def test_barrier_shows_every_acknowledged_command_on_every_replica(self, cluster: Cluster) -> None:
        engine = cluster.engines[await cluster.leader()]
        for number in range(5):
            answer = await engine.propose(b"%d" % number, timeout_ms=TIMEOUT_MS)
            for name, reader in cluster.engines.items():
                index = await reader.barrier(timeout_ms=TIMEOUT_MS)
                assert index >= answer.index
                assert len(cluster.machines[name].commands) == number + 1

    async def test_overlapping_barriers_all_return(self, cluster: Cluster) -> None:
        await cluster.leader()
        for engine in cluster.engines.values():
            indexes = await asyncio.gather(*(engine.barrier(timeout_ms=TIMEOUT_MS) for _ in range(200)))
            assert len(indexes) == 200

    async def test_a_raising_command_counts_as_applied_and_stops_nobody(self, cluster: Cluster) -> None:
        engine = cluster.engines[await cluster.leader()]
        bad = await engine.propose(RAISE + b"on purpose", timeout_ms=TIMEOUT_MS)
        assert isinstance(bad.result, RuntimeError)
        good = await engine.propose(b"after", timeout_ms=TIMEOUT_MS)
        assert good.index > bad.index
        assert await settled(cluster) == [RAISE + b"on purpose", b"after"]

    async def test_too_large_a_command_is_refused_and_the_largest_is_not(self, cluster: Cluster) -> None:
        engine = cluster.engines[await cluster.leader()]
        assert engine.limits == LIMITS
        with pytest.raises(NotApplied):
            await engine.propose(b"x" * (LIMITS.command_bytes + 1), timeout_ms=TIMEOUT_MS)
        await engine.propose(b"y" * LIMITS.command_bytes, timeout_ms=TIMEOUT_MS)
        assert [len(command) for command in await settled(cluster)] == [LIMITS.command_bytes]

    async def test_a_cancelled_proposal_harms_nothing(self, cluster: Cluster) -> None:
        engine = cluster.engines[await cluster.leader()]
        task = asyncio.ensure_future(engine.propose(b"cancelled", timeout_ms=TIMEOUT_MS))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.propose(b"next", timeout_ms=TIMEOUT_MS)
        commands = await settled(cluster)
        assert commands[-1] == b"next"
        assert commands.count(b"cancelled") <= 1

    async def test_observers_hear_changes_and_may_raise(self, cluster: Cluster) -> None:
        replica = cluster.replica_ids[0]
        await cluster.stop(replica)
        heard: list[Leadership] = []

        def broken(leadership: Leadership) -> None:
            raise RuntimeError("an observer")

        machine = ListMachine()
        engine = cluster.build(replica, machine)
        engine.observe_leadership(broken)
        engine.observe_leadership(heard.append)
        await engine.start()
        cluster.machines[replica], cluster.engines[replica] = machine, engine
        await eventually(lambda: bool(heard) and heard[-1].leader is not None, "a leader is announced")
        await cluster.leader()
        assert heard[-1] == engine.leadership()
        assert [leadership.term for leadership in heard] == sorted(leadership.term for leadership in heard)

    async def test_followers_refuse_and_name_the_leader(self, cluster: Cluster) -> None:
        needs(cluster, replicas=3)
        leader = await cluster.leader()
        followers = [name for name in cluster.replica_ids if name != leader]
        for name in followers:
            await retry_barrier(cluster.engines[name])
            with pytest.raises(NotLeader) as refusal:
                await cluster.engines[name].propose(b"no", timeout_ms=TIMEOUT_MS)
            assert refusal.value.leader == leader
            assert cluster.engines[name].leadership().leader == leader
        assert await settled(cluster) == []

    async def test_status_tells_the_truth(self, cluster: Cluster) -> None:
        leader = await cluster.leader()
        answer = await cluster.engines[leader].propose(b"one", timeout_ms=TIMEOUT_MS)
        status = cluster.engines[leader].status()
        assert status.replica_id == leader
        assert status.leadership == cluster.engines[leader].leadership()
        assert status.applied_index >= answer.index
        assert status.commit_index >= status.applied_index
        assert status.durable == (Ability.DURABLE in cluster.abilities)
        assert leader not in status.peers_connected

    async def test_stop_is_idempotent_and_final(self, cluster: Cluster) -> None:
        leader = await cluster.leader()
        engine = cluster.engines[leader]
        pending = [asyncio.ensure_future(engine.propose(b"p%d" % i, timeout_ms=TIMEOUT_MS)) for i in range(10)]
        await asyncio.sleep(0)
        await cluster.stop(leader)
        await engine.stop()
        ends = await asyncio.gather(*(outcome(task) for task in pending))
        assert all(isinstance(end, Applied | NotApplied | OutcomeUnknown) for end in ends)
        with pytest.raises(NotApplied):
            await engine.propose(b"late", timeout_ms=TIMEOUT_MS)
        with pytest.raises(BarrierFailed):
            await engine.barrier(timeout_ms=TIMEOUT_MS)
        assert not engine.leadership().is_local

    async def test_acknowledged_commands_survive_a_restart_of_all(self, cluster: Cluster) -> None:
        needs(cluster, Ability.DURABLE)
        engine = cluster.engines[await cluster.leader()]
        term = engine.leadership().term
        before = [b"%d" % number for number in range(20)]
        for command in before:
            await engine.propose(command, timeout_ms=TIMEOUT_MS)
        for name in cluster.replica_ids:
            await cluster.stop(name)
        await cluster.start_all()
        assert await settled(cluster) == before
        await cluster.append(b"after")
        leader = await cluster.leader()
        assert cluster.engines[leader].leadership().term >= term
        assert await settled(cluster) == [*before, b"after"]

    async def test_acknowledged_commands_survive_a_kill_of_all_under_load(self, cluster: Cluster) -> None:
        needs(cluster, Ability.DURABLE)
        engine = cluster.engines[await cluster.leader()]
        commands = [b"%d" % number for number in range(60)]
        tasks = [asyncio.ensure_future(engine.propose(command, timeout_ms=TIMEOUT_MS)) for command in commands]
        await asyncio.wait(tasks[:20], return_when=asyncio.FIRST_COMPLETED)
        for name in cluster.replica_ids:
            await cluster.kill(name)
        ends = await asyncio.gather(*(outcome(task) for task in tasks))
        await cluster.start_all()
        _assert_outcomes(await settled(cluster), commands, ends)

    async def test_a_new_leader_follows_and_loses_nothing(self, cluster: Cluster) -> None:
        needs(cluster, Ability.DURABLE, replicas=3)
        leader = await cluster.leader()
        term = cluster.engines[leader].leadership().term
        await cluster.engines[leader].propose(b"before", timeout_ms=TIMEOUT_MS)
        await cluster.kill(leader)
        await cluster.append(b"after")
        successor = await cluster.leader()
        assert successor != leader
        assert cluster.engines[successor].leadership().term > term
        await cluster.start(leader)
        commands = await settled(cluster)
        assert commands[0] == b"before"
        assert b"after" in commands

    async def test_an_isolated_leader_confirms_nothing(self, cluster: Cluster) -> None:
        needs(cluster, Ability.ISOLATE, replicas=3)
        old = await cluster.leader()
        others = [name for name in cluster.replica_ids if name != old]
        await cluster.isolate(old)
        commands = [b"lost%d" % number for number in range(10)]
        isolated = cluster.engines[old]
        ends = await asyncio.gather(
            *(outcome(isolated.propose(command, timeout_ms=3000)) for command in commands),
        )
        assert not any(isinstance(end, Applied) for end in ends)
        with pytest.raises(BarrierFailed):
            await isolated.barrier(timeout_ms=500)
        await eventually(lambda: not isolated.leadership().is_local, "the isolated leader steps down")
        await cluster.append(b"kept", others)
        await cluster.heal()
        _assert_outcomes(await settled(cluster), [*commands], ends, others=[b"kept"])

    async def test_waiting_proposals_are_bounded(self, cluster: Cluster) -> None:
        needs(cluster, Ability.ISOLATE, Ability.HANG, replicas=3)
        leader = await cluster.leader()
        await cluster.isolate(leader)
        engine = cluster.engines[leader]
        count = LIMITS.pending_proposals
        tasks = [asyncio.ensure_future(outcome(engine.propose(b"%d" % i, timeout_ms=2000))) for i in range(count + 5)]
        ends = await asyncio.gather(*tasks)
        assert all(isinstance(end, QueueFull) for end in ends[count:])
        assert not any(isinstance(end, QueueFull) for end in ends[:count])
        await cluster.heal()
        commands = await settled(cluster)
        assert not {b"%d" % number for number in range(count, count + 5)} & set(commands)

    async def test_a_replica_that_was_away_catches_up(self, cluster: Cluster) -> None:
        needs(cluster, Ability.DURABLE, replicas=3)
        leader = await cluster.leader()
        away = next(name for name in cluster.replica_ids if name != leader)
        await cluster.stop(away)
        for number in range(50):
            await cluster.append(b"%d" % number)
        if Ability.COMPACT in cluster.abilities:
            for name in cluster.engines:
                await retry_barrier(cluster.engines[name])
                await cluster.compact(name)
            await cluster.append(b"after the snapshot")
        await cluster.start(away)
        assert len(await settled(cluster)) >= 50
        if Ability.COMPACT in cluster.abilities:
            assert cluster.machines[away].restores > 0, "it should have been brought up by a snapshot"

    async def test_restart_from_snapshot_and_log(self, cluster: Cluster) -> None:
        needs(cluster, Ability.DURABLE, Ability.COMPACT)
        before = [b"%d" % number for number in range(10)]
        for command in before[:6]:
            await cluster.append(command)
        for name in cluster.replica_ids:
            await retry_barrier(cluster.engines[name])
            await cluster.compact(name)
        for command in before[6:]:
            await cluster.append(command)
        for name in cluster.replica_ids:
            await cluster.kill(name)
        await cluster.start_all()
        assert list(dict.fromkeys(await settled(cluster))) == before

    async def test_outcomes_stay_true_while_leaders_come_and_go(self, cluster: Cluster) -> None:
        needs(cluster, Ability.DURABLE, Ability.ISOLATE, replicas=3)
        commands: list[bytes] = []
        ends: list[Applied | NotApplied | OutcomeUnknown] = []
        running = True

        async def client(number: int) -> None:
            step = 0
            while running:
                step += 1
                command = b"%d-%d" % (number, step)
                engine = next((e for e in cluster.engines.values() if e.leadership().is_local), None)
                if engine is None:
                    await asyncio.sleep(0.01)
                    continue
                commands.append(command)
                slot = len(ends)
                ends.append(OutcomeUnknown("in flight"))
                ends[slot] = await outcome(engine.propose(command, timeout_ms=2000))
                await asyncio.sleep(0)

        clients = [asyncio.ensure_future(client(number)) for number in range(4)]
        for _ in range(2):
            leader = await cluster.leader()
            await cluster.isolate(leader)
            await cluster.leader([name for name in cluster.replica_ids if name != leader])
            await cluster.heal()
            leader = await cluster.leader()
            await cluster.kill(leader)
            await cluster.leader()
            await cluster.start(leader)
        await cluster.leader()
        running = False
        await asyncio.gather(*clients)
        _assert_outcomes(await settled(cluster), commands, ends)
        assert any(isinstance(end, Applied) for end in ends)


def _assert_outcomes(
    log: Sequence[bytes],
    commands: Sequence[bytes],
    ends: Sequence[Applied | NotApplied | OutcomeUnknown],
    others: Sequence[bytes] = (),
) -> None:
    """Applied means once in the log, surely-not means never, unknown means at most once; nothing else is there."""
    for command, end in zip(commands, ends, strict=True):
        count = log.count(command)
        if isinstance(end, Applied):
            assert count == 1, f"{command!r} was acknowledged and is {count} times in the log"
            assert log[int(str(end.result)) - 1] == command, "the result belongs to another command"
        elif isinstance(end, NotApplied):
            assert count == 0, f"{command!r} was refused with {end!r} and is in the log"
        else:
            assert count <= 1, f"{command!r} is {count} times in the log"
    assert set(log) <= {*commands, *others}, "the log holds what nobody proposed"
