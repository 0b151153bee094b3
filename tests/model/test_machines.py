"""Implementation and models side by side after every step, and the seeded bugs that each machine finds.

A failure prints the steps that lead to it, and `@reproduce_failure(...)`; the seed of the run is at the top of pytest's
output (`--hypothesis-seed`).
"""

from __future__ import annotations

import pytest

from callboard.core.versions import Policy
from harness.seeded_bugs import actors, barrier, handoff, membership, tables
from harness.seeded_bugs.registry import Bug
from tests.model.actor_machine import ActorMachine, TestActors
from tests.model.barrier_machine import BarrierMachine, TestBarrier
from tests.model.exclusive_machine import ExclusiveMachine, TestExclusive
from tests.model.membership_machine import MembershipMachine, TestMembership
from tests.model.support import SideBySide, search, steps_of
from tests.model.table_machine import TableMachine, TestTables

__all__ = ["TestActors", "TestBarrier", "TestExclusive", "TestMembership", "TestTables"]

TOO_RARE = {
    "change_of_holding_applied_to_any_base",
    "removed_host_answered",
    "gate_ignores_the_fence",
    "hello_said_once",
    "removed_before_its_welcome_hears_nothing",
}
"""Found by long walks only (tests/core/test_native_stateful.py)."""

MACHINES: list[tuple[type[SideBySide], list[Bug]]] = [
    (MembershipMachine, membership.BUGS),
    (TableMachine, tables.BUGS),
    (BarrierMachine, barrier.BUGS),
    (ExclusiveMachine, handoff.BUGS),
    (ActorMachine, actors.BUGS),
]
CASES = [
    (machine, bug)
    for machine, bugs in MACHINES
    for bug in bugs
    if bug.name not in TOO_RARE and bug.policy is Policy.EXCLUSIVE  # the other policy has walks only
]


@pytest.mark.parametrize(("machine", "bug"), CASES, ids=[f"{m.__name__}-{bug.name}" for m, bug in CASES])
def test_machines_find_seeded_bugs(machine: type[SideBySide], bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some failure is about a property that the bug is said to break."""
    bug.prepare(monkeypatch)
    examples, steps = machine.search_examples, steps_of(machine)
    _, found = search(machine, examples=examples, steps=steps, properties=bug.properties)
    assert found in bug.properties
