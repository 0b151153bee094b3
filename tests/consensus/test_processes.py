"""Real replicas: kill -9 at bad moments, and a disk that is full. CI size; `kill_trials` runs more."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consensus.kill_trials import IDS, MOMENTS, Trial, Verdict, run_trial
from tests.consensus.replica_process import FAILED

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    """A group that is ended whatever happens."""
    trial = Trial(tmp_path)
    yield trial
    trial.close()


@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path, moment: str) -> None:
    verdict = run_trial(tmp_path, moment, random.Random(moment))
    assert verdict.clean, verdict
    assert verdict.acknowledged >= 200


def test_a_full_disk_stops_the_replica_loudly_and_the_others_go_on(trial: Trial) -> None:
    trial.start("r1", "r2")
    trial.start("r3", file_limit=4096)
    trial.wait_for(lambda: trial.processes["r3"].poll() is not None, "r3 gives up")
    assert trial.processes.pop("r3").returncode == FAILED
    assert "engine failed: the disk failed: [Errno 27] File too large" in (trial.directory / "r3.log").read_text()
    trial.wait_for_more(200)
    trial.start("r3")
    verdict = trial.verdict("r3's disk was full")
    assert verdict.clean, verdict


def test_a_lost_acknowledgement_would_be_noticed(trial: Trial) -> None:
    """The checker can fail: a command that nobody proposed is missing."""
    trial.start(*IDS)
    trial.wait_for_more(10)
    with (trial.directory / "acknowledged").open("a") as acknowledged:
        acknowledged.write("r9-1-1\n")
    verdict: Verdict = trial.verdict("nothing")
    assert not verdict.clean
    assert verdict.missing == ["r9-1-1"]
