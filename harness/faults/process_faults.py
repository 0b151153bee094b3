"""Faults of processes: killed, frozen, restarted, in crash loops; hosts that come and go."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

from attrs import Factory, define, frozen

from harness.faults.background import Background, stopped
from harness.faults.managed import HostUnderTest
from harness.faults.nemeses import FaultSpec, World, kind, number
from harness.faults.observers import trace_lines
from harness.processes import ProcessError, wait_until

CRASH_PAUSE_S = 1.2
GATHER_S = 0.25
GATHER_DEADLINE_S = 1.5
RESTARTS_S = 60.0
"""How long restarts are watched at most."""
BACK_DEADLINE_S = 60.0
JOIN_DEADLINE_S = 60.0
ENDED_EARLY = 0.3
"""How often a host that has not joined yet is ended all the same."""


def passed_since(trace: Path, offset: int) -> int:
    """How many accesses have passed a host's gate, by its trace behind `offset`."""
    if not trace.exists():
        return 0
    with trace.open("rb") as file:
        file.seek(offset)
        return file.read().count(b'{"kind":"passed"')


def incarnations(trace: Path, since: int = 0) -> frozenset[int]:
    """All that a host has told of itself, by its trace behind so many lines: it has joined as each of them."""
    return frozenset(line.get("incarnation", 0) for line in trace_lines(trace)[since:]) - {0}


async def pick(spec: FaultSpec, world: World) -> list[str]:
    """Processes that run and that no other fault has."""
    if spec.kind.startswith("host"):
        found = world.pick_hosts(spec.target or "one")
    elif spec.kind.startswith("etcd"):
        found = world.pick_etcd(spec.target or "one")
    else:
        found = await world.pick_replicas(
            spec.target or ("all" if spec.kind in {"rolling_restart", "upgrade"} else "one")
        )
    free = [name for name in found if name not in world.busy and world.process(name).alive]
    world.busy.update(free)
    return free


@define(eq=False)
class OnProcesses:
    """What faults of processes share."""

    spec: FaultSpec
    names: list[str] = Factory(list)
    problem: str = ""

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        self.names = await pick(self.spec, world)
        return ",".join(self.names)

    async def start_again(self, world: World) -> None:
        """Start what does not run, and let others have it."""
        for name in self.names:
            if await world.process(name).start_again():
                world.note_process(name, "started")
        world.busy.difference_update(self.names)


@kind("kill", "host_kill", "etcd_kill")
@define(eq=False)
class Kill(OnProcesses):
    """SIGKILL; started again at the end."""

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        for name in self.names:
            world.note_process(name, "killed")
        await asyncio.gather(*(world.process(name).kill() for name in self.names))

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""
        gone = [name for name in self.names if not world.process(name).alive]
        return f"{len(gone)} processes are gone" if gone == self.names else ""

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        await self.start_again(world)


@kind("pause", "host_pause", "etcd_pause")
@define(eq=False)
class Pause(OnProcesses):
    """SIGSTOP; SIGCONT at the end."""

    _at_store: dict[str, int] = Factory(dict)

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        for name in self.names:
            if name in world.cluster.hosts:
                await self._suspend_host(world, name)
            else:
                await world.process(name).suspend()
            world.note_process(name, "stopped")

    async def _suspend_host(self, world: World, name: str) -> None:
        """Frozen while it does not hold the store's lock. The lock is taken in a thread of its own, with patience."""
        lock, trace = world.cluster.store_locked(), world.cluster.hosts[name].trace_path
        await asyncio.to_thread(lock.__enter__)
        try:
            # Turns gather at the store's door, past the gate: those that are frozen there act late, under an old fence.
            known = trace.stat().st_size if trace.exists() else 0

            async def gathered() -> bool:
                self._at_store[name] = passed_since(trace, known)
                return self._at_store[name] > 0

            with suppress(TimeoutError):  # a host without busy actors is frozen all the same
                await wait_until(gathered, deadline_s=GATHER_DEADLINE_S, what="an access to the store")
            await asyncio.sleep(GATHER_S)
            await world.process(name).suspend()
            self._at_store[name] = passed_since(trace, known)
        finally:
            await asyncio.to_thread(lock.__exit__, None, None, None)

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""
        stopped = [name for name in self.names if world.process(name).kernel_state() == "T"]
        if stopped != self.names:
            return ""
        waiting = f", with {sum(self._at_store.values())} accesses at the store's door" if self._at_store else ""
        return f"{len(stopped)} processes in state T{waiting}"

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        for name in self.names:
            world.process(name).resume()
            world.note_process(name, "continued")
        world.busy.difference_update(self.names)


