"""harness/README.md names every kind of fault, every workload and every verdict that there is."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from harness.faults.nemeses import KINDS
from harness.faults.runner import ALL_WORKLOADS
from harness.faults.schedules import GROUPS
from harness.faults.summary import BEGIN, END
from harness.faults.verdicts import judge
from harness.processes import REPOSITORY
from tests.faults.test_checkers_of_replicas import history_of_nothing

README = (REPOSITORY / "harness" / "README.md").read_text()
NAMED = re.findall(r"`([a-z_*0-9]+)`", README)


def named(name: str) -> bool:
    """By itself, by a pattern, or by the end of a name after one that it shares the beginning with."""
    return any(fnmatch(name, pattern) or (pattern.startswith("_") and name.endswith(pattern)) for pattern in NAMED)


def test_every_kind_of_fault_is_named() -> None:
    assert GROUPS
    assert [kind for kind in KINDS if not named(kind)] == []


def test_every_workload_is_named() -> None:
    assert [workload for workload in ALL_WORKLOADS if not named(workload)] == []


@pytest.mark.parametrize("policy", ["exclusive", "eventual"])
def test_every_verdict_is_named(policy: str) -> None:
    found = {result.checker for result in judge(history_of_nothing(policy))}
    assert len(found) > 10
    assert [checker for checker in sorted(found) if not named(checker)] == []


def test_files_that_it_names_exist() -> None:
    for name in re.findall(r"\btests/[a-z_/]+\.py", README):
        assert Path(REPOSITORY / name).exists(), name


def test_there_is_a_place_for_a_campaign() -> None:
    assert README.count(BEGIN) == README.count(END) == 1
