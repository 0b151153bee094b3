"""Faults around rounds of simulated sidecars: one that is silent while others join, joins without end, a leader that is
frozen in the middle of a round. They need the workload `sidecars`."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from attrs import Factory, define

from harness.faults.background import Background, stopped
from harness.faults.cluster import SimulatedSidecars
from harness.faults.nemeses import FaultSpec, World, kind, number
from harness.faults.process_faults import Pause
from harness.processes import wait_until
from harness.sidecars.shell import Sidecar

FEWEST, MOST = 4, 9
ROUND_DEADLINE_S = 10.0


@kind("sidecar_silent")
@define(eq=False)
class SilentSidecar:
    """A sidecar keeps its stream, and reads and says nothing, while others join. The fault has no proof if they, and
    those that were well before, do not have a new table before it is over: one slow host must not break the round for
    all."""

    spec: FaultSpec
    _silent: Sidecar | None = None
    _others: list[Sidecar] = Factory(list)
    _version: int = 0
    problem: str = ""

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        sidecars = world.cluster.sidecars
        well = [sidecar for sidecar in sidecars.awake() if sidecar.machine.settled] if sidecars else []
        if not well:
            return ""
        self._silent = world.random.choice(well)
        # Not those that are locked since an earlier fault: that is no matter of this one.
        self._others = [sidecar for sidecar in well if sidecar is not self._silent]
        return self._silent.name

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        assert self._silent is not None, "resolve() found one"
        self._silent.pause()
        self._version = max(sidecar.machine.table_version for sidecar in (self._silent, *self._others))
        self._others += [_sidecars(world).add() for _ in range(number(self.spec, "joins", 2))]

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""

        def others() -> list[Sidecar]:
            return [sidecar for sidecar in _sidecars(world).awake() if sidecar in self._others]

        async def have_new_table() -> bool:
            machines = [sidecar.machine for sidecar in others()]
            new = [machine.settled and machine.table_version > self._version for machine in machines]
            return bool(new) and all(new)

        await wait_until(have_new_table, deadline_s=self.spec.duration_s, what="a new table for all but the silent one")
        return f"{len(others())} others have a new table without it"

    async def heal(self, _world: World) -> None:
        """See `Nemesis`."""
        if self._silent is not None:
            self._silent.resume()


@kind("sidecar_storm")
@define(eq=False)
class SidecarStorm:
    """Sidecars join and die all the time, so that a round is under way at any moment."""

    spec: FaultSpec
    _work: Background | None = None
    _steps: int = 0

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        return "sidecars" if world.cluster.sidecars else ""

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        self._work = Background(self._blow(world))

    async def _blow(self, world: World) -> None:
        sidecars = _sidecars(world)
        while True:
            awake = sidecars.awake()
            if len(awake) < FEWEST or (len(awake) < MOST and world.random.random() < 0.5):
                sidecars.add()
            else:
                await sidecars.kill(world.random.choice(awake))
            self._steps += 1
            await asyncio.sleep(number(self.spec, "pause_ms", 500) / 1000 * world.random.uniform(0.3, 1.7))

    async def bit(self, _world: World) -> str:
        """See `Nemesis`."""

        async def some() -> bool:
            assert self._work is not None
            self._work.check()
            return self._steps >= 2

        await wait_until(some, deadline_s=30, what="two steps of the storm")
        return f"{self._steps} joins and deaths so far"

    async def heal(self, _world: World) -> None:
        """See `Nemesis`."""
        await stopped(self._work)


@kind("pause_in_round")
@define(eq=False)
class PauseInRound(Pause):
    """SIGSTOP in the middle of a round, while sidecars that have been told to lock wait for the rest of it."""

    _locked: int = 0

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""

        async def under_way() -> bool:
            machines = [sidecar.machine for sidecar in _sidecars(world).awake()] if world.cluster.sidecars else []
            self._locked = sum(machine.served and machine.locked for machine in machines)
            return self._locked > 0

        with suppress(TimeoutError):  # then there is no proof
            await wait_until(under_way, deadline_s=ROUND_DEADLINE_S, what="a round")
        await super().inject(world)

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""
        proof = await super().bit(world)
        if not self._locked:
            self.problem = "no round was under way"
            return ""
        return proof and f"{proof}, with {self._locked} sidecars locked"


def _sidecars(world: World) -> SimulatedSidecars:
    assert world.cluster.sidecars is not None, "resolve() found some"
    return world.cluster.sidecars
