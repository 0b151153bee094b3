"""One stream of a sidecar: the orders that wait to be written to it, and how it ends."""

from __future__ import annotations

import asyncio

from attrs import frozen

from callboard.protos.generated import placement_pb2
from callboard.server.endings import Ending

WAITING_ORDERS_MAX = 16
"""Orders that wait for a slow stream. A round sends three, a push three; more means a fault of ours."""


@frozen
class OutgoingOrder:
    """One order as bytes, with what the round machine must be told once it is written."""

    operation: str
    version: int
    payload: bytes


class SidecarStream:
    """Shared by the gRPC handler, which reads and writes, and the namespace's runner, which decides."""

    def __init__(self, stream_id: int, report: placement_pb2.Host) -> None:
        self.stream_id = stream_id
        self.report = report
        """The newest full report, for /placement/state."""
        self.orders: asyncio.Queue[OutgoingOrder] = asyncio.Queue(WAITING_ORDERS_MAX)
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def send(self, order: OutgoingOrder) -> None:
        """Queue an order; a stream whose queue is full is ended instead of buffered."""
        try:
            self.orders.put_nowait(order)
        except asyncio.QueueFull:
            self.end(Ending("RESOURCE_EXHAUSTED", f"more than {WAITING_ORDERS_MAX} orders wait for this stream"))

    def end(self, ending: Ending) -> None:
        """End the stream with a status; the first call decides."""
        if not self._ending.done():
            self._ending.set_result(ending)

    async def wait_ending(self) -> Ending:
        """The status with which we ended the stream. Cancel-safe."""
        return await asyncio.shield(self._ending)
