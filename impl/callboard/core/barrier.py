"""Barrier rounds: what the leader does for one namespace of sidecars (policy `barrier`).

`BarrierNamespace.handle(event, now_ms)` returns effects; there is no clock, no task, no I/O in here. It keeps
`BarrierOrder` (per stream: lock, update, unlock, and never a second lock before the unlock), `TableMonotonic`,
`SlowHostIsolation` and, with the effects carried out, `Convergence`.

How it works:

* What should be a member follows from the open streams: the newest stream under a name says what the host is. Names
  whose replicated record may differ from that are collected in `_changed`. Only when a batch is proposed are they
  compared, so what was undone meanwhile costs nothing, and the newest report wins.
* Changes that arrive while a round or a proposal runs wait for the next batch. A round is never restarted: a host
  that keeps changing its types delays its own change only. Very many changes take several batches, then one round.
* A round sends lock to every admitted stream, then update, then unlock, each when all have acknowledged the phase
  before. When time is up, the streams that still owe an acknowledgement are cut; the others go on.
* A stream that needs no change of members (no actor types, or a member that came back as it was) is brought up to
  date alone, by lock, update and unlock of the current version at once: a one-shot push. During a round it waits,
  since it must not have the new table before the others have let go of the old one.

Bound of `SlowHostIsolation`: a round loses its silent streams at most `round_timeout_ms` + 2 * min(`phase_ms_min`,
`round_timeout_ms`) after it began or last cut some; with all phases prompt but one, after `round_timeout_ms`. Every cut
ends a phase, so a round lasts at most three times as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from attrs import define, field

from callboard.core.barrier_records import (
    ACKNOWLEDGED_PHASE,
    PHASES,
    BarrierSettings,
    BarrierStatus,
    BatchCommitted,
    BatchFailed,
    CloseStream,
    Effect,
    Event,
    HostOperation,
    MessageReceived,
    OrderWritten,
    Phase,
    ProposeBatch,
    Round,
    RoundFinished,
    SendOrder,
    SidecarReport,
    SidecarStream,
    Started,
    StreamClosed,
    StreamOpened,
    TablesChanged,
    Tick,
)
from callboard.core.commands import Removal
from callboard.core.durations import format_duration_ms
from callboard.core.membership import host_record_bytes
from callboard.core.records import HostRecord, Member
from callboard.core.tracing import TraceSink
from callboard.core.versions import Version

REMOVAL_BYTES_EXTRA = 16


@define
class _Proposal:
    """The batch in flight. `names` are the hosts that it changes."""

    batch_id: int
    names: dict[str, None]


@define(eq=False)
class BarrierNamespace:
    """The barrier machine of one namespace, for one term of office of one leader. See the module's description."""

    settings: BarrierSettings
    trace: TraceSink | None = None
    _version: int = field(init=False, default=-1)
    _members: Mapping[str, Member] = field(init=False, factory=dict)
    _streams: dict[int, SidecarStream] = field(init=False, factory=dict)
    _stream_of: dict[str, SidecarStream] = field(init=False, factory=dict)
    _actor_streams: int = field(init=False, default=0)
    _queued: dict[int, SidecarStream] = field(init=False, factory=dict)
    _unchecked: dict[int, SidecarStream] = field(init=False, factory=dict)
    _changed: dict[str, None] = field(init=False, factory=dict)
    _before_round: dict[str, None] = field(init=False, factory=dict)
    """Of those that changed, whose change is to be committed before the next round."""
    _unseen: set[str] = field(init=False, factory=set)
    _proposal: _Proposal | None = field(init=False, default=None)
    _last_batch_id: int = field(init=False, default=0)
    _batch_items: int = field(init=False, default=0)
    _round: Round | None = field(init=False, default=None)
    _round_due: bool = field(init=False, default=False)
    _pushes: dict[int, int] = field(init=False, factory=dict)
    _repeats: dict[int, int] = field(init=False, factory=dict)
    _propose_not_before_ms: int | None = field(init=False, default=None)
    _grace_until_ms: int | None = field(init=False, default=None)
    _effects: list[Effect] = field(init=False, factory=list)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """Take in one event and return what is to be done, in this order.

        `now_ms` is any clock that does not go backwards. Events of streams that are not open (any more) are ignored.

        Raises:
            ValueError: events that no correct server produces: a stream id used twice, an answer to a batch that is
                not in flight, a version that goes down, anything before `Started`.
        """
        if self._version < 0 and not isinstance(event, Started):
            raise ValueError(f"{type(event).__name__} before Started")
        match event:
            case MessageReceived(stream_id, report):
                self._message(stream_id, report)
            case OrderWritten(stream_id, phase, version):
                stream = self._streams.get(stream_id)
                if stream is not None:
                    stream.written(phase, version)
            case Tick():
                self._expire(now_ms)
            case StreamOpened(stream_id, report):
                self._open(stream_id, report)
            case StreamClosed(stream_id):
                self._forget(stream_id)
            case BatchCommitted(batch_id, version, members):
                self._batch_committed(batch_id, version, members, now_ms)
            case BatchFailed():
                self._batch_failed(event, now_ms)
            case TablesChanged(version, members):
                self._adopt(version, members)
            case Started(version, members):
                self._start(version, members, now_ms)
            case unreachable:
                assert_never(unreachable)
        self._advance(now_ms)
        effects, self._effects = self._effects, []
        return effects

    def next_deadline_ms(self) -> int | None:
        """When the next `Tick` is due, or None if only other events can change anything."""
        deadlines = [
            self._round.deadline_ms(self.settings) if self._round is not None else None,
            next(iter(self._pushes.values()), None),
            next(iter(self._repeats.values()), None),
            self._grace_until_ms,
            self._propose_not_before_ms if self._round is None and self._proposal is None else None,
        ]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def members_at(self, version: int) -> Mapping[str, Member]:
        """The members whose table is that of `version`, by host name.

        Raises:
            KeyError: neither the current version nor that of a running round.
        """
        if version == self._version:
            return self._members
        if self._round is not None and version == self._round.version:
            return self._round.members
        raise KeyError(f"no table of version {version} at hand; the current version is {self._version}")

    @property
    def stream_count(self) -> int:
        """Open streams."""
        return len(self._streams)

    @property
    def actor_stream_count(self) -> int:
        """Open streams whose first report had actor types."""
        return self._actor_streams

    @property
    def waiting_count(self) -> int:
        """Streams that the running round waits for."""
        return len(self._round.waiting) if self._round is not None else 0

    def status(self) -> BarrierStatus:
        """What goes on, for operators. Its cost grows with the streams waited for; the counts above are cheap."""
        running = self._round
        waiting = sorted(running.waiting) if running is not None else []
        return BarrierStatus(
            version=self._version,
            members=len(self._members),
            streams=len(self._streams),
            actor_streams=self._actor_streams,
            queued_streams=len(self._queued),
            changes_waiting=len(self._changed),
            phase=running.phase if running is not None else None,
            waiting_for=tuple(self._streams[stream_id].host.name for stream_id in waiting),
        )

    # ---- events

    def _start(self, version: Version, members: Mapping[str, Member], now_ms: int) -> None:
        if self._version >= 0:
            raise ValueError("Started twice")
        self._version = version.wire
        self._members = members
        self._batch_items = self.settings.batch_items_max
        if self.trace is not None:
            self.trace("NewLeader", {"version": self._version, "members": list(members)})
        if members:
            self._unseen = set(members)
            self._grace_until_ms = now_ms + self.settings.member_grace_ms

    def _open(self, stream_id: int, report: SidecarReport) -> None:
        if stream_id in self._streams:
            raise ValueError(f"stream id {stream_id} is used twice")
        if report.operation in ACKNOWLEDGED_PHASE:
            text = f"the first message must be a report, not the acknowledgement {report.operation.name}"
            self._effects.append(CloseStream(stream_id, "INVALID_ARGUMENT", text))
            return
        older = self._stream_of.get(report.name)
        if older is None and len(self._streams) >= self.settings.streams_max:
            text = f"the namespace has {len(self._streams)} streams; the limit is {self.settings.streams_max}"
            self._effects.append(CloseStream(stream_id, "RESOURCE_EXHAUSTED", text))
            return
        if older is not None:
            self._cut(older.stream_id, "ABORTED", f"a newer stream of host {report.name} took over")
        stream = SidecarStream(
            stream_id=stream_id,
            host=HostRecord(report.name, report.app_id, report.actor_types, report.port),
            had_actors=bool(report.actor_types),
            speaks_operations=report.operation is not HostOperation.UNKNOWN,
        )
        self._streams[stream_id] = self._stream_of[report.name] = stream
        self._queued[stream_id] = self._unchecked[stream_id] = stream
        self._actor_streams += stream.had_actors
        if self.trace is not None:
            self.trace("Attach", {"stream": stream_id, "host": report.name})
        self._unseen.discard(report.name)
        self._changed[report.name] = None

    def _message(self, stream_id: int, report: SidecarReport) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if report.operation is not HostOperation.UNKNOWN:
            stream.speaks_operations = True
        phase = ACKNOWLEDGED_PHASE.get(report.operation)
        if phase is not None:
            self._acknowledgement(stream, phase, -1 if report.version is None else report.version)
            return
        if report.name and report.name != stream.host.name:
            text = f"host name changed from {stream.host.name} to {report.name} on one stream"
            self._cut(stream_id, "INVALID_ARGUMENT", text)
            return
        if not stream.speaks_operations:
            stream.heartbeat()
            self._settle(stream)
        host = HostRecord(stream.host.name, report.app_id, report.actor_types, report.port)
        if host != stream.host:
            stream.host = host
            self._changed[host.name] = None
            if not stream.admitted:
                self._unchecked[stream_id] = stream

    def _acknowledgement(self, stream: SidecarStream, phase: Phase, version: int) -> None:
        if stream.never_sent(phase, version):
            newest = f"{stream.newest_phase} of version {stream.newest_version}"
            sent = "no order was sent" if stream.newest_version < 0 else f"the newest order sent is {newest}"
            text = f"acknowledgement of {phase} of version {version}, but {sent}"
            self._cut(stream.stream_id, "INVALID_ARGUMENT", text)
            return
        if self.trace is not None:
            answer = {"operation": phase.value, "version": version}
            self.trace("RecvAck", {"stream": stream.stream_id, "host": stream.host.name, **answer})
        stream.acknowledged(phase, version)
        self._settle(stream)

    def _settle(self, stream: SidecarStream) -> None:
        """Cross the stream off the lists of those awaited, if it has acknowledged all that was sent."""
        if not stream.outstanding:
            self._pushes.pop(stream.stream_id, None)
            if self._round is not None:
                self._round.waiting.discard(stream.stream_id)

    def _forget(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        if self.trace is not None:
            self.trace("StreamEnds", {"stream": stream_id, "host": stream.host.name})
        del self._stream_of[stream.host.name]
        self._queued.pop(stream_id, None)
        self._unchecked.pop(stream_id, None)
        self._pushes.pop(stream_id, None)
        self._repeats.pop(stream_id, None)
        self._actor_streams -= stream.had_actors
        self._changed[stream.host.name] = None
        if self._round is not None:
            self._round.participants.pop(stream_id, None)
            self._round.waiting.discard(stream_id)

    def _cut(self, stream_id: int, status: str, text: str) -> None:
        self._effects.append(CloseStream(stream_id, status, text))
        self._forget(stream_id)

    def _expire(self, now_ms: int) -> None:
        running = self._round
        if running is not None and now_ms >= running.deadline_ms(self.settings):
            if self.trace is not None:
                self.trace("RoundTimeout", {"version": running.version, "streams": sorted(running.waiting)})
            for stream_id in sorted(running.waiting):
                running.cut.append(stream_id)
                self._cut_silent(stream_id, running.version)
            running.budget_from_ms = now_ms
        for stream_id, deadline_ms in list(self._pushes.items()):
            if deadline_ms > now_ms:
                break
            self._cut_silent(stream_id, self._streams[stream_id].newest_version)
        for stream_id, due_ms in list(self._repeats.items()):
            if due_ms > now_ms:
                break
            self._repeat(self._streams[stream_id], now_ms)
        if self._grace_until_ms is not None and now_ms >= self._grace_until_ms:
            self._grace_until_ms = None
            if self.trace is not None:
                self.trace("GraceEnds", {"hosts": sorted(self._unseen)})
            self._changed.update(dict.fromkeys(sorted(self._unseen)))
            self._unseen = set()

    def _cut_silent(self, stream_id: int, version: int) -> None:
        after = format_duration_ms(self.settings.round_timeout_ms)
        self._cut(stream_id, "DEADLINE_EXCEEDED", f"dissemination timeout after {after} for version {version}")

    # ---- batches

    def _difference(self, name: str) -> HostRecord | Removal | None:
        """What has to be committed so that the replicated record of `name` is what its stream says."""
        stream = self._stream_of.get(name)
        member = self._members.get(name)
        if stream is None and name in self._unseen:
            return None
        if stream is None or not stream.host.actor_types:
            return None if member is None else Removal(name, member.incarnation)
        return None if member is not None and member.host == stream.host else stream.host

    def _propose(self) -> None:
        """Propose the changes that fit one batch; those left over follow before the round begins."""
        upserts: list[HostRecord] = []
        removals: list[Removal] = []
        size = 0
        while self._before_round:
            name = next(iter(self._before_round))
            change = self._difference(name)
            if isinstance(change, HostRecord):
                size += host_record_bytes(change)
            elif change is not None:
                size += len(name.encode("utf-8", "surrogatepass")) + REMOVAL_BYTES_EXTRA
            items = len(upserts) + len(removals)
            if items >= self._batch_items or (items and size > self.settings.batch_bytes_max):
                break
            del self._before_round[name]
            self._changed.pop(name, None)
            if isinstance(change, HostRecord):
                upserts.append(change)
            elif change is not None:
                removals.append(change)
        if not upserts and not removals:
            return
        self._last_batch_id += 1
        names = dict.fromkeys([*(host.name for host in upserts), *(removal.name for removal in removals)])
        self._proposal = _Proposal(self._last_batch_id, names)
        if self.trace is not None:
            leaves = [removal.name for removal in removals]
            self.trace("ProposeBatch", {"joins": [host.name for host in upserts], "leaves": leaves})
        self._effects.append(ProposeBatch(self._last_batch_id, tuple(upserts), tuple(removals)))

    def _end_proposal(self, batch_id: int) -> _Proposal:
        proposal = self._proposal
        if proposal is None or proposal.batch_id != batch_id:
            raise ValueError(f"batch {batch_id} is not in flight")
        self._proposal = None
        return proposal

    def _batch_committed(self, batch_id: int, version: Version, members: Mapping[str, Member], now_ms: int) -> None:
        proposal = self._end_proposal(batch_id)
        self._batch_items = self.settings.batch_items_max
        effective = version.wire > self._version
        self._adopt(version, members)
        if not effective and any(self._difference(name) is not None for name in proposal.names):
            self._propose_not_before_ms = now_ms + self.settings.retry_ms

    def _batch_failed(self, event: BatchFailed, now_ms: int) -> None:
        proposal = self._end_proposal(event.batch_id)
        if self.trace is not None:
            self.trace("BatchFails", {})
        self._changed.update(proposal.names)
        self._before_round = {}
        self._unchecked.update(self._queued)
        if not event.retry and len(proposal.names) > 1:
            self._batch_items = len(proposal.names) // 2
            return
        stream = self._stream_of.get(next(iter(proposal.names)))
        if event.retry or stream is None:
            self._propose_not_before_ms = now_ms + self.settings.retry_ms
        else:
            self._cut(stream.stream_id, event.status, event.text)

    def _adopt(self, version: Version, members: Mapping[str, Member]) -> None:
        if version.wire < self._version:
            raise ValueError(f"version {version} is below {Version.from_wire(self._version)}")
        self._round_due = self._round_due or version.wire > self._version
        self._version = version.wire
        self._members = members
        self._unchecked.update(self._queued)
        # Others may have changed the namespace as well: whatever is not as the streams say has to be put right.
        for name in {**self._stream_of, **members}:
            if self._difference(name) is not None:
                self._changed[name] = None

    # ---- what follows

    def _advance(self, now_ms: int) -> None:
        """Do whatever can be done now: the round's next phase, the next round, pushes, the next batch."""
        if self._round is not None:
            self._advance_round(self._round, now_ms)
        if self._propose_not_before_ms is not None and now_ms >= self._propose_not_before_ms:
            self._propose_not_before_ms = None
        if self._round is None and self._proposal is None and self._propose_not_before_ms is None:
            if not self._round_due:
                self._before_round.update(self._changed)
            self._propose()
        if self._round is None and self._proposal is None and self._round_due:
            self._begin_round(now_ms)
            self._advance(now_ms)
        elif self._round is None and not self._round_due:
            self._push_to_unchanged(now_ms)

    def _begin_round(self, now_ms: int) -> None:
        for stream in list(self._queued.values()):
            if self._difference(stream.host.name) is None:
                self._admit(stream, now_ms)
        participants = {stream_id: None for stream_id, stream in self._streams.items() if stream.admitted}
        self._round_due = False
        self._pushes = {}
        if self.trace is not None:
            whose = [stream.host.name for stream in self._streams.values() if stream.admitted]
            self.trace("StartRound", {"version": self._version, "members": list(self._members), "hosts": whose})
        self._round = Round(self._version, self._members, participants, len(participants), now_ms, now_ms)
        # A sidecar whose count is out of step forgets its tables 15 s after its last lock, so a repetition comes later.
        for stream_id in participants:
            if self._repeats.pop(stream_id, None) is not None:
                self._repeats[stream_id] = now_ms + self.settings.repeat_push_ms
        self._order_all(self._round)

    def _advance_round(self, running: Round, now_ms: int) -> None:
        while not running.waiting:
            if self.trace is not None:
                self.trace("Advance", {"version": running.version, "phase": running.phase.value})
            running.durations_ms.append(now_ms - running.phase_from_ms)
            running.phase_from_ms = now_ms
            if running.phase is Phase.UNLOCK:
                self._finish_round(running, now_ms)
                return
            running.phase = PHASES[running.phase.rank + 1]
            self._order_all(running)

    def _order_all(self, running: Round) -> None:
        for stream_id in running.participants:
            self._order(self._streams[stream_id], running.phase, running.version)
        running.waiting = set(running.participants)

    def _order(self, stream: SidecarStream, phase: Phase, version: int) -> None:
        stream.sent(phase, version)
        self._effects.append(SendOrder(stream.stream_id, phase, version))

    def _finish_round(self, running: Round, now_ms: int) -> None:
        self._round = None
        if self.settings.coalesce_ms:
            self._propose_not_before_ms = now_ms + self.settings.coalesce_ms
        lock_ms, update_ms, unlock_ms = running.durations_ms
        durations = (lock_ms, update_ms, unlock_ms)
        self._effects.append(RoundFinished(running.version, durations, running.started_with, tuple(running.cut)))

    def _admit(self, stream: SidecarStream, now_ms: int) -> None:
        stream.admitted = True
        if self.settings.repeat_push_ms and not stream.speaks_operations:
            self._repeats[stream.stream_id] = now_ms + self.settings.repeat_push_ms
        del self._queued[stream.stream_id]
        self._unchecked.pop(stream.stream_id, None)

    def _push_to_unchanged(self, now_ms: int) -> None:
        """Bring the queued streams up to date that need no change of members, nor are part of the batch in flight."""
        unchecked, self._unchecked = self._unchecked, {}
        in_flight = self._proposal.names if self._proposal is not None else {}
        for stream in unchecked.values():
            if stream.host.name not in in_flight and self._difference(stream.host.name) is None:
                self._admit(stream, now_ms)
                self._push(stream, now_ms)

    def _push(self, stream: SidecarStream, now_ms: int) -> None:
        self._pushes[stream.stream_id] = now_ms + self.settings.round_timeout_ms
        if self.trace is not None:
            to = {"stream": stream.stream_id, "host": stream.host.name}
            self.trace("Push", {**to, "version": self._version, "members": list(self._members)})
        for phase in PHASES:
            self._order(stream, phase, self._version)

    def _repeat(self, stream: SidecarStream, now_ms: int) -> None:
        """Push the tables to an old sidecar once more, or a little later if orders to it are under way."""
        del self._repeats[stream.stream_id]
        if stream.speaks_operations:
            return
        if self._round is None and not self._round_due and not stream.outstanding:
            self._push(stream, now_ms)
        else:
            self._repeats[stream.stream_id] = now_ms + self.settings.repeat_push_ms
