"""A leader's term of office in the simulation: what server/office.py, proposer.py, rounds.py and native_runner.py do.

The machines are the core's; around them is what the server has around them, with callbacks in place of tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, assert_never

from attrs import define, field, frozen

from callboard.core.commands import (
    UNPROTECTED,
    Command,
    ConfirmEpoch,
    CreateNamespace,
    CreateNativeNamespace,
    OpenSession,
    RaiseFeatureLevel,
    Request,
    RequestId,
    TakeOffice,
    encode_request,
)
from callboard.core.handoff_messages import Farewell, Hello, Renewal, TableRequest, Tick
from callboard.core.membership import KNOWN_FEATURE_LEVEL
from callboard.core.native_leader import NativeLeader
from callboard.core.native_leader_records import (
    CloseStream,
    FarewellReceived,
    HelloReceived,
    LeaderEffect,
    LeaderEvent,
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
from callboard.core.records import Answer, AnswerCode, ReplicatedState
from callboard.core.slot_records import NativeNamespace
from callboard.core.versions import Policy
from harness.simulation.engine_records import Outcome
from harness.simulation.network import UNAVAILABLE

if TYPE_CHECKING:
    from harness.simulation.replicas import Replica

Done = Callable[[Answer | Outcome], None]
HostMessage = Hello | Renewal | Farewell | TableRequest


@frozen
class ProposalTimes:
    """As `ProposalLimits` of the server, shorter."""

    attempt_ms: int = 400
    attempts_max: int = 5
    pause_ms: int = 20


@define(eq=False)
class Proposer:
    """The leader's way into the log: one session, retries of unknown outcomes under the same id."""

    replica: Replica
    times: ProposalTimes
    closed: bool = field(init=False, default=False)
    session: int = field(init=False, default=0)
    _next_sequence: int = field(init=False, default=1)
    _unanswered: set[int] = field(init=False, factory=set)

    def unprotected(self, command: Command, done: Done) -> None:
        """Propose what may take effect twice without harm."""
        self._attempt(encode_request(Request(command, UNPROTECTED)), 1, False, done)

    def propose(self, command: Command, done: Done) -> None:
        """Propose under the next sequence number."""
        sequence = self._next_sequence
        self._next_sequence += 1
        self._unanswered.add(sequence)
        identity = RequestId(self.session, sequence, min(self._unanswered))

        def answered(result: Answer | Outcome) -> None:
            if isinstance(result, Answer):
                self._unanswered.discard(sequence)
                if result.code is AnswerCode.EXPIRED_SESSION:
                    result = Outcome.NOT_LEADER
            done(result)

        self._attempt(encode_request(Request(command, identity)), 1, False, answered)

    def _attempt(self, entry: bytes, attempt: int, unknown: bool, done: Done) -> None:
        if not self.closed:
            answered = partial(self._attempted, entry, attempt, unknown, done)
            self.replica.engine.propose(entry, self.times.attempt_ms, answered)

    def _attempted(self, entry: bytes, attempt: int, unknown: bool, done: Done, _index: int, result: object) -> None:
        if self.closed:
            return
        if isinstance(result, Answer):
            if unknown:
                self.replica.world.saw("an unknown outcome is retried")
            done(result)
            return
        unknown = unknown or result is Outcome.UNKNOWN
        if result is Outcome.NOT_LEADER or attempt == self.times.attempts_max:
            done(Outcome.UNKNOWN if unknown else Outcome.NOT_LEADER)
            return
        self.replica.later(self.times.pause_ms, self._attempt, entry, attempt + 1, unknown, done)


@define(eq=False)
class Rounds:
    """Quorum rounds of one office, as server/rounds.py."""

    office: Office
    _waiting: list[Callable[[bool], None]] = field(init=False, factory=list)
    _running: bool = field(init=False, default=False)

    def request(self, answer: Callable[[bool], None]) -> None:
        """Call `answer` with whether an entry proposed from now on committed in this epoch."""
        self._waiting.append(answer)
        if not self._running:
            self._run()

    def _run(self) -> None:
        asked, self._waiting = self._waiting, []
        self._running = True
        self.office.proposer.unprotected(ConfirmEpoch(self.office.epoch), partial(self._ended, asked))

    def _ended(self, asked: list[Callable[[bool], None]], result: Answer | Outcome) -> None:
        self._running = False
        if isinstance(result, Answer) and result.code is AnswerCode.STALE_EPOCH:
            self.office.replica.deposed(self.office)
        if self.office.closed:
            return
        if result is Outcome.UNKNOWN:
            self.office.replica.world.saw("a round has an unknown outcome")
        confirmed = isinstance(result, Answer) and result.code is AnswerCode.OK
        for answer in asked:
            answer(confirmed)
        if self._waiting and not self._running:
            self._run()


