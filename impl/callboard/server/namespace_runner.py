"""Runs the barrier machine of one namespace: gives it time and events, and carries its effects out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from callboard.consensus.interface import NotApplied, OutcomeUnknown, ProposalError
from callboard.core.barrier import BarrierNamespace
from callboard.core.barrier_records import (
    BarrierSettings,
    BatchCommitted,
    BatchFailed,
    CloseStream,
    Effect,
    Event,
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
from callboard.core.records import AnswerCode, Namespace
from callboard.core.tracing import TraceSink
from callboard.protos.generated import placement_pb2
from callboard.server.endings import Ending
from callboard.server.metrics import Metrics
from callboard.server.proposer import Proposer
from callboard.server.settings import SidecarSettings
from callboard.server.sidecar_stream import OutgoingOrder, SidecarStream
from callboard.server.sidecar_tables import TableCache, bare_order

log = structlog.get_logger(__name__)


def now_ms() -> int:
    """The machine's clock: monotonic milliseconds."""
    return time.monotonic_ns() // 1_000_000


class NamespaceRunner:
    """One namespace of sidecars in one office."""

    def __init__(
        self,
        *,
        name: str,
        namespace: Namespace,
        epoch: int,
        proposer: Proposer,
        current: Callable[[], Namespace],
        command_bytes: int,
        metrics: Metrics,
        settings: SidecarSettings,
        on_deposed: Callable[[str], None],
        trace: TraceSink | None = None,
    ) -> None:
        self.name = name
        self._epoch = epoch
        self._proposer = proposer
        self._current = current
        self._metrics = metrics
        self._runtimes = metrics.runtimes.labels(name)
        self._actor_runtimes = metrics.actor_runtimes.labels(name)
        self._hosts_not_acking = metrics.hosts_not_acking.labels(name)
        self._table_bytes = metrics.table_bytes.labels(name)
        self._on_deposed = on_deposed
        self._tables = TableCache(settings.replication_factor)
        self._streams: dict[int, SidecarStream] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_ms = 0
        self._proposal: asyncio.Task[None] | None = None
        self._closed = False
        self._machine = BarrierNamespace(
            BarrierSettings(
                round_timeout_ms=settings.round_timeout_ms,
                coalesce_ms=settings.coalesce_ms,
                member_grace_ms=settings.member_grace_ms,
                repeat_push_ms=settings.repeat_push_ms,
                streams_max=settings.streams_max,
                batch_bytes_max=command_bytes * 3 // 4,
            ),
            trace,
        )
        self._dispatch(Started(namespace.version, namespace.members))

    # -- from the streams --------------------------------------------------------------------------------

    def open(self, stream: SidecarStream, report: SidecarReport) -> None:
        """A stream whose first message is `report` joins."""
        self._streams[stream.stream_id] = stream
        self._dispatch(StreamOpened(stream.stream_id, report))

    def receive(self, stream: SidecarStream, report: SidecarReport) -> None:
        """A later message of a stream."""
        if stream.stream_id in self._streams:
            self._dispatch(MessageReceived(stream.stream_id, report))

    def written(self, stream: SidecarStream, order: OutgoingOrder) -> None:
        """An order left this process."""
        if stream.stream_id in self._streams:
            self._dispatch(OrderWritten(stream.stream_id, Phase(order.operation), order.version))

    def disconnected(self, stream: SidecarStream) -> None:
        """A stream ended, whoever ended it."""
        if self._streams.pop(stream.stream_id, None) is not None:
            self._dispatch(StreamClosed(stream.stream_id))

    # -- from the office ---------------------------------------------------------------------------------

    def tables_changed(self, namespace: Namespace) -> None:
        """The replicated namespace changed; ignored if the change is the answer to our own batch."""
        if self._proposal is None:
            self._dispatch(TablesChanged(namespace.version, namespace.members))

    def close(self, code: str, text: str) -> None:
        """End every stream with this status and do nothing more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._proposal is not None:
            self._proposal.cancel()
        for stream in self._streams.values():
            stream.end(Ending(code, text))
        self._streams.clear()
        self._update_gauges()

    # -- views -------------------------------------------------------------------------------------------

    def reports(self) -> dict[str, placement_pb2.Host]:
        """The newest full report of each connected host, by name."""
        return {stream.report.name: stream.report for stream in self._streams.values()}

    def connected_names(self) -> frozenset[str]:
        """Names of hosts with an open stream."""
        return frozenset(stream.report.name for stream in self._streams.values())

    def stream_count(self) -> int:
        """Open streams."""
        return len(self._streams)

    def phase(self) -> str:
        """The running round's phase, or "idle"."""
        phase = self._machine.status().phase
        return phase.value if phase is not None else "idle"

    def waiting_for(self) -> list[str]:
        """Hosts whose acknowledgement the running round waits for."""
        return list(self._machine.status().waiting_for)

    def table_bytes(self) -> int:
        """Size of the newest serialised tables."""
        return self._tables.newest_bytes

    # -- driving the machine -----------------------------------------------------------------------------

    def _dispatch(self, event: Event) -> None:
        if self._closed:
            return
        now = now_ms()
        for effect in self._machine.handle(event, now):
            self._carry_out(effect)
        self._arm_timer(now)
        if not isinstance(event, OrderWritten):
            self._update_gauges()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case SendOrder(stream_id, phase, version):
                stream = self._streams.get(stream_id)
                if stream is not None:
                    stream.send(OutgoingOrder(phase.value, version, self._payload(phase, version)))
            case CloseStream(stream_id, status, text):
                stream = self._streams.pop(stream_id, None)
                if stream is not None:
                    log.info("closing a stream", namespace=self.name, host=stream.report.name, status=status, text=text)
                    stream.end(Ending(status, text))
            case ProposeBatch():
                self._proposal = asyncio.ensure_future(self._propose(effect))
            case RoundFinished():
                self._record_round(effect)

    def _payload(self, phase: Phase, version: int) -> bytes:
        if phase is Phase.UPDATE:
            return self._tables.update(version, self._machine.members_at(version))
        return bare_order(phase.value, version)

    def _arm_timer(self, now: int) -> None:
        """Have a tick come by the next deadline. A timer that is due before it stays: deadlines move with every
        message, mostly away, and a tick too many changes nothing."""
        deadline = self._machine.next_deadline_ms()
        if deadline is None or (self._timer is not None and self._timer_due_ms <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_ms = deadline
        self._timer = asyncio.get_running_loop().call_later(max(deadline - now, 1) / 1000, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._dispatch(Tick())

    async def _propose(self, batch: ProposeBatch) -> None:
        command = CommitBatch(self._epoch, self.name, batch.upserts, batch.removals)
        event: Event
        try:
            answer = await self._proposer.propose(command)
        except OutcomeUnknown as error:
            # Whether it took effect is open. The replicated state will say; until then this office cannot go on.
            self._proposal = None
            self._on_deposed(f"a batch of namespace {self.name} has an unknown outcome: {error}")
            return
        except (NotApplied, ProposalError) as error:
            log.info("a batch was not applied", namespace=self.name, reason=str(error))
            event = BatchFailed(batch.batch_id, retry=True)
        except Exception as error:
            # A namespace whose proposal never ends would stand still for ever: start again from the replicated state.
            log.exception("proposing a batch failed", namespace=self.name)
            self._proposal = None
            self._on_deposed(f"proposing a batch of namespace {self.name} failed: {error!r}")
            return
        else:
            if answer.code is AnswerCode.STALE_EPOCH:
                self._proposal = None
                self._on_deposed(answer.detail)
                return
            if answer.succeeded:
                namespace = self._current()
                event = BatchCommitted(batch.batch_id, namespace.version, namespace.members)
            else:
                log.warning("a batch was refused", namespace=self.name, code=answer.code, reason=answer.detail)
                event = BatchFailed(batch.batch_id, retry=False, text=answer.detail)
        self._proposal = None
        self._dispatch(event)

    def _record_round(self, finished: RoundFinished) -> None:
        metrics = self._metrics
        metrics.rounds.labels(self.name).inc()
        metrics.cut_streams.labels(self.name).inc(len(finished.cut))
        for phase, duration_ms in zip(Phase, finished.phase_ms, strict=True):
            metrics.round_seconds.labels(self.name, phase.value).observe(duration_ms / 1000)
        level = log.info if finished.streams else log.debug
        level(
            "round finished",
            namespace=self.name,
            version=finished.version,
            streams=finished.streams,
            cut=len(finished.cut),
            lock_ms=finished.phase_ms[0],
            update_ms=finished.phase_ms[1],
            unlock_ms=finished.phase_ms[2],
        )

    def _update_gauges(self) -> None:
        """Called after every event, so only of what costs the same for any number of streams."""
        machine, closed = self._machine, self._closed
        self._runtimes.set(0 if closed else machine.stream_count)
        self._actor_runtimes.set(0 if closed else machine.actor_stream_count)
        self._hosts_not_acking.set(0 if closed else machine.waiting_count)
        self._table_bytes.set(self._tables.newest_bytes)
