"""Where actors keep their state: behind one small interface, with versions and fences checked in one step.

The fence of an actor lives in the store. An access under a lower fence than the highest seen is refused: that is what
stops a host that was frozen between its last check and its write. Reads check it too, and raise it, so that the first
read of a successor shuts its predecessor out.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from attrs import frozen

VALUE_BYTES_MAX = 16 * 1024 * 1024
WAITING_MAX = 10_000

Result = TypeVar("Result")


class StoreError(Exception):
    """The store did not do it."""


class StaleFenceError(StoreError):
    """Another host has used a higher fence for this actor: this one must not act for it any more."""


class VersionConflictError(StoreError):
    """The state is not the one that was read."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached, is full, or is damaged; the message names it and the reason."""


@frozen
class ActorKey:
    """Whose state."""

    namespace: str
    actor_type: str
    actor_id: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.actor_type}/{self.actor_id}"


@frozen
class Stored:
    """A value and how often it was written: 0 and None for never."""

    value: bytes | None
    version: int


class StateStore(Protocol):
    """Every host of an exclusive namespace must use the same store: its id is compared when a host says hello."""

    async def open(self) -> str:
        """Ready the store and return its id. Raises StoreUnavailableError."""

    async def load(self, key: ActorKey, fence: int) -> Stored:
        """Read, under `fence` (0: not checked). Raises StaleFenceError, StoreUnavailableError."""

    async def save(self, key: ActorKey, value: bytes, *, expected_version: int, fence: int) -> int:
        """Write if the version is the expected one, under `fence` (0: not checked). Returns the new version.

        Raises:
            StaleFenceError, VersionConflictError, StoreUnavailableError.
        """

    async def close(self) -> None:
        """Idempotent."""


def check_value(key: ActorKey, value: bytes) -> None:
    """Raises StoreError if the value is too large."""
    if len(value) > VALUE_BYTES_MAX:
        raise StoreError(f"state of {key} has {len(value)} bytes; the limit is {VALUE_BYTES_MAX}")


def stale(key: ActorKey, fence: int, newest: int) -> StaleFenceError:
    """The error for an access under an old fence."""
    return StaleFenceError(f"{key}: fence {fence} is older than {newest}")


class MemoryStore:
    """For tests and for hosts of one process."""

    def __init__(self) -> None:
        self.store_id = f"memory-{secrets.token_hex(8)}"
        self._values: dict[ActorKey, Stored] = {}
        self._fences: dict[ActorKey, int] = {}

    async def open(self) -> str:
        """See `StateStore`."""
        return self.store_id

    async def load(self, key: ActorKey, fence: int) -> Stored:
        """See `StateStore`."""
        self._check(key, fence)
        return self._values.get(key, Stored(None, 0))

    async def save(self, key: ActorKey, value: bytes, *, expected_version: int, fence: int) -> int:
        """See `StateStore`."""
        check_value(key, value)
        self._check(key, fence)
        present = self._values.get(key, Stored(None, 0))
        if present.version != expected_version:
            raise VersionConflictError(f"{key} has version {present.version}, not {expected_version}")
        self._values[key] = Stored(value, expected_version + 1)
        return expected_version + 1

    def _check(self, key: ActorKey, fence: int) -> None:
        if fence:
            newest = self._fences.get(key, 0)
            if fence < newest:
                raise stale(key, fence, newest)
            self._fences[key] = fence

    async def close(self) -> None:
        """See `StateStore`."""


_SCHEMA = """
CREATE TABLE IF NOT EXISTS store (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS actor (
    namespace TEXT NOT NULL, type TEXT NOT NULL, id TEXT NOT NULL,
    value BLOB, version INTEGER NOT NULL DEFAULT 0, fence INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (namespace, type, id)
) WITHOUT ROWID;
"""
_WHERE = "WHERE namespace = ? AND type = ? AND id = ?"


class SqliteStore:
    """One file, shared by the hosts of one machine. `refused` counts accesses under old fences."""

    def __init__(self, path: Path, *, busy_timeout_ms: int = 5000) -> None:
        self.path = path
        self.refused = 0
        self._busy_timeout_ms = busy_timeout_ms
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="callboard-sqlite")
        self._waiting = 0
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> str:
        """See `StateStore`."""
        return await self._run(self._open)

    def _open(self) -> str:
        self._connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout_ms / 1000, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(_SCHEMA)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            row = self._connection.execute("SELECT id FROM store").fetchone()
            if row is None:
                row = (f"sqlite-{secrets.token_hex(8)}",)
                self._connection.execute("INSERT INTO store VALUES (?)", row)
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        return str(row[0])

    async def load(self, key: ActorKey, fence: int) -> Stored:
        """See `StateStore`."""

        def load(connection: sqlite3.Connection) -> Stored:
            value, version, _ = self._checked(connection, key, fence)
            return Stored(value, version)

        return await self._in_transaction(load)

    async def save(self, key: ActorKey, value: bytes, *, expected_version: int, fence: int) -> int:
        """See `StateStore`."""
        check_value(key, value)

        def save(connection: sqlite3.Connection) -> int:
            _, version, newest = self._checked(connection, key, fence)
            if version != expected_version:
                raise VersionConflictError(f"{key} has version {version}, not {expected_version}")
            connection.execute(
                "INSERT OR REPLACE INTO actor VALUES (?, ?, ?, ?, ?, ?)",
                (key.namespace, key.actor_type, key.actor_id, value, version + 1, max(fence, newest)),
            )
            return version + 1

        return await self._in_transaction(save)

    def _checked(self, connection: sqlite3.Connection, key: ActorKey, fence: int) -> tuple[bytes | None, int, int]:
        """Value, version and fence, after the fence was compared and raised."""
        identity = (key.namespace, key.actor_type, key.actor_id)
        row = connection.execute(f"SELECT value, version, fence FROM actor {_WHERE}", identity).fetchone()  # noqa: S608
        value, version, newest = row or (None, 0, 0)
        if fence and fence < newest:
            self.refused += 1
            raise stale(key, fence, newest)
        if fence > newest:
            connection.execute(
                "INSERT INTO actor (namespace, type, id, fence) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET fence = excluded.fence",
                (*identity, fence),
            )
        return value, version, newest

    async def _in_transaction(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        def run() -> Result:
            connection = self._connection
            if connection is None:
                raise StoreUnavailableError(f"store {self.path} is not open")
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            return result

        return await self._run(run)

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._waiting >= WAITING_MAX:
            raise StoreUnavailableError(f"store {self.path}: {self._waiting} accesses wait already")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailableError(f"store {self.path}: {error}") from None
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """See `StateStore`."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await asyncio.get_running_loop().run_in_executor(self._thread, connection.close)
        self._thread.shutdown()