@kind("rolling_restart")
@define(eq=False)
class RollingRestart(OnProcesses):
    """SIGTERM and a start, one replica after the other, each when the one before is ready again."""

    _work: Background | None = None
    _done: int = 0

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        self._work = Background(self._restart(world))

    async def _restart(self, world: World) -> None:
        for name in self.names:
            replica = world.cluster.replicas[name]
            world.note_process(name, "leaving")
            await replica.terminate()
            replica.start()
            world.note_process(name, "started")
            self._done += 1
            await wait_until(replica.process.ready, deadline_s=90, what=f"{name} is ready again")

    async def bit(self, _world: World) -> str:
        """See `Nemesis`. Watched until the fault is over, so that the proof says how far it came."""
        work, loop = self._work, asyncio.get_running_loop()
        assert work is not None
        until = loop.time() + min(self.spec.duration_s, RESTARTS_S)

        async def known() -> bool:
            work.check()
            return work.over or (self._done > 0 and loop.time() >= until)

        await wait_until(known, deadline_s=RESTARTS_S, what="the first restart")
        return f"{self._done} of {len(self.names)} replicas restarted" if self._done else ""

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        work, self._work = self._work, None
        try:
            # In a partition nobody gets ready; then the rest of the restarts is not to be waited for.
            await stopped(work)
        finally:
            await self.start_again(world)


@kind("crash_loop", "host_crash_loop")
@define(eq=False)
class CrashLoop(OnProcesses):
    """Killed again soon after each start."""

    _work: Background | None = None
    _crashes: int = 0

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        self._work = Background(self._crash(world))

    async def _crash(self, world: World) -> None:
        while True:
            for name in self.names:
                process = world.process(name)
                await process.kill()
                world.note_process(name, "killed")
                process.start()
                world.note_process(name, "started")
            self._crashes += 1
            await asyncio.sleep(CRASH_PAUSE_S * world.random.uniform(0.3, 2.5))

    async def bit(self, _world: World) -> str:
        """See `Nemesis`."""

        async def twice() -> bool:
            assert self._work is not None
            self._work.check()
            return self._crashes >= 2

        await wait_until(twice, deadline_s=30, what="two crashes")
        return f"{self._crashes} crashes so far"

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        work, self._work = self._work, None
        try:
            await stopped(work)
        finally:
            await self.start_again(world)


@frozen
class _Left:
    """A host's process that has left: its exit code, and what it had told of itself by then."""

    code: int | None
    lines: int
    incarnations: frozenset[int]

    @classmethod
    def of(cls, host: HostUnderTest) -> _Left:
        return cls(host.exit_code, len(trace_lines(host.trace_path)), incarnations(host.trace_path))

    def come_back(self, host: HostUnderTest) -> int | None:
        """The incarnation that the host has been given since; None while there is none, or an earlier one."""
        told = incarnations(host.trace_path, self.lines)
        return max(told) if told and not told & self.incarnations else None


