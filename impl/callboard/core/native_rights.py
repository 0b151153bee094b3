"""The serving rights of one incarnation: which slots it holds, which of them admit, which drain (rules H3 to H7)."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define, field

from callboard.core.handoff_messages import Held, SlotRun
from callboard.core.native_host_records import Right
from callboard.core.slot_index import held_runs, slot_runs
from callboard.core.table_delta import TableView

Slot = tuple[str, int]
"""Actor type and slot."""

REQUESTS_MAX = 2000
"""Spans in one renewal; the others follow when these are answered."""


@define(eq=False)
class Drain:
    """Slots that stopped admitting together. They are to be let go by `overdue_at_ms`; turns are cancelled before."""

    cancel_at_ms: int
    overdue_at_ms: int
    slots: set[Slot]
    cancelled: bool = False


@define(eq=False)
class Rights:
    """`live` rights pass the gate, those of them in `admitting` also admit; both by actor type and slot.

    `fences`: the highest ever accepted. `lapsed`: (since, fence) of rights that ended with their lease, to be asked for
    again. `unsaid`: what changed since the last renewal; None for a slot that is not held any more.
    """

    live: dict[str, dict[int, Right]] = field(init=False, factory=dict)
    admitting: dict[str, dict[int, Right]] = field(init=False, factory=dict)
    drains: list[Drain] = field(init=False, factory=list)
    fences: dict[str, dict[int, int]] = field(init=False, factory=dict)
    lapsed: dict[Slot, tuple[int, int]] = field(init=False, factory=dict)
    unsaid: dict[Slot, Right | None] = field(init=False, factory=dict)

    def any_live(self) -> bool:
        """Whether some right lives."""
        return any(self.live.values())

    def live_slots(self) -> list[Slot]:
        """All slots with a live right, sorted."""
        return sorted((kind, slot) for kind, of_kind in self.live.items() for slot in of_kind)

    def held(self) -> tuple[Held, ...]:
        """Everything that is held."""
        return held_runs(
            (kind, slot, right.since, right.fence)
            for kind, of_kind in sorted(self.live.items())
            for slot, right in sorted(of_kind.items())
        )

    def said(self) -> tuple[tuple[Held, ...], tuple[SlotRun, ...]]:
        """What changed since the last renewal, as taken and dropped; forgets it."""
        changes, self.unsaid = sorted(self.unsaid.items(), key=lambda item: item[0]), {}
        taken = held_runs((*key, right.since, right.fence) for key, right in changes if right is not None)
        return taken, slot_runs(key for key, right in changes if right is None)

    def requests(self) -> tuple[Held, ...]:
        """Rule H7: the rights to ask for again."""
        return held_runs((*key, *last) for key, last in sorted(self.lapsed.items()))[:REQUESTS_MAX]

    def grant(self, kind: str, slot: int, since: int, fence: int) -> None:
        """A new right begins. The caller has checked that it may."""
        right = Right(kind, slot, since, fence)
        self.live.setdefault(kind, {})[slot] = right
        self.admitting.setdefault(kind, {})[slot] = right
        self.fences.setdefault(kind, {})[slot] = fence
        self.lapsed.pop((kind, slot), None)
        self.unsaid[kind, slot] = right

    def may_accept(self, kind: str, slot: int, fence: int) -> bool:
        """Whether a fence is higher than all accepted for the slot, and no older right to it still drains."""
        return fence > self.fences.get(kind, {}).get(slot, -1) and slot not in self.live.get(kind, {})

    def lost_with(self, before: TableView | None, after: TableView) -> list[Slot]:
        """Slots that admit and whose `since` is another in `after`, sorted; forgets requests that are moot."""
        lost = []
        for kind, of_kind in sorted(self.admitting.items()):
            table = after.tables.get(kind)
            if before is not None and table is not None and before.tables.get(kind) is table:
                continue
            lost += [
                (kind, slot)
                for slot, right in sorted(of_kind.items())
                if table is None or table.since[slot] != right.since
            ]
        for (kind, slot), (since, _) in list(self.lapsed.items()):
            table = after.tables.get(kind)
            if table is None or table.since[slot] != since:
                del self.lapsed[kind, slot]
        return lost

    def drain(self, slots: Iterable[Slot], cancel_at_ms: int, overdue_at_ms: int) -> None:
        """These slots admit nothing any more."""
        drain = Drain(cancel_at_ms, overdue_at_ms, set(slots))
        for kind, slot in drain.slots:
            del self.admitting[kind][slot]
        self.drains.append(drain)

    def drained(self, kind: str, slots: Iterable[int]) -> list[Slot]:
        """No turn runs there any more: the rights of those slots that drain end. Returns these."""
        ended = []
        for slot in slots:
            key = (kind, slot)
            drain = next((each for each in self.drains if key in each.slots), None)
            if drain is not None:
                drain.slots.discard(key)
                self._end(key)
                ended.append(key)
        self.drains = [each for each in self.drains if each.slots]
        return sorted(ended)

    def lapse(self) -> list[Slot]:
        """The lease ran out: every right ends for good; those that do not drain are asked for again. Returns all."""
        ended = self.live_slots()
        for kind, of_kind in self.admitting.items():
            for slot, right in of_kind.items():
                self.lapsed[kind, slot] = (right.since, right.fence)
        for key in ended:
            self._end(key)
        self.admitting, self.drains = {}, []
        return ended

    def _end(self, key: Slot) -> None:
        del self.live[key[0]][key[1]]
        self.unsaid[key] = None
