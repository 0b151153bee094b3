"""One replica of the embedded engine as a process, which loads itself while it leads.

    python -m tests.consensus.replica_process DIRECTORY REPLICA_ID PORTS [--in-flight N] [--file-limit BYTES]

PORTS is `r1=1234,r2=1235,...`, this replica included. Every acknowledged command is appended to the file
DIRECTORY/acknowledged before another is proposed in its place. When the file DIRECTORY/finish appears, load stops;
when DIRECTORY/report appears, the process confirms by a barrier that it has everything, writes its commands to
DIRECTORY/REPLICA_ID.report and ends. An engine that stops itself ends the process with code 3 and its reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
from pathlib import Path

from callboard.consensus.interface import BarrierFailed, NotApplied, OutcomeUnknown, Peer
from callboard.consensus.pysyncobj_engine.engine import PysyncobjEngine
from callboard.consensus.pysyncobj_engine.options import CoreSettings, PysyncobjOptions
from tests.consensus.machine import ListMachine

FAILED = 3
SETTINGS = CoreSettings(
    election_min_ms=200, election_max_ms=400, heartbeat_ms=50, fallback_ms=500, snapshot_entries=150, keep_entries=20
)


class Process:
    """The replica and its load."""

    def __init__(self, directory: Path, replica_id: str, ports: dict[str, int]) -> None:
        self.directory = directory
        self.replica_id = replica_id
        self.machine = ListMachine()
        self.engine = PysyncobjEngine(
            PysyncobjOptions(
                data_dir=directory / replica_id,
                replica_id=replica_id,
                peers=tuple(Peer(other, "127.0.0.1", port) for other, port in ports.items() if other != replica_id),
                listen_port=ports[replica_id],
                settings=SETTINGS,
                reconnect_ms=50,
            ),
            self.machine,
        )
        self.acknowledged = os.open(directory / "acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.number = 0

    async def load(self) -> None:
        """Propose one command after the other while leading."""
        while not (self.directory / "finish").exists():
            if not self.engine.leadership().is_local:
                await asyncio.sleep(0.01)
                continue
            self.number += 1
            command = f"{self.replica_id}-{os.getpid()}-{self.number}".encode()
            try:
                await self.engine.propose(command, timeout_ms=2000)
            except (NotApplied, OutcomeUnknown):
                await asyncio.sleep(0.001)
                continue
            os.write(self.acknowledged, command + b"\n")

    async def order(self, name: str) -> None:
        """Wait until the file appears."""
        while not (self.directory / name).exists():  # noqa: ASYNC110 - nothing tells of files
            await asyncio.sleep(0.02)

    async def finish(self) -> None:
        """Wait for the order to report, and obey."""
        await self.order("report")
        while True:
            try:
                await self.engine.barrier(timeout_ms=2000)
                break
            except BarrierFailed:
                await asyncio.sleep(0.02)
        self.machine.assert_order()
        report = self.directory / f"{self.replica_id}.report"
        temporary = report.with_suffix(".new")
        temporary.write_text(json.dumps([command.decode() for command in self.machine.commands]))
        temporary.rename(report)
        # The others may still need this replica for their majority.
        await self.order("end")

    async def run(self, in_flight: int) -> int:
        """Run until told to end."""
        await self.engine.start()
        clients = [asyncio.ensure_future(self.load()) for _ in range(in_flight)]
        finish = asyncio.ensure_future(self.finish())
        failure = asyncio.ensure_future(self.engine.wait_failed())
        await asyncio.wait([finish, failure], return_when=asyncio.FIRST_COMPLETED)
        for task in (*clients, finish, failure):
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await self.engine.stop()
        if failure.done() and not failure.cancelled():
            sys.stderr.write(f"engine failed: {failure.result()}\n")
            return FAILED
        await finish
        return 0


def main() -> int:
    """Run one replica."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("replica_id")
    parser.add_argument("ports")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--file-limit", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.file_limit:
        # A write beyond the limit fails with an error, as on a full disk, instead of a signal.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.file_limit, arguments.file_limit))
    ports = {name: int(port) for name, _, port in (item.partition("=") for item in arguments.ports.split(","))}
    process = Process(arguments.directory, arguments.replica_id, ports)
    return asyncio.run(process.run(arguments.in_flight))


if __name__ == "__main__":
    sys.exit(main())
