"""What a campaign runs: stored scenarios and drawn schedules by turns, over engines, policies, sizes and faults.

The same choices give the same runs. No scenario comes a second time before each has come once, and every second drawn
schedule is made of the kinds of faults that were planned least so far, so that none is left out for long.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve, frozen

from harness.faults.exploration import AMONG_REPLICAS, draw
from harness.faults.nemeses import KINDS
from harness.faults.network_faults import CONSENSUS_CUTS
from harness.faults.runner import AFTER_S, ALL_WORKLOADS, BEFORE_S
from harness.faults.schedules import GROUPS, LANES, Schedule, lane_of, load, scenarios

EACH_S = 40.0
FIRST_SEED = 1
ENGINES = ("pysyncobj", "pysyncobj", "etcd", "pysyncobj")
POLICIES = ("exclusive", "exclusive", "eventual")
SIZES = ((3, 3), (5, 4), (3, 4), (1, 3), (3, 3))
"""Replicas and hosts. The lengths of these cycles have no common divisor, so that all combinations come."""
ENGINE_OF = {
    **dict.fromkeys(GROUPS["etcd"], "etcd"),
    **dict.fromkeys((*GROUPS["disk"], *CONSENSUS_CUTS), "pysyncobj"),
}
"""Kinds of faults that one engine only can have."""
SCENARIOS_ONLY = frozenset({"upgrade", "partition_named", "sidecar_silent", "sidecar_storm", "pause_in_round"})
"""Kinds that need more than a draw: a cluster of an earlier feature level, names of ends, rounds of sidecars."""
SETTLE_S = 6.0
"""About what a run needs until everything works again, for estimates."""
KINDS_PER_LANE = 2
"""So many of the least planned kinds of each other lane are drawn beside the very least planned one."""


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

    @property
    def estimated_s(self) -> float:
        """About how long its cluster is live."""
        return BEFORE_S + self.schedule.duration_s + SETTLE_S + AFTER_S


def plan(choices: Choices) -> Iterator[Planned]:
    """Runs without end, the same for the same choices. Raises ScheduleError."""
    counts: Counter[str] = Counter()
    drawn, stored = _drawn(choices, counts), _stored(choices)
    for number in itertools.count(1):
        scenario = next(stored, None) if number % 2 else None
        schedule = scenario or next(drawn)
        counts.update(fault.kind for fault in schedule.faults)
        yield Planned(number, schedule)


def within(choices: Choices, live_s: float, runs: int | None = None) -> list[Planned]:
    """What a campaign of so much live cluster time will run, by estimates. Raises ScheduleError."""
    found: list[Planned] = []
    used_s = 0.0
    for planned in plan(choices):
        if used_s >= live_s or (runs is not None and len(found) >= runs):
            break
        found.append(planned)
        used_s += planned.estimated_s
    return found


def _stored(choices: Choices) -> Iterator[Schedule]:
    """Scenarios in a drawn order, over and over. None if the cluster was chosen: they bring their own."""
    if choices.fixed:
        return iter(())
    paths = list(scenarios().values())
    random.Random(f"scenarios/{choices.seed}").shuffle(paths)
    return itertools.cycle(map(load, paths))


def _drawn(choices: Choices, counts: Mapping[str, int]) -> Iterator[Schedule]:
    for step, seed in enumerate(itertools.count(choices.seed)):
        settings = settings_of(choices, step)
        rare: tuple[str, ...] = ()
        # Every second run draws from everything, the others from what came least.
        if step % 2 and not choices.faults:
            rare = rarest(counts, choices, settings)
            settings |= _needed_by(rare[0], choices)
        schedule = draw(seed, choices.each_s, allowed=choices.faults or rare, settings=settings)
        yield evolve(schedule, name=f"seed-{seed}" + (f"-{rare[0]}" if rare else ""))


def rarest(counts: Mapping[str, int], choices: Choices, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The kind that was planned least, and the least planned ones of all lanes beside it, for a cluster that can have
    the first one."""
    order = sorted(KINDS.keys() - SCENARIOS_ONLY, key=lambda kind: (counts.get(kind, 0), kind))
    first = next(kind for kind in order if _choosable(kind, choices))
    cluster = {**settings, **_needed_by(first, choices)}
    found = [first]
    for lane in LANES:
        if lane != lane_of(first):  # it has its lane for itself, so that it is surely drawn
            found += [kind for kind in order if lane_of(kind) == lane and _fits(kind, cluster)][:KINDS_PER_LANE]
    return tuple(found)


def _choosable(kind: str, choices: Choices) -> bool:
    engine = engine_of(kind)
    needs_others = kind in AMONG_REPLICAS and choices.replicas == 1
    return choices.engine in {None, engine or choices.engine} and not needs_others


def _fits(kind: str, cluster: Mapping[str, Any]) -> bool:
    return engine_of(kind) in {None, cluster["engine"]}


def engine_of(kind: str) -> str | None:
    """The only engine whose clusters can have this kind; None for any."""
    return ENGINE_OF.get(kind)


def _needed_by(kind: str, choices: Choices) -> dict[str, Any]:
    """Settings without which a kind cannot happen."""
    needed: dict[str, Any] = {}
    if kind in AMONG_REPLICAS or engine_of(kind):
        needed["replicas"] = choices.replicas or 3
    engine = engine_of(kind)
    return needed | ({"engine": engine} if engine else {})


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
