"""A native host's side of the protocol: one incarnation of one process (rules H1 to H8 of ExclusiveHandoff, tla/doc).

`handle(event, now_ms)` returns effects; `now_ms` is the process's own monotonic clock, which goes on during suspend
where the system has such a clock. The queries (`admit`, `gate_open`, `owner_of`) are for every call: two look-ups each.

* A lease counts from when the renewal was *sent* that the answer echoes. Three deadlines (module leases): admission
  ends, turns are cancelled, the gate shuts. The gate is a comparison with the clock, never a timer.
* A right ends when its slot is drained after the table took it away, or with its lease, for good: the same slot needs a
  new grant with a higher fence. Turns carry their `Right` object, and the gate asks for that very object.
* Nothing of an incarnation is carried over: after `BecomeNewIncarnation` or `Stopped` the machine does nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from attrs import define, field

from callboard.core.handoff_messages import (
    NO_INCARNATION,
    Farewell,
    Held,
    Hello,
    Renewal,
    RenewalAnswer,
    TableRequest,
    Tick,
    Welcome,
)
from callboard.core.leases import NEVER_MS, NO_LEASE, Deadlines, deadlines, renew_every_ms
from callboard.core.native_host_records import (
    AnswerReceived,
    BecomeNewIncarnation,
    CancelTurns,
    Connected,
    Disconnected,
    Drained,
    Ended,
    EndReason,
    GoneReceived,
    Granted,
    GrantsReceived,
    HostEffect,
    HostEvent,
    LeaveRequested,
    Refusal,
    Right,
    SendFarewell,
    SendHello,
    SendRenewal,
    SendTableRequest,
    StopAdmitting,
    Stopped,
    TableInstalled,
    TableReceived,
    WelcomeReceived,
)
from callboard.core.native_parting import Parting, Phase
from callboard.core.native_renewals import SentRenewals
from callboard.core.native_rights import Rights, Slot
from callboard.core.slot_index import held_runs, slot_runs
from callboard.core.slot_records import HandoffSettings, NativeHostRecord
from callboard.core.table_delta import DeltaError, HostEntry, TableDelta, TableView, changed_types, empty_view, patch
from callboard.core.tracing import TraceSink, held_fields, run_fields, table_fields
from callboard.core.versions import Policy

HELLO_REPEAT_MS = 1000
"""How often a hello is repeated until it is answered."""


@define(eq=False)
class NativeHost:
    """See the module's description."""

    namespace: str
    policy: Policy
    record: NativeHostRecord
    trace: TraceSink | None = None
    incarnation: int = field(init=False, default=NO_INCARNATION)
    _phase: Phase = field(init=False, default=Phase.JOINING)
    _settings: HandoffSettings = field(init=False, factory=HandoffSettings)
    _connection: int = field(init=False, default=0)
    _last_connection: int = field(init=False, default=0)
    _welcomed: bool = field(init=False, default=False)
    _hello_due_ms: int = field(init=False, default=NEVER_MS)
    _epoch: int = field(init=False, default=0)
    _view: TableView | None = field(init=False, default=None)
    _table_asked_until_ms: int = field(init=False, default=-NEVER_MS)
    _rights: Rights = field(init=False, factory=Rights)
    _deadlines: Deadlines = field(init=False, default=NO_LEASE)
    _base_ms: int | None = field(init=False, default=None)
    _cancelled: bool = field(init=False, default=False)
    _renewals: SentRenewals = field(init=False, factory=SentRenewals)
    _renew_due_ms: int = field(init=False, default=NEVER_MS)
    _parting: Parting | None = field(init=False, default=None)
    _effects: list[HostEffect] = field(init=False, factory=list)

    # ---- queries

    def admit(self, actor_type: str, slot: int, now_ms: int) -> Right | Refusal:
        """The right under which a turn may start now, or why none may (rule H4)."""
        if now_ms < self._deadlines.admit_until_ms:
            of_type = self._rights.admitting.get(actor_type)
            if of_type is not None:
                right = of_type.get(slot)
                if right is not None:
                    if self.trace is not None:
                        self._trace_turn("Admit", right, now_ms)
                    return right
        return self._refusal(actor_type, slot)

    def gate_open(self, right: Right, now_ms: int) -> bool:
        """Whether an effect or reply of a turn admitted under `right` may pass now (rule H5)."""
        if now_ms >= self._deadlines.gate_until_ms:
            return False
        of_type = self._rights.live.get(right.actor_type)
        opens = of_type is not None and of_type.get(right.slot) is right
        if opens and self.trace is not None:
            self._trace_turn("Effect", right, now_ms)
        return opens

    def _trace_turn(self, action: str, right: Right, now_ms: int) -> None:
        assert self.trace is not None
        of_turn = {"actor_type": right.actor_type, "slot": right.slot, "since": right.since, "fence": right.fence}
        self.trace(action, {"incarnation": self.incarnation, "now_ms": now_ms, **of_turn})

    def owner_of(self, actor_type: str, slot: int) -> HostEntry | None:
        """Who owns the slot by the installed table, or None if nobody does or the type is not known."""
        view = self._view
        if view is None:
            return None
        table = view.tables.get(actor_type)
        return None if table is None else view.hosts.get(table.owners[slot])

    def lease_remaining_ms(self, now_ms: int) -> int | None:
        """How long the gate stays open without another answer; None for ever."""
        until_ms = self._deadlines.gate_until_ms
        return None if until_ms == NEVER_MS else max(0, until_ms - now_ms)

    @property
    def view(self) -> TableView | None:
        """The installed table, None before the first."""
        return self._view

    @property
    def phase(self) -> Phase:
        """Where the incarnation is in its life."""
        return self._phase

    @property
    def epoch(self) -> int:
        """The newest leader epoch heard."""
        return self._epoch

    def next_deadline_ms(self) -> int | None:
        """When the next `Tick` is due, or None if only other events can change anything."""
        if self._phase is Phase.OVER:
            return None
        due = [self._hello_due_ms, self._renew_due_ms if self._may_renew() else NEVER_MS]
        if self._rights.any_live():
            due.append(self._deadlines.gate_until_ms)
            if not self._cancelled:
                due.append(self._deadlines.cancel_at_ms)
        for drain in self._rights.drains:
            if not drain.cancelled:
                due.append(drain.cancel_at_ms)
            elif self._waits_for_drains():
                due.append(drain.overdue_at_ms)
        earliest_ms = min(due)
        return earliest_ms if earliest_ms < NEVER_MS else None

    def _waits_for_drains(self) -> bool:
        return self._parting is None or not self._parting.overdue

    def _refusal(self, actor_type: str, slot: int) -> Refusal:
        if self._phase is Phase.LEAVING or self._phase is Phase.OVER:
            return Refusal.LEAVING
        table = None if self._view is None else self._view.tables.get(actor_type)
        if table is None:
            return Refusal.UNKNOWN_TYPE
        if table.owners[slot] != self.incarnation:
            return Refusal.NOT_OWNER
        return Refusal.NO_LEASE if slot in self._rights.admitting.get(actor_type, {}) else Refusal.NOT_GRANTED

    # ---- events

    def handle(self, event: HostEvent, now_ms: int) -> list[HostEffect]:
        """Take in one event and return what is to be done, in this order.

        Raises:
            ValueError: a connection is not newer than the one before.
        """
        if self._is_over():
            return []
        # First the clock: an answer that comes too late must not revive rights (rule H7).
        self._expire(now_ms)
        if not self._is_over():
            self._take_in(event, now_ms)
            self._finish()
        if not self._is_over() and now_ms >= self._renew_due_ms and self._may_renew():
            self._renew(now_ms)
        effects, self._effects = self._effects, []
        return effects

    def _is_over(self) -> bool:
        return self._phase is Phase.OVER

    def _take_in(self, event: HostEvent, now_ms: int) -> None:
        match event:
            case Tick():
                pass
            case Drained(actor_type, slots):
                self._drained(actor_type, slots, now_ms)
            case LeaveRequested(reason):
                self._leave(Parting(reason, renews=True, returns=False), now_ms)
            case Connected(connection):
                self._connected(connection, now_ms)
            case _ if event.connection != self._connection:
                pass
            case Disconnected():
                self._connection, self._welcomed, self._hello_due_ms = 0, False, NEVER_MS
            case WelcomeReceived(_, welcome):
                self._welcome(welcome, now_ms)
            case AnswerReceived(_, answer):
                self._answer(answer, now_ms)
            case TableReceived(_, delta):
                self._table(delta, now_ms)
            case GrantsReceived(_, grants):
                if grants.incarnation == self.incarnation and self._hears(grants.epoch):
                    self._accept(grants.grants, now_ms)
            case GoneReceived(_, gone):
                if gone.incarnation == self.incarnation:
                    self._leave(Parting(gone.text, renews=False, returns=True, replaced=gone.replaced), now_ms)
            case unreachable:
                assert_never(unreachable)

    def _hears(self, epoch: int) -> bool:
        """Whether the word is not that of a leader known to be deposed."""
        if epoch < self._epoch:
            return False
        if self.trace is not None and epoch > self._epoch and self.incarnation != NO_INCARNATION:
            self.trace("HearOffice", {"incarnation": self.incarnation, "epoch": epoch})
        self._epoch = epoch
        return True

    def _connected(self, connection: int, now_ms: int) -> None:
        if connection <= self._last_connection:
            raise ValueError(f"connection {connection} is not newer than {self._last_connection}")
        self._connection = self._last_connection = connection
        self._welcomed = False
        self._hello(now_ms)

    def _hello(self, now_ms: int) -> None:
        view = self._view
        hello = Hello(
            namespace=self.namespace,
            policy=self.policy,
            host=self.record,
            incarnation=self.incarnation,
            connection=self._connection,
            have_version=0 if view is None else view.version,
            have_digest=b"" if view is None else view.digest,
        )
        self._effects.append(SendHello(self._connection, hello))
        self._hello_due_ms = now_ms + HELLO_REPEAT_MS

    def _welcome(self, welcome: Welcome, now_ms: int) -> None:
        if not self._hears(welcome.epoch):
            return
        if self._phase is Phase.JOINING:
            self.incarnation, self._settings = welcome.incarnation, welcome.settings
            if self.trace is not None:
                born = {"name": self.record.name, "namespace": self.namespace, "epoch": welcome.epoch}
                self.trace("Welcomed", {"incarnation": self.incarnation, "now_ms": now_ms, **born})
            self._deadlines = deadlines(self.policy, self._settings, None)
            self._phase = Phase.RUNNING
        if welcome.incarnation == self.incarnation:
            self._welcomed, self._hello_due_ms = True, NEVER_MS
            self._renewals.base_number = 0
            self._prompt(now_ms)

    # ---- tables and grants

    def _table(self, delta: TableDelta, now_ms: int) -> None:
        before = self._view
        if self._phase is not Phase.RUNNING or (before is not None and delta.to_version <= before.version):
            return
        try:
            after = patch(before if before is not None else empty_view(delta.slot_bits), delta)
        except DeltaError:
            self._ask_for_table(now_ms)
            return
        self._table_asked_until_ms = -NEVER_MS
        if self.incarnation not in after.hosts:
            text = f"table of version {after.version} does not have incarnation {self.incarnation}"
            self._leave(Parting(text, renews=False, returns=True), now_ms)
            return
        lost = self._rights.lost_with(before, after)
        self._view = after
        if self.trace is not None:
            has = {"version": after.version, "digest": after.digest.hex(), "tables": table_fields(after.tables)}
            step = {"from_version": delta.from_version, "incarnation": self.incarnation, "now_ms": now_ms}
            self.trace("Start" if before is None else "Install", {**step, **has})
        self._stop_admitting(lost, now_ms)
        self._effects.append(TableInstalled(after.version, changed_types(before, after)))
        if self.policy is Policy.EVENTUAL:
            self._take_owned(now_ms)
        self._prompt(now_ms)

    def _ask_for_table(self, now_ms: int) -> None:
        if now_ms >= self._table_asked_until_ms:
            self._table_asked_until_ms = now_ms + self._settings.tick_ms
            version = 0 if self._view is None else self._view.version
            self._effects.append(SendTableRequest(self._connection, TableRequest(self.incarnation, version)))

    def _stop_admitting(self, slots: list[Slot], now_ms: int) -> None:
        """Turns have the drain time, by a difference of readings that are cut to whole milliseconds."""
        if slots:
            cancel_at_ms = now_ms + self._settings.drain_ms + 1
            self._rights.drain(slots, cancel_at_ms, cancel_at_ms + self._settings.margin_ms)
            self._effects.append(StopAdmitting(slot_runs(slots), cancel_at_ms))

    def _accept(self, grants: Iterable[Held], now_ms: int) -> None:
        """Rule H3, slot by slot."""
        view = self._view
        if self._phase is not Phase.RUNNING or view is None or now_ms >= self._deadlines.gate_until_ms:
            return
        accepted = []
        for held in grants:
            table = view.tables.get(held.actor_type)
            if table is None or held.first < 0 or held.first + held.count > len(table.owners):
                continue
            for slot in range(held.first, held.first + held.count):
                mine = table.owners[slot] == self.incarnation and table.since[slot] == held.since
                if mine and self._rights.may_accept(held.actor_type, slot, held.fence):
                    self._rights.grant(held.actor_type, slot, held.since, held.fence)
                    accepted.append((held.actor_type, slot, held.since, held.fence))
        if accepted:
            taken = held_runs(accepted)
            self._effects.append(Granted(taken))
            if self.trace is not None:
                rights = {"rights": held_fields(taken), "epoch": self._epoch}
                self.trace("Accept", {"incarnation": self.incarnation, "now_ms": now_ms, **rights})
            self._prompt(now_ms)

    def _take_owned(self, now_ms: int) -> None:
        """Policy `eventual`: the table alone gives rights, to slots that are not being drained."""
        view = self._view
        if self._phase is not Phase.RUNNING or view is None or now_ms >= self._deadlines.gate_until_ms:
            return
        owned: dict[int, list[int]] = {}
        taken = []
        for kind, table in view.tables.items():
            if id(table) not in owned:
                owned[id(table)] = [slot for slot, owner in enumerate(table.owners) if owner == self.incarnation]
            live = self._rights.live.get(kind, {})
            taken += [(kind, slot, table.since[slot], 0) for slot in owned[id(table)] if slot not in live]
        for key in taken:
            self._rights.grant(*key)
        if taken:
            self._effects.append(Granted(held_runs(taken)))

    def _drained(self, actor_type: str, slots: Iterable[int], now_ms: int) -> None:
        ended = self._rights.drained(actor_type, slots)
        if ended:
            self._ended(ended, EndReason.RELEASED, now_ms)
            if self.policy is Policy.EVENTUAL:
                self._take_owned(now_ms)
            self._prompt(now_ms)

    def _ended(self, slots: list[Slot], reason: EndReason, now_ms: int) -> None:
        runs = slot_runs(slots)
        self._effects.append(Ended(runs, reason))
        if self.trace is not None:
            of_slots = {"slots": run_fields(runs), "reason": reason.value}
            self.trace("LetGo", {"incarnation": self.incarnation, "now_ms": now_ms, **of_slots})

    # ---- leases

    def _may_renew(self) -> bool:
        keeps = self._parting is None or self._parting.renews
        return self._welcomed and keeps and (self._phase is Phase.RUNNING or self._phase is Phase.LEAVING)

    def _prompt(self, now_ms: int) -> None:
        """Something is worth telling: renew soon, though not for every little thing."""
        gap_ms = max(1, self._settings.tick_ms // 8)
        self._renew_due_ms = min(self._renew_due_ms, max(now_ms, self._renewals.last_sent_ms + gap_ms))

    def _renew(self, now_ms: int) -> None:
        base_number = self._renewals.begin(now_ms)
        taken, dropped = self._rights.said()
        if base_number == 0:
            taken, dropped = self._rights.held(), ()
        if self.policy is Policy.EVENTUAL:
            taken, dropped = (), ()
        renewal = Renewal(
            number=self._renewals.number,
            incarnation=self.incarnation,
            connection=self._connection,
            epoch=self._epoch,
            version=0 if self._view is None else self._view.version,
            base_number=base_number,
            taken=taken,
            dropped=dropped,
            requests=self._rights.requests() if self.policy is Policy.EXCLUSIVE else (),
            leaving=self._phase is Phase.LEAVING,
        )
        self._renew_due_ms = now_ms + renew_every_ms(self.policy, self._settings)
        self._effects.append(SendRenewal(self._connection, renewal))
        if self.trace is not None:
            base = {"number": renewal.number, "base_number": renewal.base_number, "version": renewal.version}
            holds = {"taken": held_fields(taken), "dropped": run_fields(dropped)}
            asks = {"requests": held_fields(renewal.requests), "incarnation": self.incarnation, "now_ms": now_ms}
            self.trace("SendRenewal", {**base, **holds, **asks})

    def _answer(self, answer: RenewalAnswer, now_ms: int) -> None:
        if answer.incarnation != self.incarnation or not self._hears(answer.epoch):
            return
        sent_ms = self._renewals.answered(answer.number)
        if sent_ms is not None and (self._base_ms is None or sent_ms > self._base_ms):
            self._base_ms, self._cancelled = sent_ms, False
            self._deadlines = deadlines(self.policy, self._settings, sent_ms)
            if self.trace is not None:
                base = {"number": answer.number, "base_ms": sent_ms, "gate_until_ms": self._deadlines.gate_until_ms}
                self.trace("HearAnswer", {"incarnation": self.incarnation, "now_ms": now_ms, **base})
        if not answer.holding_known and self._renewals.start_over(answer.number):
            self._prompt(now_ms)
        if self.policy is Policy.EVENTUAL:
            self._take_owned(now_ms)
        self._accept(answer.grants, now_ms)
        # Tables are sent before answers that know of them: this one was lost on its way.
        if answer.version > (0 if self._view is None else self._view.version) and self._phase is Phase.RUNNING:
            self._ask_for_table(now_ms)

    def _expire(self, now_ms: int) -> None:
        if now_ms >= self._hello_due_ms:
            self._hello(now_ms)
        if now_ms >= self._deadlines.gate_until_ms:
            ended = self._rights.lapse()
            if ended:
                self._ended(ended, EndReason.LEASE, now_ms)
        elif now_ms >= self._deadlines.cancel_at_ms and not self._cancelled and self._rights.any_live():
            self._cancelled = True
            slots = self._rights.live_slots()
            self._effects.append(CancelTurns(slot_runs(slots), self._deadlines.gate_until_ms))
            if self.trace is not None:
                self.trace("Cancel", {"incarnation": self.incarnation, "now_ms": now_ms})
        for drain in self._rights.drains:
            if now_ms >= drain.cancel_at_ms and not drain.cancelled:
                drain.cancelled = True
                shuts_ms = min(drain.overdue_at_ms, self._deadlines.gate_until_ms)
                self._effects.append(CancelTurns(slot_runs(drain.slots), shuts_ms))
        if any(now_ms >= drain.overdue_at_ms for drain in self._rights.drains) and self._waits_for_drains():
            self._overdue(now_ms)
        self._finish()

    # ---- leaving

    def _overdue(self, now_ms: int) -> None:
        """Turns of lost slots did not end: without renewals the lease ends them, and the process is to go."""
        spent_ms = self._settings.drain_ms + self._settings.margin_ms
        if self._parting is None:
            text = f"turns of lost slots did not end within drain and margin, {spent_ms} ms"
            self._leave(Parting(text, renews=False, returns=False, overdue=True), now_ms)
        else:
            self._parting.is_overdue()
        if self.policy is Policy.EVENTUAL:
            self._ended(self._rights.lapse(), EndReason.STOPPED, now_ms)

    def _leave(self, parting: Parting, now_ms: int) -> None:
        """Rule H8: nothing is admitted or accepted any more."""
        if self._parting is not None:
            self._parting.joined_by(parting)
            return
        self._parting = parting
        self._phase = Phase.LEAVING
        if self.trace is not None and self.incarnation != NO_INCARNATION:
            action = "LearnGone" if parting.returns else "Leave"
            self.trace(action, {"incarnation": self.incarnation, "now_ms": now_ms, "reason": parting.reason})
        admitting = sorted((kind, slot) for kind, of_kind in self._rights.admitting.items() for slot in of_kind)
        self._stop_admitting(admitting, now_ms)
        self._rights.lapsed = {}
        self._prompt(now_ms)

    def _finish(self) -> None:
        """The last word, once no right lives."""
        parting = self._parting
        if parting is None or self._rights.any_live():
            return
        self._phase = Phase.OVER
        self._deadlines = NO_LEASE
        if self.trace is not None and self.incarnation != NO_INCARNATION:
            self.trace("SayFarewell", {"incarnation": self.incarnation})
        if self._connection and self.incarnation != NO_INCARNATION:
            self._effects.append(SendFarewell(self._connection, Farewell(self.incarnation)))
        if parting.returns:
            self._effects.append(BecomeNewIncarnation(parting.reason, parting.replaced))
        else:
            self._effects.append(Stopped(parting.reason, parting.overdue))
