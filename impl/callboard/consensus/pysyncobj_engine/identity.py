"""Who a data directory belongs to, and which directories its owner will talk to.

A replica that forgets its log or its vote can undo what was acknowledged. So every directory has an id of its own,
every replica remembers durably with which directory each peer first appeared, and a peer that comes back under its
id with another (for example an empty) directory is refused by all others.

A group is *formed* once, when every replica has met every other: only then is the cluster id known (a digest of all
directory ids), the journal created and Raft allowed to run. The first start of a group therefore needs all replicas
at the same time; afterwards a majority is enough. Replacing a lost directory raises the peer-set number (`replace`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from callboard.consensus.interface import EngineStartError
from callboard.consensus.pysyncobj_engine.codec import DECODE_ERRORS
from callboard.consensus.pysyncobj_engine.disk import Disk, RealDisk, remove_leftovers, write_atomically
from callboard.consensus.pysyncobj_engine.journal import JOURNAL_FILE, Journal

IDENTITY_FILE = "identity"
LOCK_FILE = "lock"
FORMAT_VERSION = 1
PROTOCOL_VERSION = 1
PROTOCOL_NAME = "callboard-raft"

_HARMLESS = ("lost+found",)


class PeerRefused(Exception):
    """The other side of a link must not take part. The message says why, in one line."""


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the identity file holds."""

    version: int
    replica_id: str
    directory_id: str
    replicas: list[str]
    """All ids of the group, sorted, this one included."""
    peer_set: int
    """Raised by every replacement of a directory."""
    cluster_id: str
    """Empty until the group is formed."""
    directories: dict[str, str]
    """Replica id -> directory id, as far as met; this one's own included."""
    joining: bool = False
    """A replacement that has no vote yet."""
    floor_index: int = 0
    """A joining replica must hold at least this many entries before it may vote."""

    @property
    def formed(self) -> bool:
        """Whether the group exists for this replica."""
        return bool(self.cluster_id)

    def membership(self) -> str:
        """A digest that two replicas share only if they agree on the group and on all of its directories."""
        pairs = [f"{replica}={directory}" for replica, directory in sorted(self.directories.items())]
        return _digest(self.cluster_id, str(self.peer_set), *pairs) if self.formed else ""


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The first frame on every link, in both directions."""

    protocol: str
    version: int
    replica_id: str
    directory_id: str
    replicas: list[str]
    peer_set: int
    cluster_id: str
    membership: str


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def new_directory_id() -> str:
    """An id that no other directory has."""
    return secrets.token_hex(16)


def encode(identity: Identity) -> bytes:
    """The identity file: one line of JSON, one line with its CRC-32."""
    text = msgspec.json.encode(identity)
    return text + b"\n%08x\n" % zlib.crc32(text)


def decode(data: bytes) -> Identity:
    """Read an identity file.

    Raises:
        EngineStartError: damaged, or of another version.
    """
    text, _, checksum = data.partition(b"\n")
    if checksum != b"%08x\n" % zlib.crc32(text):
        raise EngineStartError(f"the file {IDENTITY_FILE} of the data directory is damaged")
    try:
        identity = msgspec.json.decode(text, type=Identity)
    except DECODE_ERRORS as error:
        raise EngineStartError(f"the file {IDENTITY_FILE} of the data directory cannot be read: {error}") from error
    if identity.version != FORMAT_VERSION:
        raise EngineStartError(
            f"the data directory has format {identity.version}; this version of callboard reads {FORMAT_VERSION}"
        )
    return identity


class DirectoryLock:
    """At most one process uses a data directory at a time."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_FILE
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            EngineStartError: another process has it.
        """
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise EngineStartError(f"the data directory {self._path.parent} is used by another process") from None

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def prepare_directory(directory: Path) -> None:
    """Create the directory if it is missing.

    Raises:
        EngineStartError: it cannot be created or written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EngineStartError(f"the data directory {directory} cannot be created: {error.strerror}") from error
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise EngineStartError(f"the data directory {directory} cannot be written; choose another or change its owner")


