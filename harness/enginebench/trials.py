"""Kill -9 of all replicas at the moment of compaction, under load: is anything acknowledged lost?"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from attrs import asdict, frozen

from harness.enginebench.group import Group, NodeProcess
from harness.processes import wait_until

IN_FLIGHT = 400
SNAPSHOT_ENTRIES = 1500
LOOK_S = 0.0005
PATIENCE_S = 30.0


@frozen
class Trial:
    """What one trial showed."""

    number: int
    acknowledged: int
    lost: int
    extra_delay_ms: float
    compacting: int
    """Replicas that had begun to compact when all were killed."""
    recovery_s: float
    """From the restart of all to the first commit."""
    error: str = ""


async def run_trials(
    engine: str, count: int, *, seed: int = 1, tell: Callable[[Trial], None] = lambda _trial: None
) -> list[Trial]:
    """Run trials, each on a fresh group of three."""
    choice = random.Random(seed)
    trials: list[Trial] = []
    for number in range(count):
        trials.append(await _trial(engine, number, choice))
        tell(trials[-1])
    return trials


async def _trial(engine: str, number: int, choice: random.Random) -> Trial:
    delay_s = choice.choice((0.0, 0.0, 0.001, 0.003, 0.01, 0.03))
    replicas = choice.choice((1, 2, 2, 3))
    compactions = choice.choice((0, 1, 2))
    async with Group(engine, 3, snapshot_entries=SNAPSHOT_ENTRIES) as group:
        await group.commit("warm-up")
        leader = await group.leader()
        leader.begin("stream", prefix="t", in_flight=IN_FLIGHT)
        for _ in range(compactions):
            await _wait_for_compaction(group, 2)
        compacting = await _wait_for_compaction(group, replicas)
        await asyncio.sleep(delay_s)
        await group.kill_all()
        acknowledged = set(leader.acknowledged)
        began = time.perf_counter()
        try:
            await group.start()
            await group.commit("after")
            recovery_s = time.perf_counter() - began
            lost = await lost_commands(group, acknowledged)
        except Exception as error:  # noqa: BLE001 - a trial that does not recover is a result, not the end of the run
            return Trial(
                number, len(acknowledged), -1, delay_s * 1000, compacting, 0.0, f"{type(error).__name__}: {error}"
            )
        return Trial(number, len(acknowledged), lost, delay_s * 1000, compacting, recovery_s)


async def _wait_for_compaction(group: Group, replicas: int) -> int:
    """Wait until so many replicas have changed their snapshot files; returns how many have."""
    before = {node.name: _snapshot_files(group, node) for node in group.nodes}
    deadline = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < deadline:
        changed = sum(_snapshot_files(group, node) != before[node.name] for node in group.nodes)
        if changed >= replicas:
            return changed
        await asyncio.sleep(LOOK_S)
    raise TimeoutError(f"{group.engine} did not compact within {PATIENCE_S} s")


def _snapshot_files(group: Group, node: NodeProcess) -> dict[str, int]:
    """Names and inodes of the snapshots, finished or not."""
    files: dict[str, int] = {}
    for path in (group.directory / node.name).iterdir():
        if path.name.startswith(("snapshot", "dump")):
            try:
                files[path.name] = path.stat().st_ino
            except FileNotFoundError:
                continue
    return files


async def lost_commands(group: Group, acknowledged: set[int]) -> int:
    """How many acknowledged commands the group lacks. If none: waits until every replica has all of them.

    Raises:
        TimeoutError: a replica does not catch up.
    """
    leader = await group.leader()
    state = await leader.ask("state", prefix="t")
    lost = len(acknowledged - set(state["items"]))
    if lost == 0:
        for node in group.nodes:
            await wait_until(_has(node, acknowledged), deadline_s=PATIENCE_S, what=f"{node.name} catches up")
    return lost


def _has(node: NodeProcess, acknowledged: set[int]) -> Any:
    async def caught_up() -> bool:
        return acknowledged <= set((await node.ask("local_state", prefix="t"))["items"])

    return caught_up


def report(engine: str, seed: int, trials: list[Trial]) -> dict[str, Any]:
    """The trials as JSON."""
    recoveries = sorted(trial.recovery_s for trial in trials if not trial.error)
    return {
        "engine": engine,
        "command": f"python -m harness.enginebench kill-trials --engine {engine} --trials {len(trials)} --seed {seed}",
        "trials": len(trials),
        "acknowledged": sum(trial.acknowledged for trial in trials),
        "trials_with_loss": sum(trial.lost > 0 for trial in trials),
        "lost": sum(max(0, trial.lost) for trial in trials),
        "not_recovered": sum(bool(trial.error) for trial in trials),
        "recovery_median_s": round(recoveries[len(recoveries) // 2], 2) if recoveries else None,
        "each": [asdict(trial) for trial in trials],
    }
