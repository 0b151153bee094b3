"""The barrier machine beside `spec.model.barrier`, in the network of tests/core: after each event both say the same.

The network checks BarrierOrder, TableAgreement, TableMonotonic, SlowHostIsolation and Convergence besides.
"""

from __future__ import annotations

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

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
from callboard.core.records import HostRecord, Member
from harness.violation import PropertyViolation
from spec.model.barrier import BarrierOrder, Host, Leader, Said
from tests.core.barrier_network import BarrierNetwork, Link, Sidecar, one_move
from tests.model.support import Disagreement, SideBySide, agree


def as_host(host: HostRecord | SidecarReport) -> Host:
    """As the model knows it."""
    return Host(host.name, host.app_id, host.actor_types)


def as_said(effect: Effect) -> Said:
    """What the model would call it."""
    match effect:
        case SendOrder(stream_id, phase, version):
            return "order", stream_id, phase.value, version
        case CloseStream(stream_id, status):
            return "close", stream_id, status
        case RoundFinished(version):
            return "finished", version
        case ProposeBatch(_, upserts, removals):
            names = frozenset(removal.name for removal in removals)
            return "propose", frozenset(as_host(host) for host in upserts), names


def in_order(said: list[Said]) -> list[Said]:
    """What is said to different streams has no order among itself."""
    return sorted(said, key=lambda each: (str(each[0]) not in {"order", "close"}, str(each[0]), str(each[1:2])))


def blamed(said: list[Said], expected: list[Said], *, in_round: bool) -> str:
    """The property that a disagreement is about. `in_round`: by the model a round runs after the event."""
    more = [each for each in said if each not in expected]
    less = [each for each in expected if each not in said]
    kinds = {str(each[0]) for each in more or less}
    if "close" in kinds:
        return "SlowHostIsolation"
    if not more and "finished" in kinds:  # the machine still waits in its round, so nothing else begins either
        return "SlowHostIsolation"
    if "propose" in kinds:  # nothing begins while a round runs
        return "BarrierOrder" if more and in_round else "Convergence"
    if not more:  # the machine waits: somebody gets no table, or the round stands still
        return "Convergence" if any(each[2:3] == ("lock",) for each in less) else "SlowHostIsolation"
    meant = {each[:3]: each[3] for each in less if each[0] == "order"}
    older = any(int(str(each[3])) < int(str(meant.get(each[:3], 0))) for each in more if each[0] == "order")
    return "TableMonotonic" if older else "BarrierOrder"


@define(eq=False)
class ShadowedNetwork(BarrierNetwork):
    """The model hears every event that the machine hears."""

    model: Leader = field(init=False)
    orders: dict[int, list[tuple[str, int]]] = field(init=False, factory=dict)

    def observe(self, event: Event, effects: list[Effect]) -> None:
        self._tell(event)
        said, expected = in_order([as_said(effect) for effect in effects]), in_order(self.model.said)
        self.model.said = []
        if said != expected:
            text = f"after {event} the machine says {said}, the model {expected}"
            raise Disagreement(blamed(said, expected, in_round=self.model.round is not None), text)
        for each in said:
            if each[0] == "order":
                orders = self.orders.setdefault(int(str(each[1])), [])
                orders.append((str(each[2]), int(str(each[3]))))
                agree("BarrierOrder", BarrierOrder(orders), True)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Started):
            times = self.settings
            self.model = Leader(
                timeout=times.round_timeout_ms,
                phase_least=times.phase_ms_min,
                coalesce=times.coalesce_ms,
                grace=times.member_grace_ms,
                retry=times.retry_ms,
                version=event.version.wire,
                table=_table(event.members),
                now=self.now_ms,
            )
            return
        model = self.model
        model.now = self.now_ms
        match event:
            case StreamOpened(stream_id, report):
                model.opened(stream_id, as_host(report), speaks=report.operation is not HostOperation.UNKNOWN)
            case MessageReceived(stream_id, report) if report.operation in ACKNOWLEDGED_PHASE:
                model.acknowledged(stream_id, ACKNOWLEDGED_PHASE[report.operation].value, report.version or 0)
            case MessageReceived(stream_id, report):
                model.reported(stream_id, as_host(report), speaks=report.operation is not HostOperation.UNKNOWN)
            case OrderWritten(stream_id, phase, version):
                model.left(stream_id, phase.value, version)
            case StreamClosed(stream_id):
                model.closed(stream_id)
            case BatchCommitted(_, version, members):
                model.committed(version.wire, _table(members))
            case BatchFailed(_, retry):
                model.failed(retry=retry)
            case TablesChanged(version, members):
                model.changed_elsewhere(version.wire, _table(members))
            case Tick():
                model.tick()


def _table(members: dict[str, Member] | object) -> dict[str, Host]:
    assert isinstance(members, dict)
    return {name: as_host(member.host) for name, member in members.items()}


TYPES = st.sampled_from([(), ("T1",), ("T2",), ("T1", "T2")])
NAMES = st.sampled_from(["a", "b", "c", "d"])