class Link(Protocol):
    """The way to one host."""

    def deliver(self, message: object) -> None:
        """A message for the host."""

    def end(self, status: str) -> None:
        """The way ends."""


@define(eq=False)
class NativeRunner:
    """One native namespace in one office."""

    office: Office
    name: str
    machine: NativeLeader
    links: dict[int, Link] = field(init=False, factory=dict)
    hellos: dict[int, Hello] = field(init=False, factory=dict)
    """The newest of each link."""
    _stream_ids: itertools.count[int] = field(init=False, factory=lambda: itertools.count(1))
    _closed: bool = field(init=False, default=False)

    def open(self, link: Link) -> int:
        """A new path to a host."""
        stream_id = next(self._stream_ids)
        self.links[stream_id] = link
        return stream_id

    def receive(self, stream_id: int, message: HostMessage) -> None:
        """A message of a host."""
        if stream_id not in self.links:
            return
        match message:
            case Renewal():
                self.dispatch(RenewalReceived(stream_id, message))
            case Hello():
                self.hellos[stream_id] = message
                self.dispatch(HelloReceived(stream_id, message))
            case Farewell():
                self.dispatch(FarewellReceived(stream_id, message))
            case TableRequest():
                self.office.replica.world.saw("a host asks for a snapshot")
                self.dispatch(TableRequested(stream_id, message))

    def disconnected(self, stream_id: int) -> None:
        """A path ended."""
        self.hellos.pop(stream_id, None)
        if self.links.pop(stream_id, None) is not None:
            self.dispatch(StreamEnded(stream_id))

    def close(self) -> None:
        """End every path."""
        self._closed = True
        for link in list(self.links.values()):
            link.end(UNAVAILABLE)
        self.links.clear()
        self.hellos.clear()

    def dispatch(self, event: LeaderEvent) -> None:
        """Give the machine an event, and carry out what follows."""
        if self._closed:
            return
        replica = self.office.replica
        log = replica.world.log
        if log.on and not isinstance(event, Tick):
            log.note(replica.name, f"{self.name} epoch {self.office.epoch} <- {event}")
        for effect in self.machine.handle(event, replica.now_ms()):
            if log.on:
                log.note(replica.name, f"{self.name} epoch {self.office.epoch} -> {effect}")
            if isinstance(effect, SendGone) and isinstance(event, HelloReceived | RenewalReceived):
                replica.world.saw("a removed host asks again")
            self._carry_out(effect)
        replica.arm(self.machine.next_deadline_ms())

    def _carry_out(self, effect: LeaderEffect) -> None:
        match effect:
            case SendAnswer(stream_id, message):
                self._send(stream_id, message)
            case SendTable(stream_id, from_version, to_version):
                if from_version == 0 and to_version > 1:
                    self.office.replica.world.saw("a snapshot of the tables is sent")
                self._send(stream_id, self.machine.delta(from_version, to_version))
            case SendWelcome(stream_id, message):
                self._send(stream_id, message)
            case SendGrants(stream_id, message):
                self._send(stream_id, message)
            case SendGone(stream_id, message):
                self.office.replica.world.says_gone(self.name, message, self.hellos[stream_id])
                self._send(stream_id, message)
            case CloseStream(stream_id, status, text):
                self.office.replica.world.calls_off(status, text)
                self.hellos.pop(stream_id, None)
                link = self.links.pop(stream_id, None)
                if link is not None:
                    link.end(status)
            case RequestRound(round_id):
                self.office.rounds.request(partial(self._round_ended, round_id))
            case Propose(proposal_id, command):
                self.office.proposer.propose(command, partial(self._proposed, proposal_id))
            case unreachable:
                assert_never(unreachable)

    def _send(self, stream_id: int, message: object) -> None:
        link = self.links.get(stream_id)
        if link is not None:
            link.deliver(message)

    def _round_ended(self, round_id: int, confirmed: bool) -> None:
        self.dispatch(RoundConfirmed(round_id) if confirmed else RoundFailed(round_id))

    def _proposed(self, proposal_id: int, result: Answer | Outcome) -> None:
        if not isinstance(result, Answer):
            self.dispatch(ProposalFailed(proposal_id))
        elif result.code is AnswerCode.STALE_EPOCH:
            self.office.replica.deposed(self.office)
        else:
            self.dispatch(ProposalDone(proposal_id, result))


