"""A backup becomes a new cluster in etcd, once, and never over an existing one."""

from __future__ import annotations

from pathlib import Path

import pytest

from callboard.consensus.archive import take_archive
from callboard.consensus.etcd_engine import EtcdOptions, EtcdSeeder
from callboard.consensus.etcd_engine.client import EtcdClient
from callboard.consensus.etcd_engine.errors import EtcdUnreachable
from callboard.consensus.interface import EngineStartError
from callboard.consensus.memory import MemoryEngine
from harness.etcd import EtcdCluster
from tests.consensus.conformance import TIMEOUT_MS, settled
from tests.consensus.etcd.support import EtcdReplicas
from tests.consensus.machine import ListMachine

pytestmark = pytest.mark.process

MACHINE = ListMachine(entries=[(5, b"old"), (41, b"older" * 1000)])


def seeder(etcd: EtcdCluster, directory: Path, prefix: str) -> EtcdSeeder:
    """One with small parts."""
    return EtcdSeeder(
        EtcdOptions(directory=directory, endpoints=etcd.endpoints, prefix=prefix, snapshot_chunk_bytes=1024)
    )


async def test_a_seeded_cluster_continues_after_the_position(etcd1: EtcdCluster, tmp_path: Path) -> None:
    replicas = EtcdReplicas(["a", "b"], etcd1, tmp_path, snapshot_commands=3)
    cluster_id = await seeder(etcd1, tmp_path, replicas.prefix).seed(41, MACHINE.snapshot())
    async with replicas:
        assert dict(replicas.engines["a"].status().details)["cluster id"] == cluster_id
        assert [(await replicas.append(b"%d" % number)).index for number in range(5)] == [42, 43, 44, 45, 46]
        commands = await settled(replicas)
        assert commands == [b"old", b"older" * 1000, *(b"%d" % number for number in range(5))]
        for name in ("a", "b"):
            await replicas.stop(name)
        await replicas.start_all()
        assert await settled(replicas) == commands
    with pytest.raises(EngineStartError, match="is in use"):
        await seeder(etcd1, tmp_path, replicas.prefix).seed(41, MACHINE.snapshot())


async def test_a_backup_moves_a_cluster_from_one_engine_to_another(etcd1: EtcdCluster, tmp_path: Path) -> None:
    machine = ListMachine()
    engine = MemoryEngine(machine)
    await engine.start()
    for number in range(4):
        await engine.propose(b"%d" % number, timeout_ms=TIMEOUT_MS)
    archive = await take_archive(
        engine, machine, cluster_id="old", created_unix_ms=1, software="a test", timeout_ms=TIMEOUT_MS
    )
    await engine.stop()
    assert (archive.header.index, archive.header.engine) == (4, "memory")
    replicas = EtcdReplicas(["a"], etcd1, tmp_path)
    await seeder(etcd1, tmp_path, replicas.prefix).seed(archive.header.index, archive.state)
    async with replicas:
        assert (await replicas.append(b"4")).index == 5
        assert await settled(replicas) == [b"%d" % number for number in range(5)]


async def test_seeding_that_broke_off_is_repeated(
    etcd1: EtcdCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas = EtcdReplicas(["a"], etcd1, tmp_path)
    original, sent = EtcdClient.txn, 0

    async def breaking(*arguments: object, **more: object) -> object:
        nonlocal sent
        sent += 1
        if sent == 5:
            raise EtcdUnreachable("the cable")
        return await original(*arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(EtcdClient, "txn", breaking)
        with pytest.raises(EngineStartError, match="the cable"):
            await seeder(etcd1, tmp_path, replicas.prefix).seed(41, MACHINE.snapshot())
    await seeder(etcd1, tmp_path, replicas.prefix).seed(41, MACHINE.snapshot())
    async with replicas:
        assert len(await settled(replicas)) == 2
