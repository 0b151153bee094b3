"""A runtime without actors: it drains at once, and writes down what it is told."""

from __future__ import annotations

from collections.abc import Callable

from attrs import Factory, define

from callboard.core.native_host_records import CancelTurns, Ended, Granted, StopAdmitting, TableInstalled
from callboard.core.slot_records import NativeHostRecord
from callboard.core.versions import Policy
from callboard.host.session import Session


@define(eq=False)
class RecordingSlots:
    """See the module's description. `hold`: do not drain until told."""

    session: Session | None = None
    hold: bool = False
    serving: set[tuple[str, int]] = Factory(set)
    told: list[object] = Factory(list)
    renewed: int = 0
    on_change: Callable[[], None] = lambda: None

    def granted(self, effect: Granted) -> None:
        self.told.append(effect)
        self.serving |= {(span.actor_type, slot) for span in effect.spans for slot in _slots(span.first, span.count)}

    def stop_admitting(self, effect: StopAdmitting) -> None:
        self.told.append(effect)
        if not self.hold:
            self.drain(effect)

    def drain(self, effect: StopAdmitting) -> None:
        assert self.session is not None
        for span in effect.spans:
            self.session.drained(span.actor_type, tuple(_slots(span.first, span.count)))

    def cancel(self, effect: CancelTurns) -> None:
        self.told.append(effect)

    def ended(self, effect: Ended) -> None:
        self.told.append(effect)
        self.serving -= {(span.actor_type, slot) for span in effect.spans for slot in _slots(span.first, span.count)}

    def table_installed(self, effect: TableInstalled) -> None:
        self.told.append(effect)

    def lease_renewed(self) -> None:
        self.renewed += 1


def _slots(first: int, count: int) -> range:
    return range(first, first + count)


def session_of(
    name: str,
    cluster: list[str],
    *,
    namespace: str = "carts",
    policy: Policy = Policy.EXCLUSIVE,
    store_id: str = "",
) -> tuple[Session, RecordingSlots]:
    """A host with two actor types and nothing behind it."""
    slots = RecordingSlots()
    record = NativeHostRecord(name, f"{name}:7301", ("Cart", "Lamp"), process="-", store_id=store_id)
    session = Session(cluster=cluster, namespace=namespace, policy=policy, record=record, slots=slots)
    slots.session = session
    return session, slots
