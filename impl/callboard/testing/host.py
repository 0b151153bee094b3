"""A host of a test cluster: the real host machine and the real runtime, without a process or a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, assert_never

from attrs import define

from callboard.core.handoff_messages import Tick
from callboard.core.native_host import NativeHost
from callboard.core.native_host_records import (
    AnswerReceived,
    BecomeNewIncarnation,
    CancelTurns,
    Connected,
    Disconnected,
    Drained,
    Ended,
    Granted,
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
)
from callboard.core.native_leader_records import (
    FarewellReceived,
    HelloReceived,
    RenewalReceived,
    StreamEnded,
    TableRequested,
)
from callboard.core.slot_records import NativeHostRecord
from callboard.core.table_delta import HostEntry, TableView
from callboard.core.versions import Policy
from callboard.host.actors import ActorType
from callboard.host.client import CallSettings, Client, Tables
from callboard.host.clock import Clock, Timer
from callboard.host.errors import NotServedError
from callboard.host.limits import RuntimeLimits
from callboard.host.runtime import Runtime
from callboard.host.stores import StateStore
from callboard.testing.leader import TestLeader, Work

RECONNECT_MS = 50


class TestTables:
    """Where a client looks actors up, on the cluster's clock."""

    __test__ = False

    def __init__(self, clock: Clock, view: Callable[[], TableView | None]) -> None:
        self._clock = clock
        self._view = view
        self._event = asyncio.Event()

    @property
    def view(self) -> TableView | None:
        """See `Tables`."""
        return self._view()

    @property
    def trouble(self) -> str:
        """See `Tables`."""
        return "" if self.view is not None else "the host has not joined yet"

    async def changed(self, timeout_s: float) -> None:
        """See `Tables`."""
        event = self._event
        try:
            async with self._clock.timeout(max(1, round(timeout_s * 1000))):
                await event.wait()
        except TimeoutError:
            pass

    def notify(self) -> None:
        """Another table is there."""
        self._event.set()
        self._event = asyncio.Event()


class TestClient(Client):
    """A client whose calls to other hosts stay in this process. Make it with `client_of`."""

    __test__ = False
    host_of: Callable[[int], TestHost | None]

    async def _attempt(self, owner: HostEntry, **call: Any) -> bytes:
        host = self.host_of(owner.incarnation)
        if host is None:
            raise NotServedError(f"host {owner.name} does not answer")
        if owner.incarnation == self.local_incarnation():
            self.figures.local += 1
        else:
            self.figures.remote += 1
        return await host.runtime.call(
            call["actor_type"],
            call["actor_id"],
            call["method"],
            call["arguments"],
            deadline_ms=call["deadline_ms"],
            chain=call["chain"],
        )


def client_of(
    namespace: str,
    tables: Tables,
    clock: Clock,
    *,
    calls: CallSettings,
    host_of: Callable[[int], TestHost | None],
    incarnation: Callable[[], int] = lambda: 0,
) -> TestClient:
    """A client of the hosts that `host_of` knows by their incarnations."""
    client = TestClient(namespace, tables, clock.now_ms, calls, local_incarnation=incarnation)
    client.host_of = host_of
    return client


@define
class TestHostSettings:
    """What the hosts of one cluster have in common."""

    __test__ = False
    namespace: str
    policy: Policy
    kinds: Mapping[str, ActorType]
    store: StateStore
    store_id: str
    calls: CallSettings
    limits: RuntimeLimits | None
    host_of: Callable[[int], TestHost | None]


