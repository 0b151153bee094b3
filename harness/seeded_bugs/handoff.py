"""Leader and host machines with one weakened guard each, by the properties of which one has to catch it.

They mirror the mutants of the modules ExclusiveHandoff and Leases in tla/mutants, under the same names, where these are
in the machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from attrs import evolve

from callboard.core import native_host
from callboard.core.handoff_messages import NO_INCARNATION, Farewell, Held, Renewal, RenewalAnswer
from callboard.core.leases import Deadlines, deadlines
from callboard.core.native_attendance import Attendance, KnownHost
from callboard.core.native_host import NativeHost
from callboard.core.native_host_records import Right, SendFarewell
from callboard.core.native_leader import NativeLeader
from callboard.core.native_leader_records import SendAnswer, StateChanged
from callboard.core.native_parting import Phase
from callboard.core.native_releases import Releases
from callboard.core.native_rights import Rights
from callboard.core.slot_index import Holding, SlotIndex
from callboard.core.slot_records import HandoffSettings
from callboard.core.table_delta import DeltaError, TableDelta, TableView, empty_view, make_view, patch
from callboard.core.versions import Policy
from harness.seeded_bugs.registry import Bug, Registrar

BUGS: list[Bug] = []
bug = Registrar(BUGS)
SINGLE = "SingleActivation"
SHUT = "GoneImpliesGateShut"
FENCE = "FenceMonotonic"
INSIDE = "TurnsInsideRights"
SERVED = "EventuallyServed"


# -- leader ----------------------------------------------------------------------------------------------


@bug(SINGLE, origin="Orleans #5112: the new owner serves before the handoff arrives")
def grant_ignores_pending(patched: pytest.MonkeyPatch) -> None:
    """The leader grants a slot while earlier owners are pending."""

    def granted(
        self: SlotIndex, incarnation: int, kinds: Iterable[str], holding: Holding
    ) -> Iterator[tuple[str, int, int, int]]:
        for kind in kinds:
            table, rights = self.namespace.tables[kind], self.namespace.rights[kind]
            for slot in self.owned(kind, incarnation):
                if holding.slots.get(kind, {}).get(slot) != (table.since[slot], rights.fences[slot]):
                    yield kind, slot, table.since[slot], rights.fences[slot]

    patched.setattr(SlotIndex, "granted", granted)


@bug(SINGLE, stalls=4)
def release_of_any_version_counts(patched: pytest.MonkeyPatch) -> None:
    """A release from before the last change of owner counts."""
    patched.setattr(
        KnownHost, "has_released", lambda self, kind, slot, since: self.version > 0 and not self.holding.has(kind, slot)
    )


@bug(SINGLE, origin="Proto.Actor .NET #1355: not every member is waited for")
def one_release_is_enough(patched: pytest.MonkeyPatch) -> None:
    """The leader confirms a slot as soon as one of the pending earlier owners released it."""
    patched.setattr(Releases, "_is_clear", lambda self, givers, kind, slot, since: True)


@bug(SINGLE, stalls=4)
def change_of_holding_applied_to_any_base(patched: pytest.MonkeyPatch) -> None:
    """What a host says that it holds is applied to whatever was known before."""
    original = KnownHost.take_in

    def take_in(self: KnownHost, renewal: Renewal) -> bool:
        base = renewal.base_number and self.holding_number
        self.holding_number = self.holding_number or 1
        return original(self, evolve(renewal, base_number=base and self.holding_number))

    patched.setattr(KnownHost, "take_in", take_in)


@bug(SHUT, SINGLE, origin="etcd #11456: a lock is granted on a dead lease")
def buried_without_wait(patched: pytest.MonkeyPatch) -> None:
    """A removed incarnation is taken for gone at once."""
    patched.setattr(Attendance, "wait_over_ms", lambda self, incarnation: 0)


@bug(SHUT, SINGLE, origin="StarRocks #12136: fencing fails on a new leader")
def new_leader_does_not_wait(patched: pytest.MonkeyPatch) -> None:
    """A new leader does not wait for leases that its predecessor gave."""

    def wait_over_ms(self: Attendance, incarnation: int) -> int:
        answered_ms = self.hosts[incarnation].answered_ms
        return 0 if answered_ms is None else answered_ms + self.namespace.settings.wait_ms()

    patched.setattr(Attendance, "wait_over_ms", wait_over_ms)


@bug(SHUT, SINGLE)
def answer_not_stamped(patched: pytest.MonkeyPatch) -> None:
    """The wait is counted from the beginning of the office, not from the last answer."""

    def wait_over_ms(self: Attendance, incarnation: int) -> int:
        return self.started_ms + self.namespace.settings.wait_ms()

    patched.setattr(Attendance, "wait_over_ms", wait_over_ms)


@bug(SHUT, SINGLE, origin="etcd #20418: a leader that was paused serves under a stale lease")
def round_of_an_old_epoch_counts(patched: pytest.MonkeyPatch) -> None:
    """A round that failed confirms the leader."""
    patched.setattr(NativeLeader, "_round_failed", NativeLeader._round_confirmed)


@bug(SHUT, SINGLE, origin="Dapr #7311: a leader without followers goes on")
def answered_without_a_round(patched: pytest.MonkeyPatch) -> None:
    """Renewals are answered without asking the quorum."""
    original = NativeLeader._begin_round

    def begin_round(self: NativeLeader) -> None:
        before = self._rounds.running
        original(self)
        if self._rounds.running and not before:
            self._effects.pop()
            self._round_confirmed(self._rounds.round_id)

    patched.setattr(NativeLeader, "_begin_round", begin_round)


@bug(SHUT, SINGLE)
def removed_host_answered(patched: pytest.MonkeyPatch) -> None:
    """A removed host's renewals are still answered."""

    def follow_members(self: NativeLeader) -> None:
        kept = {incarnation: self._hosts[incarnation].stream_id for incarnation in self._hosts}
        original(self)
        for incarnation, stream_id in kept.items():
            if incarnation in self._hosts and not self._attendance.is_member(incarnation):
                self._hosts[incarnation].stream_id = stream_id

    def wait_over_ms(self: Attendance, incarnation: int) -> int:
        alive.append(self)
        return stamped.setdefault((id(self), incarnation), wait(self, incarnation))

    def send_tables(self: NativeLeader, known: KnownHost, stream_id: int, path: list[tuple[int, int]]) -> None:
        if self._attendance.is_member(known.incarnation):
            send(self, known, stream_id, path)

    original, wait, send = NativeLeader._follow_members, Attendance.wait_over_ms, NativeLeader._send_tables
    stamped: dict[tuple[int, int], int] = {}
    alive: list[Attendance] = []  # so that no id is used twice
    patched.setattr(NativeLeader, "_follow_members", follow_members)
    patched.setattr(Attendance, "wait_over_ms", wait_over_ms)
    patched.setattr(NativeLeader, "_send_tables", send_tables)
    patched.setattr(NativeLeader, "_may_answer", lambda self, known: known is not None)