class BarrierMachine(SideBySide):
    """Everything that may happen to one namespace, in any order."""

    network: ShadowedNetwork

    @initialize(
        coalesce_ms=st.sampled_from([0, 100]),
        sidecars=st.lists(
            st.tuples(NAMES, TYPES, st.booleans()), min_size=2, max_size=4, unique_by=lambda each: each[0]
        ),
    )
    def begin(self, coalesce_ms: int, sidecars: list[tuple[str, tuple[str, ...], bool]]) -> None:
        self.network = ShadowedNetwork(
            BarrierSettings(
                round_timeout_ms=2000, phase_ms_min=500, coalesce_ms=coalesce_ms, member_grace_ms=3000, retry_ms=100
            )
        )
        for name, types, heartbeats in sidecars:
            self.network.start_sidecar(name, types, heartbeats=heartbeats)
        self.all_flow()

    def some_sidecar(self, data: st.DataObject) -> Sidecar:
        return data.draw(st.sampled_from(self.network.sidecars))

    def some_link(self, data: st.DataObject) -> Link:
        return data.draw(st.sampled_from(list(self.network.links.values())))

    @rule(name=NAMES, types=TYPES, heartbeats=st.booleans())
    def start_sidecar(self, name: str, types: tuple[str, ...], heartbeats: bool) -> None:
        self.network.start_sidecar(name, types, heartbeats=heartbeats)

    @precondition(lambda self: self.network.sidecars)
    @rule(data=st.data())
    def stop_sidecar(self, data: st.DataObject) -> None:
        self.network.stop_sidecar(self.some_sidecar(data))

    @precondition(lambda self: self.network.sidecars)
    @rule(data=st.data(), types=TYPES)
    def change_types(self, data: st.DataObject, types: tuple[str, ...]) -> None:
        self.network.change_types(self.some_sidecar(data), types)

    @precondition(lambda self: self.network.sidecars)
    @rule(data=st.data())
    def fall_silent_or_wake(self, data: st.DataObject) -> None:
        sidecar = self.some_sidecar(data)
        sidecar.silent = not sidecar.silent

    @precondition(lambda self: self.network.sidecars)
    @rule(data=st.data())
    def reconnect(self, data: st.DataObject) -> None:
        sidecar = self.some_sidecar(data)
        if self.network.link_of(sidecar) is None:
            self.network.connect(sidecar)

    @precondition(lambda self: self.network.sidecars)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        self.network.heartbeat(self.some_sidecar(data))

    @precondition(lambda self: self.network.links)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        link = self.some_link(data)
        if not link.hung_up:
            self.network.hang_up(link)

    @precondition(lambda self: self.network.links)
    @rule(data=st.data())
    def flow(self, data: st.DataObject) -> None:
        self.network.flow(self.some_link(data))

    @rule()
    def all_flow(self) -> None:
        """A good moment: the log commits, whoever is not silent obeys and is heard."""
        for _ in range(4):
            if self.network.batch is not None:
                self.network.answer_batch("committed")
            for link in list(self.network.links.values()):
                if link.stream_id in self.network.links:
                    self.network.flow(link)

    @precondition(lambda self: self.network.links)
    @rule(data=st.data(), moves=st.lists(st.integers(0, 2), min_size=1, max_size=12))
    def move(self, data: st.DataObject, moves: list[int]) -> None:
        link = self.some_link(data)
        for which in moves:
            if link.stream_id in self.network.links:
                one_move(self.network, link, which)

    @precondition(lambda self: self.network.batch is not None)
    @rule(how=st.sampled_from(["committed", "committed", "committed", "failed", "refused"]))
    def answer_batch(self, how: str) -> None:
        batch = self.network.batch
        assert batch is not None
        several = len(batch.upserts) + len(batch.removals) > 1  # whom to blame then is not the model's business
        self.network.answer_batch("failed" if how == "refused" and several else how)

    @rule(data=st.data(), types=TYPES)
    def a_round_begins(self, data: st.DataObject, types: tuple[str, ...]) -> None:
        """One host changes, and everybody has to hear of it."""
        if self.network.sidecars:
            self.network.change_types(self.some_sidecar(data), types)
            for link in list(self.network.links.values()):
                if link.uplink and link.stream_id in self.network.links:
                    self.network.receive(link)
            if self.network.batch is not None:
                self.network.answer_batch("committed")

    @precondition(lambda self: self.network.sidecars)
    @rule(data=st.data())
    def late_phase(self, data: st.DataObject) -> None:
        """Everybody locks when the round's time is nearly over, and then somebody is silent for a moment."""
        self.a_round_begins(data, data.draw(TYPES))
        for sidecar in self.network.sidecars:
            sidecar.silent = False
        self.network.advance(1900)
        silent = self.some_sidecar(data)
        for link in list(self.network.links.values()):
            if link.stream_id in self.network.links:
                self.network.flow(link)
        silent.silent = True
        self.network.advance(300)

    @rule(survives=st.booleans())
    def change_leader(self, survives: bool) -> None:
        self.network.take_office(batch_survives=survives)

    @rule()
    def repeat_round(self) -> None:
        self.network.repeat_round()

    @rule(duration_ms=st.sampled_from([10, 100, 500, 2000]))
    def advance(self, duration_ms: int) -> None:
        self.network.advance(duration_ms)

    @rule()
    def settle(self) -> None:
        self.come_to_rest()

    def come_to_rest(self) -> None:
        """Convergence: without faults the machine comes to rest, and so does the model."""
        self.network.settle()
        if not self.network.model.at_rest():
            raise PropertyViolation("Convergence", f"the machine rests, the model does not: {self.network.model}")

    @invariant()
    def interesting(self) -> None:
        if hasattr(self, "network"):
            running = self.network.model.round
            self.aim("streams in a round", len(running.streams) if running is not None else 0)
            self.aim("streams that wait", sum(not stream.admitted for stream in self.network.model.streams.values()))
            self.aim("rounds", self.network.rounds_finished)

    def finish(self) -> None:
        if hasattr(self, "network"):
            self.come_to_rest()


TestBarrier = BarrierMachine.TestCase
TestBarrier.settings = settings(stateful_step_count=50)
