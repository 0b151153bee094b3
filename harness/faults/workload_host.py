"""A host process under test: counters and lists that keep their state in a store that checks fences, and a trace of
everything that checkers want to know. See NOTES.md for the lines that it writes."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

from attrs import asdict, define

from callboard.core.native_host_records import Ended, Granted, Stopped, TableInstalled
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
    method,
)
from callboard.host.activation import Context
from callboard.host.clock import now_ms
from harness.faults.clock import FALSIFIED, real_ns

LOCK_S = 10.0
CLOCK_PERIOD_S = 0.3
LEAK_CHECKS = 20
LEAK_PAUSE_S = 0.1
ASKED_NS: ContextVar[int] = ContextVar("asked_ns", default=0)
"""When the present turn was about to ask for an access to the store."""
CLOCK = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
COLUMNS = "at_ms, actor, fence, accepted, kind, token, host, incarnation"


def _of(name: str) -> str:
    """A field of a stored state, in SQL."""
    return f"json_extract(CAST(NEW.value AS TEXT), '$.{name}')"


LOG_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS access (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, actor TEXT NOT NULL, fence INTEGER NOT NULL,
    accepted INTEGER NOT NULL, kind TEXT NOT NULL, token TEXT NOT NULL, host TEXT NOT NULL, incarnation INTEGER NOT NULL
);
CREATE TRIGGER IF NOT EXISTS saved AFTER INSERT ON actor WHEN NEW.value IS NOT NULL BEGIN
    INSERT INTO access ({COLUMNS}) VALUES ({CLOCK}, NEW.type || '/' || NEW.id, NEW.fence, 1,
        'save', {_of("token")}, {_of("host")}, {_of("incarnation")});
END;
CREATE TRIGGER IF NOT EXISTS seen AFTER INSERT ON actor WHEN NEW.value IS NULL BEGIN
    INSERT INTO access ({COLUMNS}) VALUES ({CLOCK}, NEW.type || '/' || NEW.id, NEW.fence, 1, 'load', '', '', 0);
END;
CREATE TRIGGER IF NOT EXISTS raised AFTER UPDATE OF fence ON actor BEGIN
    INSERT INTO access ({COLUMNS}) VALUES ({CLOCK}, NEW.type || '/' || NEW.id, NEW.fence, 1, 'load', '', '', 0);
END;
"""  # noqa: S608
"""A log of accesses, kept by the database itself: in one transaction with each of them, and in their order."""


@define
class Trace:
    """Appends lines to a file, each in one write, so that a kill tears at most the last one."""

    descriptor: int

    def write(self, kind: str, **fields: Any) -> None:
        """One line."""
        line = {"kind": kind, "at_ns": real_ns(), **fields}
        os.write(self.descriptor, json.dumps(line, separators=(",", ":")).encode() + b"\n")