class Directory:
    """An opened data directory: its identity, and the judgement on peers that say hello."""

    def __init__(self, disk: Disk, identity: Identity) -> None:
        self._disk = disk
        self._identity = identity

    @classmethod
    def open(cls, disk: Disk, replica_id: str, peer_ids: tuple[str, ...]) -> Directory:
        """Open or create; a new directory is created only where there is nothing at all.

        Raises:
            EngineStartError: foreign, damaged or incomplete.
        """
        remove_leftovers(disk)
        replicas = sorted((replica_id, *peer_ids))
        names = disk.names()
        if IDENTITY_FILE not in names:
            strangers = sorted(name for name in names if name not in (*_HARMLESS, LOCK_FILE))
            if strangers:
                raise EngineStartError(
                    f"the data directory holds {', '.join(strangers[:3])} but no file {IDENTITY_FILE}: "
                    "it is not empty and not a replica's"
                )
            identity = _new_identity(replica_id, replicas)
            write_atomically(disk, IDENTITY_FILE, encode(identity))
        else:
            identity = decode(disk.read(IDENTITY_FILE))
        _check_owner(identity, replica_id, replicas)
        directory = cls(disk, identity)
        if not identity.formed:
            directory._refuse_old_journal(names)
            directory._form_if_complete()
        return directory

    @property
    def identity(self) -> Identity:
        """What is durable now."""
        return self._identity

    def hello(self) -> Hello:
        """How this replica introduces itself."""
        own = self._identity
        return Hello(
            PROTOCOL_NAME,
            PROTOCOL_VERSION,
            own.replica_id,
            own.directory_id,
            own.replicas,
            own.peer_set,
            own.cluster_id,
            own.membership(),
        )

    def meet(self, hello: Hello) -> bool:
        """Judge a peer, and remember it durably if it is new. True if Raft may run over this link.

        Raises:
            PeerRefused: it must not take part.
            OSError: it could not be remembered.
        """
        own = self._identity
        self._check_group(hello)
        known = own.directories.get(hello.replica_id)
        if known is not None and known != hello.directory_id:
            raise PeerRefused(
                f"replica {hello.replica_id} comes with directory {hello.directory_id}, but {known} is remembered: "
                "its disk was lost or exchanged (callboard replica replace)"
            )
        if own.formed and hello.cluster_id:
            if own.cluster_id != hello.cluster_id:
                raise PeerRefused(f"cluster id {hello.cluster_id} of {hello.replica_id} is not {own.cluster_id}")
            if own.membership() != hello.membership:
                raise PeerRefused(
                    f"replica {hello.replica_id} disagrees about the directories of peer set {own.peer_set}"
                )
        if known is None:
            self._save(
                msgspec.structs.replace(own, directories={**own.directories, hello.replica_id: hello.directory_id})
            )
            self._form_if_complete()
        return own.formed and bool(hello.cluster_id)

    def end_joining(self) -> None:
        """The replacement has become a full member."""
        self._save(msgspec.structs.replace(self._identity, joining=False, floor_index=0))

    def _check_group(self, hello: Hello) -> None:
        own = self._identity
        if (hello.protocol, hello.version) != (PROTOCOL_NAME, PROTOCOL_VERSION):
            raise PeerRefused(f"protocol {hello.protocol!r} version {hello.version} is not ours")
        if hello.replica_id == own.replica_id or hello.replica_id not in own.replicas:
            raise PeerRefused(f"replica id {hello.replica_id!r} is not a peer of {own.replica_id}")
        if hello.replicas != own.replicas:
            raise PeerRefused(f"replica {hello.replica_id} knows the group {hello.replicas}, not {own.replicas}")
        if hello.peer_set != own.peer_set:
            raise PeerRefused(f"replica {hello.replica_id} has peer set {hello.peer_set}, not {own.peer_set}")

    def _refuse_old_journal(self, names: list[str]) -> None:
        if JOURNAL_FILE not in names:
            return
        # A crash while forming leaves an empty journal behind; anything else had a formed identity once.
        journal = Journal.open(self._disk, self._identity.directory_id)
        journal.close()
        if journal.last_index > 1 or journal.getCurrentTerm() > 0 or journal.base.index > 0:
            raise EngineStartError(f"the journal holds entries, but {IDENTITY_FILE} says that the group never met")

    def _form_if_complete(self) -> None:
        own = self._identity
        if set(own.directories) != set(own.replicas):
            return
        pairs = [f"{replica}={directory}" for replica, directory in sorted(own.directories.items())]
        Journal.create(self._disk, own.directory_id).close()
        self._save(msgspec.structs.replace(own, cluster_id=_digest("cluster", *pairs)))

    def _save(self, identity: Identity) -> None:
        write_atomically(self._disk, IDENTITY_FILE, encode(identity))
        self._identity = identity


def _new_identity(replica_id: str, replicas: list[str]) -> Identity:
    directory_id = new_directory_id()
    return Identity(
        version=FORMAT_VERSION,
        replica_id=replica_id,
        directory_id=directory_id,
        replicas=replicas,
        peer_set=1,
        cluster_id="",
        directories={replica_id: directory_id},
    )


def _check_owner(identity: Identity, replica_id: str, replicas: list[str]) -> None:
    if identity.replica_id != replica_id:
        raise EngineStartError(f"the data directory belongs to replica {identity.replica_id}, not to {replica_id}")
    if identity.replicas != replicas:
        raise EngineStartError(
            f"the data directory belongs to the group {', '.join(identity.replicas)}, not to {', '.join(replicas)}"
        )


def open_real_directory(
    path: Path,
    replica_id: str,
    peer_ids: tuple[str, ...],
    *,
    wrap: Callable[[Disk], Disk] = lambda disk: disk,
) -> tuple[Directory, Disk, DirectoryLock]:
    """Create, lock and open a directory of the file system. `wrap` may put something between.

    Raises:
        EngineStartError: with a one-line reason that names the directory.
    """
    prepare_directory(path)
    lock = DirectoryLock(path)
    disk = wrap(RealDisk(path))
    try:
        lock.acquire()
        return Directory.open(disk, replica_id, peer_ids), disk, lock
    except EngineStartError as error:
        lock.release()
        raise EngineStartError(f"{error} [{path}]") from error
    except OSError as error:
        lock.release()
        raise EngineStartError(f"the data directory {path} cannot be used: {error}") from error
