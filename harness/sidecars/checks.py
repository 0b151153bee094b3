"""What every sidecar of a fleet checks of the orders that reach it, whatever happens around it.

* `BarrierOrder`: on each stream lock, update and unlock come in this order, of one version, again and again.
* `TableMonotonic`: no sidecar is given an older version after a newer one, also not on a later stream.
* `TableAgreement`: one version of a namespace is one table, everywhere and always.

The rules are those that a server of durable versions keeps. They are stricter than what daprd itself minds.
"""

from __future__ import annotations

from attrs import define

from harness.sidecars.events import SidecarSpec
from harness.sidecars.tables import Order

VIOLATIONS_KEPT = 100
FOLLOWS = {"lock": "unlock", "update": "lock", "unlock": "update"}
"""Each order, and the one that has to come before it."""


@define
class _Seen:
    """What one sidecar was told: on its current stream, and which table it has had."""

    attempt: int = 0
    operation: str = "unlock"
    version: int = 0
    newest: int = 0


class WireChecks:
    """Told of every order by `saw`; `violations` says what was wrong, one line each (the first 100)."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.orders = 0
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._digests: dict[tuple[str, int], str] = {}

    def saw(self, spec: SidecarSpec, attempt: int, order: Order) -> None:
        """An order reached the sidecar on its stream number `attempt`."""
        self.orders += 1
        seen = self._seen.setdefault((spec.namespace, spec.name), _Seen())
        if attempt != seen.attempt:
            seen.attempt, seen.operation, seen.version = attempt, "unlock", 0
        self._barrier_order(spec, seen, order)
        if order.operation == "update" and order.tables is not None:
            if order.version < seen.newest:
                self._broken("TableMonotonic", spec, f"version {order.version} after {seen.newest}")
            seen.newest = max(seen.newest, order.version)
            self._table_agreement(spec, order.version, order.tables.digest)
        seen.operation, seen.version = order.operation, order.version

    def forget(self, spec: SidecarSpec) -> None:
        """The sidecar's process is gone; another one of its name starts afresh."""
        self._seen.pop((spec.namespace, spec.name), None)

    def _barrier_order(self, spec: SidecarSpec, seen: _Seen, order: Order) -> None:
        before = FOLLOWS.get(order.operation)
        starts = order.operation == "lock"
        fits = order.version >= seen.version if starts else order.version == seen.version
        if before != seen.operation or not fits:
            told = f"{order.operation} {order.version} after {seen.operation} {seen.version}"
            self._broken("BarrierOrder", spec, told)

    def _table_agreement(self, spec: SidecarSpec, version: int, digest: str) -> None:
        known = self._digests.setdefault((spec.namespace, version), digest)
        if known != digest:
            self._broken("TableAgreement", spec, f"version {version} is table {digest} here and {known} elsewhere")

    def _broken(self, rule: str, spec: SidecarSpec, what: str) -> None:
        if len(self.violations) < VIOLATIONS_KEPT:
            self.violations.append(f"{rule}: {spec.namespace}/{spec.name}: {what}")
