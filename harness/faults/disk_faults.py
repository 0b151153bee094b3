"""Faults of a replica's disk: torn, damaged, lost, full, without what was not synced."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

import grpc.aio
from attrs import Factory, define

from harness.faults import witness
from harness.faults.managed import Replica
from harness.faults.nemeses import World, kind, number
from harness.faults.process_faults import OnProcesses
from harness.processes import REPOSITORY, ProcessError, wait_until

JOURNAL = "journal"
FRAME_START = b"\xc5JF1"
REFUSED_DEADLINE_S = 20.0
SLOW_SYNC_MS = 60
UNSYNCED_DEADLINE_S = 20.0
LOST_BYTES_MAX = 6000
"""What a kernel has not written back yet is what was written last."""
ROOM_BYTES = 2000
SMALLEST_LIMIT = 24 * 1024
STEP_DEADLINE_S = 30
FULL_DEADLINE_S = 40.0
EMPTY_S = 4.0
"""How long a replica with an empty directory is watched before it is replaced."""
EMPTY_MAX_S = 40.0
REFUSAL_DEADLINE_S = 70.0
REFUSAL = re.compile(r"no link to replica (\S+): .*(?:its disk was lost or exchanged|has peer set \d+, not \d+)")
"""What a replica's log says of a peer that forgot everything; the second after the group has replaced a directory."""
WATCHED = ("tail_loss",)
"""Kinds whose replicas need a witness of their syncs."""


@define(eq=False)
class OnDisk(OnProcesses):
    """What faults of a replica's disk share. The replica is down while its files are touched."""

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        await OnProcesses.resolve(self, world)
        if world.cluster.settings.engine != "pysyncobj":
            world.busy.difference_update(self.names)
            self.names = []
        return ",".join(self.names)

    async def _killed(self, world: World) -> Replica:
        replica = world.cluster.replicas[self.names[0]]
        await replica.kill()
        world.note_process(replica.name, "killed")
        return replica

    async def _over(self, world: World) -> None:
        """Kill it, if it has not ended by itself because of the fault; from now on that is not expected any more."""
        replica = world.cluster.replicas[self.names[0]]
        await replica.kill()
        replica.may_end = False

    def _journal(self, world: World) -> Path:
        return world.cluster.replicas[self.names[0]].process.data_dir / JOURNAL


