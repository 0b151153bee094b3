"""Tables on the wire: digests that are the same on every machine for ever, and ranges that no table has."""

from __future__ import annotations

import hashlib
import struct

import msgspec
import pytest

from callboard.core.slot_records import SlotTable
from callboard.core.table_delta import (
    DeltaError,
    HostEntry,
    SlotRange,
    TableDelta,
    TypeChanges,
    changed_between,
    changed_slots,
    diff,
    empty_view,
    make_view,
    patch,
)

BITS = 4
SLOTS = 1 << BITS
EMPTY = SlotTable((0,) * SLOTS, (0,) * SLOTS)


def table(owner: int, since: int) -> SlotTable:
    return SlotTable((owner,) * SLOTS, (since,) * SLOTS)


def test_the_digest_is_of_little_endian_columns() -> None:
    """Hosts and replicas of different machines compare digests."""
    columns = struct.pack(f"<{SLOTS}Q", *range(SLOTS)) + struct.pack(f"<{SLOTS}Q", *[7] * SLOTS)
    of_table = hashlib.blake2b(columns, digest_size=16).digest()
    host = HostEntry(3, "h", "h:1", (("zone", "x"),))
    content = msgspec.msgpack.encode((9, BITS, [(3, "h", "h:1", (("zone", "x"),))], [("T", of_table)]))
    view = make_view(9, BITS, {3: host}, {"T": SlotTable(tuple(range(SLOTS)), (7,) * SLOTS)})
    assert view.digest == hashlib.blake2b(content, digest_size=16).digest()


def test_a_type_that_nobody_owns_takes_no_ranges() -> None:
    view = make_view(1, BITS, {}, {"T": EMPTY})
    delta = diff(None, view)
    assert delta.changes == (TypeChanges(("T",), ()),)
    assert patch(empty_view(BITS), delta).tables == {"T": EMPTY}


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (-1, 2), (0, 0), (0, SLOTS + 1), (SLOTS, 1), (SLOTS - 1, 2)])
def test_ranges_outside_the_table_are_refused(first: int, count: int) -> None:
    after = make_view(2, BITS, {}, {"T": table(5, 2)})
    changes = (TypeChanges(("T",), (SlotRange(first, count, 5, 2),)),)
    delta = TableDelta(0, 2, BITS, changes=changes, digest=after.digest)
    with pytest.raises(DeltaError, match=f"changes slots {first} to {first + count - 1} of {SLOTS}"):
        patch(empty_view(BITS), delta)


@pytest.mark.parametrize("slot", [0, 1, 254, 255, 256, 257, 511, 512, 767])
def test_differences_are_found_in_every_piece(slot: int) -> None:
    before = [0] * 768
    after = [*before[:slot], 1, *before[slot + 1 :]]
    assert changed_slots(before, after) == [slot]
    assert changed_slots(before, list(before)) == []


def test_slots_change_by_owner_or_by_since() -> None:
    before = table(1, 1)
    owners = SlotTable((2, *before.owners[1:]), before.since)
    since = SlotTable(before.owners, (*before.since[:-1], 2))
    assert changed_between(before, owners) == [0]
    assert changed_between(before, since) == [SLOTS - 1]
    assert changed_between(owners, since) == [0, SLOTS - 1]
    assert changed_between(before, before) == []
