"""A real PostgreSQL server on loopback, for tests of the state store. It dies with the process that started it.

PostgreSQL refuses to run as root; then it runs as the user `postgres` of Debian's package, in a directory of its own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.processes import LEASH, PortLease

PACKAGE = "postgresql"
INSTALLED = Path("/usr/lib/postgresql")
START_PATIENCE_S = 60.0
UNPRIVILEGED = ("postgres", "nobody")


class PostgresMissing(Exception):
    """There is no PostgreSQL here and it could not be installed; the message says how to get it."""


def find_or_install_postgres() -> Path:
    """The directory of its programs; as root on Debian or Ubuntu it is installed if it is missing.

    Raises:
        PostgresMissing: with what to do.
    """
    found = _find()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", PACKAGE]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(install, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PostgresMissing(f"`{' '.join(install)}` failed: {done.stderr.strip()[-500:]}")
        found = _find()
    if found is None:
        raise PostgresMissing(f"PostgreSQL is not here: run `apt-get install {PACKAGE}` as root, or put it into PATH")
    return found


def _find() -> Path | None:
    on_path = shutil.which("postgres")
    places = [Path(on_path).resolve().parent] if on_path is not None else []
    places += sorted(INSTALLED.glob("*/bin"), key=lambda place: int(place.parent.name), reverse=True)
    return next((place for place in places if (place / "postgres").exists() and (place / "initdb").exists()), None)


class PostgresServer:
    """`with PostgresServer() as server:` makes a cluster, starts it, and waits until it answers."""

    def __init__(self) -> None:
        self._programs = find_or_install_postgres()
        self._lease = PortLease(1)
        self.port = self._lease.ports[0]
        self._directory = Path(tempfile.mkdtemp(prefix="callboard-postgres-"))
        self._data = self._directory / "data"
        self._log = self._directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def __enter__(self) -> Self:
        try:
            if os.geteuid() == 0:
                user = _unprivileged()
                os.chown(self._directory, user.pw_uid, user.pw_gid)
            arguments = [
                "-D",
                str(self._data),
                "-A",
                "trust",
                "-U",
                "callboard",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ]
            self._run("initdb", *arguments)
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._lease.release()
        shutil.rmtree(self._directory, ignore_errors=True)

    def dsn(self, database: str) -> str:
        """Of one database."""
        return f"postgresql://callboard@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make a database; returns its dsn."""
        self._databases += 1
        name = f"state_{self._databases}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "callboard", name)
        return self.dsn(name)

    def start(self) -> None:
        """Start on the data of before, and wait until it answers."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "ssl": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        program = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port), *options]
        command = _as_unprivileged(program, dies_with_us=True)
        if os.geteuid() != 0:
            command = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *command]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
        deadline = time.monotonic() + START_PATIENCE_S
        ready = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "callboard", "-d", "postgres", "-q"]
        while subprocess.run([self._programs / "pg_isready", *ready], check=False, cwd="/").returncode != 0:
            assert self._process.poll() is None, f"PostgreSQL ended: {self._log_end()}"
            assert time.monotonic() < deadline, f"PostgreSQL does not answer: {self._log_end()}"
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop at once, without a checkpoint: connections end, what was committed stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        command = _as_unprivileged([str(self._programs / program), *arguments])
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, f"{program}: {done.stderr.strip()}"

    def _log_end(self) -> str:
        return " | ".join(self._log.read_text(errors="replace").splitlines()[-3:])


def _unprivileged() -> pwd.struct_passwd:
    for name in UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresMissing(f"PostgreSQL does not run as root, and there is none of the users {', '.join(UNPRIVILEGED)}")


def _as_unprivileged(command: list[str], *, dies_with_us: bool = False) -> list[str]:
    """The command, as another user if this is root. The kernel forgets the leash when the user changes."""
    if os.geteuid() != 0:
        return command
    user = _unprivileged()
    changed = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [*changed, *(["--pdeathsig", "KILL"] if dies_with_us else []), *command]
