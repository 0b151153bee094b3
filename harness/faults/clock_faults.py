"""Faults of clocks: a host whose clock runs faster or slower than the machine's, by libfaketime.

Its bound is `rate_error_ppm` of the namespace. Within it nothing may go wrong; far beyond it something must, and that
is the control that shows that the checkers would see it.
"""

from __future__ import annotations

import os
from pathlib import Path

from attrs import define

from harness.faults.nemeses import World, kind, number
from harness.faults.observers import trace_lines
from harness.faults.process_faults import OnProcesses
from harness.processes import ProcessError, wait_until

LIBRARY = "faketime/libfaketime.so.1"
PLACES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib")
NAMED = "CALLBOARD_LIBFAKETIME"
MEASURED_FROM_NS = 2_000_000_000
MEASURE_DEADLINE_S = 40.0
TOLERANCE = 0.3


def library() -> Path:
    """Where libfaketime is. Raises ProcessError."""
    places = [os.environ.get(NAMED, ""), *(f"{place}/{LIBRARY}" for place in PLACES)]
    for place in places:
        if place and Path(place).exists():
            return Path(place)
    raise ProcessError(f"no libfaketime: apt-get install libfaketime, or set {NAMED} to its path")


@kind("host_clock_rate")
@define(eq=False)
class HostClockRate(OnProcesses):
    """A host is started again with a clock that is `ppm` parts per million too fast (or too slow, if negative)."""

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        rate = 1 + number(self.spec, "ppm", 9000) / 1_000_000
        for name in self.names:
            host = world.cluster.hosts[name]
            await host.kill()
            host.environment = {"LD_PRELOAD": str(library()), "FAKETIME": f"+0 x{rate:.6f}"}
            host.start()
            world.note_process(name, "started")

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""
        wanted = number(self.spec, "ppm", 9000)
        measured: dict[str, int] = {}

        async def known() -> bool:
            for name in self.names:
                measured.update(_measured(world.cluster.hosts[name].trace_path, name))
            return len(measured) == len(self.names)

        await wait_until(known, deadline_s=MEASURE_DEADLINE_S, what="two readings of the host's clock")
        if any(abs(ppm - wanted) > TOLERANCE * abs(wanted) for ppm in measured.values()):
            self.problem = f"measured {measured} ppm"
            return ""
        return ", ".join(f"the clock of {name} is off by {ppm} ppm" for name, ppm in measured.items())

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        for name in self.names:
            host = world.cluster.hosts[name]
            host.environment = {}
            await host.kill()
        await self.start_again(world)


def _measured(trace: Path, name: str) -> dict[str, int]:
    lines = [line for line in trace_lines(trace) if line["kind"] == "clock"]
    if len(lines) < 2 or lines[-1]["real_ns"] - lines[0]["real_ns"] < MEASURED_FROM_NS:
        return {}
    # Two processes may have written the trace; the last pairs are of the present one.
    last = [line for line in lines if lines[-1]["real_ns"] - line["real_ns"] <= 2 * MEASURED_FROM_NS]
    real = last[-1]["real_ns"] - last[0]["real_ns"]
    return {name: round(((last[-1]["host_ns"] - last[0]["host_ns"]) / real - 1) * 1_000_000)} if real else {}
