"""What makes a run count: gates, controls, saved histories. Small histories, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.faults.commands import fresh, main
from harness.faults.gates import FaultReport, gates_of
from harness.faults.history import Outcome, Phase, Recorder, read_history
from harness.faults.nemeses import FaultSpec
from harness.faults.runner import RunReport, drop_bulk
from harness.faults.schedules import Schedule

SETTINGS = {
    "policy": "exclusive",
    "workloads": ["actors", "lookups"],
    "namespaces": {"actors": {"policy": "exclusive"}},
}
PAUSE = FaultSpec("pause", 1.0, 2.0, "replicas", "leader")
STORM = FaultSpec("storm", 1.0, 2.0, "hosts")


def write_history(path: Path, *, without: tuple[str, Phase] = ("", Phase.BEFORE), moves: bool = True) -> None:
    """A run of the workload `lookups` and `actors` in which everything succeeds, but for one thing."""
    with Recorder(path) as recorder:
        recorder.settings(format=1, **SETTINGS)
        process = recorder.process()
        for phase in Phase:
            recorder.enter(phase)
            for function, key, argument, result in (
                ("lookup", "lookup/Tally/k1", None, None),
                ("read", "counter/k1", None, 0),
                ("read", "list/k1", None, []),
                ("add", f"counter/{phase.value}", 1, 1),
                ("append", f"list/{phase.value}", 1, [1]),
            ):
                number = recorder.invoke(process, function, key, argument)
                lost = (function, phase) == without
                recorder.complete(number, Outcome.FAIL if lost else Outcome.OK, None if lost else result)
        for host, begun_ns in (("h1", 1), ("h2" if moves else "h1", 10)):
            turn = {"actor": "Tally/k1", "host": host, "incarnation": 1, "fence": begun_ns}
            recorder.note("turn", begun_ns=begun_ns, ended_ns=begun_ns + 1, **turn)
            recorder.note(
                "store", at_ns=begun_ns, actor="Tally/k1", fence=begun_ns, accepted=True, host=host, access="save"
            )


def gates(path: Path, *faults: FaultReport) -> list[str]:
    return gates_of(read_history(path), faults, ("actors", "lookups"))


def test_a_run_that_did_everything_has_no_gates(tmp_path: Path) -> None:
    write_history(tmp_path / "history.jsonl")
    assert gates(tmp_path / "history.jsonl", FaultReport(PAUSE, "replica-1", "1 processes in state T")) == []


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("function", ["lookup", "add", "append"])
def test_an_operation_that_never_succeeded_in_a_phase(tmp_path: Path, function: str, phase: Phase) -> None:
    write_history(tmp_path / "history.jsonl", without=(function, phase))
    (gate,) = gates(tmp_path / "history.jsonl")
    assert function in gate
    assert phase.value in gate


def test_a_fault_that_nothing_proves(tmp_path: Path) -> None:
    write_history(tmp_path / "history.jsonl")
    (gate,) = gates(tmp_path / "history.jsonl", FaultReport(PAUSE, "replica-1", problem="it ran on"))
    assert "pause at 1.0 s" in gate
    assert "it ran on" in gate
    nobody = FaultReport(PAUSE, problem="nobody was there to be hit")
    assert gates(tmp_path / "history.jsonl", nobody, FaultReport(PAUSE, "replica-1", "1 processes in state T")) == []
    assert gates(tmp_path / "history.jsonl", nobody) == ["none of the faults had anybody to hit"]
    (gate,) = gates(tmp_path / "history.jsonl", FaultReport(PAUSE, "replica-1", problem="nobody answered before"))
    assert "nobody answered before" in gate, "it hit somebody"


def test_a_storm_in_which_nobody_moved(tmp_path: Path) -> None:
    write_history(tmp_path / "history.jsonl", moves=False)
    (gate,) = gates(tmp_path / "history.jsonl", FaultReport(STORM, "h4", "2 joins"))
    assert "no actor moved" in gate


@pytest.mark.parametrize(
    ("expect", "verdict", "passed"),
    [
        ((), "valid", True),
        ((), "invalid", False),
        ((), "unknown", False),
        (("fences",), "invalid", True),
        (("fences",), "valid", False),
        (("fences",), "unknown", False),
    ],
)
def test_controls_pass_when_they_are_caught(*, expect: tuple[str, ...], verdict: str, passed: bool) -> None:
    report = RunReport(Schedule(1, 10, (), "s", expect=expect), Path())
    assert not report.passed, "a run without verdicts is no success"
    report.results = [{"checker": "fences", "verdict": verdict}, {"checker": "tables", "verdict": "valid"}]
    assert report.passed is passed
    report.gates = ["something was not exercised"]
    assert not report.passed
    report.gates, report.failures = [], ["it did not settle"]
    assert not report.passed


def test_saved_histories_are_checked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "good" / "history.jsonl"
    path.parent.mkdir()
    write_history(path)
    damage: dict[str, Any] = {"actor": "Tally/k1", "host": "h1", "incarnation": 1, "fence": 1, "access": "save"}
    bad = tmp_path / "bad" / "history.jsonl"
    bad.parent.mkdir()
    line = json.dumps({"type": "note", "kind": "store", "at_ns": 20, "accepted": True, **damage})
    bad.write_text(path.read_text() + line + "\n")
    assert main(["check", str(path)]) in {0, 1}, "whether there was enough to look at is another question"
    good_said = capsys.readouterr().out
    assert main(["check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "accepted" not in good_said
    assert "a write under fence 1 was accepted after one under 10" in said
    (tmp_path / "torn.jsonl").write_text("[1]\n")
    assert main(["check", str(tmp_path / "torn.jsonl")]) == 2


def test_a_history_is_never_written_over(tmp_path: Path) -> None:
    assert fresh(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "history.jsonl").touch()
    assert fresh(tmp_path / "run") == tmp_path / "run-2"


def test_what_is_large_and_says_nothing_is_dropped(tmp_path: Path) -> None:
    for name in ("etcd/m1/member/wal/0.wal", "etcd/m2/member/snap/db", "etcd/m1.log", "history.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    drop_bulk(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["history.jsonl", "m1.log"]
