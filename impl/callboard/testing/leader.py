"""The placement service of a test cluster: the real replicated state and leader machine, without any network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol, assert_never

from attrs import define, field

from callboard.core.commands import (
    Command,
    CommitNativeBatch,
    CreateNativeNamespace,
    RaiseFeatureLevel,
    Request,
    TakeOffice,
)
from callboard.core.handoff_messages import Tick
from callboard.core.membership import KNOWN_FEATURE_LEVEL, apply
from callboard.core.native_host_records import (
    AnswerReceived,
    Disconnected,
    GoneReceived,
    GrantsReceived,
    HostEvent,
    TableReceived,
    WelcomeReceived,
)
from callboard.core.native_leader import NativeLeader
from callboard.core.native_leader_records import (
    CloseStream,
    LeaderEffect,
    LeaderEvent,
    ProposalDone,
    Propose,
    RequestRound,
    RoundConfirmed,
    SendAnswer,
    SendGone,
    SendGrants,
    SendTable,
    SendWelcome,
    StateChanged,
)
from callboard.core.records import Answer, ReplicatedState
from callboard.core.slot_records import HandoffSettings, HostMark, NativeNamespace
from callboard.core.table_delta import TableView
from callboard.core.versions import Policy
from callboard.host.clock import Clock, Timer

WORK_MAX = 1_000_000


class Listener(Protocol):
    """The host's end of a stream."""

    def hear(self, event: HostEvent) -> None:
        """A word of the leader, or the end of the stream."""


@define
class Stream:
    """From one connection of a host to the leader."""

    connection: int
    listener: Listener


@define
class Work:
    """What is to be done, in its order: machines are never called from within each other."""

    _queue: deque[Callable[[], object]] = field(init=False, factory=deque)
    _running: bool = field(init=False, default=False)

    def do(self, work: Callable[[], object]) -> None:
        """Do it, and whatever follows from it, before this returns; or later, if something is being done already."""
        self._queue.append(work)
        if self._running:
            return
        self._running = True
        try:
            for _ in range(WORK_MAX):
                if not self._queue:
                    return
                self._queue.popleft()()
            raise RuntimeError("hosts and leader keep each other busy for ever")
        finally:
            self._running = False


class TestLeader:
    """See the module's description. `on_table` is called after each change of the tables."""

    __test__ = False

    def __init__(
        self,
        *,
        name: str,
        policy: Policy,
        slot_bits: int,
        settings: HandoffSettings,
        clock: Clock,
        work: Work,
        on_table: Callable[[], None],
    ) -> None:
        self.name = name
        self.state = ReplicatedState()
        self._clock = clock
        self._work = work
        self._on_table = on_table
        self._streams: dict[int, Stream] = {}
        self._last_stream = 0
        self._timer: Timer | None = None
        problem = settings.creation_problem(policy)
        if problem is not None:
            raise ValueError(problem)
        first = CreateNativeNamespace(name, policy, slot_bits, settings)
        for command in (TakeOffice("test", "0"), RaiseFeatureLevel(1, KNOWN_FEATURE_LEVEL), first):
            answer = self._apply(command)
            if not answer.succeeded:
                raise ValueError(answer.detail)
        self.machine = NativeLeader(name, self.state.epoch, self.namespace, clock.now_ms())

    @property
    def namespace(self) -> NativeNamespace:
        """As it was committed last."""
        return self.state.native[self.name]

    @property
    def view(self) -> TableView:
        """The newest tables."""
        return self.machine.view

    # -- for hosts

    def open_stream(self, connection: int, listener: Listener) -> int:
        """A new stream's number."""
        self._last_stream += 1
        self._streams[self._last_stream] = Stream(connection, listener)
        return self._last_stream

    def close_stream(self, stream_id: int) -> None:
        """Nothing is delivered to it any more."""
        self._streams.pop(stream_id, None)

    def tell(self, event: LeaderEvent) -> None:
        """Give the machine an event, and carry out what follows."""
        self._work.do(lambda: self._handle(event))

    # -- for operators

    def mark(self, mark: HostMark) -> None:
        """Say something of a host name."""
        command = CommitNativeBatch(self.state.epoch, self.name, marks=(mark,))
        self._work.do(lambda: self._commit(command))

    # -- the machine

    def _handle(self, event: LeaderEvent) -> None:
        version = self.machine.view.version
        for effect in self.machine.handle(event, self._clock.now_ms()):
            self._carry_out(effect)
        if self._timer is not None:
            self._timer.cancel()
        deadline_ms = self.machine.next_deadline_ms()
        if deadline_ms is not None:
            delay_ms = max(1, deadline_ms - self._clock.now_ms())
            self._timer = self._clock.call_later(delay_ms, lambda: self.tell(Tick()))
        if self.machine.view.version != version:
            self._on_table()

    def _carry_out(self, effect: LeaderEffect) -> None:
        match effect:
            case RequestRound(round_id):
                self.tell(RoundConfirmed(round_id))
            case Propose(proposal_id, command):
                self._work.do(lambda: self._propose(proposal_id, command))
            case SendWelcome(stream_id, welcome):
                self._send(stream_id, lambda connection: WelcomeReceived(connection, welcome))
            case SendTable(stream_id, from_version, to_version):
                delta = self.machine.delta(from_version, to_version)
                self._send(stream_id, lambda connection: TableReceived(connection, delta))
            case SendAnswer(stream_id, answer):
                self._send(stream_id, lambda connection: AnswerReceived(connection, answer))
            case SendGrants(stream_id, grants):
                self._send(stream_id, lambda connection: GrantsReceived(connection, grants))
            case SendGone(stream_id, gone):
                self._send(stream_id, lambda connection: GoneReceived(connection, gone))
            case CloseStream(stream_id):
                self._send(stream_id, Disconnected)
                self.close_stream(stream_id)
            case unreachable:
                assert_never(unreachable)

    def _send(self, stream_id: int, event: Callable[[int], HostEvent]) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._work.do(lambda: stream.listener.hear(event(stream.connection)))

    def _propose(self, proposal_id: int, command: Command) -> None:
        answer = self._commit(command)
        self._handle(ProposalDone(proposal_id, answer))

    def _commit(self, command: Command) -> Answer:
        answer = self._apply(command)
        self._handle(StateChanged(self.namespace, self.state.epoch))
        return answer

    def _apply(self, command: Command) -> Answer:
        self.state, answer = apply(self.state, self.state.applied_index + 1, Request(command))
        return answer
