"""The memory engine keeps the contract, but for durability."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from callboard.consensus.interface import Engine, EngineStartError
from callboard.consensus.memory import MemoryEngine
from tests.consensus.conformance import LIMITS, Cluster, EngineConformance
from tests.consensus.machine import ListMachine


class MemoryCluster(Cluster):
    """One replica."""

    def build(self, replica_id: str, machine: ListMachine) -> Engine:
        """A fresh engine."""
        return MemoryEngine(machine, replica_id=replica_id, limits=LIMITS)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A started cluster of one."""
    cluster = MemoryCluster(["m1"])
    await cluster.start_all()
    yield cluster
    await cluster.close()


class TestMemory(EngineConformance):
    """The suite, with one replica."""


async def test_a_memory_engine_starts_only_once() -> None:
    engine = MemoryEngine(ListMachine())
    await engine.start()
    with pytest.raises(EngineStartError):
        await engine.start()
    await engine.stop()
