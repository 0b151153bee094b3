"""Nemeses of the network as data: who hears whom, and what a drawn schedule is."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from harness.faults.commands import main
from harness.faults.exploration import draw
from harness.faults.nemeses import KINDS, ScheduleError, spec_of
from harness.faults.network_faults import apart, ring
from harness.faults.runner import ALL_WORKLOADS
from harness.faults.schedules import GROUPS, LANES, lane_of, load, scenarios

SETTINGS = {"workloads": ["actors"]}


def test_apart_is_both_ways_and_only_between() -> None:
    assert apart(["a"], ["b", "c"]) == {("a", "b"), ("b", "a"), ("a", "c"), ("c", "a")}


@pytest.mark.parametrize("count", [3, 5])
def test_on_a_ring_everybody_hears_another_majority(count: int) -> None:
    order = [f"r{number}" for number in range(count)]
    deaf = ring(order)
    heard = [frozenset(a for a in order if (a, b) not in deaf) for b in order]
    assert {len(ones) for ones in heard} == {count // 2 + 1}
    assert len(set(heard)) == count
    assert all(b in ones for b, ones in zip(order, heard, strict=True))


def test_a_seed_draws_the_same_schedule_again_and_files_keep_it(tmp_path: Path) -> None:
    for seed in range(30):
        schedule = draw(seed, 60, settings=SETTINGS)
        assert schedule == draw(seed, 60, settings=SETTINGS)
        schedule.save(tmp_path / "schedule.json")
        assert load(tmp_path / "schedule.json") == schedule
        for lane in LANES:
            ones = [fault for fault in schedule.faults if fault.lane == lane]
            for before, after in pairwise(ones):
                assert before.at_s + before.duration_s < after.at_s, "faults of one lane follow each other"


def test_thirty_seeds_draw_every_kind() -> None:
    drawn = {fault.kind for seed in range(30) for fault in draw(seed, 120, settings=SETTINGS).faults}
    assert drawn == {kind for group, kinds in GROUPS.items() for kind in kinds if group not in {"clock", "etcd"}}
    assert drawn <= KINDS.keys()
    assert all(lane_of(kind) for kind in drawn)


@pytest.mark.parametrize("name", scenarios())
def test_stored_scenarios_can_be_read(name: str) -> None:
    schedule = load(scenarios()[name])
    assert schedule.name == name
    assert schedule.about
    assert set(schedule.settings["workloads"]) <= set(ALL_WORKLOADS)
    assert all(fault.at_s + fault.duration_s <= schedule.duration_s + 1 for fault in schedule.faults)


def test_faults_of_etcd_are_drawn_for_its_engine_only() -> None:
    for engine in ("etcd", "pysyncobj"):
        drawn = {fault.kind for seed in range(10) for fault in draw(seed, 60, settings={"engine": engine}).faults}
        assert (drawn >= set(GROUPS["etcd"])) is (engine == "etcd")


def test_only_what_is_allowed_is_drawn() -> None:
    schedule = draw(3, 120, allowed=["pause", "storm"], settings=SETTINGS)
    assert {fault.kind for fault in schedule.faults} == {"pause", "storm"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "earthquake", "at_s": 1, "duration_s": 1}, "kind 'earthquake'"),
        ({"kind": "kill", "at_s": -1, "duration_s": 1}, "lasts from -1"),
        ({"kind": "kill", "at_s": 1}, "duration_s"),
        ({"kind": "kill", "at_s": 1, "duration_s": 1, "depth": 3}, "unknown fields depth"),
        ("kill", "not an object"),
    ],
)
def test_bad_entries_are_named(entry: object, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        spec_of(entry, 1)


def test_bad_files_and_names_end_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text(json.dumps({"seed": 1}))
    assert main(["run", "--schedule", str(tmp_path / "bad.json")]) == 2
    assert main(["run", "--fault", "earthquake"]) == 2
    assert main(["run", "--time", "soon"]) == 2
    said = capsys.readouterr().out
    assert "is no schedule" in said
    assert "'earthquake' is none of" in said
    assert "soon" in said
    assert main(["list"]) == 0
