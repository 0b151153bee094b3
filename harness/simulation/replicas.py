"""A replica of the simulation: engine model, replicated state, office, and the fronts that hold hosts' streams."""

from __future__ import annotations

import itertools
from random import Random
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field

from callboard.core.handoff_messages import Hello, Renewal, Welcome
from callboard.core.records import ReplicatedState
from callboard.core.table_delta import TableDelta
from callboard.server.machine import ReplicatedMachine
from harness.simulation.engine import Engine
from harness.simulation.engine_records import Disk
from harness.simulation.kernel import Process
from harness.simulation.network import UNAVAILABLE, End, Stream
from harness.simulation.office import HostMessage, NativeRunner, Office

if TYPE_CHECKING:
    from harness.simulation.world import World

LOOK_FOR_LEADER_MS = 20
ATTACH_PAUSE_MS = 20
ATTACH_PAUSE_MAX_MS = 320
LEADER_TIMEOUT_MS = 1500
DIGESTS_KEPT = 64


@define(eq=False)
class Applying:
    """The state machine of one replica: the server's, with the checkers looking on."""

    replica: Replica
    inner: ReplicatedMachine = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.inner = ReplicatedMachine(self.replica.world.sink(self.replica.name))

    def apply(self, index: int, command: bytes) -> object:
        """See `StateMachine`."""
        before = self.inner.state
        answer = self.inner.apply(index, command)
        after = self.inner.state
        self.replica.world.history.applied(self.replica.name, command, before, after, answer)
        self.replica.notice(before, after)
        return answer

    def snapshot(self) -> bytes:
        """See `StateMachine`."""
        return self.inner.snapshot()

    def restore(self, snapshot: bytes) -> None:
        """See `StateMachine`."""
        before = self.inner.state
        self.inner.restore(snapshot)
        self.replica.world.history.restored(self.replica.name, self.inner.state)
        self.replica.notice(before, self.inner.state)


@define(eq=False)
class Replica(Process):
    """One life of a replica's process."""

    world: World = field(kw_only=True)
    disk: Disk = field(kw_only=True)
    random: Random = field(kw_only=True)
    engine: Engine = field(init=False)
    office: Office | None = field(init=False, default=None)
    _taking: Office | None = field(init=False, default=None)
    _machine: Applying = field(init=False)
    _nonces: itertools.count[int] = field(init=False, factory=itertools.count)
    _term_in_office: int = field(init=False, default=-1)

    def __attrs_post_init__(self) -> None:
        self._machine = Applying(self)
        world = self.world
        self.engine = Engine(
            process=self,
            disk=self.disk,
            network=world.network,
            random=self.random,
            times=world.plan.engine,
            machine=self._machine,
            group=world.group,
            on_leadership=self.on_leadership,
            seen=world,
        )
        world.group.engines[self.name] = self.engine

    @property
    def state(self) -> ReplicatedState:
        """As applied here."""
        return self._machine.inner.state

    def notice(self, before: ReplicatedState, after: ReplicatedState) -> None:
        """The state changed."""
        if self.office is not None:
            self.office.notice(before, after)

    # ---- leadership

    def on_leadership(self) -> None:
        """Elected, or not any more."""
        engine = self.engine
        log = self.world.log
        if log.on:
            log.note(self.name, f"leader {engine.leader}, term {engine.term}")
        if not engine.leads:
            self._leave()
        elif engine.term != self._term_in_office:
            self._leave()
            self._term_in_office = engine.term
            self._take_office()

    def _take_office(self) -> None:
        office = Office(self, f"{self.world.next_number()}-{next(self._nonces)}")
        self._taking = office
        office.begin()

    def take_office_again(self, failed: Office) -> None:
        """It did not work."""
        if self._taking is failed and self.engine.leads:
            failed.close()
            self._take_office()

    def deposed(self, office: Office) -> None:
        """Another epoch has begun."""
        if office.closed:
            return
        self._leave()
        if self.engine.leads:  # a late command of an older office: begin a newer epoch
            self._take_office()

    def _leave(self) -> None:
        self._term_in_office = -1
        for office in (self.office, self._taking):
            if office is not None:
                office.close()
        self.office = self._taking = None

    def tick(self) -> None:
        """A deadline of the office."""
        if self.office is not None:
            self.office.tick()

    def open_sidecar_namespaces(self, office: Office) -> None:
        """Barrier namespaces of the new office."""
        self.world.open_sidecar_namespaces(office)

    # ---- streams of hosts

    def accept(self, session: FrontSession) -> None:
        """A host opened a stream."""
        session.deadline_ms = self.now_ms() + LEADER_TIMEOUT_MS

    def crash(self) -> None:
        """See `Process`."""
        super().crash()
        if self.office is not None:
            self.office.closed = self.office.proposer.closed = True
        self.office = self._taking = None