@bug(SHUT, SINGLE, origin="Akka.NET #6973: two coordinators after a handover")
def follows_the_log_of_later_epochs(patched: pytest.MonkeyPatch) -> None:
    """A deposed leader goes on as if it still led."""
    original = NativeLeader.handle

    def handle(self: NativeLeader, event: Any, now_ms: int) -> list[Any]:
        if isinstance(event, StateChanged):
            event = StateChanged(event.namespace, self.epoch)
        return original(self, event, now_ms)

    patched.setattr(NativeLeader, "handle", handle)


@bug(SERVED, "Convergence", "SlowHostIsolation")
def grants_are_not_repeated(patched: pytest.MonkeyPatch) -> None:
    """A grant that was lost is not sent again."""

    def round_confirmed(self: NativeLeader, round_id: int) -> None:
        effects, self._effects = self._effects, []
        original(self, round_id)
        self._effects = effects + [
            evolve(each, answer=evolve(each.answer, grants=())) if isinstance(each, SendAnswer) else each
            for each in self._effects
        ]

    original = NativeLeader._round_confirmed
    patched.setattr(NativeLeader, "_round_confirmed", round_confirmed)


@bug(SERVED, "Convergence", "SlowHostIsolation", origin="Akka.NET #8583: the loser's healthy region stays dead")
def lapse_not_made_good(patched: pytest.MonkeyPatch) -> None:
    """A host whose lease ran out never gets its slots back."""
    patched.setattr(Releases, "request", lambda self, known, requests: None)


@bug(SERVED, "Convergence", origin="Dapr #7311: a ghost host stays in the table for ever")
def the_silent_stay(patched: pytest.MonkeyPatch) -> None:
    """A host that is not heard of stays a member."""
    patched.setattr(Attendance, "silent", lambda self, now_ms: [])


@bug(SERVED, "Convergence")
def failed_rounds_end_all_rounds(patched: pytest.MonkeyPatch) -> None:
    """After a round that failed there are no others."""

    patched.setattr(NativeLeader, "_round_failed", lambda self, round_id: None)


