"""Makes a failing plan smaller: fewer faults, no scars, fewer hosts and callers, while the same property breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import evolve

from harness.simulation.campaign import run_plan
from harness.simulation.plan import Fault, Plan

Judge = Callable[[Plan], str]
"""The property that a plan violates, or nothing."""


def violated(plan: Plan) -> str:
    """The judge for real runs."""
    return run_plan(plan).violated


def shrink(plan: Plan, judge: Judge = violated, *, runs_max: int = 300) -> Plan:
    """The smallest plan found that violates what `plan` violates, with at most so many runs (delta debugging)."""
    wanted = judge(plan)
    if not wanted:
        return plan
    left = [runs_max]

    def breaks(candidate: Plan) -> bool:
        left[0] -= 1
        return left[0] >= 0 and judge(candidate) == wanted

    best = _fewer_faults(plan, breaks)
    changed = True
    while changed and left[0] > 0:
        changed = False
        for candidate in _simpler(best):
            if breaks(candidate):
                best, changed = _fewer_faults(candidate, breaks), True
                break
    return best


def _fewer_faults(plan: Plan, breaks: Callable[[Plan], bool]) -> Plan:
    faults, part = list(plan.faults), max(1, len(plan.faults) // 2)
    while faults:
        at, progress = 0, False
        while at < len(faults):
            kept = faults[:at] + faults[at + part :]
            if breaks(evolve(plan, faults=tuple(kept))):
                faults, progress = kept, True
            else:
                at += part
        if part == 1 and not progress:
            break
        part = max(1, part // 2)
    return evolve(plan, faults=tuple(faults))


def _simpler(plan: Plan) -> Iterator[Plan]:
    if plan.scars:
        yield evolve(plan, scars=())
    for at, namespace in enumerate(plan.namespaces):
        if at > 0:  # callers need the first one
            yield evolve(plan, namespaces=(*plan.namespaces[:at], *plan.namespaces[at + 1 :]))
        if namespace.hosts > 1:
            fewer = evolve(namespace, hosts=namespace.hosts - 1)
            yield evolve(plan, namespaces=(*plan.namespaces[:at], fewer, *plan.namespaces[at + 1 :]))
    if plan.callers > 1:
        yield evolve(plan, callers=plan.callers - 1)
    last_ms = max((fault.at_ms + fault.for_ms for fault in plan.faults), default=0) + 300
    if last_ms < plan.duration_ms:
        yield evolve(plan, duration_ms=last_ms)
    for at, fault in enumerate(plan.faults):
        if fault.for_ms > 200:
            shorter: Fault = evolve(fault, for_ms=fault.for_ms // 2)
            yield evolve(plan, faults=(*plan.faults[:at], shorter, *plan.faults[at + 1 :]))
