"""What changes for whom when slots move."""

from __future__ import annotations

from attrs import evolve

from callboard.core.slot_index import SlotIndex
from callboard.core.slot_records import NativeNamespace, SlotRights, SlotTable
from callboard.core.versions import Policy, Version

SLOTS = 16


def test_whoever_lost_a_slot_is_looked_at_again() -> None:
    """Found beside the model: grants worked out for the earlier owner were repeated to it after the slot had moved."""
    before = NativeNamespace(
        Policy.EXCLUSIVE,
        Version(0, 1),
        slot_bits=4,
        tables={"cart": SlotTable((1,) * SLOTS, (1,) * SLOTS)},
        rights={"cart": SlotRights((1,) * SLOTS)},
    )
    after = evolve(
        before,
        version=Version(0, 2),
        tables={"cart": SlotTable((2, *(1,) * (SLOTS - 1)), (2, *(1,) * (SLOTS - 1)))},
        rights={"cart": SlotRights((2, *(1,) * (SLOTS - 1)), {0: (1,)})},
    )
    assert SlotIndex(before).update(after) == {1, 2}


def test_only_those_whose_slots_changed_are_looked_at_again() -> None:
    """An owner counts whether its fence rose or not: grants name the version since which it owns the slot."""
    owners = (1, 2, *(3,) * (SLOTS - 2))
    before = NativeNamespace(
        Policy.EXCLUSIVE,
        Version(0, 1),
        slot_bits=4,
        tables={"cart": SlotTable(owners, (1,) * SLOTS)},
        rights={"cart": SlotRights((1,) * SLOTS)},
    )
    moved = evolve(
        before,
        version=Version(0, 2),
        tables={"cart": SlotTable((2, *owners[1:]), (2, *(1,) * (SLOTS - 1)))},
        rights={"cart": SlotRights((1,) * SLOTS)},
    )
    assert SlotIndex(before).update(moved) == {1, 2}
