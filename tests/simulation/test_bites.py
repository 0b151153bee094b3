"""Faults count a bite only if something happened."""

from __future__ import annotations

from attrs import evolve

from harness.simulation.campaign import run_plan
from harness.simulation.kernel import MS
from harness.simulation.plan import Fault, draw
from harness.simulation.world import HOSTS_MAX, World

CALM_STORM = 416
"""A draw of a storm in which nobody leaves."""


def test_a_fault_without_an_effect_has_not_bitten() -> None:
    """A cluster that is full takes nobody, and replicas that are dead have no power to lose."""
    plan = evolve(draw(1), namespaces=(evolve(draw(1).namespaces[0], hosts=HOSTS_MAX),), scars=(), stubborn_percent=0)
    joins = Fault(1500, "join"), Fault(1600, "storm", other=CALM_STORM)
    result = run_plan(evolve(plan, faults=joins))
    assert result.faults == {"join": 1, "storm": 1}
    assert result.faults_bitten == {}
    assert "a storm of joins and leaves" not in result.rare
    dark = [Fault(1500, "crash_replica", target, for_ms=900) for target in range(3)]
    result = run_plan(evolve(plan, faults=(*dark, Fault(1600, "power_all", for_ms=100))))
    assert result.faults_bitten == {"crash_replica": 3}
    assert "all replicas lose power" not in result.rare


def test_a_twin_beside_a_newer_process_has_not_bitten() -> None:
    world = World(draw(1))
    world.kernel.run_until(1_500 * MS)
    host = world.hosts[0]
    assert world.start_again(host)
    assert not world.start_again(host)
