"""Barrier machines with one bug each, by the property that has to catch it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from attrs import define, field

from callboard.core.barrier import BarrierNamespace
from callboard.core.barrier_records import (
    BarrierSettings,
    Effect,
    Event,
    Phase,
    Round,
    SidecarStream,
)
from callboard.core.commands import Removal
from callboard.core.records import HostRecord, Member
from callboard.core.versions import Version

Prepare = Callable[[pytest.MonkeyPatch], None]


@define(eq=False)
class RestartsRounds(BarrierNamespace):
    """A change during a round drops the round and begins another (upstream's compressed rounds)."""

    def _advance(self, now_ms: int) -> None:
        if self._round is not None and self._proposal is None:
            self._before_round.update(self._changed)
            self._changed = {}
            self._propose()
            if self._round_due:
                self._round = None
        super()._advance(now_ms)


@define(eq=False)
class ForgetsToAdvanceWhenTypelessHostDies(BarrierNamespace):
    """A host without actor types that dies as the last one awaited stalls the round (upstream's closeconn)."""

    def _forget(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        awaited = self._round is not None and stream_id in self._round.waiting
        super()._forget(stream_id)
        if awaited and stream is not None and not stream.host.actor_types and self._round is not None:
            self._round.waiting.add(stream_id)


@define(eq=False)
class CutsEveryone(BarrierNamespace):
    """The round timeout closes all streams of the round (upstream before 1.17.3)."""

    def _expire(self, now_ms: int) -> None:
        running = self._round
        if running is not None and now_ms >= running.deadline_ms(self.settings):
            running.waiting.update(running.participants)
        super()._expire(now_ms)


@define(eq=False)
class SkipsUpdate(BarrierNamespace):
    """Unlock follows lock."""

    def _order_all(self, running: Round) -> None:
        if running.phase is Phase.UPDATE:
            running.phase = Phase.UNLOCK
            running.durations_ms.append(0)
        super()._order_all(running)


@define(eq=False)
class ForgetsPhase(BarrierNamespace):
    """The update goes out before everyone has locked."""

    def _advance_round(self, running: Round, now_ms: int) -> None:
        if running.phase is Phase.LOCK and len(running.waiting) < len(running.participants):
            running.waiting.clear()
        super()._advance_round(running, now_ms)


@define(eq=False)
class PushesDuringRounds(BarrierNamespace):
    """A host that needs no change gets its table in the middle of a round."""

    def _advance(self, now_ms: int) -> None:
        super()._advance(now_ms)
        if self._round is not None:
            self._push_to_unchanged(now_ms)


@define(eq=False)
class TellsYesterdaysTable(BarrierNamespace):
    """Updates carry the members of the version before."""

    _before: Mapping[str, Member] = field(init=False, factory=dict)

    def _adopt(self, version: Version, members: Mapping[str, Member]) -> None:
        self._before = self._members
        super()._adopt(version, members)

    def members_at(self, version: int) -> Mapping[str, Member]:
        return self._before


@define(eq=False)
class PushesOldVersions(BarrierNamespace):
    """One-shot pushes carry the first version that this leader knew."""

    _known: dict[int, Mapping[str, Member]] = field(init=False, factory=dict)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects = super().handle(event, now_ms)
        self._known[self._version] = self._members
        return effects

    def _push_to_unchanged(self, now_ms: int) -> None:
        current, self._version = self._version, next(iter(self._known), self._version)
        super()._push_to_unchanged(now_ms)
        self._version = current

    def members_at(self, version: int) -> Mapping[str, Member]:
        return self._known.get(version, self._members)


@define(eq=False)
class ForgetsChangesWhileCommitting(BarrierNamespace):
    """What changed while a batch was in flight is lost."""

    def _adopt(self, version: Version, members: Mapping[str, Member]) -> None:
        super()._adopt(version, members)
        self._changed = {}


@define(eq=False)
class NeverRemoves(BarrierNamespace):
    """Members that left stay in the tables."""

    def _difference(self, name: str) -> HostRecord | Removal | None:
        change = super()._difference(name)
        return None if isinstance(change, Removal) else change


@define(eq=False)
class NeverEndsGrace(BarrierNamespace):
    """Members that did not come back after a leader change stay for ever."""

    def _expire(self, now_ms: int) -> None:
        unseen = set(self._unseen)
        super()._expire(now_ms)
        self._unseen = unseen


@define(eq=False)
class NeverTimesOut(BarrierNamespace):
    """A silent host holds a round up for ever."""

    def _expire(self, now_ms: int) -> None:
        if self._round is not None:
            self._round.budget_from_ms = now_ms
        super()._expire(now_ms)


@define(eq=False)
class ForgetsQueuedStreams(BarrierNamespace):
    """Streams that joined during a round and need no change are never looked at again."""

    def _begin_round(self, now_ms: int) -> None:
        self._unchecked = {}
        super()._begin_round(now_ms)

    def _advance(self, now_ms: int) -> None:
        super()._advance(now_ms)
        if self._round is not None:
            self._unchecked = {}


def _acknowledgements_without_version(patch: pytest.MonkeyPatch) -> None:
    def acknowledged(stream: SidecarStream, phase: Phase, version: int) -> None:
        stream.outstanding = [order for order in stream.outstanding if order.phase.rank > phase.rank]

    patch.setattr(SidecarStream, "acknowledged", acknowledged)


def _heartbeats_count_before_the_order_is_written(patch: pytest.MonkeyPatch) -> None:
    def heartbeat(stream: SidecarStream) -> None:
        stream.outstanding = []

    patch.setattr(SidecarStream, "heartbeat", heartbeat)


def _late_phases_are_cut_short(patch: pytest.MonkeyPatch) -> None:
    def deadline_ms(running: Round, settings: BarrierSettings) -> int:
        return running.budget_from_ms + settings.round_timeout_ms

    patch.setattr(Round, "deadline_ms", deadline_ms)


def _no_patch(patch: pytest.MonkeyPatch) -> None:
    pass


MUTANTS: list[tuple[str, type[BarrierNamespace], Prepare, str]] = [
    ("rounds are restarted midway", RestartsRounds, _no_patch, "BarrierOrder"),
    ("unlock without update", SkipsUpdate, _no_patch, "BarrierOrder"),
    ("update before all have locked", ForgetsPhase, _no_patch, "BarrierOrder"),
    ("push during a round", PushesDuringRounds, _no_patch, "BarrierOrder"),
    ("acknowledgement counted without version", BarrierNamespace, _acknowledgements_without_version, "BarrierOrder"),
    ("heartbeat before write", BarrierNamespace, _heartbeats_count_before_the_order_is_written, "BarrierOrder"),
    ("table of the version before", TellsYesterdaysTable, _no_patch, "TableAgreement"),
    ("push of an old version", PushesOldVersions, _no_patch, "TableMonotonic"),
    ("death of the last one awaited", ForgetsToAdvanceWhenTypelessHostDies, _no_patch, "SlowHostIsolation"),
    ("timeout cuts everyone", CutsEveryone, _no_patch, "SlowHostIsolation"),
    ("no timeout", NeverTimesOut, _no_patch, "SlowHostIsolation"),
    ("late phases cut short", BarrierNamespace, _late_phases_are_cut_short, "SlowHostIsolation"),
    ("changes lost while committing", ForgetsChangesWhileCommitting, _no_patch, "Convergence"),
    ("nobody is removed", NeverRemoves, _no_patch, "Convergence"),
    ("grace without end", NeverEndsGrace, _no_patch, "Convergence"),
    ("queued streams forgotten", ForgetsQueuedStreams, _no_patch, "Convergence"),
]
