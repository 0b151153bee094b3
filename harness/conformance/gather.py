"""Where traces come from: for each specification the runs of a source, projected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from attrs import define, field, frozen

from callboard.core.versions import Policy
from harness.conformance import (
    barrier_source,
    eventual_source,
    exclusive,
    leases,
    membership_source,
    native_source,
    raft_source,
    specs,
)
from harness.conformance.check import TraceSpec
from harness.conformance.simulation_source import record_seed
from harness.conformance.tracelines import Record, Trace
from tests.core.native_parts import NAMESPACE

WALK_STEPS = 120
STORY_STEPS = 150
EVENTUAL_STEPS = 150
RAFT_EVENTS = 50
BARRIER_STEPS = 400
SLOTS_PER_RUN = 3


@define
class Gathered:
    """Traces of several runs, and how many projections the specification has no words for, by reason."""

    runs: int = 0
    traces: list[Trace] = field(factory=list)
    left_out: Counter[str] = field(factory=Counter)


Gather = Callable[[range, int], Gathered]
"""From seeds and the number of projections of each run."""


@frozen
class Subject:
    """One specification: how its traces are judged, and where they come from.

    `simulations`, `of_records`: None where simulated clusters, or files of processes, say nothing of it.
    """

    spec: TraceSpec
    walks: Gather
    simulations: Gather | None = None
    of_records: Callable[[list[Record], str, int], Gathered] | None = None


def exclusive_traces(records: list[Record], namespace: str, label: str, slots: int, into: Gathered) -> None:
    """The traces of the `slots` slots with the most to tell."""
    into.runs += 1
    for kind, slot in exclusive.projections(records, namespace)[:slots]:
        try:
            trace = exclusive.project(records, namespace, kind, slot, label)
        except exclusive.NotProjectableError as error:
            into.left_out[str(error)] += 1
            continue
        if trace.lines:
            into.traces.append(trace)


def exclusive_walks(seeds: range, slots: int) -> Gathered:
    """Walks of leader and host machines of core under a drawn network."""
    found = Gathered()
    for seed in seeds:
        records, violation = native_source.record_walk(seed, WALK_STEPS)
        if violation is not None:
            raise AssertionError(f"walk {seed} broke {violation}")
        exclusive_traces(records, NAMESPACE, f"walk {seed}", slots, found)
    return found


def membership_stories(seeds: range, _slots: int) -> Gathered:
    """Clients with sessions against apply."""
    return Gathered(len(seeds), [membership_source.trace_story(seed, STORY_STEPS) for seed in seeds])


def eventual_walks(seeds: range, _slots: int) -> Gathered:
    """Walks of leader and host machines of a namespace with policy `eventual`."""
    found = Gathered(len(seeds))
    for seed in seeds:
        try:
            found.traces.append(eventual_source.trace_eventual(seed, EVENTUAL_STEPS))
        except exclusive.NotProjectableError as error:
            found.left_out[str(error)] += 1
    return found


def barrier_stories(seeds: range, _slots: int) -> Gathered:
    """The barrier machine of a leader, with hosts written to the module's rule."""
    return Gathered(len(seeds), [barrier_source.trace_barrier(seed, BARRIER_STEPS) for seed in seeds])


def raft_schedules(seeds: range, _slots: int) -> Gathered:
    """The embedded engine on simulated disks and networks."""
    found = Gathered(len(seeds))
    for seed in seeds:
        try:
            trace = raft_source.trace_raft(seed, RAFT_EVENTS)
        except exclusive.NotProjectableError as error:
            found.left_out[str(error)] += 1
            continue
        if trace.lines:
            found.traces.append(trace)
    return found


def exclusive_simulations(seeds: range, slots: int) -> Gathered:
    """Whole simulated clusters."""
    found = Gathered()
    for seed in seeds:
        records, violation = record_seed(seed)
        if violation:
            raise AssertionError(f"simulated seed {seed} violated {violation}")
        of_seed = exclusive_records(records, f"seed {seed}", slots)
        found.runs += 1
        found.traces += of_seed.traces
        found.left_out += of_seed.left_out
    return found


def leases_walks(seeds: range, slots: int) -> Gathered:
    """The same walks; of each the incarnations of which there is the most to tell."""
    found = Gathered()
    for seed in seeds:
        records, violation = native_source.record_walk(seed, WALK_STEPS)
        if violation is not None:
            raise AssertionError(f"walk {seed} broke {violation}")
        leases_traces(records, f"walk {seed}", slots, found)
    return found


def leases_traces(records: list[Record], label: str, count: int, into: Gathered) -> None:
    """The traces of `count` incarnations."""
    into.runs += 1
    for who in leases.incarnations(records)[:count]:
        try:
            into.traces.append(leases.project(records, who, label))
        except exclusive.NotProjectableError as error:
            into.left_out[str(error)] += 1


def exclusive_records(records: list[Record], label: str, slots: int) -> Gathered:
    """What the processes of one run wrote, whatever its namespaces."""
    found = Gathered()
    for record in records:
        if record["event"] == "CreateNamespace" and record["policy"] == Policy.EXCLUSIVE.value:
            exclusive_traces(records, record["namespace"], f"{label} {record['namespace']}", slots, found)
    return found


SUBJECTS: dict[str, Subject] = {
    "ExclusiveHandoff": Subject(specs.EXCLUSIVE, exclusive_walks, exclusive_simulations, exclusive_records),
    "Membership": Subject(specs.MEMBERSHIP, membership_stories),
    "Leases": Subject(specs.LEASES, leases_walks),
    "EventualDissemination": Subject(specs.EVENTUAL, eventual_walks),
    "RaftMembership": Subject(specs.RAFT, raft_schedules),
    "BarrierDissemination": Subject(specs.BARRIER, barrier_stories),
}


def counts(traces: Sequence[Trace]) -> Counter[str]:
    """How often each action is in the traces."""
    return Counter(line["name"] for trace in traces for line in trace.lines)
