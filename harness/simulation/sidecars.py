"""Namespaces of policy `barrier`: the leader's machine with its streams, and simulated sidecars of both generations.

The sidecars are those of harness/sidecars. Checked here: BarrierOrder, TableMonotonic, TableAgreement, OwnerAgreement,
SlowHostIsolation; what the log says of these namespaces is checked by history.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, assert_never

from attrs import define, field, frozen

from callboard.core.barrier import BarrierNamespace
from callboard.core.barrier_records import (
    ACKNOWLEDGED_PHASE,
    BarrierSettings,
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
    RoundFinished,
    SendOrder,
    SidecarReport,
    Started,
    StreamClosed,
    StreamOpened,
    TablesChanged,
    Tick,
)
from callboard.core.commands import CommitBatch
from callboard.core.records import Answer, AnswerCode, Member, ReplicatedState
from callboard.core.ring import Ring
from harness.round_book import RoundBook
from harness.sidecars import events as sidecar_events
from harness.sidecars.checks import WireChecks
from harness.sidecars.events import SidecarSettings, SidecarSpec
from harness.sidecars.heartbeat import HeartbeatSidecar
from harness.sidecars.machine import SidecarMachine
from harness.sidecars.modern import ModernSidecar
from harness.sidecars.tables import NoOwner, Order, TableHost, Tables, tables_of
from harness.simulation.engine_records import Outcome
from harness.simulation.kernel import MS, Process
from harness.simulation.network import End, Stream
from harness.simulation.office import Office
from harness.violation import PropertyViolation

if TYPE_CHECKING:
    from harness.simulation.replicas import Replica
    from harness.simulation.world import World

VIRTUAL_NODES = 20
BARRIER_MS = 400
WRITE_US = 3 * MS
SAMPLE_IDS = ("a", "b", "c")
SETTINGS = SidecarSettings(
    dissemination_timeout_s=2.5,
    open_failed_pause_s=0.06,
    refused_pause_s=0.04,
    heartbeat_s=0.12,
    reconnect_pause_s=0.08,
    fail_safe_s=1.2,
)


@frozen
class Eof:
    """The sidecar's half-close."""


# ---- the leader's side


@define(eq=False)
class Session:
    """A sidecar's stream at a replica: admitted once the replica has confirmed that it leads."""

    replica: Replica
    namespace: str
    stream: Stream = field(init=False)
    stream_id: int = field(init=False, default=0)
    runner: Runner | None = field(init=False, default=None)
    over: bool = field(init=False, default=False)
    _early: list[Any] = field(init=False, factory=list)
    _confirmed: bool = field(init=False, default=False)

    def opened(self) -> None:
        """Ask the quorum."""
        office = self.replica.office
        if office is None:
            self.end("FAILED_PRECONDITION")
            return
        self.replica.engine.barrier(BARRIER_MS, partial(self._admitted, office))

    def _admitted(self, office: Office, position: int) -> None:
        if self.over or not self.replica.alive:
            return
        runner = office.sidecars.get(self.namespace)
        if position < 0 or self.replica.office is not office or not isinstance(runner, Runner):
            self.end("UNAVAILABLE" if position < 0 else "FAILED_PRECONDITION")
            return
        self._confirmed, self.runner = True, runner
        early, self._early = self._early, []
        for message in early:
            self.receive(message)

    def receive(self, message: Any) -> None:
        """From the sidecar."""
        if self.over:
            return
        if not self._confirmed:
            self._early.append(message)
        elif isinstance(message, Eof):
            self.gone("")
            self.end("UNKNOWN")
        elif self.runner is not None:
            if self.stream_id:
                self.runner.receive(self, message)
            elif self.runner.closed:
                self.end("FAILED_PRECONDITION")
            else:
                self.runner.open(self, message)

    def gone(self, _status: str) -> None:
        """The stream is over, from the other side."""
        if self.runner is not None:
            self.runner.disconnected(self)

    def end(self, status: str) -> None:
        """End it."""
        self.over = True
        self.stream.end(1, status)


