"""Leader and host machines against each other under a drawn network: properties hold, and catch seeded bugs."""

from __future__ import annotations

from random import Random

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from callboard.core.versions import Policy
from tests.core.native_checks import check_healed, check_rights
from tests.core.native_mutants import MUTANTS, Prepare
from tests.core.native_network import NativeNetwork
from tests.core.native_parts import SETTINGS, PropertyViolation
from tests.core.native_walk import STEPS, start, walk

WALKS = 60
WALK_STEPS = 120
LONG_WALK_STEPS = 300
MUTANT_WALKS = 200


@pytest.mark.parametrize("part", range(4))
def test_walks_keep_all_properties(part: int) -> None:
    granted = lives = 0
    for seed in range(part * WALKS, (part + 1) * WALKS):
        network = walk(seed, WALK_STEPS)
        granted += network.grants_seen
        lives += network.rejoins
    assert granted > 1000, "walks in which nothing is served prove nothing"
    assert lives > 5


def test_walks_with_answers_that_come_late() -> None:
    for seed in range(10):
        walk(seed, WALK_STEPS, stalls=8)


@pytest.mark.parametrize("max_isolation_ms", [0, 2000])
def test_walks_of_policy_eventual(max_isolation_ms: int) -> None:
    for seed in range(40):
        random = Random(seed)
        times = evolve(SETTINGS, max_isolation_ms=max_isolation_ms)
        walk(seed, WALK_STEPS, network=NativeNetwork(random, Policy.EVENTUAL, times))


@pytest.mark.parametrize(("name", "prepare", "killed_by", "stalls"), MUTANTS, ids=[each[0] for each in MUTANTS])
def test_seeded_bugs_are_caught(
    name: str, prepare: Prepare, killed_by: tuple[str, ...], stalls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    for seed in range(MUTANT_WALKS):
        try:
            walk(seed, LONG_WALK_STEPS if stalls else WALK_STEPS, stalls=stalls)
        except PropertyViolation as violation:
            if violation.name in killed_by:
                return
    pytest.fail(f"{name} survived {MUTANT_WALKS} walks")


class DrawnNetwork(RuleBasedStateMachine):
    """The same steps, drawn and shrunk by Hypothesis."""

    def __init__(self) -> None:
        super().__init__()
        self.random = Random(0)
        self.network = NativeNetwork(self.random)
        start(self.network, self.random)

    @rule(step=st.sampled_from(list(STEPS)), seed=st.integers(0, 255))
    def step(self, step: object, seed: int) -> None:
        assert callable(step)
        self.random.seed(seed)
        step(self.network, self.random)

    @rule(seed=st.integers(0, 255))
    def calm(self, seed: int) -> None:
        self.random.seed(seed)
        next(each for each in STEPS if each.__name__ == "calm")(self.network, self.random)

    @invariant()
    def rights_never_overlap(self) -> None:
        check_rights(self.network)

    def teardown(self) -> None:
        check_healed(self.network)


TestDrawnNetwork = DrawnNetwork.TestCase
TestDrawnNetwork.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
