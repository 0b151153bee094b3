"""Schedules drawn by Hypothesis: faults as data, for runs that explore.

Hypothesis only generates here. It never runs anything, so it cannot shrink on live clusters, where the same faults do
not give the same interleaving twice. What it drew is stored with the run, and a schedule that found something is
printed as a test that runs it again (`regression`).
"""

from __future__ import annotations

import pprint
import re
from collections.abc import Sequence
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, strategies

from harness.faults import network_faults
from harness.faults.nemeses import FaultSpec, ScheduleError, Value
from harness.faults.schedules import (
    DURATIONS_S,
    ELECTION_S,
    GROUPS,
    LANES,
    LEASE_S,
    PARAMETERS,
    SHORTEST_S,
    TARGETS,
    Schedule,
    kinds_of,
    lane_of,
)

EXAMPLES = 3
"""The first that Hypothesis tries is the simplest one, which is the same for all seeds; the last of a few is taken."""
AMONG_REPLICAS = frozenset(
    {
        *("partition_replicas", "partition_bridge", "partition_ring", "one_way", "host_with_one_replica"),
        *("wiped_disk", "replaced_disk"),
    }
)
"""Faults that need a second replica."""
AMONG_HOSTS = frozenset({"host_from_host"})


def draw(seed: int, duration_s: float, *, allowed: Sequence[str] = (), settings: dict[str, Any]) -> Schedule:
    """The schedule of a seed: the same for the same version of Hypothesis. Raises ScheduleError."""
    drawn: list[Schedule] = []
    possible = schedules(duration_s, allowed=allowed, settings=settings, seed=seed)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        phases=(Phase.generate,),
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(possible)
    def take(schedule: Schedule) -> None:
        drawn.append(schedule)

    take()
    return drawn[-1]


def schedules(
    duration_s: float, *, allowed: Sequence[str] = (), settings: dict[str, Any], seed: int = 0
) -> strategies.SearchStrategy[Schedule]:
    """Schedules as a strategy: in each lane faults that follow each other, with pauses. `allowed`: kinds or groups;
    none for all. Raises ScheduleError."""
    kinds = kinds_of(allowed) if allowed else []
    lanes: list[strategies.SearchStrategy[list[FaultSpec]]] = []
    for lane, groups in LANES.items():
        if lane == "etcd" and settings.get("engine") != "etcd":
            continue
        choices = (
            [[kind] for kind in kinds if lane_of(kind) == lane] if kinds else [list(GROUPS[name]) for name in groups]
        )
        choices = [possible for choice in choices if (possible := _possible(choice, settings))]
        if choices:
            lanes.append(_faults_of_lane(lane, choices, duration_s))

    if not lanes:
        cluster = ", ".join(f"{name} {settings[name]}" for name in ("engine", "replicas", "hosts") if name in settings)
        raise ScheduleError(f"faults {', '.join(allowed)} cannot happen to a cluster of {cluster}")

    def assembled(found: tuple[list[FaultSpec], ...]) -> Schedule:
        faults = sorted((fault for lane in found for fault in lane), key=lambda fault: fault.at_s)
        return Schedule(seed, duration_s, tuple(faults), f"seed-{seed}", settings)

    return strategies.tuples(*lanes).map(assembled)


def _possible(kinds: Sequence[str], settings: dict[str, Any]) -> list[str]:
    """Those that a cluster of this size and engine can have."""
    without: set[str] = set()
    if int(settings.get("replicas", 3)) < 2:
        without |= AMONG_REPLICAS
    if int(settings.get("hosts", 3)) < 2:
        without |= AMONG_HOSTS
    if settings.get("engine", "pysyncobj") != "pysyncobj":
        without |= set(GROUPS["disk"])
    if settings.get("engine") == "etcd":
        without |= set(network_faults.CONSENSUS_CUTS)
    return [kind for kind in kinds if kind not in without]


@strategies.composite
def _faults_of_lane(
    draw: strategies.DrawFn, lane: str, choices: Sequence[Sequence[str]], duration_s: float
) -> list[FaultSpec]:
    faults: list[FaultSpec] = []
    at_s = draw(_tenths(0.5, 4.0))
    while at_s < duration_s - 4:
        kind = draw(strategies.sampled_from(draw(strategies.sampled_from(choices))))
        fault = draw(_faults(kind, lane, at_s, duration_s - at_s))
        faults.append(fault)
        at_s = round(at_s + fault.duration_s + draw(_tenths(2.5, 7.0)), 1)
    return faults


@strategies.composite
def _faults(draw: strategies.DrawFn, kind: str, lane: str, at_s: float, longest_s: float) -> FaultSpec:
    # Shorter and longer than a lease, and than an election.
    durations = DURATIONS_S.get(kind, (1.2, LEASE_S, 1.5 * ELECTION_S, 3 * LEASE_S, 12.0))
    duration_s = max(draw(strategies.sampled_from(durations)), SHORTEST_S.get(kind, 1.2))
    target = draw(strategies.sampled_from(TARGETS.get(kind, ("",))))
    parameters: dict[str, Value] = {
        name: draw(strategies.sampled_from(values)) for name, values in PARAMETERS.get(kind, {}).items()
    }
    if kind in network_faults.PARTITIONS:
        parameters["style"] = draw(strategies.sampled_from(network_faults.STYLES))
        duration_s = max(duration_s, LEASE_S)
    return FaultSpec(kind, at_s, round(min(duration_s, max(longest_s, 1.0)), 1), lane, target, parameters)


def _tenths(shortest_s: float, longest_s: float) -> strategies.SearchStrategy[float]:
    """Seconds with one decimal, so that files show what was drawn."""
    return strategies.integers(round(10 * shortest_s), round(10 * longest_s)).map(lambda tenths: tenths / 10)


# -- what a failing schedule leaves behind ---------------------------------------------------------------

_REGRESSION = '''"""{about}

Found by `{command}`.
"""

from pathlib import Path

import pytest

from harness.faults.nemeses import FaultSpec
from harness.faults.runner import RunSettings, run
from harness.faults.schedules import Schedule

SCHEDULE = Schedule(
    seed={seed},
    duration_s={duration_s},
    name={name!r},
    settings={settings},
    faults=(
{faults}
    ),
)


@pytest.mark.process
@pytest.mark.timeout({timeout_s})
async def test_{identifier}(tmp_path: Path) -> None:
    report = await run(RunSettings.of(tmp_path, SCHEDULE), SCHEDULE, print)
    assert report.problems == []
'''


def regression(schedule: Schedule, *, about: str, command: str) -> str:
    """A test module that runs the schedule again, ready for tests/faults/regressions."""
    faults = "\n".join(
        f"        FaultSpec({fault.kind!r}, {fault.at_s}, {fault.duration_s}, {fault.lane!r}, {fault.target!r}, "
        f"{dict(fault.parameters)!r}),"
        for fault in schedule.faults
    )
    return _REGRESSION.format(
        about=_words(about),
        command=command,
        seed=schedule.seed,
        duration_s=schedule.duration_s,
        name=schedule.name,
        settings=pprint.pformat(schedule.settings, width=100, sort_dicts=False),
        faults=faults,
        timeout_s=int(schedule.duration_s) + 420,
        identifier=re.sub(r"\W+", "_", schedule.name.lower()).strip("_") or "schedule",
    )


def _words(text: str) -> str:
    """Text that can stand in a docstring."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return printable.replace('"', "'").replace("\\", "/")
