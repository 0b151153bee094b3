"""Backups: one file that holds the replicated state, for any engine.

Format, version 1: the line ``callboard-backup 1``, one line of JSON (`ArchiveHeader`), the state as the state machine
encoded it, and SHA-256 of everything before. The first two lines can be read with `head -2`.

A restored state must not look like the past to hosts and stores that saw later versions: whoever restores raises the
state's generation first (that is the state machine's business), and then seeds a *new* cluster with it. A new log
continues at the state's own log position, since the state machine skips positions that it has seen.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Protocol

import msgspec
from attrs import frozen

from callboard.consensus.interface import Engine, StateMachine

FORMAT_VERSION = 1
_MAGIC = b"callboard-backup "
_DIGEST_BYTES = 32
_HEADER_BYTES_MAX = 64 * 1024


class ArchiveError(Exception):
    """A backup cannot be read or written. The message is one line that names the file."""


@frozen
class ArchiveHeader:
    """Where a backup comes from."""

    index: int
    """Log position of the last command in the state."""
    state_bytes: int
    engine: str
    cluster_id: str
    replica_id: str
    created_unix_ms: int
    software: str
    """Name and version of the program that wrote it."""


@frozen
class Archive:
    """A backup. `state` is what `StateMachine.snapshot` returned when `header.index` was applied."""

    header: ArchiveHeader
    state: bytes


class Seeder(Protocol):
    """What an engine offers for restoring: making a state the beginning of a new cluster."""

    async def seed(self, index: int, state: bytes) -> str:
        """Make `state` the content of a cluster that does not exist yet, with its log to continue after `index`.

        Returns the new cluster's id.

        Raises:
            EngineStartError: there is a cluster already, or it cannot be written; one line that says which.
        """


async def take_archive(
    engine: Engine, machine: StateMachine, *, cluster_id: str, created_unix_ms: int, software: str, timeout_ms: int
) -> Archive:
    """A backup of a running replica that contains everything acknowledged before the call.

    Raises:
        BarrierFailed: the replica cannot confirm that it is up to date.
    """
    await engine.barrier(timeout_ms=timeout_ms)
    status, state = engine.status(), machine.snapshot()  # no wait between: the same position
    header = ArchiveHeader(
        index=status.applied_index,
        state_bytes=len(state),
        engine=status.engine,
        cluster_id=cluster_id,
        replica_id=status.replica_id,
        created_unix_ms=created_unix_ms,
        software=software,
    )
    return Archive(header, state)


def encode_archive(archive: Archive) -> bytes:
    """The bytes of a backup file."""
    header = msgspec.json.encode(archive.header)
    body = b"".join((_MAGIC, b"%d\n" % FORMAT_VERSION, header, b"\n", archive.state))
    return body + hashlib.sha256(body).digest()


def decode_archive(content: bytes, name: str) -> Archive:
    """The backup in `content`; `name` is for messages.

    Raises:
        ArchiveError: not a backup, cut, damaged, or of another format version.
    """
    first_line, _, rest = content[:_HEADER_BYTES_MAX].partition(b"\n")
    if not first_line.startswith(_MAGIC):
        raise ArchiveError(f"{name}: not a callboard backup")
    version = first_line[len(_MAGIC) :]
    if version != b"%d" % FORMAT_VERSION:
        raise ArchiveError(
            f"{name}: backup format {version[:20].decode(errors='replace')}, this version reads {FORMAT_VERSION}"
        )
    if hashlib.sha256(content[:-_DIGEST_BYTES]).digest() != content[-_DIGEST_BYTES:]:
        raise ArchiveError(f"{name}: the checksum of {len(content)} bytes is wrong: the file is cut or damaged")
    line, _, _ = rest.partition(b"\n")
    try:
        header = msgspec.json.decode(line, type=ArchiveHeader)
    except msgspec.MsgspecError as error:
        raise ArchiveError(f"{name}: the header cannot be read: {error}") from None
    state = content[len(first_line) + 1 + len(line) + 1 : -_DIGEST_BYTES]
    if len(state) != header.state_bytes or header.index < 0:
        raise ArchiveError(f"{name}: the header contradicts the content")
    return Archive(header, state)


def write_archive(path: Path, archive: Archive) -> None:
    """Write a backup file, complete and durable, or nothing. An existing file is not replaced.

    Raises:
        ArchiveError: it exists or cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode_archive(archive))
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # unlike a rename it fails if the name is taken
        finally:
            temporary.unlink()
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror or error}") from None


def read_archive(path: Path) -> Archive:
    """Read a backup file.

    Raises:
        ArchiveError: it cannot be read, or is no sound backup.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror or error}") from None
    return decode_archive(content, str(path))
