"""The tour: what it judges, with each judgement shown to fail; and the whole, on real processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from harness.demo import Call, judge
from harness.processes import REPOSITORY

CALLS = (
    Call("a", "t1", 0, 10),
    Call("a", "t2", 20, 30, "NotServedError: nobody", definite=True),
    Call("a", "t3", 40, 50, "OutcomeUnknownError: reset", definite=False),
    Call("b", "t4", 60, 70),
)
TOKENS = {"a": ["t1", "t3"], "b": ["t4"]}


def turn(host: str, fence: int, begun_ns: int, ended_ns: int) -> dict[str, Any]:
    """A turn of actor `a`."""
    return {
        "kind": "turn",
        "actor": "a",
        "host": host,
        "incarnation": 1,
        "fence": fence,
        "begun_ns": begun_ns,
        "ended_ns": ended_ns,
    }


REFUSED = {"kind": "refused", "actor": "a", "fence": 1}
TRACES = (turn("h1", 1, 0, 9), turn("h2", 2, 40, 49), REFUSED)


def test_a_sound_run_is_accepted() -> None:
    figures, failures = judge(CALLS, TOKENS, TRACES)
    assert failures == []
    assert figures == {
        "made": 4,
        "failed, surely not run": 1,
        "failed, outcome unknown": 1,
        "acknowledged and lost": 0,
        "run twice": 0,
        "two activations at once": 0,
        "turns traced": 2,
        "writes of a zombie refused by fences": 1,
    }


@pytest.mark.parametrize(
    ("tokens", "traces", "words"),
    [
        ({**TOKENS, "b": []}, TRACES, "acknowledged calls are lost"),
        ({**TOKENS, "a": ["t1", "t2", "t3"]}, TRACES, "although they surely failed"),
        ({**TOKENS, "a": ["t1", "t1", "t3"]}, TRACES, "had their effect twice"),
        (TOKENS, (turn("h1", 1, 0, 41), turn("h2", 2, 40, 49), REFUSED), "run one actor at once"),
        (TOKENS, (turn("h1", 3, 0, 9), turn("h2", 2, 40, 49), REFUSED), "fence"),
        (TOKENS, TRACES[:2], "no zombie"),
    ],
)
def test_each_fault_is_noticed(
    tokens: Mapping[str, Sequence[str]], traces: Sequence[Mapping[str, Any]], words: str
) -> None:
    _, failures = judge(CALLS, tokens, traces)
    assert any(words in failure for failure in failures)


async def test_the_tour_on_real_processes() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "harness.demo", "-o", "json", cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    report = json.loads(output)
    assert report["failures"] == []
    assert process.returncode == 0
    assert [row["event"] for row in report["events"]][1:] == [
        "h4 joins",
        "h2 leaves in order",
        "h3 is killed (-9)",
        "h1 is frozen (SIGSTOP)",
        "h1 goes on, and is new",
        "the leader is killed (-9)",
    ]
    assert all(row["moved"] == row["minimum"] for row in report["events"])
    assert report["figures"]["made"] > report["figures"]["failed, outcome unknown"]
