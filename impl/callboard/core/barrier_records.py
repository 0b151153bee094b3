"""What goes into and comes out of the barrier machine (barrier.py): events, effects, settings."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum

from attrs import Factory, define, field, frozen
from attrs.validators import ge

from callboard.core.commands import Removal
from callboard.core.records import HostRecord, Member
from callboard.core.versions import Version


class HostOperation(IntEnum):
    """What a sidecar's message means; the numbers are those of the wire."""

    UNKNOWN = 0
    REPORT = 1
    LOCK = 2
    UPDATE = 3
    UNLOCK = 4


class Phase(StrEnum):
    """The steps of a round, in order; the values are the orders' operations on the wire."""

    LOCK = "lock"
    UPDATE = "update"
    UNLOCK = "unlock"

    @property
    def rank(self) -> int:
        """0, 1 or 2: position within the round."""
        return _RANK[self]


PHASES = (Phase.LOCK, Phase.UPDATE, Phase.UNLOCK)
_RANK = {phase: rank for rank, phase in enumerate(PHASES)}
ACKNOWLEDGED_PHASE = {
    HostOperation.LOCK: Phase.LOCK,
    HostOperation.UPDATE: Phase.UPDATE,
    HostOperation.UNLOCK: Phase.UNLOCK,
}


@frozen
class SidecarReport:
    """One message of a sidecar, after `sidecar_protocol.check_message` found nothing wrong with it.

    `actor_types` are sorted and without duplicates. Acknowledgements carry `operation` and `version` only; their
    other fields are not looked at. Later reports may leave `name` empty: a stream speaks for one host.
    """

    name: str
    app_id: str = ""
    actor_types: tuple[str, ...] = ()
    port: int = 0
    operation: HostOperation = HostOperation.REPORT
    version: int | None = None


@frozen
class BarrierSettings:
    """Times and limits of one namespace.

    `round_timeout_ms`: a round that took so long loses the streams that it still waits for. Also how long a
    one-shot push may stay unacknowledged.
    `phase_ms_min`: yet no phase is cut short of this (or of the round timeout, if that is less), so that a host that
    was slow to lock does not get the others cut while they drain.
    `coalesce_ms`: how long changes are collected after each round; 0 proposes them at once.
    `member_grace_ms`: how long a new leader waits for members that have not reconnected.
    `retry_ms`: pause after a batch that failed.
    `repeat_push_ms`: so long after it was admitted, or after a later round if one comes before that, an old sidecar
    (one that never set an operation) gets the tables once more; 0 for never. A sidecar of 1.16 that lost its former
    stream in mid-round counts one lock too many, stays locked after its next triples, and 15 s after the last of them
    forgets its tables; only a later triple brings them back.
    `batch_items_max`, `batch_bytes_max`: size of one batch; more changes make several batches before one round.
    `streams_max`: open streams of the namespace.
    """

    round_timeout_ms: int = field(default=8000, validator=ge(1))
    phase_ms_min: int = field(default=2500, validator=ge(0))
    coalesce_ms: int = field(default=0, validator=ge(0))
    member_grace_ms: int = field(default=15_000, validator=ge(0))
    retry_ms: int = field(default=200, validator=ge(1))
    repeat_push_ms: int = field(default=0, validator=ge(0))
    batch_items_max: int = field(default=500, validator=ge(1))
    batch_bytes_max: int = field(default=256 * 1024, validator=ge(1))
    streams_max: int = field(default=20_000, validator=ge(1))


@frozen
class Started:
    """This replica took office: the first event. `members` are those of the replicated state, at `version`.

    The mapping must not be changed afterwards (the replicated state never does); the machine keeps it.
    """

    version: Version
    members: Mapping[str, Member]


@frozen
class StreamOpened:
    """A sidecar opened a stream; `report` is its first message. Stream ids are never used twice."""

    stream_id: int
    report: SidecarReport


@frozen
class MessageReceived:
    """A later message of a stream."""

    stream_id: int
    report: SidecarReport


@frozen
class StreamClosed:
    """A stream ended, from whichever side. Expected, but not needed, after a `CloseStream` effect."""

    stream_id: int


@frozen
class OrderWritten:
    """The order left this process. Only from then on does a heartbeat count as its acknowledgement."""

    stream_id: int
    phase: Phase
    version: int


@frozen
class BatchCommitted:
    """The batch was applied. `version` and `members` are those of the namespace right after it."""

    batch_id: int
    version: Version
    members: Mapping[str, Member]


@frozen
class BatchFailed:
    """The batch surely had no effect.

    `retry`: try again after a pause. Without it the batch was refused, and would be again: the machine finds
    the culprit by trying smaller batches, and closes its stream with `status` and `text`.
    """

    batch_id: int
    retry: bool
    status: str = "RESOURCE_EXHAUSTED"
    text: str = "the namespace cannot take this host"


