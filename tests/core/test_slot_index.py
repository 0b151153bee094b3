"""What changes for whom when slots move."""

from __future__ import annotations

from attrs import evolve

from callboard.core.slot_index import Holding, SlotIndex
from callboard.core.slot_records import NOBODY, NativeNamespace, SlotRights, SlotTable
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


def test_owners_are_those_of_the_newest_table_under_every_policy() -> None:
    before = NativeNamespace(
        Policy.EVENTUAL, Version(0, 1), slot_bits=4, tables={"cart": SlotTable((1,) * SLOTS, (1,) * SLOTS)}
    )
    index = SlotIndex(before)
    after = evolve(before, version=Version(0, 2), tables={"cart": SlotTable((2, *(1,) * 15), (2, *(1,) * 15))})
    assert index.update(after) == set(), "nothing is granted under policy `eventual`"
    assert (index.owned("cart", 2), index.owned("cart", 1)) == ([0], list(range(1, SLOTS)))
    assert list(index.granted(1, ("cart", "user"), Holding())) == []


def test_nobody_is_not_looked_at_again() -> None:
    before = NativeNamespace(
        Policy.EXCLUSIVE,
        Version(0, 1),
        slot_bits=4,
        tables={"cart": SlotTable((NOBODY,) * SLOTS, (1,) * SLOTS)},
        rights={"cart": SlotRights((1,) * SLOTS)},
    )
    after = evolve(
        before,
        version=Version(0, 2),
        tables={"cart": SlotTable((1,) * SLOTS, (2,) * SLOTS)},
        rights={"cart": SlotRights((2,) * SLOTS)},
    )
    assert SlotIndex(before).update(after) == {1}


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