@define(eq=False)
class Runner:
    """One barrier namespace in one office: what server/namespace_runner.py does."""

    office: Office
    name: str
    machine: BarrierNamespace
    book: RoundBook
    _sessions: dict[int, Session] = field(init=False, factory=dict)
    _stream_ids: itertools.count[int] = field(init=False, factory=lambda: itertools.count(1))
    _proposing: bool = field(init=False, default=False)
    closed: bool = field(init=False, default=False)

    def begin(self, state: ReplicatedState) -> None:
        """The office is in force."""
        namespace = state.namespaces[self.name]
        self._dispatch(Started(namespace.version, namespace.members))

    def open(self, session: Session, report: SidecarReport) -> None:
        """The first message of a stream."""
        session.stream_id = next(self._stream_ids)
        self._sessions[session.stream_id] = session
        self.book.opened(session.stream_id, report.name)
        self._dispatch(StreamOpened(session.stream_id, report))

    def receive(self, session: Session, report: SidecarReport) -> None:
        """A later one."""
        if session.stream_id in self._sessions:
            self.book.heard(session.stream_id, report)
            self._dispatch(MessageReceived(session.stream_id, report))

    def _written(self, stream_id: int, phase: Phase, version: int) -> None:
        if stream_id in self._sessions:
            self.book.written(stream_id, phase, version)
            self._dispatch(OrderWritten(stream_id, phase, version))

    def disconnected(self, session: Session) -> None:
        """A stream ended."""
        if self._sessions.pop(session.stream_id, None) is not None:
            self.book.closed(session.stream_id)
            self._dispatch(StreamClosed(session.stream_id))

    def tables_changed(self, state: ReplicatedState) -> None:
        """Not by our own batch, unless one is in flight, whose answer will tell."""
        if not self._proposing:
            namespace = state.namespaces[self.name]
            self._dispatch(TablesChanged(namespace.version, namespace.members))

    def tick(self) -> None:
        """A deadline may be over."""
        due_ms = self.machine.next_deadline_ms()
        if due_ms is not None and self.office.replica.now_ms() >= due_ms:
            self._dispatch(Tick())
        else:
            self.office.replica.arm(due_ms)

    def close(self) -> None:
        """The office is over, and with it all streams."""
        self.closed = True
        for session in list(self._sessions.values()):
            session.end("FAILED_PRECONDITION")
        self._sessions.clear()

    def _dispatch(self, event: Event) -> None:
        if self.closed:
            return
        replica = self.office.replica
        log = replica.world.log
        if log.on and not isinstance(event, Tick):
            log.note(replica.name, f"{self.name} epoch {self.office.epoch} <- {event}")
        for effect in self.machine.handle(event, replica.now_ms()):
            if log.on:
                log.note(replica.name, f"{self.name} epoch {self.office.epoch} -> {effect}")
            self._carry_out(effect)
        self.book.look()
        if isinstance(event, Tick):
            self.book.ticked(replica.now_ms(), replica.resumed_ms)
        replica.arm(self.machine.next_deadline_ms())

    def _carry_out(self, effect: Effect) -> None:
        replica = self.office.replica
        match effect:
            case SendOrder(stream_id, phase, version):
                members = self.machine.members_at(version) if phase is Phase.UPDATE else None
                self.book.sends(stream_id, phase, version, replica.now_ms())
                session = self._sessions.get(stream_id)
                if session is not None:
                    tables = None if members is None else replica.world.sidecar_tables(self.name, version, members)
                    session.stream.send(1, Order(phase.value, version, tables))
                    delay_us = replica.random.randrange(1, WRITE_US)
                    replica.kernel.after(delay_us, replica.take, self._written, stream_id, phase, version)
            case CloseStream(stream_id, status, text):
                session = self._sessions.pop(stream_id, None)
                self._check_close(stream_id, status, text)
                if session is not None:
                    session.end(status)
            case ProposeBatch(batch_id, upserts, removals):
                self._proposing = True
                if self.book.round_version is not None:
                    raise PropertyViolation("BarrierOrder", "a batch is proposed while a round runs")
                command = CommitBatch(self.office.epoch, self.name, upserts, removals)
                self.office.proposer.propose(command, partial(self._proposed, batch_id))
            case RoundFinished(version, _, _, cut):
                self.book.finished(version)
                if cut:
                    replica.world.saw("a round cuts silent streams and goes on")
            case unreachable:
                assert_never(unreachable)

    def _check_close(self, stream_id: int, status: str, text: str) -> None:
        if status == "DEADLINE_EXCEEDED":
            self.office.replica.world.saw("a silent sidecar is cut")
            self.book.cut(stream_id, self.office.replica.now_ms())
        elif status not in {"ABORTED", "RESOURCE_EXHAUSTED"}:
            raise PropertyViolation("Convergence", f"a sidecar that did nothing wrong is refused: {status}: {text}")
        self.book.closed(stream_id)

    def _proposed(self, batch_id: int, result: Answer | Outcome) -> None:
        self._proposing = False
        replica = self.office.replica
        if result is Outcome.UNKNOWN:
            replica.world.saw("an office ends since a batch has an unknown outcome")
            replica.deposed(self.office)
        elif not isinstance(result, Answer):
            self._dispatch(BatchFailed(batch_id, retry=True))
        elif result.code is AnswerCode.STALE_EPOCH:
            replica.deposed(self.office)
        elif result.succeeded:
            namespace = replica.state.namespaces[self.name]
            self._dispatch(BatchCommitted(batch_id, namespace.version, namespace.members))
        else:
            self._dispatch(BatchFailed(batch_id, retry=False, text=result.detail))


