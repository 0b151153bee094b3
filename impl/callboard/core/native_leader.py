"""The leader's side of one native namespace in one term of office (policies `exclusive` and `eventual`).

Everything in here is soft: a new leader begins with the replicated namespace alone and counts every wait from its
taking office. It follows rules L1 to L5 of ExclusiveHandoff and "The rule, as checked" of Leases (tla/doc):

* Renewals are collected for a tick; then one round through the log confirms that this leader still leads; then those
  that were collected before are answered, if their hosts are still members and not overdue. It is one round, however
  many hosts there are. What ends a host for good is not said without such a round either, unless it is true whoever
  leads: a leader that was deposed and does not know it does not know the members of the next one.
* A removed incarnation is buried after its own farewell, or once `wait_ms` has passed since the later of this leader's
  taking office and its last answer to it.
* Batches of members, confirmations, burials and raised fences are proposed one at a time of each kind; what comes in
  meanwhile is in the next. Whatever is proposed is worked out from the present state, so a proposal that failed, or
  whose outcome nobody knows, is simply worked out again.

Work per renewal is proportional to what changed for its host. Per state change it is proportional to what changed, to
the slots that wait, and to the owners of tables that are new.
"""

from __future__ import annotations

from typing import assert_never

from attrs import define, field

from callboard.core.commands import Bury, Command, CommitNativeBatch, Removal
from callboard.core.handoff_messages import (
    NO_INCARNATION,
    Farewell,
    Grants,
    Held,
    Hello,
    Renewal,
    RenewalAnswer,
    Tick,
    Welcome,
)
from callboard.core.native_attendance import Attendance, KnownHost
from callboard.core.native_hellos import admission_problem, hello_problem, is_of, last_word, only_adds_store
from callboard.core.native_joins import Joins
from callboard.core.native_leader_records import (
    CloseStream,
    FarewellReceived,
    HelloReceived,
    LeaderEffect,
    LeaderEvent,
    LeaderLimits,
    ProposalDone,
    ProposalFailed,
    Propose,
    RenewalReceived,
    RequestRound,
    RoundConfirmed,
    RoundFailed,
    SendAnswer,
    SendGone,
    SendGrants,
    SendTable,
    SendWelcome,
    StateChanged,
    StreamEnded,
    TableRequested,
)
from callboard.core.native_proposals import Proposals
from callboard.core.native_releases import Releases, renewal_problem
from callboard.core.native_rounds import RenewalRounds
from callboard.core.native_streams import Streams
from callboard.core.native_views import OperatorViews
from callboard.core.records import AnswerCode
from callboard.core.slot_index import SlotIndex
from callboard.core.slot_membership import REASON_LENGTH_MAX
from callboard.core.slot_records import NativeMember, NativeNamespace
from callboard.core.table_delta import TableDelta, TableView, view_of
from callboard.core.table_feed import TableFeed
from callboard.core.tracing import Fields, TraceSink, held_fields
from callboard.core.versions import Policy


