"""A host process with actors, for the demo: counters that keep their count and, with a fence of their own, a ledger."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from callboard.host import Actor, ActorKey, Host, HostRefusedError, SqliteStore, StaleFenceError, StoreError, method

LEDGER_DELAY_S = 0.02


class Counter(Actor):
    """Counts what it is told to count. Its state goes through the host's gate; its ledger does not, as a system outside
    that the actor calls by itself: there only the fence protects."""

    host: Host
    ledger: SqliteStore
    trace: int
    bookings: ClassVar[set[asyncio.Future[None]]] = set()

    async def on_activate(self) -> None:
        """Read the count."""
        stored = await self.context.load()
        self.tokens: list[str] = json.loads(stored) if stored else []

    @method
    async def add(self, token: str) -> int:
        """Append a token; returns how many there are."""
        begun_ns = time.monotonic_ns()
        self.tokens.append(token)
        await self.context.save(json.dumps(self.tokens).encode())
        # As if the ledger were called by a thread that nobody can cancel.
        booking = asyncio.ensure_future(self.book(token, self.context.fence))
        Counter.bookings.add(booking)
        booking.add_done_callback(Counter.bookings.discard)
        await asyncio.shield(booking)
        ended_ns = time.monotonic_ns()
        # Asked after the time was taken: a turn that was frozen before this line ends outside its right, and shows it.
        if (self.context.lease_remaining_ms() or 0) > 0:
            write(
                kind="turn",
                actor=self.context.actor_id,
                host=Counter.host.name,
                incarnation=Counter.host.session.machine.incarnation,
                fence=self.context.fence,
                begun_ns=begun_ns,
                ended_ns=ended_ns,
            )
        return len(self.tokens)

    async def book(self, token: str, fence: int) -> None:
        """Write to the ledger under this fence, however long it took to get here."""
        await asyncio.sleep(LEDGER_DELAY_S)
        key = ActorKey("ledger", self.context.actor_type, self.context.actor_id)
        try:
            stored = await Counter.ledger.load(key, fence)
            await Counter.ledger.save(key, token.encode(), expected_version=stored.version, fence=fence)
        except StaleFenceError:
            write(kind="refused", actor=self.context.actor_id, fence=fence)

    @method
    async def read(self) -> list[str]:
        """All tokens."""
        return self.tokens


def write(**fields: Any) -> None:
    """One line of the trace, in one write."""
    os.write(Counter.trace, json.dumps(fields).encode() + b"\n")


async def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM, then leave in order."""
    Counter.trace = os.open(options.trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    Counter.ledger = SqliteStore(Path(options.store).with_name("ledger.db"))
    await Counter.ledger.open()
    Counter.host = Host(
        listen=options.listen,
        cluster=options.cluster,
        actors=[Counter],
        name=options.name,
        namespace=options.namespace,
        store=SqliteStore(Path(options.store)),
    )
    try:
        await Counter.host.start()
    except (HostRefusedError, StoreError, OSError) as error:
        print(f"host {options.name}: {error}", file=sys.stderr)
        return 1
    await Counter.host.serve_until_signal()
    in_order = await Counter.host.leave()
    await Counter.ledger.close()
    return 0 if in_order else 3


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("name", "listen", "cluster", "namespace", "trace", "store"):
        parser.add_argument(f"--{name}", required=True)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
