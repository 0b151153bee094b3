"""Probes: does a link do what it should, or what a fault made of it? Each speaks to the real server behind the link.

A gRPC server answers an HTTP/2 ping. What matters is whether the answer comes, and when.
"""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum

from attrs import frozen

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes.fromhex("000000040000000000")
PING = bytes.fromhex("000008060000000000")
ACK = bytes.fromhex("000008060100000000")
PAYLOAD = b"callboar"
SILENCE_S = 0.7
FILLER_BYTES = 2500
FILLER = FILLER_BYTES.to_bytes(3, "big") + bytes.fromhex("be0000000000") + bytes(FILLER_BYTES)
"""A frame of a type that nobody knows: servers pass over it. Sent before the ping it makes a probe of throughput."""


class Heard(StrEnum):
    """How a probe ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    ENDED = "ended"
    SILENT = "silent"


@frozen
class Probe:
    """What a probe heard, and after how long."""

    heard: Heard
    milliseconds: int


async def probe(address: str, *, timeout_s: float = SILENCE_S, filler: bytes = b"") -> Probe:
    """Dial `address`, send `filler` and a ping, wait for the answer."""
    begun = time.monotonic()

    def after(heard: Heard) -> Probe:
        return Probe(heard, int((time.monotonic() - begun) * 1000))

    writer = None
    try:
        async with asyncio.timeout(timeout_s):
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(PREFACE + SETTINGS + filler + PING + PAYLOAD)
            await writer.drain()
            heard = b""
            while ACK + PAYLOAD not in heard:
                data = await reader.read(65536)
                if not data:
                    return after(Heard.ENDED)
                heard += data
            return after(Heard.ANSWERED)
    except TimeoutError:
        return after(Heard.SILENT)
    except ConnectionRefusedError:
        return after(Heard.REFUSED)
    except ConnectionError:
        return after(Heard.ENDED)
    finally:
        if writer is not None:
            writer.transport.abort()


class Held:
    """A connection that is kept open to see whether a fault ends it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: str) -> Held | None:
        """Dial and wait for a ping's answer; None if there is none."""
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(SILENCE_S):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(PREFACE + SETTINGS + PING + PAYLOAD)
                await reader.readexactly(1)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return None
        return cls(reader, writer)

    async def ended(self) -> bool:
        """Whether the connection is over."""
        try:
            async with asyncio.timeout(SILENCE_S):
                while await self._reader.read(65536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        """Idempotent."""
        self._writer.transport.abort()
