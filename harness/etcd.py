"""Real etcd clusters on loopback, for tests, faults and benchmarks. They die with the process that started them.

Administration (health, users, values) goes over etcd's own JSON gateway, not over the client under test.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import define, field

from callboard.consensus.etcd_engine.options import TlsFiles
from harness.processes import LEASH, PortLease

PACKAGE = "etcd-server"
START_PATIENCE_S = 60.0


class EtcdMissing(Exception):
    """There is no etcd here and it could not be installed; the message says how to get it."""


def find_or_install_etcd() -> Path:
    """The etcd program; as root on Debian or Ubuntu it is installed if it is missing.

    Raises:
        EtcdMissing: with what to do.
    """
    found = shutil.which("etcd")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", PACKAGE]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(install, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EtcdMissing(f"`{' '.join(install)}` failed: {done.stderr.strip()[-500:]}")
        found = shutil.which("etcd")
    if found is None:
        raise EtcdMissing(f"etcd is not in PATH: run `apt-get install {PACKAGE}` as root, or put etcd 3.4+ there")
    return Path(found)


@define
class EtcdMember:
    """One member: its ports and its process."""

    name: str
    directory: Path
    client_port: int
    peer_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def log_file(self) -> Path:
        """What the member writes to its standard error."""
        return self.directory / f"{self.name}.log"


@define
class EtcdCluster:
    """A cluster of `size` members under `directory`. `with EtcdCluster(...)` starts it and waits until it answers."""

    directory: Path
    size: int = 1
    tls: TlsFiles | None = None
    """For clients: the members show `certificate` and ask for one signed by `ca`."""
    heartbeat_ms: int = 50
    election_ms: int = 500
    arguments: tuple[str, ...] = ()
    members: list[EtcdMember] = field(init=False, factory=list)
    _binary: Path = field(init=False)
    _lease: PortLease = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._binary = find_or_install_etcd()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lease = PortLease(2 * self.size)
        ports = self._lease.ports
        self.members = [
            EtcdMember(f"m{number + 1}", self.directory, ports[2 * number], ports[2 * number + 1])
            for number in range(self.size)
        ]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """host:port of every member."""
        return tuple(member.endpoint for member in self.members)

    def __enter__(self) -> Self:
        try:
            for number in range(self.size):
                self.start(number)
            self.wait_healthy()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._lease.release()

    def start(self, number: int) -> None:
        """Start member `number` on its old data, if there is any."""
        member = self.members[number]
        scheme = "http" if self.tls is None else "https"
        client_url, peer_url = f"{scheme}://{member.endpoint}", f"http://127.0.0.1:{member.peer_port}"
        arguments = [
            f"--name={member.name}",
            f"--data-dir={self.directory / member.name}",
            f"--listen-client-urls={client_url}",
            f"--advertise-client-urls={client_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            "--initial-cluster=" + ",".join(f"{m.name}=http://127.0.0.1:{m.peer_port}" for m in self.members),
            f"--initial-cluster-token={self.directory.name}",
            f"--heartbeat-interval={self.heartbeat_ms}",
            f"--election-timeout={self.election_ms}",
            "--logger=zap",
            "--log-outputs=stderr",
            *self.arguments,
        ]
        if self.tls is not None:
            arguments += [
                f"--cert-file={self.tls.certificate}",
                f"--key-file={self.tls.key}",
                f"--trusted-ca-file={self.tls.ca}",
                "--client-cert-auth=true",
            ]
        command = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), str(self._binary), *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        with member.log_file.open("ab") as log:
            member.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def kill(self, number: int) -> None:
        """kill -9 of member `number`."""
        process = self._process(number)
        process.kill()
        process.wait()

    def pause(self, number: int) -> None:
        """SIGSTOP: the member holds its connections and answers nothing."""
        self._process(number).send_signal(signal.SIGSTOP)

    def resume(self, number: int) -> None:
        """SIGCONT."""
        self._process(number).send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill all members; their data stays."""
        for member in self.members:
            if member.process is not None:
                member.process.kill()
                member.process.wait()

    def wait_healthy(self) -> None:
        """Wait until every running member answers with a quorum.

        Raises:
            AssertionError: with the end of the member's log.
        """
        for number, member in enumerate(self.members):
            deadline = time.monotonic() + START_PATIENCE_S
            while member.process is not None and member.process.poll() is None and not self._is_healthy(number):
                assert time.monotonic() < deadline, f"etcd {member.name} does not answer: {self._log_end(member)}"
                time.sleep(0.02)
            assert member.process is None or member.process.poll() is None, self._log_end(member)

    def leader(self) -> int:
        """Number of the member that leads etcd itself."""
        for number in range(self.size):
            status = self.gateway("/v3/maintenance/status", {}, member=number)
            if status["header"]["member_id"] == status["leader"]:
                return number
        raise AssertionError("no member leads")

    def gateway(self, path: str, body: dict[str, Any], *, member: int = 0, token: str | None = None) -> Any:
        """POST to etcd's JSON gateway and return what it answers."""
        scheme = "http" if self.tls is None else "https"
        headers = {"Content-Type": "application/json"} | ({"Authorization": token} if token else {})
        url = f"{scheme}://{self.members[member].endpoint}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - our own address
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._ssl_context())
        )
        with opener.open(request, timeout=5) as answer:
            return json.load(answer)

    def add_user(self, user: str, password: str, *, prefix: str, root_password: str) -> None:
        """Turn authentication on, with `user` allowed to read and write the keys that start with `prefix` only."""
        self.gateway("/v3/auth/user/add", {"name": "root", "password": root_password})
        self.gateway("/v3/auth/role/add", {"name": "root"})
        self.gateway("/v3/auth/user/grant", {"user": "root", "role": "root"})
        self.gateway("/v3/auth/user/add", {"name": user, "password": password})
        self.gateway("/v3/auth/role/add", {"name": "keeper"})
        start, end = prefix.encode(), prefix.encode()[:-1] + bytes([prefix.encode()[-1] + 1])
        permission = {"permType": "READWRITE", "key": _base64(start), "range_end": _base64(end)}
        self.gateway("/v3/auth/role/grant", {"name": "keeper", "perm": permission})
        self.gateway("/v3/auth/user/grant", {"user": user, "role": "keeper"})
        self.gateway("/v3/auth/enable", {})

    def compact(self) -> None:
        """Forget all history, as an operator or another program may do at any time."""
        revision = self.gateway("/v3/kv/range", {"key": _base64(b"none")})["header"]["revision"]
        try:
            self.gateway("/v3/kv/compaction", {"revision": revision})
        except urllib.error.HTTPError as error:
            if b"has been compacted" not in error.read():
                raise

    def put(self, key: bytes, value: bytes) -> None:
        """Write a key, past the client under test."""
        self.gateway("/v3/kv/put", {"key": _base64(key), "value": _base64(value)})

    def keys(self, prefix: bytes) -> int:
        """How many keys start with `prefix`."""
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        body = {"key": _base64(prefix), "range_end": _base64(end), "count_only": True}
        return int(self.gateway("/v3/kv/range", body).get("count", 0))

    def delete(self, prefix: bytes) -> None:
        """Delete all keys that start with `prefix`."""
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        self.gateway("/v3/kv/deleterange", {"key": _base64(prefix), "range_end": _base64(end)})

    def _process(self, number: int) -> subprocess.Popen[bytes]:
        process = self.members[number].process
        assert process is not None, f"etcd {self.members[number].name} was never started"
        return process

    def _is_healthy(self, number: int) -> bool:
        try:
            self.gateway("/v3/kv/range", {"key": _base64(b"none")}, member=number)
        except urllib.error.HTTPError as error:
            # 400 and 401: authentication is on and we have no token, so it does answer.
            return error.code in {400, 401, 403}
        except (OSError, ValueError):
            return False
        return True

    def _ssl_context(self) -> ssl.SSLContext | None:
        if self.tls is None:
            return None
        context = ssl.create_default_context(cafile=str(self.tls.ca))
        if self.tls.certificate is not None:
            context.load_cert_chain(self.tls.certificate, self.tls.key)
        return context

    def _log_end(self, member: EtcdMember) -> str:
        lines = member.log_file.read_text(errors="replace").splitlines() if member.log_file.exists() else []
        return f"etcd {member.name}: " + " | ".join(lines[-3:])


def _base64(value: bytes) -> str:
    return b64encode(value).decode()
