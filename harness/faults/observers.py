"""What a run writes down beside its operations: tables, replicas' states, sidecars' orders, hosts' traces, logs."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from attrs import define, field

from callboard.host.app import WATCH
from callboard.protos.generated import host_pb2
from harness.faults.checkers.convergence import ARRIVING
from harness.faults.checkers.replicas import LEAKS
from harness.faults.clients import CHANNEL_OPTIONS, watch_request
from harness.faults.cluster import NAMESPACE, SIDECARS, FaultCluster
from harness.faults.history import LINE_BYTES_MAX, Recorder
from harness.faults.managed import HostUnderTest, Replica
from harness.faults.workload_host import COLUMNS
from harness.processes import wait_until
from harness.sidecars.checks import WireChecks
from harness.sidecars.events import SidecarSpec
from harness.sidecars.tables import Order

AGAIN_S = 0.3
POLL_S = 0.5
STALL_PERIOD_S = 0.05
STALL_MS = 150
ENDS_PERIOD_S = 0.2
POLL_TIMEOUT_S = 1.5
LOG_LINES_MAX = 50
BAD_LINE = re.compile(r"\[(error|critical|exception)|" + LEAKS.pattern, re.IGNORECASE)


async def watch_tables(address: str, namespace: str, install: Any) -> None:
    """Follow the tables at one address for ever; `install(connection, update)` is called with each change."""
    connection = 0
    while True:
        connection += 1
        with suppress(grpc.aio.AioRpcError):
            async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
                call: grpc.aio.UnaryStreamCall[Any, Any] = channel.unary_stream(
                    WATCH,
                    request_serializer=host_pb2.WatchRequest.SerializeToString,
                    response_deserializer=host_pb2.WatchUpdate.FromString,
                )(watch_request(namespace))
                while isinstance(update := await call.read(), host_pb2.WatchUpdate):
                    if update.HasField("table"):
                        install(connection, update.table)
        await asyncio.sleep(AGAIN_S)


@define(eq=False)
class Observers:
    """All of them. `start`, then `stop`."""

    cluster: FaultCluster
    recorder: Recorder
    versions: dict[str, int] = field(factory=dict)
    """The newest that replicas told, by namespace."""
    _installed_by: dict[tuple[str, str], int] = field(factory=dict)
    """What watchers have, by namespace and name."""
    _tasks: list[asyncio.Task[None]] = field(factory=list)

    def start(self, namespaces: list[str]) -> None:
        """Observe until `stop`."""
        self._begin(self._stalls())
        self._begin(self._ends())
        for replica in self.cluster.replicas.values():
            self._begin(self._poll(replica))
            for namespace in namespaces:
                self._begin(watch_tables(replica.process.address, namespace, self._committed(namespace, replica.name)))
        for source in self.cluster.clients():
            address = self.cluster.addresses(source)[0]
            for namespace in namespaces:
                self._begin(watch_tables(address, namespace, self._installed(namespace, f"watch-{source}")))

    def _begin(self, work: Any) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    async def stop(self) -> None:
        """Idempotent. Raises what an observer died of."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def wait_arrived(self, hosts: Iterable[HostUnderTest], deadline_s: float) -> None:
        """Return when these hosts and all watchers have the versions that are the newest now, or at the deadline:
        whoever checks the history then finds who has not."""
        self.recorder.note(ARRIVING, versions=dict(self.versions))
        wanted, waiting = dict(self.versions), list(hosts)

        async def arrived() -> bool:
            if self.behind(waiting, wanted):
                await asyncio.sleep(POLL_S)  # traces are read as a whole
                return False
            return True

        with suppress(TimeoutError):
            await wait_until(arrived, deadline_s=deadline_s, what="tables that have to arrive")

    def behind(self, hosts: Iterable[HostUnderTest], wanted: Mapping[str, int] | None = None) -> list[str]:
        """Names of hosts and watchers that do not have these versions, by namespace; by default the newest ones."""
        wanted = self.versions if wanted is None else wanted
        late = [name for (namespace, name), version in self._installed_by.items() if version < wanted.get(namespace, 0)]
        if NAMESPACE in wanted:
            late += [host.name for host in hosts if _newest_table(host) < wanted[NAMESPACE]]
        return late

    async def _stalls(self) -> None:
        """Write down when this process, and so most likely the machine, could not run for a while: bounds on times are
        lengthened by that much."""
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(STALL_PERIOD_S)
            late_ms = round((time.monotonic() - asleep - STALL_PERIOD_S) * 1000)
            if late_ms >= STALL_MS:
                self.recorder.note("stall", late_ms=late_ms)

    async def _ends(self) -> None:
        """Write down which processes ended without having been told to."""
        while True:
            note_ends(self.cluster, self.recorder)
            await asyncio.sleep(ENDS_PERIOD_S)

    def _committed(self, namespace: str, replica: str) -> Any:
        def note(_connection: int, table: host_pb2.TableDelta) -> None:
            self.versions[namespace] = max(self.versions.get(namespace, 0), table.to_version)
            self.recorder.note(
                "committed",
                namespace=namespace,
                replica=replica,
                version=table.to_version,
                from_version=table.from_version,
                digest=table.digest.hex(),
            )

        return note

    def _installed(self, namespace: str, host: str) -> Any:
        def note(connection: int, table: host_pb2.TableDelta) -> None:
            self._installed_by[namespace, host] = table.to_version
            self.recorder.note(
                "table",
                namespace=namespace,
                host=host,
                incarnation=connection,
                version=table.to_version,
                digest=table.digest.hex(),
            )

        return note

    async def _poll(self, replica: Replica) -> None:
        while True:
            if not replica.alive:
                self.recorder.note("replica", replica=replica.name, alive=False)
            else:
                with suppress(grpc.aio.AioRpcError, TimeoutError):
                    async with asyncio.timeout(POLL_TIMEOUT_S):
                        status = await replica.process.status()
                    self._polled(replica.name, status)
            await asyncio.sleep(POLL_S)

    def _polled(self, name: str, status: Any) -> None:
        self.recorder.note(
            "replica",
            replica=name,
            alive=True,
            leader=status.leader,
            term=status.term,
            epoch=status.epoch,
            in_office=status.in_office,
            generation=status.generation,
            applied_index=status.applied_index,
            state_digest=status.state_digest,
            peers_connected=list(status.peers_connected),
            **_vote(dict(status.engine_details)),
        )