class TracedStore(SqliteStore):
    """The store under test, with a log of accesses beside it."""

    host: TracedHost
    refusals: ClassVar[ThreadPoolExecutor] = ThreadPoolExecutor(1, thread_name_prefix="refusals")

    async def open(self) -> str:
        """See `StateStore`."""
        store_id = await super().open()
        with closing(self._second_connection()) as connection:
            connection.executescript(LOG_SCHEMA)
        return store_id

    def _second_connection(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=LOCK_S, isolation_level=None)

    async def load(self, key: ActorKey, fence: int) -> Stored:
        """See `StateStore`."""
        self._passed(key, fence, "load")
        return await super().load(key, fence)

    async def save(self, key: ActorKey, value: bytes, *, expected_version: int, fence: int) -> int:
        """See `StateStore`."""
        self._passed(key, fence, "save")
        return await super().save(key, value, expected_version=expected_version, fence=fence)

    def _passed(self, key: ActorKey, fence: int, access: str) -> None:
        """An access has passed the host's gate, which was asked after `asked_ns`."""
        asked_ns = ASKED_NS.get()
        if asked_ns:
            incarnation = self.host.session.machine.incarnation
            fields = {"host": self.host.name, "incarnation": incarnation, "fence": fence, "access": access}
            self.host.trace.write("passed", actor=f"{key.actor_type}/{key.actor_id}", asked_ns=asked_ns, **fields)

    def _checked(self, connection: sqlite3.Connection, key: ActorKey, fence: int) -> tuple[bytes | None, int, int]:
        """Fences only rise, so that a refusal may be written down a moment after it happened. In a thread, for the turn
        of a zombie is cancelled before it hears of the refusal; in another one, for this one holds the store's lock."""
        try:
            return super()._checked(connection, key, fence)
        except StaleFenceError:
            incarnation = self.host.session.machine.incarnation
            self.refusals.submit(self._refused, f"{key.actor_type}/{key.actor_id}", fence, incarnation)
            raise

    def _refused(self, actor: str, fence: int, incarnation: int) -> None:
        with closing(self._second_connection()) as connection:
            connection.execute(
                f"INSERT INTO access ({COLUMNS}) VALUES ({CLOCK}, ?, ?, 0, ?, '', ?, ?)",  # noqa: S608
                (actor, fence, "either", self.host.name, incarnation),
            )


class TracedHost(Host):
    """A host that writes down what it is told of tables and slots."""

    trace: Trace
    _renewed_ms: int | None = None

    def table_installed(self, effect: TableInstalled) -> None:
        """See `Slots`."""
        super().table_installed(effect)
        if self.view is not None:
            digest = self.view.digest.hex()
            self._write("table", namespace=self.namespace, version=self.view.version, digest=digest)

    def lease_renewed(self) -> None:
        """See `Slots`. A falsified clock cannot say when a renewal was sent."""
        super().lease_renewed()
        machine = self.session.machine
        sent_ms = machine._base_ms  # noqa: SLF001 - what no application needs to know
        if sent_ms is None or sent_ms == self._renewed_ms or os.environ.get(FALSIFIED):
            return
        self._renewed_ms = sent_ms
        sent_ns = real_ns() - (now_ms() - sent_ms + 1) * 1_000_000
        self._write("renewed", epoch=machine.epoch, sent_ns=sent_ns)

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

    async def stopped(self) -> Stopped:
        """See `Host`. A host whose turns outlive their right ends its process: that is how it is meant."""
        over = await super().stopped()
        self._write("out", reason=over.reason, overdue=over.overdue)
        return over

    def _write(self, kind: str, **fields: Any) -> None:
        self.trace.write(kind, host=self.name, incarnation=self.session.machine.incarnation, **fields)


@define
class State:
    """What an actor remembers, as it is stored."""

    value: Any
    token: str = ""
    host: str = ""
    incarnation: int = 0

    def encoded(self) -> bytes:
        """For the store, whose log reads it too."""
        return json.dumps(asdict(self)).encode()


