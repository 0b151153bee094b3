"""A cluster under test: real replicas and hosts, where every ordered pair of peers meets through a link of its own.

Names of processes are `replica-1`, ..., `h1`, ... and of clients `c1`, ...: those of the links' ends. A replica has two
ends to be dialled at: its gRPC port under its own name, and its consensus port under NAME.raft. With the etcd engine it
has a member of etcd beside it, at NAME.etcd; members of etcd talk to each other directly.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Protocol, Self

import grpc.aio
from attrs import Factory, define, evolve, field, frozen

from callboard.core.slot_records import HandoffSettings
from callboard.core.versions import Policy
from harness.etcd import EtcdCluster
from harness.faults.bugs import BUGS, Where
from harness.faults.managed import WARN, EtcdMemberUnderTest, HostUnderTest, Managed, Replica
from harness.faults.proxies import Link, Network
from harness.processes import HOST, REPOSITORY, PortLease, Ports, ProcessError, ServerProcess, wait_until
from harness.sidecars.shell import Sidecar

RAFT = ".raft"
ETCD = ".etcd"
NAMESPACE = "actors"
REGISTER = "register"
SIDECARS = "sidecars"
READY_DEADLINE_S = 90.0
STORE_LOCK_DEADLINE_S = 10.0
ELECTION_MS = 3000

TIMES = HandoffSettings(
    lease_ms=2500, drain_ms=500, margin_ms=200, tick_ms=200, rate_error_ppm=10_000, failure_timeout_ms=3000
)
REGISTER_TIMES = evolve(TIMES, failure_timeout_ms=600_000)
"""Nobody is removed there for being silent: only operators remove, and the history has when they do."""


@frozen
class ClusterSettings:
    """`hosts` run from the start; up to `spare_hosts` more may join. `clients`: how many ends callers dial from."""

    engine: str = "pysyncobj"
    replicas: int = 3
    hosts: int = 3
    spare_hosts: int = 2
    clients: int = 2
    policy: Policy = Policy.EXCLUSIVE
    times: HandoffSettings = TIMES
    slot_bits: int = 8
    disseminate_timeout_ms: int = 3000
    member_grace_ms: int = 6000
    feature_level: int | None = None
    """That the replicas raise their group to; None for the newest."""
    bug: str = ""
    """See `bugs`: the processes that it is of run with it."""
    witness: bool = False
    """Whether replicas say what they synced (see `witness`), so that a disk can lose the rest."""
    flags: tuple[str, ...] = ()

    def serve_flags(self) -> tuple[str, ...]:
        """What every replica is told."""
        times = self.times
        return (
            *("--engine", self.engine, f"--native-policy={self.policy.value}", f"--slot-bits={self.slot_bits}"),
            *(f"--lease={times.lease_ms}ms", f"--drain={times.drain_ms}ms", f"--margin={times.margin_ms}ms"),
            *(f"--tick={times.tick_ms}ms", f"--failure-timeout={times.failure_timeout_ms}ms"),
            *(f"--clock-rate-error-ppm={times.rate_error_ppm}", f"--max-isolation={times.max_isolation_ms}ms"),
            f"--disseminate-timeout={self.disseminate_timeout_ms}ms",
            f"--member-grace-period={self.member_grace_ms}ms",
            *((f"--feature-level={self.feature_level}",) if self.feature_level is not None else ()),
            *self.flags,
        )


class SimulatedSidecars(Protocol):
    """What faults may do with the sidecars of a workload."""

    def add(self) -> Sidecar:
        """One more."""

    async def kill(self, sidecar: Sidecar, /) -> None:
        """Break its connection without a word."""

    def awake(self) -> list[Sidecar]:
        """Those that are neither silent nor about to leave."""


@define(eq=False)
class FaultCluster:
    """See the module's description. An async context manager: everything runs inside, and nothing after it."""

    directory: Path
    settings: ClusterSettings = Factory(ClusterSettings)
    replicas: dict[str, Replica] = Factory(dict)
    hosts: dict[str, HostUnderTest] = Factory(dict)
    etcd: dict[str, EtcdMemberUnderTest] = Factory(dict)
    sidecars: SimulatedSidecars | None = None
    """Once a workload has some."""
    network: Network = field(init=False)
    _etcd_cluster: EtcdCluster | None = None
    _lease: PortLease | None = None

    def __attrs_post_init__(self) -> None:
        self.network = Network(self.directory)

    # -- life cycle --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        await self.network.__aenter__()
        try:
            if self.settings.engine == "etcd":
                await asyncio.to_thread(self._start_etcd)
            await self._build()
            for replica in self.replicas.values():
                replica.start()
            await self.wait_ready()
            for replica in self.replicas.values():
                if not replica.alive:
                    raise ProcessError(f"{replica.name} ended by itself as soon as it was started")
        except BaseException as error:
            error.add_note("\n".join(replica.process.log_tail() for replica in self.replicas.values()))
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        # One that does not die must not keep the others alive.
        killed = await asyncio.gather(*(process.kill() for process in self.processes()), return_exceptions=True)
        try:
            if self._etcd_cluster is not None:
                await asyncio.to_thread(self._etcd_cluster.__exit__, None, None, None)
        finally:
            await self.network.__aexit__()
            if self._lease is not None:
                self._lease.release()
        for error in killed:
            if error is not None:
                raise error

    def _start_etcd(self) -> None:
        # Signals of a thread that ends would end its children: see leash.
        self._etcd_cluster = EtcdCluster(self.directory / "etcd", self.settings.replicas)
        self._etcd_cluster.__enter__()
        for number in range(self.settings.replicas):
            member = EtcdMemberUnderTest(self._etcd_cluster, number)
            self.etcd[member.name] = member

    async def _build(self) -> None:
        """Ports, links and processes that are not started yet."""
        settings = self.settings
        self._lease = PortLease(4 * settings.replicas + settings.hosts + settings.spare_hosts)
        numbers = iter(self._lease.ports)
        names = [f"replica-{number}" for number in range(1, settings.replicas + 1)]
        ports = {name: Ports(next(numbers), next(numbers), next(numbers), next(numbers)) for name in names}
        host_ports = {f"h{n}": next(numbers) for n in range(1, settings.hosts + settings.spare_hosts + 1)}
        await self._link(names, ports, host_ports)
        for name in names:
            self.replicas[name] = Replica(self._replica(name, ports))
        store = str(self.directory / "state.db")
        for name, port in host_ports.items():
            dial = [
                (f"{HOST}:{ports}", self.dialled(name, other)) for other, ports in host_ports.items() if other != name
            ]
            arguments = {
                "cluster": ",".join(self.addresses(name)),
                "namespace": NAMESPACE,
                "policy": settings.policy.value,
                "store": store,
                "dial": ",".join(f"{known}={used}" for known, used in dial),
            }
            program = self._program(Where.HOST, "harness.faults.workload_host")
            self.hosts[name] = HostUnderTest(name, port, self.directory, arguments, program)

    async def _link(self, names: list[str], ports: Mapping[str, Ports], host_ports: Mapping[str, int]) -> None:
        pairs = []
        for name in names:
            dialled_by = [*(other for other in names if other != name), *host_ports, *self.clients(), "sidecars"]
            pairs += [(source, name, ports[name].grpc) for source in dialled_by]
            # Of two replicas the one with the greater id dials.
            pairs += [(source, name + RAFT, ports[name].consensus) for source in names if source > name]
        for name, member in zip(names, self.etcd.values(), strict=False):
            pairs += [(source, name + ETCD, member.port) for source in names]
        for name, port in host_ports.items():
            others = [*(other for other in host_ports if other != name), *self.clients()]
            pairs += [(source, name, port) for source in others]
        for source, target, port in pairs:
            await self.network.connect(source, target, f"{HOST}:{port}")

    def _replica(self, name: str, ports: Mapping[str, Ports]) -> ServerProcess:
        peers = ",".join(f"{other}={HOST}:{ports[other].consensus}" for other in ports)
        dial = [f"{other}={self.dialled(name, other + RAFT)}" for other in ports if name > other]
        services = [f"{other}={self.dialled(name, other)}" for other in ports if other != name]
        flags = [
            *("--initial-cluster", peers, *self.settings.serve_flags()),
            *("--replicas", ",".join([f"{name}={HOST}:{ports[name].grpc}", *services])),
            *(("--raft-dial", ",".join(dial)) if dial and self.settings.engine == "pysyncobj" else ()),
        ]
        if self.etcd:
            flags += ["--etcd-endpoints", ",".join(self.dialled(name, other + ETCD) for other in ports)]
        environment = {"PYTHONPATH": f"{REPOSITORY / 'impl'}{os.pathsep}{REPOSITORY}", **WARN}
        program = self._program(Where.REPLICA, "callboard.cli.main", self.witness_path(name))
        return ServerProcess(name, ports[name], self.directory / name, flags, environment, program=program)

    def _program(self, where: Where, usual: str, seen_in: Path | None = None) -> tuple[str, ...]:
        """What runs as a replica or host: the usual module, unless it has a bug or is to be watched."""
        settings, options = self.settings, list[str]()
        if settings.bug and BUGS[settings.bug].where is where:
            options += ["--bug", settings.bug]
        if settings.witness and seen_in is not None:
            options += ["--witness", str(seen_in)]
        return ("harness.faults.launched", *options, where.value) if options else (usual,)

    def witness_path(self, name: str) -> Path:
        """Where a replica's witness of syncs writes, if it has one."""
        return self.directory / f"{name}.synced"

    # -- names and addresses -----------------------------------------------------------------------------

    def clients(self) -> list[str]:
        """Ends from which the run's own callers dial."""
        return [f"c{number}" for number in range(1, self.settings.clients + 1)]

    def processes(self) -> list[Managed]:
        """All of them."""
        return [*self.replicas.values(), *self.hosts.values(), *self.etcd.values()]

    def permanent(self) -> list[Managed]:
        """All that run from the start. Runs without actors have no hosts."""
        hosts = [host for host in self.first_hosts() if host.generation]
        return [*self.etcd.values(), *self.replicas.values(), *hosts]

    def first_hosts(self) -> list[HostUnderTest]:
        """Those that run from the start."""
        return list(self.hosts.values())[: self.settings.hosts]

    def spare_hosts(self) -> list[HostUnderTest]:
        """Those that may join."""
        return list(self.hosts.values())[self.settings.hosts :]

    def dialled(self, source: str, target: str) -> str:
        """Where `source` dials to reach `target`."""
        return self.network.links[source, target].address

    def addresses(self, source: str) -> list[str]:
        """Where `source` dials the replicas."""
        names = [f"replica-{number}" for number in range(1, self.settings.replicas + 1)]
        return [self.dialled(source, name) for name in names]

    def host_addresses(self, source: str) -> dict[str, str]:
        """Where `source` dials hosts, by the addresses in the tables."""
        return {host.address: self.dialled(source, name) for name, host in self.hosts.items() if name != source}

    def links(self, source: str, target: str) -> list[Link]:
        """Links over which `source` dials `target`."""
        known = self.network.links
        return [known[source, end] for end in (target, target + RAFT, target + ETCD) if (source, end) in known]

    # -- states ------------------------------------------------------------------------------------------

    async def wait_ready(self, *, deadline_s: float = READY_DEADLINE_S) -> float:
        """Wait until all replicas that run are ready."""

        async def ready() -> bool:
            return all([await replica.process.ready() for replica in self.replicas.values() if replica.alive])

        return await wait_until(ready, deadline_s=deadline_s, what="replicas are ready")

    async def leader(self, *, deadline_s: float = 30.0) -> Replica:
        """The replica in office, of the newest epoch. Raises TimeoutError."""
        found: list[tuple[int, Replica]] = []

        async def known() -> bool:
            statuses = await asyncio.gather(*(self._office(replica) for replica in self.replicas.values()))
            found[:] = [status for status in statuses if status is not None]
            return bool(found)

        await wait_until(known, deadline_s=deadline_s, what="a leader in office")
        return max(found, key=lambda claim: claim[0])[1]

    async def _office(self, replica: Replica) -> tuple[int, Replica] | None:
        if replica.alive and replica.kernel_state() != "T":
            with suppress(grpc.aio.AioRpcError, TimeoutError):
                async with asyncio.timeout(2):
                    status = await replica.process.status()
                return (int(status.epoch), replica) if status.in_office else None
        return None

    async def heal(self) -> None:
        """Every link whole, every process of the beginning running, nothing stopped."""
        for process in self.processes():
            process.resume()
        await self.network.heal()
        for process in self.permanent():
            await process.start_again()
        for host in self.spare_hosts():
            await host.kill()

    @contextmanager
    def store_locked(self) -> Iterator[None]:
        """Hold the write lock of the actors' store, so that a host that is frozen meanwhile does not hold it: its lock
        would stop everybody who shares the file. (That is SQLite's limit, not the placement's.)"""

        with closing(self._store_connection()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")

    def _store_connection(self) -> sqlite3.Connection:
        # Taken and given back by different threads.
        return sqlite3.connect(
            self.directory / "state.db",
            timeout=STORE_LOCK_DEADLINE_S,
            isolation_level=None,
            check_same_thread=False,
        )

    def remove_data(self, name: str) -> Path:
        """Move a replica's directory away; returns where it is now."""
        data = self.replicas[name].process.data_dir
        kept = data.with_name("data.kept")
        shutil.rmtree(kept, ignore_errors=True)
        data.rename(kept)
        data.mkdir()
        return kept

    def restore_data(self, name: str, kept: Path) -> None:
        """Undo `remove_data`."""
        data = self.replicas[name].process.data_dir
        shutil.rmtree(data)
        kept.rename(data)


def others(names: Iterable[str], *without: str) -> list[str]:
    """`names` without some, in order."""
    return [name for name in names if name not in without]
