"""How native namespaces are stored in a snapshot: each distinct table once, its columns as runs of equal numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from attrs import Factory, fields, frozen

from callboard.core.slot_records import (
    HandoffSettings,
    HostMark,
    NativeMember,
    NativeNamespace,
    SlotRights,
    SlotTable,
    Tombstone,
)
from callboard.core.versions import Policy, Version

Runs = list[tuple[int, int]]
"""(how often, number), in order."""


@frozen
class StoredTable:
    """A `SlotTable`, and its rights under policy `exclusive`."""

    owners: Runs
    since: Runs
    fences: Runs = Factory(list)
    pending: dict[int, tuple[int, ...]] = Factory(dict)


@frozen
class StoredNamespace:
    """A `NativeNamespace`; `actor_types` gives each type's position in `tables`."""

    policy: Policy
    version: Version
    slot_bits: int
    settings: HandoffSettings
    fence: int
    members: dict[str, NativeMember]
    marks: dict[str, HostMark]
    tombstones: dict[int, Tombstone]
    actor_types: dict[str, int]
    tables: list[StoredTable]


def stored(namespace: NativeNamespace) -> StoredNamespace:
    """Equal namespaces give equal records, whether or not their equal tables are one object in memory."""
    tables: list[StoredTable] = []
    by_identity: dict[tuple[int, int], int] = {}
    actor_types: dict[str, int] = {}
    for kind, table in sorted(namespace.tables.items()):
        rights = namespace.rights.get(kind)
        identity = (id(table), id(rights))
        if identity not in by_identity:
            content = _stored_table(table, rights)
            if content not in tables:
                tables.append(content)
            by_identity[identity] = tables.index(content)
        actor_types[kind] = by_identity[identity]
    return StoredNamespace(
        policy=namespace.policy,
        version=namespace.version,
        slot_bits=namespace.slot_bits,
        settings=namespace.settings,
        fence=namespace.fence,
        members=dict(sorted(namespace.members.items())),
        marks=dict(sorted(namespace.marks.items())),
        tombstones=dict(sorted(namespace.tombstones.items())),
        actor_types=actor_types,
        tables=tables,
    )


def to_store(content: StoredNamespace) -> dict[str, object]:
    """What is encoded of it, sorted by key: its fields, with members as `NativeHostRecord.to_store` has them."""
    members = {
        name: {"host": member.host.to_store(), "incarnation": member.incarnation}
        for name, member in content.members.items()
    }
    names = sorted(each.name for each in fields(StoredNamespace))
    return {name: members if name == "members" else getattr(content, name) for name in names}


def restored(content: StoredNamespace) -> NativeNamespace:
    """The inverse of `stored`; equal tables are one object. Raises ValueError or IndexError for nonsense."""
    slots = 1 << content.slot_bits
    tables = [SlotTable(_numbers(kept.owners, slots), _numbers(kept.since, slots)) for kept in content.tables]
    rights = [
        SlotRights(_numbers(kept.fences, slots), kept.pending) if kept.fences else None for kept in content.tables
    ]
    by_type = content.actor_types.items()
    return NativeNamespace(
        policy=content.policy,
        version=content.version,
        slot_bits=content.slot_bits,
        settings=content.settings,
        fence=content.fence,
        members=content.members,
        marks=content.marks,
        tombstones=content.tombstones,
        tables={kind: tables[position] for kind, position in by_type},
        rights={kind: kept for kind, position in by_type if (kept := rights[position]) is not None},
    )


def _stored_table(table: SlotTable, rights: SlotRights | None) -> StoredTable:
    owners, since = _runs(table.owners), _runs(table.since)
    if rights is None:
        return StoredTable(owners, since)
    return StoredTable(owners, since, _runs(rights.fences), dict(sorted(rights.pending.items())))


def _runs(numbers: Sequence[int]) -> Runs:
    return [(sum(1 for _ in run), number) for number, run in groupby(numbers)]


def _numbers(runs: Runs, slots: int) -> tuple[int, ...]:
    count = sum(count for count, _ in runs)
    if count != slots:
        raise ValueError(f"a table of {count} slots in a namespace of {slots}")
    return tuple(number for count, number in runs for _ in range(count))
