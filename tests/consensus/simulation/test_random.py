"""Random schedules: callboard's engine is clean, the library is caught, broken engines are caught, seeds repeat."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.raftsim.engines import engine_kind
from harness.raftsim.mutants import MUTANTS, mutant_kind
from harness.raftsim.runner import EngineKind, Failure, run_many, run_schedule, shorten
from harness.raftsim.schedule import generate

SCHEDULES = 1600
BLOCKS = 8
LIBRARY_IS_CAUGHT_WITHIN = 60
"""Schedules that the unguarded library may survive, with crashes that lose nothing that was written."""
MUTANTS_ARE_CAUGHT_WITHIN = 250

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("block", range(BLOCKS))
def test_the_engine_is_clean(block: int) -> None:
    share = SCHEDULES // BLOCKS
    totals = run_many(engine_kind("hardened"), iter(range(block * share, (block + 1) * share)))
    assert not totals.failures, [(f.schedule.seed, f.rule, f.detail) for f in totals.failures]
    assert totals.acknowledged > 5 * share, "schedules in which hardly anything succeeds prove little"


@pytest.mark.parametrize("power", [False, True])
def test_the_library_is_caught(power: bool) -> None:
    totals = run_many(engine_kind("unguarded"), iter(range(LIBRARY_IS_CAUGHT_WITHIN)), power=power, stop_after=1)
    assert totals.failures


@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if mutant.rules])
def test_a_broken_engine_is_caught(name: str) -> None:
    failures = _failures(mutant_kind(name), iter(range(MUTANTS_ARE_CAUGHT_WITHIN)))
    assert any(failure.rule in MUTANTS[name].rules for failure in failures)


def _failures(kind: EngineKind, seeds: Iterator[int]) -> Iterator[Failure]:
    for seed in seeds:
        failure = run_schedule(kind, generate(seed))
        if failure is not None:
            yield failure


def test_a_failing_schedule_is_shortened_and_still_fails() -> None:
    kind = mutant_kind("entries_are_applied_twice")
    failure = next(_failures(kind, iter(range(50))))
    shortest = shorten(kind, failure, max_runs=120)
    assert len(shortest.schedule.events) < len(failure.schedule.events) / 2
    again = run_schedule(kind, shortest.schedule)
    assert again is not None
    assert again.rule == failure.rule


@pytest.mark.parametrize("engine", ["hardened", "unguarded"])
def test_a_seed_is_the_same_run_in_every_process(engine: str) -> None:
    code = (
        "from harness.raftsim.engines import engine_kind\n"
        "from harness.raftsim.runner import run_many\n"
        f"totals = run_many(engine_kind({engine!r}), iter(range(12)))\n"
        "print(totals.messages, totals.disk_changes, totals.acknowledged, totals.events, dict(totals.rules))\n"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT / 'impl'}{os.pathsep}{ROOT}"},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1, answers
