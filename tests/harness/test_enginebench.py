"""The crash trials see what is lost: a memory engine loses everything with its process, a durable one nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.enginebench.__main__ import main
from harness.enginebench.group import Group, NodeError
from harness.enginebench.trials import Trial, lost_commands, report
from harness.processes import wait_until

pytestmark = pytest.mark.process


async def _acknowledged_then_killed(group: Group) -> set[int]:
    await group.commit("warm-up")
    leader = await group.leader()
    leader.begin("stream", prefix="t", in_flight=20)

    async def enough() -> bool:
        return len(leader.acknowledged) > 100

    await wait_until(enough, deadline_s=60, what="100 acknowledged commands")
    await group.kill_all()
    acknowledged = set(leader.acknowledged)
    await group.start()
    await group.commit("after")
    return acknowledged


async def test_what_a_memory_engine_loses_is_counted() -> None:
    async with Group("memory", 1) as group:
        acknowledged = await _acknowledged_then_killed(group)
        assert await lost_commands(group, acknowledged) == len(acknowledged) > 100


async def test_the_embedded_engine_loses_nothing() -> None:
    async with Group("pysyncobj", 3) as group:
        assert await lost_commands(group, await _acknowledged_then_killed(group)) == 0


async def test_a_node_that_cannot_start_is_named(tmp_path: Path) -> None:
    group = Group("pysyncobj", 1, directory=tmp_path)
    (group.directory / "r1").rmdir()
    (group.directory / "r1").write_text("in the way")
    with pytest.raises(NodeError, match="r1 has ended"):
        await group.start()
    await group.close()


def test_the_benchmark_prints_its_figures() -> None:
    done = CliRunner().invoke(main, ["bench", "--engines", "memory", "--seconds", "0.2", "-o", "json"])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["engines"]
    assert result["single"]["commits"] > 0
    assert result["pipelined"]["commits"] > 0


def test_an_unknown_engine_is_refused_by_name() -> None:
    done = CliRunner().invoke(main, ["bench", "--engines", "memory,paper"])
    assert done.exit_code == 2
    assert "'paper' is none of memory, pysyncobj, etcd, unguarded" in done.output


def test_a_report_counts_losses_and_failed_recoveries() -> None:
    trials = [
        Trial(0, 100, 0, 0.0, 2, 1.5),
        Trial(1, 50, 7, 0.0, 2, 2.5),
        Trial(2, 10, -1, 0.0, 2, 0.0, "TimeoutError: no leader"),
    ]
    summary = report("unguarded", 1, trials)
    assert (summary["lost"], summary["trials_with_loss"], summary["not_recovered"]) == (7, 1, 1)
    assert summary["acknowledged"] == 160