def open_namespace(office: Office, name: str, settings: BarrierSettings) -> Runner:
    """The runner of a namespace that exists."""
    replica = office.replica
    machine = BarrierNamespace(settings, trace=replica.world.sink(replica.name))
    runner = Runner(office, name, machine, RoundBook(settings, replica.world.saw))
    office.sidecars[name] = runner
    runner.begin(replica.state)
    return runner


# ---- sidecars


@define(eq=False)
class Sidecar(Process):
    """A sidecar's process around a machine of harness/sidecars."""

    world: World = field(kw_only=True)
    spec: SidecarSpec = field(kw_only=True)
    heartbeats: bool = field(kw_only=True)
    random: Random = field(kw_only=True)
    machine: SidecarMachine = field(init=False)
    leaving: bool = field(init=False, default=False)
    _stream: Stream | None = field(init=False, default=None)
    _timers: dict[str, int] = field(init=False, factory=dict)
    _timer_ids: itertools.count[int] = field(init=False, factory=itertools.count)

    def __attrs_post_init__(self) -> None:
        kind = HeartbeatSidecar if self.heartbeats else ModernSidecar
        self.machine = kind(self.spec, len(self.world.group.names), SETTINGS, self.random)

    def start(self) -> None:
        """Begin."""
        self.handle(sidecar_events.Started())

    def handle(self, event: sidecar_events.Event) -> None:
        """Give the machine an event, and carry out what follows."""
        if not self.alive:
            return
        log = self.world.log
        if log.on and not isinstance(event, sidecar_events.TimerFired):
            log.note(self.name, f"<- {event}")
        for effect in self.machine.handle(event, self.now_ms() / 1000):
            self._carry_out(effect)

    def _carry_out(self, effect: sidecar_events.Effect) -> None:
        match effect:
            case sidecar_events.Dial(attempt, index, after_s):
                self.later(round(after_s * 1000), self._dial, attempt, index)
            case sidecar_events.Send(report):
                if self._stream is not None:
                    self._stream.send(0, _report(report))
            case sidecar_events.CloseSend():
                if self._stream is not None:
                    self._stream.send(0, Eof())
            case sidecar_events.SetTimer(timer, at):
                number = self._timers[timer] = next(self._timer_ids)
                self.later(round(at * 1000) - self.now_ms(), self._fire, timer, number)
            case sidecar_events.CancelTimer(timer):
                self._timers.pop(timer, None)

    def _fire(self, timer: str, number: int) -> None:
        if self._timers.get(timer) == number:
            del self._timers[timer]
            self.handle(sidecar_events.TimerFired(timer))

    def _dial(self, attempt: int, index: int) -> None:
        if attempt != self.machine.attempt:
            return
        replica = self.world.replicas[self.world.group.names[index]]
        if not replica.alive or self.world.network.blocks(self.node, replica.node):
            self.handle(sidecar_events.OpenFailed(attempt))
            return
        session = Session(replica, self.spec.namespace)
        client = End(self, partial(self._receive, attempt), partial(self._ended, attempt))
        server = End(replica, session.receive, session.gone)
        self._stream = session.stream = self.world.network.connect(client, server)
        self.handle(sidecar_events.StreamOpened(attempt))
        replica.take(session.opened)

    def _receive(self, attempt: int, order: Order) -> None:
        if attempt == self.machine.attempt:
            self.world.sidecar_checks.order(self, attempt, order)
            self.handle(sidecar_events.OrderReceived(attempt, order))
            self.world.sidecar_checks.obeyed(self, order)

    def _ended(self, attempt: int, status: str) -> None:
        self.handle(sidecar_events.StreamEnded(attempt, status or "OK"))


