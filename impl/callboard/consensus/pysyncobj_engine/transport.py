"""Links between replicas: one connection per pair, framed, bounded, and with mutual TLS.

The replica with the greater id dials. Both sides first send a `Hello`; until both have accepted the other's, nothing
reaches Raft. With TLS the certificate must carry the replica id as a DNS name. Frames are

    length u32 | CRC-32 of the payload u32 | payload

and an empty payload only shows that the sender is alive. A frame over the limit, a wrong checksum or silence closes
the link; the dialler tries again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
import struct
import zlib
from collections.abc import Coroutine
from typing import Any, Protocol

import msgspec
from attrs import define

from callboard.consensus.interface import EngineStartError, Peer
from callboard.consensus.pysyncobj_engine.codec import DECODE_ERRORS, BadMessage
from callboard.consensus.pysyncobj_engine.identity import Directory, Hello, PeerRefused
from callboard.consensus.pysyncobj_engine.options import PysyncobjOptions, TlsFiles

logger = logging.getLogger(__name__)

HELLO_LIMIT_BYTES = 16 * 1024
CALLERS_LIMIT = 32
"""Callers that have not introduced themselves yet; one more is cut off at once."""
ENTRY_OVERHEAD = 24
"""Upper bound of what a one-byte command grows to on the wire, as a factor."""

_FRAME = struct.Struct("<II")
_LINK_ERRORS = (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError, PeerRefused)
"""What can be wrong with a peer or a caller (BadMessage and impossible host names are ValueErrors)."""


class Events(Protocol):
    """What the owner of the links is told. Called in the event loop."""

    def link_up(self, peer_id: str) -> None:
        """Messages can be sent from now on."""

    def link_down(self, peer_id: str) -> None:
        """They cannot any more; what was on the way may be lost."""

    def received(self, peer_id: str, payload: bytes) -> None:
        """One payload. Raises BadMessage to have the link closed."""


@define(eq=False)
class _Link:
    peer_id: str
    writer: asyncio.StreamWriter
    heard_at: float
    said_at: float


class _Refusal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="refused"):
    reason: str


_encoder = msgspec.msgpack.Encoder()


def is_loopback(host: str) -> bool:
    """Whether traffic to `host` cannot leave this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Credentials:
    """TLS contexts for both directions; both sides must show a certificate of the CA. Renewed files are noticed."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises EngineStartError, naming the file that cannot be used."""
        self._files = files
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for context in (self.server, self.client):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            # The name is compared with the replica id after the handshake: peers are dialled at any address.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_REQUIRED
        self._load()
        self._seen = self._stamps()

    def reload_if_changed(self) -> None:
        """Use renewed files for new links. Files that cannot be used are reported once; the old ones stay in force."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            Credentials(self._files)  # a certificate without its key must not get half-way into the contexts in use
            self._load()
        except EngineStartError as error:
            logger.error("renewed TLS files are not used: %s", error)
        else:
            logger.info("renewed TLS files are used from now on")

    def _load(self) -> None:
        files = self._files
        for context in (self.server, self.client):
            try:
                context.load_verify_locations(files.ca)
            except (OSError, ssl.SSLError) as error:
                raise EngineStartError(f"the CA file {files.ca} cannot be used: {error}") from error
            try:
                context.load_cert_chain(files.certificate, files.key, password=_no_password)
            except (OSError, ssl.SSLError, ValueError) as error:
                raise EngineStartError(
                    f"the certificate {files.certificate} with key {files.key} cannot be used: {error}"
                ) from error

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        stamps: list[tuple[int, int, int] | None] = []
        for path in (self._files.ca, self._files.certificate, self._files.key):
            try:
                found = path.stat()
                stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
            except OSError:
                stamps.append(None)
        return stamps


def _no_password() -> str:
    raise ValueError("the key is encrypted, which is not supported")


def refuse_open_plaintext(options: PysyncobjOptions) -> None:
    """Without TLS only loopback is allowed, unless the operator says otherwise.

    Raises:
        EngineStartError: naming the address.
    """
    if options.tls is not None or options.allow_plaintext or not options.peers:
        return
    for host in (options.listen_host, *(peer.host for peer in options.peers)):
        if not is_loopback(host):
            raise EngineStartError(
                f"replicas would talk over {host} without TLS: give certificates, or allow plaintext explicitly"
            )


class Links:
    """All links of one replica."""

    def __init__(self, options: PysyncobjOptions, directory: Directory, events: Events) -> None:
        self._options = options
        self._directory = directory
        self._events = events
        self._credentials: Credentials | None = None
        self._server: asyncio.Server | None = None
        self._links: dict[str, _Link] = {}
        self._callers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._said: dict[str, str] = {}
        self._peer_ids = frozenset(peer.replica_id for peer in options.peers)
        self._cut_off = 0
        self._report_at = 0.0
        settings = options.settings
        self._frame_limit = (
            ENTRY_OVERHEAD * (settings.batch_bytes + options.limits.command_bytes) + settings.chunk_bytes + 64 * 1024
        )

    @property
    def troubles(self) -> dict[str, str]:
        """Peer id -> why there is no link to it, as far as known."""
        return dict(self._said)

    @property
    def port(self) -> int:
        """The port that is listened on; 0 without peers."""
        if self._server is None:
            return 0
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen and dial.

        Raises:
            EngineStartError: the address cannot be bound, or TLS cannot be used.
        """
        options = self._options
        if not options.peers:
            return
        refuse_open_plaintext(options)
        if options.tls is not None:
            self._credentials = Credentials(options.tls)
        try:
            self._server = await asyncio.start_server(
                self._accept,
                options.listen_host,
                options.listen_port,
                ssl=self._credentials.server if self._credentials else None,
                ssl_handshake_timeout=options.handshake_ms / 1000 if self._credentials else None,
            )
        except OSError as error:
            raise EngineStartError(
                f"cannot listen for replicas on {options.listen_host}:{options.listen_port}: {error.strerror or error}"
            ) from error
        for peer in options.peers:
            if options.replica_id > peer.replica_id:
                self._spawn(self._dial_for_ever(peer))
        self._spawn(self._watch())

    def send(self, peer_id: str, payload: bytes) -> bool:
        """Hand one payload to the operating system, or refuse it: no link, or too much waits already."""
        link = self._links.get(peer_id)
        if link is None or link.writer.transport.is_closing():
            return False
        if link.writer.transport.get_write_buffer_size() > self._options.link_buffer_bytes:
            return False
        self._write(link, payload)
        return True

    def congested(self, peer_id: str) -> bool:
        """Whether the leader should pause its log and snapshot for this peer."""
        link = self._links.get(peer_id)
        return link is not None and (
            link.writer.transport.get_write_buffer_size() > self._options.link_buffer_bytes // 4
        )

    def abort(self) -> None:
        """Drop everything at once. Idempotent."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for link in list(self._links.values()):
            self._drop(link)
        for writer in list(self._callers):
            writer.transport.abort()
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Drop everything and wait until it is gone."""
        self.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------------ making links

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._closed or len(self._callers) >= CALLERS_LIMIT:
            writer.transport.abort()
            return
        self._tasks.add(task)
        try:
            peer_id = await self._answer_caller(reader, writer)
            if peer_id is not None:
                await self._serve(peer_id, reader, writer)
        except _LINK_ERRORS as error:
            self._report_caller(writer.get_extra_info("peername"), _reason(error))
        except asyncio.CancelledError:
            if not self._closed:
                raise
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _answer_caller(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str | None:
        """The handshake of the side that was called; the peer's id if Raft may run over the link."""
        self._callers.add(writer)
        try:
            async with asyncio.timeout(self._options.handshake_ms / 1000):
                hello = _decode_hello(await self._read_frame(reader, HELLO_LIMIT_BYTES))
                try:
                    if not hello.replica_id > self._options.replica_id:
                        raise PeerRefused(
                            f"replica {hello.replica_id} must wait until {self._options.replica_id} dials it"
                        )
                    self._check_certificate(writer, hello.replica_id)
                    answer = self._directory.hello()
                    usable = self._directory.meet(hello)
                except PeerRefused as refusal:
                    self._trouble(hello.replica_id, str(refusal))
                    writer.write(_frame(_encoder.encode(_Refusal(str(refusal)))))
                    await writer.drain()
                    raise
                writer.write(_frame(_encoder.encode(answer)))
                await writer.drain()
                return hello.replica_id if usable else None
        finally:
            self._callers.discard(writer)

    async def _dial_for_ever(self, peer: Peer) -> None:
        while not self._closed:
            try:
                await self._dial(peer)
            except _LINK_ERRORS as error:
                self._trouble(peer.replica_id, _reason(error))
            await asyncio.sleep(self._options.reconnect_ms / 1000)

    async def _dial(self, peer: Peer) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._options.handshake_ms / 1000):
                reader, writer = await asyncio.open_connection(
                    peer.host,
                    peer.port,
                    ssl=self._credentials.client if self._credentials else None,
                    server_hostname="" if self._credentials else None,
                )
                self._check_certificate(writer, peer.replica_id)
                own = self._directory.hello()
                writer.write(_frame(_encoder.encode(own)))
                await writer.drain()
                hello = _decode_hello(await self._read_frame(reader, HELLO_LIMIT_BYTES))
                if hello.replica_id != peer.replica_id:
                    raise PeerRefused(
                        f"at {peer.host}:{peer.port} is replica {hello.replica_id}, not {peer.replica_id}"
                    )
                usable = self._directory.meet(hello) and bool(own.cluster_id)
            if usable:
                await self._serve(peer.replica_id, reader, writer)
        finally:
            if writer is not None:
                writer.transport.abort()

    def _check_certificate(self, writer: asyncio.StreamWriter, replica_id: str) -> None:
        if self._credentials is None:
            return
        certificate = writer.get_extra_info("ssl_object").getpeercert() or {}
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
        if replica_id not in names:
            raise PeerRefused(f"the certificate is for {', '.join(names) or 'nobody'}, not for replica {replica_id}")

    # ------------------------------------------------------------------ using them

    async def _serve(self, peer_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        old = self._links.get(peer_id)
        if old is not None:
            self._drop(old)
        now = asyncio.get_running_loop().time()
        link = _Link(peer_id, writer, now, now)
        self._links[peer_id] = link
        self._said.pop(peer_id, None)
        self._events.link_up(peer_id)
        try:
            while self._links.get(peer_id) is link:
                payload = await self._read_frame(reader, self._frame_limit)
                link.heard_at = asyncio.get_running_loop().time()
                if payload and self._links.get(peer_id) is link:
                    self._events.received(peer_id, payload)
        except _LINK_ERRORS as error:
            if self._links.get(peer_id) is link:
                self._trouble(peer_id, _reason(error))
        finally:
            self._drop(link)

    def _drop(self, link: _Link) -> None:
        link.writer.transport.abort()
        if self._links.get(link.peer_id) is link:
            del self._links[link.peer_id]
            self._events.link_down(link.peer_id)

    async def _read_frame(self, reader: asyncio.StreamReader, limit: int) -> bytes:
        length, checksum = _FRAME.unpack(await reader.readexactly(_FRAME.size))
        if length > limit:
            raise BadMessage(f"a frame of {length} bytes, the limit is {limit}")
        payload = await reader.readexactly(length)
        if zlib.crc32(payload) != checksum:
            raise BadMessage("a frame with a wrong checksum")
        return payload

    def _write(self, link: _Link, payload: bytes) -> None:
        link.said_at = asyncio.get_running_loop().time()
        link.writer.write(_frame(payload))

    async def _watch(self) -> None:
        """Close links on which nothing arrives, say something on those that have been quiet, notice renewed files."""
        silence = self._options.silence_ms / 1000
        loop = asyncio.get_running_loop()
        while not self._closed:
            due = loop.time() + silence / 4
            await asyncio.sleep(silence / 4)
            if self._credentials is not None:
                self._credentials.reload_if_changed()
            now = loop.time()
            # Held up itself, this replica has not listened: what was said meanwhile waits in its sockets.
            late = now - due > silence / 4
            for link in list(self._links.values()):
                if now - link.heard_at > silence and not late:
                    self._trouble(link.peer_id, f"nothing was heard for {self._options.silence_ms} ms")
                    self._drop(link)
                elif now - link.said_at >= silence / 4:
                    self._write(link, b"")

    def _report_caller(self, address: object, reason: str) -> None:
        """Log callers that were cut off, one a second: a stranger must not fill the log."""
        self._cut_off += 1
        now = asyncio.get_running_loop().time()
        if self._closed or now < self._report_at:
            return
        self._report_at = now + 1
        logger.warning("callers cut off so far: %d; the last one, at %s: %s", self._cut_off, address, reason)

    def _trouble(self, peer_id: str, reason: str) -> None:
        if self._closed or self._said.get(peer_id) == reason or peer_id not in self._peer_ids:
            return
        self._said[peer_id] = reason
        logger.warning("no link to replica %s: %s", peer_id, reason)


def _frame(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _decode_hello(payload: bytes) -> Hello:
    try:
        return msgspec.msgpack.decode(payload, type=Hello)
    except DECODE_ERRORS as error:
        try:
            refusal = msgspec.msgpack.decode(payload, type=_Refusal)
        except DECODE_ERRORS:
            raise BadMessage(f"not a hello: {error}") from error
    raise PeerRefused(f"refused by the other side: {refusal.reason[:500]}")


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.IncompleteReadError):
        return "the connection was closed"
    if isinstance(error, TimeoutError):
        return "it took too long"
    return str(error) or type(error).__name__
