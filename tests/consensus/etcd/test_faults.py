"""Faults of etcd and of the way to it: members that die or stop, history that is compacted, leases that end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from callboard.consensus.etcd_engine import engine as engine_module
from callboard.consensus.etcd_engine.election import boot_clock
from callboard.consensus.etcd_engine.layout import Keys
from callboard.consensus.interface import Applied, BarrierFailed, EngineFailed, NotApplied, NotLeader, OutcomeUnknown
from harness.etcd import EtcdCluster
from tests.consensus.conformance import (
    TIMEOUT_MS,
    _assert_outcomes,
    eventually,
    outcome,
    retry_barrier,
    settled,
)
from tests.consensus.etcd.support import EtcdReplicas

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def fragile1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One etcd member that the tests of this module may harm, if they mend it."""
    with EtcdCluster(tmp_path_factory.mktemp("fragile1"), 1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def fragile3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Three members, likewise."""
    with EtcdCluster(tmp_path_factory.mktemp("fragile3"), 3) as cluster:
        yield cluster


@pytest.fixture
async def three(fragile3: EtcdCluster, tmp_path: Path) -> AsyncIterator[EtcdReplicas]:
    """Three replicas on three members."""
    async with EtcdReplicas(["a", "b", "c"], fragile3, tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def two(etcd1: EtcdCluster, tmp_path: Path) -> AsyncIterator[EtcdReplicas]:
    """Two replicas on one member that is not harmed."""
    async with EtcdReplicas(["a", "b"], etcd1, tmp_path) as cluster:
        yield cluster


class Clients:
    """A few clients that propose at whoever leads, one command after the other, and note what they are told."""

    def __init__(self, cluster: EtcdReplicas, count: int = 4) -> None:
        self.commands: list[bytes] = []
        self.ends: list[Applied | NotApplied | OutcomeUnknown] = []
        self._cluster = cluster
        self._running = True
        self._tasks = [asyncio.ensure_future(self._run(number)) for number in range(count)]

    @property
    def acknowledged(self) -> int:
        """Commands that were acknowledged so far."""
        return sum(isinstance(end, Applied) for end in self.ends)

    async def progress(self, count: int = 20) -> None:
        """Wait for so many more acknowledged commands."""
        goal = self.acknowledged + count
        await eventually(lambda: self.acknowledged >= goal, f"{count} more commands are acknowledged")

    async def stop(self) -> None:
        """Let each end its present command."""
        self._running = False
        await asyncio.gather(*self._tasks)

    async def _run(self, number: int) -> None:
        step = 0
        while self._running:
            engine = next((e for e in self._cluster.engines.values() if e.leadership().is_local), None)
            if engine is None:
                await asyncio.sleep(0.01)
                continue
            step += 1
            slot = len(self.ends)
            self.commands.append(b"%d-%d" % (number, step))
            self.ends.append(OutcomeUnknown("under way"))
            self.ends[slot] = await outcome(engine.propose(self.commands[slot], timeout_ms=5000))
            await asyncio.sleep(0)


async def test_kill_of_etcd_members_under_load(three: EtcdReplicas) -> None:
    clients = Clients(three)
    await clients.progress()
    for victim in ("leader", "follower"):
        leader = await asyncio.to_thread(three.etcd.leader)
        number = leader if victim == "leader" else (leader + 1) % 3
        three.etcd.kill(number)
        await clients.progress()
        three.etcd.start(number)
        await asyncio.to_thread(three.etcd.wait_healthy)
        await clients.progress()
    await clients.stop()
    _assert_outcomes(await settled(three), clients.commands, clients.ends)


async def test_restart_of_all_of_etcd_under_load(fragile1: EtcdCluster, tmp_path: Path) -> None:
    async with EtcdReplicas(["a", "b"], fragile1, tmp_path) as cluster:
        clients = Clients(cluster)
        await clients.progress()
        fragile1.kill(0)
        fragile1.start(0)
        await asyncio.to_thread(fragile1.wait_healthy)
        await clients.progress()
        await clients.stop()
        _assert_outcomes(await settled(cluster), clients.commands, clients.ends)


async def test_a_leader_whose_etcd_hangs_stops_leading_and_confirms_nothing(
    fragile1: EtcdCluster, tmp_path: Path
) -> None:
    async with EtcdReplicas(["a"], fragile1, tmp_path) as cluster:
        engine = cluster.engine(await cluster.leader())
        fragile1.pause(0)
        try:
            end = await outcome(engine.propose(b"doubtful", timeout_ms=300))
            assert isinstance(end, OutcomeUnknown | NotLeader)
            with pytest.raises(BarrierFailed):
                await engine.barrier(timeout_ms=300)
            await eventually(lambda: not engine.leadership().is_local, "leadership ends by the own clock")
            assert engine.leadership().leader is None
            with pytest.raises(NotLeader):
                await engine.propose(b"late", timeout_ms=300)
        finally:
            fragile1.resume(0)
        await cluster.append(b"after")
        commands = await settled(cluster)
        assert commands.count(b"doubtful") <= 1
        assert b"late" not in commands


async def test_leadership_ends_by_the_clock_without_any_timer(etcd1: EtcdCluster, tmp_path: Path) -> None:
    leap_s = 0.0
    async with EtcdReplicas(["a"], etcd1, tmp_path, clock=lambda: boot_clock() + leap_s) as cluster:
        engine = cluster.engine(await cluster.leader())
        leap_s = 1000.0  # as if the process had been frozen: no callback has run since
        assert not engine.leadership().is_local
        with pytest.raises(NotLeader):
            await engine.propose(b"late", timeout_ms=TIMEOUT_MS)
        await cluster.leader()  # the lease is renewed, the key is still ours: in office again
        assert await settled(cluster) == []


async def test_a_follower_resumes_its_watch_after_a_disconnect(two: EtcdReplicas) -> None:
    leader = await two.leader()
    follower = next(name for name in two.replica_ids if name != leader)
    for round_number in range(3):
        for link in two.links[follower]:
            await link.break_connections()
        await two.append(b"%d" % round_number)
    await retry_barrier(two.engines[follower])
    assert await settled(two) == [b"0", b"1", b"2"]
    assert two.machines[follower].restores == 0


async def test_a_watch_resumes_over_compaction_by_others(two: EtcdReplicas) -> None:
    leader = await two.leader()
    follower = next(name for name in two.replica_ids if name != leader)
    await two.isolate(follower)
    before = [b"%d" % number for number in range(80)]
    for command in before:
        await two.append(command, [leader])
    await asyncio.to_thread(two.etcd.compact)
    await two.heal()
    assert await settled(two) == before
    assert two.machines[follower].restores == 0, "the log was all there, only the history was gone"


async def test_a_watch_resumes_over_snapshot_and_compaction(two: EtcdReplicas) -> None:
    leader = await two.leader()
    follower = next(name for name in two.replica_ids if name != leader)
    await two.isolate(follower)
    for number in range(30):
        await two.append(b"%d" % number, [leader])
    await two.compact(leader)
    await two.append(b"after", [leader])
    await two.heal()
    assert len(await settled(two)) == 31
    assert two.machines[follower].restores == 1
    log = Keys(two.prefix).log
    assert await asyncio.to_thread(two.etcd.keys, log) == 1, "the log before the snapshot is deleted"


async def test_the_leader_writes_snapshots_in_parts_and_clears_up(etcd1: EtcdCluster, tmp_path: Path) -> None:
    replicas = EtcdReplicas(["a", "b"], etcd1, tmp_path, snapshot_commands=20, snapshot_chunk_bytes=1024)
    async with replicas as cluster:
        for number in range(70):
            await cluster.append(b"%d" % number + b"x" * 100)
        keys = Keys(cluster.prefix)
        follower = cluster.engine("a" if await cluster.leader() == "b" else "b")
        await eventually(lambda: follower._follower.snapshot_index >= 40, "several snapshots are written")

        async def counts() -> tuple[int, int]:
            return await asyncio.to_thread(etcd1.keys, keys.log), await asyncio.to_thread(etcd1.keys, keys.chunks)

        await cluster.compact(await cluster.leader())
        log, chunks = await counts()
        assert log == 0
        assert 10 < chunks < 30, "one snapshot of 70 commands, in parts of 1 KiB"
        before = await settled(cluster)
        await cluster.stop("a")
        await cluster.start("a")
        assert cluster.machines["a"].restores == 1
        assert await settled(cluster) == before


async def test_a_lost_lease_costs_the_leadership_and_no_command(two: EtcdReplicas) -> None:
    leader = await two.leader()
    engine = two.engine(leader)
    term = engine.leadership().term
    clients = Clients(two)
    await clients.progress()
    await asyncio.to_thread(two.etcd.gateway, "/v3/lease/revoke", {"ID": str(engine._election.lease_id)})
    await eventually(lambda: any(e.leadership().term > term for e in two.engines.values()), "a new term")
    await clients.progress()
    await clients.stop()
    _assert_outcomes(await settled(two), clients.commands, clients.ends)


async def test_an_etcd_without_space_refuses_changes_and_serves_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "ASK_ETCD_EVERY_S", 0.05)
    quota = "--quota-backend-bytes=1000000"
    with EtcdCluster(tmp_path / "etcd", 1, arguments=(quota,)) as etcd:
        async with EtcdReplicas(["a"], etcd, tmp_path) as cluster:
            engine = cluster.engine(await cluster.leader())
            ends: list[Applied | NotApplied | OutcomeUnknown] = []
            commands: list[bytes] = []
            while not ends or isinstance(ends[-1], Applied):
                assert len(commands) < 20_000, "80 MB fit into a quota of 1 MB"
                batch = [b"%d" % number + b"x" * 4000 for number in range(len(commands), len(commands) + 30)]
                commands += batch
                ends += await asyncio.gather(*(outcome(engine.propose(each, timeout_ms=TIMEOUT_MS)) for each in batch))
            assert isinstance(ends[-1], NotApplied)
            assert "database space exceeded" in str(ends[-1])
            log = await settled(cluster)
            _assert_outcomes(log, commands, ends)
            await eventually(lambda: "NOSPACE" in dict(engine.status().details)["etcd alarms"], "the alarm is shown")
            assert dict(engine.status().details)["etcd version"].startswith("3.")


async def test_damaged_entries_stop_the_engine_loudly(two: EtcdReplicas) -> None:
    await two.append(b"good")
    failure = asyncio.ensure_future(two.engines["a"].wait_failed())
    await asyncio.to_thread(two.etcd.put, Keys(two.prefix).entry(2), b"\xff\xff")
    reason = await asyncio.wait_for(failure, 30)
    assert isinstance(reason, EngineFailed)
    assert "00002 holds no LogEntry" in str(reason)
    assert not two.engines["a"].leadership().is_local
    with pytest.raises(NotApplied):
        await two.engines["a"].propose(b"no", timeout_ms=TIMEOUT_MS)
    with pytest.raises(BarrierFailed):
        await two.engines["a"].barrier(timeout_ms=TIMEOUT_MS)


async def test_an_etcd_that_went_back_stops_the_engine(two: EtcdReplicas) -> None:
    await two.append(b"one")
    failure = asyncio.ensure_future(two.engines["b"].wait_failed())
    await asyncio.to_thread(two.etcd.delete, f"{two.prefix}/head".encode())
    engine = two.engines["b"]
    with pytest.raises(BarrierFailed):
        await engine.barrier(timeout_ms=TIMEOUT_MS)
    assert "has no head" in str(await asyncio.wait_for(failure, 30))


async def test_two_processes_with_one_id_do_not_go_on(etcd1: EtcdCluster, tmp_path: Path) -> None:
    async with EtcdReplicas(["a"], etcd1, tmp_path / "1") as first:
        await first.leader()
        second = EtcdReplicas(["a"], etcd1, tmp_path / "2")
        second.prefix = first.prefix
        async with second:
            reason = await asyncio.wait_for(second.engines["a"].wait_failed(), 60)
            assert "another process runs as replica a" in str(reason)
            await first.append(b"unharmed")