@frozen
class TablesChanged:
    """The namespace changed, but not by a batch of this machine: an operator's command, a raised generation."""

    version: Version
    members: Mapping[str, Member]


@frozen
class Tick:
    """Time has passed. Due when `next_deadline_ms` says so; harmless at any other time."""


Event = (
    Started
    | StreamOpened
    | MessageReceived
    | StreamClosed
    | OrderWritten
    | BatchCommitted
    | BatchFailed
    | TablesChanged
    | Tick
)


@frozen
class ProposeBatch:
    """Commit this change of members; to be answered with `BatchCommitted` or `BatchFailed`. One at a time."""

    batch_id: int
    upserts: tuple[HostRecord, ...]
    removals: tuple[Removal, ...]


@frozen
class SendOrder:
    """Write an order to a stream, after all earlier ones to it.

    `version` is the wire form. With `Phase.UPDATE` the order carries the table of exactly that version, which is
    `BarrierNamespace.members_at(version)` at the moment when the effect is returned.
    """

    stream_id: int
    phase: Phase
    version: int


@frozen
class CloseStream:
    """End a stream with a gRPC status (its name, as in `INVALID_ARGUMENT`). The machine has forgotten it already."""

    stream_id: int
    status: str
    text: str


@frozen
class RoundFinished:
    """A round is over. `phase_ms` are the durations of lock, update, unlock; `cut` the streams that it lost to silence.

    `streams` counts those that it began with.
    """

    version: int
    phase_ms: tuple[int, int, int]
    streams: int
    cut: tuple[int, ...]


Effect = ProposeBatch | SendOrder | CloseStream | RoundFinished


@frozen
class BarrierStatus:
    """What operators want to see of a namespace. `waiting_for` names the hosts that a running round waits for."""

    version: int
    members: int
    streams: int
    actor_streams: int
    queued_streams: int
    changes_waiting: int
    phase: Phase | None
    waiting_for: tuple[str, ...]


@define
class OutstandingOrder:
    """An order that its stream has not acknowledged yet."""

    phase: Phase
    version: int
    written: bool = False


@define(eq=False)
class SidecarStream:
    """What the machine knows of one open stream.

    `host` is what the stream last said of itself. `admitted`: a round or one-shot push has reached it, so it takes
    part in every round. `speaks_operations`: it has set an operation once, so that UNKNOWN acknowledges nothing.
    `newest_phase` and `newest_version` are of the last order sent.
    """

    stream_id: int
    host: HostRecord
    had_actors: bool
    speaks_operations: bool
    admitted: bool = False
    newest_version: int = -1
    newest_phase: Phase = Phase.UNLOCK
    outstanding: list[OutstandingOrder] = Factory(list)

    def sent(self, phase: Phase, version: int) -> None:
        """Note an order to this stream. A new version makes all older orders moot."""
        if version != self.newest_version:
            self.outstanding = []
        self.newest_version, self.newest_phase = version, phase
        self.outstanding.append(OutstandingOrder(phase, version))

    def written(self, phase: Phase, version: int) -> None:
        """Note that an order has left the process."""
        for order in self.outstanding:
            if order.phase is phase and order.version == version:
                order.written = True

    def heartbeat(self) -> None:
        """An old sidecar's heartbeat acknowledges whatever was written to it before."""
        if self.outstanding:
            self.outstanding = [order for order in self.outstanding if not order.written]

    def never_sent(self, phase: Phase, version: int) -> bool:
        """Whether an acknowledgement answers an order that does not exist yet."""
        if version != self.newest_version:
            return version > self.newest_version
        return phase.rank > self.newest_phase.rank

    def acknowledged(self, phase: Phase, version: int) -> None:
        """An acknowledgement covers the order and those before it; one of an older version covers nothing."""
        if self.outstanding and version == self.newest_version:
            self.outstanding = [order for order in self.outstanding if order.phase.rank > phase.rank]


@define(eq=False)
class Round:
    """One pass of lock, update, unlock over the streams that were admitted when it began.

    `participants` are those still open, `waiting` those that owe the acknowledgement of `phase`.
    `budget_from_ms` is when the running timeout began: at the start, or when the round last cut silent streams.
    """

    version: int
    members: Mapping[str, Member]
    participants: dict[int, None]
    started_with: int
    budget_from_ms: int
    phase_from_ms: int
    phase: Phase = Phase.LOCK
    waiting: set[int] = Factory(set)
    durations_ms: list[int] = Factory(list)
    cut: list[int] = Factory(list)

    def deadline_ms(self, settings: BarrierSettings) -> int:
        """When the streams in `waiting` will be cut."""
        shortest_phase_ms = min(settings.phase_ms_min, settings.round_timeout_ms)
        return max(self.budget_from_ms + settings.round_timeout_ms, self.phase_from_ms + shortest_phase_ms)
