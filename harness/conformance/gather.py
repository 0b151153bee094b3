"""Where traces come from: for each specification the runs of a source, projected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

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

    `simulations`, `of_records`: None where simulated clusters, or files of processes, say nothing of it. `never`:
    actions that no trace has, with the reason. `unseen`: actions of which a removed line need not show, and why.
    """

    spec: TraceSpec
    walks: Gather
    simulations: Gather | None
    of_records: Callable[[list[Record], str, int], Gathered] | None
    never: Mapping[str, str]
    unseen: Mapping[str, str]


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
    "ExclusiveHandoff": Subject(
        specs.EXCLUSIVE,
        exclusive_walks,
        exclusive_simulations,
        exclusive_records,
        never={
            "Lose": "what was said once stays true and may be heard later: a lost copy is one that nobody heard",
            "RepeatTable": "enabled only after Lose: a repeated table is one more copy of what was said",
            "RepeatGrants": "enabled only after Lose: a repeated grant is one more copy of what was said",
            "RepeatReports": "enabled only after Lose: a repeated report is one more copy of what was said",
        },
        unseen={
            "Effect": "an effect more or less changes nothing unless the store hears of it",
            "SayFarewell": "a last word may never be heard",
            "Crash": "a process that says nothing more may as well be slow",
            "HearOffice": "the grant that is accepted next tells the same epoch",
            "SaysGranted": "only a look at what may be said",
            "SaysReleased": "only a look at what may be said",
            "SaysRequest": "only a look at what may be said",
            "StoreAccepts": "a write may stay on its way for ever",
            "StoreRefuses": "a write may stay on its way for ever",
            "EndTurn": "the turn may end later, unless another one begins",
        },
    ),
    "Membership": Subject(
        specs.MEMBERSHIP,
        membership_stories,
        None,
        None,
        never={},
        unseen={
            "Answer": "an answer may get lost",
            "ReadCall": "a read that is never answered",
            "ReadAnswer": "a read may stay open",
        },
    ),
    "Leases": Subject(
        specs.LEASES,
        leases_walks,
        None,
        None,
        never={},
        unseen={
            "EndRound": "a round that was given up may as well wait for ever",
            "StepDown": "a leader that is deposed and does not know it may go on",
            "SaysGone": "only a look at what a leader may say",
            "HearAnswer": "a later answer extends the lease as well",
            "Bury": "nothing in this module follows from it",
        },
    ),
    "EventualDissemination": Subject(
        specs.EVENTUAL,
        eventual_walks,
        None,
        None,
        never={
            "RecvSame": "Isolation is off",
            "Isolate": "Isolation is off",
            "Lose": "a lost message is one that nobody takes in",
            "Rot": "no memory goes wrong in these walks; what the network damages is a message that nobody takes in",
            "Cut": "a message that never arrives is one that nobody takes in",
            "Heal": "nobody is cut off",
        },
        unseen={
            "Compact": "shows only where somebody comes back with a version from before the office",
            "RecvDelta": "the last delta that a host takes in may as well be on its way",
        },
    ),
    "RaftMembership": Subject(
        specs.RAFT,
        raft_schedules,
        None,
        None,
        never={
            **dict.fromkeys(
                ("Call", "Submit", "SubmitExpiry", "AppendSubmitted", "Answer"),
                "of the service above; to the engine an entry is opaque (AppendBarrier)",
            ),
            "TakeBackup": "of the service above: the membership's traces restore",
            "Restore": "of the service above: the membership's traces restore",
        },
        unseen={
            "RefuseVote": "the vote or the entry that follows brings the newer term as well",
            "Confirms": "only a look at what may be acknowledged; the sync before it says the same",
            "ReadAnswer": "an answer may get lost",
            "LosePower": "the leader sends again what was lost, and then nothing shows of it",
        },
    ),
    "BarrierDissemination": Subject(specs.BARRIER, barrier_stories, None, None, never={}, unseen={}),
}


def counts(traces: Sequence[Trace]) -> Counter[str]:
    """How often each action is in the traces."""
    return Counter(line["name"] for trace in traces for line in trace.lines)


def missing(subject: Subject, actions: Sequence[str], found: Counter[str]) -> Iterator[str]:
    """Actions that no trace has, without a stated reason."""
    for action in actions:
        if not found[action] and action not in subject.never:
            yield action
