"""`BarrierDissemination` on `BarrierNamespace` and the replicated state machine.

The hosts are Dapr's sidecars, not core's: their answers are taken from the specification's steps, and what the code
sends is compared with what the specification sends, message by message (`net`). Where the machine does several of the
specification's actions at once (see PATHSBarrierDissemination), the last of them is compared.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from attrs import Factory, define

from callboard.core.barrier import BarrierNamespace
from callboard.core.barrier_records import (
    BarrierSettings,
    BatchFailed,
    CloseStream,
    Event,
    HostOperation,
    MessageReceived,
    OrderWritten,
    Phase,
    ProposeBatch,
    SendOrder,
    SidecarReport,
    StreamClosed,
    StreamOpened,
    Tick,
)
from harness.barrier_log import BarrierLog
from harness.conformance.replay import Adapter, Difference
from harness.conformance.values import State

SETTINGS = BarrierSettings(round_timeout_ms=1_000, phase_ms_min=0, member_grace_ms=1_000_000, retry_ms=1)
HOSTS_ALONE = frozenset({"Start", "Connect", "SessionEnds", "RecvLock", "RecvUpdate", "RecvUnlock", "Crash", "Break"})
"""Actions of hosts and of the network: what the leader's machine sees of them comes later."""
AT_ONCE = frozenset({"Push", "GiveUp", "Advance"})
"""What the machine has done already, in the step that made it possible."""
Message = tuple[str, int, frozenset[int]]
"""Operation, version, and for an update the table: the names of its hosts."""


@define(eq=False)
class Stream:
    """The leader's end of a host's stream: orders that the host has not read, and whether they still can be sent."""

    host: int
    number: int
    orders: deque[Message] = Factory(deque)


