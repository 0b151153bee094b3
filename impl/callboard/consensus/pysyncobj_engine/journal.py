"""The log, term and vote of one replica, in one append-only file that is durable before anyone hears of it.

It stands behind the library's journal interface and replaces its file (which is never synced, has no checksums and
is compacted in place). The library's method names are kept, because the library calls them.

File format, version 1: frames, each one group of changes that was synced together.

    marker b"\\xc5JF1" | payload length u32 | sequence u64 | CRC-32 of these 16 bytes u32
    payload (MessagePack of `_Frame`) | CRC-32 of the payload u32 | marker b"\\xa5JE1"

A crash can tear only the last frame: the file ends before the frame does, or whole sectors of it are zeros. Such a
tail was never acknowledged and is cut. Everything else that does not check is damage to synced bytes, and refused.
The first frame is written with the whole file (atomically) and names the snapshot on which the log stands; a
snapshot therefore counts from the moment when a journal that names it is in place, and not before.
"""

from __future__ import annotations

import struct
import zlib
from typing import overload

import msgspec
from attrs import define, frozen
from pysyncobj.journal import Journal as LibraryJournal

from callboard.consensus.interface import EngineStartError
from callboard.consensus.pysyncobj_engine.codec import DECODE_ERRORS, KIND_NOTHING
from callboard.consensus.pysyncobj_engine.disk import Disk, Handle, write_atomically

JOURNAL_FILE = "journal"
FORMAT_VERSION = 1

_START = b"\xc5JF1"
_END = b"\xa5JE1"
_HEADER = struct.Struct("<4sIQ")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CRC.size
_TRAILER_BYTES = _CRC.size + len(_END)
_SECTOR_BYTES = 512

LogEntry = tuple[bytes, int, int]
"""(command, index, term): the library's order."""


class JournalCorrupt(EngineStartError):
    """Bytes that had been synced have changed. The replica must not go on with them."""


@frozen
class Base:
    """The snapshot below the log: everything up to `index` is in it."""

    index: int
    term: int


