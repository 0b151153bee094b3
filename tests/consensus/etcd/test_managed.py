"""Managed mode: callboard runs etcd as its own child, alone or with peers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from callboard.consensus.etcd_engine import EtcdEngine, EtcdOptions, ManagedEtcd, ManagedPeer
from callboard.consensus.etcd_engine import managed as managed_module
from callboard.consensus.etcd_engine.managed import EtcdChild, find_etcd
from callboard.consensus.interface import EngineStartError
from harness.etcd import EtcdMissing, find_or_install_etcd
from harness.processes import HOST, LEASH, REPOSITORY, PortLease
from tests.consensus.conformance import LIMITS, Ability, Cluster, eventually, settled
from tests.consensus.machine import ListMachine

pytestmark = pytest.mark.process


class ManagedReplicas(Cluster):
    """Replicas that each run an etcd member."""

    abilities = frozenset({Ability.DURABLE})

    def __init__(self, directory: Path, ports: list[int], **managed: object) -> None:
        count = len(ports) // 2
        super().__init__(["a", "b", "c"][:count])
        self.directory = directory
        self.peers = tuple(
            ManagedPeer(name, HOST, peer_port=ports[2 * number], client_port=ports[2 * number + 1])
            for number, name in enumerate(self.replica_ids)
        )
        self.settings = {"heartbeat_ms": 50, "election_ms": 500, **managed}

    def options(self, replica_id: str) -> EtcdOptions:
        """One command's worth of settings."""
        managed = ManagedEtcd(peers=self.peers, binary=find_or_install_etcd(), **self.settings)  # type: ignore[arg-type]
        return EtcdOptions(directory=self.directory / replica_id, managed=managed, lease_ttl_s=1)

    def build(self, replica_id: str, machine: ListMachine) -> EtcdEngine:
        """An engine with its child."""
        options = self.options(replica_id)
        return EtcdEngine(machine, replica_id=replica_id, options=options, limits=LIMITS)

    def etcd_child(self, replica_id: str) -> EtcdChild:
        """Of a replica that does not run."""
        options = self.options(replica_id)
        assert options.managed is not None
        return EtcdChild(options.managed, replica_id, options)

    def child(self, replica_id: str) -> int:
        """Process id of the replica's etcd; 0 if there is none at the moment."""
        details = dict(self.engines[replica_id].status().details)
        return int(details["etcd process"]) if details["etcd process"].isdigit() else 0

    async def kill(self, replica_id: str) -> None:
        """As if replica and child had died together."""
        os.kill(self.child(replica_id), signal.SIGKILL)
        engine = self.engines.pop(replica_id)
        assert isinstance(engine, EtcdEngine)
        await engine._shut_down(farewell=False)


@pytest.fixture
def ports() -> Iterator[PortLease]:
    """Ports for three members."""
    lease = PortLease(6)
    yield lease
    lease.release()


@pytest.fixture
async def alone(tmp_path: Path, ports: PortLease) -> AsyncIterator[ManagedReplicas]:
    """One replica with one member."""
    cluster = ManagedReplicas(tmp_path, ports.ports[:2])
    yield cluster
    await cluster.close()


async def test_one_replica_survives_the_death_of_its_etcd_and_of_itself(alone: ManagedReplicas) -> None:
    await alone.start_all()
    await alone.append(b"one")
    first = alone.child("a")
    os.kill(first, signal.SIGKILL)
    await alone.append(b"two")
    assert alone.child("a") not in {0, first}
    assert dict(alone.engines["a"].status().details)["etcd restarts"] == "1"
    await alone.kill("a")
    await alone.start("a")
    await alone.append(b"three")
    assert await settled(alone) == [b"one", b"two", b"three"]
    last = alone.child("a")
    await alone.stop("a")
    assert not psutil.pid_exists(last)
    assert (alone.directory / "a" / "etcd.log").exists()


