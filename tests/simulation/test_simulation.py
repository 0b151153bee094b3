"""The deterministic simulation: a sample of its seeds, its determinism, and what it does with a seed that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import evolve
from click.testing import CliRunner

from harness.simulation.__main__ import main
from harness.simulation.bench import BEGIN as BENCH_BEGIN
from harness.simulation.bench import Row, write_bench
from harness.simulation.campaign import SeedResult, Totals, append_result, read_results, run_plan, run_seeds
from harness.simulation.plan import Fault, Plan, draw
from harness.simulation.rare import FREQUENT, RARE
from harness.simulation.record import BEGIN, write_campaign
from harness.simulation.shrink import shrink

SAMPLE = 100
REPOSITORY = Path(__file__).resolve().parents[2]
DIGEST = """
import sys
from harness.simulation.campaign import run_plan
from harness.simulation.plan import draw
print([run_plan(draw(int(seed)), digest=True).digest for seed in sys.argv[1:]])
"""


def first_seed(config: pytest.Config) -> int:
    """Other seeds with each commit: from the seed that Hypothesis gets."""
    return int(config.getoption("--hypothesis-seed", default=None) or 0) % 1_000_000 + 1_000_000


def test_a_sample_of_seeds_keeps_every_property(pytestconfig: pytest.Config) -> None:
    first = first_seed(pytestconfig)
    totals = Totals()
    for result in run_seeds(range(first, first + SAMPLE)):
        totals.add(result)
    assert not totals.violations, f"replay: python -m harness.simulation --seed {totals.violations[0][0]} --log"
    assert totals.owner_changes > 10 * SAMPLE
    assert totals.leader_changes > SAMPLE
    assert sum(totals.faults_bitten.values()) > 5 * SAMPLE
    assert not totals.never_met(FREQUENT)
    assert set(totals.rare) <= set(RARE), "a rare situation that the registry does not know"
    assert totals.checked["calls: ok"] > 20 * SAMPLE


def test_a_seed_is_one_run_in_every_process() -> None:
    seeds = ["3", "7", "11", "19"]
    digests = set()
    for hash_seed in ("0", "1", "4711"):
        path = os.pathsep.join([str(REPOSITORY / "impl"), str(REPOSITORY)])
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        found = subprocess.run(
            [sys.executable, "-c", DIGEST, *seeds], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(found.stdout)
    digests.add(f"{[run_plan(draw(int(seed)), digest=True).digest for seed in seeds]}\n")
    assert len(digests) == 1


def test_another_seed_is_another_run() -> None:
    assert run_plan(draw(3), digest=True).digest != run_plan(draw(4), digest=True).digest


def test_clocks_beyond_the_bound_break_the_exclusive_policy() -> None:
    """The control: with clocks that go wrong by more than the settings allow, two hosts serve at once some time."""
    for seed in range(1, 200):
        plan = evolve(draw(seed), rate_error_ppm=400_000)
        if run_plan(plan).violated == "SingleActivation":
            return
    pytest.fail("clocks do not matter: leases are not what keeps hosts apart here")


def test_shrinking_keeps_what_matters() -> None:
    plan = draw(5)
    needed = (plan.faults[1], plan.faults[4])

    def judge(candidate: Plan) -> str:
        return "Convergence" if set(needed) <= set(candidate.faults) else ""

    smaller = shrink(plan, judge)
    assert {evolve(fault, for_ms=0) for fault in smaller.faults} == {evolve(fault, for_ms=0) for fault in needed}
    assert smaller.namespaces[0].hosts == 1
    assert smaller.callers == 1


def test_faults_of_a_plan_happen_when_it_says() -> None:
    plan = evolve(draw(1), faults=(Fault(1000, "crash_leader", for_ms=300),), scars=())
    result = run_plan(plan)
    assert result.faults_bitten == {"crash_leader": 1}
    assert result.leader_changes >= 1


def test_results_survive_an_interruption(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for seed in (1, 2):
        append_result(path, SeedResult(seed, owner_changes=seed))
    with path.open("a") as file:
        file.write('{"seed": 3, "owner')
    assert {seed: result.owner_changes for seed, result in read_results(path).items()} == {1: 1, 2: 2}


def test_bench(tmp_path: Path) -> None:
    found = CliRunner().invoke(main, ["bench", "--simulated-s", "1", "-o", "json"])
    assert found.exit_code == 0, found.output
    rows = [Row(**row) for row in json.loads(found.output)]
    for row in rows:
        assert 0 < row.busy_percent <= 100
        assert row.busy_per_cpu == pytest.approx(row.simulated_per_cpu * row.busy_percent / 100)
        assert row.calls_per_simulated_s > 0
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BENCH_BEGIN}old\n<!-- end -->\nafter\n")
    write_bench(readme, rows, 1)
    assert f"| {rows[0].what} | {rows[0].calls_per_simulated_s:.0f} |" in readme.read_text()
    assert readme.read_text().startswith("before\n")


def test_commands(tmp_path: Path) -> None:
    runner = CliRunner()
    found = runner.invoke(main, ["--seed", "2", "--log"])
    assert found.exit_code == 0, found.output
    assert "-> Granted" in found.output
    assert "every property held" in found.output
    kept = tmp_path / "results.jsonl"
    found = runner.invoke(main, ["--seeds", "1-2", "--results", str(kept), "-o", "json"])
    assert found.exit_code == 0, found.output
    summary = json.loads(found.output)
    assert (summary["seeds"], summary["violations"]) == (2, [])
    assert summary["real_s"] > 0
    again = json.loads(runner.invoke(main, ["--seeds", "1-2", "--results", str(kept), "-o", "json"]).output)
    assert [again[name] for name in ("events", "real_s")] == [summary[name] for name in ("events", "real_s")]
    for arguments, text in (
        (["--seeds", "9-1"], "'9-1' has no seeds"),
        (["--seeds", "x"], "'x' is not FIRST-LAST"),
        (["--seed", "2", "--faults", "99"], "'99': the plan has faults 0 to"),
        (["--log"], "need --seed"),
    ):
        found = runner.invoke(main, arguments)
        assert found.exit_code == 2
        assert text in found.output
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}old\n<!-- end -->\nafter\n")
    write_campaign(readme, summary)
    assert "| violations | 0 |" in readme.read_text()
    assert "| real time | 0.00 h with one process |" in readme.read_text()
    write_campaign(readme, {**summary, "jobs": [1, 3], "real_s": 5400})
    assert "| real time | 1.50 h with 1 or 3 processes |" in readme.read_text()
    assert readme.read_text().startswith("before\n")
    assert readme.read_text().endswith("<!-- end -->\nafter\n")
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="has no <!-- simulation campaign -->"):
        write_campaign(readme, summary)
