"""A session by itself: what it tells the runtime, how it does not start, and what may be set of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from callboard.core.handoff_messages import NO_INCARNATION, RenewalAnswer, Welcome
from callboard.core.native_host import HELLO_REPEAT_MS
from callboard.core.native_host_records import AnswerReceived, Connected, WelcomeReceived
from callboard.core.slot_records import HandoffSettings
from callboard.core.versions import Policy
from callboard.host.session import HostRefusedError, Reconnecting
from callboard.protos.generated import host_pb2
from callboard.server.native_service import SERVICE
from tests.host.slots import session_of


async def test_every_answer_lets_early_calls_look_again() -> None:
    """A renewed lease alone has no effect of the machine, but calls may wait for it."""
    session, slots = session_of("h1", ["127.0.0.1:1"])
    session._dispatch(Connected(1))
    session._dispatch(WelcomeReceived(1, Welcome(7, 1, Policy.EXCLUSIVE, 4, HandoffSettings())))
    assert slots.renewed == 0
    session._dispatch(AnswerReceived(1, RenewalAnswer(1, 7, 1, 0, True)))
    assert slots.renewed == 1
    await session.stop()


async def test_a_host_whose_name_another_took_before_it_was_welcomed_does_not_start() -> None:
    gone = host_pb2.Gone(incarnation=NO_INCARNATION, text="process p of h1 was removed", replaced=True)

    async def says_gone(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for _hello in requests:
            yield host_pb2.ServerMessage(gone=gone).SerializeToString()

    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Session": grpc.stream_stream_rpc_method_handler(says_gone)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    session, _ = session_of("h1", [f"127.0.0.1:{port}"])
    try:
        async with asyncio.timeout(20):
            with pytest.raises(HostRefusedError, match="another process took the name h1: process p of h1 was removed"):
                await session.start()
        assert not session.connected
    finally:
        await server.stop(0)


def test_a_silence_in_which_no_hello_is_repeated_is_refused() -> None:
    assert Reconnecting(silence_ms=2 * HELLO_REPEAT_MS).silence_ms == 2000
    with pytest.raises(ValueError, match="silence_ms 1999 is below 2000"):
        Reconnecting(silence_ms=2 * HELLO_REPEAT_MS - 1)
