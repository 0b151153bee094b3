"""`make bench`: 1,000 simulated sidecars join one cluster; how long until all hold the same table, and at what cost.

Measured twice: each sidecar hosts one of 10 actor types ("1 type of 10 each"), and each hosts all 10. Every sidecar
has its own TCP connection and acknowledges every order, as daprd 1.18 does; replicas and sidecars share the
processors of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
from attrs import define, field, frozen
from rich.console import Console
from rich.table import Table

from harness.processes import Cluster, ProcessError, ServerProcess, wait_until
from harness.sidecars import Fleet, Generation, SidecarSpec

NAMESPACE = "default"
ACTOR_TYPES = tuple(f"actor-type-{number:02}" for number in range(10))
DEADLINE_S = 300.0

ALL_AT_ONCE = "all at once"
NO_AIM = float("inf")
AIM_ALL_S = 30.0
AIM_ONE_S = 5.0
AIM_RSS_MB = 300.0


@frozen
class Workload:
    """Which actor types the sidecar with a given number hosts."""

    name: str
    types_of: Callable[[int], tuple[str, ...]]


WORKLOADS = {
    "one": Workload("1 type of 10 each", lambda number: (ACTOR_TYPES[number % len(ACTOR_TYPES)],)),
    "all": Workload("all 10 types each", lambda _number: ACTOR_TYPES),
}


@frozen
class Step:
    """One measured join. Processor time is user and system together, in seconds."""

    seconds: float
    rounds: int
    leader_cpu_s: float
    sidecars_cpu_s: float
    received_bytes_per_sidecar: int
    streams_lost: int
    leader_changed: bool
    """If so, what is said of the leader is said of the first one."""


@define
class Measurement:
    """Everything measured for one workload."""

    workload: str
    sidecars: int
    replicas: int
    engine: str
    generation: str
    processors: int
    joined: dict[str, Step] = field(factory=dict)
    table_bytes: int = 0
    table_bytes_per_host: float = 0.0
    leader_rss_mb: float = 0.0
    leader_peak_rss_mb: float = 0.0
    followers_rss_mb: list[float] = field(factory=list)


def spec_of(number: int, workload: Workload) -> SidecarSpec:
    """The sidecar with this number."""
    name = f"10.1.{number // 250}.{number % 250 + 1}:50002"
    return SidecarSpec(name, f"app-{number}", workload.types_of(number), NAMESPACE)


def peak_rss_mb(pid: int) -> float:
    """Most resident memory that a process ever had, in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(f"/proc/{pid}/status has no VmHWM")


async def _rounds(leader: ServerProcess) -> int:
    return int((await leader.metrics()).get(("callboard_rounds_total", NAMESPACE), 0))


async def _idle(leader: ServerProcess) -> bool:
    """Whether no round waits for anybody: the last sidecar may hold its table before its last word is counted."""
    return (await leader.metrics()).get(("callboard_round_hosts_waiting", NAMESPACE), 0) == 0


async def _measured(cluster: Cluster, fleet: Fleet, start: Callable[[], None]) -> Step:
    """Let sidecars start and measure until all sidecars hold the right table."""
    leader = await cluster.leader()
    await wait_until(partial(_idle, leader), deadline_s=DEADLINE_S, what="the end of earlier rounds")
    rounds, lost = await _rounds(leader), fleet.total("lost")
    received = sum(sidecar.received_bytes for sidecar in fleet.sidecars)
    leader_cpu, own_cpu = leader.cpu_seconds(), time.process_time()
    start()
    seconds = await fleet.wait_converged(deadline_s=DEADLINE_S)
    step_cpu, step_own = leader.cpu_seconds() - leader_cpu, time.process_time() - own_cpu
    received = sum(sidecar.received_bytes for sidecar in fleet.sidecars) - received
    same_leader = await cluster.leader() is leader
    if same_leader:
        await wait_until(partial(_idle, leader), deadline_s=DEADLINE_S, what="the end of the last round")
    rounds = await _rounds(leader) - rounds
    return Step(
        round(seconds, 2),
        rounds,
        round(step_cpu, 2),
        round(step_own, 2),
        received // len(fleet.sidecars),
        fleet.total("lost") - lost,
        not same_leader,
    )


