"""What the leader looks up in slot tables again and again, worked out only for what changed.

Actor types that share a table and its rights are worked out once. Nothing here costs time proportional to all slots,
except the owners of a table that is new, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import define, field

from callboard.core.handoff_messages import Held, SlotRun
from callboard.core.slot_records import NOBODY, NativeNamespace, SlotRights, SlotTable
from callboard.core.table_delta import changed_between, changed_slots, runs

HeldSlot = tuple[str, int, int, int]
"""Actor type, slot, since, fence."""


def held_runs(slots: Iterable[HeldSlot]) -> tuple[Held, ...]:
    """Join slots, ascending within each type, into runs with equal `since` and fence."""
    found: list[tuple[str, int, int, int, int]] = []
    for kind, slot, since, fence in slots:
        if found:
            last_kind, first, count, last_since, last_fence = found[-1]
            if (last_kind, first + count, last_since, last_fence) == (kind, slot, since, fence):
                found[-1] = (kind, first, count + 1, since, fence)
                continue
        found.append((kind, slot, 1, since, fence))
    return tuple(Held(*each) for each in found)


def slot_runs(slots: Iterable[tuple[str, int]]) -> tuple[SlotRun, ...]:
    """Join (actor type, slot) pairs into runs, sorted."""
    by_kind: dict[str, list[int]] = {}
    for kind, slot in sorted(slots):
        by_kind.setdefault(kind, []).append(slot)
    return tuple(SlotRun(kind, first, count) for kind, found in by_kind.items() for first, count in runs(found))


@define(eq=False)
class Holding:
    """What one incarnation said that it holds: (since, fence) by actor type and slot."""

    slots: dict[str, dict[int, tuple[int, int]]] = field(factory=dict)

    def change(self, taken: Iterable[Held], dropped: Iterable[SlotRun]) -> None:
        """Forget `dropped`, then take in `taken`, which replaces."""
        for run in dropped:
            of_kind = self.slots.get(run.actor_type, {})
            for slot in range(run.first, run.first + run.count):
                of_kind.pop(slot, None)
        for held in taken:
            of_kind = self.slots.setdefault(held.actor_type, {})
            for slot in range(held.first, held.first + held.count):
                of_kind[slot] = (held.since, held.fence)

    def has(self, kind: str, slot: int) -> bool:
        """Whether any right to the slot is held."""
        return slot in self.slots.get(kind, ())


@define(eq=False)
class SlotIndex:
    """Owners and waits of one namespace; `update` follows its changes."""

    namespace: NativeNamespace
    waiting: dict[int, dict[str, tuple[int, ...]]] = field(init=False, factory=dict)
    """By incarnation that is pending somewhere: actor type -> slots that wait for it, ascending."""
    _owned: dict[int, tuple[SlotTable, dict[int, list[int]]]] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self._index_owners()
        self._index_waiting()

    def update(self, namespace: NativeNamespace) -> set[int]:
        """Follow a change. Returns the incarnations to which other things may be granted than before."""
        before, self.namespace = self.namespace, namespace
        if namespace.rights is before.rights and namespace.tables is before.tables:
            return set()
        self._index_owners()
        self._index_waiting()
        affected: set[int] = set()
        seen: set[tuple[int, int, int, int]] = set()
        for kind, table in namespace.tables.items():
            old_table, old_rights = before.tables.get(kind), before.rights.get(kind)
            rights = namespace.rights.get(kind)
            key = (id(old_table), id(old_rights), id(table), id(rights))
            if key not in seen and rights is not None:
                seen.add(key)
                affected.update(_affected(old_table, old_rights, table, rights))
        affected.discard(NOBODY)
        return affected

    def owned(self, kind: str, incarnation: int) -> list[int]:
        """Slots of a type that the incarnation owns, ascending."""
        table = self.namespace.tables.get(kind)
        return [] if table is None else self._owned[id(table)][1].get(incarnation, [])

    def granted(self, incarnation: int, kinds: Iterable[str], holding: Holding) -> Iterator[HeldSlot]:
        """Slots that are granted to the incarnation (rule L3) and do not show in `holding` under their fence."""
        for kind in kinds:
            rights = self.namespace.rights.get(kind)
            if rights is None:
                continue
            table, held = self.namespace.tables[kind], holding.slots.get(kind, {})
            for slot in self.owned(kind, incarnation):
                present = (table.since[slot], rights.fences[slot])
                if slot not in rights.pending and held.get(slot) != present:
                    yield (kind, slot, *present)

    def _index_owners(self) -> None:
        """Tables are kept beside their index, so that their identities stay theirs."""
        owned: dict[int, tuple[SlotTable, dict[int, list[int]]]] = {}
        for table in self.namespace.tables.values():
            if id(table) not in owned:
                owned[id(table)] = self._owned.get(id(table)) or (table, _by_owner(table))
        self._owned = owned

    def _index_waiting(self) -> None:
        by_pending: dict[int, dict[int, tuple[int, ...]]] = {}
        self.waiting = {}
        for kind, rights in self.namespace.rights.items():
            if id(rights.pending) not in by_pending:
                by_pending[id(rights.pending)] = _by_giver(rights)
            for incarnation, slots in by_pending[id(rights.pending)].items():
                self.waiting.setdefault(incarnation, {})[kind] = slots


def _by_owner(table: SlotTable) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for slot, owner in enumerate(table.owners):
        found.setdefault(owner, []).append(slot)
    return found


def _by_giver(rights: SlotRights) -> dict[int, tuple[int, ...]]:
    found: dict[int, list[int]] = {}
    for slot, givers in rights.pending.items():
        for incarnation in givers:
            found.setdefault(incarnation, []).append(slot)
    return {incarnation: tuple(sorted(slots)) for incarnation, slots in found.items()}


def _affected(
    old_table: SlotTable | None, old_rights: SlotRights | None, table: SlotTable, rights: SlotRights
) -> Iterator[int]:
    """Owners of slots whose owner, since, fence or pending changed: the present ones, and those who lost a slot, to
    whom what was granted before must not be granted again (rule L3)."""
    if old_table is None or old_rights is None:
        yield from set(table.owners)
        return
    for slot in changed_between(old_table, table):
        yield table.owners[slot]
        yield old_table.owners[slot]
    for slot in changed_slots(old_rights.fences, rights.fences):
        yield table.owners[slot]
    if old_rights.pending is not rights.pending:
        for slot, givers in old_rights.pending.items():
            if rights.pending.get(slot) != givers:
                yield table.owners[slot]