@define(eq=False)
class FrontSession:
    """One host's stream at the replica that holds it, relayed to the leader wherever that is."""

    replica: Replica
    namespace: str
    stream: Stream = field(init=False)
    hello: Hello | None = field(init=False, default=None)
    deadline_ms: int = field(init=False, default=0)
    over: bool = field(init=False, default=False)
    _way: Way | None = field(init=False, default=None)
    _attached: int = field(init=False, default=0)
    _attaching: bool = field(init=False, default=False)
    _pause_ms: int = field(init=False, default=ATTACH_PAUSE_MS)
    _digests: dict[int, bytes] = field(init=False, factory=dict)
    _version: int | None = field(init=False, default=None)
    """The newest that the host said it has, since its hello."""

    def receive(self, message: Any) -> None:
        """From the host."""
        if isinstance(message, Hello):
            self.hello, self._version = message, None
            if self._way is None:
                self._attach()
                return
        elif isinstance(message, Renewal) and self.hello is not None:
            self._version = message.version
        lossy = self.replica.world.lossy_fronts
        if lossy and not isinstance(message, Hello) and self.stream.ends[0].process.node in lossy:
            lossy[self.stream.ends[0].process.node].bites += 1
        elif self._way is not None:  # between two leaders words are lost
            self._way.send(message)
        else:
            self.replica.world.saw("a front loses a word between two leaders")

    def host_gone(self, _status: str) -> None:
        """The host ended the stream, or it broke."""
        self.over = True
        if self._way is not None:
            way, self._way = self._way, None
            way.close()

    def _attach(self) -> None:
        if self.over or self._way is not None or not self.replica.alive:
            return
        self._attaching = False
        replica, office, leader = self.replica, self.replica.office, self.replica.engine.leader
        if office is not None and not office.closed and self.namespace in office.native:
            self._begin(LocalWay(self, office.native[self.namespace]))
        elif leader is not None and leader != replica.name and leader in replica.world.replicas:
            self._begin(RelayedWay(self, replica.world.replicas[leader]))
        elif replica.now_ms() >= self.deadline_ms:
            self._end(UNAVAILABLE)
        else:
            self._attach_later(LOOK_FOR_LEADER_MS)

    def _attach_later(self, pause_ms: int) -> None:
        if not self._attaching:
            self._attaching = True
            self.replica.later(pause_ms, self._attach)

    def _begin(self, way: Way) -> None:
        assert self.hello is not None
        self._way = way
        self._attached += 1
        if self._attached > 1:
            self.replica.world.saw("a front repeats a hello to another leader")
        way.open()
        if self._attached > 1:
            self.hello = evolve(self.hello, by_front=True)
            if self._version is not None:
                digest = self._digests.get(self._version, b"")
                self.hello = evolve(self.hello, have_version=self._version, have_digest=digest)
        way.send(self.hello)

    def deliver(self, way: Way, message: Any) -> None:
        """From the leader."""
        if way is not self._way:
            return
        if isinstance(message, Welcome) and self.hello is not None:
            self.hello = evolve(self.hello, incarnation=message.incarnation)
        elif isinstance(message, TableDelta):
            self._digests[message.to_version] = message.digest
            if len(self._digests) > DIGESTS_KEPT:
                self._digests.pop(next(iter(self._digests)))
        self.stream.send(1, message)

    def way_ended(self, way: Way, status: str) -> None:
        """The leader is another, or does not want this host."""
        if way is not self._way:
            return
        self._way = None
        if status != UNAVAILABLE:
            self._end(status)
            return
        self.deadline_ms = self.replica.now_ms() + LEADER_TIMEOUT_MS
        self._attach_later(self._pause_ms)
        self._pause_ms = min(2 * self._pause_ms, ATTACH_PAUSE_MAX_MS)

    def _end(self, status: str) -> None:
        self.over = True
        self.stream.end(1, status)


