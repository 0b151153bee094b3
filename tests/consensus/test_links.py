"""Links between replicas against intruders: nothing but an accepted peer's frames reaches Raft."""

from __future__ import annotations

import asyncio
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from attrs import define, evolve, field

from callboard.consensus.interface import EngineStartError, Peer
from callboard.consensus.pysyncobj_engine import transport
from callboard.consensus.pysyncobj_engine.codec import BadMessage
from callboard.consensus.pysyncobj_engine.identity import Directory
from callboard.consensus.pysyncobj_engine.options import PysyncobjOptions, TlsFiles
from callboard.consensus.pysyncobj_engine.transport import CALLERS_LIMIT, Links
from tests.certificates import Authority
from tests.consensus.conformance import eventually
from tests.consensus.memory_disk import MemoryDisk

IDS = ("a", "b", "c")


@define
class Recorder:
    """What Raft would have been told."""

    up: list[str] = field(factory=list)
    down: list[str] = field(factory=list)
    payloads: list[tuple[str, bytes]] = field(factory=list)

    def link_up(self, peer_id: str) -> None:
        self.up.append(peer_id)

    def link_down(self, peer_id: str) -> None:
        self.down.append(peer_id)

    def received(self, peer_id: str, payload: bytes) -> None:
        if payload == b"bad":
            raise BadMessage("on purpose")
        self.payloads.append((peer_id, payload))


@define
class Side:
    """One replica without a core."""

    links: Links
    events: Recorder
    directory: Directory


class Group:
    """A formed group of directories, and links that tests start."""

    def __init__(self, tmp_path: Path, *, tls: bool) -> None:
        self.tls = tls
        self.tmp_path = tmp_path
        self.authority = Authority()
        self.directories = {
            replica: Directory.open(MemoryDisk(), replica, tuple(other for other in IDS if other != replica))
            for replica in IDS
        }
        for one in IDS:
            for other in IDS:
                if one != other:
                    self.directories[one].meet(self.directories[other].hello())
        self.sides: dict[str, Side] = {}
        self.callers: list[Caller] = []

    def files(self, *names: str, authority: Authority | None = None) -> TlsFiles:
        folder = self.tmp_path / f"certificates-{len(list(self.tmp_path.iterdir()))}"
        folder.mkdir()
        return TlsFiles(*(authority or self.authority).write(folder, *names))

    def options(self, replica: str) -> PysyncobjOptions:
        ports = {other: side.links.port for other, side in self.sides.items()}
        return PysyncobjOptions(
            data_dir=self.tmp_path,
            replica_id=replica,
            peers=tuple(Peer(other, "127.0.0.1", ports.get(other, 1)) for other in IDS if other != replica),
            tls=self.files(replica) if self.tls else None,
            reconnect_ms=20,
            silence_ms=60_000,
            handshake_ms=60_000,
        )

    async def start(
        self, replica: str, change: Callable[[PysyncobjOptions], PysyncobjOptions] = lambda options: options
    ) -> Side:
        events = Recorder()
        links = Links(change(self.options(replica)), self.directories[replica], events)
        await links.start()
        side = Side(links, events, self.directories[replica])
        self.sides[replica] = side
        return side

    async def call(self, replica: str, context: ssl.SSLContext | None = None) -> Caller:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.sides[replica].links.port, ssl=context)
        caller = Caller(reader, writer)
        self.callers.append(caller)
        return caller

    async def introduce(self, replica: str, context: ssl.SSLContext) -> bytes:
        """Call as replica b would; the answer."""
        caller = await self.call(replica, context)
        caller.send(msgspec.msgpack.encode(self.directories["b"].hello()))
        return await caller.frame()

    async def close(self) -> None:
        for caller in self.callers:
            caller.writer.transport.abort()
        for side in self.sides.values():
            await side.links.close()


