"""A host process under test: counters and lists that keep their state in a store that checks fences, and a trace of
everything that checkers want to know. See NOTES.md for the lines that it writes."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any, ClassVar

from attrs import define

from callboard.core.handoff_records import Ended, Granted, TableInstalled
from callboard.core.versions import Policy
from callboard.host import (
    Actor,
    ActorKey,
    CallSettings,
    Host,
    HostRefusedError,
    HostSettings,
    SqliteStore,
    StaleFenceError,
    Stored,
    StoreError,
    VersionConflictError,
    method,
)
from harness.faults.clock import real_ns

LOG_SCHEMA = """
CREATE TABLE IF NOT EXISTS access (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at_ns INTEGER NOT NULL, actor TEXT NOT NULL, fence INTEGER NOT NULL,
    accepted INTEGER NOT NULL, kind TEXT NOT NULL, token TEXT NOT NULL, host TEXT NOT NULL, incarnation INTEGER NOT NULL
);
"""


@define
class Trace:
    """Appends lines to a file, each in one write, so that a kill tears at most the last one."""

    descriptor: int

    def write(self, kind: str, **fields: Any) -> None:
        """One line."""
        line = {"kind": kind, "at_ns": real_ns(), **fields}
        os.write(self.descriptor, json.dumps(line, separators=(",", ":")).encode() + b"\n")


class TracedStore(SqliteStore):
    """A SQLite store that keeps a log of its accesses, written in the same transactions."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.host: Host | None = None

    def _open(self) -> str:
        store_id = super()._open()
        assert self._connection is not None
        # What the machine's power supply does is no part of a run, and other disks' syncs would set the pace.
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.executescript(LOG_SCHEMA)
        return store_id

    async def load(self, key: ActorKey, fence: int) -> Stored:
        """See `StateStore`."""

        def load(connection: sqlite3.Connection) -> Stored:
            value, version, _ = self._checked(connection, key, fence)
            self._log(connection, key, fence, kind="load", accepted=True)
            return Stored(value, version)

        try:
            return await self._in_transaction(load)
        except StaleFenceError:
            await self._refused(key, fence, "load")
            raise

    async def save(self, key: ActorKey, value: bytes, *, expected_version: int, fence: int) -> int:
        """See `StateStore`. `value` is an object with the token of the call that writes it."""
        token = json.loads(value)["token"]

        def logged(connection: sqlite3.Connection) -> int:
            _, version, newest = self._checked(connection, key, fence)
            if version != expected_version:
                raise VersionConflictError(f"{key} has version {version}, not {expected_version}")
            row = (key.namespace, key.actor_type, key.actor_id, value, version + 1, max(fence, newest))
            connection.execute("INSERT OR REPLACE INTO actor VALUES (?, ?, ?, ?, ?, ?)", row)
            self._log(connection, key, fence, kind="save", accepted=True, token=token)
            return version + 1

        try:
            return await self._in_transaction(logged)
        except StaleFenceError:
            await self._refused(key, fence, "save")
            raise

    async def _refused(self, key: ActorKey, fence: int, kind: str) -> None:
        await self._in_transaction(lambda connection: self._log(connection, key, fence, kind=kind, accepted=False))

    def _log(
        self,
        connection: sqlite3.Connection,
        key: ActorKey,
        fence: int,
        *,
        kind: str,
        accepted: bool,
        token: str = "",
    ) -> None:
        actor = f"{key.actor_type}/{key.actor_id}"
        assert self.host is not None
        incarnation = self.host.session.machine.incarnation
        row = (real_ns(), actor, fence, accepted, kind, token, self.host.name, incarnation)
        columns = "at_ns, actor, fence, accepted, kind, token, host, incarnation"
        connection.execute(f"INSERT INTO access ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608


class TracedHost(Host):
    """A host that writes down what it is told of tables and slots."""

    trace: Trace

    def table_installed(self, effect: TableInstalled) -> None:
        """See `Slots`."""
        super().table_installed(effect)
        if self.view is not None:
            digest = self.view.digest.hex()
            self._write("table", namespace=self.namespace, version=self.view.version, digest=digest)

    def granted(self, effect: Granted) -> None:
        """See `Slots`."""
        for span in effect.spans:
            self._write(
                "granted",
                actor_type=span.actor_type,
                first=span.first,
                count=span.count,
                since=span.since,
                fence=span.fence,
            )
        super().granted(effect)

    def ended(self, effect: Ended) -> None:
        """See `Slots`."""
        super().ended(effect)
        reason = effect.reason.value
        for span in effect.spans:
            self._write("ended", reason=reason, actor_type=span.actor_type, first=span.first, count=span.count)

    def _write(self, kind: str, **fields: Any) -> None:
        self.trace.write(kind, host=self.name, incarnation=self.session.machine.incarnation, **fields)


@define
class State:
    """What an actor remembers, as it is stored."""

    value: Any
    token: str = ""

    def encoded(self) -> bytes:
        """For the store."""
        return json.dumps({"value": self.value, "token": self.token}).encode()


class Traced(Actor):
    """What both actors share: state in the store, read again after anything went wrong, and a trace of turns."""

    host: ClassVar[TracedHost]
    empty: ClassVar[Any] = None
    state: State | None = None

    async def on_activate(self) -> None:
        """Read the state."""
        await self._load()

    async def _load(self) -> State:
        stored = await self.context.load()
        self.state = State(**json.loads(stored)) if stored else State(self.empty)
        return self.state

    async def _turn(self, name: str, token: str, change: Any) -> Any:
        """One turn: `change` makes the new value from the old one, or is None to read."""
        begun_ns, incarnation = real_ns(), self.host.session.machine.incarnation
        state, self.state = self.state or await self._load(), None
        if change is not None:
            state = State(change(state.value), token)
            await self.context.save(state.encoded())
        self.state = state
        self._trace(name, token, begun_ns, incarnation)
        return state.value

    def _trace(self, name: str, token: str, begun_ns: int, incarnation: int) -> None:
        """Write the turn down. Asked after the time was taken: a turn that was frozen before this line ends outside its
        right, and shows it (a lease that ran out ends every right of its incarnation for good)."""
        ended_ns = real_ns()
        left_ms = self.context.lease_remaining_ms()
        if (left_ms is None or left_ms > 0) and self.host.session.machine.incarnation == incarnation:
            self.host.trace.write(
                "turn",
                actor=f"{self.context.actor_type}/{self.context.actor_id}",
                host=self.host.name,
                incarnation=incarnation,
                fence=self.context.fence,
                begun_ns=begun_ns,
                ended_ns=ended_ns,
                chain="",
                method=name,
                token=token,
            )


class Tally(Traced):
    """A counter."""

    empty: ClassVar[Any] = 0

    @method
    async def add(self, amount: int, token: str) -> int:
        """Returns the sum after it."""
        result: int = await self._turn("add", token, lambda value: value + amount)
        return result

    @method
    async def read(self, token: str) -> int:
        """The sum."""
        result: int = await self._turn("read", token, None)
        return result


class Journal(Traced):
    """A list."""

    empty: ClassVar[Any] = []

    @method
    async def append(self, value: int, token: str) -> list[int]:
        """Returns the list after it."""
        result: list[int] = await self._turn("append", token, lambda values: [*values, value])
        return result

    @method
    async def read(self, token: str) -> list[int]:
        """The list."""
        result: list[int] = await self._turn("read", token, None)
        return result


def parse_dial(text: str) -> dict[str, str]:
    """ "A=B,C=D": dial B for A."""
    return dict(pair.split("=", 1) for pair in text.split(",") if pair)


async def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM, then leave in order."""
    store = TracedStore(Path(options.store))
    host = TracedHost(
        listen=options.listen,
        cluster=options.cluster,
        actors=[Tally, Journal],
        name=options.name,
        namespace=options.namespace,
        policy=Policy(options.policy),
        store=store,
        settings=HostSettings(calls=CallSettings(dial=parse_dial(options.dial))),
    )
    host.trace = Trace(os.open(options.trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644))
    Traced.host = store.host = host
    try:
        await host.start()
    except (HostRefusedError, StoreError, OSError) as error:
        print(f"host {options.name}: {error}", file=sys.stderr)
        return 1
    await host.serve_until_signal()
    return 0 if await host.leave() else 3


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("name", "listen", "cluster", "namespace", "policy", "trace", "store"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--dial", default="")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
