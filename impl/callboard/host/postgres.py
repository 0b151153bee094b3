"""Actors' state in a PostgreSQL database, for hosts on several machines: `pip install 'callboard[postgres]'`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

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

FORMAT = 1
_LOCK = 0x63616C6C62  # one opening at a time: CREATE TABLE IF NOT EXISTS is no protection against another one
_SCHEMA = """
CREATE TABLE IF NOT EXISTS callboard_store (id TEXT NOT NULL, format INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS callboard_actor (
    namespace TEXT COLLATE "C" NOT NULL, type TEXT COLLATE "C" NOT NULL, id TEXT COLLATE "C" NOT NULL,
    value BYTEA, version BIGINT NOT NULL DEFAULT 0, fence BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (namespace, type, id)
);
CREATE TABLE IF NOT EXISTS callboard_reminder (
    namespace TEXT COLLATE "C" NOT NULL, type TEXT COLLATE "C" NOT NULL, position INTEGER NOT NULL,
    id TEXT COLLATE "C" NOT NULL, name TEXT COLLATE "C" NOT NULL,
    due_ms BIGINT NOT NULL, period_ms BIGINT, payload BYTEA NOT NULL, token TEXT NOT NULL,
    PRIMARY KEY (namespace, type, position, id, name)
);
"""
_WHERE = "WHERE namespace = $1 AND type = $2 AND id = $3"
_OF_ACTOR = "WHERE namespace = $1 AND type = $2 AND position = $3 AND id = $4"
_COLUMNS = "id, name, due_ms, period_ms, payload, token"


class PostgresStore:
    """One database, at `dsn` ("postgresql://user@host/database"; passwords also by PGPASSWORD or a password file).

    Its tables are made by the first host that opens it. `connections_max`: of this host. `timeout_ms`: of one access,
    also of its wait for locks and for a connection. `refused` counts accesses under old fences.
    """

    def __init__(self, dsn: str, *, connections_max: int = 10, timeout_ms: int = 5000) -> None:
        parts = urlsplit(dsn)
        if parts.scheme not in {"postgresql", "postgres"}:
            raise ValueError(f"dsn begins with {parts.scheme!r}, not with postgresql://")
        self.name = f"postgresql://{parts.hostname or 'localhost'}{parts.path}"
        """Without the password."""
        self.refused = 0
        self._dsn = dsn
        self._connections_max = connections_max
        self._timeout_ms = timeout_ms
        self._pool: Any = None
        self._waiting = 0

    async def open(self) -> str:
        """See `StateStore`."""
        try:
            import asyncpg
        except ImportError:
            text = (
                f"store {self.name}: the package asyncpg is missing; install it with: pip install 'callboard[postgres]'"
            )
            raise StoreUnavailableError(text) from None
        if self._pool is None:
            self._pool = await self._connect(asyncpg)
        try:
            async with self._transaction() as connection:
                return await self._ready(connection)
        except BaseException:
            await self.close()
            raise

    async def _connect(self, asyncpg: Any) -> Any:
        try:
            return await asyncpg.create_pool(
                self._dsn,
                min_size=1,
                max_size=self._connections_max,
                timeout=self._timeout_ms / 1000,
                command_timeout=self._timeout_ms / 1000,
                server_settings={"application_name": "callboard", "lock_timeout": str(self._timeout_ms)},
            )
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StoreUnavailableError(f"store {self.name}: {_text(error)}") from None

    async def _ready(self, connection: Any) -> str:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(_SCHEMA)
        row = await connection.fetchrow("SELECT id, format FROM callboard_store")
        if row is None:
            row = await connection.fetchrow(
                "INSERT INTO callboard_store VALUES ($1, $2) RETURNING id, format",
                f"postgres-{secrets.token_hex(8)}",
                FORMAT,
            )
        if row["format"] > FORMAT:
            text = f"store {self.name} has format {row['format']}; this callboard knows formats up to {FORMAT}"
            raise StoreUnavailableError(text)
        return str(row["id"])

    # -- state -------------------------------------------------------------------------------------------

    async def load(self, key: ActorKey, fence: int) -> Stored:
        """See `StateStore`. Only the first read under a new fence writes."""
        check_key(key)
        select = f"SELECT value, version, fence FROM callboard_actor {_WHERE}"  # noqa: S608
        async with self._connection() as connection:
            row = await connection.fetchrow(select, *_id(key))
            if fence > (0 if row is None else row["fence"]):
                async with connection.transaction():
                    await self._checked(connection, key, fence)
                    row = await connection.fetchrow(select, *_id(key))
            if row is None:
                return Stored(None, 0)
            self._compare(key, fence, row["fence"])
            return Stored(row["value"], row["version"])

    async def save(self, key: ActorKey, value: bytes, *, expected_version: int, fence: int) -> int:
        """See `StateStore`. One statement where nothing is in the way; else the transaction finds out what is."""
        check_value(key, value)
        update = (
            "UPDATE callboard_actor SET value = $4, version = version + 1, fence = greatest(fence, $6) "  # noqa: S608
            f"{_WHERE} AND version = $5 AND ($6 = 0 OR fence <= $6)"
        )
        async with self._connection() as connection:
            if await connection.execute(update, *_id(key), value, expected_version, fence) == "UPDATE 1":
                return expected_version + 1
            async with connection.transaction():
                version = await self._checked(connection, key, fence)
                if version != expected_version:
                    raise conflict(key, version, expected_version)
                await connection.execute(update, *_id(key), value, expected_version, fence)
        return expected_version + 1

    async def _checked(self, connection: Any, key: ActorKey, fence: int) -> int:
        """The version, after the fence was compared and raised. The row is there, and locked until the commit."""
        insert = "INSERT INTO callboard_actor (namespace, type, id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
        select = f"SELECT version, fence FROM callboard_actor {_WHERE} FOR UPDATE"  # noqa: S608
        row = await connection.fetchrow(select, *_id(key))
        if row is None:
            await connection.execute(insert, *_id(key))
            row = await connection.fetchrow(select, *_id(key))
        self._compare(key, fence, row["fence"])
        if fence > row["fence"]:
            await connection.execute(f"UPDATE callboard_actor SET fence = $4 {_WHERE}", *_id(key), fence)  # noqa: S608
        return int(row["version"])

    def _compare(self, key: ActorKey, fence: int, newest: int) -> None:
        if fence and fence < newest:
            self.refused += 1
            raise stale(key, fence, newest)

    # -- reminders ---------------------------------------------------------------------------------------

    async def save_reminder(self, reminder: Reminder, *, fence: int, replaces: str | None = None) -> bool:
        """See `StateStore`."""
        check_reminder(reminder)
        key = reminder.key
        actor = (key.namespace, key.actor_type, key.position, key.actor_id)
        async with self._transaction() as connection:
            await self._checked(connection, key, fence)
            tokens = dict(await connection.fetch(f"SELECT name, token FROM callboard_reminder {_OF_ACTOR}", *actor))  # noqa: S608
            present = tokens.get(reminder.name)
            if replaces is not None and present != replaces:
                return False
            if present is None and len(tokens) >= REMINDERS_PER_ACTOR_MAX:
                raise too_many(key)
            await connection.execute(
                "INSERT INTO callboard_reminder VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) "
                "ON CONFLICT (namespace, type, position, id, name) DO UPDATE SET due_ms = excluded.due_ms, "
                "period_ms = excluded.period_ms, payload = excluded.payload, token = excluded.token",
                *(*actor, reminder.name, reminder.due_ms, reminder.period_ms, reminder.payload, reminder.token),
            )
        return True

    async def load_reminder(self, key: ActorKey, name: str, *, fence: int) -> Reminder | None:
        """See `StateStore`."""
        check_key(key)
        actor = (key.namespace, key.actor_type, key.position, key.actor_id)
        select = f"SELECT {_COLUMNS} FROM callboard_reminder {_OF_ACTOR} AND name = $5"  # noqa: S608
        async with self._transaction() as connection:
            await self._checked(connection, key, fence)
            row = await connection.fetchrow(select, *actor, name)
        return None if row is None else Reminder(key, *tuple(row)[1:])

    async def delete_reminder(self, key: ActorKey, name: str, *, fence: int, token: str | None = None) -> bool:
        """See `StateStore`."""
        check_key(key)
        delete = f"DELETE FROM callboard_reminder {_OF_ACTOR} AND name = $5 AND ($6::text IS NULL OR token = $6)"  # noqa: S608
        async with self._transaction() as connection:
            await self._checked(connection, key, fence)
            actor = (key.namespace, key.actor_type, key.position, key.actor_id)
            return bool(await connection.execute(delete, *actor, name, token) == "DELETE 1")

    async def list_reminders(self, query: ReminderQuery) -> tuple[Reminder, ...]:
        """See `StateStore`."""
        check_page(query)
        async with self._connection() as connection:
            rows = await connection.fetch(
                f"SELECT {_COLUMNS} FROM callboard_reminder WHERE namespace = $1 AND type = $2 "  # noqa: S608
                "AND position >= $3 AND position < $4 AND (position, id, name) > ($5, $6, $7) AND due_ms < $8 "
                "ORDER BY position, id, name LIMIT $9",
                *(query.namespace, query.actor_type, query.first, query.first + query.count),
                *(query.after if query.after is not None else (-1, "", "")),
                *(query.due_before_ms, query.limit),
            )
        return tuple(Reminder(ActorKey(query.namespace, query.actor_type, row[0]), *tuple(row)[1:]) for row in rows)

    # -- connections -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        import asyncpg

        if self._pool is None:
            raise StoreUnavailableError(f"store {self.name} is not open")
        if self._waiting >= WAITING_MAX:
            raise StoreUnavailableError(f"store {self.name}: {self._waiting} accesses wait already")
        self._waiting += 1
        try:
            async with self._pool.acquire(timeout=self._timeout_ms / 1000) as connection:
                yield connection
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StoreUnavailableError(f"store {self.name}: {_text(error)}") from None
        finally:
            self._waiting -= 1

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        async with self._connection() as connection, connection.transaction():
            yield connection

    async def close(self) -> None:
        """See `StateStore`."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                await pool.close()
        except TimeoutError:
            pool.terminate()


def _id(key: ActorKey) -> tuple[str, str, str]:
    return key.namespace, key.actor_type, key.actor_id


def _text(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
