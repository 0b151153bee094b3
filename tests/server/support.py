"""A replica on the memory engine in this process, and a hand-driven sidecar to talk to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from callboard.protos.generated import placement_pb2
from callboard.server.replica import Replica
from callboard.server.settings import EngineName, EngineSettings, ServerSettings, SidecarSettings

METHOD = "/dapr.proto.placement.v1.Placement/ReportDaprStatus"
DEADLINE_S = 20.0
ACKNOWLEDGEMENT = {"lock": placement_pb2.LOCK, "update": placement_pb2.UPDATE, "unlock": placement_pb2.UNLOCK}


def memory_settings(**sidecar_settings: Any) -> ServerSettings:
    """Settings of a single replica without files, on ports that the kernel chooses."""
    return ServerSettings(
        replica_id="r1",
        port=0,
        healthz_port=0,
        metrics_enabled=False,
        metadata_enabled=True,
        sidecars=SidecarSettings(**sidecar_settings),
        engine=EngineSettings(name=EngineName.MEMORY),
        stop_grace_ms=1000,
    )


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Wait for a condition with a deadline; says what was waited for."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            result = condition()
            if result if isinstance(result, bool) else await result:
                return
            await asyncio.sleep(0.005)
    raise AssertionError(what)


@asynccontextmanager
async def serving(settings: ServerSettings | None = None) -> AsyncIterator[Replica]:
    """A started replica that is in office."""
    replica = Replica(settings or memory_settings())
    await replica.start()
    try:
        await until(replica.in_office, "the replica takes office")
        yield replica
    finally:
        await replica.stop()


class HandSidecar:
    """A sidecar whose every message the test sends itself."""

    def __init__(self, port: int, credentials: grpc.ChannelCredentials | None = None) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost")]
        target = f"127.0.0.1:{port}"
        self.channel = (
            grpc.aio.insecure_channel(target, options=options[:1])
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=options)
        )
        self.call: grpc.aio.StreamStreamCall[Any, Any] = self.channel.stream_stream(
            METHOD, response_deserializer=placement_pb2.PlacementOrder.FromString
        )()

    async def send(self, host: placement_pb2.Host | bytes) -> None:
        """Send a message, or raw bytes in its place."""
        await self.call.write(host if isinstance(host, bytes) else host.SerializeToString())

    async def order(self) -> placement_pb2.PlacementOrder:
        """The next order. Fails the test if the stream ends instead."""
        async with asyncio.timeout(DEADLINE_S):
            order = await self.call.read()
        assert order is not grpc.aio.EOF, f"stream ended: {await self.call.code()} {await self.call.details()}"
        assert isinstance(order, placement_pb2.PlacementOrder)
        return order

    async def acknowledge(self, order: placement_pb2.PlacementOrder, report: placement_pb2.Host) -> None:
        """Acknowledge as sidecars from 1.17 on do: without name and types."""
        operation = ACKNOWLEDGEMENT[order.operation]
        await self.send(
            placement_pb2.Host(id=report.id, namespace=report.namespace, operation=operation, version=order.version)
        )

    async def complete_round(self, report: placement_pb2.Host) -> placement_pb2.PlacementOrder:
        """Take lock, update and unlock, acknowledge each, and return the update."""
        orders = []
        for operation in ("lock", "update", "unlock"):
            order = await self.order()
            assert order.operation == operation, f"expected {operation}, got {order.operation}"
            await self.acknowledge(order, report)
            orders.append(order)
        assert len({order.version for order in orders}) == 1
        return orders[1]

    async def ending(self) -> tuple[str, str]:
        """Status and text with which the server ends the stream; orders that still come are skipped."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    if await self.call.read() is grpc.aio.EOF:
                        break
                except grpc.aio.AioRpcError:
                    break
            return (await self.call.code()).name, await self.call.details() or ""

    async def close(self) -> None:
        """End the stream and its connection at once."""
        self.call.cancel()
        await self.channel.close()


@asynccontextmanager
async def sidecar(port: int, report: placement_pb2.Host | None = None) -> AsyncIterator[HandSidecar]:
    """An open stream, with its first report sent if one is given."""
    hand = HandSidecar(port)
    try:
        if report is not None:
            await hand.send(report)
        yield hand
    finally:
        await hand.close()


def report_of(name: str = "10.0.0.1:50002", *types: str, **fields: Any) -> placement_pb2.Host:
    """A first report as sidecars from 1.17 on send it."""
    defaults: dict[str, Any] = {
        "id": "shop",
        "namespace": "default",
        "operation": placement_pb2.REPORT,
        "api_level": 20,
    }
    return placement_pb2.Host(name=name, entities=types, **(defaults | fields))
