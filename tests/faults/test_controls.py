"""Seeded bugs in callboard's processes: each has a control, the package has none, and the suite finds some at once."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.faults.bugs import BUGS, broken
from harness.faults.commands import main
from harness.faults.controls import CONTROLS, Outcome, execute, record
from harness.faults.nemeses import KINDS
from harness.processes import REPOSITORY

QUICK = [control for control in CONTROLS if not control.slow]


def test_every_bug_has_one_control_and_every_control_a_bug() -> None:
    assert sorted(control.bug for control in CONTROLS) == sorted(BUGS)
    assert len(CONTROLS) >= 15
    assert all(control.checkers for control in CONTROLS)
    assert all(fault.kind in KINDS for control in CONTROLS for fault in control.faults)


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_replaces_what_is_there_and_goes_away_again(name: str) -> None:
    places = [(owner, attribute) for owner, attribute, _ in BUGS[name].patches()]
    before = [vars(owner)[attribute] for owner, attribute in places]
    with broken(name):
        assert all(vars(owner)[attribute] is not old for (owner, attribute), old in zip(places, before, strict=True))
    assert [vars(owner)[attribute] for owner, attribute in places] == before


def test_the_wheel_knows_nothing_of_bugs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        code = b"\n".join(archive.read(name) for name in names if name.endswith(".py"))
    assert any(name == "callboard/core/native_host.py" for name in names)
    assert not [name for name in names if not name.startswith(("callboard/", "callboard-"))]
    for word in ("import harness", "from harness", "harness.faults", "seeded", *BUGS):
        assert word.encode() not in code, f"the wheel speaks of {word}"


def test_a_control_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["controls", "--only", "no_such_bug"]) == 2
    assert "control 'no_such_bug' is none of" in capsys.readouterr().out


def test_the_page_says_who_survived_and_keeps_what_was_not_run_again(tmp_path: Path) -> None:
    page, (killed, survived) = tmp_path / "page.md", CONTROLS[:2]
    record([Outcome(killed, killed.checkers[0], 1, 20.4), Outcome(survived, "", 3, 80.0)], page)
    assert f"| `{killed.checkers[0]}` | 1 | 20 |" in page.read_text()
    assert "| **nobody** | 3 | 80 |" in page.read_text()
    assert f"1 of {len(CONTROLS)} were killed." in page.read_text()
    record([Outcome(survived, survived.checkers[0], 2, 60.0)], page)
    assert f"| `{killed.checkers[0]}` | 1 | 20 |" in page.read_text()
    assert f"| `{survived.checkers[0]}` | 2 | 60 |" in page.read_text()
    assert f"2 of {len(CONTROLS)} were killed." in page.read_text()


@pytest.mark.process
@pytest.mark.timeout(300)
@pytest.mark.parametrize("control", QUICK, ids=lambda control: control.bug)
async def test_a_bug_is_found_within_its_budget(control: object, tmp_path: Path) -> None:
    chosen = next(each for each in QUICK if each is control)
    outcome = await execute(chosen, tmp_path, say=lambda _: None)
    assert outcome.killed_by in chosen.checkers, f"found only {outcome.seen}"
