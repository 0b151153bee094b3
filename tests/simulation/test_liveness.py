"""What has to come right after the heal is judged by the bound of its own namespace."""

from __future__ import annotations

import pytest
from attrs import evolve

from callboard.core.handoff_messages import NO_INCARNATION, Gone, Hello
from callboard.core.versions import Policy
from harness.simulation.kernel import MS
from harness.simulation.liveness import Liveness, Problem
from harness.simulation.plan import BARRIER, PATIENT, WILD, NamespacePlan, draw
from harness.simulation.world import World
from harness.violation import PropertyViolation

NAMESPACES = (
    NamespacePlan("shop", Policy.EXCLUSIVE, ("cart",), 2, WILD),
    NamespacePlan("mesh", Policy.EVENTUAL, ("feed",), 2, PATIENT),
    NamespacePlan("dapr", Policy.BARRIER, ("T1", "T2"), 2, barrier=BARRIER),
)


def healed() -> Liveness:
    """Of a cluster in which nothing has gone wrong, at the heal."""
    world = World(evolve(draw(1), namespaces=NAMESPACES, faults=(), scars=()))
    world.kernel.run_until(2_000 * MS)
    world.liveness._begin()
    return world.liveness


def let_pass(liveness: Liveness, passed_ms: int) -> None:
    """So much since the heal, in which nobody does anything."""
    liveness.world.kernel.now_us = (liveness.healed_ms + passed_ms) * MS


def test_each_namespace_is_held_to_its_own_bound() -> None:
    liveness = healed()
    shop_ms, mesh_ms, dapr_ms = (liveness.bounds_ms[namespace.name] for namespace in NAMESPACES)
    assert shop_ms < mesh_ms < dapr_ms
    problems = {each.name: Problem(each.name, "Convergence", "is behind") for each in NAMESPACES}
    let_pass(liveness, shop_ms)
    liveness._judge(list(problems.values()))
    let_pass(liveness, shop_ms + 1)
    liveness._judge([problems["mesh"], problems["dapr"]])
    assert liveness.shares() == {"exclusive": (shop_ms + 1) / shop_ms}
    with pytest.raises(PropertyViolation, match="Convergence: is behind"):
        liveness._judge(list(problems.values()))


def test_two_at_once_under_policy_eventual_are_held_to_the_bound_of_their_namespace() -> None:
    liveness = healed()
    let_pass(liveness, liveness.bounds_ms["mesh"])
    liveness.duplicate("mesh", "h1 and h2 both run it")
    let_pass(liveness, liveness.bounds_ms["mesh"] + 1)
    with pytest.raises(PropertyViolation, match="DuplicateWindow"):
        liveness.duplicate("mesh", "h1 and h2 both run it")


def test_nobody_who_is_a_member_may_be_told_that_it_is_gone() -> None:
    world = healed().world
    member = next(iter(world.history.state.native["shop"].members.values()))
    hello = Hello("shop", Policy.EXCLUSIVE, member.host, NO_INCARNATION, 1, 0, b"")
    world.says_gone("shop", Gone(member.incarnation + 1000, "it was removed"), hello)
    for incarnation in (member.incarnation, NO_INCARNATION):
        with pytest.raises(PropertyViolation, match="Convergence: a member is told that it was removed"):
            world.says_gone("shop", Gone(incarnation, "it was removed"), hello)
    dead = evolve(hello, host=evolve(member.host, process="another"))
    world.says_gone("shop", Gone(NO_INCARNATION, "it was removed"), dead)


def test_a_leader_may_end_a_stream_only_so_that_its_host_comes_again() -> None:
    world = healed().world
    world.calls_off("ABORTED", "a newer connection of host h1 took over")
    with pytest.raises(PropertyViolation, match="Convergence: a host that did nothing wrong is refused: FAILED_PRE"):
        world.calls_off("FAILED_PRECONDITION", "host h1 keeps state in another store")


def test_who_is_well_may_not_go_when_another_joins() -> None:
    liveness = healed()
    liveness._others_join()
    liveness._nobody_went()
    host, incarnation = liveness._well[0]
    liveness._well[0] = (host, incarnation + 1_000)
    with pytest.raises(PropertyViolation, match="had not done anything wrong, but is a member no more"):
        liveness._nobody_went()
    host.overdue = True
    liveness._nobody_went()


def test_a_namespace_that_somebody_joins_has_a_bound_since_then() -> None:
    liveness = healed()
    let_pass(liveness, liveness.bounds_ms["shop"])
    liveness._judge([])
    liveness._others_join()
    behind = [Problem("shop", "Convergence", "is behind")]
    let_pass(liveness, liveness._joined_ms["shop"])
    liveness._judge(behind)
    assert liveness.took_ms["shop"] == liveness.bounds_ms["shop"], "the join is no part of what the heal took"
    let_pass(liveness, liveness._joined_ms["shop"] + 1)
    with pytest.raises(PropertyViolation, match="Convergence: is behind"):
        liveness._judge(behind)


def test_before_the_heal_two_at_once_are_no_matter_under_policy_eventual() -> None:
    World(draw(1)).liveness.duplicate("mesh", "h1 and h2 both run it")


def test_somebody_has_to_be_in_office_within_a_bound_since_the_last_one_was() -> None:
    liveness = healed()
    let_pass(liveness, 1_000)
    assert liveness._somebody_is_in_office()
    for replica in liveness.world.replicas.values():
        liveness.world.crash_replica(replica, power=False)
    let_pass(liveness, 1_000 + liveness.office_ms())
    assert not liveness._somebody_is_in_office()
    let_pass(liveness, 1_001 + liveness.office_ms())
    with pytest.raises(PropertyViolation, match="EventuallyServed: nobody is in office"):
        liveness._somebody_is_in_office()
