"""Relayed sessions as the leader sees them: a front that does not read must not keep a call from its end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc.aio
import pytest

from callboard.protos.generated import fronts_pb2, host_pb2
from callboard.server.endings import Ending
from callboard.server.native_runner import NativeRunner
from callboard.server.native_service import NativeService
from callboard.server.native_session import RELAY, Outgoing
from tests.server.deaf_client import connect_and_fall_silent
from tests.server.support import serving, until

STUCK_BYTES = 4_000_000
"""More than the buffers of a connection take."""


async def test_the_end_of_a_relay_that_nobody_reads_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    links: list[Outgoing] = []
    ends: list[BaseException] = []
    open_stream, relay = NativeRunner.open, NativeService.relay

    def noted_open(self: NativeRunner, link: Any) -> int:
        links.append(link)
        return open_stream(self, link)

    async def noted_relay(self: NativeService, requests: object, context: Any) -> None:
        try:
            await relay(self, requests, context)
        except BaseException as error:
            ends.append(error)
            raise

    monkeypatch.setattr(NativeRunner, "open", noted_open)
    monkeypatch.setattr(NativeService, "relay", noted_relay)
    monkeypatch.setattr(NativeRunner, "receive", lambda *_, **__: None)  # nothing but what the test sends is written
    hello = host_pb2.HostMessage(hello=host_pb2.Hello(namespace="carts", name="h1"))
    first = fronts_pb2.RelayedMessage(message=hello).SerializeToString()
    async with serving() as replica:
        deaf = await asyncio.to_thread(connect_and_fall_silent, replica.grpc_port, first, RELAY.encode())
        try:
            await until(lambda: len(links) == 1, "the relay is open")
            links[0].send(bytes(STUCK_BYTES))
            await until(links[0]._payloads.empty, "the message is being written")
            links[0].end(Ending("UNAVAILABLE", "this replica does not lead any more"))
            await until(lambda: replica.native_runners()["carts"].stream_count() == 0, "the stream is closed")
        finally:
            deaf.close()
        await until(lambda: len(ends) == 1, "the call has ended")
    assert isinstance(ends[0], grpc.aio.AbortError | asyncio.CancelledError)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
