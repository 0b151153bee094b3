"""Sessions of native hosts as any replica holds them: a front for the leader, wherever that is.

A host's stream stays open while leaders change. The front relays it to the leader's runner, here or in another
replica; when that way ends because the leader lost office, the front finds the next leader and repeats the host's
newest hello there. It repeats only words of sessions whose stream is open, and what it repeats never makes a member.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from callboard.protos.generated import fronts_pb2, host_pb2
from callboard.server.endings import Ending
from callboard.server.native_runner import NativeRunner

log = structlog.get_logger(__name__)

RELAY = "/callboard.fronts.v1.Fronts/Relay"
ATTACH_PAUSE_S = 0.05
ATTACH_PAUSE_MAX_S = 1.0
FRONT_READS = (b"\x0a", b"\x12")
"""First bytes of welcomes and tables (fields 1 and 2): what a front must know to repeat a hello well."""
DIGESTS_KEPT = 64
GONE_ELSEWHERE = "UNAVAILABLE"
"""Status with which a replica ends a way that led to it as leader: look for the next one."""

Context = grpc.aio.ServicerContext[Any, Any]


def malformed(payload: bytes) -> Ending:
    """How a stream ends whose bytes are no message."""
    return Ending("INVALID_ARGUMENT", f"malformed message: {len(payload)} bytes are no HostMessage")


class Outgoing:
    """What waits to be written to one stream, and how the stream ends. A `Link` of the runner."""

    def __init__(self, waiting_max: int) -> None:
        self._payloads: asyncio.Queue[bytes] = asyncio.Queue(waiting_max)
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._waiting_max = waiting_max

    def send(self, payload: bytes) -> None:
        """Queue a message; a stream that is too slow is ended instead of buffered."""
        try:
            self._payloads.put_nowait(payload)
        except asyncio.QueueFull:
            self.end(Ending("RESOURCE_EXHAUSTED", f"more than {self._waiting_max} messages wait for this stream"))

    def end(self, ending: Ending) -> None:
        """End the stream with a status; the first call decides."""
        if not self._ending.done():
            self._ending.set_result(ending)

    async def next(self) -> bytes:
        """The next message to write."""
        return await self._payloads.get()

    async def ended(self) -> Ending:
        """The status with which it was ended. Cancel-safe."""
        return await asyncio.shield(self._ending)


class Way(Protocol):
    """From a front to the leader."""

    async def send(self, message: host_pb2.HostMessage, *, by_front: bool) -> None:
        """Pass a message of the host on. Raises ValueError for one that is malformed."""

    async def serve(self, deliver: Callable[[bytes], None]) -> Ending:
        """Deliver what comes back until the way ends. Cancel-safe."""

    async def close(self) -> None:
        """Idempotent."""


class LocalWay:
    """To the runner in this process."""

    def __init__(self, runner: NativeRunner, waiting_max: int) -> None:
        self._runner = runner
        self._outgoing = Outgoing(waiting_max)
        self._stream_id = runner.open(self._outgoing)

    async def send(self, message: host_pb2.HostMessage, *, by_front: bool) -> None:
        """See `Way`."""
        self._runner.receive(self._stream_id, message, by_front=by_front)

    async def serve(self, deliver: Callable[[bytes], None]) -> Ending:
        """See `Way`."""
        reading = asyncio.ensure_future(self._read(deliver))
        try:
            return await self._outgoing.ended()
        finally:
            reading.cancel()

    async def _read(self, deliver: Callable[[bytes], None]) -> None:
        while True:
            deliver(await self._outgoing.next())

    async def close(self) -> None:
        """See `Way`."""
        self._runner.disconnected(self._stream_id)


class RelayedWay:
    """To the leader in another process."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        call: grpc.aio.StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
            RELAY, request_serializer=fronts_pb2.RelayedMessage.SerializeToString
        )
        self._call: grpc.aio.StreamStreamCall[Any, Any] = call(wait_for_ready=False)

    async def send(self, message: host_pb2.HostMessage, *, by_front: bool) -> None:
        """See `Way`. A message that cannot be sent is lost; `serve` will tell why."""
        try:
            await self._call.write(fronts_pb2.RelayedMessage(message=message, repeated_by_front=by_front))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            log.debug("a message for the leader was lost with its stream")

    async def serve(self, deliver: Callable[[bytes], None]) -> Ending:
        """See `Way`."""
        try:
            while isinstance(payload := await self._call.read(), bytes):
                deliver(payload)
            return Ending((await self._call.code()).name, await self._call.details() or "")
        except grpc.aio.AioRpcError as error:
            return Ending(error.code().name, error.details() or "")

    async def close(self) -> None:
        """See `Way`."""
        self._call.cancel()


