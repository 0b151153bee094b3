"""The runner as a whole, with TLC itself, on a small specification of the tests' own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.modelcheck.cli import main

SPECS = Path(__file__).parent / "specs"
Run = Callable[..., Result]


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SPECS, tmp_path / "specs"))


@pytest.fixture
def run(specs: Path, tmp_path: Path) -> Run:
    def call(*options: str) -> Result:
        return CliRunner().invoke(main, ["--spec", str(specs), "--build", str(tmp_path / "build"), *options])

    return call


def change(specs: Path, file: str, old: str, new: str) -> None:
    text = (specs / file).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {file}"
    (specs / file).write_text(text.replace(old, new), encoding="utf-8")


def runs_of(result: Result) -> dict[str, dict[str, Any]]:
    return {run["name"]: run for run in json.loads(result.stdout)["runs"]}


def test_everything_as_expected(run: Run, tmp_path: Path) -> None:
    result = run("--tier", "all", "-o", "json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["ok"]
    assert document["mutants"] == {"killed": 3, "total": 3}
    runs = runs_of(result)
    assert runs["Canary"]["violated"] == "MutualExclusion"
    assert runs["MCCounter"]["states_distinct"] == 8
    assert runs["REACHCounter_Full"]["violated"] == "NeverFull"
    assert runs["LIVECounter without fairness"]["violated"] == "Returns"
    assert runs["never_starts_anew"]["violated"] == "Returns"
    assert runs["SIMCounter"]["result"] == "pass"
    assert (tmp_path / "build" / "MCCounter.out").stat().st_size > 0


def test_every_kind_of_surprise_is_named_and_ends_with_exit_code_1(run: Run, specs: Path) -> None:
    change(specs, "manifest/Counter.toml", "distinct = 8\ngenerated = 9\ndepth = 8", "distinct = 9\ngenerated = 9")
    change(specs, "manifest/Counter.toml", 'coverage_exempt = { Overflow = "the limit is never passed" }', "")
    change(specs, "REACHCounter_Full.cfg", "NeverFull", "NeverFull Bounded")
    change(specs, "manifest/Counter.toml", 'property = "NeverFull"', 'property = "Bounded"')
    change(specs, "LIVECounter.cfg", "FairSpec", "Spec")
    change(specs, "mutants/Counter.toml", "Limit + 1", "Limit + 0")
    result = run("-o", "json")
    assert result.exit_code == 1
    surprises = {name: " ".join(r["surprises"]) for name, r in runs_of(result).items() if not r["ok"]}
    assert "distinct is 8, but the manifest says 9" in surprises["MCCounter"]
    assert "action Overflow never fired" in surprises["MCCounter"]
    assert "NeverFull is violated instead of Bounded" in surprises["REACHCounter_Full"]
    assert "Returns is violated, but the config was to pass" in surprises["LIVECounter"]
    assert "Bounded holds, but was to be violated" in surprises["no_limit"]
    assert set(surprises) == {"MCCounter", "REACHCounter_Full", "LIVECounter", "no_limit"}


def test_a_property_that_needs_no_fairness_is_a_surprise(run: Run, specs: Path) -> None:
    change(specs, "Counter.tla", "Returns == []<>(count = 0)", "Returns == []<>(count <= 3)")
    result = run("--only", "LIVECounter*", "-o", "json")
    assert result.exit_code == 1
    surprising = [name for name, r in runs_of(result).items() if not r["ok"]]
    assert surprising == ["LIVECounter without fairness"]


def test_a_deadlock_is_found_where_it_is_asked_for(run: Run, specs: Path) -> None:
    change(specs, "Counter.tla", "Restart == /\\ count = Limit", "Restart == /\\ FALSE")
    change(specs, "manifest/Counter.toml", "coverage = true", "deadlock = true")
    change(specs, "manifest/Counter.toml", 'coverage_exempt = { Overflow = "the limit is never passed" }', "")
    result = run("--only", "MCCounter", "-o", "json")
    assert result.exit_code == 1
    assert runs_of(result)["MCCounter"]["violated"] == "Deadlock"


def test_a_module_that_does_not_parse_is_a_surprise(run: Run, specs: Path) -> None:
    change(specs, "Counter.tla", "Bounded == count <= 3", "Bounded == count <= ")
    result = run("--only", "MCCounter", "-o", "json")
    assert result.exit_code == 1
    assert runs_of(result)["MCCounter"]["result"] == "error"


def test_a_run_that_takes_too_long_is_stopped(run: Run, specs: Path) -> None:
    change(specs, "Counter.tla", "sent' = (sent + 1) % 4", "sent' = sent + 1")
    change(specs, "manifest/Counter.toml", "depth = 8\n", "depth = 8\ntimeout_s = 4\n")
    result = run("--only", "MCCounter", "-o", "json")
    assert result.exit_code == 1
    assert runs_of(result)["MCCounter"]["result"] in ("timeout", "violated")


def test_a_canary_that_does_not_fail_stops_everything(run: Run, specs: Path, tmp_path: Path) -> None:
    change(specs, "Canary.cfg", "{1, 2}", "{1}")
    result = run()
    assert result.exit_code == 2
    assert "canary" in result.stderr
    assert not (tmp_path / "build" / "MCCounter.out").exists()


def test_a_lint_fault_stops_everything(run: Run, specs: Path, tmp_path: Path) -> None:
    change(specs, "Counter.tla", "Send == /\\ wire = 0", "Send == /\\ wire = 0 /\\ count < 3")
    result = run()
    assert result.exit_code == 2
    assert "action Send of server mentions count, which belongs to host" in result.stderr
    assert not (tmp_path / "build").exists()


def test_counts_are_written_on_request_only(run: Run, specs: Path) -> None:
    change(specs, "manifest/Counter.toml", "distinct = 8\ngenerated = 9\ndepth = 8\n", "")
    manifest = specs / "manifest" / "Counter.toml"
    before = manifest.read_text(encoding="utf-8")
    result = run("--only", "MCCounter")
    assert result.exit_code == 1
    assert "the manifest has no count of distinct states (found 8" in result.stdout
    assert manifest.read_text(encoding="utf-8") == before
    run("--only", "MCCounter", "--update-counts")
    assert "distinct = 8\ngenerated = 9\n" in manifest.read_text(encoding="utf-8")
    assert run("--only", "MCCounter").exit_code == 0


def test_a_counterexample_is_explained_and_drawn(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    result = run("--explain", "REACHCounter_Full", "--svg", str(picture))
    assert result.exit_code == 0, result.output
    assert re.search(r"Receive[^├]*count: 2 -> 3", result.stdout)
    assert "violated: NeverFull" in result.stdout
    assert picture.read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('find = "count < Limit"', 'find = "count <= Limit"', "occurs 0 times in Counter.tla, must be once"),
        ('find = "count < Limit"', 'find = "Limit"', "times in Counter.tla, must be once"),
        ('replace = "count < Limit + 1"', 'replace = "count < Limit"', "find and replace are the same"),
        ('killed_by = "Bounded"', 'killed_by = "Steady"', "MCCounter.cfg does not check 'Steady'"),
    ],
)
def test_a_mutant_that_does_not_apply_is_an_error(run: Run, specs: Path, old: str, new: str, message: str) -> None:
    change(specs, "mutants/Counter.toml", old, new)
    result = run("--only", "no_limit")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "no_limit" in result.stderr


def test_nothing_to_run_is_an_error(run: Run) -> None:
    result = run("--only", "Nothing*")
    assert result.exit_code == 2
    assert "--only Nothing*" in result.stderr
