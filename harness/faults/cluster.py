"""A cluster under test: real replicas and hosts, where every ordered pair of peers meets through a link of its own.

Names of processes are `replica-1`, ..., `h1`, ... and of clients `c1`, ...: those of the links' ends. A replica has two
ends to be dialled at: its gRPC port under its own name, and its consensus port under NAME.raft.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Self

import grpc.aio
from attrs import Factory, define, evolve, field, frozen

from callboard.core.slot_records import HandoffSettings
from callboard.core.versions import Policy
from harness.faults.proxies import Link, Network
from harness.processes import HOST, LEASH, REPOSITORY, PortLease, Ports, ProcessError, ServerProcess, wait_until

RAFT = ".raft"
NAMESPACE = "actors"
REGISTER = "register"
SIDECARS = "sidecars"
READY_DEADLINE_S = 90.0
EXIT_DEADLINE_S = 40.0
STORE_LOCK_DEADLINE_S = 10.0
ELECTION_MS = 3000

TIMES = HandoffSettings(
    lease_ms=2500, drain_ms=500, margin_ms=200, tick_ms=200, rate_error_ppm=10_000, failure_timeout_ms=3000
)
REGISTER_TIMES = evolve(TIMES, failure_timeout_ms=600_000)
"""A weight can be read of a member only, so nobody is removed there."""


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
            *self.flags,
        )


class Managed:
    """Signals to one process, alike for replicas and hosts."""

    name: str
    generation: int = 0
    """How often it was started."""
    leaving: bool = False
    """Told to end, and not started since: it may still run for a moment."""

    @property
    def pid(self) -> int:
        """Of the running process. Raises ProcessError if there is none."""
        raise NotImplementedError

    @property
    def alive(self) -> bool:
        """Whether the process runs (or is stopped by SIGSTOP)."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it; returns before it is ready."""
        raise NotImplementedError

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Idempotent."""
        raise NotImplementedError

    async def wait_exit(self) -> int:
        """Wait for its end; returns the exit code. Raises TimeoutError or ProcessError."""
        raise NotImplementedError

    async def start_again(self) -> bool:
        """Start it if it does not run, or is about to end. Whether that was needed."""
        if self.alive and self.leaving:
            await self.wait_exit()
        if self.alive:
            return False
        self.start()
        return True

    def kernel_state(self) -> str:
        """The kernel's letter for what the process does: T for one that SIGSTOP has stopped; empty if it is gone."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ProcessError):
            return ""

    async def suspend(self) -> None:
        """SIGSTOP, and wait until it has taken hold."""
        os.kill(self.pid, signal.SIGSTOP)

        async def stopped() -> bool:
            return self.kernel_state() == "T"

        await wait_until(stopped, deadline_s=10, what=f"{self.name} is stopped")

    def resume(self) -> None:
        """SIGCONT. Does nothing if it does not run."""
        with suppress(ProcessError, ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)


class Replica(Managed):
    """One replica."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.name = process.replica_id

    @property
    def pid(self) -> int:
        """See `Managed`."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """See `Managed`."""
        return self.process.alive

    def start(self) -> None:
        """See `Managed`."""
        self.generation += 1
        self.leaving = False
        self.process.start()

    async def kill(self) -> None:
        """See `Managed`."""
        await self.process.kill()

    async def terminate(self) -> None:
        """SIGTERM, and wait for its end."""
        self.leaving = True
        await self.process.stop(deadline_s=EXIT_DEADLINE_S)

    async def wait_exit(self) -> int:
        """See `Managed`."""
        return await self.process.wait_exit(deadline_s=EXIT_DEADLINE_S)


class HostUnderTest(Managed):
    """One `harness.faults.workload_host`. Dies with the process that started it."""

    def __init__(self, name: str, port: int, directory: Path, arguments: Mapping[str, str]) -> None:
        self.name = name
        self.address = f"{HOST}:{port}"
        self.trace_path = directory / f"{name}.jsonl"
        self.log_path = directory / f"{name}.log"
        self.environment: dict[str, str] = {}
        self._arguments = {"name": name, "listen": self.address, "trace": str(self.trace_path), **arguments}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """See `Managed`."""
        if self._process is None or self._process.poll() is not None:
            raise ProcessError(f"host {self.name} does not run: {self.log_tail()}")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """See `Managed`."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """See `Managed`."""
        self.generation += 1
        self.leaving = False
        environment = {"PYTHONPATH": f"{REPOSITORY / 'impl'}{os.pathsep}{REPOSITORY}", "LANG": "C.UTF-8"}
        arguments = [f"--{name}={value}" for name, value in self._arguments.items()]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(LEASH), str(os.getpid())),
                    *(sys.executable, "-m", "harness.faults.workload_host", *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | self.environment,
            )

    async def kill(self) -> None:
        """See `Managed`."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            await self.wait_exit()

    async def terminate(self) -> None:
        """SIGTERM, and wait until it has left."""
        self.leaving = True
        os.kill(self.pid, signal.SIGTERM)
        await self.wait_exit()

    async def wait_exit(self) -> int:
        """Wait for its end; returns the exit code."""
        process = self._process
        if process is None:
            raise ProcessError(f"host {self.name} was never started")

        async def ended() -> bool:
            return process.poll() is not None

        await wait_until(ended, deadline_s=EXIT_DEADLINE_S, what=f"the end of host {self.name}")
        return process.wait()

    def log_tail(self) -> str:
        """The last lines that it wrote."""
        with suppress(OSError):
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-10:])
        return "(no log)"


@define(eq=False)
class FaultCluster:
    """See the module's description. An async context manager: everything runs inside, and nothing after it."""

    directory: Path
    settings: ClusterSettings = Factory(ClusterSettings)
    replicas: dict[str, Replica] = Factory(dict)
    hosts: dict[str, HostUnderTest] = Factory(dict)
    network: Network = field(init=False)
    _lease: PortLease | None = None

    def __attrs_post_init__(self) -> None:
        self.network = Network(self.directory)

    # -- life cycle --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        await self.network.__aenter__()
        try:
            await self._build()
            for replica in self.replicas.values():
                replica.start()
            await self.wait_ready()
        except BaseException as error:
            error.add_note("\n".join(replica.process.log_tail() for replica in self.replicas.values()))
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes():
            await process.kill()
        await self.network.__aexit__()
        if self._lease is not None:
            self._lease.release()

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
            self.hosts[name] = HostUnderTest(name, port, self.directory, arguments)

    async def _link(self, names: list[str], ports: Mapping[str, Ports], host_ports: Mapping[str, int]) -> None:
        pairs = []
        for name in names:
            dialled_by = [*(other for other in names if other != name), *host_ports, *self.clients(), "sidecars"]
            pairs += [(source, name, ports[name].grpc) for source in dialled_by]
            # Of two replicas the one with the greater id dials.
            pairs += [(source, name + RAFT, ports[name].consensus) for source in names if source > name]
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
        return ServerProcess(name, ports[name], self.directory / name, flags)

    # -- names and addresses -----------------------------------------------------------------------------

    def clients(self) -> list[str]:
        """Ends from which the run's own callers dial."""
        return [f"c{number}" for number in range(1, self.settings.clients + 1)]

    def processes(self) -> list[Managed]:
        """Replicas and hosts."""
        return [*self.replicas.values(), *self.hosts.values()]

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
        return [known[source, end] for end in (target, target + RAFT) if (source, end) in known]

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
        for process in (*self.replicas.values(), *self.first_hosts()):
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
