"""Actors' state in one SQLite file."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from callboard.host.stores import (
    REMINDERS_PER_ACTOR_MAX,
    WAITING_MAX,
    ActorKey,
    Reminder,
    ReminderQuery,
    Stored,
    StoreUnavailableError,
    check_key,
    check_page,
    check_reminder,
    check_value,
    conflict,
    stale,
    too_many,
)

Result = TypeVar("Result")

FORMAT = 2
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS store (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS actor (
    namespace TEXT NOT NULL, type TEXT NOT NULL, id TEXT NOT NULL,
    value BLOB, version INTEGER NOT NULL DEFAULT 0, fence INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (namespace, type, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reminder (
    namespace TEXT NOT NULL, type TEXT NOT NULL, position INTEGER NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL,
    due_ms INTEGER NOT NULL, period_ms INTEGER, payload BLOB NOT NULL, token TEXT NOT NULL,
    PRIMARY KEY (namespace, type, position, id, name)
) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
"""
_WHERE = "WHERE namespace = ? AND type = ? AND id = ?"
_OF_ACTOR = "WHERE namespace = ? AND type = ? AND position = ? AND id = ?"
_COLUMNS = "id, name, due_ms, period_ms, payload, token"


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
        if self._connection is not None:
            return self._ready(self._connection)
        connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout_ms / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            store_id = self._ready(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return store_id

    def _ready(self, connection: sqlite3.Connection) -> str:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            text = f"store {self.path} has format {found}; this callboard knows formats up to {FORMAT}"
            raise StoreUnavailableError(text)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN IMMEDIATE")
        try:
            row = connection.execute("SELECT id FROM store").fetchone()
            if row is None:
                row = (f"sqlite-{secrets.token_hex(8)}",)
                connection.execute("INSERT INTO store VALUES (?)", row)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return str(row[0])

    # -- state -------------------------------------------------------------------------------------------

    async def load(self, key: ActorKey, fence: int) -> Stored:
        """See `StateStore`."""
        check_key(key)

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
                raise conflict(key, version, expected_version)
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

    # -- reminders ---------------------------------------------------------------------------------------

    async def save_reminder(self, reminder: Reminder, *, fence: int, replaces: str | None = None) -> bool:
        """See `StateStore`."""
        check_reminder(reminder)

        def save(connection: sqlite3.Connection) -> bool:
            key = reminder.key
            self._checked(connection, key, fence)
            present = _reminder(connection, key, reminder.name)
            if replaces is not None and (present is None or present.token != replaces):
                return False
            actor = (key.namespace, key.actor_type, key.position, key.actor_id)
            if present is None:
                counted = connection.execute(f"SELECT count(*) FROM reminder {_OF_ACTOR}", actor)  # noqa: S608
                if counted.fetchone()[0] >= REMINDERS_PER_ACTOR_MAX:
                    raise too_many(key)
            what = (reminder.name, reminder.due_ms, reminder.period_ms, reminder.payload, reminder.token)
            connection.execute("INSERT OR REPLACE INTO reminder VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*actor, *what))
            return True

        return await self._in_transaction(save)

    async def load_reminder(self, key: ActorKey, name: str, *, fence: int) -> Reminder | None:
        """See `StateStore`."""
        check_key(key)

        def load(connection: sqlite3.Connection) -> Reminder | None:
            self._checked(connection, key, fence)
            return _reminder(connection, key, name)

        return await self._in_transaction(load)

    async def delete_reminder(self, key: ActorKey, name: str, *, fence: int, token: str | None = None) -> bool:
        """See `StateStore`."""
        check_key(key)

        def delete(connection: sqlite3.Connection) -> bool:
            self._checked(connection, key, fence)
            deleted = connection.execute(
                f"DELETE FROM reminder {_OF_ACTOR} AND name = ? AND (? IS NULL OR token = ?)",  # noqa: S608
                (key.namespace, key.actor_type, key.position, key.actor_id, name, token, token),
            )
            return deleted.rowcount == 1

        return await self._in_transaction(delete)

    async def list_reminders(self, query: ReminderQuery) -> tuple[Reminder, ...]:
        """See `StateStore`."""
        check_page(query)
        after = query.after if query.after is not None else (-1, "", "")

        def page(connection: sqlite3.Connection) -> tuple[Reminder, ...]:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM reminder WHERE namespace = ? AND type = ? "  # noqa: S608
                "AND position >= ? AND position < ? AND (position, id, name) > (?, ?, ?) AND due_ms < ? "
                "ORDER BY position, id, name LIMIT ?",
                (
                    *(query.namespace, query.actor_type, query.first, query.first + query.count),
                    *(*after, query.due_before_ms, query.limit),
                ),
            )
            return tuple(
                Reminder(ActorKey(query.namespace, query.actor_type, actor_id), *rest) for actor_id, *rest in rows
            )

        return await self._in_transaction(page, begin="BEGIN")

    # -- the connection ----------------------------------------------------------------------------------

    async def _in_transaction(
        self, work: Callable[[sqlite3.Connection], Result], *, begin: str = "BEGIN IMMEDIATE"
    ) -> Result:
        def run() -> Result:
            connection = self._connection
            if connection is None:
                raise StoreUnavailableError(f"store {self.path} is not open")
            connection.execute(begin)
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # some errors end it by themselves
                    connection.execute("ROLLBACK")
                raise
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
        except RuntimeError as error:  # the thread takes no work any more
            raise StoreUnavailableError(f"store {self.path} is closed: {error}") from None
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """See `StateStore`."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await asyncio.get_running_loop().run_in_executor(self._thread, connection.close)
        self._thread.shutdown()


def _reminder(connection: sqlite3.Connection, key: ActorKey, name: str) -> Reminder | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM reminder {_OF_ACTOR} AND name = ?",  # noqa: S608
        (key.namespace, key.actor_type, key.position, key.actor_id, name),
    ).fetchone()
    return None if row is None else Reminder(key, *row[1:])