@define
class Caller:
    """A raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, payload: bytes) -> None:
        self.writer.write(struct.pack("<II", len(payload), zlib.crc32(payload)) + payload)

    async def frame(self) -> bytes:
        length, _ = struct.unpack("<II", await self.reader.readexactly(8))
        return await self.reader.readexactly(length)

    async def is_cut_off(self) -> bool:
        """Read to the end; only an end comes."""
        async with asyncio.timeout(20):
            try:
                while await self.reader.read(1000):
                    pass
            except OSError:
                pass
        self.writer.transport.abort()
        return True


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[Group]:
    group = Group(tmp_path, tls=False)
    yield group
    await group.close()


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Group]:
    group = Group(tmp_path, tls=True)
    yield group
    await group.close()


def client_context(group: Group, *names: str, authority: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    files = group.files("anyone")
    context.load_verify_locations(files.ca)
    if names:
        mine = group.files(*names, authority=authority)
        context.load_cert_chain(mine.certificate, mine.key)
    return context


@pytest.mark.parametrize("tls", [False, True])
async def test_peers_exchange_payloads_both_ways_and_find_each_other_again(tmp_path: Path, tls: bool) -> None:
    group = Group(tmp_path, tls=tls)
    try:
        a = await group.start("a")
        b = await group.start("b")
        await eventually(lambda: a.events.up == ["b"] and b.events.up == ["a"], "the link is up")
        assert a.links.send("b", b"hello b")
        assert b.links.send("a", b"x" * 300_000)
        await eventually(lambda: bool(a.events.payloads and b.events.payloads), "both payloads arrive")
        assert b.events.payloads == [("a", b"hello b")]
        assert a.events.payloads == [("b", b"x" * 300_000)]
        assert not a.links.send("c", b"nobody there")
        await a.links.close()
        await eventually(lambda: b.events.down == ["a"], "b notices")
        assert not b.links.send("a", b"lost")
    finally:
        await group.close()


async def test_a_bad_message_closes_the_link_and_the_dialler_returns(plain: Group) -> None:
    a = await plain.start("a")
    b = await plain.start("b")
    await eventually(lambda: a.events.up == ["b"], "the link is up")
    b.links.send("a", b"bad")
    await eventually(lambda: a.events.up == ["b", "b"], "it is up again")
    assert a.events.down == ["b"]


async def test_without_tls_a_hello_is_needed_first(plain: Group) -> None:
    a = await plain.start("a")
    for first in (b"", b"garbage", msgspec.msgpack.encode(["append", 1, 1, 1, 1, 1, []]), b"\x80\x02}q\x00."):
        caller = await plain.call("a")
        caller.send(first)
        assert await caller.is_cut_off()
    assert a.events == Recorder()


async def test_raw_garbage_and_giant_lengths_are_cut_off(plain: Group) -> None:
    a = await plain.start("a")
    lengths = [struct.pack("<II", length, 0) for length in (2**31 - 1, 2**31, 2**32 - 1, 16 * 1024 + 1)]
    for raw in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, *lengths):
        caller = await plain.call("a")
        caller.writer.write(raw)
        assert await caller.is_cut_off()
    assert a.events == Recorder()


async def test_a_giant_frame_after_the_hello_is_cut_off(plain: Group) -> None:
    a = await plain.start("a")
    caller = await plain.call("a")
    caller.send(msgspec.msgpack.encode(plain.directories["b"].hello()))
    await caller.frame()
    await eventually(lambda: a.events.up == ["b"], "the hello was accepted")
    caller.writer.write(struct.pack("<II", 2**31 - 1, 0))
    assert await caller.is_cut_off()
    await eventually(lambda: a.events.down == ["b"], "the link is gone")


async def test_a_frame_with_a_wrong_checksum_is_cut_off(plain: Group) -> None:
    a = await plain.start("a")
    caller = await plain.call("a")
    caller.send(msgspec.msgpack.encode(plain.directories["b"].hello()))
    await caller.frame()
    caller.writer.write(struct.pack("<II", 3, 12345) + b"abc")
    assert await caller.is_cut_off()
    assert a.events.payloads == []


async def test_slow_callers_are_cut_off_and_bounded(plain: Group) -> None:
    a = await plain.start("a", lambda options: evolve(options, handshake_ms=1000))
    callers = [await plain.call("a") for _ in range(CALLERS_LIMIT + 8)]
    for caller in callers:
        caller.writer.write(b"\x10")  # one byte of a header, and nothing more
    for caller in callers:
        assert await caller.is_cut_off()
    assert a.events == Recorder()


async def test_a_silent_link_is_closed(plain: Group) -> None:
    a = await plain.start("a", lambda options: evolve(options, silence_ms=200))
    caller = await plain.call("a")
    caller.send(msgspec.msgpack.encode(plain.directories["b"].hello()))
    await caller.frame()
    assert await caller.is_cut_off()
    await eventually(lambda: a.events.down == ["b"], "the link is gone")
    assert "nothing was heard" in a.links.troubles["b"]


async def test_quiet_links_are_kept_busy(plain: Group) -> None:
    a = await plain.start("a", lambda options: evolve(options, silence_ms=400))
    await plain.start("b", lambda options: evolve(options, silence_ms=400))
    await eventually(lambda: a.events.up == ["b"], "the link is up")
    link = a.links._links["b"]
    since = link.heard_at
    await eventually(lambda: link.heard_at > since + 1, "it is heard for longer than silence is borne")
    assert (a.events.up, a.events.down) == (["b"], [])


async def test_the_callee_says_why_it_refuses(plain: Group) -> None:
    await plain.start("a")
    plain.directories["b"] = Directory.open(MemoryDisk(), "b", ("a", "c"))
    b = await plain.start("b")
    await eventually(lambda: "lost or exchanged" in b.links.troubles.get("a", ""), "b knows the reason")
    assert b.events.up == []


async def test_strangers_leave_nothing_behind(plain: Group) -> None:
    a = await plain.start("a")
    for number in range(20):
        caller = await plain.call("a")
        hello = msgspec.structs.replace(plain.directories["b"].hello(), replica_id=f"stranger{number}")
        caller.send(msgspec.msgpack.encode(hello))
        assert await caller.is_cut_off()
    assert a.links.troubles == {}


async def test_a_new_link_of_a_peer_replaces_the_old(plain: Group) -> None:
    a = await plain.start("a")
    callers = []
    for _ in range(2):
        caller = await plain.call("a")
        caller.send(msgspec.msgpack.encode(plain.directories["b"].hello()))
        await caller.frame()
        callers.append(caller)
    await eventually(lambda: a.events.up == ["b", "b"], "both were accepted")
    assert a.events.down == ["b"]
    assert await callers[0].is_cut_off()


async def test_a_full_buffer_refuses_instead_of_growing(plain: Group) -> None:
    a = await plain.start("a", lambda options: evolve(options, link_buffer_bytes=100_000))
    caller = await plain.call("a")
    caller.send(msgspec.msgpack.encode(plain.directories["b"].hello()))
    await caller.frame()
    await eventually(lambda: a.events.up == ["b"], "the link is up")
    sent = 0
    while a.links.send("b", b"x" * 50_000):
        sent += 1
        assert sent < 10_000
    assert a.links.congested("b")


# With TLS.


async def test_no_certificate_is_cut_off(secure: Group) -> None:
    a = await secure.start("a")
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await secure.introduce("a", client_context(secure))
    assert a.events == Recorder()


async def test_plain_text_is_cut_off(secure: Group) -> None:
    a = await secure.start("a")
    caller = await secure.call("a")
    caller.send(msgspec.msgpack.encode(secure.directories["b"].hello()))
    assert await caller.is_cut_off()
    assert a.events == Recorder()


@pytest.mark.parametrize("names", [("stranger",), ("c",), ("*",), ("b.example",)])
async def test_a_certificate_for_another_name_is_cut_off(secure: Group, names: tuple[str, ...]) -> None:
    a = await secure.start("a")
    caller = await secure.call("a", client_context(secure, *names))
    caller.send(msgspec.msgpack.encode(secure.directories["b"].hello()))
    assert b"the certificate is for" in await caller.frame()
    assert await caller.is_cut_off()
    assert a.events == Recorder()


async def test_a_certificate_of_another_authority_is_cut_off(secure: Group) -> None:
    a = await secure.start("a")
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await secure.introduce("a", client_context(secure, "b", authority=Authority()))
    assert a.events == Recorder()


async def test_the_dialler_checks_the_certificate_too(secure: Group) -> None:
    files = secure.files("stranger")
    await secure.start("a", lambda options: evolve(options, tls=files))
    b = await secure.start("b")
    await eventually(lambda: "for stranger, not for replica a" in b.links.troubles.get("a", ""), "b refuses")
    assert b.events.up == []


async def test_renewed_certificates_are_used_and_broken_ones_are_not(secure: Group) -> None:
    files = secure.files("stranger")
    a = await secure.start("a", lambda options: evolve(options, tls=files, silence_ms=200))
    await secure.start("b", lambda options: evolve(options, silence_ms=60_000))
    await eventually(lambda: "for stranger" in secure.sides["b"].links.troubles.get("a", ""), "b refuses")
    secure.authority.write(files.ca.parent, "a")
    await eventually(lambda: a.events.up == ["b"], "the renewed certificate is accepted")
    files.certificate.write_bytes(secure.authority.issue("a")[0])  # without its key
    credentials = a.links._credentials
    assert credentials is not None
    credentials.reload_if_changed()
    caller = await secure.call("a", client_context(secure, "b"))
    caller.send(msgspec.msgpack.encode(secure.directories["b"].hello()))
    assert await caller.frame(), "the certificate from before is still in force"


async def test_an_impossible_host_is_one_more_trouble(plain: Group) -> None:
    await plain.start("a")
    host = "x" * 100 + ".example"
    b = await plain.start("b", lambda options: evolve(options, peers=(Peer("a", host, 1),), allow_plaintext=True))
    await eventually(lambda: "a" in b.links.troubles, "the reason is kept")
    assert b.links._tasks, "it goes on trying"


# Start-up.


async def test_a_port_in_use_is_named(plain: Group) -> None:
    a = await plain.start("a")
    with pytest.raises(EngineStartError, match=f"cannot listen for replicas on 127.0.0.1:{a.links.port}"):
        await plain.start("b", lambda options: evolve(options, listen_port=a.links.port))


async def test_missing_certificates_are_named(plain: Group) -> None:
    for broken in ("ca", "certificate", "key"):
        files = evolve(plain.files("a"), **{broken: Path("/nowhere/x.pem")})
        with pytest.raises(EngineStartError, match=r"/nowhere/x\.pem"):
            await plain.start("a", lambda options, files=files: evolve(options, tls=files))  # type: ignore[misc]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "replica.example"])
async def test_plain_text_beyond_loopback_must_be_allowed(plain: Group, host: str) -> None:
    with pytest.raises(EngineStartError, match="without TLS"):
        await plain.start("a", lambda options: evolve(options, listen_host=host))
    options = evolve(plain.options("a"), peers=(Peer("b", host, 1),))
    with pytest.raises(EngineStartError, match="without TLS"):
        transport.refuse_open_plaintext(options)
    transport.refuse_open_plaintext(evolve(options, allow_plaintext=True))
