"""Managed mode: etcd as callboard's supervised child, so that one command starts a replica with its etcd member.

Each replica runs one etcd member, named like the replica, with its data in `<directory>/etcd` and its log in
`<directory>/etcd.log`. The member dies with the replica's process (also by kill -9 of it), is restarted when it dies
alone, and is given up when it dies too often.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path

from callboard.consensus.etcd_engine.client import EtcdClient
from callboard.consensus.etcd_engine.directory import JOINING_FILE, ReplicaDirectory
from callboard.consensus.etcd_engine.errors import EtcdError
from callboard.consensus.etcd_engine.options import EtcdOptions, ManagedEtcd, ManagedPeer
from callboard.consensus.interface import EngineFailed, EngineStartError

logger = logging.getLogger(__name__)

LAUNCHER = Path(__file__).with_name("launcher.py")
PORT_PATIENCE_S = 5.0
"""How long a port may still be held by the child of our killed predecessor."""
PAUSE_FIRST_S = 0.2
PAUSE_MAX_S = 5.0
TERMINATE_PATIENCE_S = 3.0
LOG_CHECK_S = 10.0
INSTALL_HINT = "install it (Debian, Ubuntu: apt-get install etcd-server) or name its path"
CALL_TIMEOUT_MS = 10_000
FORGOTTEN = "has already been bootstrapped"


def find_etcd(binary: Path | None = None) -> Path:
    """The etcd program: `binary` if given, else from PATH.

    Raises:
        EngineStartError: there is none, with what to do about it.
    """
    if binary is not None:
        if not os.access(binary, os.X_OK) or binary.is_dir():
            raise EngineStartError(f"etcd binary {binary}: no such program; {INSTALL_HINT}")
        return binary.absolute()
    found = shutil.which("etcd")
    if found is None:
        raise EngineStartError(f"no etcd program in PATH: {INSTALL_HINT}")
    return Path(found).absolute()


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class EtcdChild:
    """One etcd member, as a child of this process."""

    def __init__(self, managed: ManagedEtcd, replica_id: str, options: EtcdOptions) -> None:
        """Raises ValueError if `replica_id` is not among the peers."""
        self._managed = managed
        self._options = options
        self._replica_id = replica_id
        peers = {peer.name: peer for peer in managed.peers}
        if replica_id not in peers or len(peers) != len(managed.peers):
            raise ValueError(f"etcd peers {', '.join(p.name for p in managed.peers)} must name {replica_id} once")
        self._me = peers[replica_id]
        self._log_file = options.directory / "etcd.log"
        self._process: asyncio.subprocess.Process | None = None
        self._restarts: deque[float] = deque()
        self._restart_count = 0
        self._stopping = False

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Client addresses of all members, our own first."""
        others = [peer for peer in self._managed.peers if peer.name != self._me.name]
        return tuple(_at(peer.host, peer.client_port) for peer in (self._me, *others))

    @property
    def pid(self) -> int | None:
        """Process id of the running child."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def details(self) -> tuple[tuple[str, str], ...]:
        """For `EngineStatus.details`."""
        return (
            ("etcd process", str(self.pid or "not running")),
            ("etcd restarts", str(self._restart_count)),
            ("etcd log", str(self._log_file)),
        )

    def arguments(self) -> list[str]:
        """etcd's command line without the program."""
        scheme = "http" if self._options.tls is None else "https"
        listen = self._managed.listen_host or self._me.host
        peer_port = self._managed.listen_peer_port or self._me.peer_port

        joining = (self._options.directory / JOINING_FILE).exists()
        arguments = {
            "name": self._me.name,
            "data-dir": str(self._options.directory / "etcd"),
            "listen-peer-urls": f"{scheme}://{_at(listen, peer_port)}",
            "listen-client-urls": f"{scheme}://{_at(listen, self._me.client_port)}",
            "initial-advertise-peer-urls": self._peer_url(self._me),
            "advertise-client-urls": f"{scheme}://{_at(self._me.host, self._me.client_port)}",
            "initial-cluster": ",".join(f"{peer.name}={self._peer_url(peer)}" for peer in self._managed.peers),
            "initial-cluster-state": "existing" if joining else "new",  # of no meaning once there is data
            "initial-cluster-token": self._managed.cluster_name,
            "heartbeat-interval": str(self._managed.heartbeat_ms),
            "election-timeout": str(self._managed.election_ms),
            "quota-backend-bytes": str(self._managed.quota_bytes),
            "logger": "zap",
            "log-outputs": "stderr",
            "log-level": "warn",
        }
        if self._options.tls is not None:
            for prefix in ("", "peer-"):
                arguments[f"{prefix}cert-file"] = str(self._options.tls.certificate)
                arguments[f"{prefix}key-file"] = str(self._options.tls.key)
                arguments[f"{prefix}trusted-ca-file"] = str(self._options.tls.ca)
                arguments[f"{prefix}client-cert-auth"] = "true"
        return [f"--{name}={value}" for name, value in arguments.items()]

    async def replace(self) -> None:
        """For a replica whose disk is lost: let its etcd member start empty. The majority of members must run; our
        directory must be new. The former member is removed for good, so that it cannot come back beside its successor.
        May be repeated if it broke off.

        Raises:
            EngineStartError: there is data here, or etcd cannot be reached or refuses.
        """
        directory, url = ReplicaDirectory(self._options.directory), self._peer_url(self._me)
        directory.lock()
        client = EtcdClient(self.endpoints[1:], tls=self._options.tls)
        try:
            if (self._options.directory / "etcd" / "member" / "wal").exists():  # a refused start leaves the rest
                raise EngineStartError(f"{self._options.directory / 'etcd'} holds data: only a lost member is replaced")
            await client.open()
            members = await client.members(timeout_ms=CALL_TIMEOUT_MS)
            for member in members:
                if member.name == self._me.name:
                    await client.remove_member(member.ID, timeout_ms=CALL_TIMEOUT_MS)
            if not any(url in member.peerURLs and not member.name for member in members):
                await client.add_member(url, timeout_ms=CALL_TIMEOUT_MS)
            (self._options.directory / JOINING_FILE).touch()
        except (EtcdError, OSError) as error:
            raise EngineStartError(f"etcd member {self._me.name} is not replaced: {error}") from None
        finally:
            await client.close()
            directory.unlock()

    async def start(self) -> None:
        """Start the child; it answers later, when a majority of the members runs.

        Raises:
            EngineStartError: no etcd program, or a port is in use.
        """
        binary = find_etcd(self._managed.binary)
        listen = self._managed.listen_host or self._me.host
        for port in (self._me.client_port, self._managed.listen_peer_port or self._me.peer_port):
            await _wait_for_port(listen, port)
        await self._spawn(binary)

    async def supervise(self) -> None:
        """Restart the child whenever it ends, until `stop`.

        Raises:
            EngineFailed: it ended too often, or says that restarting is no use.
        """
        while self._process is not None:
            await self._wait_and_trim_log(self._process)
            if self._stopping:
                return
            code, last_line = self._process.returncode, self._last_log_line()
            if FORGOTTEN in last_line:
                raise EngineFailed(
                    f"etcd's data in {self._options.directory / 'etcd'} is gone, but its peers know member "
                    f"{self._me.name}: if its disk is lost, replace the member"
                )
            now = time.monotonic()
            while self._restarts and now - self._restarts[0] > self._managed.restarts_window_s:
                self._restarts.popleft()
            if len(self._restarts) >= self._managed.restarts_max:
                raise EngineFailed(
                    f"etcd ended {len(self._restarts) + 1} times within {self._managed.restarts_window_s:g} s "
                    f"(last code {code}); see {self._log_file}: {last_line}"
                )
            pause_s = min(PAUSE_FIRST_S * 2 ** len(self._restarts), PAUSE_MAX_S)
            self._restarts.append(now)
            self._restart_count += 1
            logger.warning("etcd ended with code %s, restarting in %.1f s: %s", code, pause_s, last_line)
            await asyncio.sleep(pause_s)
            await self._spawn(find_etcd(self._managed.binary))

    async def stop(self) -> None:
        """End the child: politely, then by force. Idempotent."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(TERMINATE_PATIENCE_S):
                await process.wait()
        except TimeoutError:
            logger.warning("etcd does not end, killing it")
            process.kill()
            await process.wait()
        except ProcessLookupError:
            logger.info("etcd had ended already")

    def _peer_url(self, peer: ManagedPeer) -> str:
        scheme = "http" if self._options.tls is None else "https"
        return f"{scheme}://{_at(peer.host, peer.peer_port)}"

    async def _spawn(self, binary: Path) -> None:
        # etcd reads ETCD_* variables too, and refuses to start where they contradict its arguments.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        (self._options.directory / "etcd").mkdir(mode=0o700, exist_ok=True)
        command = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(binary), *self.arguments()]
        with self._log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # so that Ctrl-C reaches only us, and we stop it in order
            )
        logger.info("etcd member %s runs as process %d", self._me.name, self._process.pid)

    async def _wait_and_trim_log(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the child's end, and meanwhile keep its log within bounds (one older file is kept)."""
        ended = asyncio.ensure_future(process.wait())
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=LOG_CHECK_S)
                self._trim_log()
        finally:
            ended.cancel()

    def _trim_log(self) -> None:
        try:
            if self._log_file.stat().st_size > self._managed.log_bytes_max:
                shutil.copyfile(self._log_file, self._log_file.with_suffix(".log.1"))
                os.truncate(self._log_file, 0)  # etcd appends, so it goes on at the new end
        except OSError as error:
            logger.warning("etcd's log cannot be trimmed: %s", error)

    def _last_log_line(self) -> str:
        try:
            with self._log_file.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError as error:
            return f"its log cannot be read: {error}"
        return lines[-1][:1000] if lines else "its log is empty"


async def _wait_for_port(host: str, port: int) -> None:
    """Make sure that the port can be bound.

    Raises:
        EngineStartError: it stays in use, or the address is not this machine's.
    """
    deadline = time.monotonic() + PORT_PATIENCE_S
    while True:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise EngineStartError(f"etcd cannot listen on {_at(host, port)}: {error.strerror}") from None
        await asyncio.sleep(0.1)
