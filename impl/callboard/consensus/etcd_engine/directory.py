"""A replica's own directory: which cluster and replica it belongs to, one process at a time, and its last lease."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

import msgspec
from attrs import frozen

from callboard.consensus.interface import EngineStartError

logger = logging.getLogger(__name__)

ENGINE = "etcd"
IDENTITY_FILE = "identity.json"
JOINING_FILE = "etcd-joining"
"""Managed mode: this replica's etcd member starts as a new member of an existing etcd cluster."""
_BEFORE_IDENTITY = frozenset(
    {"lock", "lease", "identity.new", "lost+found", "etcd", "etcd.log", "etcd.log.1", JOINING_FILE},
)
"""What may be there before a replica has joined a cluster; a crash leaves it behind."""


@frozen
class DirectoryIdentity:
    """Content of `identity.json`."""

    engine: str
    cluster_id: str
    replica_id: str
    prefix: str


class ReplicaDirectory:
    """The directory of one replica. Everything else about the replica is in etcd."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity_file = path / IDENTITY_FILE
        self._lease_file = path / "lease"
        self._lock: int | None = None

    def lock(self) -> None:
        """Make the directory if needed, and keep every other process out of it until `unlock`.

        Raises:
            EngineStartError: it cannot be made, or another process holds it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EngineStartError(f"directory {self.path}: {error.strerror or error}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise EngineStartError(f"directory {self.path}: another process uses it") from None
        self._lock = descriptor

    def unlock(self) -> None:
        """Let others in. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read_identity(self) -> DirectoryIdentity | None:
        """What the directory says it belongs to; None if it is new.

        Raises:
            EngineStartError: the file is damaged or another engine's, or the directory holds something else.
        """
        try:
            content = self._identity_file.read_bytes()
        except FileNotFoundError:
            self._refuse_strangers()
            return None
        except OSError as error:
            raise EngineStartError(f"{self._identity_file}: {error.strerror or error}") from None
        try:
            identity = msgspec.json.decode(content, type=DirectoryIdentity)
        except msgspec.MsgspecError as error:
            raise EngineStartError(f"{self._identity_file}: damaged, or not of the etcd engine: {error}") from None
        if identity.engine != ENGINE:
            raise EngineStartError(f"{self._identity_file}: belongs to engine {identity.engine!r}, not {ENGINE!r}")
        return identity

    def _refuse_strangers(self) -> None:
        strangers = sorted({path.name for path in self.path.iterdir()} - _BEFORE_IDENTITY)
        if strangers:
            raise EngineStartError(
                f"directory {self.path} holds {', '.join(strangers[:3])} but no {IDENTITY_FILE}: "
                "it is not empty and not an etcd engine's"
            )

    def write_identity(self, identity: DirectoryIdentity) -> None:
        """Store it durably.

        Raises:
            EngineStartError: it cannot be written.
        """
        temporary = self._identity_file.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(identity)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._identity_file)
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise EngineStartError(f"{self._identity_file}: {error.strerror or error}") from None

    def read_lease(self) -> int:
        """The lease of this directory's previous process; 0 if none is known."""
        try:
            return int(self._lease_file.read_text())
        except (OSError, ValueError):
            return 0  # it then runs out by itself

    def write_lease(self, lease_id: int) -> None:
        """Remember the lease, to end it at the next start. Losing it costs no more than waiting for its end."""
        try:
            self._lease_file.write_text(str(lease_id))
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._lease_file, error)
