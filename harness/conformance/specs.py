"""The trace specifications, and how lines become their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, takewhile
from typing import Any

from harness.conformance import barrier_source
from harness.conformance.check import TraceSpec
from harness.conformance.leases import PPM_OF_A_PART, UNIT
from harness.conformance.tracelines import Line, Trace
from tests.core.native_parts import NAMES


def _lives(traces: Sequence[Trace]) -> dict[str, int]:
    """Incarnations are numbered so that all traces of a run share HostOf: life k of name n is k * Names + n."""
    names = max(trace.constants["names"] for trace in traces)
    lives = [life for trace in traces for _, life in trace.constants["lives"].values()]
    return {"Names": max(names, 1), "Numbers": max(names, 1) * (max(lives, default=0) + 1)}


def _incarnations(line: Line, trace: Trace, traces: Sequence[Trace]) -> Line:
    data = _lives(traces)

    def number(who: int) -> int:
        name, life = trace.constants["lives"].get(who, (who, 0))
        return int(life) * data["Names"] + int(name) + 1 if who in trace.constants["lives"] else who

    def encoded(key: str, value: Any) -> Any:
        if key in {"i", "o"}:
            return number(value)
        if key in {"p", "m", "t"}:
            return {number(each) for each in value}
        return value

    return {key: encoded(key, value) for key, value in line.items()}


EXCLUSIVE = TraceSpec(
    module="TraceExclusiveHandoff",
    constants=lambda _: (
        "Incarnations <- TraceIncarnations",
        "HostOf <- TraceHostOf",
        "Slots = {1}",
        "FirstMembers = {}",
    ),
    invariants=("TypeOK", "SingleActivation", "PendingCoversRights", "OwnerNotRefused"),
    data=_lives,
    encode=_incarnations,
)


def _clocks(traces: Sequence[Trace]) -> dict[str, Any]:
    offices = max(len(trace.constants["clocks"]["rates"]) for trace in traces)
    return {"Offices": offices, "Clocks": [trace.constants["clocks"] for trace in traces]}


def _leases_constants(traces: Sequence[Trace]) -> tuple[str, ...]:
    settings = traces[0].constants["settings"]
    rate = settings["rate_error_ppm"] // PPM_OF_A_PART
    return (
        *("Hosts = {1}", "Replicas <- TraceReplicas", f"Unit = {UNIT}"),
        *(f"Slow = {UNIT - rate}", f"Fast = {UNIT + rate}"),
        *(f"{name.capitalize()} = {settings[f'{name}_ms']}" for name in ("lease", "drain", "margin")),
    )


LEASES = TraceSpec(
    module="TraceLeases",
    constants=_leases_constants,
    invariants=("TypeOK", "GoneImpliesGateShut", "PromptTurnsEndInside"),
    data=_clocks,
)
"""All traces of a run are of namespaces with the same times."""


def _stories(traces: Sequence[Trace]) -> list[Mapping[str, Any]]:
    """The constants of all traces, each once: changed traces share those of the trace that they were made of."""
    return list({id(trace.constants): trace.constants for trace in traces}.values())


def _commands(traces: Sequence[Trace]) -> dict[str, Any]:
    """Commands, sessions and reads of all traces, numbered together."""
    stories = _stories(traces)
    commands = [command for story in stories for command in story["commands"]]
    first = list(accumulate((story["sessions"] for story in stories), initial=0))
    return {
        "CommandSessions": [
            first[at] + command[0] for at, story in enumerate(stories) for command in story["commands"]
        ],
        "CommandSequences": [command[1] for command in commands],
        "CommandJoins": [set(command[2]) for command in commands],
        "CommandLeaves": [set(command[3]) for command in commands],
        "SessionCount": first[-1],
        "ReadCount": max(story["reads"] for story in stories),
        "GenerationCount": max(story["generations"] for story in stories),
        "HostCount": 3,
    }


def _numbered(line: Line, trace: Trace, traces: Sequence[Trace]) -> Line:
    before = list(takewhile(lambda story: story is not trace.constants, _stories(traces)))
    commands, sessions = (sum(count) for count in _sizes(before))
    moves = {"c": 1 + commands, "r": 1, "s": sessions}
    return {key: value + moves[key] if key in moves else value for key, value in line.items()}


def _sizes(stories: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    return [len(story["commands"]) for story in stories], [story["sessions"] for story in stories]


MEMBERSHIP = TraceSpec(
    module="TraceMembership",
    constants=lambda _: (
        *("Hosts <- TraceHosts", "Sessions <- TraceSessions", "Commands <- TraceCommands", "Reads <- TraceReads"),
        *("SessionOf <- TraceSessionOf", "SeqOf <- TraceSeqOf", "BatchOf <- TraceBatchOf"),
        "Generations <- TraceGenerations",
    ),
    invariants=("TypeOK", "LinearizableMembership", "GenerationExact", "ApplyOnce"),
    data=_commands,
    sources_max=12,
    encode=_numbered,
)


EVENTUAL = TraceSpec(
    module="TraceEventualDissemination",
    constants=lambda _: (
        *("Hosts <- TraceHosts", "Owner <- TraceOwner", "Keys = {0}"),
        *("Isolation = TRUE", "SnapshotsAnyTime = TRUE"),
    ),
    invariants=("TypeOK", "InstalledIsCommitted"),
    data=lambda _: {"HostCount": len(NAMES)},
)


BARRIER = TraceSpec(
    module="TraceBarrierDissemination",
    constants=lambda _: (
        *("Hosts <- TraceHosts", "Owner <- TraceOwner", "Keys = {0, 1}"),
        *("LateOrders = FALSE", "TwoStepBatches = TRUE"),
    ),
    invariants=("TypeOK", "TableAgreement", "ConnectedAgreement", "ConnectedSingleActivation", "ServedOrWaiting"),
    data=lambda _: {"HostCount": barrier_source.HOSTS},
)


RAFT = TraceSpec(
    module="TraceRaftMembership",
    constants=lambda _: (
        *('Replicas = {"A", "B", "C"}', 'Nobody = "nobody"', "Hosts = {}", "Sessions = {}", "Commands = {}"),
        *("Reads <- TraceReads", "Epochs = {}", "Indices = {}", "Generations = {}", "AsTheEngine <- Engine"),
        *("SessionOf <- TraceSessionOf", "SeqOf <- TraceSeqOf", "BatchOf <- TraceBatchOf"),
    ),
    invariants=(
        *("TypeOK", "OneLeaderInTerm", "LogMatching", "LinearizableMembership"),
        *("CommittedSurvives", "ReplicaAgreement"),
    ),
    data=lambda traces: {"ReadNames": max((trace.constants["reads"] for trace in traces), key=len)},
)
