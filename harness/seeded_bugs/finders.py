"""Who may find a seeded bug: machines beside models, random walks, replayed paths, traces, the simulator, TLC.

Each finder gets one bug, puts it in, looks for it within a limit, and says how much it took. A bug is found only if the
failure names a property that the bug is said to break. Paths and traces name none: they compare with the specification
step by step. The same finders pass without the bug (that is what `make test` shows).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from random import Random

from attrs import frozen

from callboard.core.versions import Policy
from harness.conformance.models import MODELS
from harness.conformance.paths import kept_graph, run_model
from harness.conformance.trace_mutants import EVERY_BUG, LIVENESS, Tried
from harness.modelcheck.tools import find_tools
from harness.seeded_bugs.registry import Bug, put_in
from harness.simulation.hunt import hunt
from harness.violation import PropertyViolation
from tests.core.barrier_network import BarrierNetwork
from tests.core.barrier_walk import walk as barrier_walk
from tests.core.native_walk import walk
from tests.core.test_barrier_rounds import STEPS, settings_of
from tests.model.support import NotFoundError, SideBySide, search, steps_of

ROOT = Path(__file__).resolve().parents[2]
MACHINES = {
    "membership": ("membership_machine", "MembershipMachine"),
    "tables": ("table_machine", "TableMachine"),
    "barrier": ("barrier_machine", "BarrierMachine"),
    "handoff": ("exclusive_machine", "ExclusiveMachine"),
}
SPECIFICATIONS = {
    "membership": "Membership",
    "tables": "ExclusiveHandoff",
    "barrier": "BarrierDissemination",
    "handoff": "ExclusiveHandoff",
}
"""Whose paths go through a part of core."""
TRACED_WALKS = 10
TRACES_PER_WALK = 3


@frozen
class Limits:
    """How long finders look for one bug."""

    examples: int = 100
    walks: int = 100
    seeds: int = 200


@frozen
class Finding:
    """`found`: None if the finder does not look at this part of core. `effort`: in the finder's own units."""

    found: bool | None
    effort: str = ""
    named: str = ""

    def __str__(self) -> str:
        if self.found is None:
            return "-"
        return self.effort if self.found else f"no ({self.effort})"


Finder = Callable[[str, Bug, Limits], Finding]
NOT_ITS_BUSINESS = Finding(None)


def machines(part: str, bug: Bug, limits: Limits) -> Finding:
    """Hypothesis machines that run code and model side by side."""
    if bug.policy is not Policy.EXCLUSIVE:
        return NOT_ITS_BUSINESS
    module, name = MACHINES[part]
    machine: type[SideBySide] = getattr(import_module(f"tests.model.{module}"), name)
    with put_in(bug):
        try:
            steps = steps_of(machine)
            effort, named = search(machine, examples=limits.examples, steps=steps, properties=bug.properties)
        except NotFoundError:
            return Finding(False, f"{limits.examples} examples")
    return Finding(True, f"{effort.examples} examples, {effort.steps} steps", named)


def walks(part: str, bug: Bug, limits: Limits) -> Finding:
    """Random walks in the networks of tests/core, until one breaks a property of the bug."""
    if part not in {"barrier", "handoff"}:
        return NOT_ITS_BUSINESS
    with put_in(bug):
        for seed in range(limits.walks):
            try:
                if part == "barrier":
                    barrier_walk(BarrierNetwork(settings_of(seed)), Random(seed), STEPS)
                else:
                    walk(seed, 300 if bug.stalls else 120, stalls=bug.stalls, policy=bug.policy)
            except PropertyViolation as violation:
                if violation.name in bug.properties:
                    return Finding(True, f"{seed + 1} walks", violation.name)
    return Finding(False, f"{limits.walks} walks")


def paths(part: str, bug: Bug, _limits: Limits) -> Finding:
    """Paths through TLC's state graphs of the small models of this part, replayed on core (every pair of actions)."""
    if bug.policy is not Policy.EXCLUSIVE:
        return NOT_ITS_BUSINESS
    steps = 0
    for model in MODELS:
        if model.specification != SPECIFICATIONS[part] or model.large:
            continue
        graph = kept_graph(model)
        with put_in(bug):
            result = run_model(model, graph, "pairs")
        steps += result.steps
        if result.problem is not None:
            return Finding(True, f"{steps} steps, {model.name}")
    return Finding(False, f"{steps} steps")


def traces(_part: str, bug: Bug, _limits: Limits) -> Finding:
    """Traces of walks, judged by TLC against the trace specifications. What never happens shows in no finite trace."""
    if bug not in EVERY_BUG or set(bug.properties) <= LIVENESS or bug.policy is not Policy.EXCLUSIVE:
        return NOT_ITS_BUSINESS
    tried = Tried()
    tried.add(bug.name, TRACED_WALKS, TRACES_PER_WALK)
    tried.judge(find_tools())
    count = sum(map(len, tried.traces.values()))
    rejected = sum(counter[bug.name] for counter in tried.rejected.values())
    return Finding(rejected > 0, f"{rejected} of {count} traces" if rejected else f"{count} traces")


def simulator(_part: str, bug: Bug, limits: Limits) -> Finding:
    """Whole clusters on virtual time, until one breaks a property of the bug."""
    found = hunt(bug, range(1, limits.seeds + 1))
    if not found.violated:
        return Finding(False, f"{limits.seeds} seeds")
    return Finding(True, f"{found.seeds} seeds, {found.events} events", found.violated)


def tlc(_part: str, bug: Bug, _limits: Limits) -> Finding:
    """A mutant of the same name in tla/mutants, which `make model-check` kills by a property of the bug."""
    for path in sorted((ROOT / "tla" / "mutants").glob("*.toml")):
        for mutant in tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", []):
            if mutant["name"] == bug.name:
                named = str(mutant["killed_by"])
                return Finding(named in bug.properties, str(mutant["config"]), named)
    return NOT_ITS_BUSINESS


FINDERS: dict[str, Finder] = {
    "machines": machines,
    "walks": walks,
    "paths": paths,
    "traces": traces,
    "simulator": simulator,
    "TLC": tlc,
}