class TestHost:
    """One host. `alive`: neither killed nor stopped. `runtime.figures` counts what happened in it."""

    __test__ = False

    def __init__(self, name: str, settings: TestHostSettings, leader: TestLeader, clock: Clock, work: Work) -> None:
        self.name = name
        self.alive = True
        self.stopped: Stopped | None = None
        self._settings = settings
        self._leader = leader
        self._clock = clock
        self._work = work
        self._lives = self._connections = self._stream_id = 0
        self._isolated = False
        self._timer: Timer | None = None
        self.machine = self._new_machine()
        self.tables = TestTables(clock, lambda: self.machine.view)
        self.runtime = Runtime(
            namespace=settings.namespace,
            kinds=settings.kinds,
            admission=lambda: self.machine,
            drained=lambda kind, slots: self.hear(Drained(kind, slots)),
            clock=clock,
            store=settings.store,
            version=lambda: self.machine.view.version if self.machine.view is not None else 0,
            limits=settings.limits,
        )
        self.client = client_of(
            settings.namespace,
            self.tables,
            clock,
            calls=settings.calls,
            host_of=settings.host_of,
            incarnation=lambda: self.machine.incarnation,
        )

    def _new_machine(self) -> NativeHost:
        self._lives += 1
        types = tuple(sorted(self._settings.kinds))
        process, store_id = f"{self.name}-{self._lives}", self._settings.store_id
        record = NativeHostRecord(self.name, f"{self.name}:1", types, process, store_id=store_id)
        return NativeHost(self._settings.namespace, self._settings.policy, record)

    # -- what tests do to it

    def connect(self) -> None:
        """Open a stream to the leader, if there is none."""
        if self.alive and not self._isolated and self._stream_id == 0:
            self._connections += 1
            self._stream_id = self._leader.open_stream(self._connections, self)
            self.hear(Connected(self._connections))

    def isolate(self) -> None:
        """The leader cannot be reached any more."""
        self._isolated = True
        self._hang_up()
        self.hear(Disconnected(self._connections))

    def rejoin(self) -> None:
        """The leader can be reached again."""
        self._isolated = False
        self.connect()

    def leave(self) -> None:
        """Begin an orderly stop."""
        self.runtime.begin_leaving()
        self.hear(LeaveRequested("the test stops it"))

    async def die(self) -> None:
        """Stop at once, without a word."""
        self.alive = False
        self._hang_up()
        if self._timer is not None:
            self._timer.cancel()
        await self.runtime.close()

    def _hang_up(self) -> None:
        if self._stream_id:
            stream_id, self._stream_id = self._stream_id, 0
            self._leader.close_stream(stream_id)
            self._leader.tell(StreamEnded(stream_id))

    # -- the machine

    def hear(self, event: HostEvent) -> None:
        """Give the machine an event, and carry out what follows."""
        self._work.do(lambda: self._handle(event))

    def _handle(self, event: HostEvent) -> None:
        if not self.alive:
            return
        for effect in self.machine.handle(event, self._clock.now_ms()):
            self._carry_out(effect)
        if isinstance(event, AnswerReceived):
            self.runtime.wake_early_calls()
        if isinstance(event, Disconnected) and event.connection == self._connections:
            self._stream_id = 0
            self._clock.call_later(RECONNECT_MS, self.connect)
        if self._timer is not None:
            self._timer.cancel()
        deadline_ms = self.machine.next_deadline_ms()
        if deadline_ms is not None:
            delay_ms = max(1, deadline_ms - self._clock.now_ms())
            self._timer = self._clock.call_later(delay_ms, lambda: self.hear(Tick()))

    def _carry_out(self, effect: HostEffect) -> None:
        stream_id = self._stream_id
        match effect:
            case SendHello(_, hello):
                self._leader.tell(HelloReceived(stream_id, hello))
            case SendRenewal(_, renewal):
                self._leader.tell(RenewalReceived(stream_id, renewal))
            case SendFarewell(_, farewell):
                self._leader.tell(FarewellReceived(stream_id, farewell))
            case SendTableRequest(_, request):
                self._leader.tell(TableRequested(stream_id, request))
            case Granted():
                self._know_slot_bits()
                self.runtime.granted(effect)
            case StopAdmitting():
                self.runtime.stop_admitting(effect)
            case CancelTurns():
                self.runtime.cancel(effect)
            case Ended():
                self.runtime.ended(effect)
            case TableInstalled():
                self._know_slot_bits()
                self.runtime.wake_early_calls()
                self.tables.notify()
            case BecomeNewIncarnation():
                self.machine = self._new_machine()
                self._hang_up()
                self._clock.call_later(RECONNECT_MS, self.connect)
            case Stopped():
                self.stopped = effect
                self._hang_up()
            case unreachable:
                assert_never(unreachable)

    def _know_slot_bits(self) -> None:
        if self.machine.view is not None:
            self.runtime.slot_bits = self.machine.view.slot_bits
