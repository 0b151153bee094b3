"""A placement server that does what a test tells it, order by order. It decides nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from callboard.protos.generated.placement_pb2 import Host, PlacementOrder
from harness.sidecars.shell import METHOD

DEADLINE_S = 20.0


def order_bytes(operation: str, version: int = 0, hosts: Mapping[str, Iterable[str]] | None = None) -> bytes:
    """An order; with `hosts` (host name to actor types; app ids are "app-" and the name) it carries tables."""
    order = PlacementOrder(operation=operation, version=version)
    if hosts is not None:
        order.tables.version = str(version)
        order.tables.replication_factor = 100
        for name, actor_types in hosts.items():
            for actor_type in actor_types:
                order.tables.entries[actor_type].load_map[name].CopyFrom(Host(name=name, id=f"app-{name}"))
    return order.SerializeToString(deterministic=True)


class Conversation:
    """One stream, seen from the server."""

    def __init__(self) -> None:
        self.closed_by_peer = asyncio.Event()
        self._received: asyncio.Queue[Host] = asyncio.Queue()
        self._orders: asyncio.Queue[bytes | tuple[grpc.StatusCode, str]] = asyncio.Queue()

    async def receive(self) -> Host:
        """The next message of the sidecar. Raises TimeoutError."""
        return await asyncio.wait_for(self._received.get(), DEADLINE_S)

    def received_nothing(self) -> bool:
        """Whether all messages that arrived have been taken."""
        return self._received.empty()

    def order(self, operation: str, version: int = 0, hosts: Mapping[str, Iterable[str]] | None = None) -> None:
        """Send an order."""
        self._orders.put_nowait(order_bytes(operation, version, hosts))

    def send_raw(self, message: bytes) -> None:
        """Send any bytes."""
        self._orders.put_nowait(message)

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK, text: str = "") -> None:
        """End the stream with this status."""
        self._orders.put_nowait((code, text))

    async def serve(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """Carry messages both ways until the test ends the stream."""
        reader = asyncio.create_task(self._read(requests))
        try:
            while isinstance(step := await self._orders.get(), bytes):
                await context.write(step)
            code, text = step
            if code is not grpc.StatusCode.OK:
                await context.abort(code, text)
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        async for message in requests:
            self._received.put_nowait(Host.FromString(message))
        self.closed_by_peer.set()


class FakePlacement:
    """Listens on a free loopback port; `next_stream` hands out streams as they open."""

    def __init__(self) -> None:
        self.address = ""
        self._opened: asyncio.Queue[Conversation] = asyncio.Queue()
        self._server = grpc.aio.server()

    async def next_stream(self) -> Conversation:
        """The next stream that a sidecar opens. Raises TimeoutError."""
        return await asyncio.wait_for(self._opened.get(), DEADLINE_S)

    def no_stream_waits(self) -> bool:
        """Whether every stream that opened has been taken."""
        return self._opened.empty()

    async def start(self) -> None:
        """Listen."""

        async def serve(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            conversation = Conversation()
            self._opened.put_nowait(conversation)
            await conversation.serve(requests, context)

        _, service, method = METHOD.split("/")
        handler = grpc.method_handlers_generic_handler(service, {method: grpc.stream_stream_rpc_method_handler(serve)})
        self._server.add_generic_rpc_handlers([handler])
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self.address = f"127.0.0.1:{port}"

    async def stop(self) -> None:
        """Break all streams and stop to listen."""
        await self._server.stop(grace=None)


@asynccontextmanager
async def fake_placement() -> AsyncIterator[FakePlacement]:
    """A running FakePlacement."""
    server = FakePlacement()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
