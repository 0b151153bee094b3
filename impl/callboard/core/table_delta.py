"""What hosts know of a namespace: views of its tables, and deltas between them.

`patch(before, diff(before, after)) == after`. Each delta names the version that it starts from and the digest of its
result, so a host that applies it to anything else, or whose own copy went wrong, refuses it and keeps what it has
(`TableAgreement`). A snapshot is a delta from nothing (`from_version` 0).

Actor types with the same changes are one group; consecutive slots with the same change are one range. No loop in here
runs over all slots: differences are found by comparing long pieces, digests by packing whole tables.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence

import msgspec
from attrs import field, frozen

from callboard.core.slot_records import NOBODY, NativeNamespace, SlotTable

DIGEST_BYTES = 16
_PIECE = 256


class DeltaError(ValueError):
    """The delta cannot be applied: another version is installed, or the result is not what its digest says."""


@frozen
class HostEntry:
    """What everybody may know of a member: where it answers calls, and its labels, sorted."""

    incarnation: int
    name: str
    address: str
    labels: tuple[tuple[str, str], ...] = ()


@frozen
class SlotRange:
    """Consecutive slots that came to the same owner (an incarnation, or 0 for nobody) at the same version."""

    first: int
    count: int
    owner: int
    since: int


@frozen
class TypeChanges:
    """The slots that changed alike in each of these actor types. A type not seen before starts with all slots empty."""

    actor_types: tuple[str, ...]
    ranges: tuple[SlotRange, ...]


@frozen
class TableDelta:
    """What leads from the tables of `from_version` (0: from nothing) to those of `to_version`.

    `hosts`: new or changed entries, ascending by incarnation; `hosts_gone`: incarnations that left, ascending;
    `types_gone`: actor types without a table any more, sorted; `digest`: of the view after it.
    """

    from_version: int
    to_version: int
    slot_bits: int
    hosts: tuple[HostEntry, ...] = ()
    hosts_gone: tuple[int, ...] = ()
    changes: tuple[TypeChanges, ...] = ()
    types_gone: tuple[str, ...] = ()
    digest: bytes = b""

    @property
    def is_snapshot(self) -> bool:
        """Whether it can be applied to whatever is installed."""
        return self.from_version == 0


@frozen
class TableView:
    """The tables of one version: members by incarnation (ascending), tables by actor type (sorted).

    Equal tables of several types may be one object; that saves work everywhere. `digest` is of all the rest.
    """

    version: int
    slot_bits: int
    hosts: dict[int, HostEntry]
    tables: dict[str, SlotTable]
    digest: bytes = field(eq=False)


def make_view(version: int, slot_bits: int, hosts: dict[int, HostEntry], tables: dict[str, SlotTable]) -> TableView:
    """A view with its digest. Both mappings are taken over, sorted by key."""
    hosts, tables = dict(sorted(hosts.items())), dict(sorted(tables.items()))
    return TableView(version, slot_bits, hosts, tables, _digest(version, slot_bits, hosts, tables))


def view_of(namespace: NativeNamespace) -> TableView:
    """What hosts may know of a namespace."""
    hosts = {
        member.incarnation: HostEntry(member.incarnation, member.name, member.host.address, member.host.labels)
        for member in namespace.members.values()
    }
    return make_view(namespace.version.wire, namespace.slot_bits, hosts, dict(namespace.tables))


def empty_view(slot_bits: int) -> TableView:
    """The view before the first snapshot: version 0, nobody."""
    return make_view(0, slot_bits, {}, {})


def changed_slots(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Ascending positions at which two equally long sequences differ; quick where they are mostly equal."""
    if before is after or before == after:
        return []
    changed: list[int] = []
    for start in range(0, len(after), _PIECE):
        old, new = before[start : start + _PIECE], after[start : start + _PIECE]
        if old != new:
            changed.extend(start + at for at, number in enumerate(new) if old[at] != number)
    return changed


def changed_between(before: SlotTable, after: SlotTable) -> list[int]:
    """Ascending slots whose owner or `since` differ."""
    if before is after:
        return []
    moved = changed_slots(before.since, after.since)
    other = changed_slots(before.owners, after.owners)
    return moved if moved == other else sorted({*moved, *other})


def diff(before: TableView | None, after: TableView) -> TableDelta:
    """What leads from `before` to `after`, which is newer; a snapshot if `before` is None."""
    origin = before if before is not None else empty_view(after.slot_bits)
    hosts = tuple(entry for key, entry in after.hosts.items() if origin.hosts.get(key) != entry)
    gone = tuple(key for key in origin.hosts if key not in after.hosts)
    ranges_of: dict[tuple[int, int], tuple[SlotRange, ...]] = {}
    groups: dict[tuple[bool, tuple[SlotRange, ...]], list[str]] = {}
    blank = _blank(after.slot_bits)
    for kind, table in after.tables.items():
        old = origin.tables.get(kind, blank)
        key = (id(old), id(table))
        if key not in ranges_of:
            ranges_of[key] = _ranges(table, changed_between(old, table))
        if ranges_of[key] or kind not in origin.tables:
            groups.setdefault((kind in origin.tables, ranges_of[key]), []).append(kind)
    return TableDelta(
        from_version=origin.version,
        to_version=after.version,
        slot_bits=after.slot_bits,
        hosts=hosts,
        hosts_gone=gone,
        changes=tuple(TypeChanges(tuple(kinds), ranges) for (_, ranges), kinds in groups.items()),
        types_gone=tuple(kind for kind in origin.tables if kind not in after.tables),
        digest=after.digest,
    )


