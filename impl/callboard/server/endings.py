"""How calls end with a status."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog
from attrs import frozen

log = structlog.get_logger(__name__)


@frozen
class Ending:
    """The gRPC status with which we end a stream. `code` is its name, as in grpc.StatusCode."""

    code: str
    text: str


async def abort(context: grpc.aio.ServicerContext[Any, Any], ending: Ending) -> NoReturn:
    """End a call with a status. If its peer cannot be told, because it reads nothing or its connection is broken, the
    call ends as a cancelled one.

    Raises:
        grpc.aio.AbortError, asyncio.CancelledError: for gRPC, which takes both for the end of a call.
    """
    try:
        await context.abort(grpc.StatusCode[ending.code], ending.text)
    except grpc.aio.InternalError:
        log.debug("a call ended before its status could be sent", status=ending.code, text=ending.text)
        raise asyncio.CancelledError from None
    raise AssertionError("abort raises")