class HostSession:
    """One host's stream, from its hello to its end."""

    def __init__(self, context: Context, waiting_max: int) -> None:
        self._context = context
        self._outgoing = Outgoing(waiting_max)
        self._hello: host_pb2.Hello | None = None
        self._way: Way | None = None
        self._attached = 0
        """Ways so far."""
        self._digests: dict[int, bytes] = {}
        """Of the newest tables that passed, by version."""

    def end(self, ending: Ending) -> None:
        """End the host's stream."""
        self._outgoing.end(ending)

    async def serve(
        self,
        hello: host_pb2.Hello,
        check: Callable[[host_pb2.Hello], Ending | None],
        attach: Callable[[host_pb2.Hello], Awaitable[Way | Ending]],
    ) -> Ending:
        """Relay until one side ends. `check` refuses later hellos; `attach` finds the way to the leader or waits."""
        self._hello = hello
        tasks: list[asyncio.Future[Ending]] = [
            asyncio.ensure_future(self._outgoing.ended()),
            asyncio.ensure_future(self._relay(attach)),
            asyncio.ensure_future(self._read(check)),
            asyncio.ensure_future(self._write()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task for task in tasks if task.done()).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._way is not None:
                await self._way.close()

    async def _relay(self, attach: Callable[[host_pb2.Hello], Awaitable[Way | Ending]]) -> Ending:
        pause_s = ATTACH_PAUSE_S
        while True:
            assert self._hello is not None
            way = await attach(self._hello)
            if isinstance(way, Ending):
                return way
            self._way = way
            self._attached += 1
            before = asyncio.get_running_loop().time()
            try:
                hello = host_pb2.HostMessage(hello=self._hello)
                await way.send(hello, by_front=self._attached > 1)
                ending = await way.serve(self._deliver)
            except ValueError as error:
                return Ending("INVALID_ARGUMENT", str(error))
            finally:
                self._way = None
                await way.close()
            if ending.code != GONE_ELSEWHERE:
                return ending
            log.debug("the way to the leader ended", reason=ending.text)
            if asyncio.get_running_loop().time() - before > ATTACH_PAUSE_MAX_S:
                pause_s = ATTACH_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, ATTACH_PAUSE_MAX_S)

    def _deliver(self, payload: bytes) -> None:
        if payload[:1] in FRONT_READS:
            message = host_pb2.ServerMessage.FromString(payload)
            if message.HasField("welcome") and self._hello is not None:
                self._hello.incarnation = message.welcome.incarnation
            elif message.HasField("table"):
                self._digests[message.table.to_version] = message.table.digest
                while len(self._digests) > DIGESTS_KEPT:
                    self._digests.pop(next(iter(self._digests)))
        self._outgoing.send(payload)

    async def _read(self, check: Callable[[host_pb2.Hello], Ending | None]) -> Ending:
        while True:
            payload = await self._context.read()
            if payload is grpc.aio.EOF:
                return Ending("OK", "")
            try:
                message = host_pb2.HostMessage.FromString(payload)
            except DecodeError:
                return malformed(payload)
            if message.HasField("hello"):
                refusal = check(message.hello) or self._other_host(message.hello)
                if refusal is not None:
                    return refusal
                self._hello = message.hello
            elif message.HasField("renewal") and self._hello is not None:
                # So that a hello that is repeated later says what the host has by then.
                self._hello.have_version = message.renewal.version
                self._hello.have_digest = self._digests.get(message.renewal.version, b"")
            if self._way is not None:  # between two leaders words are lost; the host repeats itself with every tick
                try:
                    await self._way.send(message, by_front=False)
                except ValueError as error:
                    return Ending("INVALID_ARGUMENT", str(error))

    def _other_host(self, hello: host_pb2.Hello) -> Ending | None:
        """A stream is of one host of one namespace, also between two leaders: each knows only what it was told."""
        for what in ("namespace", "name"):
            before, now = getattr(self._hello, what), getattr(hello, what)
            if now != before:
                return Ending("INVALID_ARGUMENT", f"host {what} changed from {before} to {now} on one stream")
        return None

    async def _write(self) -> Ending:
        while True:
            await self._context.write(await self._outgoing.next())
