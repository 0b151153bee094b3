"""Replicas that were away for long: 10,000 entries of log, and a snapshot the size of 14,000 members."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from attrs import evolve

from callboard.consensus.interface import EngineLimits
from callboard.consensus.pysyncobj_engine.options import CoreSettings, PysyncobjOptions
from tests.consensus.conformance import eventually, retry_barrier
from tests.consensus.pysyncobj_cluster import PysyncobjCluster

MEMBERS = 14_000
MEMBER_BYTES = 150


class BigCluster(PysyncobjCluster):
    """With room for many proposals at a time."""

    def options(self, replica_id: str) -> PysyncobjOptions:
        """Like the others, but for the limits, and patient: all replicas share one busy event loop."""
        return evolve(super().options(replica_id), limits=EngineLimits(), silence_ms=20_000)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[BigCluster]:
    """Three replicas that keep a long log."""
    cluster = BigCluster(tmp_path, ["r1", "r2", "r3"], CoreSettings(snapshot_entries=50_000, keep_entries=5))
    await cluster.open()
    await cluster.start_all()
    yield cluster
    await cluster.close()


async def propose_all(cluster: BigCluster, leader: str, commands: list[bytes]) -> None:
    for start in range(0, len(commands), 500):
        wave = commands[start : start + 500]
        await asyncio.gather(*(cluster.engines[leader].propose(command, timeout_ms=30_000) for command in wave))


async def test_ten_thousand_entries_are_caught_up_from_the_log(cluster: BigCluster) -> None:
    leader = await cluster.leader()
    away = next(name for name in cluster.replica_ids if name != leader)
    await cluster.kill(away)
    await propose_all(cluster, leader, [b"%d" % number for number in range(10_000)])
    await cluster.start(away)
    await eventually(lambda: len(cluster.machines[away].entries) == 10_000, "it has caught up")
    assert cluster.machines[away].restores == 0
    assert cluster.machines[away].entries == cluster.machines[leader].entries
    assert cluster.engines[leader].leadership().is_local, "the leader went on leading meanwhile"


async def test_a_large_snapshot_reaches_a_replica_that_was_away(cluster: BigCluster) -> None:
    leader = await cluster.leader()
    away = next(name for name in cluster.replica_ids if name != leader)
    await cluster.engines[leader].propose(b"before", timeout_ms=30_000)
    await cluster.kill(away)
    # The state machine keeps every command: 700 of these are as large as 14,000 members.
    await propose_all(cluster, leader, [b"%d" % number + b"m" * MEMBER_BYTES * 20 for number in range(MEMBERS // 20)])
    for name in cluster.engines:
        await retry_barrier(cluster.engines[name])
        await cluster.compact(name)
    await cluster.start(away)
    await eventually(lambda: len(cluster.machines[away].entries) == MEMBERS // 20 + 1, "it has caught up")
    assert cluster.machines[away].restores == 1
    assert cluster.machines[away].entries == cluster.machines[leader].entries
