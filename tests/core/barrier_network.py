"""A barrier machine in a model network: sidecars of both generations, slow links, faults, and a check after every step.

`BarrierNetwork` carries the machine's effects out against model sidecars and has plain books of
what was sent, written and acknowledged (harness/round_book.py). `PropertyViolation` names the property that a
step broke.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from attrs import Factory, define, field

from callboard.core.barrier import BarrierNamespace
from callboard.core.barrier_records import (
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
    StreamClosed,
    StreamOpened,
    TablesChanged,
    Tick,
)
from callboard.core.commands import RepeatRound
from callboard.core.records import Member, Namespace
from harness.barrier_log import BarrierLog
from harness.round_book import RoundBook
from harness.violation import PropertyViolation

SETTLING_STEPS_MAX = 100
Table = dict[str, tuple[str, ...]]


def _nobody(_what: str) -> None:
    """Hears of rare situations."""


def table_of(members: Mapping[str, Member]) -> Table:
    """What a table says: each member's actor types."""
    return {name: member.host.actor_types for name, member in members.items()}


@define
class Order:
    """An order on its way."""

    phase: Phase
    version: int
    table: Table | None


@define(eq=False)
class Sidecar:
    """A sidecar process. `heartbeats` makes it one of 1.16 (counts locks and sends its report), else one of 1.18."""

    name: str
    types: tuple[str, ...]
    heartbeats: bool
    silent: bool = False
    gone: bool = False
    locks: int = 0
    last_phase: Phase | None = None
    current_version: int = -1
    installed_version: int = -1
    table: Table = Factory(dict)

    def report(self) -> SidecarReport:
        operation = HostOperation.UNKNOWN if self.heartbeats else HostOperation.REPORT
        return SidecarReport(self.name, f"app-{self.name}", self.types, 0, operation)

    def connected(self) -> None:
        """A new stream forgets what the old one was about, but not the table."""
        self.locks = 0
        self.last_phase = None
        self.current_version = -1

    def obey(self, order: Order) -> SidecarReport | None:
        """Carry an order out; returns the acknowledgement, if it sends one. Raises ConnectionError to hang up."""
        if self.heartbeats:
            self._count(order)
            return None
        return self._guarded(order)

    def _guarded(self, order: Order) -> SidecarReport | None:
        if order.phase is Phase.LOCK:
            self.last_phase, self.current_version = Phase.LOCK, order.version
        elif order.phase is Phase.UPDATE:
            if self.current_version > order.version:
                raise ConnectionError
            self.last_phase = Phase.UPDATE
            self.locks = 1
            self.install(order)
        else:
            if self.last_phase is not Phase.UPDATE or self.current_version > order.version:
                return None
            self.last_phase = Phase.UNLOCK
            self.locks = 0
        return SidecarReport("", "", (), 0, HostOperation[order.phase.name], self.current_version)

    def _count(self, order: Order) -> None:
        if order.phase is Phase.LOCK:
            self.locks += 1
            if self.locks > 1:
                raise PropertyViolation("BarrierOrder", f"{self.name} got a lock while locked: it stays locked")
        elif order.phase is Phase.UPDATE:
            self.install(order)
        elif self.locks == 0:
            raise PropertyViolation("BarrierOrder", f"{self.name} got an unlock without a lock")
        else:
            self.locks -= 1

    def install(self, order: Order) -> None:
        if order.version < self.installed_version:
            text = f"{self.name} installs {order.version} after {self.installed_version}"
            raise PropertyViolation("TableMonotonic", text)
        assert order.table is not None
        self.installed_version, self.table = order.version, order.table


@define(eq=False)
class Link:
    """A stream: orders not yet written, orders on the wire, messages on their way up (None: it was closed)."""

    stream_id: int
    sidecar: Sidecar
    unwritten: deque[Order] = Factory(deque)
    wire: deque[Order] = Factory(deque)
    uplink: deque[SidecarReport | None] = Factory(deque)
    hung_up: bool = False