def _report(report: sidecar_events.Report) -> SidecarReport:
    operation = HostOperation[report.operation]
    if report.host is None:
        assert operation in ACKNOWLEDGED_PHASE
        return SidecarReport("", operation=operation, version=report.version)
    host = report.host
    return SidecarReport(host.name, host.app_id, tuple(sorted(host.actor_types)), 0, operation)


def tables_from(members: Mapping[str, Member]) -> Tables:
    """What a sidecar reads in an update."""
    return tables_of(
        ((TableHost(name, member.host.app_id), member.host.actor_types) for name, member in members.items()),
        VIRTUAL_NODES,
    )


@define(eq=False)
class SidecarChecks:
    """What holds of every order that reaches a sidecar."""

    world: World
    orders: int = field(init=False, default=0)
    _wire: WireChecks = field(init=False, factory=WireChecks)
    _rings: dict[tuple[str, int, str], Ring] = field(init=False, factory=dict)

    def order(self, sidecar: Sidecar, attempt: int, order: Order) -> None:
        """An order arrives."""
        self.orders += 1
        self._wire.saw(sidecar.spec, attempt, order)
        if self._wire.violations:
            name, _, text = self._wire.violations[0].partition(": ")
            raise PropertyViolation(name.split()[0], text or name)
        if order.tables is None:
            return
        committed = self.world.history.members.get((sidecar.spec.namespace, order.version))
        known = None if committed is None else {name: record.actor_types for name, record in committed.items()}
        told: dict[str, list[str]] = {}
        for kind, hosts in order.tables.hosts.items():
            for name in hosts:
                told.setdefault(name, []).append(kind)
        if known is None or {name: tuple(sorted(kinds)) for name, kinds in told.items()} != known:
            text = f"{sidecar.name} is told table {order.version} as {told}, which was committed as {known}"
            raise PropertyViolation("TableAgreement", text)

    def obeyed(self, sidecar: Sidecar, order: Order) -> None:
        """It has been carried out: owners are those of our own ring."""
        if order.operation != "update" or order.tables is None or sidecar.machine.tables is not order.tables:
            return
        for kind, hosts in order.tables.hosts.items():
            key = (sidecar.spec.namespace, order.version, kind)
            if key not in self._rings:
                self._rings[key] = Ring(hosts, VIRTUAL_NODES)
            for actor_id in SAMPLE_IDS:
                try:
                    theirs = sidecar.machine.owner(kind, actor_id)
                except NoOwner:
                    theirs = "nobody"
                ours = self._rings[key].lookup(actor_id)
                if theirs != ours:
                    text = f"{sidecar.name} takes {theirs} for the owner of {kind}/{actor_id}, the ring says {ours}"
                    raise PropertyViolation("OwnerAgreement", text)

    def forget(self, sidecar: Sidecar) -> None:
        """Its process is gone."""
        self._wire.forget(sidecar.spec)
