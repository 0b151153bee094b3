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
    assert changed_slots(before[: slot + 1], after[: slot + 1]) == [slot], "also as the last one"


def test_slots_change_by_owner_or_by_since() -> None:
    before = table(1, 1)
    owners = SlotTable((2, *before.owners[1:]), before.since)
    since = SlotTable(before.owners, (*before.since[:-1], 2))
    assert changed_between(before, owners) == [0]
    assert changed_between(before, since) == [SLOTS - 1]
    assert changed_between(owners, since) == [0, SLOTS - 1]
    assert changed_between(before, before) == []


def test_the_order_in_memory_makes_no_other_digest() -> None:
    hosts = {number: HostEntry(number, f"h{number}", "h:1") for number in (1, 2)}
    tables = {kind: table(1, 1) for kind in "ST"}
    view = make_view(1, BITS, hosts, tables)
    turned = make_view(1, BITS, dict([*hosts.items()][::-1]), dict([*tables.items()][::-1]))
    assert (turned, turned.digest) == (view, view.digest)
    assert (list(turned.hosts), list(turned.tables)) == ([1, 2], ["S", "T"])


def test_a_range_is_of_neighbours_that_came_to_one_owner_at_once() -> None:
    owners = (1, 1, 2, 2, 0, 1, 1, 0, 1, *[0] * (SLOTS - 9))
    since = (1, 1, 1, 2, 0, 1, 1, 0, 1, *[0] * (SLOTS - 9))
    delta = diff(None, make_view(2, BITS, {}, {"T": SlotTable(owners, since)}))
    (change,) = delta.changes
    expected = [(0, 2, 1, 1), (2, 1, 2, 1), (3, 1, 2, 2), (5, 2, 1, 1), (8, 1, 1, 1)]
    assert change.ranges == tuple(SlotRange(*each) for each in expected)


@pytest.mark.parametrize("bad", [-1, 1 << 64])
def test_what_no_table_may_hold_is_refused(bad: int) -> None:
    with pytest.raises(DeltaError, match="tables of version 3 hold what no table may hold"):
        make_view(3, BITS, {}, {"T": table(bad, 1)})
    with pytest.raises(DeltaError, match="hold what no table may hold"):
        make_view(3, BITS, {1: HostEntry(1, "\ud800", "h:1")}, {})
