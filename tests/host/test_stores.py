"""All state stores do the same (store_scenarios.py), and say in one line what is wrong with what they stand on."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from attrs import evolve

from callboard.host import (
    ActorKey,
    MemoryStore,
    PostgresStore,
    Reminder,
    ReminderQuery,
    SqliteStore,
    StateStore,
    Stored,
    StoreError,
    StoreUnavailableError,
    VersionConflictError,
)
from harness import postgres
from harness.postgres import PostgresMissing, PostgresServer
from tests.host.store_scenarios import KEY, SCENARIOS, Connect, StoreScenario, reminder

KINDS = ("memory", "sqlite", "postgres")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def handles() -> AsyncIterator[list[StateStore]]:
    opened: list[StateStore] = []
    yield opened
    for store in opened:
        await store.close()


@pytest.fixture
def connect(
    request: pytest.FixtureRequest, kind: str, handles: list[StateStore], tmp_path: Path
) -> Callable[[], object]:
    """Opens one more handle on the data of this test."""
    memory = MemoryStore()
    dsn = request.getfixturevalue("server").new_database() if kind == "postgres" else ""

    async def open_one() -> StateStore:
        store: StateStore = memory
        if kind == "sqlite":
            store = SqliteStore(tmp_path / "state.db")
        elif kind == "postgres":
            store = PostgresStore(dsn)
        await store.open()
        handles.append(store)
        return store

    return open_one


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("kind", KINDS)
async def test_conformance(kind: str, scenario: StoreScenario, connect: Connect) -> None:
    await scenario(connect)


# -- seeded bugs -----------------------------------------------------------------------------------------


class NoFences(MemoryStore):
    def _check(self, key: ActorKey, fence: int) -> None:
        pass


class ReadsLeaveFences(MemoryStore):
    async def load(self, key: ActorKey, fence: int) -> Stored:
        self._check(key, fence)
        return await super().load(key, 0)


class FencesBeforeVersions(MemoryStore):
    async def save(self, key: ActorKey, value: bytes, *, expected_version: int, fence: int) -> int:
        await self.load(key, fence)
        return await super().save(key, value, expected_version=expected_version, fence=fence)


class LastWriterWins(MemoryStore):
    async def save(self, key: ActorKey, value: bytes, *, expected_version: int, fence: int) -> int:
        present = (await self.load(key, 0)).version
        return await super().save(key, value, expected_version=present, fence=fence)


class TwoSteps(MemoryStore):
    """Compares, and writes a moment later."""

    async def save(self, key: ActorKey, value: bytes, *, expected_version: int, fence: int) -> int:
        self._check(key, fence)
        present = (await self.load(key, 0)).version
        await asyncio.sleep(0)
        if present != expected_version:
            raise VersionConflictError(f"{key} has version {present}, not {expected_version}")
        self._values[key] = Stored(value, present + 1)
        return present + 1


class RemindersWithoutFences(MemoryStore):
    async def save_reminder(self, reminder: Reminder, *, fence: int, replaces: str | None = None) -> bool:
        return await super().save_reminder(reminder, fence=0, replaces=replaces)


class NoTokens(MemoryStore):
    async def delete_reminder(self, key: ActorKey, name: str, *, fence: int, token: str | None = None) -> bool:
        return await super().delete_reminder(key, name, fence=fence)


class UnorderedPages(MemoryStore):
    async def list_reminders(self, query: ReminderQuery) -> tuple[Reminder, ...]:
        return tuple(self._matching(query))[: query.limit]


class PagesOverlap(MemoryStore):
    async def list_reminders(self, query: ReminderQuery) -> tuple[Reminder, ...]:
        after = query.after
        if after is not None and query.limit > 1:
            query = evolve(query, after=(after[0], after[1], ""))
        return await super().list_reminders(query)


class NewIdEachTime(MemoryStore):
    async def open(self) -> str:
        return f"memory-{id(object())}-{len(self._fences)}-{self._opened()}"

    def _opened(self) -> int:
        self._fences[ActorKey("", "", str(len(self._fences)))] = 0
        return len(self._fences)


BUGS = (
    NoFences,
    ReadsLeaveFences,
    FencesBeforeVersions,
    LastWriterWins,
    TwoSteps,
    RemindersWithoutFences,
    NoTokens,
    UnorderedPages,
    PagesOverlap,
    NewIdEachTime,
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda each: each.__name__)
async def test_scenarios_catch_bugs(bug: type[MemoryStore]) -> None:
    caught = []
    for scenario in SCENARIOS:
        store = bug()

        async def connect(store: MemoryStore = store) -> StateStore:
            return store

        try:
            async with asyncio.timeout(1):  # some bugs only show by never ending
                await scenario(connect)
        except (AssertionError, pytest.fail.Exception, StoreError, TimeoutError):
            caught.append(scenario.__name__)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    assert caught, f"no scenario catches {bug.__name__}"


# -- SQLite: what is wrong with the file -----------------------------------------------------------------


async def opening(store: StateStore) -> str:
    """What is said when it is opened."""
    with pytest.raises(StoreUnavailableError) as caught:
        await store.open()
    await store.close()
    return str(caught.value)


async def test_sqlite_says_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "state.db"
    assert await opening(SqliteStore(missing)) == f"store {missing}: unable to open database file"
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database " * 500)
    assert await opening(SqliteStore(garbage)) == f"store {garbage}: file is not a database"
    newer = tmp_path / "newer.db"
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version = 99")
    text = f"store {newer} has format 99; this callboard knows formats up to 2"
    assert await opening(SqliteStore(newer)) == text
    with pytest.raises(StoreUnavailableError, match=r"closed.db is not open"):
        await SqliteStore(tmp_path / "closed.db").load(KEY, 0)


async def test_sqlite_that_is_locked_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path, busy_timeout_ms=20)
    await store.open()
    await store.save(KEY, bytes(100_000), expected_version=0, fence=1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match=f"store {path}: database is locked"):
            await store.save(KEY, b"v", expected_version=1, fence=1)
        other.execute("ROLLBACK")
    assert await store.save(KEY, bytes(100_000), expected_version=1, fence=1) == 2, "it goes on afterwards"
    await store.close()
    with pytest.raises(StoreUnavailableError, match="is closed"):
        await store.open()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    text = await opening(SqliteStore(path))
    assert text == f"store {path}: database disk image is malformed"


async def test_sqlite_keeps_what_an_earlier_format_had(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE store (id TEXT NOT NULL); INSERT INTO store VALUES ('sqlite-1');"
            "CREATE TABLE actor (namespace TEXT NOT NULL, type TEXT NOT NULL, id TEXT NOT NULL, value BLOB,"
            " version INTEGER NOT NULL DEFAULT 0, fence INTEGER NOT NULL DEFAULT 0,"
            " PRIMARY KEY (namespace, type, id)) WITHOUT ROWID;"
            "INSERT INTO actor VALUES ('shop', 'Cart', 'alice', X'61', 3, 7);"
        )
    store = SqliteStore(path)
    assert await store.open() == "sqlite-1"
    assert await store.load(KEY, 7) == Stored(b"a", 3)
    assert await store.save_reminder(reminder(), fence=7)
    await store.close()


# -- PostgreSQL: what is wrong with the server -----------------------------------------------------------


async def test_postgres_says_what_is_wrong_with_its_server(server: PostgresServer) -> None:
    text = await opening(PostgresStore(server.dsn("nowhere")))
    assert text == 'store postgresql://127.0.0.1/nowhere: database "nowhere" does not exist'
    secret = f"postgresql://nobody:s3cret@127.0.0.1:{server.port}/postgres"
    text = await opening(PostgresStore(secret))
    assert text == 'store postgresql://127.0.0.1/postgres: role "nobody" does not exist'
    text = await opening(PostgresStore("postgresql://callboard@127.0.0.1:1/x", timeout_ms=2000))
    assert text.startswith("store postgresql://127.0.0.1/x: [Errno 111] Connect call failed")
    with pytest.raises(ValueError, match="dsn begins with 'mysql', not with postgresql://"):
        PostgresStore("mysql://h/d")
    with pytest.raises(StoreUnavailableError, match="store postgresql://h/d is not open"):
        await PostgresStore("postgresql://h/d").load(KEY, 0)


async def test_postgres_of_a_newer_format(server: PostgresServer) -> None:
    dsn = server.new_database()
    store = PostgresStore(dsn)
    await store.open()
    async with store._transaction() as connection:
        await connection.execute("UPDATE callboard_store SET format = 9")
    await store.close()
    text = await opening(PostgresStore(dsn))
    assert "has format 9; this callboard knows formats up to 1" in text


async def test_hosts_may_open_a_new_database_at_once(server: PostgresServer) -> None:
    dsn = server.new_database()
    stores = [PostgresStore(dsn, connections_max=1) for _ in range(8)]
    assert len(set(await asyncio.gather(*(store.open() for store in stores)))) == 1
    await asyncio.gather(*(store.close() for store in stores))


async def test_postgres_rows_that_are_locked(server: PostgresServer) -> None:
    dsn = server.new_database()
    store, other = PostgresStore(dsn, timeout_ms=500), PostgresStore(dsn)
    await store.open()
    await other.open()
    await store.save(KEY, b"v", expected_version=0, fence=1)
    async with other._transaction() as connection:
        await other._checked(connection, KEY, 1)
        with pytest.raises(StoreUnavailableError, match=r"lock timeout|TimeoutError"):
            await store.save(KEY, b"w", expected_version=1, fence=1)
        assert await store.load(KEY, 1) == Stored(b"v", 1), "reads wait for nobody"
    assert await store.save(KEY, b"w", expected_version=1, fence=1) == 2
    await store.close()
    await other.close()


async def test_postgres_goes_on_after_its_server_was_gone(server: PostgresServer) -> None:
    store = PostgresStore(server.new_database(), timeout_ms=2000)
    await store.open()
    await store.save(KEY, b"v", expected_version=0, fence=1)
    server.stop()
    with pytest.raises(StoreUnavailableError, match=r"store postgresql://127\.0\.0\.1/state_"):
        await store.load(KEY, 1)
    server.start()
    assert await store.load(KEY, 1) == Stored(b"v", 1)
    await store.close()


async def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    text = await opening(PostgresStore("postgresql://h/d"))
    assert text == (
        "store postgresql://h/d: the package asyncpg is missing; install it with: pip install 'callboard[postgres]'"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "INSTALLED", tmp_path)
    with pytest.raises(PostgresMissing, match="run `apt-get install postgresql` as root"):
        postgres.find_or_install_postgres()
