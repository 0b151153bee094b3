"""The gRPC service for operators: status, members, lookups. Any replica answers; reads can be made linearizable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import grpc
import grpc.aio

from callboard import __version__
from callboard.consensus.interface import BarrierFailed, Engine, ProposalError
from callboard.core.records import Member, Namespace, ReplicatedState
from callboard.core.ring import Ring
from callboard.core.snapshot import digest, encode_state
from callboard.protos.generated import admin_pb2
from callboard.server import native_views
from callboard.server.admin_changes import AdminChanges, ChangedReplica
from callboard.server.namespace_runner import NamespaceRunner
from callboard.server.native_runner import NativeRunner
from callboard.server.restore import RestorableReplica, RestoreRefusedError, restore
from callboard.server.settings import BARRIER_TIMEOUT_MS, ServerSettings
from callboard.server.tls import peer_names

SERVICE = "callboard.admin.v1.Admin"
WAITING_SHOWN_MAX = 100


CHUNK_BYTES = 256 * 1024
RESTORE_BYTES_MAX = 256 * 1024 * 1024
Context = grpc.aio.ServicerContext[Any, Any]


class ReplicaView(RestorableReplica, ChangedReplica, Protocol):
    """What the admin service reads of the replica."""

    @property
    def engine(self) -> Engine:
        """The consensus engine."""

    @property
    def state(self) -> ReplicatedState:
        """The replicated state as applied here."""

    def runners(self) -> dict[str, NamespaceRunner]:
        """Runners of all namespaces while this replica is in office, else nothing."""

    def native_runners(self) -> dict[str, NativeRunner]:
        """Runners of native namespaces while in office."""

    def in_office(self) -> bool:
        """Whether this replica serves hosts as leader."""


class AdminService:
    """Handlers of callboard.admin.v1.Admin."""

    def __init__(self, replica: ReplicaView, replication_factor: int, settings: ServerSettings) -> None:
        self._replica = replica
        self._replication_factor = replication_factor
        self._settings = settings
        self._changes = AdminChanges(replica, settings.native.handoff, self._require_operator)
        self._ring: tuple[tuple[str, int, str], Ring] | None = None

    def handlers(self) -> grpc.GenericRpcHandler:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""

        def unary(method: Callable[..., Awaitable[Any]], request: Any, reply: Any) -> grpc.RpcMethodHandler[Any, Any]:
            return grpc.unary_unary_rpc_method_handler(
                method, request_deserializer=request.FromString, response_serializer=reply.SerializeToString
            )

        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Status": unary(self.status, admin_pb2.StatusRequest, admin_pb2.StatusReply),
                "ListMembers": unary(self.list_members, admin_pb2.ListMembersRequest, admin_pb2.ListMembersReply),
                "Lookup": unary(self.lookup, admin_pb2.LookupRequest, admin_pb2.LookupReply),
                "CreateNamespace": unary(
                    self._changes.create_namespace, admin_pb2.CreateNamespaceRequest, admin_pb2.ChangeReply
                ),
                "DeleteNamespace": unary(
                    self._changes.delete_namespace, admin_pb2.DeleteNamespaceRequest, admin_pb2.ChangeReply
                ),
                "MarkHost": unary(self._changes.mark_host, admin_pb2.MarkHostRequest, admin_pb2.ChangeReply),
                "RemoveHost": unary(self._changes.remove_host, admin_pb2.RemoveHostRequest, admin_pb2.ChangeReply),
                "Handoff": unary(self.handoff, admin_pb2.HandoffRequest, admin_pb2.HandoffReply),
                "Backup": grpc.unary_stream_rpc_method_handler(
                    self.backup,
                    request_deserializer=admin_pb2.BackupRequest.FromString,
                    response_serializer=admin_pb2.BackupChunk.SerializeToString,
                ),
                "Restore": grpc.stream_unary_rpc_method_handler(
                    self.restore,
                    request_deserializer=admin_pb2.RestoreChunk.FromString,
                    response_serializer=admin_pb2.RestoreReply.SerializeToString,
                ),
            },
        )

    async def status(self, request: admin_pb2.StatusRequest, context: Context) -> admin_pb2.StatusReply:
        """Status of this replica."""
        await self._confirm(request.linearizable, context)
        engine, state = self._replica.engine.status(), self._replica.state
        leadership = engine.leadership
        runners = self._replica.runners()
        return admin_pb2.StatusReply(
            replica_id=engine.replica_id,
            callboard_version=__version__,
            leader=leadership.leader or "",
            term=leadership.term,
            is_leader=leadership.is_local,
            in_office=self._replica.in_office(),
            epoch=state.epoch,
            generation=state.generation,
            feature_level=state.feature_level,
            engine=engine.engine,
            durable=engine.durable,
            applied_index=engine.applied_index,
            commit_index=engine.commit_index,
            state_digest=digest(state),
            peers_connected=engine.peers_connected,
            namespaces=[
                *(_namespace_status(name, kept, runners.get(name)) for name, kept in state.namespaces.items()),
                *(native_views.namespace_status(name, kept) for name, kept in state.native.items()),
            ],
            engine_details=dict(engine.details),
        )

    async def list_members(self, request: admin_pb2.ListMembersRequest, context: Context) -> admin_pb2.ListMembersReply:
        """Members by namespace and name."""
        await self._confirm(request.linearizable, context)
        state, runners, native_runners = self._replica.state, self._replica.runners(), self._replica.native_runners()
        if request.namespace and request.namespace not in state.namespaces.keys() | state.native.keys():
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no namespace {request.namespace}")
        reply = admin_pb2.ListMembersReply(applied_index=state.applied_index)
        for name, namespace in sorted(state.namespaces.items()):
            if request.namespace in {"", name}:
                connected = runners[name].connected_names() if name in runners else None
                reply.members.extend(_member(name, member, connected) for member in namespace.members.values())
        for name, native in sorted(state.native.items()):
            if request.namespace in {"", name}:
                runner = native_runners.get(name)
                reply.members.extend(native_views.members(name, native, None if runner is None else runner.leases()))
        return reply

    async def lookup(self, request: admin_pb2.LookupRequest, context: Context) -> admin_pb2.LookupReply:
        """The owner of an actor, by the same ring that sidecars compute."""
        if not request.actor_type or not request.actor_id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "actor_type and actor_id must be given")
        await self._confirm(request.linearizable, context)
        state = self._replica.state
        name = request.namespace or "default"
        if name in state.native:
            return await self._native_lookup(state, name, request, context)
        namespace = state.namespaces.get(name)
        if namespace is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no namespace {name}")
        owner = self._owner(name, namespace, request.actor_type, request.actor_id)
        if owner is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no host of namespace {name} hosts actor type {request.actor_type}"
            )
        return admin_pb2.LookupReply(
            host=owner.name,
            app_id=owner.host.app_id,
            version=namespace.version.wire,
            applied_index=state.applied_index,
        )

    async def _native_lookup(
        self, state: ReplicatedState, name: str, request: admin_pb2.LookupRequest, context: Context
    ) -> admin_pb2.LookupReply:
        namespace = state.native[name]
        found = native_views.lookup(namespace, request.actor_type, request.actor_id)
        slot, owner, granted = found or (0, None, False)
        if owner is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no host of namespace {name} hosts actor type {request.actor_type}"
            )
        return admin_pb2.LookupReply(
            host=owner.name,
            version=namespace.version.wire,
            applied_index=state.applied_index,
            slot=slot,
            incarnation=owner.incarnation,
            granted=granted,
            address=owner.host.address,
        )

    async def handoff(self, request: admin_pb2.HandoffRequest, context: Context) -> admin_pb2.HandoffReply:
        """Slots that wait, from the replicated state; in office with what the leader knows of the reasons."""
        state = self._replica.state
        if request.namespace and request.namespace not in state.native:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no native namespace {request.namespace}")
        reply = admin_pb2.HandoffReply(applied_index=state.applied_index, in_office=self._replica.in_office())
        for name, namespace in sorted(state.native.items()):
            if request.namespace in {"", name}:
                runner = self._replica.native_runners().get(name)
                known = (
                    native_views.waiting(name, namespace)
                    if runner is None
                    else (native_views.explained(name, namespace, runner.handoffs()))
                )
                reply.waiting.extend(known)
        return reply

    def _owner(self, name: str, namespace: Namespace, actor_type: str, actor_id: str) -> Member | None:
        hosts = [member.name for member in namespace.members.values() if actor_type in member.host.actor_types]
        if not hosts:
            return None
        key = (name, namespace.version.wire, actor_type)
        if self._ring is None or self._ring[0] != key:
            self._ring = (key, Ring(hosts, self._replication_factor))
        owner = self._ring[1].lookup(actor_id)
        return None if owner is None else namespace.members[owner]

    async def backup(self, _request: admin_pb2.BackupRequest, context: Context) -> None:
        """The replicated state in chunks."""
        await self._require_operator(context)
        await self._confirm(True, context)
        content = encode_state(self._replica.state)
        for start in range(0, len(content), CHUNK_BYTES):
            await context.write(admin_pb2.BackupChunk(content=content[start : start + CHUNK_BYTES]))

    async def restore(self, chunks: AsyncIterator[admin_pb2.RestoreChunk], context: Context) -> admin_pb2.RestoreReply:
        """Fill an empty cluster; see `callboard.server.restore`."""
        await self._require_operator(context)
        leader = self._replica.engine.leadership().leader
        if not self._replica.in_office():
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"only the leader can restore; it is {leader or 'not known'}"
            )
        content, at_least_generation = bytearray(), 0
        async for chunk in chunks:
            content += chunk.content
            at_least_generation = max(at_least_generation, chunk.at_least_generation)
            if len(content) > RESTORE_BYTES_MAX:
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, f"the backup has more than {RESTORE_BYTES_MAX} bytes"
                )
        try:
            restored = await restore(self._replica, bytes(content), at_least_generation)
        except RestoreRefusedError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except ProposalError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{error}; the restore of the same file can be repeated")
        return admin_pb2.RestoreReply(
            generation=restored.generation, namespaces=restored.namespaces, members=restored.members
        )

    async def _require_operator(self, context: Context) -> None:
        """With TLS, only certificates that --operators names; without, whoever reaches the port."""
        if self._settings.tls is None or peer_names(context.auth_context()) & self._settings.operators:
            return
        await context.abort(
            grpc.StatusCode.PERMISSION_DENIED, "this call is for operators: name your certificate in --operators"
        )

    async def _confirm(self, linearizable: bool, context: Context) -> None:
        if not linearizable:
            return
        try:
            await self._replica.engine.barrier(timeout_ms=BARRIER_TIMEOUT_MS)
        except BarrierFailed as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"no linearizable read: {error}")


def _namespace_status(name: str, namespace: Namespace, runner: NamespaceRunner | None) -> admin_pb2.NamespaceStatus:
    actor_types = {kind for member in namespace.members.values() for kind in member.host.actor_types}
    status = admin_pb2.NamespaceStatus(
        name=name,
        policy=namespace.policy.value,
        version=namespace.version.wire,
        members=len(namespace.members),
        actor_types=len(actor_types),
    )
    if runner is not None:
        status.streams = runner.stream_count()
        status.round = runner.phase()
        status.waiting_for.extend(runner.waiting_for()[:WAITING_SHOWN_MAX])
        status.table_bytes = runner.table_bytes()
    return status


def _member(namespace: str, member: Member, connected: frozenset[str] | None) -> admin_pb2.Member:
    state = "" if connected is None else "connected" if member.name in connected else "grace"
    return admin_pb2.Member(
        namespace=namespace,
        name=member.name,
        incarnation=member.incarnation,
        app_id=member.host.app_id,
        actor_types=member.host.actor_types,
        state=state,
    )
