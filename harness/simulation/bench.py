"""How fast the simulator is: clusters of three replicas and ten hosts without faults, with callers that never stop.

Virtual time skips what is idle, so simulated over used time alone says little: `busy_percent` is the share of simulated
milliseconds in which something happened, and events per second is what the simulator can do. What is used is counted as
processor time of the one process, since other work on the machine is no matter of the simulator.
"""

from __future__ import annotations

import time

from attrs import evolve, frozen

from callboard.core.slot_records import HandoffSettings
from callboard.core.versions import Policy
from harness.simulation.actors import Result
from harness.simulation.engine_records import EngineTimes
from harness.simulation.kernel import MS
from harness.simulation.plan import QUICK, NamespacePlan, Plan
from harness.simulation.world import World

HOSTS = 10
CALLERS = 10
WARM_UP_MS = 2000


@frozen
class Row:
    """One cluster."""

    what: str
    calls_per_simulated_s: float
    events_per_cpu_s: float
    simulated_per_cpu: float
    busy_percent: float


def measure(simulated_s: int) -> list[Row]:
    """With the server's default times, and with the quick ones that campaigns use."""
    return [
        _row("default times (lease 6 s, tick 500 ms)", HandoffSettings(), 10_000, EngineTimes(), simulated_s),
        _row("times of campaigns (lease 600 ms, tick 50 ms)", QUICK, 50_000, EngineTimes(), simulated_s),
    ]


def _row(what: str, settings: HandoffSettings, rate_error_ppm: int, engine: EngineTimes, simulated_s: int) -> Row:
    namespace = NamespacePlan("shop", Policy.EXCLUSIVE, ("cart", "user"), HOSTS, settings)
    plan = Plan(
        seed=1, namespaces=(namespace,), faults=(), callers=CALLERS, think_ms=(20, 60), slot_bits=8, actors=200,
        long_ms=2 * settings.drain_ms + 150, rate_error_ppm=rate_error_ppm,
        engine=evolve(engine, compact_entries=1000), silence_ms=10_000,
    )  # fmt: skip
    world = World(plan)
    world.kernel.run_until(WARM_UP_MS * MS)
    events, calls = world.kernel.events, _calls(world)
    busy = 0
    began = time.process_time()
    for _ in range(simulated_s * 1000):
        before = world.kernel.events
        world.kernel.run_until(world.kernel.now_us + MS)
        busy += world.kernel.events > before
    cpu_s = time.process_time() - began
    return Row(
        what=what,
        calls_per_simulated_s=(_calls(world) - calls) / simulated_s,
        events_per_cpu_s=(world.kernel.events - events) / cpu_s,
        simulated_per_cpu=simulated_s / cpu_s,
        busy_percent=100 * busy / (simulated_s * 1000),
    )


def _calls(world: World) -> int:
    return sum(caller.outcomes[Result.OK] for caller in world.callers)
