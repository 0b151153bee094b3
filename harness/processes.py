"""Real servers: starts, watches, stops and kills `callboard serve` processes on loopback ports.

Nothing is left running: every process dies with the one that started it (see `leash`). A process gets no PATH, no
HOME and an unwritable working directory, which a server has to live with.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

import aiohttp
import grpc
import grpc.aio
import psutil
from attrs import frozen
from prometheus_client.parser import text_string_to_metric_families

from callboard.protos.generated import admin_pb2

REPOSITORY = Path(__file__).resolve().parents[1]
LEASH = REPOSITORY / "harness" / "leash.py"
HOST = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Below the range from which the kernel takes ports for outgoing connections, so that none of those gets in the way."""
POLL_S = 0.05
HTTP_TIMEOUT_S = 2.0
START_DEADLINE_S = 60.0
LOG_TAIL_LINES = 15
ADMIN = "/callboard.admin.v1.Admin/"

Waiter = Callable[[], Awaitable[bool]]


class ProcessError(RuntimeError):
    """A server did not do what it was started for; the message has the end of its log."""


async def wait_until(condition: Waiter, *, deadline_s: float, what: str) -> float:
    """Wait until `condition()` is true. Returns the seconds that it took; raises TimeoutError that names `what`."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    while not await condition():
        if loop.time() - start > deadline_s:
            raise TimeoutError(f"{what}: not within {deadline_s} s")
        await asyncio.sleep(POLL_S)
    return loop.time() - start


class PortLease:
    """Ports that no other lease on this machine has: each is held by a locked file until `release` or exit."""

    def __init__(self, count: int) -> None:
        self._files: list[IO[bytes]] = []
        self.ports: list[int] = []
        folder = Path(tempfile.gettempdir()) / f"callboard-ports-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        for port in random.sample(PORTS, len(PORTS)):
            if len(self.ports) == count:
                return
            if self._take(folder / str(port)):
                if _is_free(port):
                    self.ports.append(port)
                else:
                    self._files.pop().close()
        self.release()
        raise ProcessError(f"found no {count} free ports from {PORTS.start} to {PORTS.stop - 1}")

    def _take(self, path: Path) -> bool:
        file = path.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._files.append(file)
        return True

    def release(self) -> None:
        """Let others have the ports."""
        for file in self._files:
            file.close()
        self._files.clear()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


@frozen
class Ports:
    """Where one replica listens."""

    grpc: int
    consensus: int
    healthz: int
    metrics: int


class ServerProcess:
    """One replica as a process. `start` may be called again after `kill` or `stop`; its log goes on in one file."""

    def __init__(
        self,
        replica_id: str,
        ports: Ports,
        directory: Path,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        *,
        program: Sequence[str] = ("callboard.cli.main",),
    ) -> None:
        self.replica_id = replica_id
        self.ports = ports
        self.data_dir = directory / "data"
        self.log_path = directory / "log.txt"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.more_flags: tuple[str, ...] = ()
        """Behind the others, from the next start on."""
        self._flags = tuple(flags)
        self._environment = dict(environment or {})
        self._program = tuple(program)
        self._process: subprocess.Popen[bytes] | None = None
        self.wanted = False
        """Started, and not stopped or killed on purpose since."""

    @property
    def address(self) -> str:
        """Of its gRPC services."""
        return f"{HOST}:{self.ports.grpc}"

    @property
    def pid(self) -> int:
        """Of the running process. Raises ProcessError if there is none."""
        if self._process is None or self._process.poll() is not None:
            raise ProcessError(f"{self.replica_id} does not run\n{self.log_tail()}")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs (or is stopped by SIGSTOP)."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of the process that was started last; None while it runs, or if there was none."""
        return None if self._process is None else self._process.poll()

    def command(self) -> list[str]:
        """The command line of the server."""
        ports = self.ports
        return [
            *(sys.executable, "-m", *self._program, "serve"),
            *("--id", self.replica_id, "--data-dir", str(self.data_dir), "--listen-address", HOST),
            *("--port", str(ports.grpc), "--healthz-port", str(ports.healthz), "--metrics-port", str(ports.metrics)),
            *self._flags,
            *self.more_flags,
        ]

    def start(self) -> None:
        """Start the process; returns before it listens. Raises ProcessError if it runs already."""
        if self.alive:
            raise ProcessError(f"{self.replica_id} runs already, as process {self.pid}")
        environment = {"PYTHONPATH": str(REPOSITORY / "impl"), "LANG": "C.UTF-8", "PYTHONFAULTHANDLER": "1"}
        self.wanted = True
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | self._environment,
                cwd="/proc/self",
            )

    async def stop(self, *, deadline_s: float = 20.0) -> int:
        """SIGTERM, and wait. Returns the exit code; raises ProcessError, and kills, if it does not end."""
        process = self._running()
        self.wanted = False
        process.terminate()
        try:
            return await self.wait_exit(deadline_s=deadline_s)
        except ProcessError:
            await self.kill()
            raise

    async def wait_exit(self, *, deadline_s: float = 20.0) -> int:
        """Wait until the process ends by itself. Returns the exit code; raises ProcessError if it does not."""
        process = self._process
        if process is None:
            raise ProcessError(f"{self.replica_id} was never started")
        try:
            await wait_until(_ended(process), deadline_s=deadline_s, what="its end")
        except TimeoutError:
            raise ProcessError(f"{self.replica_id} still runs after {deadline_s} s\n{self.log_tail()}") from None
        return process.wait()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Does nothing if it does not run."""
        self.wanted = False
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            await wait_until(_ended(self._process), deadline_s=20, what=f"death of {self.replica_id}")

    def suspend(self) -> None:
        """SIGSTOP."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._running().send_signal(signal.SIGCONT)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise ProcessError(f"{self.replica_id} does not run\n{self.log_tail()}")
        return self._process

    def log_tail(self) -> str:
        """The last lines that it wrote."""
        with suppress(OSError):
            lines = self.log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            return "\n".join(f"  {self.replica_id}| {line}" for line in lines)
        return f"  {self.replica_id}| (no log)"

    # What it says of itself.

    async def http(self, path: str) -> tuple[int, str]:
        """GET on the healthz port: status and body. Raises aiohttp.ClientError or TimeoutError."""
        timeout = aiohttp.ClientTimeout(total=HTTP_TIMEOUT_S)
        url = f"http://{HOST}:{self.ports.healthz}{path}"
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return response.status, await response.text()

    async def ready(self) -> bool:
        """Whether /readyz says yes. Raises ProcessError if the process has ended."""
        _ = self.pid
        with suppress(aiohttp.ClientError, TimeoutError):
            status, _text = await self.http("/readyz")
            return status == 200
        return False

    async def metrics(self) -> dict[tuple[str, str], float]:
        """Samples by (name, value of its namespace label or ""); of histograms the sums over other labels.

        Empty if the process does not answer.
        """
        samples: dict[tuple[str, str], float] = {}
        with suppress(aiohttp.ClientError, TimeoutError):
            _status, text = await self.http("/metrics")
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if not sample.name.endswith("_bucket"):
                        labels = sample.labels
                        key = (sample.name, labels.get("namespace") or labels.get("host_namespace") or "")
                        samples[key] = samples.get(key, 0.0) + sample.value
        return samples

    async def status(self, *, linearizable: bool = False) -> admin_pb2.StatusReply:
        """What `callboard status` shows. Raises grpc.aio.AioRpcError."""
        request = admin_pb2.StatusRequest(linearizable=linearizable)
        return admin_pb2.StatusReply.FromString(await self.admin("Status", request.SerializeToString()))

    async def members(self, namespace: str = "", *, linearizable: bool = True) -> list[admin_pb2.Member]:
        """What `callboard members` shows. Raises grpc.aio.AioRpcError."""
        request = admin_pb2.ListMembersRequest(namespace=namespace, linearizable=linearizable)
        answer = await self.admin("ListMembers", request.SerializeToString())
        return list(admin_pb2.ListMembersReply.FromString(answer).members)

    async def owner(self, namespace: str, actor_type: str, actor_id: str) -> str:
        """What `callboard lookup` shows. Raises grpc.aio.AioRpcError."""
        request = admin_pb2.LookupRequest(namespace=namespace, actor_type=actor_type, actor_id=actor_id)
        answer = await self.admin("Lookup", request.SerializeToString())
        return admin_pb2.LookupReply.FromString(answer).host

    async def admin(self, method: str, request: bytes) -> bytes:
        """One call of the admin service. Raises grpc.aio.AioRpcError."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ADMIN + method)
            return await call(request, timeout=10)

    def cpu_seconds(self) -> float:
        """Processor time that the process has used, of user and system together."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def memory_bytes(self) -> int:
        """Resident memory now."""
        return int(psutil.Process(self.pid).memory_info().rss)


