"""One replica: engine, replicated state, gRPC and HTTP listeners, and the office while it leads."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import grpc
import grpc.aio
import structlog

from callboard.consensus.interface import Engine, Leadership, ProposalError
from callboard.core.records import ReplicatedState
from callboard.core.tracing import TraceSink
from callboard.protos.generated import placement_pb2
from callboard.server.admin_service import AdminService
from callboard.server.engines import build_engine
from callboard.server.http import AdminHttp, NotInOfficeError
from callboard.server.listening import check_can_bind
from callboard.server.machine import ReplicatedMachine
from callboard.server.metrics import Metrics
from callboard.server.namespace_runner import NamespaceRunner
from callboard.server.native_metrics import NativeCollector
from callboard.server.native_runner import NativeRunner
from callboard.server.native_service import NativeService
from callboard.server.office import Office
from callboard.server.settings import EngineName, ServerSettings
from callboard.server.sidecar_service import SidecarService, not_leader_text
from callboard.server.tls import grpc_credentials, http_context
from callboard.trace_file import TraceFile

log = structlog.get_logger(__name__)

TAKE_OFFICE_PAUSE_MS = 100


class StartError(Exception):
    """The replica cannot start; the message is one line."""


class Replica:
    """A placement server. `start`, then `wait_failed` or a signal, then `stop`."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.machine = ReplicatedMachine(_trace_file(settings))
        self.engine: Engine = build_engine(settings, self.machine)
        self.office: Office | None = None
        self._tls = settings.tls
        self._grpc: grpc.aio.Server | None = None
        self._native: NativeService | None = None
        self._http = AdminHttp(
            self,
            self.metrics,
            metadata_enabled=settings.metadata_enabled,
            tls=http_context(settings.tls) if settings.tls else None,
        )
        self._taking_office: asyncio.Task[None] | None = None
        self._term_in_office = -1
        self._office_taken = asyncio.Event()
        self._halted: asyncio.Future[str] | None = None
        self._watching_engine: asyncio.Task[None] | None = None
        self._failure: str | None = None
        self._stopping = False
        self.grpc_port = settings.port
        self.healthz_port = settings.healthz_port
        self.metrics.registry.register(NativeCollector(self))

    # -- life cycle --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open everything. On failure all that was opened is closed again.

        Raises:
            StartError, EngineStartError, AddressError, TlsFileError: with a one-line reason.
        """
        self._halted = asyncio.get_running_loop().create_future()
        self.machine.observe(self._on_state)
        self.machine.observe_halt(self._on_halt)
        self.engine.observe_leadership(self._on_leadership)
        try:
            check_can_bind("--port", self.settings.listen_address, self.settings.port)
            self.healthz_port = await self._http.start_health(self.settings.healthz_address, self.settings.healthz_port)
            if self.settings.metrics_enabled:
                await self._http.start_metrics(self.settings.metrics_address, self.settings.metrics_port)
            self._check_data_dir()
            await self.engine.start()
            self._watching_engine = asyncio.ensure_future(self._watch_engine())
            await self._start_grpc()
        except BaseException:
            await self.stop()
            raise
        log.info(
            "replica started",
            replica=self.settings.replica_id,
            engine=self.engine.status().engine,
            port=self.grpc_port,
            tls=self._tls is not None,
        )
        self._on_leadership(self.engine.leadership())

    def _check_data_dir(self) -> None:
        directory = self.settings.engine.data_dir
        if directory is None or self.settings.engine.name is EngineName.MEMORY:
            return
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            raise StartError(
                f"cannot write the data directory {directory}: {error.strerror}; "
                "set another one with --data-dir (or --raft-logstore-path)"
            ) from None

    async def _start_grpc(self) -> None:
        sidecars = self.settings.sidecars
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", sidecars.keepalive_time_ms),
                ("grpc.keepalive_timeout_ms", sidecars.keepalive_timeout_ms),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 1000),
                ("grpc.max_receive_message_length", sidecars.message_bytes_max),
                ("grpc.max_send_message_length", -1),
            ],
        )
        service = SidecarService(self, sidecars, tls=self._tls is not None, trust_domain=self.settings.trust_domain)
        admin = AdminService(self, sidecars.replication_factor, self.settings)
        native = NativeService(self, self.settings.native, tls=self._tls, trust_domain=self.settings.trust_domain)
        self.machine.observe(native.watches.on_state)
        self._native = native
        server.add_generic_rpc_handlers((service.handlers(), admin.handlers(), *native.handlers()))
        address = f"{_bracketed(self.settings.listen_address)}:{self.settings.port}"
        if self._tls is not None:
            self.grpc_port = server.add_secure_port(address, grpc_credentials(self._tls))
        else:
            self.grpc_port = server.add_insecure_port(address)
        await server.start()
        self._grpc = server

    async def stop(self) -> None:
        """End streams, close listeners, stop the engine. Idempotent. Members stay: a stop is no departure of hosts."""
        self._stopping = True
        if self._taking_office is not None:
            self._taking_office.cancel()
        self._leave_office("UNAVAILABLE", "placement server is shutting down")
        if self._native is not None:
            await self._native.close()
        if self._grpc is not None:
            await self._grpc.stop(self.settings.stop_grace_ms / 1000)
            self._grpc = None
        if self._watching_engine is not None:
            self._watching_engine.cancel()
        await self.engine.stop()
        await self._http.stop()

    async def wait_failed(self) -> str:
        """Return the reason once this replica cannot go on. Cancel-safe."""
        assert self._halted is not None, "start() comes first"
        return await asyncio.shield(self._halted)

    async def _watch_engine(self) -> None:
        reason = await self.engine.wait_failed()
        self._on_halt(f"the consensus engine stopped: {reason}")

    def _on_halt(self, reason: str) -> None:
        self._failure = reason
        log.error("replica cannot go on", reason=reason)
        if self._halted is not None and not self._halted.done():
            self._halted.set_result(reason)

    # -- leadership --------------------------------------------------------------------------------------

    def _on_leadership(self, leadership: Leadership) -> None:
        self.metrics.term.set(leadership.term)
        self.metrics.raft_leader_status.set(int(leadership.is_local))
        if not leadership.is_local:
            if self._taking_office is not None:
                self._taking_office.cancel()
                self._taking_office = None
            self._leave_office("FAILED_PRECONDITION", not_leader_text(self.settings.replica_id))
        elif leadership.term != self._term_in_office and not self._stopping:
            self._leave_office("FAILED_PRECONDITION", not_leader_text(self.settings.replica_id))
            self._term_in_office = leadership.term
            if self._taking_office is not None:
                self._taking_office.cancel()
            self._taking_office = asyncio.ensure_future(self._take_office())

    async def _take_office(self) -> None:
        while not self._stopping:
            try:
                office = await Office.take(self.engine, self.machine, self.metrics, self.settings, self._on_deposed)
            except ProposalError as error:
                log.info("could not take office yet", reason=str(error))
                await asyncio.sleep(TAKE_OFFICE_PAUSE_MS / 1000)
                continue
            except Exception as error:
                log.exception("taking office failed")
                self._on_halt(f"taking office failed: {error!r}")  # elected for ever and never in office helps nobody
                return
            if self.machine.state.epoch != office.epoch:
                office.close("FAILED_PRECONDITION", not_leader_text(self.settings.replica_id))
                continue
            self.office = office
            self._office_taken.set()
            self.metrics.leader_status.set(1)
            return

    def _on_deposed(self, reason: str) -> None:
        log.info("deposed", reason=reason)
        self._leave_office("FAILED_PRECONDITION", not_leader_text(self.settings.replica_id))
        leadership = self.engine.leadership()
        if leadership.is_local and not self._stopping:  # a late command of an older office: begin a newer epoch
            if self._taking_office is not None:
                self._taking_office.cancel()
            self._taking_office = asyncio.ensure_future(self._take_office())

    async def wait_in_office(self) -> Office:
        """Return the office as soon as there is one. Cancel-safe."""
        while self.office is None:
            await self._office_taken.wait()
        return self.office

    def renew_office(self, reason: str) -> None:
        """Begin a new epoch, with all that hangs on it: after a restore the members get their grace period."""
        self._on_deposed(reason)

    def _leave_office(self, code: str, text: str) -> None:
        office, self.office = self.office, None
        self._office_taken.clear()
        self._term_in_office = -1
        self.metrics.leader_status.set(0)
        if office is not None:
            log.info("left office", epoch=office.epoch, reason=text)
            office.close(code, text)

    def _on_state(self, before: ReplicatedState, after: ReplicatedState) -> None:
        self.metrics.applied_index.set(after.applied_index)
        self.metrics.epoch.set(after.epoch)
        for name, namespace in after.namespaces.items():
            if before.namespaces.get(name) is not namespace:
                self.metrics.members.labels(name).set(len(namespace.members))
                self.metrics.table_version.labels(name).set(namespace.version.wire)
        if self.office is not None:
            self.office.notice(before, after)

    # -- views for the HTTP and gRPC services ------------------------------------------------------------

    @property
    def state(self) -> ReplicatedState:
        """The replicated state as applied here."""
        return self.machine.state

    def leader_id(self) -> str | None:
        """Id of the replica that this one takes for the leader."""
        return self.engine.leadership().leader

    def in_office(self) -> bool:
        """Whether this replica serves hosts as leader."""
        return self.office is not None

    def stopping(self) -> bool:
        """Whether new streams must be refused because the server shuts down."""
        return self._stopping

    def runners(self) -> dict[str, NamespaceRunner]:
        """Runners of all namespaces while in office."""
        return dict(self.office.runners) if self.office is not None else {}

    def native_runners(self) -> dict[str, NativeRunner]:
        """Runners of all native namespaces while in office."""
        return dict(self.office.native_runners) if self.office is not None else {}

    def failure(self) -> str | None:
        """Why the replica cannot go on, for /healthz."""
        return self._failure

    def unready(self) -> str | None:
        """Why the replica is not ready, for /readyz: ready means in office, or following a known leader."""
        if self._stopping:
            return "stopping"
        if self._grpc is None:
            return "starting"
        leadership = self.engine.leadership()
        if leadership.leader is None:
            return "no leader is known"
        if leadership.is_local and self.office is None:
            return "elected, but not in office yet"
        return None

    def placement_state(self) -> dict[str, object]:
        """Upstream's JSON of /placement/state. Raises NotInOfficeError."""
        if self.office is None:
            raise NotInOfficeError(not_leader_text(self.settings.replica_id))
        tables: dict[str, Any] = {}
        for name, runner in sorted(self.office.runners.items()):
            namespace = self.state.namespaces[name]
            reports = runner.reports()
            hosts = []
            for member in namespace.members.values():
                report = reports.get(member.name, placement_pb2.Host(operation=placement_pb2.REPORT))
                known = {
                    "name": member.name,
                    "port": member.host.port,
                    "load": report.load,
                    "entities": list(member.host.actor_types),
                    "id": member.host.app_id,
                    "pod": report.pod,
                    "api_level": report.api_level,
                    "namespace": name,
                    "operation": report.operation,
                }
                hosts.append({key: value for key, value in known.items() if value})
            tables[name] = {"hosts": hosts, "version": namespace.version.wire} if hosts else {}
        return {"tables": tables} if tables else {}


def _trace_file(settings: ServerSettings) -> TraceSink | None:
    if settings.trace_file is None:
        return None
    try:
        return TraceFile(settings.trace_file, f"replica {settings.replica_id}")
    except OSError as error:
        raise StartError(f"cannot write --trace-file {settings.trace_file}: {error.strerror}") from None


def _bracketed(host: str) -> str:
    if not host:
        return "[::]"
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
