"""A sidecar of daprd 1.18: reports itself once, then acknowledges every order by operation and version."""

from __future__ import annotations

from random import Random

from harness.sidecars.events import (
    CancelTimer,
    Effect,
    Event,
    Report,
    Send,
    SetTimer,
    SidecarSettings,
    SidecarSpec,
    TimerFired,
)
from harness.sidecars.machine import DRAIN_TIMER, SidecarMachine
from harness.sidecars.tables import Order

TABLE_TIMER = "table"


class ModernSidecar(SidecarMachine):
    """daprd 1.18, as far as a placement server can tell.

    `version` is the version of the round that it is in, or was in last; `operation` the last order that it obeyed.
    Both start afresh with every stream, the tables do not.
    """

    def __init__(self, spec: SidecarSpec, addresses: int, settings: SidecarSettings, random: Random) -> None:
        super().__init__(spec, addresses, settings, random)
        self.version = 0
        self.operation = "report"
        self.blocked_types: frozenset[str] = frozenset()
        self.waits_for_update = True
        """Since the stream opened no update has come: all calls wait."""

    @property
    def locked(self) -> bool:
        return self.waits_for_update or bool(self.blocked_types)

    @property
    def wedged(self) -> bool:
        """Never: it looks at versions, not at counts."""
        return False

    def _opened(self, now: float) -> list[Effect]:  # noqa: ARG002
        return [Send(self._report())]

    def _report(self) -> Report:
        return Report("REPORT", self.spec.namespace, self.spec.app_id, host=self.spec)

    def _acknowledge(self, operation: str) -> Effect:
        return Send(Report(operation, self.spec.namespace, self.spec.app_id, version=self.version))

    def _ordered(self, order: Order, now: float) -> list[Effect]:
        match order.operation:
            case "lock":
                self.operation = "lock"
                self.version = order.version
                timer = SetTimer(TABLE_TIMER, now + self.settings.dissemination_timeout_s)
                return [timer, self._acknowledge("LOCK")]
            case "update":
                return self._update(order, now)
            case "unlock":
                return self._unlock(order, now)
            case _:
                return [CancelTimer(TABLE_TIMER), *self._close(now)]

    def _update(self, order: Order, now: float) -> list[Effect]:
        if self.version > order.version or order.tables is None:
            return [CancelTimer(TABLE_TIMER), *self._close(now)]
        self.operation = "update"
        self.waits_for_update = False
        self.blocked_types |= order.tables.changed_types(self.tables)
        return [CancelTimer(TABLE_TIMER), *self._install(order.tables, order.version, now)]

    def _drained(self, now: float) -> list[Effect]:  # noqa: ARG002
        return [self._acknowledge("UPDATE")]

    def _unlock(self, order: Order, now: float) -> list[Effect]:
        if self.operation != "update" or self.version > order.version:
            self.note(now, "ignored", order.version)
            return []
        self.operation = "unlock"
        self.version = order.version
        self.blocked_types = frozenset()
        self.ready = True
        return [self._acknowledge("UNLOCK")]

    def _timer(self, timer: str, now: float) -> list[Effect]:
        if timer != TABLE_TIMER or self.operation != "lock":
            return []
        self.note(now, "timed_out", self.version)
        return self._close(now)

    def _types_changed(self, now: float) -> list[Effect]:  # noqa: ARG002
        return [Send(self._report())]

    def _lost(self, now: float) -> list[Effect]:  # noqa: ARG002
        self.version = 0
        self.operation = "report"
        self.ready = False
        self.waits_for_update = True
        return [CancelTimer(TABLE_TIMER)]

    def _pause(self, reason: str) -> float:
        if reason == "open_failed":
            return self._jittered(self.settings.open_failed_pause_s)
        return self._jittered(self.settings.refused_pause_s) if reason == "refused" else 0.0

    def _waits_for_drain(self, event: Event) -> bool:
        """One loop does everything: while it drains, nothing else happens."""
        return event != TimerFired(DRAIN_TIMER)