@define(eq=False)
class Way:
    """From a front to the leader. Also the leader's `Link` to the host."""

    session: FrontSession

    def open(self) -> None:
        """Begin."""

    def send(self, message: HostMessage) -> None:
        """Pass a word of the host on."""

    def close(self) -> None:
        """The host is gone."""


@define(eq=False)
class LocalWay(Way):
    """To the office in this process."""

    runner: NativeRunner
    _stream_id: int = field(init=False)

    def open(self) -> None:
        """See `Way`."""
        self._stream_id = self.runner.open(self)

    def send(self, message: HostMessage) -> None:
        """See `Way`."""
        self.runner.receive(self._stream_id, message)

    def deliver(self, message: object) -> None:
        """See `Link`."""
        self.session.deliver(self, message)

    def end(self, status: str) -> None:
        """See `Link`."""
        self.session.way_ended(self, status)

    def close(self) -> None:
        """See `Way`."""
        self.runner.disconnected(self._stream_id)


@define(eq=False)
class RelayedWay(Way):
    """To the office in another process."""

    leader: Replica
    _stream: Stream = field(init=False)

    def open(self) -> None:
        """See `Way`."""
        relay = Relay(self.leader, self.session.namespace)
        client = End(self.session.replica, self._receive, self._ended)
        server = End(self.leader, relay.receive, relay.ended)
        self._stream = relay.stream = self.leader.world.network.connect(client, server)
        self.leader.world.saw("a front relays to another replica")
        if not self.leader.alive:
            self._stream.cut()

    def send(self, message: HostMessage) -> None:
        """See `Way`."""
        self._stream.send(0, message)

    def _receive(self, message: object) -> None:
        self.session.deliver(self, message)

    def _ended(self, status: str) -> None:
        self.session.way_ended(self, status)

    def close(self) -> None:
        """See `Way`."""
        self._stream.end(0, "CANCELLED")


@define(eq=False)
class Relay:
    """The leader's end of a relayed session: a `Link` to the host."""

    replica: Replica
    namespace: str
    stream: Stream = field(init=False)
    _runner: NativeRunner | None = field(init=False, default=None)
    _stream_id: int = field(init=False, default=0)

    def receive(self, message: Any) -> None:
        """From the front."""
        if self._runner is None:
            office = self.replica.office
            if office is None or office.closed or self.namespace not in office.native or not isinstance(message, Hello):
                self.stream.end(1, UNAVAILABLE)
                return
            self._runner = office.native[self.namespace]
            self._stream_id = self._runner.open(self)
        self._runner.receive(self._stream_id, message)

    def ended(self, _status: str) -> None:
        """The front is gone."""
        if self._runner is not None:
            self._runner.disconnected(self._stream_id)

    def deliver(self, message: object) -> None:
        """See `Link`."""
        self.stream.send(1, message)

    def end(self, status: str) -> None:
        """See `Link`."""
        self.stream.end(1, status)
