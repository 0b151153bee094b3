"""Runs many seeds and adds up what happened in them."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from attrs import asdict, define, evolve, field, frozen

from harness.simulation.plan import Plan, draw
from harness.simulation.rare import RARE
from harness.simulation.world import ProcessTrace, World
from harness.violation import PropertyViolation


@frozen
class SeedResult:
    """What one run did. Times in milliseconds but for `cpu_s` and `real_s`."""

    seed: int
    violated: str = ""
    text: str = ""
    events: int = 0
    simulated_ms: int = 0
    cpu_s: float = 0.0
    real_s: float = 0.0
    """Since the result before it came, or since the stretch began: the sum is what a campaign took, however often it
    was interrupted, with as many processes as it had."""
    jobs: int = 1
    owner_changes: int = 0
    leader_changes: int = 0
    faults: dict[str, int] = field(factory=dict)
    faults_bitten: dict[str, int] = field(factory=dict)
    rare: dict[str, int] = field(factory=dict)
    checked: dict[str, int] = field(factory=dict)
    converged_ms: int = 0
    shares: dict[str, float] = field(factory=dict)
    """Of its bound that each policy needed to come right after the heal."""
    digest: str = ""


def run_plan(plan: Plan, *, digest: bool = False, trace: ProcessTrace | None = None) -> SeedResult:
    """Run a plan, whatever comes of it."""
    world = World(plan, digest=digest, trace=trace)
    return run_world(world)


def run_world(world: World) -> SeedResult:
    """Run what was set up. A violated property is part of the result; other exceptions are the simulator's bugs."""
    began = time.process_time()
    violated = text = ""
    try:
        world.run()
    except PropertyViolation as violation:
        violated, text = violation.name, violation.text
        world.faults.count()
    outcomes = Counter[str]()
    for caller in world.callers:
        outcomes.update({f"calls: {result.name.lower()}": count for result, count in caller.outcomes.items()})
    return SeedResult(
        seed=world.plan.seed,
        violated=violated,
        text=text,
        events=world.kernel.events,
        simulated_ms=world.kernel.now_us // 1000,
        cpu_s=time.process_time() - began,
        owner_changes=world.history.owner_changes,
        leader_changes=max(0, len(world.offices) - 1),
        faults=dict(sorted(world.faults.kinds.items())),
        faults_bitten={kind: count for kind, count in sorted(world.faults.bitten.items()) if count},
        rare=dict(sorted(world.rare.items())),
        checked={
            **outcomes,
            "commands applied": world.history.commands,
            "changes and reads of the membership": world.history.operations,
            "tables installed": world.tables.installed_count,
            "rights granted": world.rights.grants,
            "turns": world.turns.begun,
            "messages": world.network.messages,
        },
        converged_ms=max(world.liveness.took_ms.values(), default=0),
        shares=world.liveness.shares(),
        digest=world.log.digest if world.log.on else "",
    )


def run_seed(seed: int, rate_error_ppm: int | None = None) -> SeedResult:
    """The run of a seed. `rate_error_ppm`: other clocks than the settings allow, as a control."""
    plan = draw(seed)
    return run_plan(plan if rate_error_ppm is None else evolve(plan, rate_error_ppm=rate_error_ppm))