class SidecarNamespace(Protocol):
    """A barrier namespace in office (see sidecars.py)."""

    def tables_changed(self, state: ReplicatedState) -> None:
        """The replicated namespace changed."""

    def tick(self) -> None:
        """Its deadline may be over."""

    def close(self) -> None:
        """The office is over."""


@define(eq=False)
class Office:
    """One term of office. `begin` it; it is in force once `epoch` is positive."""

    replica: Replica
    nonce: str
    proposer: Proposer = field(init=False)
    rounds: Rounds = field(init=False)
    epoch: int = field(init=False, default=0)
    closed: bool = field(init=False, default=False)
    native: dict[str, NativeRunner] = field(init=False, factory=dict)
    sidecars: dict[str, SidecarNamespace] = field(init=False, factory=dict)
    _to_create: list[Command] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.proposer = Proposer(self.replica, self.replica.world.plan.proposals)
        self.rounds = Rounds(self)

    def begin(self) -> None:
        """Start a new epoch, as `Office.take` of the server."""
        self.proposer.unprotected(TakeOffice(self.replica.name, self.nonce), self._epoch_begun)

    def _failed(self) -> None:
        if not self.closed:
            self.replica.later(50, self.replica.take_office_again, self)

    def _epoch_begun(self, result: Answer | Outcome) -> None:
        if not isinstance(result, Answer) or not result.succeeded:
            self._failed()
            return
        self.epoch = result.number
        self.proposer.unprotected(OpenSession(), self._session_open)

    def _session_open(self, result: Answer | Outcome) -> None:
        if not isinstance(result, Answer):
            self._failed()
            return
        self.proposer.session = result.number
        state, plan = self.replica.state, self.replica.world.plan
        if state.feature_level < KNOWN_FEATURE_LEVEL:
            self._to_create.append(RaiseFeatureLevel(self.epoch, KNOWN_FEATURE_LEVEL))
        for namespace in plan.namespaces:
            if namespace.name in state.native or namespace.name in state.namespaces:
                continue
            if namespace.policy is Policy.BARRIER:
                self._to_create.append(CreateNamespace(namespace.name, Policy.BARRIER))
            else:
                settings = namespace.settings
                self._to_create.append(
                    CreateNativeNamespace(namespace.name, namespace.policy, plan.slot_bits, settings)
                )
        self._create(None)

    def _create(self, result: Answer | Outcome | None) -> None:
        if result is not None and not (isinstance(result, Answer) and result.succeeded):
            self._failed()
        elif self._to_create:
            self.proposer.propose(self._to_create.pop(0), self._create)
        elif self.replica.state.epoch != self.epoch:
            self._failed()
        else:
            self._in_force()

    def _in_force(self) -> None:
        replica = self.replica
        replica.office = self
        replica.world.saw_office(self.epoch, replica.name)
        for name, namespace in replica.state.native.items():
            self._add(name, namespace)
        replica.open_sidecar_namespaces(self)

    def _add(self, name: str, namespace: NativeNamespace) -> None:
        replica = self.replica
        limits = replica.world.plan.leader_limits
        machine = NativeLeader(
            name, self.epoch, namespace, replica.now_ms(), limits, trace=replica.world.sink(replica.name)
        )
        runner = NativeRunner(self, name, machine)
        self.native[name] = runner
        runner.dispatch(Tick())

    def notice(self, before: ReplicatedState, after: ReplicatedState) -> None:
        """Called after every applied command."""
        if after.epoch != self.epoch:
            self.replica.deposed(self)
            return
        for name, runner in self.native.items():
            namespace = after.native[name]
            if namespace is not before.native.get(name):
                runner.dispatch(StateChanged(namespace, after.epoch))
        for name, sidecars in self.sidecars.items():
            if after.namespaces.get(name) is not before.namespaces.get(name):
                sidecars.tables_changed(after)

    def tick(self) -> None:
        """Some machine's deadline is over."""
        for runner in self.native.values():
            due_ms = runner.machine.next_deadline_ms()
            if due_ms is not None and self.replica.now_ms() >= due_ms:
                runner.dispatch(Tick())
            else:
                self.replica.arm(due_ms)
        for sidecars in self.sidecars.values():
            sidecars.tick()

    def close(self) -> None:
        """It is over, whoever knows."""
        if self.closed:
            return
        self.closed = self.proposer.closed = True
        for runner in self.native.values():
            runner.close()
        for sidecars in self.sidecars.values():
            sidecars.close()