@kind("host_restart")
@define(eq=False)
class HostRestart(OnProcesses):
    """A host leaves in order and comes back under the same name and address at once."""

    _left: dict[str, _Left] = Factory(dict)

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        for name in self.names:
            host = world.cluster.hosts[name]
            world.note_process(name, "leaving")
            await host.terminate()
            self._left[name] = _Left.of(host)
            host.start()
            world.note_process(name, "started")

    async def bit(self, world: World) -> str:
        """See `Nemesis`. The new process is another incarnation, by what it tells of itself."""
        back: dict[str, int] = {}

        async def known() -> bool:
            for name, left in self._left.items():
                incarnation = left.come_back(world.cluster.hosts[name])
                if incarnation is not None:
                    back[name] = incarnation
            return len(back) == len(self.names)

        await wait_until(known, deadline_s=BACK_DEADLINE_S, what="a new incarnation of each restarted host")
        return ", ".join(
            f"{name} left with exit code {self._left[name].code} and is incarnation {new} now, after "
            f"{max(self._left[name].incarnations, default=0)}"
            for name, new in back.items()
        )

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        await self.start_again(world)


@kind("host_kill_while_leaving")
@define(eq=False)
class KillWhileLeaving(OnProcesses):
    """SIGTERM, and SIGKILL in the middle of the leave."""

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        for name in self.names:
            host = world.cluster.hosts[name]
            host.condemn(leaving=True)
            os.kill(host.pid, signal.SIGTERM)
            world.note_process(name, "leaving")
            await asyncio.sleep(world.random.randint(20, number(self.spec, "longest_ms", 600)) / 1000)
            await host.kill()
            world.note_process(name, "killed")

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""
        gone = [name for name in self.names if not world.process(name).alive]
        return f"{len(gone)} hosts are gone" if gone == self.names else ""

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        await self.start_again(world)


@kind("storm")
@define(eq=False)
class Storm:
    """Spare hosts join and leave, in order or by SIGKILL, all the time."""

    spec: FaultSpec
    _work: Background | None = None
    _steps: int = 0
    _told: dict[str, int] = Factory(dict)
    """How much each host had told when it was started last."""
    _joined: set[tuple[str, int]] = Factory(set)

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        return ",".join(host.name for host in world.cluster.spare_hosts())

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        self._work = Background(self._blow(world))

    async def _blow(self, world: World) -> None:
        while True:
            await self._step(world, world.random.choice(world.cluster.spare_hosts()))
            await asyncio.sleep(number(self.spec, "pause_ms", 1500) / 1000 * world.random.uniform(0.3, 1.7))

    async def _step(self, world: World, host: HostUnderTest) -> None:
        if not host.alive:
            self._told[host.name] = len(trace_lines(host.trace_path))
            host.start()
            world.note_process(host.name, "started")
        elif not self._has_joined(host) and world.random.random() > ENDED_EARLY:
            return  # on a busy machine hosts that are ended soon never join, and nothing happens
        elif world.random.random() < 0.5:
            await host.kill()
            world.note_process(host.name, "killed")
        else:
            with suppress(ProcessError):
                host.condemn(leaving=True)
                os.kill(host.pid, signal.SIGTERM)
                world.note_process(host.name, "leaving")
        self._steps += 1

    def _has_joined(self, host: HostUnderTest) -> bool:
        found = incarnations(host.trace_path, self._told.get(host.name, 0))
        self._joined.update((host.name, incarnation) for incarnation in found)
        return bool(found)

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""

        async def some() -> bool:
            assert self._work is not None
            self._work.check()
            # Of others there are traces of earlier storms only.
            for host in world.cluster.spare_hosts():
                if host.name in self._told:
                    self._has_joined(host)
            return bool(self._joined)

        await wait_until(some, deadline_s=JOIN_DEADLINE_S, what="a host of the storm joins")
        return f"{len(self._joined)} joins and {self._steps} starts and ends so far"

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        work, self._work = self._work, None
        try:
            await stopped(work)
        finally:
            for host in world.cluster.spare_hosts():
                if host.alive:
                    await host.kill()
                    world.note_process(host.name, "killed")
