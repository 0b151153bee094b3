"""What a campaign over everything has to show, and what it has not shown so far.

Each run has gates of its own (see `gates`). These are those of the whole: a campaign that drew no fault of some kind,
or in which some checker never said anything, has not looked there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.faults.gates import FUNCTIONS
from harness.faults.history import Phase
from harness.faults.nemeses import KINDS
from harness.faults.plan import ENGINES, POLICIES, Planned
from harness.faults.runner import ALL_WORKLOADS
from harness.faults.schedules import scenarios

OF_NAMESPACES = tuple(
    f"{what}_{namespace}" for what in ("tables", "convergence") for namespace in ("actors", "register", "sidecars")
)
CHECKERS = (
    *("linearizability_member", "linearizability_counter", "linearizability_list", "linearizability_by_index"),
    *("positions", "replicas", "logs", "processes", "availability", "failover", "wire", "rounds"),
    *("single_activation", "stale_turns", "grants", "gate", "renewals", "fence_monotonic", "turn_based"),
    *("duplicate_window", "exactly_one", "acknowledged_once"),
    *OF_NAMESPACES,
)
"""All that there are."""
Figures = Mapping[str, Any]


def missing(summary: Figures) -> list[str]:
    """What a campaign's summary does not show, one line each; empty for one that went through everything."""
    lines = _absent("kinds of faults that never bit", KINDS, _bitten(summary))
    lines += _absent("scenarios that did not run", scenarios(), summary["scenarios"])
    lines += _absent("workloads that did not run", ALL_WORKLOADS, summary["workloads"])
    lines += _absent("engines that did not run", dict.fromkeys(ENGINES), _of_clusters(summary, "engine"))
    lines += _absent("policies that did not run", dict.fromkeys(POLICIES), _of_clusters(summary, "policy"))
    lines += _absent("checkers without a valid verdict", CHECKERS, _valid(summary))
    lines += _absent("operations that never succeeded", _all_operations(), _succeeded(summary))
    orders = [f"orders {phase}" for phase, count in summary["sidecar_orders"].items() if count]
    lines += _absent("phases without orders to sidecars", [f"orders {phase.value}" for phase in Phase], orders)
    for name, what in (
        ("moves", "no actor moved"),
        ("leader_changes", "no leader changed"),
        ("stale_refused", "the store refused no stale write"),
    ):
        lines += [] if summary[name] else [what]
    return lines


def unplanned(planned: Iterable[Planned]) -> list[str]:
    """What a plan leaves out, one line each."""
    schedules = [each.schedule for each in planned]
    kinds = {fault.kind for schedule in schedules for fault in schedule.faults}
    lines = _absent("kinds of faults that are not planned", KINDS, kinds)
    lines += _absent("scenarios that are not planned", scenarios(), {schedule.name for schedule in schedules})
    workloads = {name for schedule in schedules for name in schedule.settings.get("workloads", ALL_WORKLOADS)}
    return lines + _absent("workloads that are not planned", ALL_WORKLOADS, workloads)


def _absent(what: str, wanted: Iterable[str], found: Iterable[str]) -> list[str]:
    there = set(found)
    lacking = [name for name in wanted if name not in there]
    return [f"{what}: {', '.join(lacking)}"] if lacking else []


def _bitten(summary: Figures) -> list[str]:
    return [kind for kind, counts in summary["faults"].items() if counts["bitten"]]


def _of_clusters(summary: Figures, name: str) -> set[str]:
    return {str(cluster[name]) for cluster in summary["clusters"]}


def _valid(summary: Figures) -> list[str]:
    return [checker for checker, counts in summary["verdicts"].items() if counts["valid"]]


def _all_operations() -> list[str]:
    """As the summary names them, with the phase."""
    functions = [each for of_workload in FUNCTIONS.values() for each in of_workload]
    return [f"{name} {prefix.rstrip('/')} {phase.value}" for name, prefix in functions for phase in Phase]


def _succeeded(summary: Figures) -> list[str]:
    return [
        f"{name} {phase}"
        for name, phases in summary["operations"].items()
        for phase, counts in phases.items()
        if counts["ok"]
    ]
