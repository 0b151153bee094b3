"""One replica as a process: `python -m harness.enginebench.node CONFIG`, driven by JSON lines on stdin.

CONFIG is a JSON object: engine, replica, directory, listen, peers (id, host, port), snapshot_entries, and for etcd
client_ports by replica. Requests carry an id, answers repeat it:

    {"id": 1, "do": "status"}                          -> leader, leads, applied
    {"id": 2, "do": "load", "prefix": "a", "count": 1000, "in_flight": 10, "seconds": 5}  -> figures of a load
    {"id": 3, "do": "stream", "prefix": "b", "in_flight": 400}     -> lines {"acknowledged": [numbers]} until the end
    {"id": 4, "do": "first_commit", "command": "c"}    -> answers when this replica has got the command committed
    {"id": 5, "do": "state", "prefix": "b"}            -> numbers of the commands with this prefix, behind a barrier
    {"id": 6, "do": "local_state", "prefix": "b"}      -> the same, without a barrier
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from attrs import define, field

from callboard.consensus.interface import (
    Applied,
    BarrierFailed,
    Engine,
    Leadership,
    NotApplied,
    Peer,
    ProposalError,
)

TIMEOUT_MS = 5000
PAUSE_S = 0.003


class NodeEngine(Protocol):
    """What this program asks of an engine."""

    def leadership(self) -> Leadership:
        """Who leads."""

    async def start(self) -> None:
        """Start."""

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """As `Engine.propose`."""

    async def barrier(self, *, timeout_ms: int) -> int:
        """As `Engine.barrier`."""


@define(eq=False)
class CommandList:
    """A state machine whose state is the list of its commands."""

    commands: list[bytes] = field(factory=list)

    def apply(self, _index: int, command: bytes) -> object:
        """Append the command."""
        self.commands.append(command)
        return len(self.commands)

    def snapshot(self) -> bytes:
        """One command per line."""
        return b"\n".join(self.commands)

    def restore(self, snapshot: bytes) -> None:
        """The inverse of `snapshot`."""
        self.commands = snapshot.split(b"\n") if snapshot else []


def build(config: dict[str, Any]) -> tuple[NodeEngine, Callable[[], list[bytes]]]:
    """The engine of this configuration, and how to read its state."""
    directory = Path(config["directory"])
    host, port = config["listen"].rsplit(":", 1)
    peers = tuple(Peer(peer["id"], peer["host"], peer["port"]) for peer in config["peers"])
    if config["engine"] == "unguarded":
        from harness.enginebench.unguarded import UnguardedEngine

        reference = UnguardedEngine(
            replica_id=config["replica"],
            directory=directory,
            listen=config["listen"],
            peers=peers,
            snapshot_entries=config["snapshot_entries"],
        )
        return reference, reference.items
    machine = CommandList()
    return _engine(config, machine, directory, peers=peers, host=host, port=int(port)), lambda: list(machine.commands)


def _engine(
    config: dict[str, Any], machine: CommandList, directory: Path, *, peers: tuple[Peer, ...], host: str, port: int
) -> Engine:
    if config["engine"] == "pysyncobj":
        from callboard.consensus.pysyncobj_engine.engine import PysyncobjEngine
        from callboard.consensus.pysyncobj_engine.options import CoreSettings, PysyncobjOptions

        settings = CoreSettings(
            snapshot_entries=config["snapshot_entries"], keep_entries=min(1000, config["snapshot_entries"] // 2)
        )
        options = PysyncobjOptions(
            data_dir=directory,
            replica_id=config["replica"],
            peers=peers,
            listen_host=host,
            listen_port=port,
            settings=settings,
        )
        return PysyncobjEngine(options, machine)
    if config["engine"] == "etcd":
        from callboard.consensus.etcd_engine.engine import EtcdEngine
        from callboard.consensus.etcd_engine.options import EtcdOptions, ManagedEtcd, ManagedPeer

        members = (*peers, Peer(config["replica"], host, port))
        managed = ManagedEtcd(
            tuple(
                ManagedPeer(member.replica_id, member.host, member.port, config["client_ports"][member.replica_id])
                for member in sorted(members, key=lambda member: member.replica_id)
            )
        )
        etcd_options = EtcdOptions(directory, managed=managed, snapshot_commands=config["snapshot_entries"])
        return EtcdEngine(machine, replica_id=config["replica"], options=etcd_options)
    if config["engine"] == "memory":
        from callboard.consensus.memory import MemoryEngine

        return MemoryEngine(machine, replica_id=config["replica"])
    raise ValueError(f"engine: {config['engine']!r} is none of pysyncobj, etcd, memory, unguarded")


class Node:
    """Answers requests from one engine."""

    def __init__(self, engine: NodeEngine, items: Callable[[], list[bytes]]) -> None:
        self._engine = engine
        self._items = items
        self._acknowledged: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, request: dict[str, Any]) -> None:
        """Start to answer a request."""
        action: Callable[..., Awaitable[dict[str, Any]]] = getattr(self, f"_{request['do']}")
        arguments = {name: value for name, value in request.items() if name not in ("id", "do")}
        task = asyncio.ensure_future(self._answer(request["id"], action(**arguments)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, work: Awaitable[dict[str, Any]]) -> None:
        try:
            say({"id": number, **await work})
        except (ProposalError, BarrierFailed) as error:
            say({"id": number, "error": f"{type(error).__name__}: {error}"})

    async def _status(self) -> dict[str, Any]:
        leadership = self._engine.leadership()
        return {"leader": leadership.leader, "leads": leadership.is_local, "applied": len(self._items())}

    async def _local_state(self, prefix: str) -> dict[str, Any]:
        start = prefix.encode() + b"-"
        return {"items": [int(command[len(start) :]) for command in self._items() if command.startswith(start)]}

    async def _state(self, prefix: str) -> dict[str, Any]:
        await self._engine.barrier(timeout_ms=TIMEOUT_MS)
        return await self._local_state(prefix)

    async def _load(self, prefix: str, count: int, in_flight: int, seconds: float) -> dict[str, Any]:
        latencies: list[float] = []
        failures = 0
        began = time.perf_counter()
        numbers = iter(range(count))

        async def work() -> None:
            nonlocal failures
            for number in numbers:
                start = time.perf_counter()
                if start - began > seconds:
                    return
                try:
                    await self._engine.propose(b"%s-%d" % (prefix.encode(), number), timeout_ms=TIMEOUT_MS)
                except ProposalError:
                    failures += 1
                else:
                    latencies.append(time.perf_counter() - start)

        await asyncio.gather(*(work() for _ in range(in_flight)))
        took = time.perf_counter() - began
        latencies.sort()
        return {
            "commits": len(latencies),
            "failures": failures,
            "seconds": took,
            "per_second": len(latencies) / took,
            "p50_ms": _percentile(latencies, 0.50),
            "p99_ms": _percentile(latencies, 0.99),
        }

    async def _stream(self, prefix: str, in_flight: int) -> dict[str, Any]:
        number = 0

        async def work() -> None:
            nonlocal number
            while True:
                mine, number = number, number + 1
                try:
                    await self._engine.propose(b"%s-%d" % (prefix.encode(), mine), timeout_ms=TIMEOUT_MS)
                except ProposalError:
                    await asyncio.sleep(PAUSE_S)
                else:
                    self._acknowledge(mine)
                    await asyncio.sleep(0)  # an engine that never waits would keep everything else from running

        await asyncio.gather(*(work() for _ in range(in_flight)))
        return {}

    def _acknowledge(self, number: int) -> None:
        if not self._acknowledged:
            asyncio.get_running_loop().call_soon(self._say_acknowledged)
        self._acknowledged.append(number)

    def _say_acknowledged(self) -> None:
        say({"acknowledged": self._acknowledged})
        self._acknowledged = []

    async def _first_commit(self, command: str) -> dict[str, Any]:
        tries = 0
        while True:
            tries += 1
            try:
                await self._engine.propose(command.encode(), timeout_ms=TIMEOUT_MS)
            except NotApplied:
                await asyncio.sleep(PAUSE_S)
            except ProposalError:
                continue
            else:
                return {"committed": True, "tries": tries}


def _percentile(values: list[float], share: float) -> float:
    return 1000 * values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def say(answer: dict[str, Any]) -> None:
    """One line on stdout, at once: what is written there survives this process."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Run until stdin ends."""
    config = json.loads(sys.argv[1])
    engine, items = build(config)
    await engine.start()
    node = Node(engine, items)
    say({"started": config["replica"]})
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        node.handle(json.loads(line))


if __name__ == "__main__":
    asyncio.run(main())
