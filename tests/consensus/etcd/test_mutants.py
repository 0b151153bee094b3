"""The tests of the etcd engine can fail: seeded bugs in it are noticed by the checks that the other tests make.

Those of the proposer are in test_proposer.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard.consensus.etcd_engine.barriers import Barriers
from callboard.consensus.etcd_engine.election import Election, boot_clock
from callboard.consensus.etcd_engine.follower import LogFollower
from callboard.consensus.etcd_engine.layout import LogEntry
from callboard.consensus.interface import BarrierFailed
from harness.etcd import EtcdCluster
from tests.consensus.conformance import eventually, settled
from tests.consensus.etcd.support import EtcdReplicas

pytestmark = pytest.mark.process


@pytest.fixture
async def two(etcd1: EtcdCluster, tmp_path: Path) -> AsyncIterator[EtcdReplicas]:
    """Two replicas, to be started by the test."""
    async with EtcdReplicas(["a", "b"], etcd1, tmp_path) as cluster:
        yield cluster


async def check_barrier_needs_etcd(cluster: EtcdReplicas) -> None:
    """A replica that cannot reach etcd confirms no read."""
    follower = "a" if await cluster.leader() == "b" else "b"
    await cluster.isolate(follower)
    await cluster.append(b"unseen", ["a" if follower == "b" else "b"])
    with pytest.raises(BarrierFailed):
        await cluster.engines[follower].barrier(timeout_ms=200)


async def test_a_barrier_without_a_read_is_noticed(two: EtcdReplicas, monkeypatch: pytest.MonkeyPatch) -> None:
    async def local(self: Barriers) -> int:
        return self._follower.applied_index

    with monkeypatch.context() as patch:
        patch.setattr(Barriers, "_read_head", local)
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            await check_barrier_needs_etcd(two)
    await two.heal()
    await check_barrier_needs_etcd(two)


async def test_entries_that_are_applied_twice_are_noticed(two: EtcdReplicas, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LogFollower.offer

    def forgetful(self: LogFollower, entry: LogEntry) -> bool:
        self._applied_index = min(self._applied_index, entry.first_index - 1)
        return original(self, entry)

    await two.append(b"one")
    assert await settled(two) == [b"one"]
    monkeypatch.setattr(LogFollower, "offer", forgetful)
    await two.append(b"two")
    leader = two.machines[await two.leader()]
    await eventually(lambda: any(count > 1 for count in leader.calls.values()), "the watch brings it again")
    with pytest.raises(AssertionError, match="rise"):
        leader.assert_order()


async def test_leadership_that_ignores_the_clock_is_noticed(
    etcd1: EtcdCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leap_s = 0.0
    async with EtcdReplicas(["a"], etcd1, tmp_path, clock=lambda: boot_clock() + leap_s) as cluster:
        engine = cluster.engine(await cluster.leader())
        monkeypatch.setattr(Election, "in_contact", True)
        leap_s = 1000.0
        assert engine.leadership().is_local, "the seeded bug; test_faults.py asserts the contrary of the real engine"
        leap_s = 0.0
