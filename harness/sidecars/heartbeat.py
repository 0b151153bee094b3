"""A sidecar of daprd 1.16: repeats its full report every second, and pairs locks with unlocks by counting them.

The counting is 1.16.2 to 1.16.19's, with its faults, because a server has to live with them: after two locks
one unlock does not unlock, and once the fail-safe has made up for a late unlock, that unlock's arrival puts the
counts out of step for good.
"""

from __future__ import annotations

from random import Random

from harness.sidecars.events import (
    Effect,
    Event,
    OrderReceived,
    Report,
    Send,
    SetTimer,
    SidecarSettings,
    SidecarSpec,
    StreamEnded,
    TimerFired,
)
from harness.sidecars.machine import Connection, SidecarMachine
from harness.sidecars.tables import NO_TABLES, Order

HEARTBEAT_TIMER = "heartbeat"
FAIL_SAFE_TIMER = "fail-safe "


class HeartbeatSidecar(SidecarMachine):
    """daprd 1.16, as far as a placement server can tell. The counts live as long as the process, not the stream."""

    def __init__(self, spec: SidecarSpec, addresses: int, settings: SidecarSettings, random: Random) -> None:
        super().__init__(spec, addresses, settings, random)
        self.locks = 0
        self.unlocks = 0
        self.holds_lock = False

    @property
    def locked(self) -> bool:
        return self.holds_lock

    @property
    def wedged(self) -> bool:
        """The counts are out of step: the unlock of the current round will not match, and no fail-safe will fire."""
        return self.holds_lock and self.unlocks >= self.locks

    def _opened(self, now: float) -> list[Effect]:
        return self._heartbeat(now)

    def _heartbeat(self, now: float) -> list[Effect]:
        report = Report("UNKNOWN", self.spec.namespace, self.spec.app_id, host=self.spec)
        return [Send(report), SetTimer(HEARTBEAT_TIMER, now + self.settings.heartbeat_s)]

    def _ordered(self, order: Order, now: float) -> list[Effect]:
        match order.operation:
            case "lock":
                self.locks += 1
                self.holds_lock = True
                if not self.settings.ignores_equal_version:
                    self._clear()
                return [SetTimer(f"{FAIL_SAFE_TIMER}{self.locks}", now + self.settings.fail_safe_s)]
            case "update":
                return self._update(order, now)
            case "unlock":
                self._unlock(order, now)
                return []
            case _:
                self.note(now, "ignored")
                return []

    def _update(self, order: Order, now: float) -> list[Effect]:
        equal = self.tables is not None and order.tables is not None and order.tables.version == self.tables.version
        if order.tables is None or (equal and self.settings.ignores_equal_version):
            self.note(now, "ignored", order.version)
            return []
        return self._install(order.tables, order.version, now)

    def _drained(self, now: float) -> list[Effect]:  # noqa: ARG002
        return []

    def _unlock(self, order: Order, now: float) -> None:
        self.unlocks += 1
        if self.unlocks != self.locks:
            self.note(now, "ignored", order.version)
            return
        known = self.tables.hosts if self.tables is not None else {}
        self.ready = self.ready or all(actor_type in known for actor_type in self.spec.actor_types)
        self.holds_lock = False

    def _clear(self) -> None:
        if self.tables is not None:
            self.tables = NO_TABLES

    def _timer(self, timer: str, now: float) -> list[Effect]:
        if timer == HEARTBEAT_TIMER:
            return self._heartbeat(now) if self.connection is Connection.OPEN else []
        lock = int(timer.removeprefix(FAIL_SAFE_TIMER))
        if self.unlocks < lock:
            self.unlocks = lock
            self._clear()
            self.holds_lock = False
            self.note(now, "fail_safe")
        return []

    def _types_changed(self, now: float) -> list[Effect]:  # noqa: ARG002
        """The next heartbeat tells it."""
        return []

    def _lost(self, now: float) -> list[Effect]:  # noqa: ARG002
        return []

    def _pause(self, reason: str) -> float:  # noqa: ARG002
        return self.settings.reconnect_pause_s

    def _waits_for_drain(self, event: Event) -> bool:
        """Orders and the fail-safe wait for each other; heartbeats come from a loop of their own."""
        if isinstance(event, TimerFired):
            return event.timer.startswith(FAIL_SAFE_TIMER)
        return isinstance(event, (OrderReceived, StreamEnded))
