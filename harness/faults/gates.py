"""What makes a run count: each kind of operation succeeded in each phase, every fault bit, actors moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attrs import define

from harness.faults.checkers.activations import check_turn_based
from harness.faults.history import History, Outcome, Phase
from harness.faults.nemeses import FaultSpec

MOVING = ("host_kill", "host_drain", "host_restart", "host_kill_while_leaving", "storm", "host_crash_loop")
FUNCTIONS = {
    "actors": (("add", "counter/"), ("append", "list/"), ("read", "counter/"), ("read", "list/")),
    "members": tuple((function, "member/") for function in ("upsert", "remove", "join", "read")),
    "lookups": (("lookup", "lookup/"),),
    "sidecars": (),
}


@define
class FaultReport:
    """What became of one fault."""

    spec: FaultSpec
    target: str = ""
    proof: str = ""
    problem: str = ""


def gates_of(history: History, faults: Sequence[FaultReport], workloads: Sequence[str]) -> list[str]:
    """What the run did not exercise; empty for one that counts."""
    succeeded = Counter(
        (operation.function, operation.key.partition("/")[0] + "/", operation.phase)
        for operation in history.operations
        if operation.outcome is Outcome.OK
    )
    gates = [
        f"no {function} of {prefix}... succeeded in phase {phase.value}"
        for workload in workloads
        for function, prefix in FUNCTIONS[workload]
        for phase in Phase
        if not succeeded[function, prefix, phase]
    ]
    # A fault that had nobody to hit is none; all others must be proved.
    hit = [fault for fault in faults if fault.target]
    gates += [
        f"no proof that {fault.spec.kind} at {fault.spec.at_s} s bit: {fault.problem or 'it did not'}"
        for fault in hit
        if not fault.proof
    ]
    moving = [fault.spec.kind for fault in faults if fault.proof and fault.spec.kind in MOVING]
    if moving and "actors" in workloads and not check_turn_based(history).figures["moves"]:
        gates.append(f"no actor moved, in spite of {', '.join(moving)}")
    if faults and not hit:
        gates.append("none of the faults had anybody to hit")
    if history.torn:
        gates.append("the history's last line is torn")
    return gates