@define(eq=False)
class NativeLeader:
    """See the module's description. `handle` takes events; times are milliseconds of any clock that never goes back."""

    name: str
    epoch: int
    namespace: NativeNamespace
    started_ms: int
    limits: LeaderLimits = field(factory=LeaderLimits)
    trace: TraceSink | None = None
    _over: bool = field(init=False, default=False)
    _now_ms: int = field(init=False)
    _attendance: Attendance = field(init=False)
    _hosts: dict[int, KnownHost] = field(init=False)
    """Those of the attendance."""
    _streams: Streams = field(init=False, factory=Streams)
    _joins: Joins = field(init=False)
    _releases: Releases = field(init=False)
    _rounds: RenewalRounds = field(init=False)
    _proposals: Proposals = field(init=False, factory=Proposals)
    _feed: TableFeed = field(init=False)
    views: OperatorViews = field(init=False)
    """What it knows, as operators are told."""
    _effects: list[LeaderEffect] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self._now_ms = self.started_ms
        self._rounds = RenewalRounds(self.started_ms)
        self._attendance = Attendance(self.namespace, self.started_ms)
        self._hosts = self._attendance.hosts
        self._joins = Joins(self.limits.batch_items_max, self.limits.batch_bytes_max)
        self._releases = Releases(SlotIndex(self.namespace), self._hosts)
        self._feed = TableFeed(self.limits.steps_kept, view_of(self.namespace))
        self.views = OperatorViews(self._releases, self._attendance)
        self._follow_members()
        self.views.note_waits(self._now_ms)
        if self.trace is not None:
            self._traced("BeginOffice", {"version": self.namespace.version.wire})

    def _traced(self, action: str, fields: Fields) -> None:
        assert self.trace is not None
        self.trace(action, {"namespace": self.name, "epoch": self.epoch, "now_ms": self._now_ms, **fields})

    def handle(self, event: LeaderEvent, now_ms: int) -> list[LeaderEffect]:
        """Take in one event and return what is to be done, in this order. After an epoch of another leader: nothing."""
        self._now_ms = max(self._now_ms, now_ms)
        if isinstance(event, StateChanged) and event.epoch != self.epoch:
            if self.trace is not None and not self._over:
                self._traced("StepDown", {})
            self._over = True
        if self._over:
            return []
        match event:
            case RenewalReceived(stream_id, renewal):
                self._renewal(stream_id, renewal)
            case HelloReceived(stream_id, hello):
                self._hello(stream_id, hello)
            case StateChanged(namespace):
                self._state_changed(namespace)
            case RoundConfirmed(round_id):
                self._round_confirmed(round_id)
            case RoundFailed(round_id):
                self._round_failed(round_id)
            case ProposalDone() | ProposalFailed():
                self._proposal_ended(event)
            case FarewellReceived(_, farewell):
                self._farewell(farewell)
            case TableRequested(stream_id):
                self._table_requested(stream_id)
            case StreamEnded(stream_id):
                self._forget_stream(stream_id)
            case Tick():
                pass
            case unreachable:
                assert_never(unreachable)
        self._expire()
        self._begin_round()
        self._propose()
        effects, self._effects = self._effects, []
        return effects

    def next_deadline_ms(self) -> int | None:
        """When the next `Tick` is due, or None if only other events can change anything."""
        if self._over:
            return None
        due = self._attendance.timeouts_ms()
        due += self._releases.overdue_times_ms(self._attendance.removals)
        burial_ms = self._attendance.burial_due_ms
        round_ms = self._rounds.begin_at_ms(asked=self._streams.any_doubtful)
        if burial_ms is not None and not self._proposals.is_in_flight("bury"):
            due.append(max(burial_ms, self._proposals.not_before_ms("bury", burial_ms)))
        if round_ms is not None:
            due.append(round_ms)
        due += self._proposals.pauses_ms()
        due = [at_ms for at_ms in due if at_ms > self._now_ms]
        return min(due, default=None)

    def delta(self, from_version: int, to_version: int) -> TableDelta:
        """What `SendTable` stands for; to be asked when the effect is carried out, before the next event.

        Raises:
            KeyError: these versions are not at hand.
        """
        return self._feed.delta(from_version, to_version)

    @property
    def view(self) -> TableView:
        """The newest tables."""
        return self._feed.view

    @property
    def exclusive(self) -> bool:
        """Whether slots are handed over with leases, grants and fences."""
        return self.namespace.policy is Policy.EXCLUSIVE

    @property
    def stream_count(self) -> int:
        """Open streams."""
        return len(self._streams)

    # ---- streams

    def _hello(self, stream_id: int, hello: Hello) -> None:
        problem = hello_problem(hello, self._streams.get(stream_id), self.name)
        if problem is not None:
            self._close(stream_id, "INVALID_ARGUMENT", problem)
        elif stream_id not in self._streams and len(self._streams) >= self.limits.streams_max:
            text = f"namespace {self.name} has {len(self._streams)} streams, the most allowed"
            self._close(stream_id, "RESOURCE_EXHAUSTED", text)
        else:
            self._streams.opened(stream_id, hello)
            self._answer_hello(stream_id, hello, leads=False)

    def _answer_hello(self, stream_id: int, hello: Hello, *, leads: bool) -> None:
        """Welcome the host, or take it in, or refuse it; `leads`: a round has confirmed since that this leader does.

        What refuses it may have changed under the next leader, if there is one, and what a host is told is final.
        Numbers ascend, so only of one up to the newest that was ever known here it is certain that it has been removed.
        """
        member = self.namespace.members.get(hello.host.name)
        refusal = admission_problem(hello, self.name, self.namespace)
        if refusal is not None or self._joins.is_gone(hello, member):
            is_certain = refusal is None and NO_INCARNATION < hello.incarnation <= self._attendance.newest
            if not leads and not is_certain:
                self._streams.doubt(stream_id, self._rounds.round_id + 1)
            elif refusal is not None:
                self._close(stream_id, "FAILED_PRECONDITION", refusal)
            else:
                self._send_gone(stream_id, hello.incarnation)
        elif member is None or not is_of(hello, member):
            # A front's word may be old, and its host dead: only hosts themselves join.
            if not hello.by_front and self._may_have_name(member, stream_id):
                self._join(hello, stream_id)
        else:
            self._welcome(stream_id, hello, member)

    def _welcome(self, stream_id: int, hello: Hello, member: NativeMember) -> None:
        changed = hello.incarnation != NO_INCARNATION and member.host != hello.host
        if changed and (not hello.by_front or only_adds_store(member.host, hello.host)):
            self._join(hello, stream_id)
        known = self._hosts[member.incarnation]
        if hello.connection < known.connection:
            text = f"connection {hello.connection} is older than {known.connection}"
            self._close(stream_id, "ABORTED", text)
            return
        self._attach(known, stream_id, hello)

    def _may_have_name(self, member: NativeMember | None, stream_id: int) -> bool:
        """Whether nobody else is connected who has the name of `member`, or the stream has asked for it long enough."""
        is_free = member is None or self._hosts[member.incarnation].stream_id in {None, stream_id}
        return is_free or self._streams.insists(stream_id, self._now_ms)

    def _join(self, hello: Hello, stream_id: int) -> None:
        displaced = self._joins.add(hello.host, stream_id)
        if displaced is not None and self._streams.incarnation(displaced) == NO_INCARNATION:
            self._close(displaced, "ABORTED", f"another process says that it is host {hello.host.name}")

    def _attach(self, known: KnownHost, stream_id: int, hello: Hello) -> None:
        """This connection counts for the member from here on; an older stream of it ends."""
        if known.stream_id is not None and known.stream_id != stream_id:
            self._close(known.stream_id, "ABORTED", f"a newer connection of host {known.name} took over")
        self._streams.attach(stream_id, known.incarnation)
        known.connected(stream_id, hello.connection)
        if not hello.by_front:
            self._attendance.note_heard(known, self._now_ms)
        namespace = self.namespace
        welcome = Welcome(known.incarnation, self.epoch, namespace.policy, namespace.slot_bits, namespace.settings)
        self._effects.append(SendWelcome(stream_id, welcome))
        self._send_tables(known, stream_id, self._feed.path(hello.have_version, hello.have_digest))

    def _send_tables(self, known: KnownHost, stream_id: int, path: list[tuple[int, int]]) -> None:
        known.sent_version = self._feed.view.version
        if not path:
            return
        self._effects += [SendTable(stream_id, *pair) for pair in path]
        if self.trace is not None:
            self._traced("SendTable", {"incarnation": known.incarnation, "path": [list(pair) for pair in path]})
        self._attendance.note_told(known, self._now_ms)

    def _table_requested(self, stream_id: int) -> None:
        known = self._hosts.get(self._streams.incarnation(stream_id))
        if known is not None and known.stream_id == stream_id:
            self._send_tables(known, stream_id, [(0, self._feed.view.version)])

    def _send_gone(self, stream_id: int, incarnation: int) -> None:
        if self.trace is not None:
            self._traced("RefuseGone", {"incarnation": incarnation})
        self._effects.append(SendGone(stream_id, last_word(self._streams[stream_id], incarnation, self.namespace)))

    def _close(self, stream_id: int, status: str, text: str) -> None:
        self._effects.append(CloseStream(stream_id, status, text))
        self._forget_stream(stream_id)

    def _forget_stream(self, stream_id: int) -> None:
        self._joins.forget_stream(stream_id)
        known = self._hosts.get(self._streams.forget(stream_id))
        if known is not None and known.stream_id == stream_id:
            known.stream_id = None

    # ---- renewals

    def _renewal(self, stream_id: int, renewal: Renewal) -> None:
        if stream_id not in self._streams:
            self._close(stream_id, "FAILED_PRECONDITION", "a renewal came before the hello")
            return
        if renewal.epoch > self.epoch:
            # This leader is none any more. What it has not followed yet, it would take for nonsense, and members that
            # it does not know for gone.
            text = f"a leader of epoch {renewal.epoch} has followed the one of epoch {self.epoch}"
            self._close(stream_id, "ABORTED", text)
            return
        known = self._hosts.get(renewal.incarnation)
        if known is None or not self._attendance.is_member(renewal.incarnation):
            # No round: it has its number from a leader of this epoch or an earlier one, and this one has followed that.
            self._send_gone(stream_id, renewal.incarnation)
            return
        stale = known.stream_id != stream_id or renewal.connection != known.connection
        if stale or renewal.number <= known.last_number:
            return
        problem = renewal_problem(renewal, self.namespace)
        if problem is not None:
            self._close(stream_id, "INVALID_ARGUMENT", f"renewal {renewal.number} of host {known.name}: {problem}")
            return
        self._attendance.note_heard(known, self._now_ms)
        if self.trace is not None:
            self._traced("RecvReport", {"incarnation": renewal.incarnation, "number": renewal.number})
        if known.take_in(renewal):
            self._releases.examine(known, self._now_ms)
            self._attendance.note_installed(known, self._now_ms)
        if renewal.requests and self.exclusive:
            self._releases.request(known, renewal.requests)
        if renewal.leaving:
            self._attendance.removals.setdefault(known.incarnation, f"{known.name} left")
        if self._is_overdue(known):
            return
        self._rounds.collect(known.incarnation, renewal.number)

    def _is_overdue(self, known: KnownHost) -> bool:
        late_ms = self._releases.overdue_ms(known, self._now_ms)
        if late_ms is not None:
            why = f"{known.name} is overdue with releasing slots"
            self._attendance.removals.setdefault(known.incarnation, why)
        return late_ms is not None

    def _farewell(self, farewell: Farewell) -> None:
        """A fact about the incarnation, whoever brings it and however late."""
        known = self._hosts.get(farewell.incarnation)
        if self.trace is not None:
            self._traced("HearFarewell", {"incarnation": farewell.incarnation})
        if known is not None:
            known.farewell = True
            self._attendance.schedule_burials(self._now_ms)
            self._rounds.forget(known.incarnation)
            if self._attendance.is_member(farewell.incarnation):
                self._attendance.removals[known.incarnation] = f"{known.name} left"

    # ---- rounds

    def _begin_round(self) -> None:
        tick_ms = self.namespace.settings.tick_ms
        renewals = self._rounds.begin(self._now_ms, tick_ms, asked=self._streams.any_doubtful)
        if renewals is None:
            return
        self._effects.append(RequestRound(self._rounds.round_id))
        if self.trace is not None:
            items = [list(item) for item in renewals.items()]
            self._traced("ProposeRound", {"round": self._rounds.round_id, "items": items})

    def _round_confirmed(self, round_id: int) -> None:
        """Answer renewals and hellos that came before the round. Membership is checked in this very step, which also
        stamps."""
        renewals = self._rounds.confirmed(round_id)
        if renewals is None:
            return
        for incarnation, number in renewals.items():
            known = self._hosts.get(incarnation)
            if not self._may_answer(known) or known is None or known.stream_id is None:
                continue
            known.answered_ms = self._now_ms
            grants = self._grants_for(known)
            version = self._feed.view.version
            answer = RenewalAnswer(number, incarnation, self.epoch, version, known.holding_known, grants)
            self._effects.append(SendAnswer(known.stream_id, answer))
            if self.trace is not None:
                what = {"incarnation": incarnation, "number": number, "grants": held_fields(grants)}
                self._traced("SendAnswer", {"round": round_id, "version": answer.version, **what})
        for stream_id in self._streams.no_doubt(round_id):
            hello = self._streams.get(stream_id)
            if hello is not None:  # none of those before it had it closed
                self._answer_hello(stream_id, hello, leads=True)

    def _may_answer(self, known: KnownHost | None) -> bool:
        """Whether the lease of this host may be extended now: it is a member, not overdue, and has not left."""
        if known is None or not self._attendance.is_member(known.incarnation) or known.farewell:
            return False
        return not self._is_overdue(known)

    def _round_failed(self, round_id: int) -> None:
        if self._rounds.failed(round_id) and self.trace is not None:
            self._traced("EndRound", {"round": round_id})

    def _grants_for(self, known: KnownHost) -> tuple[Held, ...]:
        return self._releases.grants(known)[: self.limits.grants_max] if self.exclusive else ()

    # ---- the replicated namespace

    def _state_changed(self, namespace: NativeNamespace) -> None:
        before, self.namespace = self.namespace, namespace
        if self.trace is not None and namespace.version != before.version:
            members = sorted(member.incarnation for member in namespace.members.values())
            self._traced("FollowLog", {"version": namespace.version.wire, "members": members})
        affected = self._releases.update(namespace, self._now_ms)
        for incarnation in affected:
            if incarnation in self._hosts:
                self._hosts[incarnation].grants = None
        if namespace.members is not before.members or namespace.tombstones is not before.tombstones:
            self._joins.follow(before.members, namespace.members)
            self._follow_members()
        if namespace.rights is not before.rights:
            self.views.note_waits(self._now_ms)
        if namespace.version != before.version:
            self._follow_version()
        for stream_id in self._joins.settle(namespace.members):
            hello = self._streams[stream_id]
            known = self._hosts[namespace.members[hello.host.name].incarnation]
            if known.stream_id != stream_id:
                self._attach(known, stream_id, hello)
        for incarnation in sorted(affected):
            self._push_grants(self._hosts.get(incarnation))

    def _push_grants(self, known: KnownHost | None) -> None:
        if known is None or known.stream_id is None:
            return
        grants = self._grants_for(known)
        if grants:
            self._effects.append(SendGrants(known.stream_id, Grants(known.incarnation, self.epoch, grants)))
            if self.trace is not None:
                self._traced("SendGrants", {"incarnation": known.incarnation, "grants": held_fields(grants)})

    def _follow_members(self) -> None:
        for known in self._attendance.follow(self.namespace, self._now_ms):
            self._rounds.forget(known.incarnation)
            stream_id, known.stream_id = known.stream_id, None
            if stream_id is not None:
                # The stream stays: for the last word, or for the hello of a host that missed its welcome.
                self._streams.detach(stream_id)
                self._send_gone(stream_id, known.incarnation)

    def _follow_version(self) -> None:
        self._feed.follow(self.namespace)
        for known in self._hosts.values():
            if known.stream_id is not None:
                self._send_tables(known, known.stream_id, self._feed.path(known.sent_version))

    # ---- time and proposals

    def _expire(self) -> None:
        for incarnation in sorted(self._releases.owing):
            if self._attendance.is_member(incarnation):
                self._is_overdue(self._hosts[incarnation])
        for incarnation in self._attendance.lagging(self._now_ms):
            self._is_overdue(self._hosts[incarnation])

    def _propose(self) -> None:
        for kind, work in (
            ("batch", self._batch),
            ("bury", self._burials),
            ("confirm", self._confirmation),
            ("fence", self._raised_fences),
        ):
            command = work() if self._proposals.may_begin(kind, self._now_ms) else None
            if command is not None:
                self._effects.append(Propose(self._proposals.begin(kind), command))

    def _batch(self) -> Command | None:
        reasons = self._attendance.to_remove(self._now_ms, self.limits.batch_items_max)
        if not len(self._joins) and not reasons:
            return None
        removals = tuple(Removal(self._hosts[each].name, each) for each in reasons)
        # Batches that follow each other are a tick apart, so that many hosts that start together need few versions.
        self._proposals.pause("batch", self._now_ms + self.namespace.settings.tick_ms)
        upserts = self._joins.next_batch()
        reason = "; ".join(reasons.values())[:REASON_LENGTH_MAX]
        return CommitNativeBatch(self.epoch, self.name, upserts, removals, reason=reason)

    def _burials(self) -> Command | None:
        gone = self._attendance.to_bury(self._now_ms)
        if self.trace is not None:
            for each in gone:
                by_word = self._hosts[each].farewell
                self._traced("Gone", {"incarnation": each, "by": "farewell" if by_word else "wait"})
        return Bury(self.name, gone) if gone else None

    def _confirmation(self) -> Command | None:
        command = self._releases.confirmation(self.name) if self.exclusive else None
        if command is not None and self.trace is not None:
            spans = [[span.actor_type, span.first, span.count, span.since] for span in command.spans]
            self._traced("ProposeConfirm", {"slots": spans})
        return command

    def _raised_fences(self) -> Command | None:
        return self._releases.raised_fences(self.name) if self.exclusive else None

    def _proposal_ended(self, event: ProposalDone | ProposalFailed) -> None:
        kind = self._proposals.end(event.proposal_id)
        if kind is None:
            return
        if isinstance(event, ProposalFailed) or event.answer.code is not AnswerCode.OK:
            self._proposals.pause(kind, self._now_ms + self.namespace.settings.tick_ms)
        if isinstance(event, ProposalFailed) or kind != "batch":
            return
        if event.answer.succeeded:
            self._joins.done()
        elif event.answer.code in {AnswerCode.INVALID, AnswerCode.LIMIT, AnswerCode.CONFLICT}:
            culprit = self._joins.refused()
            if culprit is not None and culprit in self._streams:
                is_conflict = event.answer.code is AnswerCode.CONFLICT
                status = "FAILED_PRECONDITION" if is_conflict else "RESOURCE_EXHAUSTED"
                self._close(culprit, status, event.answer.detail)
