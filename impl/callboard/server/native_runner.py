"""Runs the leader's machine of one native namespace: gives it time and events, and carries its effects out."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, assert_never

import structlog
from attrs import evolve

from callboard.consensus.interface import ProposalError
from callboard.core.commands import Command
from callboard.core.handoff_messages import Hello, Tick
from callboard.core.native_leader import NativeLeader
from callboard.core.native_leader_records import (
    CloseStream,
    FarewellReceived,
    HelloReceived,
    LeaderEffect,
    LeaderEvent,
    LeaderLimits,
    LeaseState,
    Overdue,
    ProposalDone,
    ProposalFailed,
    Propose,
    RenewalReceived,
    RequestRound,
    RoundConfirmed,
    RoundFailed,
    SendAnswer,
    SendGone,
    SendGrants,
    SendTable,
    SendWelcome,
    StateChanged,
    StreamEnded,
    TableRequested,
    Waiting,
)
from callboard.core.records import AnswerCode
from callboard.core.slot_membership import STORE_LEVEL
from callboard.core.slot_records import NativeNamespace
from callboard.core.tracing import TraceSink
from callboard.core.versions import Policy
from callboard.protos import convert
from callboard.protos.generated import host_pb2
from callboard.server.connected_stores import ConnectedStores
from callboard.server.endings import Ending
from callboard.server.metrics import Metrics
from callboard.server.namespace_runner import now_ms
from callboard.server.proposer import Proposer
from callboard.server.rounds import Rounds

log = structlog.get_logger(__name__)

TABLES_KEPT = 64
"""Encoded deltas and snapshots that are kept for further streams."""
TABLE_BYTES_MAX = convert.MESSAGE_BYTES_MAX
"""Of one of them: what hosts take."""


class Link(Protocol):
    """The way to one host: a stream of this replica, or one that a front relays."""

    def send(self, payload: bytes) -> None:
        """Queue an encoded ServerMessage; a link whose queue is full ends itself."""

    def end(self, ending: Ending) -> None:
        """End it with a status; the first call decides."""


class NativeRunner:
    """One native namespace in one office."""

    def __init__(
        self,
        *,
        name: str,
        namespace: NativeNamespace,
        epoch: int,
        replica_id: str,
        proposer: Proposer,
        rounds: Rounds,
        feature_level: int,
        metrics: Metrics,
        limits: LeaderLimits,
        on_deposed: Callable[[str], None],
        trace: TraceSink | None = None,
    ) -> None:
        self.name = name
        self._epoch = epoch
        self._replica_id = replica_id
        self._proposer = proposer
        self._rounds = rounds
        self._metrics = metrics
        self._on_deposed = on_deposed
        self._links: dict[int, Link] = {}
        self._knows_stores = feature_level >= STORE_LEVEL
        """Whether apply does. The level does not change within an office."""
        self._stores = ConnectedStores()
        self._members = namespace.members
        self._exclusive = namespace.policy is Policy.EXCLUSIVE
        self._stream_ids = itertools.count(1)
        self._tables: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._proposals: set[asyncio.Task[None]] = set()
        self._closed = False
        self._machine = NativeLeader(name, epoch, namespace, now_ms(), limits, trace)
        self._dispatch(Tick())

    # -- from the links ----------------------------------------------------------------------------------

    def open(self, link: Link) -> int:
        """A new path to a host; returns the number under which it speaks."""
        stream_id = next(self._stream_ids)
        self._links[stream_id] = link
        return stream_id

    def receive(self, stream_id: int, message: host_pb2.HostMessage, *, by_front: bool = False) -> None:
        """A message of a host. Raises ValueError if it is none that hosts may send."""
        if stream_id not in self._links:
            return
        match message.WhichOneof("message"):
            case "hello":
                self._hello(stream_id, convert.hello_record(message.hello, by_front=by_front))
            case "renewal":
                self._dispatch(RenewalReceived(stream_id, convert.renewal_record(message.renewal)))
            case "farewell":
                self._dispatch(FarewellReceived(stream_id, convert.farewell_record(message.farewell)))
            case "table_request":
                request = convert.table_request_record(message.table_request)
                self._dispatch(TableRequested(stream_id, request))
            case None:
                pass  # of a newer peer: what we do not know we need not answer

    def _hello(self, stream_id: int, hello: Hello) -> None:
        if not self._knows_stores:
            refusal = self._stores.refusal(stream_id, hello) if self._exclusive else None
            if refusal is not None:
                self._links.pop(stream_id).end(Ending("FAILED_PRECONDITION", refusal))
                return
            hello = evolve(hello, host=evolve(hello.host, store_id=""))
        self._dispatch(HelloReceived(stream_id, hello))

    def disconnected(self, stream_id: int) -> None:
        """A path ended, whoever ended it."""
        self._stores.disconnected(stream_id, self._members)
        if self._links.pop(stream_id, None) is not None:
            self._dispatch(StreamEnded(stream_id))

    # -- from the office ---------------------------------------------------------------------------------

    def state_changed(self, namespace: NativeNamespace, epoch: int) -> None:
        """The replicated namespace changed."""
        if namespace.members is not self._members:
            self._members = namespace.members
            self._stores.members_changed(self._members)
        self._dispatch(StateChanged(namespace, epoch))

    def close(self, code: str, text: str) -> None:
        """End every path with this status and do nothing more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._proposals:
            task.cancel()
        for link in self._links.values():
            link.end(Ending(code, text))
        self._links.clear()

    # -- views -------------------------------------------------------------------------------------------

    def handoffs(self) -> list[Waiting]:
        """Slots that are not granted, and for whom they wait."""
        return self._machine.views.handoffs(now_ms())

    def leases(self) -> list[LeaseState]:
        """Members as the leader sees them."""
        return self._machine.views.leases(now_ms())

    def overdue(self) -> list[Overdue]:
        """Members that have not released in time."""
        return self._machine.views.overdue(now_ms())

    def stream_count(self) -> int:
        """Open paths to hosts."""
        return len(self._links)

    # -- driving the machine -----------------------------------------------------------------------------

    def _dispatch(self, event: LeaderEvent) -> None:
        if self._closed:
            return
        now = now_ms()
        for effect in self._machine.handle(event, now):
            self._carry_out(effect)
        self._arm_timer(now)

    def _carry_out(self, effect: LeaderEffect) -> None:
        match effect:
            case SendTable(stream_id, from_version, to_version):
                self._send_table(stream_id, from_version, to_version)
            case SendWelcome(stream_id, welcome):
                message = host_pb2.ServerMessage(welcome=convert.welcome_message(welcome, self._replica_id))
                self._send(stream_id, message.SerializeToString())
            case SendAnswer(stream_id, answer):
                self._send(stream_id, _encoded(answer=convert.answer_message(answer)))
            case SendGrants(stream_id, grants):
                self._send(stream_id, _encoded(grants=convert.grants_message(grants)))
            case SendGone(stream_id, gone):
                self._send(stream_id, _encoded(gone=convert.gone_message(gone)))
            case CloseStream(stream_id, status, text):
                link = self._links.pop(stream_id, None)
                if link is not None:
                    log.info("closing a session", namespace=self.name, status=status, text=text)
                    link.end(Ending(status, text))
            case RequestRound(round_id):
                self._rounds.request(lambda confirmed: self._round_ended(round_id, confirmed))
            case Propose(proposal_id, command):
                task = asyncio.ensure_future(self._propose(proposal_id, command))
                self._proposals.add(task)
                task.add_done_callback(self._proposals.discard)
            case unreachable:
                assert_never(unreachable)

    def _send(self, stream_id: int, payload: bytes) -> None:
        link = self._links.get(stream_id)
        if link is not None:
            link.send(payload)

    def _send_table(self, stream_id: int, from_version: int, to_version: int) -> None:
        payload, link = self._table(from_version, to_version), self._links.get(stream_id)
        if len(payload) <= TABLE_BYTES_MAX:
            self._send(stream_id, payload)
        elif link is not None:
            text = f"tables of namespace {self.name} take {len(payload)} bytes; the limit is {TABLE_BYTES_MAX}"
            link.end(Ending("RESOURCE_EXHAUSTED", text))

    def _table(self, from_version: int, to_version: int) -> bytes:
        """Encoded once for all streams."""
        key = (from_version, to_version)
        payload = self._tables.get(key)
        if payload is None:
            message = convert.delta_message(self._machine.delta(from_version, to_version))
            payload = _encoded(table=message)
            self._tables[key] = payload
            self._metrics.delta_bytes.labels(self.name, "delta" if from_version else "snapshot").set(len(payload))
            if len(payload) > TABLE_BYTES_MAX:
                log.error(
                    "tables are too large to be sent: use fewer slot bits", namespace=self.name, bytes=len(payload)
                )
            while len(self._tables) > TABLES_KEPT:
                self._tables.popitem(last=False)
        return payload

    def _round_ended(self, round_id: int, confirmed: bool) -> None:
        self._dispatch(RoundConfirmed(round_id) if confirmed else RoundFailed(round_id))

    def _arm_timer(self, now: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._machine.next_deadline_ms()
        if deadline is not None:
            delay_s = max(deadline - now, 1) / 1000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._dispatch(Tick())

    async def _propose(self, proposal_id: int, command: Command) -> None:
        """Whatever is not surely applied is reported as failed: the machine works it out again from what is."""
        try:
            answer = await self._proposer.propose(command)
        except ProposalError as error:
            log.info("a command was not applied", namespace=self.name, reason=str(error))
            self._dispatch(ProposalFailed(proposal_id))
            return
        except Exception as error:
            log.exception("proposing failed", namespace=self.name)
            self._on_deposed(f"proposing in namespace {self.name} failed: {error!r}")
            return
        if answer.code is AnswerCode.STALE_EPOCH:
            self._on_deposed(answer.detail)
            return
        if not answer.succeeded:
            log.warning("a command was refused", namespace=self.name, code=answer.code, reason=answer.detail)
        self._dispatch(ProposalDone(proposal_id, answer))


def _encoded(
    *,
    table: host_pb2.TableDelta | None = None,
    answer: host_pb2.RenewalAnswer | None = None,
    grants: host_pb2.Grants | None = None,
    gone: host_pb2.Gone | None = None,
) -> bytes:
    return host_pb2.ServerMessage(table=table, answer=answer, grants=grants, gone=gone).SerializeToString()
