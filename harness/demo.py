"""`make demo`: a tour of callboard with native hosts, on real processes, in about a minute.

Three replicas with durable storage, host processes with actors that keep state in SQLite, and a steady stream of
calls. A host joins, one leaves in order, one is killed with -9, one is frozen with SIGSTOP past its lease and
continued, and the leader is killed. At the end one table says what callers saw, and whether what callboard promises
held. Exit code 0 only if it did. (The same for Dapr sidecars: `make demo-sidecars`.)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrs import Factory, define, frozen
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from callboard.core.slot_records import slot_of
from callboard.core.table_delta import TableView
from callboard.host import CallError, CallSettings, Router
from harness.demo_host import Counter
from harness.faults.checkers.activations import check_single_activation, check_stale_turns
from harness.faults.checkers.verdict import Verdict
from harness.faults.history import History, Note
from harness.hosts import HostProcess
from harness.processes import Cluster, PortLease, ProcessError, wait_until

NAMESPACE = "shop"
ACTORS = 60
"""Each has a caller of its own, which calls it again and again."""
PACE_S = 0.05
STEADY_S = 2.0
GATHER_S = 0.3
FLAGS = ("--lease=2500ms", "--drain=1500ms", "--margin=200ms", "--tick=200ms", "--failure-timeout=3s", "--slot-bits=9")
DEADLINE_S = 60.0
CALL_TIMEOUT_MS = 15_000


@frozen
class Call:
    """One call as its caller saw it."""

    actor: str
    token: str
    begun_ns: int
    ended_ns: int
    failure: str = ""
    definite: bool = True


@frozen
class Event:
    """One thing that happened, with the tables before and after it."""

    what: str
    begun_ns: int
    ended_ns: int
    moved: int
    minimum: int
    moved_actors: frozenset[str]


@define(eq=False)
class Tour:
    """The run: events in order, calls all the time."""

    cluster: Cluster
    router: Router
    hosts: dict[str, HostProcess]
    calls: list[Call] = Factory(list)
    events: list[Event] = Factory(list)
    now: str = "starting"
    failures: list[str] = Factory(list)
    _token: int = 0
    _done: bool = False

    # -- calls -------------------------------------------------------------------------------------------

    async def call_steadily(self, actor: str) -> None:
        """One caller: one call at a time."""
        while not self._done:
            self._token += 1
            token = f"t{self._token}"
            begun_ns = time.monotonic_ns()
            failure, definite = "", True
            try:
                await self.router.client.actor(Counter, actor).add(token)
            except CallError as error:
                failure, definite = f"{type(error).__name__}: {error}", error.definite
            self.calls.append(Call(actor, token, begun_ns, time.monotonic_ns(), failure, definite))
            await asyncio.sleep(PACE_S)

    # -- events ------------------------------------------------------------------------------------------

    async def happen(self, what: str, action: Any, minimum: Any, settled: Any) -> None:
        """Do something, wait until it has settled and calls flow again, and note what moved."""
        self.now = what
        before, begun_ns = self.view(), time.monotonic_ns()
        await action()
        await wait_until(settled, deadline_s=DEADLINE_S, what=f"after: {what}")
        await self.every_actor_answers()
        after = self.view()
        moved = moved_slots(before, after)
        actors = frozenset(
            f"actor-{number}" for number in range(ACTORS) if owner(before, number) != owner(after, number)
        )
        least = minimum(before, after)
        self.events.append(Event(what, begun_ns, time.monotonic_ns(), len(moved), least, actors))
        await asyncio.sleep(STEADY_S)

    def view(self) -> TableView:
        """The router's table."""
        assert self.router.view is not None
        return self.router.view

    async def every_actor_answers(self) -> None:
        """Each actor has answered a call that began from now on."""
        since_ns = time.monotonic_ns()

        def silent() -> set[str]:
            answered = {call.actor for call in self.calls if call.begun_ns > since_ns and not call.failure}
            return {f"actor-{number}" for number in range(ACTORS)} - answered

        async def answered() -> bool:
            return not silent()

        try:
            await wait_until(answered, deadline_s=DEADLINE_S, what="every actor answers again")
        except TimeoutError as error:
            raise ProcessError(f"{error}\n{self.explain(silent())}") from None

    def explain(self, silent: set[str]) -> str:
        """Why some actors may not answer: their owners, what callers last heard, and the end of the hosts' logs."""
        names = {entry.incarnation: entry.name for entry in self.view().hosts.values()}
        told = {call.actor: call.failure for call in self.calls if call.failure}
        lines = [
            f"{actor} of {names.get(owner(self.view(), int(actor.rpartition('-')[2])))}: {told.get(actor, 'no error')}"
            for actor in sorted(silent)[:5]
        ]
        logs = [f"--- {name}\n{host.log_tail()}" for name, host in self.hosts.items() if host.log_path.exists()]
        return "\n".join([f"{len(silent)} actors do not answer, table version {self.view().version}", *lines, *logs])

    def names(self) -> set[str]:
        """Hosts in the router's table."""
        return {entry.name for entry in self.view().hosts.values()}

    async def run(self) -> None:
        """All events."""
        for name in ("h1", "h2", "h3"):
            self.hosts[name].start()
        await wait_until(self._members("h1", "h2", "h3"), deadline_s=DEADLINE_S, what="three hosts")
        callers = [asyncio.ensure_future(self.call_steadily(f"actor-{number}")) for number in range(ACTORS)]
        try:
            await self.every_actor_answers()

            async def nothing() -> None:
                await asyncio.sleep(STEADY_S)

            await self.happen("nothing, to compare", nothing, lambda *_: 0, self._members("h1", "h2", "h3"))
            await self._events()
        finally:
            self._done = True
            await asyncio.gather(*callers)

    async def _events(self) -> None:
        hosts, incarnations = self.hosts, {entry.name: key for key, entry in self.view().hosts.items()}

        async def start() -> None:
            hosts["h4"].start()

        await self.happen("h4 joins", start, share_of_newcomers, self._members("h1", "h2", "h3", "h4"))

        async def leave() -> None:
            hosts["h2"].send(signal.SIGTERM)

        await self.happen("h2 leaves in order", leave, owned_by_leavers, self._members("h1", "h3", "h4"))
        if await hosts["h2"].wait_exit() != 0:
            self.failures.append(f"h2 did not leave in order: {hosts['h2'].log_tail()}")

        async def kill() -> None:
            hosts["h3"].kill()

        await self.happen("h3 is killed (-9)", kill, owned_by_leavers, self._members("h1", "h4"))

        async def freeze() -> None:
            with locked(hosts["h1"].ledger_path):
                # Turns gather at the ledger's door, so that some are frozen there.
                await asyncio.sleep(GATHER_S)
                with locked(hosts["h1"].store_path):
                    hosts["h1"].send(signal.SIGSTOP)
                    await wait_until(hosts["h1"].is_stopped, deadline_s=DEADLINE_S, what="h1 is frozen")

        await self.happen("h1 is frozen (SIGSTOP)", freeze, owned_by_leavers, self._members("h4"))

        async def go_on() -> None:
            hosts["h1"].send(signal.SIGCONT)

        async def back() -> bool:
            now = {entry.name: key for key, entry in self.view().hosts.items()}
            return now.get("h1", 0) > incarnations["h1"]

        await self.happen("h1 goes on, and is new", go_on, share_of_newcomers, back)

        async def kill_leader() -> None:
            leader = await self.cluster.leader()
            await leader.kill()
            await wait_until(self._another_leader(), deadline_s=DEADLINE_S, what="another leader")

        await self.happen("the leader is killed (-9)", kill_leader, lambda *_: 0, self._members("h1", "h4"))

    def _members(self, *names: str) -> Any:
        async def holds() -> bool:
            return self.router.view is not None and self.names() == set(names)

        return holds

    def _another_leader(self) -> Any:
        async def holds() -> bool:
            await self.cluster.leader(deadline_s=DEADLINE_S)
            return True

        return holds


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock of a SQLite file. A process that is frozen meanwhile does not hold it: else its lock would
    stop everybody who shares the file, for as long as it is frozen. (That is SQLite's limit, not the placement's.)
    """
    with closing(sqlite3.connect(path, timeout=DEADLINE_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


# -- tables ----------------------------------------------------------------------------------------------


def owners(view: TableView) -> tuple[int, ...]:
    """Owner of each slot."""
    table = view.tables.get("Counter")
    return table.owners if table is not None else ()


def owner(view: TableView, number: int) -> int:
    """Owner of an actor."""
    return owners(view)[slot_of("Counter", f"actor-{number}", view.slot_bits)]


def moved_slots(before: TableView, after: TableView) -> list[int]:
    """Slots with another owner."""
    pairs = zip(owners(before), owners(after), strict=True)
    return [slot for slot, (old, new) in enumerate(pairs) if old != new]


def share_of_newcomers(before: TableView, after: TableView) -> int:
    """What must move for the newcomers to have their share, rounded down."""
    newcomers = after.hosts.keys() - before.hosts.keys()
    return len(owners(after)) * len(newcomers) // max(1, len(after.hosts))


def owned_by_leavers(before: TableView, after: TableView) -> int:
    """What must move because its owner left."""
    gone = before.hosts.keys() - after.hosts.keys()
    return sum(owner in gone for owner in owners(before))


# -- the end ---------------------------------------------------------------------------------------------


def pauses_ms(calls: Iterable[Call], event: Event, *, moved: bool) -> int:
    """Longest time without an answer of one actor, of those that the event moved or of the others."""
    answered: dict[str, list[int]] = {}
    for call in calls:
        if not call.failure and (call.actor in event.moved_actors) is moved:
            answered.setdefault(call.actor, []).append(call.ended_ns)
    longest = 0
    for times in answered.values():
        times.sort()
        gaps = pairwise(times)
        longest = max(
            [longest, *(b - a for a, b in gaps if b > event.begun_ns and a < event.ended_ns)],
        )
    return longest // 1_000_000


def failed_during(calls: Iterable[Call], event: Event) -> list[Call]:
    """Calls that failed while the event was going on, whenever they began."""
    return [call for call in calls if call.failure and event.begun_ns < call.ended_ns <= event.ended_ns]


async def verify(tour: Tour) -> dict[str, int]:
    """What callers were told, against what is there, and what the hosts wrote down."""
    tokens: dict[str, list[str]] = {}
    for number in range(ACTORS):
        tokens[f"actor-{number}"] = await tour.router.client.actor(Counter, f"actor-{number}").read()
    traces = [line for host in tour.hosts.values() for line in host.trace()]
    figures, failures = judge(tour.calls, tokens, traces)
    tour.failures.extend(failures)
    return {**figures, "retried by the client": tour.router.client.figures.retried}


def judge(
    calls: Sequence[Call], tokens: Mapping[str, Sequence[str]], traces: Iterable[Mapping[str, Any]]
) -> tuple[dict[str, int], list[str]]:
    """Figures, and what did not hold. `tokens`: what each actor remembers. `traces`: what hosts wrote down."""
    failures: list[str] = []
    lost = sum(call.token not in tokens[call.actor] for call in calls if not call.failure)
    surely_failed = sum(call.token in tokens[call.actor] for call in calls if call.failure and call.definite)
    twice = sum(count - 1 for kept in tokens.values() for count in Tally(kept).values())
    notes, refused = [], 0
    for line in traces:
        if line["kind"] == "turn":
            notes.append(Note("turn", line["begun_ns"], line))
        else:
            refused += 1
    history = History((), notes=tuple(notes))
    single, stale = check_single_activation(history), check_stale_turns(history)
    failures.extend("; ".join(result.explanation) for result in (single, stale) if result.verdict is not Verdict.VALID)
    for what, count in (
        ("acknowledged calls are lost", lost),
        ("calls had an effect although they surely failed", surely_failed),
        ("calls had their effect twice", twice),
    ):
        if count:
            failures.append(f"{count} {what}")
    if not refused:
        failures.append("no write was refused by a fence: the frozen host was no zombie")
    return {
        "made": len(calls),
        "failed, surely not run": sum(bool(call.failure) and call.definite for call in calls),
        "failed, outcome unknown": sum(bool(call.failure) and not call.definite for call in calls),
        "acknowledged and lost": lost,
        "run twice": twice,
        "two activations at once": int(single.verdict is Verdict.INVALID),
        "turns traced": single.figures["turns"],
        "writes of a zombie refused by fences": refused,
    }, failures


def event_table(tour: Tour) -> Table:
    """What each event cost."""
    table = Table(title="what happened", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.caption = (
        "at least: slots that had to move. pause: longest time in which some one actor gave no answer, in ms, of the "
        "actors that moved and of all others. calls failed: of unknown outcome: their host was gone, or out of time, "
        "before it answered."
    )
    table.caption_justify = "left"
    table.add_column("event", no_wrap=True)
    headings = (
        "took\ns",
        "slots\nmoved",
        "at\nleast",
        "actors\nmoved",
        "pause:\nmoved",
        "pause:\nothers",
        "calls\nfailed",
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for event in tour.events:
        table.add_row(
            event.what,
            f"{(event.ended_ns - event.begun_ns) / 1e9:.1f}",
            str(event.moved),
            str(event.minimum),
            str(len(event.moved_actors)),
            str(pauses_ms(tour.calls, event, moved=True)) if event.moved_actors else "-",
            str(pauses_ms(tour.calls, event, moved=False)),
            str(len(failed_during(tour.calls, event))),
        )
    return table


def live_view(tour: Tour, started: float) -> Table:
    """What is going on."""
    recent = time.monotonic_ns() - 1_000_000_000
    rate = sum(call.ended_ns > recent for call in tour.calls[-20_000:])
    failed = sum(bool(call.failure) for call in tour.calls)
    table = Table(title=f"{time.monotonic() - started:4.0f} s  {tour.now}", title_justify="left", box=box.SIMPLE_HEAD)
    table.caption = f"{rate} calls/s, {len(tour.calls):,} calls, {failed} failed"
    for heading in ("host", "process", "slots"):
        table.add_column(heading, min_width=14)
    view = tour.router.view
    owned = Tally(owners(view)) if view is not None else Tally[int]()
    incarnations = {entry.name: key for key, entry in view.hosts.items()} if view is not None else {}
    for name, host in tour.hosts.items():
        member = f"/{incarnations[name]}" if name in incarnations else " (no member)"
        process = "-" if not host.alive else "frozen" if host.state() == "T" else "runs"
        table.add_row(f"{name}{member}", process, str(owned[incarnations.get(name, -1)]))
    return table


async def show_live(tour: Tour, console: Console) -> None:
    """Redraw until cancelled; without a terminal one line for each event."""
    started, last = time.monotonic(), ""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=5) as live:
            while True:
                live.update(live_view(tour, started))
                await asyncio.sleep(0.2)
    while True:
        if tour.now != last:
            last = tour.now
            console.print(f"{time.monotonic() - started:5.1f} s  {last} ({len(tour.calls)} calls so far)")
        await asyncio.sleep(0.1)


async def tour_of(directory: Path, console: Console) -> tuple[Tour, dict[str, int]]:
    """The whole run. Raises TimeoutError or ProcessError if it cannot be finished."""
    lease = PortLease(4)
    async with Cluster(directory=directory / "replicas", flags=FLAGS) as cluster:
        addresses = ",".join(cluster.addresses)
        hosts = {
            f"h{number}": HostProcess(f"h{number}", port, addresses, directory, namespace=NAMESPACE)
            for number, port in enumerate(lease.ports, start=1)
        }
        calls = CallSettings(timeout_ms=CALL_TIMEOUT_MS)
        async with Router(cluster=addresses, namespace=NAMESPACE, calls=calls) as router:
            tour = Tour(cluster, router, hosts)
            showing = asyncio.ensure_future(show_live(tour, console))
            try:
                await tour.run()
                return tour, await verify(tour)
            finally:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)
                for host in hosts.values():
                    host.kill()
                lease.release()


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.demo", description="a tour of callboard, on processes")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    options = parser.parse_args()
    console = Console(stderr=options.output == "json")
    with tempfile.TemporaryDirectory(prefix="callboard-demo-") as folder:
        try:
            tour, figures = asyncio.run(tour_of(Path(folder), console))
        except (TimeoutError, ProcessError) as error:
            console.print(f"the demo could not be finished: {error}")
            return 1
    if options.output == "json":
        rows = [
            {
                "event": event.what,
                "moved": event.moved,
                "minimum": event.minimum,
                "moved_pause_ms": pauses_ms(tour.calls, event, moved=True),
                "unmoved_pause_ms": pauses_ms(tour.calls, event, moved=False),
                "failed": len(failed_during(tour.calls, event)),
            }
            for event in tour.events
        ]
        failed = Tally(call.failure for call in tour.calls if call.failure)
        document = {"figures": figures, "events": rows, "failures": tour.failures, "failed calls": dict(failed)}
        print(json.dumps(document, indent=2))
    else:
        console.print(event_table(tour))
        summary = Table(title="calls and turns", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
        for what, count in figures.items():
            summary.add_row(what, f"{count:,}")
        console.print()
        console.print(summary)
        for failure in tour.failures:
            console.print(f"DID NOT HOLD: {failure}", style="bold red")
        if not tour.failures:
            console.print("held: nothing acknowledged was lost or run twice, and no actor ran in two places at once")
    return 1 if tour.failures else 0


if __name__ == "__main__":
    sys.exit(main())
