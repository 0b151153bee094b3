"""Trace events: what the machines of core do, named after the actions of the specification in tla/.

A machine that was given a sink calls it once for each action that it takes, with the action's name and the fields that
make the step of the specification a definite one: who acts, arguments, and what is so afterwards. A machine without a
sink compares one attribute with None. tla/doc/Traces.md has the table of events; the package `harness.conformance`
collects them, projects them to single slots and has TLC decide whether the specification allows them.

Fields are numbers, strings and lists, so that an event is a line of JSON. Events of hosts have `incarnation`, those of
leaders `namespace` and `epoch`; where time matters, `now_ms` is the reading of its own clock on which it acted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from callboard.core.handoff_messages import Held, SlotRun
from callboard.core.records import Answer, ReplicatedState
from callboard.core.slot_records import NativeNamespace, SlotRights, SlotTable

Fields = dict[str, object]
TraceSink = Callable[[str, Fields], None]
"""Takes the name of an action and its fields. It must not raise, and must not call the machine."""


def held_fields(spans: Iterable[Held]) -> list[list[object]]:
    """Rights as [actor type, first slot, count, since, fence]."""
    return [[each.actor_type, each.first, each.count, each.since, each.fence] for each in spans]


def run_fields(runs: Iterable[SlotRun]) -> list[list[object]]:
    """Slots as [actor type, first slot, count]."""
    return [[each.actor_type, each.first, each.count] for each in runs]


def table_fields(tables: Mapping[str, SlotTable]) -> list[list[object]]:
    """Whole tables as [actor type, first slot, count, owner, since]."""
    found: list[list[object]] = []
    for kind, table in tables.items():
        first = 0
        for slot in range(1, len(table.owners) + 1):
            ends = slot == len(table.owners)
            if ends or (table.owners[slot], table.since[slot]) != (table.owners[first], table.since[first]):
                found.append([kind, first, slot - first, table.owners[first], table.since[first]])
                first = slot
    return found


def trace_applied(sink: TraceSink, before: ReplicatedState, after: ReplicatedState, answer: Answer) -> None:
    """Tell the sink what one entry of the log did: called by whoever applies, on every replica alike.

    Namespaces are compared, so the events do not depend on which command it was: `Commit` (new version; Upsert, Remove
    and Rebalance of ExclusiveHandoff), `ApplyConfirm`, `RaiseFence` and `Bury` with the slots that changed,
    `CommitTable` for namespaces of sidecars, `TakeOffice` for a new epoch.
    """
    common: Fields = {"index": after.applied_index, "epoch": after.epoch}
    if after.epoch != before.epoch:
        sink("TakeOffice", {**common, "holder": after.epoch_holder})
    for name, namespace in after.native.items():
        old = before.native.get(name)
        if old is None:
            sink("CreateNamespace", {**common, "namespace": name, **_created(namespace)})
        elif old is not namespace:
            _trace_native(sink, {**common, "namespace": name}, old, namespace)
    for name, of_sidecars in after.namespaces.items():
        earlier = before.namespaces.get(name)
        if earlier is not None and earlier is not of_sidecars:
            members = [[member.name, member.incarnation] for member in of_sidecars.members.values()]
            fields: Fields = {"namespace": name, "version": of_sidecars.version.wire, "members": members}
            sink("CommitTable", {**common, **fields, "code": answer.code.name})


def _created(namespace: NativeNamespace) -> Fields:
    settings = namespace.settings
    return {
        "policy": namespace.policy.value,
        "slots": namespace.slots,
        "version": namespace.version.wire,
        "tombstones": sorted(namespace.tombstones),
        "lease_ms": settings.lease_ms,
        "drain_ms": settings.drain_ms,
        "margin_ms": settings.margin_ms,
        "rate_error_ppm": settings.rate_error_ppm,
    }


def _trace_native(sink: TraceSink, common: Fields, before: NativeNamespace, after: NativeNamespace) -> None:
    changes: Fields = {**common, "version": after.version.wire, "slots": _changed_slots(before, after)}
    if after.version != before.version or after.members != before.members:
        was = {member.incarnation for member in before.members.values()}
        members = sorted(after.members.values(), key=lambda member: member.incarnation)
        now = {member.incarnation for member in members}
        joined = [[each.incarnation, each.name] for each in members if each.incarnation not in was]
        hosting = [[each.incarnation, *each.host.actor_types] for each in members]
        tombstones = sorted(after.tombstones)
        changes = {**changes, "joined": joined, "left": sorted(was - now), "tombstones": tombstones}
        sink("Commit", {**changes, "hosting": hosting})
    elif after.tombstones != before.tombstones:
        gone = sorted(before.tombstones.keys() - after.tombstones.keys())
        sink("Bury", {**changes, "incarnations": gone, "tombstones": sorted(after.tombstones)})
    elif after.fence != before.fence:
        sink("RaiseFence", changes)
    elif after.rights is not before.rights:
        sink("ApplyConfirm", changes)


def _changed_slots(before: NativeNamespace, after: NativeNamespace) -> list[list[object]]:
    """As [actor type, slot, owner, since, fence, pending incarnations], for slots of which anything changed."""
    found: list[list[object]] = []
    for kind, table in after.tables.items():
        rights, old = after.rights.get(kind), before.tables.get(kind)
        old_rights = before.rights.get(kind)
        if table is old and rights is old_rights:
            continue
        for slot in range(len(table.owners)):
            now = _slot(table, rights, slot)
            if old is None or now != _slot(old, old_rights, slot):
                found.append([kind, slot, *now])
    return found


def _slot(table: SlotTable, rights: SlotRights | None, slot: int) -> list[object]:
    fence, pending = (0, ()) if rights is None else (rights.fences[slot], rights.pending.get(slot, ()))
    return [table.owners[slot], table.since[slot], fence, list(pending)]