async def test_three_replicas_start_one_after_the_other_and_lose_one(tmp_path: Path, ports: PortLease) -> None:
    cluster = ManagedReplicas(tmp_path, ports.ports)
    try:
        await cluster.start_all()
        await cluster.append(b"one")
        assert await settled(cluster) == [b"one"]
        victim = await cluster.leader()
        await cluster.kill(victim)
        await cluster.append(b"two")
        shutil.rmtree(tmp_path / victim)  # its disk is lost
        engine = await cluster.start(victim)
        reason = await asyncio.wait_for(engine.wait_failed(), 60)
        assert "if its disk is lost, replace the member" in str(reason)
        await cluster.append(b"three")
        await cluster.stop(victim)
        await cluster.etcd_child(victim).replace()
        await cluster.etcd_child(victim).replace()  # once more does no harm
        await cluster.start(victim)
        survivor = next(name for name in cluster.replica_ids if name != victim)
        assert await settled(cluster) == [b"one", b"two", b"three"]
        await cluster.kill(survivor)  # now the new member is needed for a majority
        await cluster.append(b"four")
        await cluster.start(survivor)
        assert await settled(cluster) == [b"one", b"two", b"three", b"four"]
        await cluster.stop(victim)
        with pytest.raises(EngineStartError, match="only a lost member is replaced"):
            await cluster.etcd_child(victim).replace()
    finally:
        await cluster.close()


async def test_etcd_dies_with_a_killed_parent_and_starts_again_at_once(
    alone: ManagedReplicas, ports: PortLease
) -> None:
    program = f"""
import asyncio
from pathlib import Path
from harness.processes import PortLease
from tests.consensus.etcd.test_managed import ManagedReplicas

async def main() -> None:
    cluster = ManagedReplicas(Path({str(alone.directory)!r}), {ports.ports[:2]!r})
    await cluster.start_all()
    await cluster.append(b"one")
    print(cluster.child("a"), flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'impl'}:{REPOSITORY}"}
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), sys.executable, "-c", program),
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        assert parent.stdout is not None
        child = psutil.Process(int(await parent.stdout.readline()))
        assert "etcd" in child.name()
    finally:
        parent.kill()
        await parent.wait()
    await eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "etcd dies too")
    await alone.start_all()
    await alone.append(b"two")
    assert await settled(alone) == [b"one", b"two"]


async def test_an_etcd_that_keeps_dying_fails_the_engine(
    tmp_path: Path, ports: PortLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed_module, "PAUSE_FIRST_S", 0.01)
    broken = tmp_path / "etcd-broken"
    broken.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    broken.chmod(0o755)
    cluster = ManagedReplicas(tmp_path, ports.ports[:2], restarts_max=2)
    peers = ManagedEtcd(peers=cluster.peers, binary=broken, restarts_max=2)
    options = EtcdOptions(directory=tmp_path / "a", managed=peers)
    engine = EtcdEngine(ListMachine(), replica_id="a", options=options)
    await engine.start()
    reason = str(await asyncio.wait_for(engine.wait_failed(), 60))
    assert "etcd ended 3 times" in reason
    assert "code 3" in reason
    assert "out of luck" in reason
    await engine.stop()


async def test_a_missing_program_and_a_used_port_are_named(
    alone: ManagedReplicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed_module, "PORT_PATIENCE_S", 0)
    port = alone.peers[0].client_port
    with socket.create_server((HOST, port)), pytest.raises(EngineStartError, match=f"cannot listen on {HOST}:{port}"):
        await alone.start("a")
    monkeypatch.setenv("PATH", str(alone.directory))
    with pytest.raises(EngineStartError, match="no etcd program in PATH: install it"):
        find_etcd()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EtcdMissing, match="apt-get install etcd-server"):
        find_or_install_etcd()
    with pytest.raises(EngineStartError, match="etcd binary /nowhere/etcd: no such program"):
        find_etcd(Path("/nowhere/etcd"))


def test_a_replica_must_be_among_its_peers(alone: ManagedReplicas) -> None:
    with pytest.raises(ValueError, match="etcd peers a must name b once"):
        alone.build("b", ListMachine())


async def test_the_log_of_etcd_stays_within_bounds(tmp_path: Path, ports: PortLease) -> None:
    cluster = ManagedReplicas(tmp_path, ports.ports[:2], log_bytes_max=64 * 1024)
    child = cluster.etcd_child("a")
    (tmp_path / "a").mkdir()
    log = tmp_path / "a" / "etcd.log"
    log.write_bytes(b"x" * 70_000)
    child._trim_log()
    assert log.stat().st_size == 0
    assert (tmp_path / "a" / "etcd.log.1").stat().st_size == 70_000
    log.unlink()
    child._trim_log()  # somebody took it away: no reason to stop
