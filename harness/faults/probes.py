"""Probes: does a link do what it should, or what a fault made of it? Each speaks to the real server behind the link.

A gRPC server answers an HTTP/2 ping, and a consensus port tells a stranger that it is refused. What matters is whether
the answer comes, and when.
"""

from __future__ import annotations

import asyncio
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from enum import StrEnum

import msgspec
from attrs import frozen

from callboard.consensus.pysyncobj_engine.identity import PROTOCOL_NAME, PROTOCOL_VERSION, Hello
from harness.faults.cluster import RAFT
from harness.faults.proxies import Link
from harness.processes import Waiter, wait_until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes.fromhex("000000040000000000")
PING = bytes.fromhex("000008060000000000")
ACK = bytes.fromhex("000008060100000000")
PAYLOAD = b"callboar"
SILENCE_S = 0.7
ANSWER_DEADLINE_S = 30.0
"""How long a fault waits for somebody whom it can be proved at: longer than others are kept down or frozen."""
RESET_DEADLINE_S = 10.0
PROBED_MAX = 4
FILLER_BYTES = 2500


def filler(count_bytes: int) -> bytes:
    """A frame of a type that nobody knows: servers pass over it. Before the ping it makes a probe of throughput."""
    return count_bytes.to_bytes(3, "big") + bytes.fromhex("be0000000000") + bytes(count_bytes)


FILLER = filler(FILLER_BYTES)


def _stranger() -> bytes:
    """The hello of somebody who is no peer, as a frame of the consensus."""
    hello = msgspec.msgpack.encode(Hello(PROTOCOL_NAME, PROTOCOL_VERSION, "a-probe", "", [], 0, "", ""))
    return struct.pack("<II", len(hello), zlib.crc32(hello)) + hello


STRANGER = _stranger()


class Heard(StrEnum):
    """How a probe ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    ENDED = "ended"
    RESET = "reset"
    SILENT = "silent"


CUT = (Heard.SILENT, Heard.REFUSED)
"""What a link that is cut looks like. One that just ends does not: the process behind it may be gone."""


@frozen
class Probe:
    """What a probe heard, and after how long."""

    heard: Heard
    milliseconds: int


async def probe(address: str, *, timeout_s: float = SILENCE_S, filler: bytes = b"") -> Probe:
    """Dial `address`, send `filler` and a ping, wait for the answer."""
    return await _ask(
        address, PREFACE + SETTINGS + filler + PING + PAYLOAD, lambda heard: ACK + PAYLOAD in heard, timeout_s
    )


async def probe_consensus(address: str, *, timeout_s: float = SILENCE_S) -> Probe:
    """Dial a replica's consensus port as a stranger, wait for the refusal."""
    return await _ask(address, STRANGER, bool, timeout_s)


async def _ask(address: str, question: bytes, answers: Callable[[bytes], bool], timeout_s: float) -> Probe:
    begun = time.monotonic()

    def after(heard: Heard) -> Probe:
        return Probe(heard, int((time.monotonic() - begun) * 1000))

    writer = None
    try:
        async with asyncio.timeout(timeout_s):
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(question)
            await writer.drain()
            heard = b""
            while not answers(heard):
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


# -- links -----------------------------------------------------------------------------------------------


def is_consensus(link: Link) -> bool:
    """Whether it leads to a replica's consensus port."""
    return link.target.endswith(RAFT)


async def probe_link(link: Link) -> Probe:
    """Ask the server behind a link in its own language."""
    return await (probe_consensus if is_consensus(link) else probe)(link.address)


async def _heard_through(link: Link) -> Heard:
    """As `probe_link`. A consensus port hangs up after it has refused a stranger: if only that end comes through, while
    the port itself refuses as before, the refusal was cut off."""
    heard = (await probe_link(link)).heard
    if heard is Heard.ENDED and is_consensus(link):
        behind = await probe_consensus(link.upstream)
        return Heard.SILENT if behind.heard is Heard.ANSWERED else heard
    return heard


async def answering(links: Iterable[Link]) -> list[Link]:
    """Some of the links whose servers answer now."""
    asked = list(links)
    heard = await asyncio.gather(*map(probe_link, asked))
    return [link for link, answer in zip(asked, heard, strict=True) if answer.heard is Heard.ANSWERED][:PROBED_MAX]


async def retried(attempt: Waiter) -> None:
    """Try until somebody is there, or for a long time: other faults may keep everybody down for a while, and a busy
    machine makes servers answer late. What is lacking in the end is for the caller to see."""
    with suppress(TimeoutError):
        await wait_until(attempt, deadline_s=ANSWER_DEADLINE_S, what="somebody who answers")


async def silenced(groups: Sequence[Sequence[Link]]) -> str:
    """Proof that links which answered before do not any more, some of each group; empty if one still answers."""
    heard: dict[str, Heard] = {}

    def shown() -> bool:
        return all(any(heard[link.name] in CUT for link in group) for group in groups)

    async def known() -> bool:
        links = [link for group in groups for link in group]
        answers = await asyncio.gather(*map(_heard_through, links))
        heard.update({link.name: answer for link, answer in zip(links, answers, strict=True)})
        return Heard.ANSWERED in heard.values() or shown()

    await retried(known)
    cut = [link for group in groups for link in group if heard[link.name] in CUT]
    if not cut or Heard.ANSWERED in heard.values() or not shown():
        return ""
    kinds = sorted({heard[link.name].value for link in cut})
    consensus = sum(map(is_consensus, cut))
    of_consensus = f", {consensus} of them of the consensus" if consensus else ""
    return f"{len(cut)} links that answered are {' or '.join(kinds)}{of_consensus}"


class Held:
    """A connection that is kept open to see whether a fault ends it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: str) -> Held | None:
        """Dial and wait for a ping's answer; None if there is none."""
        host, _, port = address.rpartition(":")
        writer = None
        try:
            async with asyncio.timeout(SILENCE_S):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(PREFACE + SETTINGS + PING + PAYLOAD)
                await reader.readexactly(1)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            if writer is not None:
                writer.transport.abort()
            return None
        return cls(reader, writer)

    async def end(self, timeout_s: float) -> Heard:
        """How the connection ends; SILENT if it does not."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self._reader.read(65536):
                    pass
        except TimeoutError:
            return Heard.SILENT
        except ConnectionResetError:
            return Heard.RESET
        except ConnectionError:
            pass
        return Heard.ENDED

    def close(self) -> None:
        """Idempotent."""
        self._writer.transport.abort()
