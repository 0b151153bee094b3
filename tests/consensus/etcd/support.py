"""Replicas of the etcd engine in this process, each with its own cuttable way to a real etcd cluster."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from callboard.consensus.etcd_engine import EtcdEngine, EtcdOptions
from callboard.consensus.etcd_engine.options import split_endpoint
from callboard.consensus.interface import Engine
from harness.etcd import EtcdCluster
from tests.consensus.conformance import LIMITS, Ability, Cluster
from tests.consensus.machine import ListMachine

_numbers = itertools.count(1)


class Link:
    """A TCP forwarder. While it is cut it accepts and holds connections but passes nothing on, like a lost cable."""

    def __init__(self, target: str) -> None:
        self._host, self._port = split_endpoint(target)
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.endpoint = ""

    async def start(self) -> None:
        """Listen on a port of its own."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Pass nothing on from now."""
        self._open.clear()

    async def heal(self) -> None:
        """Pass on again. Connections from the time of the cut break."""
        if not self._open.is_set():
            await self.break_connections()
            self._open.set()

    async def break_connections(self) -> None:
        """End every connection."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Close everything."""
        await self.break_connections()
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        try:
            await self._open.wait()
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            writers.append(far_writer)
            pumps = [
                asyncio.ensure_future(self._pump(reader, far_writer)),
                asyncio.ensure_future(self._pump(far_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for each in writers:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            writer.write(data)
            await writer.drain()


class EtcdReplicas(Cluster):
    """Replicas over one etcd cluster, under a prefix that nobody used before."""

    abilities = frozenset({Ability.DURABLE, Ability.ISOLATE, Ability.COMPACT, Ability.HANG})

    def __init__(
        self,
        replica_ids: Sequence[str],
        etcd: EtcdCluster,
        directory: Path,
        *,
        clock: Callable[[], float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(replica_ids)
        self.etcd = etcd
        self.prefix = f"/callboard/test-{next(_numbers)}"
        self.directory = directory
        self.links: dict[str, list[Link]] = {}
        self._clock = clock
        self._options = {"lease_ttl_s": 1, **options}

    async def prepare(self) -> None:
        """Lay the replicas' links to etcd."""
        for replica_id in self.replica_ids:
            self.links[replica_id] = [Link(endpoint) for endpoint in self.etcd.endpoints]
            for link in self.links[replica_id]:
                await link.start()

    def options(self, replica_id: str) -> EtcdOptions:
        """The replica's settings."""
        return EtcdOptions(
            directory=self.directory / replica_id,
            endpoints=tuple(link.endpoint for link in self.links[replica_id]),
            prefix=self.prefix,
            **self._options,
        )

    def build(self, replica_id: str, machine: ListMachine) -> Engine:
        """An engine on the replica's directory."""
        more = {} if self._clock is None else {"clock": self._clock}
        options = self.options(replica_id)
        return EtcdEngine(machine, replica_id=replica_id, options=options, limits=LIMITS, **more)

    def engine(self, replica_id: str) -> EtcdEngine:
        """The running engine, by its own type."""
        engine = self.engines[replica_id]
        assert isinstance(engine, EtcdEngine)
        return engine

    async def kill(self, replica_id: str) -> None:
        """As far as etcd can tell, the process is gone: no resignation, the lease stays until it runs out."""
        engine = self.engine(replica_id)
        del self.engines[replica_id]
        await engine._shut_down(farewell=False)

    async def isolate(self, replica_id: str) -> None:
        """Cut the replica off from etcd."""
        for link in self.links[replica_id]:
            link.cut()

    async def heal(self) -> None:
        """Undo every `isolate`."""
        for link in itertools.chain.from_iterable(self.links.values()):
            await link.heal()

    async def compact(self, replica_id: str) -> None:
        """The leader writes the snapshot for all; etcd forgets its history as well."""
        await self.engine(replica_id).write_snapshot()
        await asyncio.to_thread(self.etcd.compact)

    async def __aenter__(self) -> Self:
        await self.prepare()
        try:
            await self.start_all()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the replicas, then their links."""
        await self.heal()
        await super().close()
        for link in itertools.chain.from_iterable(self.links.values()):
            await link.stop()
