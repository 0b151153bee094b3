"""Leader and host machines against each other in random walks: properties hold, and catch seeded bugs."""

from __future__ import annotations

from random import Random

import pytest
from attrs import evolve

from callboard.core.handoff_messages import NO_INCARNATION, Gone, Hello
from callboard.core.native_leader import NativeLeader
from callboard.core.versions import Policy
from harness.seeded_bugs.handoff import BUGS
from harness.seeded_bugs.registry import Bug
from harness.violation import PropertyViolation
from tests.core.native_checks import check_healed
from tests.core.native_network import NativeNetwork
from tests.core.native_parts import SETTINGS
from tests.core.native_walk import walk

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


def meets_a_deposed_leader() -> NativeNetwork:
    """A host that the next leader took in comes, through a front that does not know of it, to the one before."""
    network = NativeNetwork(Random(1))
    network.start("a", ("cart",))
    network.advance(2000, settle=True)
    deposed = network.office
    network.take_office()
    network.start("b", ("cart",))
    network.advance(2000, settle=True)
    _, newcomer = network.processes
    assert newcomer.machine.incarnation in network.members
    network.connect(newcomer, deposed)
    network.advance(500, settle=True)
    return network


def test_a_deposed_leader_tells_no_member_that_it_is_gone() -> None:
    check_healed(meets_a_deposed_leader())


def test_a_deposed_leader_that_does_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = NativeLeader._answer_hello

    def answer_hello(leader: NativeLeader, stream_id: int, hello: Hello, *, leads: bool) -> None:
        del leads
        original(leader, stream_id, hello, leads=True)

    monkeypatch.setattr(NativeLeader, "_answer_hello", answer_hello)
    with pytest.raises(PropertyViolation, match="Convergence: a member is told that incarnation 2 of b was removed"):
        meets_a_deposed_leader()


def test_a_member_may_not_be_told_that_its_process_was_removed_either() -> None:
    network = NativeNetwork(Random(1))
    network.start("a", ("cart",))
    (process,) = network.processes
    gone, host = Gone(NO_INCARNATION, "it was removed"), process.machine.record
    network.is_true(gone, host)
    network.advance(500, settle=True)
    network.is_true(gone, evolve(host, process="another"))
    with pytest.raises(PropertyViolation, match="Convergence: a member is told that it was removed"):
        network.is_true(gone, host)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_seeded_bugs_are_caught(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.prepare(monkeypatch)
    for seed in range(MUTANT_WALKS):
        try:
            walk(seed, LONG_WALK_STEPS if bug.stalls else WALK_STEPS, stalls=bug.stalls, policy=bug.policy)
        except PropertyViolation as violation:
            if violation.name in bug.properties:
                return
    pytest.fail(f"{bug.name} survived {MUTANT_WALKS} walks")


def test_a_slot_that_is_served_in_two_places_after_the_heal_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody calls meanwhile: only the end shows it."""
    bug = next(bug for bug in BUGS if bug.name == "lost_slots_are_kept")
    bug.prepare(monkeypatch)
    network = NativeNetwork(Random(1), bug.policy)
    network.start("a", ("cart",))
    network.advance(500, settle=True)
    network.start("b", ("cart",))
    with pytest.raises(PropertyViolation, match="is served by a and b") as caught:
        check_healed(network)
    assert caught.value.name == "ExactlyOneAfterHeal"