class Traced(Actor):
    """What both actors share: state in the store, read again after anything went wrong, and a trace of turns."""

    host: ClassVar[TracedHost]
    empty: ClassVar[Any] = None
    state: State | None = None

    async def on_activate(self) -> None:
        """Read the state."""
        await self._load()

    async def _load(self) -> State:
        ASKED_NS.set(real_ns())
        stored = await self.context.load()
        self.state = State(**json.loads(stored)) if stored else State(self.empty)
        return self.state

    async def _turn(self, name: str, token: str, change: Any, *, hold_ms: int = 0, block_ms: int = 0) -> Any:
        """One turn: `change` makes the new value from the old one, or is None to read.

        `hold_ms`: how long it takes. `block_ms`: how long it computes and lets nobody else in the process run.
        """
        begun_ns, incarnation = real_ns(), self.host.session.machine.incarnation
        trace = partial(self._trace, name, token, begun_ns, incarnation)
        try:
            value = await self._carry_out(token, change, hold_ms, block_ms, trace)
        except asyncio.CancelledError:
            trace(cancelled=True)
            raise
        trace()
        return value

    async def _carry_out(self, token: str, change: Any, hold_ms: int, block_ms: int, trace: Callable[[], None]) -> Any:
        incarnation = self.host.session.machine.incarnation
        await asyncio.sleep(hold_ms / 1000)
        state, self.state = self.state or await self._load(), None
        if change is not None:
            state = State(change(state.value), token, self.host.name, incarnation)
            time.sleep(block_ms / 1000)  # noqa: ASYNC251 - what a turn does that computes for long
            ASKED_NS.set(real_ns())
            try:
                await self.context.save(state.encoded())
            except StaleFenceError:
                # Its host believes to have the right, and another one had a newer: that is worth writing down.
                trace()
                raise
        self.state = state
        return state.value

    def _trace(self, name: str, token: str, begun_ns: int, incarnation: int, *, cancelled: bool = False) -> None:
        """Write the turn down, if its right was in force until now. Asked after the time was taken: a turn that was
        frozen before this line ends outside its right, and shows it (a lease that ran out ends every right of its
        incarnation for good). A turn is cancelled before its right ends, or because it has ended: the gate knows."""
        ended_ns = real_ns()
        left_ms = self.context.lease_remaining_ms()
        in_force = (left_ms is None or left_ms > 0) and self.host.session.machine.incarnation == incarnation
        if in_force and (not cancelled or self._gate_is_open()):
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

    def _gate_is_open(self) -> bool:
        right = cast("Context", self.context)._activation.right  # noqa: SLF001 - what no application needs to know
        return self.host.session.machine.gate_open(right, now_ms())


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
    async def append(self, value: int, token: str, hold_ms: int = 0, block_ms: int = 0) -> list[int]:
        """Returns the list after it. `hold_ms` and `block_ms`: see `_turn`."""

        def longer(values: list[int]) -> list[int]:
            return [*values, value]

        result: list[int] = await self._turn("append", token, longer, hold_ms=hold_ms, block_ms=block_ms)
        return result

    @method
    async def read(self, token: str) -> list[int]:
        """The list."""
        result: list[int] = await self._turn("read", token, None)
        return result


def parse_dial(text: str) -> dict[str, str]:
    """ "A=B,C=D": dial B for A."""
    return dict(pair.split("=", 1) for pair in text.split(",") if pair)


async def trace_clock(trace: Trace) -> None:
    """Write down what this process takes for the time, beside the machine's."""
    while True:
        trace.write("clock", real_ns=real_ns(), host_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        await asyncio.sleep(CLOCK_PERIOD_S)


async def leaked_tasks() -> set[asyncio.Task[Any]]:
    """Tasks that still run some time after everything was told to end."""
    others: set[asyncio.Task[Any]] = set()
    for _ in range(LEAK_CHECKS):
        others = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        if not others:
            break
        await asyncio.sleep(LEAK_PAUSE_S)
    return others


async def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM, then leave in order."""
    store = TracedStore(Path(options.store), busy_timeout_ms=int(LOCK_S * 1000))
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
    # Before it has joined: that may take long, and the clock is wrong from now on.
    clock = asyncio.ensure_future(trace_clock(host.trace)) if os.environ.get(FALSIFIED) else None
    try:
        await host.start()
    except (HostRefusedError, StoreError, OSError) as error:
        print(f"host {options.name}: {error}", file=sys.stderr)
        return 1
    await host.serve_until_signal()
    if clock is not None:
        clock.cancel()
    left = await host.leave()
    for task in await leaked_tasks():
        print(f"host {options.name}: leaked task {task!r}", file=sys.stderr)
    return 0 if left else 3


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("name", "listen", "cluster", "namespace", "policy", "trace", "store"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--dial", default="")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
