"""Who may find a seeded bug: machines beside models, random walks, replayed paths, traces, the simulator, TLC.

Each finder gets one bug, puts it in, looks for it within a limit, and says how much it took. Failures are what the
finder reports as such; the same finder passes without the bug (that is what `make test` shows).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random

from attrs import frozen

from harness.conformance import native_source
from harness.conformance.check import judge
from harness.conformance.gather import Gathered, exclusive_traces
from harness.conformance.graph import Graph
from harness.conformance.models import MODELS
from harness.conformance.paths import run_model, state_graph
from harness.conformance.specs import EXCLUSIVE
from harness.modelcheck.tools import find_tools
from harness.seeded_bugs.registry import Bug, put_in
from harness.simulation.campaign import run_seed
from harness.violation import PropertyViolation
from tests.core.barrier_network import BarrierNetwork
from tests.core.barrier_walk import walk as barrier_walk
from tests.core.native_parts import NAMESPACE
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
TRACED_WALKS = 5
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
    module, name = MACHINES[part]
    machine: type[SideBySide] = getattr(import_module(f"tests.model.{module}"), name)
    with put_in(bug):
        try:
            effort, failure = search(machine, examples=limits.examples, steps=steps_of(machine))
        except NotFoundError:
            return Finding(False, f"{limits.examples} examples")
    return Finding(True, f"{effort.examples} examples, {effort.steps} steps", getattr(failure, "name", ""))


def walks(part: str, bug: Bug, limits: Limits) -> Finding:
    """Random walks in the networks of tests/core."""
    if part not in {"barrier", "handoff"}:
        return NOT_ITS_BUSINESS
    with put_in(bug):
        for seed in range(limits.walks):
            try:
                if part == "barrier":
                    barrier_walk(BarrierNetwork(settings_of(seed)), Random(seed), STEPS)
                else:
                    walk(seed, 300 if bug.stalls else 120, stalls=bug.stalls)
            except PropertyViolation as violation:
                return Finding(True, f"{seed + 1} walks", violation.name)
    return Finding(False, f"{limits.walks} walks")


def paths(part: str, bug: Bug, _limits: Limits) -> Finding:
    """Paths through TLC's state graphs, replayed on core (every pair of actions)."""
    if part != "membership":
        return NOT_ITS_BUSINESS
    steps = 0
    for model in MODELS:
        graph, tlc_s = _graph(model.name)
        with put_in(bug):
            try:
                result = run_model(model, graph, "pairs", tlc_s)
            except Exception as error:  # noqa: BLE001 - a bug may break the adapter in any way
                return Finding(True, f"{model.name}", type(error).__name__)
        steps += result.steps
        if result.problem is not None:
            return Finding(True, f"{steps} steps of {model.name}")
    return Finding(False, f"{steps} steps")


@cache
def _graph(name: str) -> tuple[Graph, float]:
    """TLC's state graph of a model, made once."""
    return state_graph(next(model for model in MODELS if model.name == name))


def traces(part: str, bug: Bug, _limits: Limits) -> Finding:
    """Traces of walks, judged by TLC against the trace specification."""
    if part != "handoff":
        return NOT_ITS_BUSINESS
    found = Gathered()
    with put_in(bug):
        for seed in range(TRACED_WALKS):
            try:
                records, _ = native_source.record_walk(seed, 300 if bug.stalls else 120, stalls=bug.stalls)
            except PropertyViolation:
                continue
            exclusive_traces(records, NAMESPACE, f"{bug.name} {seed}", TRACES_PER_WALK, found)
    if not found.traces:
        return Finding(False, "0 traces")
    judgement = judge(EXCLUSIVE, found.traces, find_tools())
    rejected = len(found.traces) - len(judgement.accepted)
    return Finding(
        rejected > 0, f"{rejected} of {len(found.traces)} traces" if rejected else f"{len(found.traces)} traces"
    )


def simulator(_part: str, bug: Bug, limits: Limits) -> Finding:
    """Whole clusters on virtual time."""
    events = 0
    with put_in(bug):
        for seed in range(1, limits.seeds + 1):
            try:
                result = run_seed(seed)
            except Exception as error:  # noqa: BLE001 - core's own assertions are findings too
                return Finding(True, f"{seed} seeds, {events} events", type(error).__name__)
            events += result.events
            if result.violated:
                return Finding(True, f"{seed} seeds, {events} events", result.violated)
    return Finding(False, f"{limits.seeds} seeds")


def tlc(_part: str, bug: Bug, _limits: Limits) -> Finding:
    """A mutant of the same name in tla/mutants, which `make model-check` kills."""
    for path in sorted((ROOT / "tla" / "mutants").glob("*.toml")):
        for mutant in tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", []):
            if mutant["name"] == bug.name:
                return Finding(True, str(mutant["config"]), str(mutant["killed_by"]))
    return NOT_ITS_BUSINESS


FINDERS: dict[str, Finder] = {
    "machines": machines,
    "walks": walks,
    "paths": paths,
    "traces": traces,
    "simulator": simulator,
    "TLC": tlc,
}
