"""`python -m harness.raftsim`: what it prints, and what its exit status means."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from harness.raftsim.__main__ import main

FAILING = ["--engine", "unguarded", "--crashes", "kill", "--schedules", "60"]


def test_a_clean_run_is_reported_as_json_and_exits_with_0(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = CliRunner().invoke(main, ["--schedules", "5", "--seed", "7", "-o", "json", "--report", str(report)])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["engine"], summary["schedules"], summary["failures"]) == ("hardened", 5, 0)
    assert summary["acknowledged"] > 0
    assert summary["schedules_per_cpu_second"] > 0
    assert json.loads(report.read_text()) == summary


def test_a_failing_seed_exits_with_1_and_names_the_command_that_replays_it() -> None:
    done = CliRunner().invoke(main, FAILING)
    assert done.exit_code == 1
    (line,) = [line for line in done.stderr.splitlines() if "replay:" in line]
    arguments = line.split("python -m harness.raftsim ")[1].split()
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1
    first = next(line for line in done.stderr.splitlines() if line.startswith("seed "))
    assert first in again.stderr.splitlines(), "the same rule breaks in the same way"
    assert "shortest found:" in again.stderr


def test_a_scenario_says_what_went_wrong() -> None:
    wrong = CliRunner().invoke(main, ["scenario", "poison", "--engine", "unguarded"])
    assert wrong.exit_code == 1
    assert "poison: StateMachineSafety" in wrong.output
    clean = CliRunner().invoke(main, ["scenario", "poison", "--engine", "hardened"])
    assert (clean.exit_code, clean.output) == (0, "poison: clean\n")


def test_a_schedule_can_be_shown() -> None:
    done = CliRunner().invoke(main, ["show", "7"])
    assert done.exit_code == 0
    assert "replicas" in done.output.splitlines()[0]
    assert len(done.output.splitlines()) > 40