def _ended(process: subprocess.Popen[bytes]) -> Waiter:
    async def ended() -> bool:
        return process.poll() is not None

    return ended


async def find_leader(servers: Sequence[ServerProcess]) -> ServerProcess | None:
    """The replica that serves sidecars: in office, and in the newest epoch of those that say so."""
    claims: list[tuple[float, ServerProcess]] = []
    for server in servers:
        metrics = await server.metrics() if server.alive else {}
        if metrics.get(("dapr_placement_leader_status", "")) == 1:
            claims.append((metrics.get(("callboard_leader_epoch", ""), 0.0), server))
    return max(claims, key=lambda claim: claim[0])[1] if claims else None


class Cluster:
    """Replicas of one group. An async context manager: starts all, waits until they are ready, kills all at the end.

    Directory and ports stay the same over restarts. Without `directory` a temporary one is made, and removed unless
    the body raised. `flags` go to every replica; `environment` is added to the little that a process gets.
    """

    def __init__(
        self,
        replicas: int = 3,
        engine: str = "pysyncobj",
        *,
        directory: Path | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.keep = False
        """Whether a temporary directory stays when this ends, for its logs."""
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="callboard-cluster-"))
        self._lease = PortLease(4 * replicas)
        numbers = iter(self._lease.ports)
        names = [f"replica-{number}" for number in range(1, replicas + 1)]
        ports = {name: Ports(next(numbers), next(numbers), next(numbers), next(numbers)) for name in names}
        peers = ",".join(f"{name}={HOST}:{ports[name].consensus}" for name in names)
        services = ",".join(f"{name}={HOST}:{ports[name].grpc}" for name in names)
        common = ("--initial-cluster", peers, "--replicas", services, "--engine", engine, *flags)
        self.servers = [ServerProcess(name, ports[name], self.directory / name, common, environment) for name in names]

    @property
    def addresses(self) -> list[str]:
        """gRPC addresses of all replicas, running or not."""
        return [server.address for server in self.servers]

    async def __aenter__(self) -> Self:
        try:
            self.start()
            await self.wait_ready()
        except BaseException:
            self.keep = True
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.keep = self.keep or kind is not None
        await self.close()

    def start(self) -> None:
        """Start every replica that does not run."""
        for server in self.servers:
            if not server.alive:
                server.start()

    async def wait_ready(self, *, deadline_s: float = START_DEADLINE_S) -> float:
        """Wait until all replicas that should run are ready. Returns seconds; raises ProcessError if one has ended."""

        async def all_ready() -> bool:
            return all([await server.ready() for server in self.servers if server.wanted])

        with self._explained():
            return await wait_until(all_ready, deadline_s=deadline_s, what="replicas are ready")

    async def leader(self, *, deadline_s: float = START_DEADLINE_S) -> ServerProcess:
        """The replica in office; waits until there is one. Raises TimeoutError."""
        found: list[ServerProcess] = []

        async def known() -> bool:
            leader = await find_leader(self.servers)
            found.extend([leader] if leader is not None else [])
            return bool(found)

        with self._explained():
            await wait_until(known, deadline_s=deadline_s, what="a leader in office")
        return found[0]

    async def kill_all(self) -> None:
        """SIGKILL to every replica, all before the first is waited for."""
        for server in self.servers:
            if server.alive:
                os.kill(server.pid, signal.SIGKILL)
        for server in self.servers:
            await server.kill()

    async def close(self) -> None:
        """Kill all, give the ports back, and remove a temporary directory unless it is to be kept."""
        await self.kill_all()
        self._lease.release()
        if self._temporary and not self.keep:
            shutil.rmtree(self.directory, ignore_errors=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Add the ends of all logs to an error."""
        try:
            yield
        except (TimeoutError, ProcessError) as error:
            tails = "\n".join(server.log_tail() for server in self.servers)
            error.add_note(f"logs are in {self.directory}\n{tails}")
            raise
