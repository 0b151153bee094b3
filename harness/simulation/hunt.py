"""Seeds bugs into core, one at a time, and counts the seeds until the simulator finds each."""

from __future__ import annotations

import time
from collections.abc import Iterable

from attrs import frozen

from harness.seeded_bugs import barrier, handoff, membership, tables
from harness.seeded_bugs.registry import Bug, put_in
from harness.simulation import model_bugs
from harness.simulation.campaign import run_plan
from harness.simulation.plan import draw

SAME = {"GoneImpliesGateShut": "SingleActivation", "TurnsInsideRights": "SingleActivation"}
"""What others check under names of their own is part of this property here."""
BUGS: tuple[Bug, ...] = (*handoff.BUGS, *membership.BUGS, *tables.BUGS, *barrier.BUGS, *model_bugs.BUGS)


@frozen
class Find:
    """After how much work a bug was found, and as what; `violated` is empty if it was not."""

    bug: str
    violated: str
    seed: int
    seeds: int
    events: int
    cpu_s: float


def wanted(bug: Bug) -> set[str]:
    """The properties by which it may be found here."""
    return {SAME.get(name, name) for name in bug.properties}


def hunt(bug: Bug, seeds: Iterable[int]) -> Find:
    """Run seeds with the bug until one of its properties breaks. Runs that end in another way count as work only."""
    began, runs, events = time.process_time(), 0, 0
    with put_in(bug):
        for seed in seeds:
            runs += 1
            try:
                result = run_plan(draw(seed))
            except Exception:  # noqa: BLE001, S112 - broken machines raise whatever they like
                continue
            events += result.events
            if result.violated in wanted(bug):
                return Find(bug.name, result.violated, seed, runs, events, time.process_time() - began)
    return Find(bug.name, "", 0, runs, events, time.process_time() - began)
