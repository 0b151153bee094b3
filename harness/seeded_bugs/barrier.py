"""Bugs of barrier rounds: subclasses that take the machine's place wherever it is made, and patches."""

from __future__ import annotations

import sys
from collections.abc import Mapping

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
from harness.seeded_bugs.registry import Bug


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
        if version.wire > self._version:  # a version is told more than once
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


PACKAGES = ("callboard", "harness", "tests")


def take_the_place(patch: pytest.MonkeyPatch, mutant: type[BarrierNamespace]) -> None:
    """Let every loaded module of this project make `mutant` where it made the machine."""
    sound = BarrierNamespace  # this module is among those that are patched
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES and vars(module).get("BarrierNamespace") is sound:
            patch.setattr(module, "BarrierNamespace", mutant)


def _of_class(mutant: type[BarrierNamespace], name: str, violated: str, origin: str = "") -> Bug:
    what = (mutant.__doc__ or "").strip().splitlines()[0].rstrip(".")
    return Bug(name, what, (violated,), lambda patch: take_the_place(patch, mutant), origin)


BUGS: list[Bug] = [
    _of_class(RestartsRounds, "rounds_are_restarted", "BarrierOrder", "Dapr placement: rounds are restarted midway"),
    _of_class(SkipsUpdate, "unlock_without_update", "BarrierOrder"),
    _of_class(ForgetsPhase, "update_before_all_have_locked", "BarrierOrder", "Dapr #9514: halted in the wrong phase"),
    _of_class(PushesDuringRounds, "push_during_a_round", "BarrierOrder"),
    Bug(
        "acknowledgement_without_version",
        "An acknowledgement counts for whatever is owed, whichever version it names",
        ("BarrierOrder",),
        _acknowledgements_without_version,
        "Dapr staleunlock: an unlock of an older round counts",
    ),
    Bug(
        "heartbeat_before_the_write",
        "A heartbeat acknowledges orders that have not left the process",
        ("BarrierOrder",),
        _heartbeats_count_before_the_order_is_written,
    ),
    _of_class(TellsYesterdaysTable, "table_of_the_version_before", "TableAgreement"),
    _of_class(
        PushesOldVersions, "push_of_an_old_version", "TableMonotonic", "etcd #15271: a watcher travels back in time"
    ),
    _of_class(
        ForgetsToAdvanceWhenTypelessHostDies,
        "death_of_the_last_one_awaited",
        "SlowHostIsolation",
        "Dapr placement: a stream that ends in mid-round stalls it",
    ),
    _of_class(
        CutsEveryone, "timeout_cuts_everyone", "SlowHostIsolation", "Dapr #9770: one slow host breaks the round for all"
    ),
    _of_class(NeverTimesOut, "no_timeout", "SlowHostIsolation", "Dapr #1914: one silent host blocks dissemination"),
    Bug(
        "late_phases_are_cut_short",
        "A phase that begins late is cut at the round's first deadline",
        ("SlowHostIsolation",),
        _late_phases_are_cut_short,
    ),
    _of_class(ForgetsChangesWhileCommitting, "changes_lost_while_committing", "Convergence"),
    _of_class(NeverRemoves, "nobody_is_removed", "Convergence", "Dapr #7311: a ghost host stays in the table for ever"),
    _of_class(
        NeverEndsGrace, "grace_without_end", "Convergence", "Dapr #7311: a host that died around an election stays"
    ),
    _of_class(ForgetsQueuedStreams, "queued_streams_forgotten", "Convergence"),
]
