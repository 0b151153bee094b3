"""The leader's and the hosts' machines with the replicated state, and every word that they said, to be brought at will.

As in `ExclusiveHandoff`, a word once said can be brought late, twice, or never. Reports are told as differences over a
connection, so those of one host come in order. Each process and the leader have a clock of their own, which only
`NativeNetwork` moves: the specification's leases run out and start when it says so.
"""

from __future__ import annotations

from attrs import Factory, define, evolve

from callboard.core.commands import (
    Bury,
    Command,
    CommitNativeBatch,
    ConfirmClear,
    CreateNativeNamespace,
    RaiseFeatureLevel,
    RaiseFences,
    Removal,
    Request,
    TakeOffice,
)
from callboard.core.handoff_messages import (
    Farewell,
    Gone,
    Grants,
    Renewal,
    RenewalAnswer,
    Tick,
    Welcome,
)
from callboard.core.membership import KNOWN_FEATURE_LEVEL, apply
from callboard.core.native_host import NativeHost
from callboard.core.native_host_records import (
    AnswerReceived,
    Connected,
    HostEvent,
    Right,
    SendFarewell,
    SendHello,
    SendRenewal,
)
from callboard.core.native_leader import NativeLeader
from callboard.core.native_leader_records import (
    FarewellReceived,
    HelloReceived,
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
    SendWelcome,
    StateChanged,
)
from callboard.core.native_streams import TAKEOVER_AFTER_MS
from callboard.core.records import Answer, ReplicatedState
from callboard.core.slot_records import HandoffSettings, HostMark, NativeHostRecord, NativeNamespace
from callboard.core.table_delta import TableDelta
from callboard.core.versions import Policy

NAMESPACE = "shop"
KIND = "cart"
SLOT_BITS = 4
SETTINGS = HandoffSettings(
    lease_ms=1_000_000, drain_ms=100_000, margin_ms=1_000, tick_ms=8, failure_timeout_ms=1_000_000_000_000
)
CONNECTION = 1
GrantKey = tuple[int, int, int, int]
"""To whom (the code's incarnation), since, fence, leader epoch."""


class ProtocolError(AssertionError):
    """A machine did what nothing in the specification's state explains."""


@define(eq=False)
class Said:
    """A renewal, with what it claims: the version that it reports, and whether anything is held."""

    renewal: Renewal
    version: int
    holds: bool


@define(eq=False)
class Process:
    """One life of one host, its clock, and what it said that the leader has not heard yet."""

    number: int
    """Of the specification's incarnation."""
    record: NativeHostRecord
    machine: NativeHost
    hello: HelloReceived
    clock_ms: int = 0
    stream: int = 0
    crashed: bool = False
    unheard: list[Said] = Factory(list)
    sent_ms: dict[int, int] = Factory(dict)
    """By number of the renewal, on the host's clock."""
    farewell: Farewell | None = None
    welcomes: dict[int, Welcome] = Factory(dict)
    rights: list[Right] = Factory(list)
    last_answer: RenewalAnswer | None = None
    answered_ms: int = -1
    """When the present leader, or an earlier one, last answered it, on the leaders' clock."""
    answers: list[RenewalAnswer] = Factory(list)
    """Those that it heard."""
    gone: Gone | None = None