@kind("torn_tail")
@define(eq=False)
class TornTail(OnDisk):
    """The journal ends in half a frame, as a crash in the middle of a write leaves it: it must be cut, and no more."""

    _torn_at: int = 0
    _size: int = 0

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        replica = await self._killed(world)
        journal = self._journal(world)
        data = journal.read_bytes()
        frame = data[data.rfind(FRAME_START) :]
        self._torn_at = len(data)
        # The beginning of a frame like the last one: whole sectors of it were never written.
        torn = frame[: max(3, len(frame) // 2)] if len(frame) < 40 else frame[:4] + bytes(1200)
        journal.write_bytes(data + torn)
        self._size = len(data) + len(torn)
        replica.start()
        world.note_process(replica.name, "started")

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""
        replica, journal = world.cluster.replicas[self.names[0]], self._journal(world)

        async def cut() -> bool:
            if not replica.alive:
                raise ProcessError(f"{replica.name} does not start on a torn tail\n{replica.process.log_tail()}")
            return b"\0" * 1200 not in journal.read_bytes()

        await wait_until(cut, deadline_s=60, what="the torn tail is cut")
        return f"{self._size - self._torn_at} torn bytes were cut at byte {self._torn_at}"

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        await self.start_again(world)


@kind("corrupt_byte")
@define(eq=False)
class CorruptByte(OnDisk):
    """One synced byte of the journal changes: the replica must refuse to start with it. Healed from a copy."""

    _kept: bytes = b""

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        replica = await self._killed(world)
        journal = self._journal(world)
        self._kept = journal.read_bytes()
        # In front of the last frame: what is there was synced for certain.
        at = world.random.randrange(max(1, self._kept.rfind(FRAME_START)))
        damaged = bytearray(self._kept)
        damaged[at] ^= 0x10
        journal.write_bytes(damaged)
        replica.may_end = True
        replica.start()

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""
        replica = world.cluster.replicas[self.names[0]]
        code = await replica.process.wait_exit(deadline_s=REFUSED_DEADLINE_S)
        said = "damaged" in replica.process.log_tail()
        return f"refused to start, exit code {code}: the journal is damaged" if code != 0 and said else ""

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        if self._kept:
            await self._over(world)
            self._journal(world).write_bytes(self._kept)
        await self.start_again(world)


@define(eq=False)
class Empty:
    """A replica that has been started with an empty directory: its peers have to refuse it, and it must not get ready.

    That it is not ready shows nothing by itself: slow starts and lost quorums look like that too.
    """

    replica: Replica
    _since: dict[str, int]
    """Where the logs of its peers ended before."""

    @classmethod
    def start(cls, world: World, name: str) -> Self:
        """Start the replica, whose directory has been emptied."""
        replicas = world.cluster.replicas
        peers = [other for other in replicas if other != name]
        since = {other: replicas[other].process.log_path.stat().st_size for other in peers}
        replicas[name].may_end = True
        replicas[name].start()
        return cls(replicas[name], since)

    def refused_by(self, world: World) -> list[str]:
        """The peers that have refused it."""
        replicas, found = world.cluster.replicas, list[str]()
        for name, offset in self._since.items():
            said = replicas[name].process.log_path.read_bytes()[offset:].decode(errors="replace")
            if self.replica.name in REFUSAL.findall(said):
                found.append(name)
        return found

    async def watch(self, world: World, for_s: float) -> str:
        """Watch it until some peer has refused it, and for so long at least; returns who did.

        Raises:
            ProcessError: it got ready.
            TimeoutError: nobody refused it.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + for_s

        async def seen() -> bool:
            if self.replica.alive and await self.replica.process.ready():
                raise ProcessError(f"{self.replica.name} takes part with an empty directory")
            return loop.time() >= until and bool(self.refused_by(world))

        what = f"a peer refuses {self.replica.name}, whose directory is empty"
        await wait_until(seen, deadline_s=REFUSAL_DEADLINE_S, what=what)
        return ", ".join(self.refused_by(world))


@kind("wiped_disk")
@define(eq=False)
class WipedDisk(OnDisk):
    """A replica comes back with an empty directory: it must not take part. Healed by giving the directory back."""

    _kept: Path | None = None
    _empty: Empty | None = None

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        replica = await self._killed(world)
        self._kept = world.cluster.remove_data(replica.name)
        self._empty = Empty.start(world, replica.name)
        world.note_process(replica.name, "started")

    async def bit(self, world: World) -> str:
        """See `Nemesis`. It is watched until the fault is over."""
        assert self._empty is not None
        for_s = min(self.spec.duration_s, EMPTY_MAX_S)
        peers = await self._empty.watch(world, for_s)
        return f"refused with its empty directory by {peers}, and not ready for {for_s:g} s"

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        if self._kept is not None:
            await self._over(world)
            world.cluster.restore_data(self.names[0], self._kept)
            self._kept = None
        await self.start_again(world)


@kind("tail_loss")
@define(eq=False)
class TailLoss(OnDisk):
    """Power fails: replicas are killed, and their journals lose what was written and not synced (see `witness`).

    Syncs are slow for a moment before, so that there is something to lose. Nobody may have been told of it yet.
    """

    _lost: dict[str, int] = Factory(dict)

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        await OnDisk.resolve(self, world)
        if not world.cluster.settings.witness:
            world.busy.difference_update(self.names)
            raise ProcessError("tail loss needs replicas with a witness of their syncs: ClusterSettings.witness")
        return ",".join(self.names)

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        cluster = world.cluster
        journals = {name: cluster.replicas[name].process.data_dir / JOURNAL for name in self.names}
        witnesses = {name: cluster.witness_path(name) for name in self.names}
        for path in witnesses.values():
            witness.slow_down(path, SLOW_SYNC_MS)

        async def something_to_lose() -> bool:
            return any(
                witness.synced_bytes(witnesses[name], path) < path.stat().st_size for name, path in journals.items()
            )

        try:
            with suppress(TimeoutError):
                await wait_until(something_to_lose, deadline_s=UNSYNCED_DEADLINE_S, what="bytes that are not synced")
        finally:
            for name in self.names:
                cluster.replicas[name].condemn()
                os.kill(cluster.replicas[name].pid, signal.SIGKILL)
                world.note_process(name, "killed")
            await asyncio.gather(*(cluster.replicas[name].kill() for name in self.names))
        for name, path in journals.items():
            witness.slow_down(witnesses[name], 0)
            self._lost[name] = self._cut(world, path, witness.synced_bytes(witnesses[name], path))
            cluster.replicas[name].start()
            world.note_process(name, "started")

    def _cut(self, world: World, journal: Path, synced: int) -> int:
        size = journal.stat().st_size
        least = max(synced, size - LOST_BYTES_MAX)
        drawn = number(self.spec, "drawn", 1) and world.random.random() < 0.3
        # Something is lost always, if there is something to lose.
        end = world.random.randint(least, max(least, size - 1)) if drawn else least
        os.truncate(journal, end)
        return size - end

    async def bit(self, _world: World) -> str:
        """See `Nemesis`."""
        lost = {name: count for name, count in self._lost.items() if count}
        self.problem = "" if lost else "all that was written was synced"
        return ", ".join(f"{name} lost {count} bytes that it had not synced" for name, count in lost.items())

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        await self.start_again(world)


@kind("full_disk")
@define(eq=False)
class FullDisk(OnDisk):
    """No file of the replica may grow beyond a size that its journal reaches soon (RLIMIT_FSIZE): it must stop, and say
    why. Healed by a start with room again."""

    _log: bytes = b""

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        world.cluster.replicas[self.names[0]].may_end = True
        process = world.cluster.replicas[self.names[0]].process
        # The limit is for every file: its log begins anew meanwhile.
        self._log = process.log_path.read_bytes()
        os.truncate(process.log_path, 0)
        limit = max(SMALLEST_LIMIT, self._journal(world).stat().st_size + ROOM_BYTES)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""
        process = world.cluster.replicas[self.names[0]].process
        try:
            code = await process.wait_exit(deadline_s=FULL_DEADLINE_S)
        except ProcessError:
            self.problem = "too little was written to fill the disk"
            return ""
        said = next((line for line in process.log_path.read_text().splitlines() if "the disk failed" in line), "")
        self.problem = "" if code and said else f"exit code {code}; {process.log_tail()}"
        return f"it stopped with exit code {code}: the disk failed" if code and said else ""

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        replica = world.cluster.replicas[self.names[0]]
        await self._over(world)
        path = replica.process.log_path
        path.write_bytes(self._log + path.read_bytes())
        await self.start_again(world)


@kind("replaced_disk")
@define(eq=False)
class ReplacedDisk(OnDisk):
    """A replica's disk is lost. Empty it must not take part; then `callboard replica` replaces it, as documented."""

    _said: list[str] = Factory(list)
    _refused_by: str = ""

    async def resolve(self, world: World) -> str:
        """See `Nemesis`. All replicas are stopped for the procedure."""
        await OnDisk.resolve(self, world)
        rest = [name for name in world.replicas() if name not in self.names]
        if not self.names or world.busy.intersection(rest) or not all(world.process(name).alive for name in rest):
            world.busy.difference_update(self.names)
            return ""
        world.busy.update(rest)
        self.names += rest
        return self.names[0]

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        cluster, lost, survivors = world.cluster, self.names[0], self.names[1:]
        replica = await self._killed(world)
        cluster.remove_data(lost)
        await self._refused(world, replica)
        for name in survivors:
            world.note_process(name, "leaving")
            await cluster.replicas[name].terminate()
        directories = {name: str(cluster.replicas[name].process.data_dir) for name in self.names}
        shutil.rmtree(directories[lost])
        ticket = cluster.directory / "ticket"
        made = await _callboard("replica", "ticket", "--data-dir", directories[survivors[0]], "--id", lost)
        ticket.write_text(made)
        for name in survivors:
            self._said.append(await _callboard("replica", "accept", "--data-dir", directories[name], str(ticket)))
        self._said.append(await _callboard("replica", "create", "--data-dir", directories[lost], str(ticket)))
        for name in self.names:
            cluster.replicas[name].start()
            world.note_process(name, "started")

    async def _refused(self, world: World, replica: Replica) -> None:
        empty = Empty.start(world, replica.name)
        with suppress(TimeoutError):  # then there is no proof
            self._refused_by = await empty.watch(world, EMPTY_S)
        await replica.kill()
        replica.may_end = False

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""
        process = world.cluster.replicas[self.names[0]].process
        if not self._refused_by:
            self.problem = f"no peer refused {self.names[0]} when its directory was empty"
            return ""

        async def is_full_member() -> bool:
            with suppress(grpc.aio.AioRpcError):
                if await process.ready():
                    return (await process.status()).engine_details["role_in_group"] == "full member"
            return False

        await wait_until(is_full_member, deadline_s=60, what=f"{self.names[0]} is a full member")
        return f"refused when empty by {self._refused_by}, then replaced: {self._said[-1].strip()}"

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        await self.start_again(world)


async def _callboard(*arguments: str) -> str:
    """Run the command line; what it printed. Raises ProcessError."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "callboard.cli.main", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=STEP_DEADLINE_S,
            env={"PYTHONPATH": str(REPOSITORY / "impl"), "LANG": "C.UTF-8"},
        )

    done = await asyncio.to_thread(run)
    if done.returncode != 0:
        raise ProcessError(f"callboard {' '.join(arguments)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout
