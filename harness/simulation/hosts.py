"""A native host's process: the core's machine, a stream to some replica, and a runtime of actors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, assert_never

from attrs import define, evolve, field

from callboard.core.handoff_messages import Gone, Grants, RenewalAnswer, Tick, Welcome
from callboard.core.native_host import NativeHost
from callboard.core.native_host_records import (
    AnswerReceived,
    BecomeNewIncarnation,
    CancelTurns,
    Connected,
    Disconnected,
    Drained,
    Ended,
    GoneReceived,
    Granted,
    GrantsReceived,
    HostEffect,
    HostEvent,
    LeaveRequested,
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
from callboard.core.slot_records import NativeHostRecord
from callboard.core.table_delta import TableDelta
from callboard.core.versions import Policy
from harness.simulation.actors import STORE_RETRY_US, Call, Result, Runtime, Turn
from harness.simulation.kernel import Process
from harness.simulation.network import Bites, End, Stream
from harness.simulation.replicas import FrontSession

if TYPE_CHECKING:
    from harness.simulation.world import World

RECONNECT_MS = 20
RECONNECT_MAX_MS = 320


@define(eq=False)
class Host(Process):
    """One process. `stopped`: its machine is over, and it does not come back by itself."""

    world: World = field(kw_only=True)
    namespace: str = field(kw_only=True)
    policy: Policy = field(kw_only=True)
    kinds: tuple[str, ...] = field(kw_only=True)
    weight: int = field(kw_only=True)
    random: Random = field(kw_only=True)
    slow_store: tuple[int, Bites] | None = field(init=False, default=None)
    """Its way to the store takes so many microseconds more."""
    damages: Bites | None = field(init=False, default=None)
    """A fault that damages tables on their way here."""
    machine: NativeHost = field(init=False)
    runtime: Runtime = field(init=False)
    stopped: bool = field(init=False, default=False)
    overdue: bool = field(init=False, default=False)
    """A turn of it did not end when it was cancelled, so that it may be late with what it has to give up."""
    leaving: bool = field(init=False, default=False)
    version: int = field(init=False, default=0)
    _connections: int = field(init=False, default=0)
    _stream: Stream | None = field(init=False, default=None)
    _heard_ms: int = field(init=False, default=0)
    _pause_ms: int = field(init=False, default=RECONNECT_MS)

    def __attrs_post_init__(self) -> None:
        self.runtime = Runtime(self)
        self.machine = self._new_machine()

    def _new_machine(self) -> NativeHost:
        token = f"{self.name}-{self.world.next_number()}"
        record = NativeHostRecord(
            self.name, self.node, self.kinds, token, weight=self.weight, store_id=self.world.store.node
        )
        return NativeHost(self.namespace, self.policy, record, trace=self.world.sink(self.name))

    # ---- the stream

    def connect(self) -> None:
        """Open a stream to the next replica, if there is none."""
        if self._stream is not None or self.stopped:
            return
        names = self.world.group.names
        name = names[(self._connections + self.weight) % len(names)]
        replica = self.world.replicas[name]
        self._connections += 1
        connection = self._connections
        session = FrontSession(replica, self.namespace)
        client = End(self, partial(self._receive, connection), partial(self._disconnected, connection))
        server = End(replica, session.receive, session.host_gone)
        self._stream = session.stream = self.world.network.connect(client, server)
        self._heard_ms = self.now_ms()
        if not replica.alive:
            self._stream.cut()
        replica.accept(session)
        self.later(self.world.plan.silence_ms, self._silent, connection)
        self.dispatch(Connected(connection))

    def _silent(self, connection: int) -> None:
        if connection != self._connections or self._stream is None:
            return
        left_ms = self._heard_ms + self.world.plan.silence_ms - self.now_ms()
        if left_ms > 0:
            self.later(left_ms, self._silent, connection)
        else:
            self.world.saw("a silent stream is given up")
            self._stream.end(0, "CANCELLED")
            self._disconnected(connection, "")

    def _disconnected(self, connection: int, _status: str) -> None:
        if connection != self._connections or self._stream is None:
            return
        self._stream = None
        self.dispatch(Disconnected(connection))
        self._reconnect_later()

    def _reconnect_later(self) -> None:
        self.later(self._pause_ms - self.random.randrange(self._pause_ms // 2), self.connect)
        self._pause_ms = min(2 * self._pause_ms, RECONNECT_MAX_MS)

    def _receive(self, connection: int, message: Any) -> None:
        if connection != self._connections:
            return
        self._heard_ms = self.now_ms()
        self._pause_ms = RECONNECT_MS
        match message:
            case RenewalAnswer():
                self.world.rights.answered(self, message)
                before = self.world.rights.grants
                self.dispatch(AnswerReceived(connection, message))
                if self.world.rights.grants > before and self.policy is Policy.EXCLUSIVE:
                    self.world.saw("a grant comes with an answer")
                self.world.rights.gate_may_have_opened(self)
                self.runtime.wake()
            case TableDelta():
                if self.damages is not None and message.changes:
                    self.damages.bites += 1
                    message = evolve(message, changes=message.changes[1:])
                self.world.rights.table_comes(self, message)
                self.dispatch(TableReceived(connection, message))
            case Grants():
                self.dispatch(GrantsReceived(connection, message))
            case Welcome():
                self.dispatch(WelcomeReceived(connection, message))
            case Gone():
                self.dispatch(GoneReceived(connection, message))

    # ---- the machine

    def dispatch(self, event: HostEvent) -> None:
        """Give the machine an event, and carry out what follows."""
        if self.stopped or not self.alive:
            return
        log = self.world.log
        if log.on and not isinstance(event, Tick):
            log.note(self.name, f"<- {event}")
        machine = self.machine
        for effect in machine.handle(event, self.now_ms()):
            if log.on:
                log.note(self.name, f"-> {effect}")
            self._carry_out(effect)
        self.arm(self.machine.next_deadline_ms())

    def tick(self) -> None:
        """See `Process`."""
        due_ms = self.machine.next_deadline_ms()
        if due_ms is not None and self.now_ms() >= due_ms:
            self.dispatch(Tick())
        else:
            self.arm(due_ms)

    def _carry_out(self, effect: HostEffect) -> None:
        match effect:
            case SendRenewal(_, renewal):
                self.world.rights.renews(self, renewal)
                self._send(renewal)
            case SendHello(_, hello):
                self._send(hello)
            case SendFarewell(_, farewell):
                self._send(farewell)
            case SendTableRequest(_, request):
                self._send(request)
            case Granted():
                self.world.rights.begin(self, effect.spans)
                self.runtime.granted(effect)
            case StopAdmitting():
                self.runtime.stop_admitting(effect)
            case CancelTurns():
                self.runtime.cancel(effect)
            case Ended():
                self.world.rights.end(self, effect)
                self.runtime.ended(effect)
            case TableInstalled(version):
                self.world.tables.installed(self, version)
                self.version = version
                self.runtime.wake()
            case BecomeNewIncarnation(_, replaced):
                self._become_new(replaced)
            case Stopped(_, overdue):
                self._stop(overdue=overdue)
            case unreachable:
                assert_never(unreachable)

    def _send(self, message: object) -> None:
        if self._stream is not None:
            self._stream.send(0, message)

    def _become_new(self, replaced: bool) -> None:
        if replaced or self.leaving:
            self.world.saw("a process learns that another took its name")
            self._stop(overdue=False)
            return
        self.world.saw("a removed host returns as a new incarnation")
        self.machine = self._new_machine()
        self.version = 0
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.end(0, "CANCELLED")
        self._reconnect_later()

    def _stop(self, *, overdue: bool) -> None:
        self.stopped = True
        self.world.host_stopped(self, overdue=overdue)

    def drained(self, kind: str, slots: tuple[int, ...]) -> None:
        """The runtime's answer; in an event of its own, as machines are never called from within themselves."""
        self.kernel.after(0, self.take, self.dispatch, Drained(kind, slots))

    def leave(self) -> None:
        """Begin an orderly stop."""
        self.leaving = True
        self.dispatch(LeaveRequested("stop"))

    def crash(self) -> None:
        """See `Process`."""
        super().crash()
        self.runtime.drop()

    # ---- calls and the store

    def called(self, caller: Process, call: Call) -> None:
        """A call came over the network."""
        replied = call.replied

        def answer(result: Result, number: int) -> None:
            if self.alive:
                self.world.network.datagram(self.node, caller, replied, result, number)

        if self.stopped:
            answer(Result.NOT_OWNER, self.version)
            return
        call.replied = answer
        self.runtime.call(call)

    def access_store(self, answered: Callable[[Turn, bool, int], None], turn: Turn, operation: int | None) -> None:
        """Have the store read, or write `operation`. A request that cannot leave is repeated until it can."""
        network, store = self.world.network, self.world.store
        if network.blocks(self.node, store.node):
            self.kernel.after(STORE_RETRY_US, self.take, self.access_store, answered, turn, operation)
            return
        delay_us = network.delay_us(self.node, store.node)
        if self.slow_store is not None:
            more_us, fault = self.slow_store
            delay_us += more_us
            fault.bites += 1
        self.kernel.after(delay_us, self._at_store, answered, turn, operation, turn.activation.count or 0)

    def _at_store(
        self, answered: Callable[[Turn, bool, int], None], turn: Turn, operation: int | None, expected: int
    ) -> None:
        store, activation = self.world.store, turn.activation
        fence = activation.right.fence
        self.world.turns.reaches_store(turn, fence)
        if operation is None:
            refused, count = store.load(activation.actor, fence)
        else:
            refused, count = store.save(activation.actor, fence, expected, operation)
        delay_us = self.world.network.delay_us(store.node, self.node)
        self.kernel.after(delay_us, self.take, answered, turn, refused, count)
