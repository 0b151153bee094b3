"""What the admin service says of native namespaces, from the replicated state alone: any replica can answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from callboard.core.native_leader_records import LeaseState, Waiting
from callboard.core.slot_records import (
    NOBODY,
    HandoffSettings,
    HostMark,
    NativeMember,
    NativeNamespace,
    slot_of,
)
from callboard.protos.generated import admin_pb2


def namespace_status(name: str, namespace: NativeNamespace) -> admin_pb2.NamespaceStatus:
    """One line of `callboard namespace list`."""
    settings = namespace.settings
    return admin_pb2.NamespaceStatus(
        name=name,
        policy=namespace.policy.value,
        version=namespace.version.wire,
        members=len(namespace.members),
        actor_types=len(namespace.tables),
        slot_bits=namespace.slot_bits,
        waiting_slots=sum(len(rights.pending) for rights in namespace.rights.values()),
        tombstones=len(namespace.tombstones),
        times=times_of(settings),
    )


def times_of(settings: HandoffSettings) -> admin_pb2.HandoffTimes:
    """The settings as a message."""
    return admin_pb2.HandoffTimes(
        lease_ms=settings.lease_ms,
        drain_ms=settings.drain_ms,
        margin_ms=settings.margin_ms,
        tick_ms=settings.tick_ms,
        rate_error_ppm=settings.rate_error_ppm,
        failure_timeout_ms=settings.failure_timeout_ms,
        max_isolation_ms=settings.max_isolation_ms,
    )


def settings_of(times: admin_pb2.HandoffTimes, defaults: HandoffSettings) -> HandoffSettings:
    """The inverse of `times_of`, where 0 takes the default. Raises ValueError for a value out of range."""
    return HandoffSettings(
        lease_ms=times.lease_ms or defaults.lease_ms,
        drain_ms=times.drain_ms or defaults.drain_ms,
        margin_ms=times.margin_ms or defaults.margin_ms,
        tick_ms=times.tick_ms or defaults.tick_ms,
        rate_error_ppm=times.rate_error_ppm or defaults.rate_error_ppm,
        failure_timeout_ms=times.failure_timeout_ms or defaults.failure_timeout_ms,
        max_isolation_ms=times.max_isolation_ms or defaults.max_isolation_ms,
    )


def members(name: str, namespace: NativeNamespace, leases: Sequence[LeaseState] | None) -> Iterator[admin_pb2.Member]:
    """Members by name. `leases`: what the leader knows of them, or None on a replica that is not in office."""
    owned, awaited = _counts(namespace)
    known = {lease.incarnation: lease for lease in leases or ()}
    for member in namespace.members.values():
        mark = namespace.marks.get(member.name, HostMark(member.name))
        lease = known.get(member.incarnation)
        yield admin_pb2.Member(
            namespace=name,
            name=member.name,
            incarnation=member.incarnation,
            actor_types=member.host.actor_types,
            state="" if lease is None else "connected" if lease.connected else "silent",
            heard_ms=None if lease is None else lease.heard_ms,
            removed_in_ms=None if lease is None else lease.margin_ms,
            address=member.host.address,
            labels=dict(member.host.labels),
            weight=member.host.weight if mark.weight is None else mark.weight,
            cordoned=mark.cordoned,
            draining=mark.draining,
            slots=owned[member.incarnation],
            awaited_slots=awaited[member.incarnation],
        )


def _counts(namespace: NativeNamespace) -> tuple[Counter[int], Counter[int]]:
    """Slots by owner, and waiting slots by giver, over all actor types. A shared table is counted once."""
    owned: Counter[int] = Counter()
    awaited: Counter[int] = Counter()
    counted: dict[int, Counter[int]] = {}
    for table in namespace.tables.values():
        if id(table) not in counted:
            counted[id(table)] = Counter(table.owners)
        owned.update(counted[id(table)])
    for rights in namespace.rights.values():
        for givers in rights.pending.values():
            awaited.update(givers)
    return owned, awaited


def lookup(namespace: NativeNamespace, actor_type: str, actor_id: str) -> tuple[int, NativeMember | None, bool] | None:
    """Slot, owner and whether the owner may serve it; None if no host ever had the actor type."""
    table = namespace.tables.get(actor_type)
    if table is None:
        return None
    slot = slot_of(actor_type, actor_id, namespace.slot_bits)
    owner = table.owners[slot]
    rights = namespace.rights.get(actor_type)
    granted = owner != NOBODY and (rights is None or slot not in rights.pending)
    return slot, namespace.member_of(owner), granted


def explained(name: str, namespace: NativeNamespace, slots: Iterable[Waiting]) -> Iterator[admin_pb2.WaitingSlots]:
    """Slots that are not granted yet, with what the leader knows: how long they have waited, why, and for how long."""
    names = {member.incarnation: member.name for member in namespace.members.values()}
    for item in slots:
        yield admin_pb2.WaitingSlots(
            namespace=name,
            actor_type=item.actor_type,
            first=item.first,
            count=item.count,
            owner=names.get(item.owner, ""),
            since=item.since,
            waited_ms=item.waited_ms,
            givers=[
                admin_pb2.SlotGiver(
                    host=giver.name, incarnation=giver.incarnation, why=giver.why, remaining_ms=giver.remaining_ms
                )
                for giver in item.givers
            ],
        )


def waiting(name: str, namespace: NativeNamespace) -> Iterator[admin_pb2.WaitingSlots]:
    """Slots that are not granted yet, as ranges that wait for the same hosts."""
    names = {member.incarnation: member.name for member in namespace.members.values()}
    removed = {key: tombstone.name for key, tombstone in namespace.tombstones.items()}
    for kind, rights in namespace.rights.items():
        table = namespace.tables[kind]
        span: admin_pb2.WaitingSlots | None = None
        key: tuple[int, int, tuple[int, ...]] | None = None
        for slot, givers in sorted(rights.pending.items()):
            now = (table.owners[slot], table.since[slot], givers)
            if span is not None and now == key and span.first + span.count == slot:
                span.count += 1
                continue
            if span is not None:
                yield span
            key = now
            span = admin_pb2.WaitingSlots(
                namespace=name,
                actor_type=kind,
                first=slot,
                count=1,
                owner=names.get(now[0], ""),
                since=now[1],
                givers=[
                    admin_pb2.SlotGiver(
                        host=names.get(giver) or removed.get(giver, ""),
                        incarnation=giver,
                        why="removed" if giver in removed else "has not let go yet",
                    )
                    for giver in givers
                ],
            )
        if span is not None:
            yield span
