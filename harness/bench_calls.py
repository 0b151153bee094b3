"""`python -m harness.bench_calls`: lookups, calls within a process and between processes, and pauses of a rebalance.

One replica (memory engine), host processes with an actor that only answers, and this process, which hosts too and
calls. Actors with ids whose owner is this process give the local figures, the others the remote ones, in one run.
Everything shares the processors of this machine. State is not touched: its price is that of the store.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import attrs
from attrs import define, frozen
from rich import box
from rich.console import Console
from rich.table import Table

from callboard.core.slot_records import slot_of
from callboard.core.table_delta import TableView
from callboard.host import Actor, CallError, Client, Host, Router, SqliteStore, method
from harness.processes import HOST, LEASH, REPOSITORY, Cluster, PortLease, ProcessError, wait_until

NAMESPACE = "bench"
FLAGS = ("--lease=4s", "--drain=500ms", "--margin=200ms", "--tick=200ms", "--failure-timeout=5s", "--slot-bits=10")
DEADLINE_S = 60.0
CALLERS = 64
LOOKUPS = 10_000
AIM_LOOKUPS_PER_S = 1_000_000
ACTORS = 64
"""In each place. One caller calls one actor at a time."""


class Echo(Actor):
    """Answers."""

    @method
    async def echo(self, text: str) -> str:
        """What it was told."""
        return text


@frozen
class Calls:
    """Calls of one kind. Latencies are of one call at a time, the rate is with `CALLERS` callers at once."""

    where: str
    calls_per_s: float
    p50_ms: float
    p99_ms: float


@frozen
class Lookups:
    """From an actor to its owner, by the table that a host or a router has. Per second of one processor's time."""

    who: str
    per_s: float


@frozen
class Pause:
    """Longest time without an answer of any one actor, while nothing happened and while a host joined."""

    actors: str
    count: int
    quiet_ms: float
    join_ms: float
    failed: int


@define
class Report:
    """All figures."""

    processors: int
    lookups: list[Lookups] = attrs.Factory(list)
    calls: list[Calls] = attrs.Factory(list)
    pauses: list[Pause] = attrs.Factory(list)


# -- host processes --------------------------------------------------------------------------------------


async def serve(name: str, listen: str, cluster: str, store: str) -> int:
    """What a host process does."""
    host = Host(
        listen=listen, cluster=cluster, actors=[Echo], name=name, namespace=NAMESPACE, store=SqliteStore(Path(store))
    )
    await host.start()
    await host.serve_until_signal()
    await host.leave()
    return 0


def start_host(name: str, port: int, cluster: str, store: Path) -> subprocess.Popen[bytes]:
    """A host process; it dies with this one."""
    return subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), sys.executable, "-m", "harness.bench_calls"),
            *("--serve", name, f"{HOST}:{port}", cluster, str(store)),
        ],
        stdin=subprocess.DEVNULL,
        env={"PYTHONPATH": f"{REPOSITORY / 'impl'}{os.pathsep}{REPOSITORY}", "LANG": "C.UTF-8"},
    )


# -- lookups ---------------------------------------------------------------------------------------------


def measure_lookups(who: str, client: Client, seconds: float) -> Lookups:
    """Of actors that are all different, and known to nobody yet: the median of many rounds."""
    numbers, rounds_s = itertools.count(), list[float]()
    while sum(rounds_s) < seconds:
        ids = [f"customer-{next(numbers)}" for _ in range(LOOKUPS)]
        begun = time.thread_time()
        for actor_id in ids:
            client.owner("Echo", actor_id)
        rounds_s.append(time.thread_time() - begun)
    return Lookups(who, LOOKUPS / statistics.median(rounds_s))


# -- calls -----------------------------------------------------------------------------------------------


def owner(view: TableView, actor_id: str) -> int:
    """Incarnation that owns an actor."""
    return view.tables["Echo"].owners[slot_of("Echo", actor_id, view.slot_bits)]


