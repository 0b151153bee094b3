"""What a campaign runs: stored scenarios and drawn schedules by turns, over engines, policies, sizes and faults."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from attrs import evolve, frozen

from harness.faults.exploration import draw
from harness.faults.runner import ALL_WORKLOADS
from harness.faults.schedules import GROUPS, Schedule, load, scenarios

EACH_S = 40.0
FIRST_SEED = 1
ENGINES = ("pysyncobj", "pysyncobj", "etcd", "pysyncobj")
POLICIES = ("exclusive", "exclusive", "eventual")
SIZES = ((3, 3), (5, 4), (3, 4), (1, 3), (3, 3))
"""Replicas and hosts. The lengths of these cycles have no common divisor, so that all combinations come."""
ENGINE_OF = {"etcd": "etcd", "disk": "pysyncobj"}
"""Groups of faults that one engine only can have."""
DRAWN_PER_SCENARIO = 2


@frozen
class Choices:
    """What the user fixed; None and empty: the plan goes through all of them."""

    seed: int = FIRST_SEED
    each_s: float = EACH_S
    engine: str | None = None
    policy: str | None = None
    replicas: int | None = None
    hosts: int | None = None
    workloads: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def fixed(self) -> bool:
        """Whether something was asked for that stored scenarios need not have."""
        return any((self.engine, self.policy, self.replicas, self.hosts, self.workloads, self.faults))


@frozen
class Planned:
    """One run of a campaign."""

    number: int
    schedule: Schedule

    @property
    def folder(self) -> str:
        """Where it leaves what it recorded, below the campaign's directory."""
        return f"{self.number:03d}-{self.schedule.name}"


def plan(choices: Choices) -> Iterator[Planned]:
    """Runs without end, the same for the same choices. Raises ScheduleError."""
    drawn = _drawn(choices)
    stored: Iterator[Schedule] = iter(()) if choices.fixed else itertools.cycle(map(load, scenarios().values()))
    for number in itertools.count(1):
        if (number - 1) % (DRAWN_PER_SCENARIO + 1) == 0:
            scenario = next(stored, None)
            if scenario is not None:
                yield Planned(number, scenario)
                continue
        yield Planned(number, next(drawn))


def _drawn(choices: Choices) -> Iterator[Schedule]:
    focuses = [name for name in ("", *GROUPS) if choices.engine in {None, ENGINE_OF.get(name, choices.engine)}]
    for step, seed in enumerate(itertools.count(choices.seed)):
        # Every second run draws from all faults, the others from one group each.
        focus = focuses[(step // 2) % len(focuses)] if step % 2 else ""
        allowed = choices.faults or ((focus,) if focus else ())
        settings = settings_of(choices, step)
        if focus in ENGINE_OF and not choices.faults:
            settings |= {"engine": ENGINE_OF[focus], "replicas": choices.replicas or 3}
        schedule = draw(seed, choices.each_s, allowed=allowed, settings=settings)
        yield evolve(schedule, name=f"seed-{seed}" + (f"-{focus}" if focus and not choices.faults else ""))


def settings_of(choices: Choices, step: int) -> dict[str, Any]:
    """The cluster of the drawn run number `step`."""
    replicas, hosts = SIZES[step % len(SIZES)]
    return {
        "engine": choices.engine or ENGINES[step % len(ENGINES)],
        "policy": choices.policy or POLICIES[step % len(POLICIES)],
        "replicas": choices.replicas or replicas,
        "hosts": choices.hosts or hosts,
        "workloads": list(choices.workloads or ALL_WORKLOADS),
    }