def _vote(details: dict[str, str]) -> dict[str, Any]:
    """The durable vote, if the engine votes. It belongs to a directory: a replacement begins anew."""
    if "vote_term" not in details:
        return {}
    return {
        "directory": details["directory_id"],
        "vote_term": int(details["vote_term"]),
        "voted_for": details["voted_for"],
    }


def _newest_table(host: HostUnderTest) -> int:
    """Version of the last table that the present process installed, by its trace; 0 if none."""
    lines = (line for line in trace_lines(host.trace_path) if line["kind"] == "table")
    return max((int(line["version"]) for line in lines if line["at_ns"] >= host.started_ns), default=0)


class RecordingChecks(WireChecks):
    """Writes the orders of simulated sidecars down, and the tables that they bring."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._versions: dict[str, int] = {}

    def saw(self, spec: SidecarSpec, attempt: int, order: Order) -> None:
        """See `WireChecks`."""
        known = len(self.violations)
        super().saw(spec, attempt, order)
        for violation in self.violations[known:]:
            self._recorder.note("wire", violation=violation)
        self._recorder.note(
            "order",
            namespace=SIDECARS,
            sidecar=spec.name,
            attempt=attempt,
            operation=order.operation,
            version=order.version,
        )
        if order.operation == "update" and order.tables is not None and self._versions.get(spec.name) != order.version:
            self._versions[spec.name] = order.version
            self._recorder.note(
                "table",
                namespace=SIDECARS,
                host=spec.name,
                incarnation=1,
                version=order.version,
                digest=order.tables.digest,
            )


# -- after the run ---------------------------------------------------------------------------------------


def note_ends(cluster: FaultCluster, recorder: Recorder) -> None:
    """Write down ends that nobody asked for and that were not told yet."""
    for process in cluster.processes():
        for ended in process.take_unasked():
            recorder.note("process", name=process.name, what="exited", code=ended.code, expected=ended.expected)


def collect(cluster: FaultCluster, recorder: Recorder) -> None:
    """Append what host processes and the store wrote themselves, in the order of time."""
    note_ends(cluster, recorder)
    recorder.note("watched", processes=[process.name for process in cluster.processes() if process.generation])
    lines = [line for host in cluster.hosts.values() for line in trace_lines(host.trace_path)]
    for line in sorted(lines, key=lambda line: int(line["at_ns"])):
        recorder.note(str(line.pop("kind")), **line)
    store = cluster.directory / "state.db"
    if store.exists():
        _collect_store(store, recorder)
    logs = {name: replica.process.log_path for name, replica in cluster.replicas.items()}
    logs |= {name: host.log_path for name, host in cluster.hosts.items() if host.log_path.exists()}
    for name, path in logs.items():
        for bad in bad_lines(path):
            recorder.note("log", process=name, line=bad)


def trace_lines(path: Path) -> list[dict[str, Any]]:
    """A host's trace, without a torn last line. (A torn line in the middle is what a kill left before a restart.)"""
    lines = []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            with suppress(ValueError):
                if len(line) < LINE_BYTES_MAX:
                    lines.append(json.loads(line))
    return lines


def _collect_store(store: Path, recorder: Recorder) -> None:
    between_ns = time.time_ns() - time.monotonic_ns()
    with closing(sqlite3.connect(store)) as connection:
        for at_ms, actor, fence, accepted, kind, token, host, incarnation in connection.execute(
            f"SELECT {COLUMNS} FROM access ORDER BY number"  # noqa: S608
        ):
            at_ns = at_ms * 1_000_000 - between_ns
            recorder.note(
                "store",
                at_ns=at_ns,
                actor=actor,
                fence=fence,
                accepted=bool(accepted),
                host=host,
                incarnation=incarnation,
                access=kind,
            )
            if kind == "save" and accepted:
                recorder.note("effect", at_ns=at_ns, actor=actor, token=token, host=host, fence=fence)


def bad_lines(path: Path) -> list[str]:
    """Errors, and what speaks of a bug first: no number of ordinary errors may hide it."""
    found = [line for line in path.read_text(errors="replace").splitlines() if BAD_LINE.search(line)]
    found.sort(key=lambda line: not LEAKS.search(line))
    return [line[:500] for line in found[:LOG_LINES_MAX]]