@bug(
    SERVED,
    "Convergence",
    "SlowHostIsolation",
    origin="callboard 26025c7: under policy eventual a host was removed after one renewal was lost",
)
def lost_reports_are_not_asked_for(patched: pytest.MonkeyPatch) -> None:
    """Whoever builds on a renewal that was lost is not asked to say everything again."""
    patched.setattr(KnownHost, "holding_known", property(lambda self: True))


@bug(SERVED, "Convergence")
def nobody_is_buried(patched: pytest.MonkeyPatch) -> None:
    """Removed incarnations are waited for for ever."""
    patched.setattr(NativeLeader, "_burials", lambda self: None)


# -- host ------------------------------------------------------------------------------------------------


def _answer_with(patched: pytest.MonkeyPatch, sent_ms: Callable[[NativeHost, RenewalAnswer, int], int]) -> None:
    original = NativeHost._answer

    def answer(self: NativeHost, message: RenewalAnswer, now_ms: int) -> None:
        if message.number in self._renewals.sent_ms:
            self._renewals.sent_ms[message.number] = sent_ms(self, message, now_ms)
        original(self, message, now_ms)

    patched.setattr(NativeHost, "_answer", answer)


@bug(SHUT, SINGLE, stalls=4)
def lease_from_receipt(patched: pytest.MonkeyPatch) -> None:
    """A lease counts from when the answer came."""
    _answer_with(patched, lambda self, message, now_ms: now_ms)


@bug(SHUT, SINGLE, stalls=8)
def lease_from_newest_renewal(patched: pytest.MonkeyPatch) -> None:
    """A lease counts from the newest renewal, whichever was answered."""
    _answer_with(patched, lambda self, message, now_ms: max(self._renewals.sent_ms.values()))


@bug(SHUT, SINGLE, FENCE, INSIDE, origin="PostHog #76169: a fence nobody is alive to apply")
def gate_ignores_the_lease(patched: pytest.MonkeyPatch) -> None:
    """The gate looks at rights only, not at the clock."""

    def gate_open(self: NativeHost, right: Right, now_ms: int) -> bool:
        return self._rights.live.get(right.actor_type, {}).get(right.slot) is right

    patched.setattr(NativeHost, "gate_open", gate_open)


@bug(INSIDE, FENCE, origin="PostHog #76169: two zombies")
def gate_ignores_the_fence(patched: pytest.MonkeyPatch) -> None:
    """A turn from before a lapse may write under the next right of its host."""

    def gate_open(self: NativeHost, right: Right, now_ms: int) -> bool:
        mine = right.slot in self._rights.live.get(right.actor_type, {})
        return mine and now_ms < self._deadlines.gate_until_ms

    patched.setattr(NativeHost, "gate_open", gate_open)


@bug("DrainIsGiven")
def admits_up_to_the_cancel_deadline(patched: pytest.MonkeyPatch) -> None:
    """Turns begin that cannot have their whole drain time."""

    def later(policy: Policy, settings: HandoffSettings, base_ms: int | None) -> Deadlines:
        found = deadlines(policy, settings, base_ms)
        return evolve(found, admit_until_ms=found.cancel_at_ms)

    patched.setattr(native_host, "deadlines", later)


@bug("DrainIsGiven")
def cancels_at_once(patched: pytest.MonkeyPatch) -> None:
    """Turns of lost slots are cancelled without drain time."""
    original = Rights.drain
    patched.setattr(
        Rights, "drain", lambda self, slots, cancel_at_ms, overdue_at_ms: original(self, slots, 0, overdue_at_ms)
    )


@bug(FENCE, SINGLE, SHUT, "Convergence")
def rights_survive_lapse(patched: pytest.MonkeyPatch) -> None:
    """A late answer revives rights that had ended with their lease."""
    patched.setattr(Rights, "lapse", lambda self: [])


@bug(FENCE, SINGLE, origin="Akka.NET #3455: the same allocation is taken twice")
def grant_accepted_twice(patched: pytest.MonkeyPatch) -> None:
    """A grant that is still on its way revives a right that had ended."""

    def may_accept(self: Rights, kind: str, slot: int, fence: int) -> bool:
        return fence >= self.fences.get(kind, {}).get(slot, -1) and slot not in self.live.get(kind, {})

    patched.setattr(Rights, "may_accept", may_accept)


