"""Each known defect of the library: its reproduction, and the same run over callboard's engine."""

from __future__ import annotations

import pytest

from harness.raftsim.engines import engine_kind
from harness.raftsim.mutants import MUTANTS, mutant_kind
from harness.raftsim.scenarios import SCENARIOS, run_scenario

_SHARED = [name for name, scenario in SCENARIOS.items() if not scenario.library_only]
_BREAKABLE = [(name, mutant.scenario) for name, mutant in MUTANTS.items() if mutant.scenario is not None]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_library_has_the_defect(name: str) -> None:
    assert run_scenario(name, engine_kind("unguarded")) is not None


@pytest.mark.parametrize("name", _SHARED)
def test_the_engine_has_not(name: str) -> None:
    assert run_scenario(name, engine_kind("hardened")) is None


@pytest.mark.parametrize(("mutant", "scenario"), _BREAKABLE)
def test_without_its_guard_the_engine_has_the_defect(mutant: str, scenario: str) -> None:
    assert run_scenario(scenario, mutant_kind(mutant)) is not None
