"""Messages of host.proto from and to the records of the core, for servers and hosts alike.

What comes in is checked: every function that reads a message raises ValueError naming the field and its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat

from callboard.core.handoff_messages import (
    Farewell,
    Gone,
    Grants,
    Held,
    Hello,
    Renewal,
    RenewalAnswer,
    SlotRun,
    TableRequest,
    Welcome,
)
from callboard.core.slot_records import SLOT_BITS_MAX, SLOT_BITS_MIN, HandoffSettings, NativeHostRecord
from callboard.core.table_delta import HostEntry, SlotRange, TableDelta, TypeChanges
from callboard.core.versions import Policy
from callboard.protos.generated import host_pb2

PROTOCOL_VERSION = 1
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
"""Of one message to a host, a router or a front. Only snapshots come near it."""
TYPES_MAX = 1_000_000
"""Entries that one column may have; a message is bounded in bytes besides."""


def check_protocol_version(number: int) -> None:
    """The handshake: within a version fields may be added, never changed. Raises ValueError."""
    if number != PROTOCOL_VERSION:
        raise ValueError(f"protocol_version {number} is not known; this replica knows {PROTOCOL_VERSION}")


def policy_of(text: str) -> Policy:
    """A native policy by name."""
    if text not in {Policy.EVENTUAL.value, Policy.EXCLUSIVE.value}:
        raise ValueError(f"policy {text!r} is neither eventual nor exclusive")
    return Policy(text)


def hello_message(hello: Hello, callboard_version: str) -> host_pb2.Hello:
    """For the wire. `by_front` does not travel: fronts have their own protocol."""
    host = hello.host
    return host_pb2.Hello(
        protocol_version=PROTOCOL_VERSION,
        callboard_version=callboard_version,
        namespace=hello.namespace,
        policy=hello.policy.value,
        name=host.name,
        address=host.address,
        actor_types=host.actor_types,
        labels=dict(host.labels),
        weight=host.weight,
        process=host.process,
        incarnation=hello.incarnation,
        connection=hello.connection,
        have_version=hello.have_version,
        have_digest=hello.have_digest,
        store_id=host.store_id,
    )


def hello_record(message: host_pb2.Hello, *, by_front: bool = False) -> Hello:
    """From the wire."""
    check_protocol_version(message.protocol_version)
    if message.connection < 1:
        raise ValueError(f"connection {message.connection} is not 1 or more")
    host = NativeHostRecord(
        name=message.name,
        address=message.address,
        actor_types=tuple(sorted(set(message.actor_types))),
        process=message.process,
        labels=tuple(sorted(message.labels.items())),
        weight=message.weight,
        store_id=message.store_id,
    )
    return Hello(
        namespace=message.namespace,
        policy=policy_of(message.policy),
        host=host,
        incarnation=message.incarnation,
        connection=message.connection,
        have_version=message.have_version,
        have_digest=message.have_digest,
        by_front=by_front,
    )


def settings_message(settings: HandoffSettings) -> host_pb2.Settings:
    """For the wire."""
    return host_pb2.Settings(
        lease_ms=settings.lease_ms,
        drain_ms=settings.drain_ms,
        margin_ms=settings.margin_ms,
        tick_ms=settings.tick_ms,
        rate_error_ppm=settings.rate_error_ppm,
        failure_timeout_ms=settings.failure_timeout_ms,
        max_isolation_ms=settings.max_isolation_ms,
    )


def settings_record(message: host_pb2.Settings) -> HandoffSettings:
    """From the wire."""
    return HandoffSettings(
        lease_ms=message.lease_ms,
        drain_ms=message.drain_ms,
        margin_ms=message.margin_ms,
        tick_ms=message.tick_ms,
        rate_error_ppm=message.rate_error_ppm,
        failure_timeout_ms=message.failure_timeout_ms,
        max_isolation_ms=message.max_isolation_ms,
    )


def welcome_message(welcome: Welcome, replica_id: str) -> host_pb2.Welcome:
    """For the wire."""
    return host_pb2.Welcome(
        incarnation=welcome.incarnation,
        epoch=welcome.epoch,
        policy=welcome.policy.value,
        slot_bits=welcome.slot_bits,
        settings=settings_message(welcome.settings),
        replica_id=replica_id,
    )


def welcome_record(message: host_pb2.Welcome) -> Welcome:
    """From the wire."""
    return Welcome(
        incarnation=message.incarnation,
        epoch=message.epoch,
        policy=policy_of(message.policy),
        slot_bits=_slot_bits(message.slot_bits),
        settings=settings_record(message.settings),
    )


def held_message(spans: Iterable[Held]) -> host_pb2.Spans:
    """For the wire."""
    message, positions = host_pb2.Spans(), dict[str, int]()
    for span in spans:
        _add_run(message, positions, span)
        message.since.append(span.since)
        message.fence.append(span.fence)
    return message


def runs_message(runs: Iterable[SlotRun]) -> host_pb2.Spans:
    """For the wire."""
    message, positions = host_pb2.Spans(), dict[str, int]()
    for run in runs:
        _add_run(message, positions, run)
    return message


def _add_run(message: host_pb2.Spans, positions: dict[str, int], run: Held | SlotRun) -> None:
    if run.actor_type not in positions:
        positions[run.actor_type] = len(positions)
        message.actor_types.append(run.actor_type)
    message.types.append(positions[run.actor_type])
    message.first.append(run.first)
    message.count.append(run.count)


def held_records(message: host_pb2.Spans, field: str) -> tuple[Held, ...]:
    """From the wire; `field` is named in errors."""
    runs = runs_records(message, field)
    if not len(message.since) == len(message.fence) == len(runs):
        raise ValueError(f"{field}: {len(runs)} spans, but {len(message.since)} since and {len(message.fence)} fence")
    return tuple(
        Held(run.actor_type, run.first, run.count, since, fence)
        for run, since, fence in zip(runs, message.since, message.fence, strict=True)
    )


def runs_records(message: host_pb2.Spans, field: str) -> tuple[SlotRun, ...]:
    """From the wire; `field` is named in errors."""
    if not len(message.types) == len(message.first) == len(message.count) <= TYPES_MAX:
        columns = f"{len(message.types)} types, {len(message.first)} first, {len(message.count)} count"
        raise ValueError(f"{field}: columns differ or are too long ({columns})")
    runs = []
    for position, first, count in zip(message.types, message.first, message.count, strict=True):
        if position >= len(message.actor_types):
            raise ValueError(f"{field}: type {position} of {len(message.actor_types)} actor types")
        if count < 1 or first + count > 1 << SLOT_BITS_MAX:
            raise ValueError(f"{field}: slots {first} to {first + count - 1}")
        runs.append(SlotRun(message.actor_types[position], first, count))
    return tuple(runs)


def renewal_message(renewal: Renewal) -> host_pb2.Renewal:
    """For the wire."""
    message = host_pb2.Renewal(
        number=renewal.number,
        incarnation=renewal.incarnation,
        connection=renewal.connection,
        epoch=renewal.epoch,
        version=renewal.version,
        base_number=renewal.base_number,
        leaving=renewal.leaving,
    )
    if renewal.taken:
        message.taken.CopyFrom(held_message(renewal.taken))
    if renewal.dropped:
        message.dropped.CopyFrom(runs_message(renewal.dropped))
    if renewal.requests:
        message.requests.CopyFrom(held_message(renewal.requests))
    return message


def renewal_record(message: host_pb2.Renewal) -> Renewal:
    """From the wire."""
    return Renewal(
        number=message.number,
        incarnation=message.incarnation,
        connection=message.connection,
        epoch=message.epoch,
        version=message.version,
        base_number=message.base_number,
        taken=held_records(message.taken, "taken"),
        dropped=runs_records(message.dropped, "dropped"),
        requests=held_records(message.requests, "requests"),
        leaving=message.leaving,
    )


def answer_message(answer: RenewalAnswer) -> host_pb2.RenewalAnswer:
    """For the wire."""
    message = host_pb2.RenewalAnswer(
        number=answer.number,
        incarnation=answer.incarnation,
        epoch=answer.epoch,
        version=answer.version,
        holding_known=answer.holding_known,
    )
    if answer.grants:
        message.grants.CopyFrom(held_message(answer.grants))
    return message


def answer_record(message: host_pb2.RenewalAnswer) -> RenewalAnswer:
    """From the wire."""
    return RenewalAnswer(
        number=message.number,
        incarnation=message.incarnation,
        epoch=message.epoch,
        version=message.version,
        holding_known=message.holding_known,
        grants=held_records(message.grants, "grants"),
    )


def grants_message(grants: Grants) -> host_pb2.Grants:
    """For the wire."""
    return host_pb2.Grants(incarnation=grants.incarnation, epoch=grants.epoch, grants=held_message(grants.grants))


def grants_record(message: host_pb2.Grants) -> Grants:
    """From the wire."""
    return Grants(message.incarnation, message.epoch, held_records(message.grants, "grants"))


def gone_message(gone: Gone) -> host_pb2.Gone:
    """For the wire."""
    return host_pb2.Gone(incarnation=gone.incarnation, text=gone.text, replaced=gone.replaced)


def gone_record(message: host_pb2.Gone) -> Gone:
    """From the wire."""
    return Gone(message.incarnation, message.text, message.replaced)


def farewell_record(message: host_pb2.Farewell) -> Farewell:
    """From the wire."""
    return Farewell(message.incarnation)


def table_request_record(message: host_pb2.TableRequest) -> TableRequest:
    """From the wire."""
    return TableRequest(message.incarnation, message.have_version)


def delta_message(delta: TableDelta) -> host_pb2.TableDelta:
    """For the wire."""
    message = host_pb2.TableDelta(
        from_version=delta.from_version,
        to_version=delta.to_version,
        slot_bits=delta.slot_bits,
        hosts_gone=delta.hosts_gone,
        types_gone=delta.types_gone,
        digest=delta.digest,
    )
    for entry in delta.hosts:
        message.hosts.add(
            incarnation=entry.incarnation, name=entry.name, address=entry.address, labels=dict(entry.labels)
        )
    for group in delta.changes:
        columns = message.changes.add(actor_types=group.actor_types)
        end = 0
        for run in group.ranges:
            columns.gap.append(run.first - end)
            end = run.first + run.count
        columns.count.extend(_cut([run.count for run in group.ranges]))
        columns.owner.extend(_cut([run.owner for run in group.ranges]))
        columns.age.extend(_cut([delta.to_version - run.since for run in group.ranges]))
    return message


def _cut(column: list[int]) -> list[int]:
    """Without what `_full` puts back: the last entry, as often as it is repeated."""
    length = len(column)
    while length > 1 and column[length - 1] == column[length - 2]:
        length -= 1
    return column[:length]


def _full(column: Sequence[int], length: int, what: str) -> Iterator[int]:
    """A column that goes on with its last entry. Raises ValueError if it is too long, or there is none."""
    if len(column) > length or (length and not column):
        raise ValueError(f"{what} has {len(column)} entries for {length} ranges")
    return chain(column, repeat(column[-1], length - len(column)) if length else ())


def delta_record(message: host_pb2.TableDelta) -> TableDelta:
    """From the wire."""
    slots = 1 << _slot_bits(message.slot_bits)
    return TableDelta(
        from_version=message.from_version,
        to_version=message.to_version,
        slot_bits=message.slot_bits,
        hosts=tuple(
            HostEntry(entry.incarnation, entry.name, entry.address, tuple(sorted(entry.labels.items())))
            for entry in message.hosts
        ),
        hosts_gone=tuple(message.hosts_gone),
        changes=tuple(
            TypeChanges(tuple(group.actor_types), _ranges(group, message.to_version, slots))
            for group in message.changes
        ),
        types_gone=tuple(message.types_gone),
        digest=message.digest,
    )


def _ranges(group: host_pb2.TypeChanges, to_version: int, slots: int) -> tuple[SlotRange, ...]:
    length, who = len(group.gap), f"changes of {', '.join(group.actor_types)[:100]}"
    columns = (_full(getattr(group, name), length, f"{who}: {name}") for name in ("count", "owner", "age"))
    ranges, end = [], 0
    for gap, count, owner, age in zip(group.gap, *columns, strict=True):
        first = end + gap
        end = first + count
        if count < 1 or end > slots:
            raise ValueError(f"changes: slots {first} to {end - 1} are not within 0 to {slots - 1}")
        if age > to_version:
            raise ValueError(f"changes: age {age} is above to_version {to_version}")
        ranges.append(SlotRange(first, count, owner, to_version - age))
    return tuple(ranges)


def _slot_bits(number: int) -> int:
    if not SLOT_BITS_MIN <= number <= SLOT_BITS_MAX:
        raise ValueError(f"slot_bits {number} is not between {SLOT_BITS_MIN} and {SLOT_BITS_MAX}")
    return number