class BarrierAdapter(Adapter):
    """One leader's machine at a time. Streams are known by a number that is never used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.log = BarrierLog()
        self.machine = BarrierNamespace(SETTINGS)
        self.now_ms = 0
        self.streams: dict[int, Stream] = {}
        self.streams_opened = 0
        self.batch: ProposeBatch | None = None

    def begin(self, state: State) -> None:
        self._handle(self.log.started)

    def _handle(self, event: Event) -> None:
        for effect in self.machine.handle(event, self.now_ms):
            match effect:
                case SendOrder(stream_id, phase, version):
                    members = self.machine.members_at(version) if phase is Phase.UPDATE else ()
                    order = (phase.value, version, frozenset(int(name) for name in members))
                    self.streams[stream_id].orders.append(order)
                    self._handle(OrderWritten(stream_id, phase, version))
                case CloseStream(stream_id):
                    self.streams.pop(stream_id, None)
                case ProposeBatch():
                    self.batch = effect
                case _:
                    pass

    def _settle(self) -> None:
        """A batch that the machine proposes before the specification's round starts fails, to be tried again."""
        if self.batch is not None:
            if self.machine.status().phase is not None:
                raise Difference("the machine proposes a batch in the middle of a round")
            batch_id, self.batch = self.batch.batch_id, None
            self._handle(BatchFailed(batch_id, retry=True))

    # ---- steps

    def step(self, action: str, before: State, after: State) -> None:
        handler = getattr(self, f"_{action}", None)
        if handler is not None:
            handler(before, after)
            self._settle()
        elif action in HOSTS_ALONE:
            self._hosts_read(before, after)
        elif action not in AT_ONCE:
            raise Difference(f"no such action: {action}")

    def _stream_of(self, host: int) -> Stream:
        return next(stream for stream in self.streams.values() if stream.host == host)

    def _Attach(self, before: State, after: State) -> None:
        host = _changed(before["stream"], after["stream"])
        older = [each.number for each in self.streams.values() if each.host == host]
        self.streams_opened += 1
        number = self.streams_opened
        self.streams[number] = Stream(host, number)
        self._handle(StreamOpened(number, SidecarReport(str(host), "app", ("T",))))
        for each in older:
            if each in self.streams:
                raise Difference(f"Attach: an older stream of host {host} is not closed")

    def _StreamEnds(self, before: State, after: State) -> None:
        stream = self._stream_of(_changed(before["stream"], after["stream"]))
        del self.streams[stream.number]
        self._handle(StreamClosed(stream.number))

    def _GraceEnds(self, before: State, after: State) -> None:
        self.now_ms += SETTINGS.member_grace_ms
        self._handle(Tick())

    def _StartRound(self, before: State, after: State) -> None:
        """The pause after the failed batch is over; this time the batch commits."""
        self.now_ms += SETTINGS.retry_ms
        self._handle(Tick())
        if self.batch is None:
            raise Difference("StartRound: the machine proposes no batch")
        batch, self.batch = self.batch, None
        self._handle(self.log.commit(batch))

    def _RecvAck(self, before: State, after: State) -> None:
        host = _changed(before["net"], after["net"])
        number = before["stream"][host - 1]
        answer = before["net"][host - 1][number - 1]["up"][0]
        report = SidecarReport("", operation=HostOperation[answer["op"].upper()], version=answer["v"])
        self._handle(MessageReceived(self._stream_of(host).number, report))

    def _RoundTimeout(self, before: State, after: State) -> None:
        due_ms = self.machine.next_deadline_ms()
        assert due_ms is not None
        self.now_ms = max(self.now_ms, due_ms)
        self._handle(Tick())

    def _NewLeader(self, before: State, after: State) -> None:
        self.log.take_office()
        self.streams, self.batch = {}, None
        self.machine = BarrierNamespace(SETTINGS)
        self._handle(self.log.started)

    def _hosts_read(self, before: State, after: State) -> None:
        """Hosts take orders from their streams, or nobody is left to read them."""
        for stream in self.streams.values():
            number = after["stream"][stream.host - 1]
            was = before["net"][stream.host - 1][number - 1]["down"]
            left = after["net"][stream.host - 1][number - 1]["down"]
            for _ in range(len(was) - len(left)):
                stream.orders.popleft()

    # ---- comparing

    def compare(self, state: State) -> None:
        if not _settled(state):
            return
        namespace, machine = self.log.namespace, self.machine
        members = {int(name) for name in namespace.members}
        self.demand("members", members, set(state["members"]))
        self.demand("version", namespace.version.wire, state["version"])
        self.demand("epoch", self.log.state.epoch, state["epoch"])
        attached = {host for host, number in enumerate(state["stream"], start=1) if number}
        self.demand("stream", {each.host for each in self.streams.values()}, attached)
        status = machine.status()
        self.demand("streams of the machine", status.streams, len(attached))
        self.demand("version of the machine", status.version, state["version"])
        phase = "idle" if status.phase is None else status.phase.value
        self.demand("phase", phase, state["phase"])
        self.demand("waiting", status.queued_streams, len(state["waiting"]))
        awaited = attached - state["waiting"] - state["acked"] if phase != "idle" else set()
        self.demand("participants that have not acked", {int(name) for name in status.waiting_for}, awaited)
        self._compare_net(state)

    def _compare_net(self, state: State) -> None:
        for stream in self.streams.values():
            number = state["stream"][stream.host - 1]
            specified = state["net"][stream.host - 1][number - 1]
            if specified["open"]:
                orders = [(order["op"], order["v"], order["t"]) for order in specified["down"]]
                self.demand(f"net[{stream.host}][{number}].down", list(stream.orders), orders)

    def probe(self, state: State) -> None:
        """A tick that nobody needs, and acknowledgements of versions gone by, change nothing."""
        if not _settled(state):
            return
        self._handle(Tick())
        for stream in list(self.streams.values()):
            if state["version"] > 1 and stream.host not in state["waiting"]:
                self._probe_old_acknowledgement(stream)
        self._settle()
        self.compare(state)

    def _probe_old_acknowledgement(self, stream: Stream) -> None:
        report = SidecarReport("", operation=HostOperation.UNLOCK, version=0)
        self._handle(MessageReceived(stream.number, report))


def _changed(before: Any, after: Any) -> int:
    """The argument at which two functions over 1..n differ.

    Raises:
        Difference: nowhere.
    """
    for at, (old, new) in enumerate(zip(before, after, strict=True), start=1):
        if old != new:
            return at
    raise Difference("a step that changes nothing")


def _settled(state: State) -> bool:
    """Whether nothing is due at once: `Settled` of PATHSBarrierDissemination."""
    attached = {host for host, number in enumerate(state["stream"], start=1) if number}
    members: frozenset[int] = state["members"]
    push_due = state["phase"] == "idle" and bool(state["waiting"] & members)
    advance_due = state["phase"] != "idle" and attached - state["waiting"] <= state["acked"]
    give_up_due = bool(members - state["leaving"] - state["unseen"] - attached)
    return not (push_due or advance_due or give_up_due)
