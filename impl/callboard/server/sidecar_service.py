"""The gRPC service that Dapr sidecars talk to: dapr.proto.placement.v1.Placement, with its statuses and texts."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from callboard.consensus.interface import BarrierFailed, Engine, ProposalError
from callboard.core.barrier_records import ACKNOWLEDGED_PHASE
from callboard.core.sidecar_protocol import (
    SidecarMessage,
    SpiffeIdentity,
    check_message,
    first_message_problem,
    report_of,
    trust_domain_problem,
)
from callboard.protos.generated import placement_pb2
from callboard.server.byte_window import ByteWindow
from callboard.server.endings import Ending, abort
from callboard.server.namespace_runner import NamespaceRunner
from callboard.server.office import NamespaceRefusedError, Office
from callboard.server.settings import BARRIER_TIMEOUT_MS, SidecarSettings
from callboard.server.sidecar_stream import SidecarStream
from callboard.server.tls import peer_spiffe_id

log = structlog.get_logger(__name__)

SERVICE = "dapr.proto.placement.v1.Placement"

Context = grpc.aio.ServicerContext[Any, Any]


def not_leader_text(replica_id: str) -> str:
    """What sidecars recognise as "try the next address"."""
    return f"node id={replica_id} is not a leader. Only the leader can serve requests"


class Replica(Protocol):
    """What the service needs of the replica."""

    engine: Engine
    office: Office | None

    def stopping(self) -> bool:
        """Whether the server shuts down."""


class SidecarService:
    """Handler of ReportDaprStatus. Leaders serve; every other replica refuses before it reads anything."""

    def __init__(self, replica: Replica, settings: SidecarSettings, *, tls: bool, trust_domain: str | None) -> None:
        self._replica = replica
        self._settings = settings
        self._tls = tls
        self._trust_domain = trust_domain
        self._stream_ids = itertools.count(1)
        self._greeting = 0

    def handlers(self) -> grpc.GenericRpcHandler:
        """For `grpc.aio.Server.add_generic_rpc_handlers`. Messages stay bytes here: see `_parse`."""
        return grpc.method_handlers_generic_handler(
            SERVICE, {"ReportDaprStatus": grpc.stream_stream_rpc_method_handler(self.report_dapr_status)}
        )

    async def report_dapr_status(self, _requests: object, context: Context) -> None:
        """One stream from opening to end."""
        office = await self._admit(context)
        stream: SidecarStream | None = None
        runner: NamespaceRunner | None = None
        try:
            identity = peer_spiffe_id(context.auth_context()) if self._tls else None
            first = await self._first_message(identity, context)
            message = _message(first)
            # Sent by itself: headers that leave with a message would be sent again by an `abort` that interrupts
            # that write, which gRPC refuses, and the stream would never end.
            await context.send_initial_metadata(())
            runner = await self._runner(office, first.namespace, context)  # nothing may wait from here to open()
            stream = SidecarStream(next(self._stream_ids), first)
            log.info(
                f"Received status report connection from new namespace={first.namespace} "  # noqa: G004
                f"id={first.id} host={first.name}"
            )
            runner.open(stream, report_of(message))
            ending = await self._serve(stream, runner, office, identity, context)
        finally:
            if stream is not None and runner is not None:
                runner.disconnected(stream)
        await abort(context, ending)

    # -- opening -----------------------------------------------------------------------------------------

    async def _admit(self, context: Context) -> Office:
        """The current office, confirmed by a quorum, or the end of the RPC."""
        if self._replica.stopping():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "placement server is shutting down")
        office = self._replica.office
        if office is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, not_leader_text(self._replica.engine.replica_id))
        if self._greeting >= self._settings.streams_max:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._greeting} streams have not sent their first message yet"
            )
        try:
            # Shared by all streams that open together. Without it a deposed leader could push an old table.
            await self._replica.engine.barrier(timeout_ms=BARRIER_TIMEOUT_MS)
        except BarrierFailed as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"leadership could not be confirmed: {error}")
        if self._replica.office is not office:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, not_leader_text(self._replica.engine.replica_id))
        return office

    async def _first_message(self, identity: SpiffeIdentity | None, context: Context) -> placement_pb2.Host:
        self._greeting += 1
        timeout_s = self._settings.round_timeout_ms / 1000
        try:
            async with asyncio.timeout(timeout_s):
                payload = await context.read()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no host report within {timeout_s:g} s")
        finally:
            self._greeting -= 1
        if payload is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.UNKNOWN, "EOF")
        first = _parse(payload)
        if first is None:
            await abort(context, _malformed(payload))
        message = _message(first)
        refusal = (
            trust_domain_problem(identity, self._trust_domain)
            or check_message(message, tls=self._tls, identity=identity)
            or first_message_problem(message)
        )
        if refusal is not None:
            await abort(context, Ending(refusal.status, refusal.text))
        return first

    async def _runner(self, office: Office, namespace: str, context: Context) -> NamespaceRunner:
        try:
            runner = await office.runner(namespace)
        except NamespaceRefusedError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except ProposalError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"namespace {namespace} could not be created: {error}")
        if office.closed:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, not_leader_text(self._replica.engine.replica_id))
        return runner

    # -- serving -----------------------------------------------------------------------------------------

    async def _serve(
        self,
        stream: SidecarStream,
        runner: NamespaceRunner,
        office: Office,
        identity: SpiffeIdentity | None,
        context: Context,
    ) -> Ending:
        """Read and write until one side ends the stream; returns the status to end it with."""
        reader = asyncio.ensure_future(self._read(stream, runner, identity, context))
        writer = asyncio.ensure_future(self._write(stream, runner, office, context))
        ended = asyncio.ensure_future(stream.wait_ending())
        tasks: tuple[asyncio.Future[Ending], ...] = (ended, reader, writer)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task for task in tasks if task.done()).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(
        self, stream: SidecarStream, runner: NamespaceRunner, identity: SpiffeIdentity | None, context: Context
    ) -> Ending:
        last_payload, last_report = b"", None
        while True:
            payload = await context.read()
            if payload is grpc.aio.EOF:
                return Ending("UNKNOWN", "EOF")
            if payload != last_payload or last_report is None:  # heartbeats repeat themselves every second
                host = _parse(payload)
                if host is None:
                    return _malformed(payload)
                message = _message(host)
                refusal = check_message(message, tls=self._tls, identity=identity)
                if refusal is not None:
                    return Ending(refusal.status, refusal.text)
                last_payload, last_report = payload, report_of(message)
                if last_report.operation not in ACKNOWLEDGED_PHASE:
                    stream.report = host
            runner.receive(stream, last_report)

    async def _write(self, stream: SidecarStream, runner: NamespaceRunner, office: Office, context: Context) -> Ending:
        while True:
            order = await stream.orders.get()
            size = len(order.payload)
            async with office.window.reserve(size):
                watch = StallWatch(stream, office.window, size, self._settings.write_stall_ms / 1000)
                try:
                    await context.write(order.payload)
                finally:
                    watch.stop()
            runner.written(stream, order)


class StallWatch:
    """Ends a stream that does not read an order for `stall_s` while others wait for the window.

    A timer and not a task around the write: there is one for every order of every stream.
    """

    def __init__(self, stream: SidecarStream, window: ByteWindow, size_bytes: int, stall_s: float) -> None:
        self._stream = stream
        self._window = window
        self._size_bytes = size_bytes
        self._stall_s = stall_s
        self._timer = asyncio.get_running_loop().call_later(stall_s, self._look)

    def stop(self) -> None:
        """The order was written, or the stream is over."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._window.contended:
            text = f"{self._size_bytes} bytes were not read within {self._stall_s:g} s while other streams waited"
            self._stream.end(Ending("DEADLINE_EXCEEDED", text))
        else:
            self._timer = asyncio.get_running_loop().call_later(self._stall_s, self._look)


def _parse(payload: bytes) -> placement_pb2.Host | None:
    try:
        return placement_pb2.Host.FromString(payload)
    except DecodeError:
        return None


def _malformed(payload: bytes) -> Ending:
    return Ending("INVALID_ARGUMENT", f"malformed host report: {len(payload)} bytes are no Host message")


def _message(host: placement_pb2.Host) -> SidecarMessage:
    return SidecarMessage(
        name=host.name,
        app_id=host.id,
        namespace=host.namespace,
        actor_types=tuple(host.entities),
        port=host.port,
        operation=int(host.operation),
        version=host.version if host.HasField("version") else None,
    )