class _Opening(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    directory_id: str
    base_index: int
    base_term: int


class _Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Cut the log behind `keep_through`, append `entries`, then take the rest over."""

    opening: _Opening | None
    keep_through: int
    entries: list[tuple[bytes, int, int]]
    term: int
    voted_for: str | None
    commit_index: int


@define
class _Content:
    opening: _Opening
    entries: list[LogEntry]
    term: int
    voted_for: str | None
    commit_index: int
    next_sequence: int
    end: int
    """Where the last good frame ends; bytes behind it are a torn tail."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Frame)


def _frame_bytes(sequence: int, frame: _Frame) -> bytes:
    payload = _encoder.encode(frame)
    header = _HEADER.pack(_START, len(payload), sequence)
    return b"".join(
        (header, _CRC.pack(zlib.crc32(header)), payload, _CRC.pack(zlib.crc32(payload)), _END),
    )


def _header_at(data: bytes, at: int) -> tuple[int, int] | None:
    """(payload length, sequence) of an intact frame header at `at`."""
    if at + _HEADER_BYTES > len(data):
        return None
    marker, length, sequence = _HEADER.unpack_from(data, at)
    (crc,) = _CRC.unpack_from(data, at + _HEADER.size)
    if marker != _START or crc != zlib.crc32(data[at : at + _HEADER.size]):
        return None
    return length, sequence


def _has_zero_sector(data: bytes, start: int, end: int) -> bool:
    """Whether some sector's share of data[start:end] is all zeros: what an unfinished write leaves behind."""
    at = start
    while at < end:
        stop = min(end, at - at % _SECTOR_BYTES + _SECTOR_BYTES)
        if not any(data[at:stop]):
            return True
        at = stop
    return False


def _header_is_torn(data: bytes, at: int) -> bool:
    """Whether the bad header at `at` may be an unfinished last write, rather than damage."""
    if len(data) - at < _HEADER_BYTES:
        return data.startswith(_START[: len(data) - at], at) or not any(data[at:])
    later = data.find(_START, at + 1)
    while later >= 0:
        if _header_at(data, later) is not None:
            return False
        later = data.find(_START, later + 1)
    return _has_zero_sector(data, at, len(data))


def _read_frames(data: bytes) -> _Content:
    """Replay a journal file.

    Raises:
        JournalCorrupt: anything wrong but a torn tail.
    """
    content: _Content | None = None
    at = 0
    sequence = 0
    while at < len(data):
        header = _header_at(data, at)
        if header is None:
            if content is not None and _header_is_torn(data, at):
                break
            raise JournalCorrupt(f"the journal is damaged at byte {at}: no frame starts there")
        length, found = header
        if found != sequence:
            raise JournalCorrupt(f"the journal is damaged at byte {at}: frame {found} where {sequence} belongs")
        end = at + _HEADER_BYTES + length + _TRAILER_BYTES
        payload = data[at + _HEADER_BYTES : end - _TRAILER_BYTES]
        if end > len(data) and content is not None:
            break
        if data[end - _TRAILER_BYTES : end] != _CRC.pack(zlib.crc32(payload)) + _END:
            if content is not None and end == len(data) and _has_zero_sector(data, at, end):
                break
            raise JournalCorrupt(f"the journal is damaged at byte {at}: the checksum of frame {sequence} is wrong")
        content = _replay(content, payload, sequence)
        content.end = at = end
        sequence += 1
        content.next_sequence = sequence
    if content is None:
        raise JournalCorrupt("the journal is empty")
    return content


def _replay(content: _Content | None, payload: bytes, sequence: int) -> _Content:
    try:
        frame = _decoder.decode(payload)
    except DECODE_ERRORS as error:
        raise JournalCorrupt(f"frame {sequence} of the journal cannot be read: {error}") from error
    if content is None:
        if frame.opening is None:
            raise JournalCorrupt("the journal does not start with its opening frame")
        if frame.opening.version != FORMAT_VERSION:
            raise JournalCorrupt(
                f"the journal has format {frame.opening.version}; this version of callboard reads {FORMAT_VERSION}"
            )
        content = _Content(frame.opening, [], 0, None, 1, 0, 0)
    entries = content.entries
    if entries:
        del entries[max(0, frame.keep_through - entries[0][1] + 1) :]
    for entry in frame.entries:
        if entries and entry[1] != entries[-1][1] + 1:
            raise JournalCorrupt(f"frame {sequence} of the journal jumps from entry {entries[-1][1]} to {entry[1]}")
        entries.append(entry)
    content.term, content.voted_for, content.commit_index = frame.term, frame.voted_for, frame.commit_index
    return content


@define
class JournalFigures:
    """What metrics and status pages show."""

    syncs: int = 0
    rewrites: int = 0


class Journal(LibraryJournal):  # type: ignore[misc]  # the library has no types
    """The library's journal interface over frames. Changes live in memory until `sync`.

    Indexes in the methods with the library's names are positions in the list; those of our own are log indexes.
    """

    def __init__(self, disk: Disk, directory_id: str, content: _Content, handle: Handle | None) -> None:
        self._disk = disk
        self._directory_id = directory_id
        self._base = Base(content.opening.base_index, content.opening.base_term)
        self._entries = content.entries
        self._term = content.term
        self._voted_for = content.voted_for
        self._commit_index = content.commit_index
        self._next_sequence = content.next_sequence
        self._handle = handle
        self._dirty_from: int | None = None
        self._meta_dirty = False
        self._bytes = sum(len(entry[0]) for entry in content.entries)
        self.figures = JournalFigures()

    @classmethod
    def create(cls, disk: Disk, directory_id: str) -> Journal:
        """A new empty journal, durably in place. It replaces any that was there."""
        content = _Content(_Opening(FORMAT_VERSION, directory_id, 0, 0), [(KIND_NOTHING, 1, 0)], 0, None, 1, 0, 0)
        journal = cls(disk, directory_id, content, None)
        journal._rewrite()
        return journal

    @classmethod
    def open(cls, disk: Disk, directory_id: str) -> Journal:
        """The journal that is there; a torn tail is cut.

        Raises:
            JournalCorrupt: missing, damaged, or written in another directory.
        """
        try:
            data = disk.read(JOURNAL_FILE)
        except FileNotFoundError:
            raise JournalCorrupt("the journal is missing") from None
        content = _read_frames(data)
        if content.opening.directory_id != directory_id:
            raise JournalCorrupt(
                f"the journal belongs to directory {content.opening.directory_id}, not to {directory_id}: "
                "it was copied from elsewhere"
            )
        if len(content.entries) == 0 or content.commit_index > content.entries[-1][1]:
            raise JournalCorrupt(f"the journal ends before its commit index {content.commit_index}")
        if content.end < len(data):
            journal = cls(disk, directory_id, content, None)
            journal._rewrite()
            return journal
        return cls(disk, directory_id, content, disk.append(JOURNAL_FILE))

    # What the engine asks.

    @property
    def base(self) -> Base:
        """The snapshot below the log; index 0 means none."""
        return self._base

    @property
    def first_index(self) -> int:
        """Index of the oldest entry kept."""
        return self._entries[0][1]

    @property
    def last_index(self) -> int:
        """Index of the newest entry."""
        return self._entries[-1][1]

    @property
    def last_term(self) -> int:
        """Term of the newest entry."""
        return self._entries[-1][2]

    @property
    def entry_bytes(self) -> int:
        """Bytes of all commands kept."""
        return self._bytes

    @property
    def dirty(self) -> bool:
        """Whether something is not durable yet."""
        return self._meta_dirty or self._dirty_from is not None

    @property
    def durable_vote(self) -> tuple[int, str | None] | None:
        """The term, and who got the vote in it; None while that is not durable yet."""
        return None if self._meta_dirty else (self._term, self._voted_for)

    def term_at(self, index: int) -> int | None:
        """Term of the entry at `index`; None if it is not (or no longer) kept."""
        position = index - self._entries[0][1]
        return self._entries[position][2] if 0 <= position < len(self._entries) else None

    def entry_at(self, index: int) -> LogEntry:
        """The entry at `index`. Raises IndexError if it is not kept."""
        position = index - self._entries[0][1]
        if position < 0:
            raise IndexError(index)
        return self._entries[position]

    def sync(self) -> None:
        """Make every change durable, in one write and one fdatasync. Raises OSError."""
        if not self.dirty:
            return
        keep_through = self.last_index if self._dirty_from is None else self._dirty_from - 1
        entries = [] if self._dirty_from is None else self._entries[self._dirty_from - self.first_index :]
        frame = _Frame(None, keep_through, entries, self._term, self._voted_for, self._commit_index)
        data = _frame_bytes(self._next_sequence, frame)
        assert self._handle is not None
        self._handle.write(data)
        self._handle.sync()
        self._next_sequence += 1
        self._clean()
        self.figures.syncs += 1

    def rebase(self, base: Base, *, keep_from: int) -> None:
        """Stand on the snapshot `base` from now on, durably, and forget the entries before `keep_from`.

        The snapshot must be durable already. Raises OSError.
        """
        self._entries = self._entries[keep_from - self.first_index :]
        self._replace(base)

    def install(self, base: Base, entries: list[LogEntry]) -> None:
        """Replace the whole log by `entries`, which end with the last one in the snapshot `base`, durably."""
        self._entries = list(entries)
        self._commit_index = base.index
        self._replace(base)

    # The library's interface.

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry."""
        self._entries.append((command, idx, term))
        self._bytes += len(command)
        self._touch(idx)

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803 - the library's names
        """Cut the log at a position."""
        removed = self._entries[entryFrom:]
        if removed:
            self._bytes -= sum(len(entry[0]) for entry in removed)
            del self._entries[entryFrom:]
            self._touch(removed[0][1])

    @overload
    def __getitem__(self, item: int) -> LogEntry: ...
    @overload
    def __getitem__(self, item: slice) -> list[LogEntry]: ...
    def __getitem__(self, item: int | slice) -> LogEntry | list[LogEntry]:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        """Remember the commit index. It is a hint for the next start, and becomes durable with the next change."""
        self._commit_index = raftCommitIndex

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        """The commit index that was durable at start, or set since."""
        return self._commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        """Remember term and vote. Whoever is told of them waits for `sync`."""
        self._term, self._voted_for = term, votedForNodeId
        self._meta_dirty = True

    def getCurrentTerm(self) -> int:  # noqa: N802
        """The newest term."""
        return self._term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802
        """Who got the vote in this term."""
        return self._voted_for

    def close(self) -> None:
        """Close the file. What was not synced was promised to nobody."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _destroy(self) -> None:
        """The library's name for `close`."""
        self.close()

    def _touch(self, index: int) -> None:
        self._dirty_from = index if self._dirty_from is None else min(index, self._dirty_from)

    def _clean(self) -> None:
        self._dirty_from = None
        self._meta_dirty = False

    def _replace(self, base: Base) -> None:
        self._base = base
        self._bytes = sum(len(entry[0]) for entry in self._entries)
        self._rewrite()

    def _rewrite(self) -> None:
        opening = _Opening(FORMAT_VERSION, self._directory_id, self._base.index, self._base.term)
        frame = _Frame(opening, 0, self._entries, self._term, self._voted_for, self._commit_index)
        data = _frame_bytes(0, frame)
        self.close()
        write_atomically(self._disk, JOURNAL_FILE, data)
        self._handle = self._disk.append(JOURNAL_FILE)
        self._next_sequence = 1
        self._clean()
        self.figures.rewrites += 1
