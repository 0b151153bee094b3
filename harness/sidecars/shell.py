"""The sockets of a simulated sidecar: feeds a machine with what happens on real gRPC streams and timers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache

import grpc
import grpc.aio

from callboard.protos.generated.placement_pb2 import Host, HostOperation
from harness.sidecars.checks import WireChecks
from harness.sidecars.events import (
    CancelTimer,
    CloseSend,
    Dial,
    Effect,
    Event,
    OpenFailed,
    OrderReceived,
    Report,
    Send,
    SetTimer,
    ShutdownAsked,
    SidecarSpec,
    Started,
    StreamEnded,
    StreamOpened,
    TimerFired,
    TypesChanged,
)
from harness.sidecars.machine import Connection, SidecarMachine
from harness.sidecars.tables import BadOrder, Order

METHOD = "/dapr.proto.placement.v1.Placement/ReportDaprStatus"
API_LEVEL = 20
_EOF = grpc.aio.EOF

Stream = grpc.aio.StreamStreamCall[bytes, bytes]


@lru_cache(maxsize=4096)
def _full_host(spec: SidecarSpec, operation: str) -> bytes:
    return Host(
        name=spec.name,
        id=spec.app_id,
        namespace=spec.namespace,
        entities=spec.actor_types,
        api_level=API_LEVEL,
        operation=HostOperation.Value(operation),
    ).SerializeToString()


def encode(report: Report) -> bytes:
    """The bytes of one message to the server. Acknowledgements name no host and no actor types."""
    if report.host is not None:
        return _full_host(report.host, report.operation)
    return Host(
        id=report.app_id,
        namespace=report.namespace,
        operation=HostOperation.Value(report.operation),
        version=report.version,
    ).SerializeToString()


class Connector:
    """Opens streams to a list of placement addresses.

    Every stream gets a TCP connection of its own, as it would from as many processes, unless `share_channels`
    says that one connection per address is enough. The message limit is gRPC's default, 4 MiB: daprd has no other.
    """

    def __init__(self, addresses: Sequence[str], *, share_channels: bool = False) -> None:
        self.addresses = tuple(addresses)
        self._share = share_channels
        self._shared: dict[str, grpc.aio.Channel] = {}

    def _channel(self, address: str) -> grpc.aio.Channel:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        return grpc.aio.insecure_channel(address, options=options)

    def open(self, index: int) -> tuple[Stream, grpc.aio.Channel | None]:
        """A stream to the address with this index, and the channel to close after it (None if it is shared)."""
        address = self.addresses[index]
        own = None if self._share else self._channel(address)
        channel = own or self._shared.get(address)
        if channel is None:
            channel = self._shared[address] = self._channel(address)
        stream: Stream = channel.stream_stream(METHOD)()
        return stream, own

    async def close(self) -> None:
        """Close the shared connections."""
        for channel in self._shared.values():
            await channel.close()
        self._shared.clear()


def _is_open_failure(error: grpc.aio.AioRpcError) -> bool:
    """Whether nobody was there to refuse us: the state in which daprd cannot even open its stream."""
    text = error.details() or ""
    return error.code() is grpc.StatusCode.UNAVAILABLE and ("onnect" in text or "socket" in text.lower())


class Sidecar:
    """One simulated sidecar on real connections. `machine` holds everything that there is to observe.

    Use it in one event loop. `checks` see every order, `changed` is called after every event.
    """

    def __init__(
        self,
        machine: SidecarMachine,
        connector: Connector,
        decoder: Callable[[bytes], Order],
        checks: WireChecks,
        changed: Callable[[], None],
    ) -> None:
        self.machine = machine
        self._connector = connector
        self._decoder = decoder
        self._checks = checks
        self._changed = changed
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._runs = asyncio.Event()
        self._runs.set()
        self._killed = False
        self.received_bytes = 0
        """Of all orders so far, without framing."""
        self.error: BaseException | None = None
        """A fault of the simulation itself, not of the server."""

    @property
    def name(self) -> str:
        """Its name on the ring."""
        return self.machine.spec.name

    def start(self) -> None:
        """Begin to connect."""
        self._feed(Started())

    def change_types(self, *actor_types: str) -> None:
        """The application registers other actor types."""
        self._feed(TypesChanged(actor_types))

    def pause(self) -> None:
        """Like SIGSTOP: nothing is read, answered or sent any more, but the connection stays."""
        self._runs.clear()

    def resume(self) -> None:
        """Like SIGCONT."""
        self._runs.set()

    @property
    def paused(self) -> bool:
        """Between `pause` and `resume`."""
        return not self._runs.is_set()

    async def stop(self, *, deadline_s: float = 10.0) -> None:
        """Like SIGTERM: half-close, and wait until the server has ended the stream.

        Raises TimeoutError if it did not within `deadline_s`; the sidecar is killed then.
        """
        task = self._task
        self._feed(ShutdownAsked())
        try:
            if self.machine.connection is Connection.CLOSING and task is not None:
                await asyncio.wait_for(asyncio.shield(task), deadline_s)
        except TimeoutError:
            raise TimeoutError(
                f"{self.name}: the server kept the stream open {deadline_s} s after half-close"
            ) from None
        finally:
            await self.kill()

    async def kill(self) -> None:
        """Like SIGKILL: the connection breaks without a word."""
        self._killed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _feed(self, event: Event) -> None:
        if self._killed:
            return
        effects = self.machine.handle(event, asyncio.get_running_loop().time())
        for effect in effects:
            self._perform(effect)
        self._changed()

    def _perform(self, effect: Effect) -> None:
        loop = asyncio.get_running_loop()
        match effect:
            case Dial(attempt, index, after_s):
                self._outbox = asyncio.Queue()
                self._task = asyncio.create_task(self._converse(attempt, index, after_s, self._outbox))
                self._task.add_done_callback(self._note_error)
            case Send(report):
                self._outbox.put_nowait(encode(report))
            case CloseSend():
                self._outbox.put_nowait(None)
            case SetTimer(timer, at):
                self._cancel(timer)
                self._timers[timer] = loop.call_at(at, self._fire, timer)
            case CancelTimer(timer):
                self._cancel(timer)

    def _note_error(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.error = task.exception()
            self._changed()

    def _cancel(self, timer: str) -> None:
        handle = self._timers.pop(timer, None)
        if handle is not None:
            handle.cancel()

    def _fire(self, timer: str) -> None:
        self._timers.pop(timer, None)
        if self._runs.is_set():
            self._feed(TimerFired(timer))
        else:
            self._timers[timer] = asyncio.get_running_loop().call_later(0.05, self._fire, timer)

    async def _converse(self, attempt: int, index: int, after_s: float, outbox: asyncio.Queue[bytes | None]) -> None:
        if after_s > 0:
            await asyncio.sleep(after_s)
        await self._runs.wait()
        stream, channel = self._connector.open(index)
        writer = asyncio.create_task(_write(stream, outbox))
        event: Event = StreamEnded(attempt, "CANCELLED")
        try:
            self._feed(StreamOpened(attempt))
            event = await self._read(stream, attempt)
        finally:
            writer.cancel()
            stream.cancel()
            if channel is not None:
                await channel.close()
        self._feed(event)

    async def _read(self, stream: Stream, attempt: int) -> Event:
        """Feed every order; return the event that describes the end of the stream."""
        try:
            while True:
                await self._runs.wait()
                message = await stream.read()
                await self._runs.wait()
                if not isinstance(message, bytes):
                    return StreamEnded(attempt)
                self.received_bytes += len(message)
                order = self._decoder(message)
                self._checks.saw(self.machine.spec, attempt, order)
                self._feed(OrderReceived(attempt, order))
        except BadOrder as error:
            return StreamEnded(attempt, "INTERNAL", str(error))
        except grpc.aio.AioRpcError as error:
            if not self.machine.served and _is_open_failure(error):
                return OpenFailed(attempt, error.details() or "")
            return StreamEnded(attempt, error.code().name, error.details() or "")


async def _write(stream: Stream, outbox: asyncio.Queue[bytes | None]) -> None:
    """Write what is in the outbox, in order. A stream that broke is reported by its reader, not here."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while (message := await outbox.get()) is not None:
            await stream.write(message)
        await stream.done_writing()