@define
class Totals:
    """Of all runs so far."""

    seeds: int = 0
    first: int = 0
    last: int = 0
    events: int = 0
    simulated_ms: int = 0
    cpu_s: float = 0.0
    real_s: float = 0.0
    jobs: set[int] = field(factory=set)
    owner_changes: int = 0
    leader_changes: int = 0
    faults: Counter[str] = field(factory=Counter)
    faults_bitten: Counter[str] = field(factory=Counter)
    rare: Counter[str] = field(factory=Counter)
    checked: Counter[str] = field(factory=Counter)
    violations: list[tuple[int, str, str]] = field(factory=list)
    converged_ms: list[int] = field(factory=list)
    shares: dict[str, float] = field(factory=dict)
    """By policy: the largest share of its bound that anything needed to come right."""

    def add(self, result: SeedResult) -> None:
        """One more run."""
        self.first = result.seed if not self.seeds else min(self.first, result.seed)
        self.last = max(self.last, result.seed)
        self.seeds += 1
        self.events += result.events
        self.simulated_ms += result.simulated_ms
        self.cpu_s += result.cpu_s
        self.real_s += result.real_s
        self.jobs.add(result.jobs)
        self.owner_changes += result.owner_changes
        self.leader_changes += result.leader_changes
        self.faults.update(result.faults)
        self.faults_bitten.update(result.faults_bitten)
        self.rare.update(result.rare)
        self.checked.update(result.checked)
        if result.violated:
            self.violations.append((result.seed, result.violated, result.text))
        else:
            self.converged_ms.append(result.converged_ms)
            for policy, share in result.shares.items():
                self.shares[policy] = max(share, self.shares.get(policy, 0.0))

    def never_met(self, required: Iterable[str] = RARE) -> list[str]:
        """Rare situations that no run has met."""
        return [name for name in required if not self.rare[name]]

    def never_bitten(self) -> list[str]:
        """Kinds of faults that were there and never had an effect."""
        return [kind for kind in sorted(self.faults) if not self.faults_bitten[kind]]

    def summary(self) -> dict[str, Any]:
        """For machines."""
        converged = sorted(self.converged_ms)
        return {
            "seeds": self.seeds,
            "first_seed": self.first,
            "last_seed": self.last,
            "violations": [{"seed": seed, "property": name, "text": text} for seed, name, text in self.violations],
            "owner_changes": self.owner_changes,
            "leader_changes": self.leader_changes,
            "faults": sum(self.faults.values()),
            "faults_bitten": sum(self.faults_bitten.values()),
            "faults_by_kind": {kind: [count, self.faults_bitten[kind]] for kind, count in sorted(self.faults.items())},
            "rare": {name: self.rare[name] for name in RARE},
            "checked": dict(sorted(self.checked.items())),
            "convergence_ms": {
                "p50": converged[len(converged) // 2] if converged else 0,
                "p95": converged[len(converged) * 95 // 100] if converged else 0,
                "max": converged[-1] if converged else 0,
            },
            "largest_share_of_bound": {policy: round(share, 3) for policy, share in sorted(self.shares.items())},
            "events": self.events,
            "simulated_s": round(self.simulated_ms / 1000),
            "cpu_s": round(self.cpu_s, 1),
            "real_s": round(self.real_s, 1),
            "jobs": sorted(self.jobs),
            "events_per_cpu_s": round(self.events / self.cpu_s) if self.cpu_s else 0,
            "simulated_per_cpu": round(self.simulated_ms / 1000 / self.cpu_s, 1) if self.cpu_s else 0,
        }


def run_seeds(seeds: Iterable[int], *, jobs: int = 1, rate_error_ppm: int | None = None) -> Iterator[SeedResult]:
    """Results as they come, in the order of the seeds."""
    one = partial(run_seed, rate_error_ppm=rate_error_ppm)
    began = time.monotonic()
    if jobs == 1:
        yield from _timed(map(one, seeds), began, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from _timed(pool.imap(one, seeds, chunksize=8), began, jobs)


def _timed(results: Iterable[SeedResult], began: float, jobs: int) -> Iterator[SeedResult]:
    for result in results:
        now = time.monotonic()
        yield evolve(result, real_s=now - began, jobs=jobs)
        began = now


def append_result(path: Path, result: SeedResult) -> None:
    """Keep a result, one line each, so that a campaign can go on after an interruption."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read_results(path: Path) -> dict[int, SeedResult]:
    """What `append_result` kept, by seed. A last line that was cut short is left out."""
    found: dict[int, SeedResult] = {}
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            result = SeedResult(**json.loads(line))
        except json.JSONDecodeError:
            continue
        found[result.seed] = result
    return found
