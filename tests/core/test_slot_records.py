"""What is kept of native namespaces in memory: members by incarnation, and what finds the slot of an actor."""

from __future__ import annotations

import pytest
from attrs import evolve

from callboard.core import slot_records
from callboard.core.slot_records import NativeHostRecord, NativeMember, NativeNamespace, slot_of
from callboard.core.versions import Policy, Version


def test_members_are_found_by_incarnation() -> None:
    record = NativeHostRecord("h", "h:1", ("T",), "p")
    members = {name: NativeMember(evolve(record, name=name), number) for number, name in enumerate("abc", start=1)}
    namespace = NativeNamespace(Policy.EVENTUAL, Version(), 3, members=members)
    assert [namespace.member_of(number) for number in range(1, 5)] == [*members.values(), None]


def test_what_is_kept_to_find_slots_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was forgotten is found again, the same."""
    monkeypatch.setattr(slot_records, "_KEPT_TYPES_MAX", 3)
    monkeypatch.setattr(slot_records, "_KEYED", kept := slot_records._KeyedHashes())
    sizes, slots = [], []
    for number in [*range(5), *range(5)]:
        slots.append(slot_of(f"T{number}", "a", 12))
        sizes.append(len(kept))
    assert sizes == [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]
    assert slots[:5] == slots[5:]
