"""Commits per second, latency, and failover time of one engine."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from harness.enginebench.group import Group, NodeProcess
from harness.processes import wait_until

PIPELINE = 1000
"""Commands in flight in the pipelined load."""
SINGLE_COUNT = 2000
PIPELINED_COUNT = 30_000


async def measure(engine: str, *, failovers: int, seconds: float) -> dict[str, Any]:
    """Run the loads on the leader, then kill the leader again and again.

    Loads end after `seconds` or their number of commands. Failover is the time from kill -9 of the leader's process
    to the first commit by a survivor.
    """
    async with Group(engine, 1 if engine == "memory" else 3) as group:
        await group.commit("warm-up")
        leader = await group.leader()
        await leader.ask("load", prefix="w", count=2000, in_flight=100, seconds=2.0)
        single = await leader.ask("load", prefix="s", count=SINGLE_COUNT, in_flight=1, seconds=seconds)
        pipelined = await leader.ask(
            "load", prefix="p", count=PIPELINED_COUNT, in_flight=PIPELINE, seconds=seconds, timeout_s=60
        )
        times = [] if engine == "memory" else [await _failover(group, number) for number in range(failovers)]
    return {
        "engine": engine,
        "durable": engine in ("pysyncobj", "etcd"),
        "single": single,
        "pipelined": {**pipelined, "in_flight": PIPELINE},
        "failover": _summary(times),
    }


async def _failover(group: Group, number: int) -> float:
    leader = await group.leader()
    await group.commit(f"before-{number}")
    began = time.perf_counter()
    leader.kill()
    survivors = [node for node in group.nodes if node is not leader]
    tries = [node.begin("first_commit", command=f"failover-{number}") for node in survivors]
    done, _ = await asyncio.wait(tries, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    took = time.perf_counter() - began
    if not done:
        raise TimeoutError(f"{group.engine}: no commit within 60 s of the leader's death")
    await leader.gone()
    await leader.start()
    await wait_until(_as_far_as(leader, survivors), deadline_s=60, what=f"{leader.name} catches up")
    return took


def _as_far_as(node: NodeProcess, others: list[NodeProcess]) -> Any:
    async def caught_up() -> bool:
        mine, *applied = [(await each.ask("status"))["applied"] for each in (node, *others)]
        return bool(mine >= max(applied))

    return caught_up


def _summary(times: list[float]) -> dict[str, Any] | None:
    if not times:
        return None
    ordered = sorted(times)
    return {
        "count": len(times),
        "median_s": ordered[len(ordered) // 2],
        "max_s": ordered[-1],
        "each_s": [round(took, 3) for took in times],
    }