@define(eq=False)
class NativeNetwork:
    """Everything that there is. Incarnations in the names of fields are the specification's unless said otherwise."""

    state: ReplicatedState = Factory(ReplicatedState)
    leader: NativeLeader | None = None
    leader_ms: int = 0
    streams: int = 0
    processes: dict[int, Process] = Factory(dict)
    code_number: dict[int, int] = Factory(dict)
    """By incarnation: the number that the state machine issued."""
    snapshots: dict[int, TableDelta] = Factory(dict)
    deltas: dict[int, TableDelta] = Factory(dict)
    """Both by the version that they lead to."""
    grants: dict[GrantKey, Grants] = Factory(dict)
    proposals: dict[str, tuple[int, Command]] = Factory(dict)
    """What the present leader proposed and does not know the outcome of, by kind."""
    confirms: dict[int, ConfirmClear] = Factory(dict)
    """All confirmations ever proposed, by the `since` that they name."""
    round_id: int | None = None

    def reindex(self) -> None:
        """After a copy: the leader's index of tables is by identity."""
        assert self.leader is not None
        self.leader._releases.index.__attrs_post_init__()  # noqa: SLF001

    # ---- the log

    @property
    def namespace(self) -> NativeNamespace:
        """As replicated."""
        return self.state.native[NAMESPACE]

    def create(self) -> None:
        """An empty namespace and the first leader."""
        self.apply(TakeOffice("r", "0"))
        self.apply(RaiseFeatureLevel(1, KNOWN_FEATURE_LEVEL))
        self.apply(CreateNativeNamespace(NAMESPACE, Policy.EXCLUSIVE, SLOT_BITS, SETTINGS))
        self.leader = NativeLeader(NAMESPACE, self.state.epoch, self.namespace, self.leader_ms)

    def apply(self, command: Command) -> Answer:
        """Commit a command.

        Raises:
            ProtocolError: it is refused.
        """
        self.state, answer = apply(self.state, self.state.applied_index + 1, Request(command))
        if not answer.succeeded:
            raise ProtocolError(f"{type(command).__name__} is refused: {answer.detail or answer.code}")
        return answer

    def commit(self, command: Command, proposal: str | None = None) -> None:
        """Commit a command and tell the leader: of the new state, then that its proposal of this kind is done."""
        assert self.leader is not None
        before = self.namespace
        answer = self.apply(command)
        version = self.namespace.version.wire
        self.tell_leader(StateChanged(self.namespace, self.state.epoch))
        if self.namespace.version != before.version:
            self.snapshots[version] = self.leader.delta(0, version)
            if before.version.wire:
                self.deltas[version] = self.leader.delta(before.version.wire, version)
        if proposal is not None and proposal in self.proposals:
            self.tell_leader(ProposalDone(self.proposals.pop(proposal)[0], answer))

    def lose(self, kind: str) -> None:
        """The leader hears that nobody knows what became of its proposal; it may propose anew after a tick."""
        if kind in self.proposals:
            self.tell_leader(ProposalFailed(self.proposals.pop(kind)[0]))
            self.pass_time(SETTINGS.tick_ms)

    # ---- the leader

    def tell_leader(self, event: LeaderEvent) -> None:
        """Let the leader take in an event, and keep what it says."""
        assert self.leader is not None
        for effect in self.leader.handle(event, self.leader_ms):
            match effect:
                case Propose(number, command):
                    self._proposed(number, command)
                case RequestRound(round_id):
                    self.round_id = round_id
                case SendWelcome(stream, welcome):
                    self._process_of(stream).welcomes[welcome.epoch] = welcome
                case SendAnswer(stream, answer):
                    self._answered(self._process_of(stream), answer, event)
                case SendGrants(_, grants):
                    self._keep_grants(grants)
                case SendGone(stream, gone):
                    self._process_of(stream).gone = gone
                case _:
                    pass

    def _answered(self, process: Process, answer: RenewalAnswer, event: LeaderEvent) -> None:
        """Grants in an answer are kept apart from it."""
        if not isinstance(event, RoundConfirmed):
            raise ProtocolError(f"a renewal is answered at {type(event).__name__}, without a round")
        self._keep_grants(Grants(answer.incarnation, answer.epoch, answer.grants))
        process.last_answer = evolve(answer, grants=())
        process.answered_ms = self.leader_ms

    def _process_of(self, stream: int) -> Process:
        return next(process for process in self.processes.values() if process.stream == stream)

    def _keep_grants(self, grants: Grants) -> None:
        for held in grants.grants:
            if (held.actor_type, held.first, held.count) != (KIND, 0, 1 << SLOT_BITS):
                raise ProtocolError(f"a grant is about {held}, though all slots go together")
            key = (grants.incarnation, held.since, held.fence, grants.epoch)
            self.grants[key] = evolve(grants, grants=(held,))

    def _proposed(self, number: int, command: Command) -> None:
        match command:
            case CommitNativeBatch():
                kind = "batch"
            case ConfirmClear(_, (span,)):
                kind = "confirm"
                self.confirms[span.since] = command
            case Bury():
                kind = "bury"
            case RaiseFences():
                kind = "fence"
            case _:
                raise ProtocolError(f"the leader proposes {command}")
        self.proposals[kind] = (number, command)

    def pass_time(self, duration_ms: int) -> None:
        """On the leader's clock alone."""
        self.leader_ms += duration_ms
        self.tell_leader(Tick())

    def round_trip(self) -> None:
        """The leader's rounds are confirmed, a tick apart, until all whom it heard are answered. The first fails."""
        self.pass_time(SETTINGS.tick_ms)
        number = self._take_round()
        if number is not None:
            self.tell_leader(RoundFailed(number))
            self.pass_time(SETTINGS.tick_ms)
        while (number := self._take_round()) is not None:
            self.tell_leader(RoundConfirmed(number))
            self.pass_time(SETTINGS.tick_ms)

    def _take_round(self) -> int | None:
        number, self.round_id = self.round_id, None
        return number

    def wait_over_ms(self, process: Process) -> int:
        """When the last lease of a removed incarnation is surely over, by the rule of module Leases."""
        assert self.leader is not None
        return max(self.leader.started_ms, process.answered_ms) + SETTINGS.wait_ms()

    def take_office(self) -> None:
        """Another leader; fronts repeat the hellos of all who are connected."""
        assert self.leader is not None
        self.apply(TakeOffice("r", str(self.state.epoch)))
        self.proposals, self.round_id = {}, None
        deposed = self.leader.handle(StateChanged(self.namespace, self.state.epoch), self.leader_ms)
        deposed += self.leader.handle(Tick(), self.leader_ms + SETTINGS.wait_ms())
        if deposed:
            raise ProtocolError(f"a leader that knows that it is deposed says {deposed[0]}")
        self.leader = NativeLeader(NAMESPACE, self.state.epoch, self.namespace, self.leader_ms)
        for process in self.processes.values():
            if not process.crashed:
                self._attach(process, by_front=True)

    def _attach(self, process: Process, *, by_front: bool) -> None:
        self.streams += 1
        process.stream = self.streams
        hello = evolve(process.hello.hello, by_front=by_front)
        self.tell_leader(HelloReceived(process.stream, hello))

    # ---- batches

    def batch(self, owner: int, members: dict[int, str], command: CommitNativeBatch | None = None) -> CommitNativeBatch:
        """A batch after which all slots are those of `owner`: whoever else is a member is marked as draining."""
        marks = tuple(HostMark(name, draining=number != owner) for number, name in sorted(members.items()))
        if command is None:
            command = CommitNativeBatch(self.state.epoch, NAMESPACE)
        return evolve(command, marks=marks)

    def removal(self, number: int) -> CommitNativeBatch:
        """What an operator, or a leader that has not heard of the host for too long, puts into the log."""
        name = self.processes[number].record.name
        removal = Removal(name, self.code_number[number])
        return CommitNativeBatch(self.state.epoch, NAMESPACE, removals=(removal,))

    # ---- hosts

    def new_process(self, number: int, name: str) -> None:
        """A process starts and says hello to the leader, which proposes to make it a member."""
        record = NativeHostRecord(name, f"{name}:{number}", (KIND,), f"token-{number}")
        machine = NativeHost(NAMESPACE, Policy.EXCLUSIVE, record)
        (hello,) = machine.handle(Connected(CONNECTION), 0)
        assert isinstance(hello, SendHello)
        process = Process(number, record, machine, HelloReceived(0, hello.hello))
        self.processes[number] = process
        self._attach(process, by_front=False)
        if "batch" not in self.proposals:  # the name is that of a member that is connected: it asks again
            self.pass_time(TAKEOVER_AFTER_MS)
            self.tell_leader(HelloReceived(process.stream, hello.hello))

    def tell(self, process: Process, event: HostEvent) -> None:
        """Let a host take in an event, and keep what it says."""
        for effect in process.machine.handle(event, process.clock_ms):
            match effect:
                case SendRenewal(_, renewal):
                    self._said(process, renewal)
                case SendFarewell(_, farewell):
                    if self._holds(process):
                        raise ProtocolError(f"incarnation {process.number} says its last word while it may serve")
                    process.farewell = farewell
                case _:
                    pass

    def _said(self, process: Process, renewal: Renewal) -> None:
        holds = self._holds(process)
        if holds and (renewal.dropped or (renewal.base_number == 0 and not renewal.taken)):
            raise ProtocolError(f"incarnation {process.number} reports a slot released that it may still serve")
        view = process.machine.view
        process.sent_ms[renewal.number] = process.clock_ms
        process.unheard.append(Said(renewal, 0 if view is None else view.version, holds))

    def _holds(self, process: Process) -> bool:
        return any(process.machine.gate_open(right, process.clock_ms) for right in process.rights)

    def speak(self, process: Process) -> None:
        """Time for another renewal."""
        process.clock_ms += 2
        self.tell(process, Tick())

    def renew(self, process: Process) -> None:
        """Wait for the next renewal, if none has just been said, on the host's clock."""
        said = len(process.sent_ms)
        self.speak(process)
        due_ms = process.machine.next_deadline_ms()
        if len(process.sent_ms) == said and due_ms is not None:
            process.clock_ms = max(process.clock_ms, due_ms)
            self.tell(process, Tick())

    def bring(self, process: Process, count: int) -> None:
        """The leader hears the first so many of what the host said."""
        heard, process.unheard = process.unheard[:count], process.unheard[count:]
        for said in heard:
            self.tell_leader(RenewalReceived(process.stream, said.renewal))

    def bring_farewell(self, process: Process) -> None:
        """The leader hears the host's last word."""
        assert process.farewell is not None
        self.tell_leader(FarewellReceived(process.stream, process.farewell))

    def answer(self, process: Process) -> None:
        """The host hears the newest answer. Grants in it were taken out: they are brought by themselves."""
        assert process.last_answer is not None
        process.answers.append(process.last_answer)
        self.tell(process, AnswerReceived(CONNECTION, process.last_answer))