@define(eq=False)
class BarrierNetwork:
    """The leader's machine, its replicated state, and the sidecars."""

    settings: BarrierSettings
    now_ms: int = 0
    log: BarrierLog = Factory(BarrierLog)
    tables: dict[int, Table] = Factory(dict)
    sidecars: list[Sidecar] = Factory(list)
    links: dict[int, Link] = Factory(dict)
    batch: ProposeBatch | None = None
    next_stream_id: int = 1
    rounds_finished: int = 0
    machine: BarrierNamespace = field(init=False)
    book: RoundBook = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.take_office()

    # ---- the replicated state

    @property
    def namespace(self) -> Namespace:
        return self.log.namespace

    def _note_table(self) -> None:
        table = table_of(self.namespace.members)
        assert self.tables.setdefault(self.namespace.version.wire, table) == table

    def _commit(self, batch: ProposeBatch) -> BatchCommitted:
        committed = self.log.commit(batch)
        self._note_table()
        return committed

    # ---- what may happen

    def take_office(self, *, batch_survives: bool = False) -> None:
        """A new leader: every stream breaks; the batch in flight may or may not have been committed."""
        if self.batch is not None and batch_survives:
            self._commit(self.batch)
        self.log.take_office()
        self._note_table()
        for link in self.links.values():
            link.hung_up = True
        self.links.clear()
        self.batch = None
        self.machine = BarrierNamespace(self.settings)
        self.book = RoundBook(self.settings, _nobody)
        self.handle(self.log.started)

    def start_sidecar(self, name: str, types: tuple[str, ...], *, heartbeats: bool) -> None:
        """A new process. One that had the name before is not coming back, though its stream may live on for a while."""
        for older in self.sidecars:
            if older.name == name:
                older.gone = True
        sidecar = Sidecar(name, types, heartbeats)
        self.sidecars = [kept for kept in self.sidecars if kept.name != name] + [sidecar]
        self.connect(sidecar)

    def stop_sidecar(self, sidecar: Sidecar) -> None:
        """The process ends and does not come back."""
        sidecar.gone = True
        self.sidecars.remove(sidecar)
        link = self.link_of(sidecar)
        if link is not None:
            self.hang_up(link)

    def link_of(self, sidecar: Sidecar) -> Link | None:
        return next((link for link in self.links.values() if link.sidecar is sidecar and not link.hung_up), None)

    def connect(self, sidecar: Sidecar) -> None:
        link = Link(self.next_stream_id, sidecar)
        self.next_stream_id += 1
        sidecar.connected()
        self.links[link.stream_id] = link
        self.book.opened(link.stream_id, sidecar.name)
        self.handle(StreamOpened(link.stream_id, sidecar.report()))

    def hang_up(self, link: Link) -> None:
        """The sidecar's end of the stream is gone; the leader learns of it later."""
        link.hung_up = True
        link.wire.clear()
        link.uplink.append(None)

    def write(self, link: Link) -> None:
        """The oldest order leaves the leader's process."""
        order = link.unwritten.popleft()
        self.book.written(link.stream_id, order.phase, order.version)
        if not link.hung_up:
            link.wire.append(order)
        self.handle(OrderWritten(link.stream_id, order.phase, order.version))

    def deliver(self, link: Link) -> None:
        """The sidecar obeys its oldest order."""
        order = link.wire.popleft()
        try:
            acknowledgement = link.sidecar.obey(order)
        except ConnectionError:
            self.hang_up(link)
            return
        if acknowledgement is not None:
            link.uplink.append(acknowledgement)

    def receive(self, link: Link) -> None:
        """The leader takes in the oldest message of a stream."""
        message = link.uplink.popleft()
        if message is None:
            del self.links[link.stream_id]
            self.book.closed(link.stream_id)
            self.handle(StreamClosed(link.stream_id))
            return
        self.book.heard(link.stream_id, message)
        self.handle(MessageReceived(link.stream_id, message))

    def change_types(self, sidecar: Sidecar, types: tuple[str, ...]) -> None:
        sidecar.types = types
        link = self.link_of(sidecar)
        if link is not None and not sidecar.heartbeats:
            link.uplink.append(sidecar.report())

    def heartbeat(self, sidecar: Sidecar) -> None:
        link = self.link_of(sidecar)
        if link is not None and sidecar.heartbeats:
            link.uplink.append(sidecar.report())

    def answer_batch(self, how: str) -> None:
        """Answer the batch in flight: `committed`, `failed` (to be tried again) or `refused`."""
        batch, self.batch = self.batch, None
        assert batch is not None
        if how == "committed":
            self.handle(self._commit(batch))
        else:
            self.handle(BatchFailed(batch.batch_id, retry=how == "failed"))

    def repeat_round(self) -> None:
        """Somebody raises the version by other means."""
        self.log.apply(RepeatRound(self.log.state.epoch, self.log.namespace_name))
        self._note_table()
        self.handle(TablesChanged(self.namespace.version, self.namespace.members))

    def advance(self, duration_ms: int) -> None:
        """Let time pass, with a tick at every deadline."""
        until_ms = self.now_ms + duration_ms
        while (deadline_ms := self.machine.next_deadline_ms()) is not None and deadline_ms <= until_ms:
            self.now_ms = max(self.now_ms, deadline_ms)
            self.handle(Tick())
            following = self.machine.next_deadline_ms()
            if following is not None and following <= self.now_ms:
                raise PropertyViolation("Convergence", f"the machine wants ticks for ever at {self.now_ms} ms")
        self.now_ms = until_ms

    # ---- carrying out effects, and checking them

    def handle(self, event: Event) -> None:
        effects = self.machine.handle(event, self.now_ms)
        self.observe(event, effects)
        for effect in effects:
            self._carry_out(effect)
        self.book.look()
        self.book.ticked(self.now_ms, 0)

    def observe(self, event: Event, effects: list[Effect]) -> None:
        """For those who watch as well."""

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case ProposeBatch():
                assert self.batch is None, "two batches in flight"
                assert effect.upserts or effect.removals
                assert len(effect.upserts) + len(effect.removals) <= self.settings.batch_items_max
                self.batch = effect
            case SendOrder():
                self._send(effect)
            case CloseStream(stream_id, status, text):
                link = self.links.pop(stream_id)
                if status == "DEADLINE_EXCEEDED":
                    self.book.cut(stream_id, self.now_ms)
                elif status not in {"ABORTED", "RESOURCE_EXHAUSTED"}:
                    raise PropertyViolation("Convergence", f"{link.sidecar.name} did nothing wrong: {status}: {text}")
                self.book.closed(stream_id)
                link.hung_up = True
            case RoundFinished(version):
                self.book.finished(version)
                self.rounds_finished += 1

    def _send(self, effect: SendOrder) -> None:
        link = self.links[effect.stream_id]
        phase, version = effect.phase, effect.version
        self.book.sends(link.stream_id, phase, version, self.now_ms)
        table = None
        if phase is Phase.UPDATE:
            table = table_of(self.machine.members_at(version))
            if table != self.tables[version]:
                raise PropertyViolation("TableAgreement", f"table {version} is {table}, not {self.tables[version]}")
        link.unwritten.append(Order(phase, version, table))

    # ---- convergence

    def settle(self) -> None:
        """No faults from here on: everything must come to rest, with everyone up to date and nobody locked."""
        for sidecar in self.sidecars:
            sidecar.silent = False
        self.advance(self.settings.member_grace_ms)
        for _ in range(SETTLING_STEPS_MAX):
            moved = self._move_everything() or self.batch is not None
            deadline_ms = self.machine.next_deadline_ms()
            if not moved and deadline_ms is None:
                self._check_converged()
                return
            if not moved and deadline_ms is not None:
                self.advance(deadline_ms - self.now_ms)
        raise PropertyViolation("Convergence", f"no rest after {SETTLING_STEPS_MAX} exchanges: {self.machine.status()}")

    def _move_everything(self) -> bool:
        moved = False
        for sidecar in self.sidecars:
            if self.link_of(sidecar) is None:
                self.connect(sidecar)
                moved = True
        if self.batch is not None:
            self.answer_batch("committed")
            moved = True
        for link in list(self.links.values()):
            if link.sidecar.gone and not link.hung_up:
                self.hang_up(link)
            moved = self.flow(link) or bool(link.unwritten) or moved
        return moved

    def flow(self, link: Link) -> bool:
        """Everything under way on a stream arrives, as far as the sidecar takes part; returns whether there was any."""
        moved = bool(link.unwritten or link.wire or link.uplink)
        while link.unwritten and link.stream_id in self.links:
            self.write(link)
        while link.wire and not link.hung_up and not link.sidecar.silent:
            self.deliver(link)
        if link.sidecar.heartbeats and not link.hung_up and not link.sidecar.silent:
            link.uplink.append(link.sidecar.report())
        while link.uplink and link.stream_id in self.links:
            self.receive(link)
        return moved

    def _check_converged(self) -> None:
        expected = {sidecar.name: sidecar.types for sidecar in self.sidecars if sidecar.types}
        newest = self.namespace.version.wire
        if table_of(self.namespace.members) != expected:
            raise PropertyViolation("Convergence", f"members are {self.namespace.members}, not {expected}")
        for sidecar in self.sidecars:
            if sidecar.locks:
                raise PropertyViolation("Convergence", f"{sidecar.name} stays locked")
            if sidecar.installed_version != newest or sidecar.table != expected:
                text = f"{sidecar.name} has table {sidecar.installed_version}, the newest is {newest}"
                raise PropertyViolation("Convergence", text)
            link = self.link_of(sidecar)
            assert link is not None
            book = self.book.streams[link.stream_id]
            if book.newest != (Phase.UNLOCK, newest) or book.owed:
                text = f"the last order to {sidecar.name} on this stream is {book.newest}, it owes {book.owed}"
                raise PropertyViolation("Convergence", text)


def one_move(network: BarrierNetwork, link: Link, which: int) -> None:
    """One order written, one obeyed, or one message received, if there is any."""
    if which == 0 and link.unwritten:
        network.write(link)
    elif which == 1 and link.wire and not link.sidecar.silent and not link.hung_up:
        network.deliver(link)
    elif which == 2 and link.uplink:
        network.receive(link)