async def measure_calls(where: str, host: Host, ids: Sequence[str], seconds: float) -> Calls:
    """Latency first, then rate; every actor has been called before."""
    actors = [host.client.actor(Echo, actor_id) for actor_id in ids]
    for actor in actors:
        await actor.echo("warm")
    taken: list[float] = []
    end = time.perf_counter() + seconds
    for actor in itertools.cycle(actors):
        begun = time.perf_counter()
        if begun > end:
            break
        await actor.echo("one at a time")
        taken.append(time.perf_counter() - begun)
    taken.sort()
    made = 0
    begun = time.perf_counter()
    end = begun + seconds

    async def call(actor: Echo) -> None:
        nonlocal made
        while time.perf_counter() < end:
            await actor.echo("many at once")
            made += 1

    await asyncio.gather(*(call(actor) for actor in actors[:CALLERS]))
    rate = made / (time.perf_counter() - begun)
    return Calls(where, rate, taken[len(taken) // 2] * 1000, taken[len(taken) * 99 // 100] * 1000)


# -- pauses ----------------------------------------------------------------------------------------------


@define(eq=False)
class Steady:
    """Callers that call one actor each, again and again."""

    router: Router
    ids: Sequence[str]
    answered: dict[str, list[float]] = attrs.Factory(dict)
    failed: dict[str, int] = attrs.Factory(dict)

    async def call(self, actor_id: str) -> None:
        """One caller, until it is cancelled."""
        actor = self.router.client.actor(Echo, actor_id)
        while True:
            try:
                await actor.echo("steady")
            except CallError:
                self.failed[actor_id] = self.failed.get(actor_id, 0) + 1
            self.answered.setdefault(actor_id, []).append(time.perf_counter())
            await asyncio.sleep(0.005)

    def longest_ms(self, ids: Sequence[str], begun: float, ended: float) -> float:
        """Longest gap between two answers of one of these actors that touches the interval."""
        gaps = (
            later - earlier
            for actor_id in ids
            for earlier, later in pairwise(self.answered.get(actor_id, ()))
            if later > begun and earlier < ended
        )
        return max(gaps, default=0.0) * 1000


@asynccontextmanager
async def calling(steady: Steady) -> AsyncIterator[None]:
    """All callers call."""
    tasks = [asyncio.ensure_future(steady.call(actor_id)) for actor_id in steady.ids]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def measure_pauses(router: Router, join: list[str], cluster: str, store: Path, seconds: float) -> list[Pause]:
    """Quiet for a while, then a host joins."""
    steady = Steady(router, [f"steady-{number}" for number in range(ACTORS)])
    name, port = join
    async with calling(steady):
        await asyncio.sleep(seconds)
        before = router.view
        assert before is not None
        quiet = (time.perf_counter() - seconds / 2, time.perf_counter())
        process = start_host(name, int(port), cluster, store)
        try:
            began = time.perf_counter()
            await wait_until(lambda: has_hosts(router, len(before.hosts) + 1), deadline_s=DEADLINE_S, what="the join")
            await asyncio.sleep(seconds)
            ended, after = time.perf_counter(), router.view
            assert after is not None
        finally:
            process.kill()
            process.wait()
    moved = [each for each in steady.ids if owner(before, each) != owner(after, each)]
    stayed = [each for each in steady.ids if each not in moved]
    return [
        Pause(
            name,
            len(ids),
            steady.longest_ms(ids, *quiet),
            steady.longest_ms(ids, began, ended),
            sum(steady.failed.get(each, 0) for each in ids),
        )
        for name, ids in (("that moved", moved), ("that stayed", stayed))
    ]


async def has_hosts(tables: Host | Router, count: int) -> bool:
    """Whether the table has so many hosts."""
    return tables.view is not None and len(tables.view.hosts) == count


# -- the whole -------------------------------------------------------------------------------------------


async def measure(directory: Path, seconds: float, say: Console) -> Report:
    """Everything. Raises TimeoutError or ProcessError if it cannot be finished."""
    report = Report(os.cpu_count() or 1)
    lease = PortLease(3)
    store = directory / "state.db"
    async with Cluster(1, directory=directory / "replicas", engine="memory", flags=FLAGS) as cluster:
        addresses = ",".join(cluster.addresses)
        listen = f"{HOST}:{lease.ports[0]}"
        other = start_host("other", lease.ports[1], addresses, store)
        try:
            async with Host(
                listen=listen, cluster=addresses, actors=[Echo], name="here", namespace=NAMESPACE,
                store=SqliteStore(store),
            ) as host:  # fmt: skip
                await wait_until(lambda: has_hosts(host, 2), deadline_s=DEADLINE_S, what="two hosts")
                view, here = host.view, host.session.machine.incarnation
                assert view is not None
                ids = [f"actor-{number}" for number in range(4 * ACTORS)]
                local = [each for each in ids if owner(view, each) == here][:ACTORS]
                remote = [each for each in ids if owner(view, each) != here][:ACTORS]
                say.print("lookups ...")
                report.lookups.append(measure_lookups("host", host.client, seconds / 4))
                for where, chosen in (("local", local), ("remote", remote)):
                    say.print(f"{where} calls ...")
                    report.calls.append(await measure_calls(where, host, chosen, seconds))
                say.print("a rebalance ...")
                async with Router(cluster=addresses, namespace=NAMESPACE) as router:
                    await wait_until(lambda: has_hosts(router, 2), deadline_s=DEADLINE_S, what="the router's table")
                    report.lookups.append(measure_lookups("router", router.client, seconds / 4))
                    third = ["third", str(lease.ports[2])]
                    report.pauses.extend(await measure_pauses(router, third, addresses, store, seconds))
        finally:
            other.kill()
            other.wait()
            lease.release()
    return report


def show(report: Report, console: Console) -> None:
    """For people."""
    table = Table(title="lookups, each of another actor", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("in a")
    table.add_column(f"a second, of one processor (aim: above {AIM_LOOKUPS_PER_S:,})", justify="right")
    for lookups in report.lookups:
        style = "bold red" if lookups.per_s < AIM_LOOKUPS_PER_S else None
        table.add_row(lookups.who, f"{lookups.per_s:,.0f}", style=style)
    console.print(table)
    table = Table(title=f"calls ({report.processors} processors)", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("calls", f"calls/s, {CALLERS} at once", "p50 ms, one at a time", "p99 ms"):
        table.add_column(heading, justify="left" if heading == "calls" else "right")
    for calls in report.calls:
        table.add_row(calls.where, f"{calls.calls_per_s:,.0f}", f"{calls.p50_ms:.3f}", f"{calls.p99_ms:.3f}")
    console.print(table)
    table = Table(title="longest pause of one actor", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("actors", "count", "quiet: ms", "a host joins: ms", "calls failed"):
        table.add_column(heading, justify="left" if heading == "actors" else "right")
    for pause in report.pauses:
        table.add_row(
            pause.actors, str(pause.count), f"{pause.quiet_ms:.0f}", f"{pause.join_ms:.0f}", str(pause.failed)
        )
    console.print(table)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.bench_calls", description="calls/s, latency, pauses")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each figure")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    parser.add_argument("--serve", nargs=4, metavar=("NAME", "LISTEN", "CLUSTER", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return asyncio.run(serve(*options.serve))
    console = Console(stderr=options.output == "json")
    with tempfile.TemporaryDirectory(prefix="callboard-bench-") as folder:
        try:
            report = asyncio.run(measure(Path(folder), options.seconds, console))
        except (TimeoutError, ProcessError) as error:
            console.print(f"the benchmark could not be finished: {error}")
            return 1
    if options.output == "json":
        print(json.dumps(attrs.asdict(report), indent=2))
    else:
        show(report, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