@bug(SINGLE, origin="Dapr #9514, Orleans #10323: the handoff is acknowledged before it is done")
def release_while_serving(patched: pytest.MonkeyPatch) -> None:
    """Slots are reported as released while turns still run there."""

    def held(self: Rights) -> tuple[Held, ...]:
        return tuple(
            Held(kind, slot, 1, right.since, right.fence)
            for kind, of_kind in self.admitting.items()
            for slot, right in of_kind.items()
        )

    def drain(self: Rights, slots: Iterable[tuple[str, int]], cancel_at_ms: int, overdue_at_ms: int) -> None:
        slots = list(slots)
        original(self, slots, cancel_at_ms, overdue_at_ms)
        self.unsaid.update(dict.fromkeys(slots))

    original = Rights.drain
    patched.setattr(Rights, "held", held)
    patched.setattr(Rights, "drain", drain)


@bug("TableAgreement")
def digest_not_compared(patched: pytest.MonkeyPatch) -> None:
    """A damaged delta is applied all the same."""

    def careless(view: TableView, delta: TableDelta) -> TableView:
        try:
            return patch(view, delta)
        except DeltaError:
            origin = empty_view(delta.slot_bits) if delta.is_snapshot else view
            hosts = {**origin.hosts, **{entry.incarnation: entry for entry in delta.hosts}}
            for incarnation in delta.hosts_gone:
                hosts.pop(incarnation, None)
            return make_view(delta.to_version, delta.slot_bits, hosts, dict(origin.tables))

    patched.setattr(native_host, "patch", careless)


@bug(INSIDE, origin="Proto.Actor Go #799: the old owner is never told to stop")
def admits_to_lost_slot(patched: pytest.MonkeyPatch) -> None:
    """A host goes on admitting calls to slots that its table took away."""

    def drain(self: Rights, slots: Iterable[tuple[str, int]], cancel_at_ms: int, overdue_at_ms: int) -> None:
        kept = {kind: dict(of_kind) for kind, of_kind in self.admitting.items()}
        original(self, slots, cancel_at_ms, overdue_at_ms)
        self.admitting = kept

    def drained(self: Rights, kind: str, slots: Iterable[int]) -> list[tuple[str, int]]:
        ended = original_drained(self, kind, slots)
        for key in ended:
            self.admitting.get(key[0], {}).pop(key[1], None)
        return ended

    original, original_drained = Rights.drain, Rights.drained
    patched.setattr(Rights, "drain", drain)
    patched.setattr(Rights, "drained", drained)


@bug("ExactlyOneAfterHeal", INSIDE, policy=Policy.EVENTUAL)
def lost_slots_are_kept(patched: pytest.MonkeyPatch) -> None:
    """A host of policy eventual never lets go of slots that its table took away."""

    def stop_admitting(self: NativeHost, slots: list[tuple[str, int]], now_ms: int) -> None:
        if self.policy is not Policy.EVENTUAL:
            original(self, slots, now_ms)

    original = NativeHost._stop_admitting
    patched.setattr(NativeHost, "_stop_admitting", stop_admitting)


@bug(SHUT, SINGLE, origin="Orleans #6883: handoff during an orderly stop races the end")
def farewell_while_serving(patched: pytest.MonkeyPatch) -> None:
    """A leaving host says its last word while turns still run."""

    def finish(self: NativeHost) -> None:
        if self._phase is Phase.LEAVING and self._rights.any_live() and self._connection:
            self._effects.append(SendFarewell(self._connection, Farewell(self.incarnation)))
        original(self)

    original = NativeHost._finish
    patched.setattr(NativeHost, "_finish", finish)


@bug("Convergence", SERVED, origin="Dapr #10369: a host goes on with a stale table")
def gone_is_not_heard(patched: pytest.MonkeyPatch) -> None:
    """A removed host does not notice that it was removed."""
    original = NativeHost._leave

    def leave(self: NativeHost, parting: Any, now_ms: int) -> None:
        if not parting.returns:
            original(self, parting, now_ms)

    patched.setattr(NativeHost, "_leave", leave)


@bug("Convergence", SERVED)
def hello_said_once(patched: pytest.MonkeyPatch) -> None:
    """A hello that was lost is not repeated."""
    original = NativeHost._hello

    def hello(self: NativeHost, now_ms: int) -> None:
        original(self, now_ms)
        self._hello_due_ms = 1 << 62

    patched.setattr(NativeHost, "_hello", hello)


@bug("Convergence", stalls=4)
def removed_before_its_welcome_hears_nothing(patched: pytest.MonkeyPatch) -> None:
    """A host whose welcome was lost, and that was removed, is not told so and is never welcomed again.

    What the walks found, when its stream was not freed.
    """
    original = NativeLeader._send_gone

    def send_gone(self: NativeLeader, stream_id: int, incarnation: int) -> None:
        if incarnation != NO_INCARNATION:
            original(self, stream_id, incarnation)

    patched.setattr(NativeLeader, "_send_gone", send_gone)
