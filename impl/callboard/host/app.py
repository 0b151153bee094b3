"""`Host`: what an application embeds to run actors, and `Router`: what one embeds only to call them."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
from attrs import field, frozen
from google.protobuf.message import DecodeError

from callboard import trace_file
from callboard.core.native_host_records import CancelTurns, Ended, Granted, StopAdmitting, Stopped, TableInstalled
from callboard.core.sidecar_protocol import SpiffeIdentity, parse_spiffe_id
from callboard.core.slot_records import WEIGHT_DEFAULT, NativeHostRecord
from callboard.core.table_delta import DeltaError, HostEntry, TableDelta, TableView, empty_view, patch
from callboard.core.versions import Policy
from callboard.host.actors import Actor, ActorType
from callboard.host.client import (
    MESSAGE_BYTES_MAX,
    CallSettings,
    Changes,
    Client,
    chain_of,
    failure_message,
)
from callboard.host.clock import SystemClock, now_ms
from callboard.host.errors import CallError, NotOwnerError, NotServedError
from callboard.host.limits import RuntimeLimits
from callboard.host.logs import library_logger
from callboard.host.runtime import Runtime
from callboard.host.session import Session
from callboard.host.sqlite import SqliteStore
from callboard.host.stores import StateStore
from callboard.protos import convert
from callboard.protos.generated import actors_pb2, host_pb2

log = library_logger(__name__)

SERVICE = "callboard.actors.v1.Actors"
WATCH = "/callboard.host.v1.Placement/Watch"
WATCH_SILENCE_S = 20.0


@frozen
class HostTls:
    """PEM files of a host. Its certificate names it as spiffe://DOMAIN/ns/NAMESPACE/HOST, and its address.

    `trust_domain`: if given, callers of other domains are refused, as replicas do with `--trust-domain`.
    """

    ca: Path
    certificate: Path
    key: Path
    trust_domain: str | None = None

    def channel(self) -> grpc.ChannelCredentials:
        """To call replicas and other hosts."""
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes())

    def server(self) -> grpc.ServerCredentials:
        """To be called."""
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], self.ca.read_bytes(), require_client_auth=True)


@frozen
class HostSettings:
    """What else can be set.

    `leave_timeout_ms`: how long a graceful leave may take before the host goes anyway. `linger_ms`: it then still tells
    callers with older tables that their actors have moved, until none has come for so long. `stop_grace_ms`: for calls
    that still run when the host stops in any other way.
    """

    weight: int = WEIGHT_DEFAULT
    labels: Mapping[str, str] = field(factory=dict)
    leave_timeout_ms: int = 20_000
    linger_ms: int = 1_000
    stop_grace_ms: int = 1_000
    calls: CallSettings = field(factory=CallSettings)
    limits: RuntimeLimits = field(factory=RuntimeLimits)


class Host:
    """Runs actors of one namespace. An async context manager: joins at its start, leaves in order at its end.

        async with Host(listen="127.0.0.1:7301", cluster="127.0.0.1:50005", actors=[Cart]) as host:
            count = await host.client.actor(Cart, "alice").add("sku-1", quantity=2)

    `listen`: where calls are answered, also the address that others dial unless `advertise` says otherwise. `cluster`:
    replicas, with commas. `store`: where actors keep state; default: the SQLite file `callboard-state.db` here.
    """

    def __init__(
        self,
        *,
        listen: str,
        cluster: str,
        actors: Sequence[type[Actor]],
        name: str | None = None,
        namespace: str = "default",
        policy: Policy = Policy.EXCLUSIVE,
        store: StateStore | None = None,
        advertise: str | None = None,
        tls: HostTls | None = None,
        settings: HostSettings | None = None,
    ) -> None:
        if not actors:
            raise ValueError("actors is empty: a program that hosts nothing uses Router")
        self.settings = settings or HostSettings()
        self.namespace = namespace
        self.policy = policy
        self.address = advertise or listen
        self.name = name or f"{socket.gethostname()}-{listen.rsplit(':', 1)[-1]}"
        self.store: StateStore = store or SqliteStore(Path("callboard-state.db"))
        self._listen = listen
        self._cluster = cluster.split(",")
        self._tls = tls
        self._kinds = {kind.name: kind for kind in map(ActorType.of, actors)}
        self._server: grpc.aio.Server | None = None
        self._session: Session | None = None
        self._changes = Changes()
        self._last_call_ms = 0
        self.runtime = Runtime(
            namespace=namespace,
            kinds=self._kinds,
            admission=lambda: self.session.machine,
            drained=lambda kind, slots: self.session.drained(kind, slots),  # noqa: PLW0108
            clock=SystemClock(),
            store=self.store,
            version=lambda: self.view.version if self.view is not None else 0,
            limits=self.settings.limits,
        )
        self.client = Client(
            namespace,
            self,
            now_ms,
            self.settings.calls,
            tls.channel() if tls is not None else None,
            lambda: self.session.machine.incarnation,
            self.runtime.call,
        )

    # -- life cycle --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def start(self) -> None:
        """Open the store, listen, and join.

        Raises:
            StoreUnavailableError, OSError (the address cannot be bound), HostRefusedError: with a one-line reason.
        """
        store_id = await self.store.open()
        try:
            await self._start_server()
            record = NativeHostRecord(
                name=self.name,
                address=self.address,
                actor_types=tuple(sorted(self._kinds)),
                process="-",
                labels=tuple(sorted(self.settings.labels.items())),
                weight=self.settings.weight,
                store_id=store_id,
            )
            self._session = Session(
                cluster=self._cluster,
                namespace=self.namespace,
                policy=self.policy,
                record=record,
                slots=self,
                credentials=self._tls.channel() if self._tls is not None else None,
                trace=trace_file.from_environment(f"host {self.name}"),
            )
            await self._session.start()
        except BaseException:
            await self.kill()
            raise

    async def _start_server(self) -> None:
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    SERVICE, {"Invoke": grpc.unary_unary_rpc_method_handler(self._invoke)}
                ),
            )
        )
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(self._listen)
            else:
                port = self._server.add_secure_port(self._listen, self._tls.server())
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._listen}: {error}") from None
        if self._listen.endswith(":0"):
            self.address = f"{self._listen[:-2]}:{port}"
        await self._server.start()

    async def leave(self) -> bool:
        """Drain, release, leave: callers see no error, only a pause. Whether all turns ended in time. Idempotent."""
        done = True
        if self._session is not None:
            self.runtime.begin_leaving()
            done = await self._session.leave(self.settings.leave_timeout_ms)
            await self._linger()
        # Calls that are here now are all refused: to cut them off would only hide from callers that they did not run.
        await self._stop(self.settings.leave_timeout_ms if done else self.settings.stop_grace_ms)
        return done

    async def _linger(self) -> None:
        """Callers with an older table still come: they are told, and go where the actor is now. gRPC's server drops
        calls that wait at its door when it stops, and their callers could not know that they did not run."""
        self._last_call_ms, end_ms = now_ms(), now_ms() + self.settings.leave_timeout_ms
        while True:
            left_ms = min(self._last_call_ms + self.settings.linger_ms, end_ms) - now_ms()
            if left_ms <= 0:
                return
            await asyncio.sleep(left_ms / 1000)

    async def kill(self) -> None:
        """Stop at once: the cluster waits for the lease to run out. Idempotent."""
        await self._stop(self.settings.stop_grace_ms)

    async def _stop(self, calls_grace_ms: int) -> None:
        if self._session is not None:
            await self._session.stop()
        if self._server is not None:
            await self._server.stop(calls_grace_ms / 1000)
            self._server = None
        await self.runtime.close()
        await self.client.close()
        await self.store.close()

    async def serve_until_signal(self) -> None:
        """Return at SIGTERM or SIGINT (then leave), or when this host must not serve any more."""
        loop, asked = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked.set)
        asking = asyncio.ensure_future(asked.wait())
        stopped = asyncio.ensure_future(self.stopped())
        await asyncio.wait((asking, stopped), return_when=asyncio.FIRST_COMPLETED)
        asking.cancel()
        stopped.cancel()

    async def stopped(self) -> Stopped:
        """Return once this host is out of the namespace for good. Cancel-safe."""
        return await self.session.stopped()

    @property
    def session(self) -> Session:
        """The session with the cluster. Raises RuntimeError before `start`."""
        if self._session is None:
            raise RuntimeError("the host is not started")
        return self._session

    # -- tables, for the client --------------------------------------------------------------------------

    @property
    def view(self) -> TableView | None:
        """The newest table."""
        return self._session.machine.view if self._session is not None else None

    @property
    def trouble(self) -> str:
        """Why there is no table."""
        return "" if self.view is not None else "this host has not joined yet"

    async def changed(self, timeout_s: float) -> None:
        """Until another table is installed, or the time is over."""
        await self._changes.wait(timeout_s)

    # -- slots, for the session --------------------------------------------------------------------------

    def granted(self, effect: Granted) -> None:
        """See `Slots`."""
        self._know_slot_bits()
        self.runtime.granted(effect)

    def stop_admitting(self, effect: StopAdmitting) -> None:
        """See `Slots`."""
        self.runtime.stop_admitting(effect)

    def cancel(self, effect: CancelTurns) -> None:
        """See `Slots`."""
        self.runtime.cancel(effect)

    def ended(self, effect: Ended) -> None:
        """See `Slots`."""
        self.runtime.ended(effect)

    def lease_renewed(self) -> None:
        """See `Slots`."""
        self.runtime.wake_early_calls()

    def table_installed(self, _effect: TableInstalled) -> None:
        """See `Slots`."""
        self._know_slot_bits()
        self.runtime.wake_early_calls()
        self._changes.notify()
        if self.view is not None:
            self.client.follow(self.view)

    def _know_slot_bits(self) -> None:
        if self.view is not None:
            self.runtime.slot_bits = self.view.slot_bits

    # -- calls from others -------------------------------------------------------------------------------

    async def _invoke(self, payload: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        self._last_call_ms = now_ms()
        try:
            request = actors_pb2.InvokeRequest.FromString(payload)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{len(payload)} bytes are no InvokeRequest")
        refusal = self._stranger(request, context)
        if refusal:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)
        left_s = context.time_remaining()
        timeout_ms = self.settings.calls.timeout_ms if left_s is None else int(left_s * 1000)
        try:
            if self.view is None:
                raise NotServedError("this host has no table yet")
            result = await self.runtime.call(
                request.actor_type,
                request.actor_id,
                request.method,
                request.arguments,
                deadline_ms=now_ms() + timeout_ms,
                chain=chain_of(request),
            )
        except CallError as error:
            if isinstance(error, NotOwnerError):
                error.owner = self._successor(request.actor_type, request.actor_id)
            return actors_pb2.InvokeReply(failure=failure_message(error)).SerializeToString()
        return actors_pb2.InvokeReply(result=result).SerializeToString()

    def _successor(self, actor_type: str, actor_id: str) -> HostEntry | None:
        """Who has the actor by our table, unless that is us (who are just letting go of it)."""
        owner = self.client.owner(actor_type, actor_id)
        return None if owner is None or owner.incarnation == self.session.machine.incarnation else owner

    def _stranger(self, request: actors_pb2.InvokeRequest, context: grpc.aio.ServicerContext[Any, Any]) -> str:
        """Why the caller may not call, or nothing."""
        if request.namespace != self.namespace:
            return f"this host is of namespace {self.namespace}, not {request.namespace}"
        if self._tls is None:
            return ""
        names = [name.decode("utf-8", "replace") for name in context.auth_context().get("peer_spiffe_id", ())]
        identities = [identity for name in names if (identity := parse_spiffe_id(name)) is not None]
        if any(identity.namespace == self.namespace and self._trusts(identity) for identity in identities):
            return ""
        return f"the certificate is of {', '.join(names) or 'nobody'}, not of a host of namespace {self.namespace}"

    def _trusts(self, identity: SpiffeIdentity) -> bool:
        return self._tls is None or self._tls.trust_domain in {None, identity.trust_domain}


@frozen
class Watched:
    """What the replica whose tables a router watches last said: how old they may be.

    `applied_index`: of its log. `leader_known`: False if it has lost its leader, so that its tables may be older than
    others'; the router goes on to another replica. `heard_ms`: when it spoke last, on the clock of leases; it speaks
    every few seconds.
    """

    replica: str
    applied_index: int
    leader_known: bool
    heard_ms: int


class Router:
    """Calls actors of one namespace without hosting any: watches the tables at some replica."""

    def __init__(
        self,
        *,
        cluster: str,
        namespace: str = "default",
        credentials: grpc.ChannelCredentials | None = None,
        calls: CallSettings | None = None,
    ) -> None:
        self.namespace = namespace
        self._cluster = cluster.split(",")
        self._credentials = credentials
        self._changes = Changes()
        self._view: TableView | None = None
        self._watching: asyncio.Task[None] | None = None
        self.watched: Watched | None = None
        """None before the first word of any replica."""
        self.trouble = "no replica has answered"
        """Why the last watch ended."""
        self.client = Client(namespace, self, now_ms, calls or CallSettings(), credentials)

    async def __aenter__(self) -> Self:
        self._watching = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.client.close()

    @property
    def view(self) -> TableView | None:
        """The newest table; None before the first."""
        return self._view

    async def changed(self, timeout_s: float) -> None:
        """Until another table is installed, or the time is over."""
        await self._changes.wait(timeout_s)

    async def _watch(self) -> None:
        attempt = failures = 0
        while True:
            address = self._cluster[attempt % len(self._cluster)]
            attempt += 1
            heard = self.watched
            try:
                await self._watch_at(address)
                self.trouble = f"{address} has lost its leader"
            except grpc.aio.AioRpcError as error:
                self.trouble = f"{address}: {error.code().name}: {error.details()}"
            except (DeltaError, ValueError, TimeoutError) as error:
                self.trouble = f"{address}: {error or 'silent'}"
            log.debug("a watch ended", namespace=self.namespace, reason=self.trouble)
            spoke = self.watched is not None and self.watched is not heard and self.watched.leader_known
            failures = 0 if spoke else failures + 1
            await asyncio.sleep(min(0.05 * 2**failures, 1.0))

    async def _watch_at(self, address: str) -> None:
        """Follow one replica for as long as it knows a leader."""
        options = [
            ("grpc.max_receive_message_length", convert.MESSAGE_BYTES_MAX),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        channel = (
            grpc.aio.insecure_channel(address, options)
            if self._credentials is None
            else grpc.aio.secure_channel(address, self._credentials, options)
        )
        async with channel:
            view = self._view
            request = host_pb2.WatchRequest(
                namespace=self.namespace,
                protocol_version=convert.PROTOCOL_VERSION,
                have_version=view.version if view is not None else 0,
                have_digest=view.digest if view is not None else b"",
            )
            call: grpc.aio.UnaryStreamCall[Any, Any] = channel.unary_stream(
                WATCH,
                request_serializer=host_pb2.WatchRequest.SerializeToString,
                response_deserializer=host_pb2.WatchUpdate.FromString,
            )(request)
            while True:
                async with asyncio.timeout(WATCH_SILENCE_S):
                    update = await call.read()
                if not isinstance(update, host_pb2.WatchUpdate):
                    return
                if update.HasField("table"):
                    self._install(convert.delta_record(update.table))
                self.watched = Watched(address, update.applied_index, update.leader_known, now_ms())
                if not update.leader_known:
                    return

    def _install(self, delta: TableDelta) -> None:
        self._view = patch(self._view if self._view is not None else empty_view(delta.slot_bits), delta)
        self._changes.notify()
        self.client.follow(self._view)
