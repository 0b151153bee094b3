"""How fast the simulator is: clusters of three replicas and ten hosts without faults, with callers that never stop.

Virtual time skips what is idle, so simulated over used time alone says little: `busy_percent` is the share of simulated
milliseconds in which something happened, and `busy_per_cpu` counts only those. What is used is processor time of the
one process, since other work on the machine is no matter of the simulator; the best of several equal runs is taken,
since other work slows memory and caches down all the same.
"""

from __future__ import annotations

import time
from pathlib import Path

from attrs import evolve, frozen

from callboard.core.slot_records import HandoffSettings
from callboard.core.versions import Policy
from harness.simulation.actors import Result
from harness.simulation.engine_records import EngineTimes
from harness.simulation.kernel import MS
from harness.simulation.plan import QUICK, NamespacePlan, Plan
from harness.simulation.record import replace_between
from harness.simulation.world import World

HOSTS = 10
CALLERS = 10
WARM_UP_MS = 2000
RUNS = 3
BEGIN = "<!-- simulation bench -->\n"


@frozen
class Row:
    """One cluster."""

    what: str
    calls_per_simulated_s: float
    events_per_cpu_s: float
    simulated_per_cpu: float
    busy_percent: float
    busy_per_cpu: float


def measure(simulated_s: int) -> list[Row]:
    """With the server's default times, and with the quick ones that campaigns use."""
    return [
        _row("default times (lease 6 s, tick 500 ms)", HandoffSettings(), 10_000, EngineTimes(), simulated_s),
        _row("times of campaigns (lease 600 ms, tick 50 ms)", QUICK, 50_000, EngineTimes(), simulated_s),
    ]


def write_bench(readme: Path, rows: list[Row], simulated_s: int) -> None:
    """Put the table into a file, between its marks. Raises ValueError if it has none."""
    columns = (
        "cluster", "calls per simulated s", "events per processor s", "simulated over processor time", "busy ms",
        "busy ms only, over processor time",
    )  # fmt: skip
    lines = [
        f"`python -m harness.simulation bench --simulated-s {simulated_s} --record`, one process:",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    lines += [
        f"| {row.what} | {row.calls_per_simulated_s:.0f} | {row.events_per_cpu_s:,.0f} | {row.simulated_per_cpu:.0f} x"
        f" | {row.busy_percent:.0f} % | {row.busy_per_cpu:.0f} x |"
        for row in rows
    ]
    replace_between(readme, BEGIN, "\n".join(lines) + "\n")


def _row(what: str, settings: HandoffSettings, rate_error_ppm: int, engine: EngineTimes, simulated_s: int) -> Row:
    namespace = NamespacePlan("shop", Policy.EXCLUSIVE, ("cart", "user"), HOSTS, settings)
    plan = Plan(
        seed=1, namespaces=(namespace,), faults=(), callers=CALLERS, think_ms=(20, 60), slot_bits=8, actors=200,
        long_ms=2 * settings.drain_ms + 150, rate_error_ppm=rate_error_ppm,
        engine=evolve(engine, compact_entries=1000), silence_ms=10_000,
    )  # fmt: skip
    cpu_s = min(_used_s(plan, simulated_s) for _ in range(RUNS))
    world = _warm(plan)
    events, calls, busy = world.kernel.events, _calls(world), 0
    for _ in range(simulated_s * 1000):
        before = world.kernel.events
        world.kernel.run_until(world.kernel.now_us + MS)
        busy += world.kernel.events > before
    return Row(
        what=what,
        calls_per_simulated_s=(_calls(world) - calls) / simulated_s,
        events_per_cpu_s=(world.kernel.events - events) / cpu_s,
        simulated_per_cpu=simulated_s / cpu_s,
        busy_percent=busy / (simulated_s * 10),
        busy_per_cpu=busy / (1000 * cpu_s),
    )


def _warm(plan: Plan) -> World:
    world = World(plan)
    world.kernel.run_until(WARM_UP_MS * MS)
    return world


def _used_s(plan: Plan, simulated_s: int) -> float:
    """Processor time of one run; the same run every time."""
    world = _warm(plan)
    began = time.process_time()
    world.kernel.run_until(world.kernel.now_us + simulated_s * 1000 * MS)
    return time.process_time() - began


def _calls(world: World) -> int:
    return sum(caller.outcomes[Result.OK] for caller in world.callers)
