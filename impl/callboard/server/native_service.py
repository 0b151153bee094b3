"""The gRPC services for native hosts (callboard.host.v1.Placement) and of fronts (callboard.fronts.v1.Fronts)."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from callboard.consensus.interface import BarrierFailed, Engine, ProposalError
from callboard.core.records import ReplicatedState
from callboard.core.slot_records import NativeNamespace
from callboard.protos import convert
from callboard.protos.generated import fronts_pb2, host_pb2
from callboard.server import native_views
from callboard.server.endings import Ending, abort
from callboard.server.native_runner import NativeRunner
from callboard.server.native_session import HostSession, LocalWay, Outgoing, RelayedWay, Way, malformed
from callboard.server.office import NamespaceRefusedError, Office
from callboard.server.settings import BARRIER_TIMEOUT_MS, NativeSettings, TlsFiles
from callboard.server.tls import channel_credentials, peer_names, peer_spiffe_id
from callboard.server.watches import Watches

log = structlog.get_logger(__name__)

SERVICE = "callboard.host.v1.Placement"
FRONTS_SERVICE = "callboard.fronts.v1.Fronts"
LOOK_FOR_LEADER_S = 0.05
SIGN_OF_LIFE_S = 5.0

Context = grpc.aio.ServicerContext[Any, Any]


class NativeReplica(Protocol):
    """What the services need of the replica."""

    engine: Engine
    office: Office | None

    @property
    def state(self) -> ReplicatedState:
        """The replicated state as applied here."""

    def stopping(self) -> bool:
        """Whether the server shuts down."""


class NativeService:
    """Handlers of both services."""

    def __init__(
        self, replica: NativeReplica, settings: NativeSettings, *, tls: TlsFiles | None, trust_domain: str | None
    ) -> None:
        self._replica = replica
        self._settings = settings
        self._tls = tls
        self._trust_domain = trust_domain
        self._sessions: set[HostSession] = set()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self.watches = Watches()
        self._watch_count = 0

    def handlers(self) -> tuple[grpc.GenericRpcHandler, grpc.GenericRpcHandler]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`. Sessions stay bytes here: nothing is encoded twice."""
        placement = grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Session": grpc.stream_stream_rpc_method_handler(self.session),
                "Watch": grpc.unary_stream_rpc_method_handler(
                    self.watch,
                    request_deserializer=host_pb2.WatchRequest.FromString,
                ),
                "Lookup": grpc.unary_unary_rpc_method_handler(
                    self.lookup,
                    request_deserializer=host_pb2.LookupRequest.FromString,
                    response_serializer=host_pb2.LookupReply.SerializeToString,
                ),
            },
        )
        fronts = grpc.method_handlers_generic_handler(
            FRONTS_SERVICE, {"Relay": grpc.stream_stream_rpc_method_handler(self.relay)}
        )
        return placement, fronts

    async def close(self) -> None:
        """End all sessions, so that hosts go to another replica."""
        for session in self._sessions:
            session.end(Ending("UNAVAILABLE", "this replica is shutting down"))
        for channel in self._channels.values():
            await channel.close()

    # -- sessions ----------------------------------------------------------------------------------------

    async def session(self, _requests: object, context: Context) -> None:
        """One host's stream."""
        if self._replica.stopping():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this replica is shutting down")
        if len(self._sessions) >= self._settings.streams_max:
            text = f"this replica holds {len(self._sessions)} sessions, the most allowed"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        session = HostSession(context, self._settings.waiting_messages_max)
        self._sessions.add(session)
        try:
            hello = await self._first_hello(context)
            refusal = self._refusal(hello, context)
            if refusal is not None:
                await abort(context, refusal)
            await context.send_initial_metadata(())
            ending = await session.serve(hello, lambda later: self._refusal(later, context), self._attach)
        finally:
            self._sessions.discard(session)
        if ending.code != "OK":
            await abort(context, ending)

    async def _first_hello(self, context: Context) -> host_pb2.Hello:
        timeout_s = self._settings.hello_timeout_ms / 1000
        try:
            async with asyncio.timeout(timeout_s):
                payload = await context.read()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no hello within {timeout_s:g} s")
        if payload is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the stream ended before a hello")
        try:
            message = host_pb2.HostMessage.FromString(payload)
        except DecodeError:
            await abort(context, malformed(payload))
        if not message.HasField("hello"):
            kind = message.WhichOneof("message") or "unknown"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the first message is no hello but {kind}")
        return message.hello

    def _refusal(self, hello: host_pb2.Hello, context: Context) -> Ending | None:
        """What can be said of a hello without the leader."""
        try:
            convert.hello_record(hello)
        except ValueError as error:
            return Ending("INVALID_ARGUMENT", str(error))
        if self._tls is None:
            return None
        identity = peer_spiffe_id(context.auth_context())
        if identity is None:
            return Ending("PERMISSION_DENIED", "the certificate has no SPIFFE id: hosts need ns/NAMESPACE/HOST")
        if self._trust_domain is not None and identity.trust_domain != self._trust_domain:
            text = f"SPIFFE ID of trust domain {identity.trust_domain}; only {self._trust_domain} is accepted"
            return Ending("PERMISSION_DENIED", text)
        if (identity.namespace, identity.app_id) != (hello.namespace, hello.name):
            theirs = f"{identity.namespace}/{identity.app_id}"
            text = f"the certificate is of {theirs}, not of {hello.namespace}/{hello.name}"
            return Ending("PERMISSION_DENIED", text)
        return None

    async def _attach(self, hello: host_pb2.Hello) -> Way | Ending:
        """The way to the leader, wherever it is by now."""
        own = self._replica.engine.replica_id
        try:
            async with asyncio.timeout(self._settings.leader_timeout_ms / 1000):
                while True:
                    office, leader = self._replica.office, self._replica.engine.leadership().leader
                    if office is not None and not office.closed:
                        way = await self._local_way(office, hello)
                        if way is not None:
                            return way
                    elif leader is not None and leader != own:
                        return self._relayed_way(leader)
                    await asyncio.sleep(LOOK_FOR_LEADER_S)
        except TimeoutError:
            return Ending("UNAVAILABLE", f"no leader within {self._settings.leader_timeout_ms} ms")

    async def _local_way(self, office: Office, hello: host_pb2.Hello) -> Way | Ending | None:
        runner = await _runner_of(office, hello.namespace)
        if isinstance(runner, NativeRunner):
            return LocalWay(runner, self._settings.waiting_messages_max)
        return runner

    def _relayed_way(self, leader: str) -> Way | Ending:
        if not self._settings.fronts:
            return Ending("FAILED_PRECONDITION", f"this replica does not lead and is no front; the leader is {leader}")
        address = dict(self._settings.replicas).get(leader)
        if address is None:
            return Ending("FAILED_PRECONDITION", f"the address of the leader {leader} is not known: set --replicas")
        if address not in self._channels:
            options: list[tuple[str, Any]] = [("grpc.max_receive_message_length", convert.MESSAGE_BYTES_MAX)]
            if self._tls is None:
                self._channels[address] = grpc.aio.insecure_channel(address, options)
            else:
                credentials = channel_credentials(self._tls)
                options.append(("grpc.ssl_target_name_override", leader))
                self._channels[address] = grpc.aio.secure_channel(address, credentials, options)
        return RelayedWay(self._channels[address])

    # -- relayed sessions --------------------------------------------------------------------------------

    async def relay(self, _requests: object, context: Context) -> None:
        """One session that another replica holds."""
        replicas = {name for name, _ in self._settings.replicas}
        if self._tls is not None and not peer_names(context.auth_context()) & replicas:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "only replicas relay: --replicas does not name you")
        outgoing = Outgoing(self._settings.waiting_messages_max)
        office = self._replica.office
        if office is None or office.closed:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{self._replica.engine.replica_id} does not lead")
        first = await context.read()
        if first is grpc.aio.EOF:
            return
        message = _relayed(first)
        if message is None or not message.message.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first relayed message is no hello")
        runner = await _runner_of(office, message.message.hello.namespace)
        if not isinstance(runner, NativeRunner):
            await abort(context, runner or Ending("UNAVAILABLE", "the office ended"))
        # Sent by itself, as for sessions: headers that leave with a message would be sent again by an `abort` that
        # interrupts that write, which gRPC refuses.
        await context.send_initial_metadata(())
        stream_id = runner.open(outgoing)
        try:
            runner.receive(stream_id, message.message, by_front=message.repeated_by_front)
            ending = await self._serve_relay(runner, stream_id, outgoing, context)
        except ValueError as error:
            ending = Ending("INVALID_ARGUMENT", str(error))
        finally:
            runner.disconnected(stream_id)
        await abort(context, ending)

    async def _serve_relay(self, runner: NativeRunner, stream_id: int, outgoing: Outgoing, context: Context) -> Ending:
        async def read() -> Ending:
            while (payload := await context.read()) is not grpc.aio.EOF:
                message = _relayed(payload)
                if message is None:
                    return malformed(payload)
                runner.receive(stream_id, message.message, by_front=message.repeated_by_front)
            return Ending("CANCELLED", "the front ended the session")

        async def write() -> Ending:
            while True:
                await context.write(await outgoing.next())

        tasks = [asyncio.ensure_future(step) for step in (outgoing.ended(), read(), write())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task for task in tasks if task.done()).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- tables for others -------------------------------------------------------------------------------

    async def watch(self, request: host_pb2.WatchRequest, context: Context) -> None:
        """Tables, from what this replica has applied."""
        try:
            convert.check_protocol_version(request.protocol_version)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        namespace = await self._namespace(request.namespace, context)
        if self._watch_count >= self._settings.streams_max:
            text = f"this replica holds {self._watch_count} watches, the most allowed"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        self._watch_count += 1
        watch = self.watches.open(request.namespace, namespace)
        watch.version, watch.digest = request.have_version, request.have_digest
        try:
            while request.namespace in self._replica.state.native:
                for table in watch.changes() or [b""]:
                    await context.write(table + self._staleness(namespace))
                await watch.wait(SIGN_OF_LIFE_S)
        finally:
            self._watch_count -= 1
            watch.close()
        await context.abort(grpc.StatusCode.NOT_FOUND, f"namespace {request.namespace} was deleted")

    def _staleness(self, namespace: NativeNamespace) -> bytes:
        """The fields of a WatchUpdate that say how old its tables may be."""
        update = host_pb2.WatchUpdate(
            policy=namespace.policy.value,
            applied_index=self._replica.state.applied_index,
            leader_known=self._replica.engine.leadership().leader is not None,
        )
        return update.SerializeToString()

    async def lookup(self, request: host_pb2.LookupRequest, context: Context) -> host_pb2.LookupReply:
        """The owner of an actor."""
        if request.linearizable:
            try:
                await self._replica.engine.barrier(timeout_ms=BARRIER_TIMEOUT_MS)
            except BarrierFailed as error:
                await context.abort(grpc.StatusCode.UNAVAILABLE, f"no linearizable read: {error}")
        namespace = await self._namespace(request.namespace, context)
        found = native_views.lookup(namespace, request.actor_type, request.actor_id)
        if found is None:
            text = f"no host of namespace {request.namespace} ever hosted actor type {request.actor_type!r}"
            await context.abort(grpc.StatusCode.NOT_FOUND, text)
        slot, owner, granted = found
        return host_pb2.LookupReply(
            slot=slot,
            version=namespace.version.wire,
            incarnation=owner.incarnation if owner is not None else 0,
            name=owner.name if owner is not None else "",
            address=owner.host.address if owner is not None else "",
            granted=granted,
            applied_index=self._replica.state.applied_index,
        )

    async def _namespace(self, name: str, context: Context) -> NativeNamespace:
        state = self._replica.state
        if name in state.namespaces:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"namespace {name} is for sidecars")
        if name not in state.native:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no namespace {name}")
        return state.native[name]


async def _runner_of(office: Office, namespace: str) -> NativeRunner | Ending | None:
    """None if it has to be tried again."""
    try:
        runner = await office.native_runner(namespace)
    except NamespaceRefusedError as error:
        return Ending("FAILED_PRECONDITION", str(error))
    except ProposalError as error:
        log.info("a namespace could not be created yet", namespace=namespace, reason=str(error))
        return None
    return None if office.closed else runner


def _relayed(payload: bytes) -> fronts_pb2.RelayedMessage | None:
    try:
        return fronts_pb2.RelayedMessage.FromString(payload)
    except DecodeError:
        return None
