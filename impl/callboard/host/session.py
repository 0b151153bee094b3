"""A host's session with the cluster: drives the core's `NativeHost` over gRPC, and keeps a stream to some replica open.

The machine decides; this module gives it time and messages and carries its effects out. When an incarnation is over a
new machine takes its place, with a new process token.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Protocol, assert_never

import grpc
import grpc.aio
from attrs import evolve, frozen

from callboard import __version__
from callboard.core.handoff_messages import Tick
from callboard.core.native_host import HELLO_REPEAT_MS, NativeHost
from callboard.core.native_host_records import (
    AnswerReceived,
    BecomeNewIncarnation,
    CancelTurns,
    Connected,
    Disconnected,
    Drained,
    Ended,
    GoneReceived,
    Granted,
    GrantsReceived,
    HostEffect,
    HostEvent,
    LeaveRequested,
    SendFarewell,
    SendHello,
    SendRenewal,
    SendTableRequest,
    StopAdmitting,
    Stopped,
    TableInstalled,
    TableReceived,
    WelcomeReceived,
)
from callboard.core.slot_records import NativeHostRecord
from callboard.core.tracing import TraceSink
from callboard.core.versions import Policy
from callboard.host.clock import now_ms
from callboard.host.logs import library_logger
from callboard.protos import convert
from callboard.protos.generated import host_pb2

log = library_logger(__name__)

SESSION = "/callboard.host.v1.Placement/Session"
OUTGOING_MAX = 1024
SILENCE_MIN_MS = 2 * HELLO_REPEAT_MS
"""So that a hello is repeated before a stream is given up."""
DISMISSAL_MS = 5000
"""How long the answer to a farewell is waited for."""


@frozen
class Reconnecting:
    """Pauses between attempts to reach a replica: doubled from the first to the longest, each cut by a random part.

    Raises ValueError if `silence_ms` leaves no time to say hello twice, as a process has to that wants the name of
    another one that is still connected.
    """

    first_ms: int = 50
    longest_ms: int = 2000
    silence_ms: int = 10_000
    """A stream on which nothing came for so long is given up."""

    def __attrs_post_init__(self) -> None:
        if self.silence_ms < SILENCE_MIN_MS:
            raise ValueError(f"silence_ms {self.silence_ms} is below {SILENCE_MIN_MS}, in which a hello is repeated")


class HostRefusedError(Exception):
    """Every replica refused this host for a reason that will not go away; the message has the last one."""


class Slots(Protocol):
    """What the session tells the runtime of actors. All calls come in the thread of the event loop."""

    def granted(self, effect: Granted) -> None:
        """These slots may be served."""

    def stop_admitting(self, effect: StopAdmitting) -> None:
        """Drain these slots; answer with `Session.drained`."""

    def cancel(self, effect: CancelTurns) -> None:
        """Cancel what still runs there."""

    def ended(self, effect: Ended) -> None:
        """The gate of these slots is shut."""

    def table_installed(self, effect: TableInstalled) -> None:
        """Another table is in use."""

    def lease_renewed(self) -> None:
        """An answer came: calls that were not admitted because too little of the lease was left may be now."""


class Session:
    """Keeps one host a member. `start`, then `leave` or `stop`."""

    def __init__(
        self,
        *,
        cluster: Sequence[str],
        namespace: str,
        policy: Policy,
        record: NativeHostRecord,
        slots: Slots,
        credentials: grpc.ChannelCredentials | None = None,
        reconnecting: Reconnecting | None = None,
        clock: Callable[[], int] = now_ms,
        trace: TraceSink | None = None,
    ) -> None:
        self._cluster = list(cluster)
        self._namespace = namespace
        self._policy = policy
        self._record = record
        self._slots = slots
        self._credentials = credentials
        self._reconnecting = reconnecting or Reconnecting()
        self._clock = clock
        self._trace = trace
        self._connections = 0
        self._outgoing: asyncio.Queue[host_pb2.HostMessage] | None = None
        self._reading: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._over: asyncio.Future[Stopped] | None = None
        self._welcomed = asyncio.Event()
        self._dismissed = asyncio.Event()
        """The leader answered the farewell."""
        self._leaving = False
        self.streams_ended = 0
        """How often a stream to a replica ended."""
        self.machine = self._new_machine()

    def _new_machine(self) -> NativeHost:
        record = evolve(self._record, process=secrets.token_hex(8))
        return NativeHost(self._namespace, self._policy, record, self._trace)

    # -- life cycle --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect and become a member. Raises HostRefusedError, also if another process took the name meanwhile."""
        self._over = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._keep_connected())
        welcomed = asyncio.ensure_future(self._welcomed.wait())
        await asyncio.wait((welcomed, self._task, self._over), return_when=asyncio.FIRST_COMPLETED)
        welcomed.cancel()
        if self._welcomed.is_set():
            return
        if self._over.done():
            reason = self._over.result().reason
            await self.stop()
            raise HostRefusedError(reason)
        self._task.result()

    async def leave(self, timeout_ms: int) -> bool:
        """Let turns finish, release everything, say farewell, and hear that the tables are without this host. Whether
        that was done in time; of the last, nobody is sure if the leader cannot be reached."""
        self._leaving = True
        self._dismissed.clear()
        self._dispatch(LeaveRequested("the application stops"))
        done = await self._wait_over(timeout_ms)
        if done and self.connected:
            await self._wait_dismissed(min(timeout_ms, DISMISSAL_MS))
        await self.stop()
        return done

    async def _wait_dismissed(self, timeout_ms: int) -> None:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._dismissed.wait()
        except TimeoutError:
            log.info("nobody answered the farewell", host=self._record.name)

    async def _wait_over(self, timeout_ms: int) -> bool:
        assert self._over is not None, "start() comes first"
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await asyncio.shield(self._over)
        except TimeoutError:
            return False
        return True

    async def stopped(self) -> Stopped:
        """Return once this host is out: by its own wish, or because it must not serve any more. Cancel-safe."""
        assert self._over is not None, "start() comes first"
        return await asyncio.shield(self._over)

    async def stop(self) -> None:
        """End the stream without a word. Idempotent. The cluster waits for the lease to run out."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def drained(self, actor_type: str, slots: tuple[int, ...]) -> None:
        """The runtime's answer to `stop_admitting`."""
        self._dispatch(Drained(actor_type, slots))

    @property
    def connected(self) -> bool:
        """Whether a stream is open."""
        return self._outgoing is not None

    # -- the machine -------------------------------------------------------------------------------------

    def _dispatch(self, event: HostEvent) -> None:
        now = self._clock()
        for effect in self.machine.handle(event, now):
            self._carry_out(effect)
        if isinstance(event, AnswerReceived):
            self._slots.lease_renewed()
        self._arm_timer(now)

    def _carry_out(self, effect: HostEffect) -> None:
        match effect:
            case SendHello(_, hello):
                self._send(host_pb2.HostMessage(hello=convert.hello_message(hello, __version__)))
            case SendRenewal(_, renewal):
                self._send(host_pb2.HostMessage(renewal=convert.renewal_message(renewal)))
            case SendFarewell(_, farewell):
                self._send(host_pb2.HostMessage(farewell=host_pb2.Farewell(incarnation=farewell.incarnation)))
            case SendTableRequest(_, request):
                message = host_pb2.TableRequest(incarnation=request.incarnation, have_version=request.have_version)
                self._send(host_pb2.HostMessage(table_request=message))
            case Granted():
                self._slots.granted(effect)
            case StopAdmitting():
                self._slots.stop_admitting(effect)
            case CancelTurns():
                self._slots.cancel(effect)
            case Ended():
                self._slots.ended(effect)
            case TableInstalled():
                self._slots.table_installed(effect)
            case BecomeNewIncarnation(reason, replaced):
                self._become_new(reason, replaced)
            case Stopped():
                self._stopped(effect)
            case unreachable:
                assert_never(unreachable)

    def _become_new(self, reason: str, replaced: bool) -> None:
        log.info("this incarnation is over", host=self._record.name, reason=reason, replaced=replaced)
        if replaced:
            self._stopped(Stopped(f"another process took the name {self._record.name}: {reason}"))
        elif self._leaving:
            self._stopped(Stopped(reason))
        else:
            self.machine = self._new_machine()
            self._reconnect()

    def _stopped(self, effect: Stopped) -> None:
        log.info("this host is out", host=self._record.name, reason=effect.reason, overdue=effect.overdue)
        if self._over is not None and not self._over.done():
            self._over.set_result(effect)

    def _arm_timer(self, now: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.machine.next_deadline_ms()
        if deadline is not None and (self._over is None or not self._over.done()):
            delay_s = max(deadline - now, 1) / 1000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._dispatch, Tick())

    # -- the stream --------------------------------------------------------------------------------------

    def _send(self, message: host_pb2.HostMessage) -> None:
        if self._outgoing is None:
            return
        try:
            self._outgoing.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("a stream that takes nothing is given up", host=self._record.name)
            self._reconnect()

    def _reconnect(self) -> None:
        """End the present stream; `_keep_connected` opens another."""
        if self._outgoing is not None:
            self._outgoing = None
            if self._reading is not None:
                self._reading.cancel()

    async def _keep_connected(self) -> None:
        pause_ms, refusals = self._reconnecting.first_ms, 0
        while self._over is None or not self._over.done():
            address = self._cluster[self._connections % len(self._cluster)]
            error = await self._serve(address)
            self.streams_ended += 1
            if error is not None:
                refusals = refusals + 1 if _is_final(error) else 0
                log.debug("a stream ended", host=self._record.name, replica=address, reason=error.details())
                if refusals >= len(self._cluster) and not self._welcomed.is_set():
                    raise HostRefusedError(f"{address}: {error.details()}")
            else:
                pause_ms, refusals = self._reconnecting.first_ms, 0
            if self._over is not None and self._over.done():
                return
            await asyncio.sleep(pause_ms * (1 - random.random() / 2) / 1000)  # noqa: S311
            pause_ms = min(2 * pause_ms, self._reconnecting.longest_ms)

    async def _serve(self, address: str) -> grpc.aio.AioRpcError | None:
        """One stream from opening to end. Returns why it ended, if the replica said so."""
        self._connections += 1
        connection = self._connections
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
            call: grpc.aio.StreamStreamCall[Any, Any] = channel.stream_stream(
                SESSION,
                request_serializer=host_pb2.HostMessage.SerializeToString,
                response_deserializer=host_pb2.ServerMessage.FromString,
            )()
            outgoing: asyncio.Queue[host_pb2.HostMessage] = asyncio.Queue(OUTGOING_MAX)
            self._outgoing = outgoing
            writing = asyncio.ensure_future(self._write(call, outgoing))
            self._reading = asyncio.ensure_future(self._read(call, connection))
            try:
                self._dispatch(Connected(connection))
                await self._reading
            except grpc.aio.AioRpcError as error:
                return error
            except asyncio.CancelledError:
                if self._outgoing is outgoing:  # we are being stopped, not only the stream
                    raise
            except TimeoutError:
                log.info("a silent stream is given up", host=self._record.name, replica=address)
            finally:
                if self._outgoing is outgoing:
                    self._outgoing = None
                self._reading.cancel()
                writing.cancel()
                call.cancel()
                await asyncio.gather(writing, self._reading, return_exceptions=True)
                self._dispatch(Disconnected(connection))
        return None

    async def _write(
        self, call: grpc.aio.StreamStreamCall[Any, Any], outgoing: asyncio.Queue[host_pb2.HostMessage]
    ) -> None:
        while True:
            await call.write(await outgoing.get())

    async def _read(self, call: grpc.aio.StreamStreamCall[Any, Any], connection: int) -> None:
        while True:
            async with asyncio.timeout(self._reconnecting.silence_ms / 1000):
                message = await call.read()
            if not isinstance(message, host_pb2.ServerMessage):
                return
            event = _event(message, connection)
            if isinstance(event, WelcomeReceived):
                self._welcomed.set()
            if isinstance(event, GoneReceived) and event.gone.incarnation == self.machine.incarnation:
                self._dismissed.set()
            if event is not None:
                self._dispatch(event)


def _is_final(error: grpc.aio.AioRpcError) -> bool:
    """Whether the same host would be refused again."""
    return error.code() in {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    }


def _event(message: host_pb2.ServerMessage, connection: int) -> HostEvent | None:
    """None for what a newer server may say. Raises ValueError for nonsense."""
    match message.WhichOneof("message"):
        case "welcome":
            return WelcomeReceived(connection, convert.welcome_record(message.welcome))
        case "table":
            return TableReceived(connection, convert.delta_record(message.table))
        case "answer":
            return AnswerReceived(connection, convert.answer_record(message.answer))
        case "grants":
            return GrantsReceived(connection, convert.grants_record(message.grants))
        case "gone":
            return GoneReceived(connection, convert.gone_record(message.gone))
    return None
