"""Clusters of the embedded engine in this process, every link through a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve

from callboard.consensus.interface import Engine, Peer
from callboard.consensus.pysyncobj_engine.disk import Disk
from callboard.consensus.pysyncobj_engine.engine import PysyncobjEngine
from callboard.consensus.pysyncobj_engine.options import CoreSettings, PysyncobjOptions
from tests.consensus.conformance import LIMITS, Ability, Cluster, eventually
from tests.consensus.machine import ListMachine
from tests.consensus.proxy import Proxy

QUICK = CoreSettings(election_min_ms=400, election_max_ms=800, heartbeat_ms=80, fallback_ms=1000, keep_entries=5)


class PysyncobjCluster(Cluster):
    """n replicas under one directory. `options` may be changed before `start`."""

    abilities = frozenset(Ability)

    def __init__(self, directory: Path, replica_ids: Sequence[str], settings: CoreSettings = QUICK) -> None:
        super().__init__(replica_ids)
        self.directory = directory
        self.proxies: dict[tuple[str, str], Proxy] = {}
        self.settings = settings
        self.wrappers: dict[str, object] = {}

    async def open(self) -> None:
        """Set up the proxies."""
        for dialler in self.replica_ids:
            for target in self.replica_ids:
                if dialler > target:
                    proxy = Proxy(lambda target=target: self.port_of(target))  # type: ignore[misc]
                    await proxy.start()
                    self.proxies[dialler, target] = proxy

    def port_of(self, replica_id: str) -> int:
        """Where the replica listens now; a port that refuses if it does not run."""
        engine = self.engines.get(replica_id)
        return engine.port if isinstance(engine, PysyncobjEngine) and engine.port else 1

    def options(self, replica_id: str) -> PysyncobjOptions:
        """What `build` gives the engine."""
        peers = tuple(
            Peer(other, "127.0.0.1", self.proxies[replica_id, other].port if replica_id > other else 1)
            for other in self.replica_ids
            if other != replica_id
        )
        return PysyncobjOptions(
            data_dir=self.directory / replica_id,
            replica_id=replica_id,
            peers=peers,
            settings=self.settings,
            limits=LIMITS,
            reconnect_ms=20,
            silence_ms=3000,
        )

    def wrap_disk(self, replica_id: str, disk: Disk) -> Disk:
        """Tests put failing disks here."""
        return disk

    def build(self, replica_id: str, machine: ListMachine) -> Engine:
        """A new engine object over the replica's directory."""
        return PysyncobjEngine(
            evolve(self.options(replica_id)), machine, wrap_disk=lambda disk: self.wrap_disk(replica_id, disk)
        )

    def engine(self, replica_id: str) -> PysyncobjEngine:
        """The engine with its real type."""
        engine = self.engines[replica_id]
        assert isinstance(engine, PysyncobjEngine)
        return engine

    async def kill(self, replica_id: str) -> None:
        """Let go of files and links at once."""
        engine = self.engine(replica_id)
        del self.engines[replica_id]
        engine.abort()
        await asyncio.sleep(0)
        await engine.stop()

    async def isolate(self, replica_id: str) -> None:
        """Swallow what passes on the replica's links."""
        for pair, proxy in self.proxies.items():
            if replica_id in pair:
                proxy.swallow()

    async def heal(self) -> None:
        """Let everything pass."""
        for proxy in self.proxies.values():
            proxy.heal()

    async def compact(self, replica_id: str) -> None:
        """Ask for a snapshot and wait until the log stands on it."""
        engine = self.engine(replica_id)
        before = dict(engine.status().details)["snapshot_index"]
        engine.compact_now()
        await eventually(lambda: dict(engine.status().details)["snapshot_index"] != before, "a snapshot is written")

    async def close(self) -> None:
        """Stop replicas and proxies."""
        await super().close()
        for proxy in self.proxies.values():
            await proxy.close()
