"""Faults of clocks: a host whose clock runs faster or slower than the machine's, by libfaketime.

Its bound is `rate_error_ppm` of the namespace. Within it nothing may go wrong; far beyond it something must, and that
is the control that shows that the checkers would see it.
"""

from __future__ import annotations

import os
from pathlib import Path

from attrs import Factory, define

from harness.faults.clock import real_ns
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

    started_ns: dict[str, int] = Factory(dict)

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        rate = 1 + number(self.spec, "ppm", 9000) / 1_000_000
        for name in self.names:
            host = world.cluster.hosts[name]
            await host.kill()
            host.environment = {"LD_PRELOAD": str(library()), "FAKETIME": f"+0 x{rate:.6f}"}
            self.started_ns[name] = real_ns()
            host.start()
            world.note_process(name, "started")

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""
        wanted = number(self.spec, "ppm", 9000)
        measured: dict[str, int] = {}

        async def known() -> bool:
            for name in self.names:
                ppm = measured_ppm(world.cluster.hosts[name].trace_path, self.started_ns[name])
                if ppm is not None:
                    measured[name] = ppm
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


def measured_ppm(trace: Path, since_ns: int) -> int | None:
    """How far off the clock of the process is that was started at `since_ns`; None until it has told enough.

    Earlier processes of the host wrote into the same trace, perhaps by other clocks.
    """
    lines = [line for line in trace_lines(trace) if line["kind"] == "clock" and line["real_ns"] >= since_ns]
    real: int = lines[-1]["real_ns"] - lines[0]["real_ns"] if lines else 0
    if real < MEASURED_FROM_NS:
        return None
    by_host: int = lines[-1]["host_ns"] - lines[0]["host_ns"]
    return round((by_host / real - 1) * 1_000_000)
