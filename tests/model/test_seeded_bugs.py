"""The registry of seeded bugs, and its command. That bugs are found is shown by the tests of each finder."""

from __future__ import annotations

import pytest
from attrs import evolve
from click.testing import CliRunner

from harness.seeded_bugs import OF_CORE, all_bugs
from harness.seeded_bugs.__main__ import is_found, main, markdown
from harness.seeded_bugs.finders import FINDERS, Limits
from harness.seeded_bugs.registry import Bug


def test_every_bug_has_a_name_of_its_own_and_many_had_another_system() -> None:
    bugs = [bug for found in all_bugs().values() for bug in found]
    assert len({bug.name for bug in bugs}) == len(bugs)
    assert all(bug.properties and bug.what for bug in bugs)
    of_core = [bug for place, found in all_bugs().items() for bug in found if any(part in place for part in OF_CORE)]
    assert len(of_core) >= 20
    assert sum(bool(bug.origin) for bug in of_core) >= 10


def test_the_command_finds_a_bug() -> None:
    result = CliRunner().invoke(main, ["--bug", "any_epoch_may_write", "--finder", "machines", "-o", "json"])
    assert result.exit_code == 0
    assert '"machines": "' in result.stdout
    assert '"no (' not in result.stdout


WRONG = [
    ("machines", "membership", "any_epoch_may_write"),
    ("walks", "barrier", "unlock_without_update"),
    ("walks", "handoff", "release_while_serving"),
    ("simulator", "handoff", "grant_ignores_pending"),
    ("TLC", "handoff", "grant_ignores_pending"),
]


@pytest.mark.parametrize(("finder", "part", "name"), WRONG, ids=[f"{finder}-{name}" for finder, _, name in WRONG])
def test_a_failure_about_another_property_does_not_count(finder: str, part: str, name: str) -> None:
    """The same bugs, said to break what they do not break."""
    limits = Limits(examples=20, walks=3, seeds=2)
    bug = next(bug for found in all_bugs().values() for bug in found if bug.name == name)
    assert FINDERS[finder](part, bug, limits).found
    assert FINDERS[finder](part, evolve(bug, properties=("Balance",)), limits).found is False


def test_wrong_arguments_are_named() -> None:
    result = CliRunner().invoke(main, ["--bug", "nothing_like_that"])
    assert result.exit_code == 2
    assert "--bug nothing_like_that: no such bug" in result.output
    result = CliRunner().invoke(main, ["--seeds", "0"])
    assert "--seeds 0 is not positive" in result.output


def test_rows() -> None:
    bug = Bug("b", "It is wrong", ("ApplyOnce",), lambda _patch: None, origin="X #1")
    assert is_found({"machines": "no (3 examples)", "walks": "2 walks"})
    assert not is_found({"machines": "no (3 examples)", "walks": "-", "TLC": "MCModel"})
    assert markdown([("membership", bug)], {}).count("\n") == 1
    table = markdown([("membership", bug)], {"b": {"machines": "2 examples"}, "c": {"TLC": "-"}}).splitlines()
    assert table[0] == "| bug | breaks | machines | TLC |"
    assert table[-1] == "| It is wrong (X #1) | ApplyOnce | 2 examples | not tried |"
