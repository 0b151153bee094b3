"""Native namespaces under apply: rules S2 to S6, `Balance`, `MinimalMovement`, and the same result on every replica."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from callboard.core.commands import CommitNativeBatch, Removal
from callboard.core.records import AnswerCode
from callboard.core.slot_assignment import Candidate, assign, empty_table
from callboard.core.slot_records import slot_of
from harness.violation import PropertyViolation
from tests.core.leader_driver import NAME, LeaderDriver, record
from tests.core.slot_mutants import MUTANTS, Prepare
from tests.core.slot_walk import STEPS, Course, Step, walk

WALKS = 40
WALK_STEPS = 60
MUTANT_WALKS = 120


def test_walks_keep_all_properties() -> None:
    hosts = [len(walk(seed, WALK_STEPS).namespace.members) for seed in range(WALKS)]
    assert max(hosts) >= 8
    assert min(hosts) <= 3


@pytest.mark.parametrize(("name", "prepare", "killed_by"), MUTANTS, ids=[each[0] for each in MUTANTS])
def test_seeded_bugs_are_caught(
    name: str, prepare: Prepare, killed_by: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    others = set()
    for seed in range(MUTANT_WALKS):
        try:
            walk(seed, WALK_STEPS)
        except PropertyViolation as violation:
            if violation.name in killed_by:
                return
            others.add(violation.name)
    pytest.fail(f"{name} survived {MUTANT_WALKS} walks; seen: {sorted(others)}")


class DrawnCourse(RuleBasedStateMachine):
    """The same steps, drawn and shrunk by Hypothesis."""

    def __init__(self) -> None:
        super().__init__()
        self.course = Course(Random(0))

    @rule(step=st.sampled_from(STEPS), seed=st.integers(0, 255))
    def step(self, step: Step, seed: int) -> None:
        self.course.random.seed(seed)
        step(self.course)

    def teardown(self) -> None:
        self.course.check_agreement()


TestDrawnCourse = DrawnCourse.TestCase
TestDrawnCourse.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


def test_a_late_removal_of_an_earlier_incarnation_removes_nobody() -> None:
    driver = LeaderDriver()
    earlier = driver.join(1, record("a"))
    driver.take_over(2, record("a", process="p2"))
    driver.commit()
    present = driver.namespace.members["a"].incarnation
    before = driver.namespace
    answer = driver.apply(CommitNativeBatch(driver.state.epoch, NAME, (), (Removal("a", earlier),), reason="late"))
    assert answer.code is AnswerCode.UNCHANGED
    assert driver.namespace == before
    assert before.members["a"].incarnation == present


def test_the_bounds_at_a_thousand_hosts() -> None:
    """A join and a leave among 1,000 hosts of one weight, 32 slots for each: 1.10 and the fair share, with room."""
    hosts = [Candidate(number, 100) for number in range(1, 1002)]
    before = assign(empty_table(1 << 15), hosts[:1000], 1, {}, joined=True)
    joined = assign(before, hosts, 2, {}, joined=True)
    moved = [slot for slot, owner in enumerate(joined.owners) if owner != before.owners[slot]]
    assert {joined.owners[slot] for slot in moved} == {1001}
    assert len(moved) <= 33
    assert max(map(joined.owners.count, range(1, 1002))) <= 1.10 * (1 << 15) / 1001
    left = assign(joined, [host for host in hosts if host.incarnation != 500], 3, {}, joined=False)
    moved = [slot for slot, owner in enumerate(left.owners) if owner != joined.owners[slot]]
    assert moved == [slot for slot, owner in enumerate(joined.owners) if owner == 500]


def test_slots_of_actors_never_change() -> None:
    """State and reminders are found by them, and hosts of different releases must agree."""
    assert [slot_of("Cart", "alice", bits) for bits in (4, 10, 16)] == [9, 583, 37313]
    assert slot_of("", "", 16) == 10078
    assert slot_of("Cart\ud800", "\udfff", 16) == 56945