def patch(view: TableView, delta: TableDelta) -> TableView:
    """The view after `delta`.

    Raises:
        DeltaError: it starts from another version, names slots that do not exist, or its digest is not that of the
            result. `view` is never changed.
    """
    origin = empty_view(delta.slot_bits) if delta.is_snapshot else view
    if origin.version != delta.from_version:
        raise DeltaError(f"delta starts from version {delta.from_version}, but {origin.version} is installed")
    if delta.to_version <= view.version:
        raise DeltaError(f"delta leads to version {delta.to_version}, but {view.version} is installed")
    if origin.slot_bits != delta.slot_bits:
        raise DeltaError(f"delta has 2^{delta.slot_bits} slots, but 2^{origin.slot_bits} are installed")
    hosts, tables = dict(origin.hosts), dict(origin.tables)
    for incarnation in delta.hosts_gone:
        hosts.pop(incarnation, None)
    for kind in delta.types_gone:
        tables.pop(kind, None)
    hosts.update((entry.incarnation, entry) for entry in delta.hosts)
    blank = _blank(delta.slot_bits)
    for change in delta.changes:
        patched: dict[int, SlotTable] = {}
        for kind in change.actor_types:
            old = tables.get(kind, blank)
            if id(old) not in patched:
                patched[id(old)] = _patch_table(old, change.ranges)
            tables[kind] = patched[id(old)]
    result = make_view(delta.to_version, delta.slot_bits, hosts, tables)
    if result.digest != delta.digest:
        text = f"digest {result.digest.hex()} of the result at version {delta.to_version} is not {delta.digest.hex()}"
        raise DeltaError(text)
    return result


def runs(slots: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending slots as (first, count) of consecutive ones."""
    found: list[tuple[int, int]] = []
    for slot in slots:
        if found and slot == found[-1][0] + found[-1][1]:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((slot, 1))
    return found


def _ranges(table: SlotTable, slots: list[int]) -> tuple[SlotRange, ...]:
    found: list[tuple[int, int, int, int]] = []
    for slot in slots:
        owner, since = table.owners[slot], table.since[slot]
        if found:
            first, count, last_owner, last_since = found[-1]
            if first + count == slot and last_owner == owner and last_since == since:
                found[-1] = (first, count + 1, owner, since)
                continue
        found.append((slot, 1, owner, since))
    return tuple(SlotRange(*each) for each in found)


def _blank(slot_bits: int) -> SlotTable:
    return SlotTable((NOBODY,) * (1 << slot_bits), (0,) * (1 << slot_bits))


def _patch_table(before: SlotTable, ranges: tuple[SlotRange, ...]) -> SlotTable:
    owners, since = list(before.owners), list(before.since)
    for each in ranges:
        end = each.first + each.count
        if each.first < 0 or each.count < 1 or end > len(owners):
            raise DeltaError(f"delta changes slots {each.first} to {end - 1} of {len(owners)}")
        owners[each.first : end] = [each.owner] * each.count
        since[each.first : end] = [each.since] * each.count
    return SlotTable(tuple(owners), tuple(since))


def _digest(version: int, slot_bits: int, hosts: dict[int, HostEntry], tables: dict[str, SlotTable]) -> bytes:
    """BLAKE2b over version, hosts and each type's table, every part with its length or in a self-delimiting form."""
    entries = [(entry.incarnation, entry.name, entry.address, entry.labels) for entry in hosts.values()]
    of_table: dict[int, bytes] = {}
    named: list[tuple[str, bytes]] = []
    try:
        for kind, table in tables.items():
            if id(table) not in of_table:
                of_table[id(table)] = _table_digest(table)
            named.append((kind, of_table[id(table)]))
        content = msgspec.msgpack.encode((version, slot_bits, entries, named))
    except (OverflowError, UnicodeEncodeError) as error:
        raise DeltaError(f"tables of version {version} hold what no table may hold: {error}") from None
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _table_digest(table: SlotTable) -> bytes:
    hashed = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for numbers in (table.owners, table.since):
        packed = array("Q", numbers)
        if _BIG_ENDIAN:
            packed.byteswap()
        hashed.update(packed.tobytes())
    return hashed.digest()


_BIG_ENDIAN = array("H", [1]).tobytes() == b"\x00\x01"


def changed_types(before: TableView | None, after: TableView) -> tuple[str, ...]:
    """Actor types whose owners, or whose owners' addresses, may be others than before."""
    if before is None or before.hosts != after.hosts:
        return tuple(after.tables)
    return tuple(kind for kind, table in after.tables.items() if before.tables.get(kind) is not table)
