"""What the engine keeps in etcd: keys under one prefix, and the records in them.

=====================================  ============================================================================
``<prefix>/identity``                  the callboard cluster's id, written once
``<prefix>/replicas/<id>``             one key for each replica that ever joined
``<prefix>/election/<id>``             a candidate, bound to its lease; the oldest one leads
``<prefix>/head``                      position and token of the newest log entry; every append compares and raises it
``<prefix>/log/<position>``            one log entry: commands at consecutive positions from <position> on
``<prefix>/snapshot``                  the manifest of the newest complete snapshot
``<prefix>/chunks/<snapshot>/<n>``     its parts
=====================================  ============================================================================
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import msgspec
from attrs import frozen

RecordT = TypeVar("RecordT")


class CorruptRecord(Exception):
    """A key holds bytes that this engine never wrote."""


@frozen
class Identity:
    """Which callboard cluster lives under the prefix. `format` is the version of this layout."""

    format: int
    cluster_id: str


@frozen
class Candidate:
    """A replica that wants to lead, or leads."""

    replica_id: str
    lease_id: int


@frozen
class Head:
    """The newest log position, and the token of the entry that raised it."""

    index: int
    token: bytes


@frozen
class LogEntry:
    """Commands that were committed by one transaction, at positions `first_index` and following.

    `token` is unique to the attempt to commit them: reading it back tells whose entry took the position.
    """

    first_index: int
    token: bytes
    commands: tuple[bytes, ...]

    @property
    def last_index(self) -> int:
        """Position of the last command."""
        return self.first_index + len(self.commands) - 1


@frozen
class Manifest:
    """A complete snapshot: state after position `index`, in `chunks` parts under `name`."""

    index: int
    name: str
    chunks: int
    size: int
    sha256: bytes


FORMAT = 1
"""Version of the layout. A replica refuses a prefix with another one."""


def encode(record: Identity | Candidate | Head | LogEntry | Manifest) -> bytes:
    """The record's bytes, as `decode` reads them."""
    return msgspec.msgpack.encode(record)


def decode(kind: type[RecordT], key: bytes, value: bytes) -> RecordT:
    """The record of type `kind` in `value`.

    Raises:
        CorruptRecord: naming the key.
    """
    try:
        return msgspec.msgpack.decode(value, type=kind)
    except msgspec.MsgspecError as error:
        raise CorruptRecord(f"etcd key {key.decode(errors='replace')} holds no {kind.__name__}: {error}") from None


def checksum(snapshot: bytes) -> bytes:
    """What `Manifest.sha256` holds."""
    return hashlib.sha256(snapshot).digest()


@frozen
class Keys:
    """Key names under one prefix. Numbers are padded, so that etcd's byte order is their order."""

    prefix: str

    def _key(self, name: str) -> bytes:
        return f"{self.prefix}/{name}".encode()

    @property
    def identity(self) -> bytes:
        """See the module's table."""
        return self._key("identity")

    @property
    def head(self) -> bytes:
        """See the module's table."""
        return self._key("head")

    @property
    def manifest(self) -> bytes:
        """See the module's table."""
        return self._key("snapshot")

    @property
    def everything(self) -> bytes:
        """Start of all keys; with `end_of` their range."""
        return self._key("")

    @property
    def election(self) -> bytes:
        """Start of all candidates."""
        return self._key("election/")

    @property
    def log(self) -> bytes:
        """Start of all log entries."""
        return self._key("log/")

    @property
    def chunks(self) -> bytes:
        """Start of all parts of snapshots."""
        return self._key("chunks/")

    @property
    def replicas(self) -> bytes:
        """Start of all replicas that ever joined."""
        return self._key("replicas/")

    def replica(self, replica_id: str) -> bytes:
        """The replica's record of having joined."""
        return self._key(f"replicas/{replica_id}")

    def candidate(self, replica_id: str) -> bytes:
        """The replica's candidacy."""
        return self._key(f"election/{replica_id}")

    def entry(self, index: int) -> bytes:
        """The log entry whose first position is `index`."""
        return self._key(f"log/{index:020d}")

    def chunk(self, name: str, number: int) -> bytes:
        """Part `number` of the snapshot `name`."""
        return self._key(f"chunks/{name}/{number:06d}")

    def snapshot_chunks(self, name: str) -> bytes:
        """Start of all parts of the snapshot `name`."""
        return self._key(f"chunks/{name}/")


def end_of(start: bytes) -> bytes:
    """The end of the range of all keys that start with `start` (which ends in '/')."""
    return start[:-1] + bytes([start[-1] + 1])
