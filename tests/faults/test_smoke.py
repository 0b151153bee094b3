"""The whole fault-injection suite once, in small: real replicas, hosts, proxies, a few faults, all checkers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.faults.nemeses import FaultSpec
from harness.faults.runner import RunSettings, run
from harness.faults.schedules import Schedule

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

FAULTS = (
    FaultSpec("partition_from_everybody", 0.5, 4.0, "network", "leader", {"style": "black_hole"}),
    FaultSpec("host_pause", 1.0, 4.0, "hosts", "h1"),
    FaultSpec("kill", 6.0, 1.5, "replicas", "leader"),
)


async def test_a_run_with_three_faults(tmp_path: Path) -> None:
    settings = RunSettings(tmp_path, ("actors", "members", "lookups"), before_s=2.0, after_s=2.0)
    report = await run(settings, Schedule(1, 9.0, FAULTS, "smoke"), lambda _: None)
    assert report.failures == []
    assert report.gates == []
    assert [
        (result["checker"], result["explanation"]) for result in report.results if result["verdict"] != "valid"
    ] == []
    assert report.passed
    assert len([fault for fault in report.faults if fault.proof]) == len(FAULTS)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["passed"] is True
    assert (tmp_path / "history.jsonl").exists()
    assert (tmp_path / "schedule.json").exists()
