"""Snapshots on disk and on the wire: written whole, synced, checksummed, without fork and without pickle.

File format, version 1: marker b"CBSNAP1\\n" | header length u32 | header (MessagePack of `_Header`) | state |
SHA-256 of everything before. The same bytes travel to a follower in chunks.

A file alone counts for nothing: the journal names the snapshot that it stands on (see `journal`).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import msgspec
from attrs import define, field, frozen

from callboard.consensus.interface import EngineStartError
from callboard.consensus.pysyncobj_engine.codec import DECODE_ERRORS
from callboard.consensus.pysyncobj_engine.disk import Disk, write_atomically
from callboard.consensus.pysyncobj_engine.journal import Base, LogEntry

FORMAT_VERSION = 1

_MARKER = b"CBSNAP1\n"
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
_PREFIX = "snapshot-"


class SnapshotCorrupt(ValueError):
    """Bytes that are no whole, undamaged snapshot of this format."""


@frozen
class Snapshot:
    """The state after the entry `last`. The two newest entries come along, since the log continues behind them."""

    previous: LogEntry
    last: LogEntry
    state: bytes

    @property
    def base(self) -> Base:
        """Where a log that stands on this snapshot continues."""
        return Base(self.last[1], self.last[2])


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    previous: tuple[bytes, int, int]
    last: tuple[bytes, int, int]
    state_bytes: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Header)


def encode(snapshot: Snapshot) -> bytes:
    """The bytes of a snapshot file."""
    header = _encoder.encode(_Header(FORMAT_VERSION, snapshot.previous, snapshot.last, len(snapshot.state)))
    body = b"".join((_MARKER, _LENGTH.pack(len(header)), header, snapshot.state))
    return body + hashlib.sha256(body).digest()


def decode(data: bytes) -> Snapshot:
    """The snapshot in `data`.

    Raises:
        SnapshotCorrupt: anything but exactly the bytes of one snapshot.
    """
    start = len(_MARKER) + _LENGTH.size
    if len(data) < start + _DIGEST_BYTES or not data.startswith(_MARKER):
        raise SnapshotCorrupt("not a snapshot")
    if hashlib.sha256(memoryview(data)[:-_DIGEST_BYTES]).digest() != data[-_DIGEST_BYTES:]:
        raise SnapshotCorrupt("the checksum is wrong")
    (length,) = _LENGTH.unpack_from(data, len(_MARKER))
    try:
        header = _decoder.decode(data[start : start + length])
    except DECODE_ERRORS as error:
        raise SnapshotCorrupt(f"the header cannot be read: {error}") from error
    if header.version != FORMAT_VERSION:
        raise SnapshotCorrupt(f"format {header.version}, this version of callboard reads {FORMAT_VERSION}")
    state = data[start + length : -_DIGEST_BYTES]
    if len(state) != header.state_bytes or header.last[1] != header.previous[1] + 1:
        raise SnapshotCorrupt("the header contradicts the content")
    return Snapshot(header.previous, header.last, state)


def file_name(base: Base) -> str:
    """The file of the snapshot at `base`."""
    return f"{_PREFIX}{base.index}-{base.term}"


class SnapshotStore:
    """The snapshot files of one directory. Everything raises OSError when the disk does."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def save(self, base: Base, data: bytes) -> None:
        """Put an encoded snapshot durably in place."""
        write_atomically(self._disk, file_name(base), data)

    def read(self, base: Base) -> bytes:
        """The encoded snapshot at `base`."""
        return self._disk.read(file_name(base))

    def load(self, base: Base) -> Snapshot:
        """The snapshot that the journal names.

        Raises:
            EngineStartError: it is missing or damaged.
        """
        name = file_name(base)
        try:
            snapshot = decode(self._disk.read(name))
        except FileNotFoundError:
            raise EngineStartError(f"the journal stands on {name}, which is missing") from None
        except SnapshotCorrupt as error:
            raise EngineStartError(f"{name} is damaged: {error}") from error
        if snapshot.base != base:
            raise EngineStartError(f"{name} holds another snapshot: that of entry {snapshot.base.index}")
        return snapshot

    def remove_others(self, base: Base) -> None:
        """Remove the snapshots that no journal names any more."""
        kept = file_name(base)
        for name in self._disk.names():
            if name.startswith(_PREFIX) and name != kept:
                self._disk.remove(name)


@frozen
class OutgoingChunk:
    """A piece for one follower. `is_first` and `is_last` are what the library asks for, by position."""

    base: Base
    offset: int
    data: bytes
    is_last: bool


@define
class _Transmission:
    base: Base
    data: bytes
    offset: int = 0


class SnapshotSender:
    """Hands the newest snapshot out in chunks, to each follower at its own pace.

    Stands where the library keeps its serializer; the method names (and one spelling) are the library's.
    """

    def __init__(self, store: SnapshotStore, chunk_bytes: int, congested: Callable[[object], bool]) -> None:
        self._store = store
        self._chunk_bytes = chunk_bytes
        self._congested = congested
        self._base = Base(0, 0)
        self._transmissions: dict[object, _Transmission] = {}

    def use(self, base: Base) -> None:
        """Send this snapshot to whoever starts from now on."""
        self._base = base

    def getTransmissionData(self, node: object) -> tuple[OutgoingChunk, bool, bool]:  # noqa: N802
        """The next chunk as (chunk, is first, is last); an empty one that is not last means "not now".

        Raises OSError if the file cannot be read.
        """
        transmission = self._transmissions.get(node)
        if transmission is None:
            transmission = _Transmission(self._base, self._store.read(self._base))
            self._transmissions[node] = transmission
        offset = transmission.offset
        if self._congested(node):
            return OutgoingChunk(transmission.base, offset, b"", is_last=False), False, False
        data = transmission.data[offset : offset + self._chunk_bytes]
        transmission.offset += len(data)
        is_last = transmission.offset == len(transmission.data)
        if is_last:
            del self._transmissions[node]
        return OutgoingChunk(transmission.base, offset, data, is_last), offset == 0, is_last

    def cancelTransmisstion(self, node: object) -> None:  # noqa: N802
        """The follower went away: start from the beginning next time."""
        self._transmissions.pop(node, None)


@define
class SnapshotReceiver:
    """Collects the chunks of one snapshot, in order, up to a limit."""

    limit_bytes: int
    _source: tuple[str, Base] | None = None
    _parts: list[bytes] = field(factory=list)
    _size: int = 0

    def reset(self) -> None:
        """Forget what came so far."""
        self._source = None
        self._parts = []
        self._size = 0

    def add(self, peer_id: str, base: Base, offset: int, data: bytes) -> bool:
        """Take one chunk; False if it does not continue what came before (the sender starts again then)."""
        if offset == 0:
            self.reset()
            self._source = (peer_id, base)
        if self._source != (peer_id, base) or offset != self._size or self._size + len(data) > self.limit_bytes:
            self.reset()
            return False
        self._parts.append(data)
        self._size += len(data)
        return True

    def finish(self) -> bytes:
        """Everything collected, which is forgotten."""
        data = b"".join(self._parts)
        self.reset()
        return data
