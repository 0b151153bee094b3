"""Host processes: `python -m harness.demo_host` under control, each with a trace of its turns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.processes import HOST, LEASH, REPOSITORY, ProcessError, wait_until

EXIT_DEADLINE_S = 30.0


class HostProcess:
    """One host. Dies with the process that started it."""

    def __init__(
        self,
        name: str,
        port: int,
        cluster: str,
        directory: Path,
        *,
        namespace: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.address = f"{HOST}:{port}"
        self.trace_path = directory / f"{name}.jsonl"
        self.log_path = directory / f"{name}.log"
        self.store_path = directory / "state.db"
        self.ledger_path = directory / "ledger.db"
        self._arguments = ("--name", name, "--listen", self.address, "--cluster", cluster, "--namespace", namespace)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns before it has joined."""
        environment = {"PYTHONPATH": f"{REPOSITORY / 'impl'}{os.pathsep}{REPOSITORY}", "LANG": "C.UTF-8"}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(LEASH), str(os.getpid())),
                    *(sys.executable, "-m", "harness.demo_host", *self._arguments),
                    *("--trace", str(self.trace_path), "--store", str(self.store_path)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | self._environment,
            )

    @property
    def alive(self) -> bool:
        """Whether the process runs (or is stopped by SIGSTOP)."""
        return self._process is not None and self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal. Raises ProcessError if it does not run."""
        if self._process is None or not self.alive:
            raise ProcessError(f"host {self.name} does not run: {self.log_tail()}")
        self._process.send_signal(number)

    def state(self) -> str:
        """The kernel's letter for what the process does: T for one that SIGSTOP has stopped. Raises ProcessError."""
        if self._process is None or not self.alive:
            raise ProcessError(f"host {self.name} does not run: {self.log_tail()}")
        # The leash becomes the program: one process.
        return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    async def is_stopped(self) -> bool:
        """Whether SIGSTOP has taken hold. Raises ProcessError if the process does not run."""
        return self.state() == "T"

    async def wait_exit(self) -> int:
        """Wait for its end; returns the exit code."""
        process = self._process
        if process is None:
            raise ProcessError(f"host {self.name} was never started")

        async def ended() -> bool:
            return process.poll() is not None

        await wait_until(ended, deadline_s=EXIT_DEADLINE_S, what=f"the end of host {self.name}")
        return process.wait()

    def kill(self) -> None:
        """SIGKILL, and collect it. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log_tail(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-10:])

    def trace(self) -> Iterator[dict[str, Any]]:
        """What its actors wrote down, without a torn last line."""
        if not self.trace_path.exists():
            return
        for line in self.trace_path.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)
