"""Schedules that Hypothesis draws, and what a failing one leaves behind."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.faults.exploration import AMONG_REPLICAS, draw, regression, schedules
from harness.faults.nemeses import FaultSpec, ScheduleError
from harness.faults.network_faults import CONSENSUS_CUTS
from harness.faults.schedules import GROUPS, LANES, Schedule, load

CLUSTERS = st.fixed_dictionaries(
    {
        "engine": st.sampled_from(("pysyncobj", "etcd")),
        "replicas": st.sampled_from((1, 3, 5)),
        "hosts": st.integers(1, 4),
    }
)


@settings(max_examples=20)
@given(st.data(), CLUSTERS)
def test_what_is_drawn_can_happen_to_its_cluster(data: st.DataObject, cluster: dict[str, Any]) -> None:
    schedule = data.draw(schedules(45, settings=cluster))
    kinds = {fault.kind for fault in schedule.faults}
    assert schedule.faults
    assert not (cluster["engine"] == "pysyncobj" and kinds & set(GROUPS["etcd"]))
    assert not (cluster["engine"] == "etcd" and kinds & {*GROUPS["disk"], *CONSENSUS_CUTS})
    assert not (cluster["replicas"] == 1 and kinds & AMONG_REPLICAS)
    for lane in LANES:
        ones = [fault for fault in schedule.faults if fault.lane == lane]
        assert all(before.at_s + before.duration_s < after.at_s for before, after in pairwise(ones))


def test_seeds_draw_different_schedules() -> None:
    found = {str(draw(seed, 40, settings={}).faults) for seed in range(20)}
    assert len(found) == 20


def test_what_cannot_happen_is_refused() -> None:
    with pytest.raises(ScheduleError, match="faults etcd cannot happen to a cluster of engine pysyncobj"):
        draw(1, 40, allowed=["etcd"], settings={"engine": "pysyncobj"})
    with pytest.raises(ScheduleError, match="partition_ring cannot happen to a cluster of engine etcd"):
        draw(1, 40, allowed=["partition_ring"], settings={"engine": "etcd"})


@given(st.data(), st.text(max_size=40))
@settings(max_examples=10)
def test_a_printed_regression_is_a_test_of_the_same_schedule(data: st.DataObject, about: str) -> None:
    schedule = data.draw(schedules(30, settings={"engine": "pysyncobj", "workloads": ["actors"]}, seed=7))
    source = regression(schedule, about=about, command="callboard-faults run --schedule x.json")
    names: dict[str, Any] = {}
    exec(compile(source, "regression.py", "exec"), names)  # noqa: S102
    assert names["SCHEDULE"] == schedule
    assert callable(names["test_seed_7"])
    (function,) = [node for node in ast.parse(source).body if isinstance(node, ast.AsyncFunctionDef)]
    assert "report.problems == []" in ast.unparse(function)


def test_a_schedule_file_and_a_regression_say_the_same(tmp_path: Path) -> None:
    fault = FaultSpec("one_way", 1.5, 3.0, "network", "leader", {"way": "in", "style": "refuse"})
    schedule = Schedule(3, 9.0, (fault,), "akka-1", {"engine": "etcd", "replicas": 3}, "", ())
    schedule.save(tmp_path / "schedule.json")
    names: dict[str, Any] = {}
    exec(regression(schedule, about='it """broke"""', command="x"), names)  # noqa: S102
    assert names["SCHEDULE"] == load(tmp_path / "schedule.json") == schedule
