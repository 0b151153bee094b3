"""Traces of the barrier machine: core's leader over the real replicated state, hosts written to the module's rule.

What is held to the specification here is the leader. A host does with what the leader sends just what the host of
BarrierDissemination does (Dapr's sidecars are more lenient; tests/core/barrier_network.py plays those), so each of its
steps is a line too, and the streams between them are known exactly. tla/doc/Traces.md says why that is enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from random import Random
from typing import Any

from attrs import Factory, define, field

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
from harness.conformance.tracelines import Line, Trace

HOSTS = 3
SETTINGS = BarrierSettings(round_timeout_ms=1_000, phase_ms_min=100, member_grace_ms=1_500, retry_ms=50)
STREAMS_MAX = 12
"""Of one host, so that the states of TLC stay small."""
STEPS: dict[str, int] = {
    "start": 20,
    "connect": 60,
    "attach": 60,
    "read": 200,
    "hear": 200,
    "session_ends": 40,
    "stream_closed": 30,
    "answer_batch": 50,
    "break_stream": 8,
    "crash": 4,
    "advance": 40,
    "new_leader": 4,
}


@define
class _Order:
    operation: str
    version: int
    table: frozenset[int]


@define(eq=False)
class _Stream:
    """Both directions of a stream. `greets`: its hello has not been heard yet."""

    id: int
    host: int
    number: int
    open: bool = True
    greets: bool = True
    down: deque[_Order] = Factory(deque)
    up: deque[tuple[str, int]] = Factory(deque)


@define(eq=False)
class _Host:
    """The host of the module."""

    number: int
    up: bool = False
    session: _Stream | None = None
    locked: bool = True
    lock_version: int = 0
    installed: int = 0
    table: frozenset[int] = frozenset()
    streams: list[_Stream] = Factory(list)

    def obey(self, order: _Order) -> bool:
        """Carry an order out; False if it is ignored."""
        if order.operation == Phase.LOCK:
            if order.version < self.lock_version:
                return False
            self.lock_version = order.version
            self.locked = self.locked or order.version > self.installed
        elif order.operation == Phase.UPDATE:
            if order.version != self.lock_version or not (order.version == self.installed or self.locked):
                return False
            self.installed, self.table = order.version, order.table
        else:
            if not order.version == self.installed == self.lock_version:
                return False
            self.locked = False
        return True


@define(eq=False)
class BarrierStory:
    """One run, and the lines that it tells."""

    random: Random
    lines: list[Line] = Factory(list)
    log: BarrierLog = Factory(BarrierLog)
    now_ms: int = 0
    hosts: list[_Host] = Factory(lambda: [_Host(number + 1) for number in range(HOSTS)])
    streams: dict[int, _Stream] = Factory(dict)
    """By the id that the leader knows them by: those that it serves."""
    streams_opened: int = 0
    batch: ProposeBatch | None = None
    leaving: set[int] = Factory(set)
    proposed_leaves: set[int] = Factory(set)
    cut: set[int] = Factory(set)
    """Streams that the round timeout cuts: the end of each is part of that step."""
    replaced: int = 0
    """The host whose stream a newer one replaces: the end of the older is part of that step."""
    machine: BarrierNamespace = field(init=False)

    def __attrs_post_init__(self) -> None:
        # The first leader is there from the beginning: no line.
        self.machine = BarrierNamespace(SETTINGS)
        self._handle(self.log.started)
        self.machine.trace = self._told

    def _line(self, name: str, **fields: Any) -> None:
        self.lines.append({"name": name, **fields})

    # ---- the leader

    def _handle(self, event: Event) -> None:
        for effect in self.machine.handle(event, self.now_ms):
            match effect:
                case SendOrder(stream_id, phase, version):
                    stream = self.streams.get(stream_id)
                    if stream is not None and stream.open:
                        members = self.machine.members_at(version) if phase is Phase.UPDATE else ()
                        stream.down.append(_Order(phase.value, version, frozenset(map(int, members))))
                    self._handle(OrderWritten(stream_id, phase, version))
                case CloseStream(stream_id):
                    self._drop(stream_id)
                case ProposeBatch():
                    self.batch = effect
                case _:
                    pass

    def _drop(self, stream_id: int) -> None:
        """The leader's end of a stream is over."""
        stream = self.streams.pop(stream_id)
        stream.open, stream.greets = False, False
        stream.up.clear()

    def _told(self, event: str, fields: Mapping[str, Any]) -> None:
        """What the machine tells becomes a line."""
        getattr(self, f"_told_{event}")(fields)

    def _numbers(self, names: Any) -> set[int]:
        return {int(name) for name in names}

    def _told_Attach(self, fields: Mapping[str, Any]) -> None:  # noqa: N802 - named after the event
        stream = self.streams[fields["stream"]]
        self.leaving.discard(stream.host)
        self._line("Attach", i=stream.host, s=stream.number)

    def _told_StreamEnds(self, fields: Mapping[str, Any]) -> None:  # noqa: N802
        stream = self.streams[fields["stream"]]
        if stream.id in self.cut:
            self.cut.discard(stream.id)
        elif stream.host != self.replaced:
            if stream.open:
                # A push that stays unanswered ends its stream. In the module that is a stream that breaks.
                self._line("Break", i=stream.host, s=stream.number)
            self._line("StreamEnds", i=stream.host, s=stream.number)

    def _told_GraceEnds(self, fields: Mapping[str, Any]) -> None:  # noqa: N802
        if fields["hosts"]:
            self._line("GraceEnds", m=self._numbers(fields["hosts"]))

    def _told_ProposeBatch(self, fields: Mapping[str, Any]) -> None:  # noqa: N802
        joins, leaves = self._numbers(fields["joins"]), self._numbers(fields["leaves"])
        for host in sorted(leaves - self.leaving):
            self._line("GiveUp", i=host)
        self.leaving |= leaves
        self.proposed_leaves = leaves
        self._line("ProposeBatch", j=joins, d=leaves)

    def _told_BatchFails(self, _fields: Mapping[str, Any]) -> None:  # noqa: N802
        self._line("BatchFails")

    def _told_StartRound(self, fields: Mapping[str, Any]) -> None:  # noqa: N802
        self.leaving -= self.proposed_leaves
        table = {"v": fields["version"], "m": self._numbers(fields["members"])}
        self._line("StartRound", **table, p=self._numbers(fields["hosts"]))

    def _told_Push(self, fields: Mapping[str, Any]) -> None:  # noqa: N802
        self._line("Push", i=int(fields["host"]), v=fields["version"], m=self._numbers(fields["members"]))

    def _told_RecvAck(self, fields: Mapping[str, Any]) -> None:  # noqa: N802
        self._line("RecvAck", i=int(fields["host"]), op=fields["operation"], v=fields["version"])

    def _told_Advance(self, fields: Mapping[str, Any]) -> None:  # noqa: N802
        self._line("Advance", op=fields["phase"], v=fields["version"])

    def _told_RoundTimeout(self, fields: Mapping[str, Any]) -> None:  # noqa: N802
        self.cut = set(fields["streams"])
        self._line("RoundTimeout", v=fields["version"], c={self.streams[each].host for each in self.cut})

    def _told_NewLeader(self, fields: Mapping[str, Any]) -> None:  # noqa: N802
        self.leaving = set()
        self._line("NewLeader", v=fields["version"], m=self._numbers(fields["members"]))

    # ---- steps: the leader's

    def attach(self) -> None:
        """A hello is heard. The leader that serves a younger stream of the host does not hear of an older one."""
        served = {stream.host: stream.number for stream in self.streams.values()}
        waiting = [
            stream
            for host in self.hosts
            for stream in host.streams
            if stream.greets and stream.number > served.get(host.number, 0)
        ]
        if waiting:
            stream = self.random.choice(waiting)
            stream.greets = False
            self.streams[stream.id] = stream
            self.replaced = stream.host
            report = SidecarReport(str(stream.host), f"app-{stream.host}", ("T",))
            self._handle(StreamOpened(stream.id, report))
            self.replaced = 0

    def hear(self) -> None:
        """The leader takes in the oldest answer of a stream."""
        waiting = [stream for stream in self.streams.values() if stream.up]
        if waiting:
            stream = self.random.choice(waiting)
            operation, version = stream.up.popleft()
            report = SidecarReport("", operation=HostOperation[operation.upper()], version=version)
            self._handle(MessageReceived(stream.id, report))

    def stream_closed(self) -> None:
        """The leader's end of a broken stream learns of it."""
        broken = [stream for stream in self.streams.values() if not stream.open]
        if broken:
            stream = self.random.choice(broken)
            self._handle(StreamClosed(stream.id))
            self._drop(stream.id)

    def answer_batch(self) -> None:
        """The batch in flight commits, or surely does not."""
        if self.batch is not None:
            batch, self.batch = self.batch, None
            if self.random.random() < 0.2:
                self._handle(BatchFailed(batch.batch_id, retry=True))
                return
            self._handle(self.log.commit(batch))

    def advance(self) -> None:
        """Time passes, with a tick at every deadline."""
        until_ms = self.now_ms + self.random.choice([10, 50, 200, 600])
        while (deadline_ms := self.machine.next_deadline_ms()) is not None and deadline_ms <= until_ms:
            self.now_ms = max(self.now_ms, deadline_ms)
            self._handle(Tick())
        self.now_ms = until_ms

    def new_leader(self) -> None:
        """Another leader. The batch in flight has committed by then, or never will."""
        if self.batch is not None and self.random.random() < 0.5:
            self.log.commit(self.batch)
        self.batch = None
        self.log.take_office()
        # The former leader's streams are over, those that it has not heard of yet as well.
        for host in self.hosts:
            for stream in host.streams:
                stream.open, stream.greets = False, False
                stream.up.clear()
        self.streams, self.cut = {}, set()
        self.machine = BarrierNamespace(SETTINGS, self._told)
        self._handle(self.log.started)

    # ---- steps: hosts and the network

    def _host(self) -> _Host:
        return self.random.choice(self.hosts)

    def start(self) -> None:
        """A process starts."""
        host = self._host()
        if not host.up:
            host.up = True
            self._line("Start", i=host.number)

    def connect(self) -> None:
        """A host opens a stream and says hello."""
        host = self._host()
        if host.up and host.session is None and len(host.streams) < STREAMS_MAX:
            self.streams_opened += 1
            host.session = _Stream(self.streams_opened, host.number, len(host.streams) + 1)
            host.streams.append(host.session)
            self._line("Connect", i=host.number, s=host.session.number)

    def session_ends(self) -> None:
        """A host's end of a broken stream learns of it."""
        host = self._host()
        if host.session is not None and not host.session.open:
            number, host.session.down = host.session.number, deque()
            host.session, host.locked = None, True
            self._line("SessionEnds", i=host.number, s=number)

    def read(self) -> None:
        """A host takes an order from its stream."""
        host = self._host()
        stream = host.session
        if stream is None or not stream.down:
            return
        order = stream.down.popleft()
        if host.obey(order) and stream.open:
            stream.up.append((order.operation, order.version))
        took = {"i": host.number, "s": stream.number, "v": order.version}
        if order.operation == Phase.UPDATE:
            self._line("RecvUpdate", **took, n=host.installed, m=set(host.table))
        else:
            self._line("RecvLock" if order.operation == Phase.LOCK else "RecvUnlock", **took, b=host.locked)

    def crash(self) -> None:
        """A process dies; its streams break."""
        host = self._host()
        if host.up:
            for stream in host.streams:
                stream.open = False
                stream.down.clear()
            at = self.hosts.index(host)
            self.hosts[at] = _Host(host.number, streams=host.streams)
            self._line("Crash", i=host.number)

    def break_stream(self) -> None:
        """The network breaks a stream."""
        whole = [stream for host in self.hosts for stream in host.streams if stream.open]
        if whole:
            stream = self.random.choice(whole)
            stream.open = False
            self._line("Break", i=stream.host, s=stream.number)


def trace_barrier(seed: int, steps: int) -> Trace:
    """The trace of one run."""
    story = BarrierStory(Random(seed))
    for step in story.random.choices(list(STEPS), list(STEPS.values()), k=steps):
        getattr(story, step)()
    return Trace(f"walk {seed}", tuple(story.lines))