async def measure(workload: Workload, arguments: argparse.Namespace, say: Callable[[str], None]) -> Measurement:
    """All joining at once, then one joining the others, on a fresh cluster."""
    count, generation = arguments.sidecars, Generation(arguments.generation)
    measurement = Measurement(
        workload.name, count, arguments.replicas, arguments.engine, generation, os.cpu_count() or 0
    )
    async with (
        Cluster(arguments.replicas, arguments.engine) as cluster,
        Fleet(cluster.addresses) as fleet,
    ):

        def join(*numbers: int) -> None:
            for number in numbers:
                fleet.add(spec_of(number, workload), generation)

        one_more = f"one joins {count - 1}"
        say(f"{workload.name}: {count} sidecars join at once")
        measurement.joined[ALL_AT_ONCE] = await _measured(cluster, fleet, partial(join, *range(count)))
        say(f"  {measurement.joined[ALL_AT_ONCE]}")
        await fleet.stop(fleet.sidecars[-1])
        await fleet.wait_converged(deadline_s=DEADLINE_S)
        say(f"{workload.name}: {one_more}")
        measurement.joined[one_more] = await _measured(cluster, fleet, partial(join, count))
        say(f"  {measurement.joined[one_more]}")
        leader = await cluster.leader()
        metrics = await leader.metrics()
        measurement.table_bytes = int(metrics.get(("callboard_table_bytes", NAMESPACE), 0))
        measurement.table_bytes_per_host = round(measurement.table_bytes / count, 1)
        measurement.leader_rss_mb = round(leader.memory_bytes() / 1e6, 1)
        measurement.leader_peak_rss_mb = round(peak_rss_mb(leader.pid), 1)
        others = [server for server in cluster.servers if server is not leader]
        measurement.followers_rss_mb = [round(server.memory_bytes() / 1e6, 1) for server in others]
    return measurement


def tables_of(measurements: list[Measurement]) -> Table:
    """The figures, for people. Those beyond an aim are marked."""
    first = measurements[0]
    title = (
        f"{first.sidecars} sidecars of daprd {first.generation}, {first.replicas} replicas on {first.engine}, "
        f"{first.processors} processors"
    )
    table = Table(title=title)
    table.add_column("")
    for measurement in measurements:
        table.add_column(measurement.workload, justify="right")

    table.add_column("aim: under", justify="right")
    for heading, unit, aim, values in rows_of(measurements):
        cells = [f"{value:,} {unit}" if isinstance(value, int) else f"{value:,.1f} {unit}" for value in values]
        marked = [f"[bold red]{cell}[/]" if value > aim else cell for cell, value in zip(cells, values, strict=True)]
        table.add_row(heading, *marked, "" if aim == NO_AIM else f"{aim:g} {unit}")
    return table


def rows_of(measurements: list[Measurement]) -> list[tuple[str, str, float, list[float]]]:
    """Heading, unit, aim and values of each line."""
    rows: list[tuple[str, str, float, list[float]]] = []
    for name in measurements[0].joined:
        steps = [measurement.joined[name] for measurement in measurements]
        aim = AIM_ALL_S if name == ALL_AT_ONCE else AIM_ONE_S
        rows += [
            (f"{name}: same table after", "s", aim, [step.seconds for step in steps]),
            ("  rounds", "", NO_AIM, [step.rounds for step in steps]),
            ("  processor time of the leader", "s", NO_AIM, [step.leader_cpu_s for step in steps]),
            ("  processor time of all sidecars", "s", NO_AIM, [step.sidecars_cpu_s for step in steps]),
            ("  received by each sidecar", "kB", NO_AIM, [step.received_bytes_per_sidecar / 1e3 for step in steps]),
            ("  streams lost", "", NO_AIM, [step.streams_lost for step in steps]),
            ("  changes of leader", "", NO_AIM, [int(step.leader_changed) for step in steps]),
        ]
    followers = [max(measurement.followers_rss_mb, default=0.0) for measurement in measurements]
    rows += [
        ("table on the wire", "kB", NO_AIM, [measurement.table_bytes / 1e3 for measurement in measurements]),
        ("  for each host", "B", NO_AIM, [measurement.table_bytes_per_host for measurement in measurements]),
        ("memory of the leader, at its peak", "MB", AIM_RSS_MB, [m.leader_peak_rss_mb for m in measurements]),
        ("  at the end", "MB", NO_AIM, [measurement.leader_rss_mb for measurement in measurements]),
        ("  of the largest follower", "MB", NO_AIM, followers),
    ]
    return rows


async def run(arguments: argparse.Namespace) -> int:
    """Measure all workloads; returns the exit code."""
    progress = Console(stderr=True)
    names = list(WORKLOADS) if arguments.workload == "both" else [arguments.workload]
    say = partial(progress.print, style="dim", highlight=False)
    measurements = [await measure(WORKLOADS[name], arguments, say) for name in names]
    if arguments.output == "json":
        print(json.dumps([attrs.asdict(measurement) for measurement in measurements], indent=2))
    else:
        Console().print(tables_of(measurements))
    return 0


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.bench_sidecars", description="sidecars joining a cluster")
    parser.add_argument("--sidecars", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=3, choices=(1, 3, 5))
    parser.add_argument("--engine", default="pysyncobj")
    parser.add_argument("--generation", default=Generation.V1_18.value, choices=[g.value for g in Generation])
    parser.add_argument("--workload", default="both", choices=[*WORKLOADS, "both"])
    parser.add_argument("-o", "--output", default="table", choices=("table", "json"))
    arguments = parser.parse_args()
    if arguments.sidecars < 2:
        parser.error(f"--sidecars: at least 2 are needed, not {arguments.sidecars}")
    try:
        return asyncio.run(run(arguments))
    except (TimeoutError, ProcessError) as error:
        print(f"bench: {error}", *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
