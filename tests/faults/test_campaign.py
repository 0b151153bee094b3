"""Campaigns: what they run, what they add up, and that they end in order."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.faults.campaign import kept_runs
from harness.faults.commands import about_of, choices_of, exit_code, main, parser
from harness.faults.coverage import CHECKERS, missing, unplanned
from harness.faults.figures import figures_of, moves_of, out_of_service, spread
from harness.faults.gates import FUNCTIONS
from harness.faults.history import Outcome, Phase, Recorder, read_history
from harness.faults.nemeses import KINDS
from harness.faults.plan import Choices, Planned, _drawn, plan, rarest, within
from harness.faults.runner import commit
from harness.faults.schedules import scenarios
from harness.faults.summary import BEGIN, END, markdown, record, seeds_text, summarise
from harness.faults.verdicts import judge
from harness.processes import REPOSITORY, wait_until
from tests.faults.test_checkers_of_replicas import history_of_nothing

MS = 1_000_000
ABOUT = {"command": "callboard-faults campaign", "date": "2026-01-01", "commit": "", "ended": "2 runs"}


def planned(choices: Choices, count: int) -> list[Planned]:
    return list(itertools.islice(plan(choices), count))


def test_a_plan_goes_through_everything_before_it_repeats_and_is_the_same_again() -> None:
    runs = planned(Choices(seed=5, each_s=10.0), 2 * len(scenarios()))
    assert runs == planned(Choices(seed=5, each_s=10.0), len(runs))
    stored = [run.schedule.name for run in runs if run.schedule.about]
    assert sorted(stored) == sorted(scenarios())
    assert stored != [run.schedule.name for run in planned(Choices(seed=6, each_s=10.0), len(runs)) if run.number % 2]
    drawn = [run.schedule for run in runs if not run.schedule.about]
    assert len({schedule.seed for schedule in drawn}) == len(drawn)
    for name, values in (
        ("engine", {"pysyncobj", "etcd"}),
        ("policy", {"exclusive", "eventual"}),
        ("replicas", {1, 3, 5}),
    ):
        assert {schedule.settings[name] for schedule in drawn} == values


@pytest.mark.parametrize("seed", [1, 1000])
def test_a_campaign_of_two_hours_leaves_nothing_out(seed: int) -> None:
    runs = within(Choices(seed=seed), live_s=7200)
    assert unplanned(runs) == []
    kinds = Counter(fault.kind for run in runs for fault in run.schedule.faults)
    assert all(count >= 2 for count in kinds.values()), kinds
    few = within(Choices(seed=seed), live_s=7200, runs=3)
    assert few == runs[:3]
    assert [line.partition(":")[0] for line in unplanned(few)] == [
        "kinds of faults that are not planned",
        "scenarios that are not planned",
    ]


def test_what_came_least_is_planned_next_in_a_cluster_that_can_have_it() -> None:
    counts = dict.fromkeys(KINDS, 7) | {"etcd_pause": 0, "wiped_disk": 1}
    choices = Choices()
    for schedule in itertools.islice(_drawn(choices, counts), 1, 8, 2):
        assert schedule.settings["engine"] == "etcd"
        assert "etcd_pause" in {fault.kind for fault in schedule.faults}
    assert rarest(counts, Choices(engine="pysyncobj"), {"engine": "pysyncobj"})[0] == "wiped_disk"


def test_what_was_asked_for_is_in_all_runs() -> None:
    runs = planned(Choices(engine="etcd", replicas=5, faults=("pause",), workloads=("members",), each_s=10.0), 12)
    for run in runs:
        assert run.schedule.settings["engine"] == "etcd"
        assert run.schedule.settings["replicas"] == 5
        assert run.schedule.settings["workloads"] == ["members"]
        assert {fault.kind for fault in run.schedule.faults} == {"pause"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--jobs", "0"], "--jobs is 0"),
        (["--hosts", "0"], "--hosts is 0"),
        (["--time", "soon"], "soon"),
        (["--fault", "earthquake"], "'earthquake' is none of"),
        (["--fault", "etcd", "--engine", "pysyncobj"], "faults etcd cannot happen"),
        (["--out", str(Path(__file__).parent)], "is not empty"),
        (["--resume", str(Path(__file__).parent)], "no campaign that ended a run"),
    ],
)
def test_bad_options_end_with_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["campaign", *arguments]) == 2
    said = capsys.readouterr().out
    assert said.startswith("error: ")
    assert complaint in said
    assert said.count("\n") == 1


# -- figures ---------------------------------------------------------------------------------------------


def turn(recorder: Recorder, host: str, begun_ms: int, ended_ms: int) -> None:
    recorder.note(
        "turn",
        at_ns=ended_ms * MS,
        actor="Tally/k1",
        host=host,
        incarnation=1,
        fence=1,
        begun_ns=begun_ms * MS,
        ended_ns=ended_ms * MS,
    )


def test_only_moves_away_from_an_owner_that_is_still_there_count_as_exposure(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with Recorder(path) as recorder:
        turn(recorder, "h1", 1, 2)
        turn(recorder, "h2", 3, 4)
        turn(recorder, "h3", 5, 6)
        recorder.note("table", at_ns=7 * MS, host="h2", incarnation=1, namespace="actors", version=3, digest="")
    assert [(move.before.host, move.exposed) for move in moves_of(read_history(path))] == [("h1", False), ("h2", True)]


def test_the_longest_time_without_success_around_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    lines = []
    for number, at_ms in enumerate((10, 20, 500, 510), start=1):
        operation = {"number": number, "process": 1, "function": "add", "key": "counter/k1", "argument": 1}
        lines.append({"type": "invoke", **operation, "phase": "during", "at_ns": (at_ms - 5) * MS})
        lines.append({"type": "ok", "number": number, "result": 1, "at_ns": at_ms * MS})
    fault = {"type": "fault", "number": 1, "kind": "kill", "target": "replica-1", "parameters": {}, "at_ns": 15 * MS}
    lines += [fault, {"type": "healed", "number": 1, "at_ns": 30 * MS}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    history = read_history(path)
    assert out_of_service(history) == {"kill": {"add counter": [480]}}
    assert figures_of(history)["operations"] == {"add counter": {"during": {"ok": 4}}}


def test_orders_to_sidecars_are_counted_by_phase(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with Recorder(path) as recorder:
        for at_ms, phase in ((10, "before"), (20, "during")):
            recorder.note("phase", at_ns=at_ms * MS, phase=phase)
        for at_ms in (5, 11, 21, 22):
            recorder.note("order", at_ns=at_ms * MS, namespace="sidecars")
    assert figures_of(read_history(path))["sidecar_orders"] == {"before": 1, "during": 2, "after": 0}


def test_spreads() -> None:
    assert spread([]) == {"count": 0, "p50": 0, "p95": 0, "max": 0}
    assert spread(list(range(1, 101))) == {"count": 100, "p50": 50, "p95": 95, "max": 100}
    assert spread([7.0]) == {"count": 1, "p50": 7.0, "p95": 7.0, "max": 7.0}


# -- sums ------------------------------------------------------------------------------------------------


def result(
    folder: str, *, policy: str = "exclusive", seed: int = 1, expect: tuple[str, ...] = (), **figures: Any
) -> Any:
    checks = {
        "single_activation": {"duplicates": figures.pop("duplicates", 0)},
        "acknowledged_once": {"acknowledged": 10, "lost": figures.pop("lost", 0)},
    }
    problems = figures.pop("problems", [])
    return {
        "folder": folder,
        "passed": not problems,
        "problems": problems,
        "schedule": {"name": folder, "about": "", "seed": seed, "expect": list(expect), "settings": {"policy": policy}},
        "results": [{"checker": name, "verdict": "valid", "figures": found} for name, found in checks.items()],
        "faults": [],
        "figures": {"live_s": 60.0, **figures},
    }


def test_sums_of_a_campaign() -> None:
    operations = {"add counter": {"during": {"ok": 5, "info": 1}}}
    runs = [
        result("1", seed=1, moves=8, moves_exposed=3, leader_epochs=3, stale_refused=2, operations=operations),
        result("2", seed=2, moves=4, moves_exposed=1, faults={"kill": {"injected": 2, "bitten": 1}}, lost=1),
        result("3", seed=7, policy="eventual", moves=5, moves_exposed=5, duplicates=4, problems=["it broke"]),
        result("4", seed=9, expect=("stale_turns",), moves=100, moves_exposed=100, duplicates=50),
    ]
    summary = summarise(runs, ABOUT)
    assert summary["exclusive"] == {"moves": 12, "exposed": 4, "duplicates": 0, "bound_95": 0.75}
    assert summary["moves"] == 17
    assert summary["leader_changes"] == 2
    assert summary["controls"] == {"runs": 1, "caught": 1}
    assert summary["lost"] == 1
    assert summary["acknowledged"] == 30
    assert summary["operations"] == {"add counter": {"during": {"ok": 5, "fail": 0, "info": 1}}}
    assert summary["faults"] == {"kill": {"injected": 2, "bitten": 1}}
    assert [failure["folder"] for failure in summary["failed"]] == ["3"]
    assert summary["live_s"] == 240.0
    text = markdown(summary)
    assert "| lost acknowledged changes | 1 of 30 |" in text
    assert "- 3: it broke" in text


def test_a_campaign_says_what_it_has_not_shown() -> None:
    summary = summarise([result("1", faults={"kill": {"injected": 2, "bitten": 1}})], ABOUT)
    assert summary["missing"] == [], "faults or clusters were chosen"
    lines = {line.partition(":")[0]: line for line in missing(summary)}
    never = lines["kinds of faults that never bit"].partition(": ")[2].split(", ")
    assert "kill" not in never
    assert len(never) == len(KINDS) - 1
    assert "single_activation" not in lines["checkers without a valid verdict"]
    assert "add counter during" in lines["operations that never succeeded"]
    assert "the store refused no stale write" in lines
    text = markdown(summarise([result("1")], ABOUT | {"everything": True}))
    assert "What this campaign did not show:" in text
    assert "- no leader changed" in text


def test_a_campaign_that_went_through_everything_lacks_nothing() -> None:
    everything = result("1", moves=1, leader_epochs=2, stale_refused=1)
    everything["results"] = [{"checker": name, "verdict": "valid", "figures": {}} for name in CHECKERS]
    everything["figures"]["faults"] = {kind: {"injected": 1, "bitten": 1} for kind in KINDS}
    everything["figures"]["sidecar_orders"] = {phase.value: 1 for phase in Phase}
    functions = [each for of_workload in FUNCTIONS.values() for each in of_workload]
    everything["figures"]["operations"] = {
        f"{name} {prefix.rstrip('/')}": {phase.value: {"ok": 1} for phase in Phase} for name, prefix in functions
    }
    other = result("2", policy="eventual")
    other["schedule"]["settings"]["engine"] = "etcd"
    summary = summarise([everything, other], ABOUT) | {"scenarios": list(scenarios())}
    assert missing(summary) == []
    for name in ("moves", "leader_changes", "stale_refused"):
        assert len(missing(summary | {name: 0})) == 1


@pytest.mark.parametrize(
    ("about", "missing_lines", "code"),
    [
        ({"whole": True}, ["no actor moved"], 1),
        ({"whole": True}, [], 0),
        ({"whole": False}, ["no actor moved"], 0),
        ({}, ["no actor moved"], 0),
        ({"whole": True, "ended": "interrupted"}, ["no actor moved"], 0),
    ],
)
def test_what_a_whole_campaign_lacks_is_a_failure(about: dict[str, Any], missing_lines: list[str], code: int) -> None:
    summary = summarise([result("1")], ABOUT | about) | {"missing": missing_lines}
    assert exit_code(summary) == code
    assert exit_code(summary | {"failed": [{"folder": "1"}]}) == exit_code(summary | {"runs": 0}) == 1


def test_only_a_campaign_with_time_for_everything_is_whole() -> None:
    for arguments, live_s, whole in ((["--seed", "1"], 7200, True), (["--seed", "1"], 600, False)):
        options = parser().parse_args(["campaign", *arguments])
        assert about_of(options, choices_of(options), live_s)["whole"] is whole
    options = parser().parse_args(["campaign", "--fault", "kill"])
    assert about_of(options, choices_of(options), 7200)["whole"] is False


def test_all_checkers_are_known_to_the_coverage() -> None:
    found = {check.checker for policy in ("exclusive", "eventual") for check in judge(history_of_nothing(policy))}
    assert found - set(CHECKERS) == set()
    of_namespaces = {f"{what}_{name}" for what in ("tables", "convergence") for name in ("actors", "register")}
    assert set(CHECKERS) - found == of_namespaces


def test_an_interrupted_campaign_keeps_what_need_not_run_again(tmp_path: Path) -> None:
    for folder, problems in (("001-a", []), ("002-b", ["the run was interrupted"]), ("004-c", ["it broke"])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "results.json").write_text(json.dumps({"problems": problems, "figures": {}}))
    (tmp_path / "003-d").mkdir()
    (tmp_path / "other").mkdir()
    assert sorted(kept_runs(tmp_path)) == [1, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["001-a", "004-c", "other"]


def test_a_campaign_goes_on_where_it_was_and_only_with_the_same_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "001-a").mkdir()
    (tmp_path / "001-a" / "results.json").write_text(json.dumps(result("001-a", seed=4)))
    command = "callboard-faults campaign --time 10m --each 40s --seed 4 --runs 1 --jobs 1 --workload members"
    kept = tmp_path / "campaign.json"
    kept.write_text(json.dumps({"about": ABOUT | {"command": command, "commit": commit()}}))
    assert main(["campaign", "--resume", str(tmp_path)]) == 0
    summary = json.loads(kept.read_text())
    assert summary["runs"] == summary["passed"] == 1, "the one that it wanted was there"
    assert summary["about"]["command"] == command
    assert summary["about"]["ended"] == "1 runs"
    assert summary["about"]["resumed"]
    kept.write_text(json.dumps({"about": ABOUT | {"command": command, "commit": "0123456789abcdef"}}))
    capsys.readouterr()
    assert main(["campaign", "--resume", str(tmp_path)]) == 2
    assert "ran commit 0123456789ab; here is" in capsys.readouterr().out


def test_seeds_are_shown_as_ranges() -> None:
    assert seeds_text([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"


def test_a_summary_is_recorded_between_the_markers_only(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    summary = summarise([result("1")], ABOUT)
    for _ in range(2):
        record(summary, document)
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.count("live cluster time") == 1
    document.write_text("nothing")
    with pytest.raises(ValueError, match="it must have the lines"):
        record(summary, document)


# -- the whole thing -------------------------------------------------------------------------------------


def from_repository(path: Path) -> str:
    """A relative path: processes of a run have other working directories."""
    return os.path.relpath(path, REPOSITORY)


@pytest.mark.process
@pytest.mark.timeout(180)
async def test_an_interrupted_campaign_ends_in_order_and_leaves_its_summary(tmp_path: Path) -> None:
    out, named = tmp_path / "campaign", from_repository(tmp_path / "campaign")
    arguments = ("campaign", "--time", "10m", "--workload", "members", "--fault", "pause", "--seed", "1", "-o", "json")
    campaign = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "harness.faults", *arguments, "--out", named),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'impl'}{os.pathsep}{REPOSITORY}"},
    )
    try:

        async def under_load() -> bool:
            assert campaign.returncode is None, "the campaign ended by itself"
            return any('"type":"ok"' in path.read_text() for path in out.glob("*/history.jsonl"))

        await wait_until(under_load, deadline_s=90, what="operations of the first run")
        children = psutil.Process(campaign.pid).children(recursive=True)
        assert len(children) > 3, "a run with its replicas and its proxy server"
        campaign.send_signal(signal.SIGINT)
        said, _ = await campaign.communicate()
    finally:
        if campaign.returncode is None:
            campaign.kill()
    assert campaign.returncode == 1
    summary = json.loads(said)
    assert summary == json.loads((out / "campaign.json").read_text())
    assert summary["about"]["ended"] == "interrupted"
    (failure,) = summary["failed"]
    assert failure["problems"] == ["the run was interrupted"]
    assert summary["operations"]["upsert member"]["before"]["ok"] > 0
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []


def test_a_history_without_an_end_is_counted_too(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with Recorder(path) as recorder:
        recorder.settings(policy="exclusive", namespaces={}, workloads=["lookups"], seed=3)
        recorder.enter(Phase.BEFORE)
        number = recorder.invoke(recorder.process(), "lookup", "lookup/Tally/k1")
        recorder.complete(number, Outcome.OK)
    assert main(["report", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "results.json").read_text())
    assert not stored["passed"]
    assert stored["figures"]["operations"] == {"lookup lookup": {"before": {"ok": 1}}}
