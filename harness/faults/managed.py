"""Processes under test: replicas, hosts and members of etcd, with the same signals for all of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from harness.etcd import EtcdCluster
from harness.processes import HOST, LEASH, REPOSITORY, ProcessError, ServerProcess, wait_until

EXIT_DEADLINE_S = 40.0
WARN = {"PYTHONWARNINGS": "default"}
"""For processes: what is never closed is told in the log, which is looked at for it."""


@frozen
class Ended:
    """A process that ended without having been told to. `expected`: a fault was there to make it end."""

    code: int
    expected: bool


class Managed:
    """Signals to one process, alike for replicas and hosts."""

    name: str
    may_end: bool = False
    """A fault is active that makes it end by itself."""
    wanted: bool = False
    """Started, and neither killed nor told to end since."""
    generation: int = 0
    started_ns: int = 0
    """How often it was started."""
    leaving: bool = False
    """Told to end, and not started since: it may still run for a moment."""
    _unasked: tuple[Ended, ...] = ()

    @property
    def pid(self) -> int:
        """Of the running process. Raises ProcessError if there is none."""
        raise NotImplementedError

    @property
    def alive(self) -> bool:
        """Whether the process runs (or is stopped by SIGSTOP)."""
        raise NotImplementedError

    @property
    def exit_code(self) -> int | None:
        """Of the process that was started last; None while it runs."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it; returns before it is ready."""
        raise NotImplementedError

    def _starts(self) -> None:
        """What every start writes down."""
        self.look()
        self.generation += 1
        self.started_ns = time.monotonic_ns()
        self.wanted, self.leaving = True, False

    def condemn(self, *, leaving: bool = False) -> None:
        """Its end is wanted from now on: by a signal that comes next. `leaving`: it may still run for a moment."""
        self.look()
        self.wanted, self.leaving = False, leaving or self.leaving

    def look(self) -> None:
        """See whether it has ended without having been told to. Called before everything that would hide it."""
        code = self.exit_code
        if self.wanted and code is not None:
            self.wanted = False
            self._unasked = (*self._unasked, Ended(code, self.may_end))

    def take_unasked(self) -> tuple[Ended, ...]:
        """Ends that nobody asked for, each told once."""
        self.look()
        found, self._unasked = self._unasked, ()
        return found

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

    @property
    def exit_code(self) -> int | None:
        """See `Managed`."""
        return self.process.exit_code

    def start(self) -> None:
        """See `Managed`."""
        self._starts()
        self.process.start()

    async def kill(self) -> None:
        """See `Managed`."""
        self.condemn()
        await self.process.kill()

    async def terminate(self) -> None:
        """SIGTERM, and wait for its end."""
        self.condemn(leaving=True)
        await self.process.stop(deadline_s=EXIT_DEADLINE_S)

    async def wait_exit(self) -> int:
        """See `Managed`."""
        return await self.process.wait_exit(deadline_s=EXIT_DEADLINE_S)


class HostUnderTest(Managed):
    """One `harness.faults.workload_host`. Dies with the process that started it."""

    def __init__(
        self,
        name: str,
        port: int,
        directory: Path,
        arguments: Mapping[str, str],
        program: Sequence[str] = ("harness.faults.workload_host",),
    ) -> None:
        self.name = name
        self.address = f"{HOST}:{port}"
        self.trace_path = directory / f"{name}.jsonl"
        self.log_path = directory / f"{name}.log"
        self.environment: dict[str, str] = {}
        self._arguments = {"name": name, "listen": self.address, "trace": str(self.trace_path), **arguments}
        self._program = tuple(program)
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

    @property
    def exit_code(self) -> int | None:
        """See `Managed`."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """See `Managed`."""
        self._starts()
        environment = {"PYTHONPATH": f"{REPOSITORY / 'impl'}{os.pathsep}{REPOSITORY}", "LANG": "C.UTF-8", **WARN}
        arguments = [f"--{name}={value}" for name, value in self._arguments.items()]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(LEASH), str(os.getpid())),
                    *(sys.executable, "-m", *self._program, *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | self.environment,
            )

    async def kill(self) -> None:
        """See `Managed`."""
        self.condemn()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            await self.wait_exit()

    async def terminate(self) -> None:
        """SIGTERM, and wait until it has left."""
        self.condemn(leaving=True)
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


class EtcdMemberUnderTest(Managed):
    """One member of the etcd cluster below the replicas."""

    def __init__(self, cluster: EtcdCluster, number: int) -> None:
        self.name = f"etcd-{number + 1}"
        self.port = cluster.members[number].client_port
        self._cluster = cluster
        self._number = number
        self.wanted = True  # the cluster has started it

    @property
    def pid(self) -> int:
        """See `Managed`."""
        process = self._cluster.members[self._number].process
        if process is None or process.poll() is not None:
            raise ProcessError(f"{self.name} does not run")
        return process.pid

    @property
    def alive(self) -> bool:
        """See `Managed`."""
        process = self._cluster.members[self._number].process
        return process is not None and process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """See `Managed`."""
        process = self._cluster.members[self._number].process
        return None if process is None else process.poll()

    def start(self) -> None:
        """See `Managed`."""
        self._starts()
        self._cluster.start(self._number)

    async def kill(self) -> None:
        """See `Managed`."""
        self.condemn()
        if self.alive:
            await asyncio.to_thread(self._cluster.kill, self._number)

    async def wait_exit(self) -> int:
        """See `Managed`. It is never told to leave in order."""
        await self.kill()
        return 0
