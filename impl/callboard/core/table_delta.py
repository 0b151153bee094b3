"""Tables as hosts and routers know them, and what changed from one version to another.

A delta holds the slots that changed, as ranges, once for each group of actor types that share a table before and
after. Whoever applies one compares the digest of the result with the sender's (`TableAgreement`); a gap or another
digest is an error that changes nothing, and calls for a snapshot, which is a delta from nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec
from attrs import field, frozen

from callboard.core.slot_records import NOBODY, NativeNamespace, SlotTable

DIGEST_BYTES = 16


class DeltaError(ValueError):
    """A delta does not fit the table that it is applied to, or is damaged; the message is one line."""


@frozen
class HostEntry:
    """A host as callers need it. `labels` are sorted pairs."""

    name: str
    address: str
    labels: tuple[tuple[str, str], ...] = ()


@frozen
class TableView:
    """The newest table that somebody knows: hosts by incarnation, slots by actor type."""

    version: int
    slots: int
    hosts: Mapping[int, HostEntry]
    tables: Mapping[str, SlotTable]
    digest: bytes = field(eq=False)

    def owner(self, actor_type: str, slot: int) -> HostEntry | None:
        """The host that owns a slot, or None if nobody does or the type is unknown."""
        table = self.tables.get(actor_type)
        return None if table is None else self.hosts.get(table.owners[slot])


@frozen
class SlotChange:
    """Consecutive slots that got this owner (an incarnation, or NOBODY) at version `since`."""

    first: int
    count: int
    owner: int
    since: int


@frozen
class TypeGroup:
    """Changes that all of these actor types share."""

    actor_types: tuple[str, ...]
    changes: tuple[SlotChange, ...]


@frozen
class TableDelta:
    """From one version to another; `from_version` is None for a snapshot."""

    from_version: int | None
    to_version: int
    slots: int
    added: tuple[tuple[int, HostEntry], ...]
    removed: tuple[int, ...]
    groups: tuple[TypeGroup, ...]
    digest: bytes


def view_of(namespace: NativeNamespace) -> TableView:
    """What hosts are to know of a namespace."""
    hosts = {
        member.incarnation: HostEntry(member.name, member.host.address, member.host.labels)
        for member in sorted(namespace.members.values(), key=lambda member: member.incarnation)
    }
    version, slots = namespace.version.wire, namespace.slots
    return TableView(version, slots, hosts, namespace.tables, _digest(version, slots, hosts, namespace.tables))


def diff(before: TableView | None, after: TableView) -> TableDelta:
    """What turns `before` (None: nothing) into `after`."""
    hosts = {} if before is None else before.hosts
    tables = {} if before is None else before.tables
    added = tuple((key, entry) for key, entry in after.hosts.items() if hosts.get(key) != entry)
    removed = tuple(key for key in hosts if key not in after.hosts)
    alike: dict[tuple[int, int], list[str]] = {}
    for kind, table in sorted(after.tables.items()):
        if tables.get(kind) is not table:
            alike.setdefault((id(tables.get(kind)), id(table)), []).append(kind)
    groups = []
    for kinds in alike.values():
        changes = tuple(_changes(tables.get(kinds[0]), after.tables[kinds[0]]))
        if changes or any(kind not in tables for kind in kinds):
            groups.append(TypeGroup(tuple(kinds), changes))
    return TableDelta(
        None if before is None else before.version,
        after.version,
        after.slots,
        added,
        removed,
        tuple(groups),
        after.digest,
    )


def _changes(before: SlotTable | None, after: SlotTable) -> Iterable[SlotChange]:
    first, count, last = 0, 0, (NOBODY, 0)
    old_owners, old_since = ((), ()) if before is None else (before.owners, before.since)
    for slot, now in enumerate(zip(after.owners, after.since, strict=True)):
        same = now == ((old_owners[slot], old_since[slot]) if before is not None else (NOBODY, 0))
        if count and (same or now != last):
            yield SlotChange(first, count, *last)
            count = 0
        if not same:
            if count == 0:
                first, last = slot, now
            count += 1
    if count:
        yield SlotChange(first, count, *last)


def patch(view: TableView | None, delta: TableDelta) -> TableView:
    """`view` after `delta`.

    Raises:
        DeltaError: the delta is for another version, is malformed, or the result has another digest.
    """
    known = None if view is None or delta.from_version is None else view
    if delta.from_version is not None and (view is None or view.version != delta.from_version):
        have = "nothing" if view is None else f"version {view.version}"
        raise DeltaError(f"the delta is from version {delta.from_version}, but {have} is installed")
    hosts = {} if known is None else dict(known.hosts)
    for key in delta.removed:
        hosts.pop(key, None)
    hosts.update(delta.added)
    hosts = dict(sorted(hosts.items()))
    tables = {} if known is None else dict(known.tables)
    for group in delta.groups:
        patched: dict[int, SlotTable] = {}
        for kind in group.actor_types:
            before = tables.get(kind)
            if id(before) not in patched:
                patched[id(before)] = _patched(before, group.changes, delta.slots)
            tables[kind] = patched[id(before)]
    tables = dict(sorted(tables.items()))
    digest = _digest(delta.to_version, delta.slots, hosts, tables)
    if digest != delta.digest:
        raise DeltaError(
            f"version {delta.to_version} has digest {digest.hex()} here and {delta.digest.hex()} at the sender"
        )
    return TableView(delta.to_version, delta.slots, hosts, tables, digest)


def _patched(before: SlotTable | None, changes: Iterable[SlotChange], slots: int) -> SlotTable:
    owners = [NOBODY] * slots if before is None else list(before.owners)
    since = [0] * slots if before is None else list(before.since)
    if len(owners) != slots:
        raise DeltaError(f"the delta is for {slots} slots, but {len(owners)} are installed")
    for change in changes:
        end = change.first + change.count
        if change.first < 0 or change.count < 1 or end > slots:
            raise DeltaError(f"slots {change.first} to {end - 1} are not within 0 to {slots - 1}")
        owners[change.first : end] = [change.owner] * change.count
        since[change.first : end] = [change.since] * change.count
    return SlotTable(tuple(owners), tuple(since))


def _digest(version: int, slots: int, hosts: Mapping[int, HostEntry], tables: Mapping[str, SlotTable]) -> bytes:
    """Over everything but the sharing of tables, which is no content."""
    of_table: dict[int, bytes] = {}
    for table in tables.values():
        if id(table) not in of_table:
            content = msgspec.msgpack.encode((table.owners, table.since))
            of_table[id(table)] = hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
    entries = [(key, entry.name, entry.address, entry.labels) for key, entry in sorted(hosts.items())]
    kinds = [(kind, of_table[id(table)]) for kind, table in sorted(tables.items())]
    content = msgspec.msgpack.encode((version, slots, entries, kinds))
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
