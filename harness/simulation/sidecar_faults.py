"""Faults and changes of sidecars: see faults.py, which calls these by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from attrs import define

from harness.simulation.kernel import MS
from harness.simulation.plan import Fault
from harness.simulation.sidecars import Sidecar

if TYPE_CHECKING:
    from harness.simulation.world import World

Undo = Callable[[], object]
SLOW_US = 80 * MS
TYPE_SETS: tuple[tuple[str, ...], ...] = (("T1",), ("T1", "T2"), ("T2",), ())


class Running(Protocol):
    """As in faults.py."""

    bites: int

    @property
    def fault(self) -> Fault:
        """What was planned."""


@define(eq=False)
class SidecarFaults:
    """See the module's description."""

    world: World

    def _sidecar(self, fault: Fault) -> Sidecar | None:
        alive = [sidecar for sidecar in self.world.sidecars if sidecar.alive and not sidecar.leaving]
        return alive[fault.target % len(alive)] if alive else None

    def sidecar_start(self, running: Running) -> None:
        """A new sidecar."""
        fault = running.fault
        if self.world.start_sidecar(TYPE_SETS[fault.other % len(TYPE_SETS)], heartbeats=fault.target % 3 == 0):
            running.bites += 1

    def sidecar_stop(self, running: Running) -> None:
        """One stops politely, or dies."""
        sidecar = self._sidecar(running.fault)
        if sidecar is None or sidecar.paused:
            return
        running.bites += 1
        if running.fault.other % 2:
            self.world.stop_sidecar(sidecar)
        else:
            self.world.crash_sidecar(sidecar)

    def sidecar_restart(self, running: Running) -> None:
        """One dies, and its successor of the same name is there at once."""
        sidecar = self._sidecar(running.fault)
        if sidecar is None:
            return
        running.bites += 1
        self.world.crash_sidecar(sidecar)
        self.world.run_sidecar(sidecar.name, sidecar.machine.spec.actor_types, heartbeats=sidecar.heartbeats)

    def sidecar_types(self, running: Running) -> None:
        """Its application hosts other types."""
        sidecar, types = self._sidecar(running.fault), TYPE_SETS[running.fault.other % len(TYPE_SETS)]
        if sidecar is not None and not sidecar.paused:
            running.bites += sidecar.machine.spec.actor_types != types
            self.world.change_types(sidecar, types)

    def sidecar_silent(self, running: Running) -> Undo | None:
        """It stands still."""
        sidecar = self._sidecar(running.fault)
        if sidecar is None or sidecar.paused:
            return None
        sidecar.pause()

        def resume() -> None:
            running.bites += sidecar.deferred
            sidecar.resume()

        return resume

    def sidecar_slow(self, running: Running) -> Undo | None:
        """Its messages take long."""
        sidecar = self._sidecar(running.fault)
        return None if sidecar is None else self.world.faults.slow(running, sidecar.node, SLOW_US)

    def sidecar_hang_up(self, running: Running) -> None:
        """Its stream breaks."""
        sidecar = self._sidecar(running.fault)
        for stream in list(self.world.network.streams.values()):
            if sidecar is not None and stream.ends[0].process is sidecar:
                stream.cut()
                running.bites += 1

    def repeat_round(self, running: Running) -> None:
        """An operator has a round run again."""

        def done() -> None:
            running.bites += 1

        namespace = self.world.plan.barrier_namespaces[0]
        self.world.operator.repeat_round(namespace.name, done)
