"""The benchmark of calls runs and measures something; how fast is not a test's business."""

from __future__ import annotations

import asyncio
import json
import sys

from harness.processes import REPOSITORY


async def test_it_measures_calls_and_pauses() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "harness.bench_calls", "--seconds", "0.5", "-o", "json"),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    report = json.loads(output)
    assert [each["who"] for each in report["lookups"] if each["per_s"] > 0] == ["host", "router"]
    assert [each["where"] for each in report["calls"]] == ["local", "remote"]
    assert all(0 < each["p50_ms"] <= each["p99_ms"] and each["calls_per_s"] > 0 for each in report["calls"])
    moved, stayed = report["pauses"]
    assert moved["count"] > 0
    assert stayed["count"] > moved["count"]
    assert moved["failed"] == stayed["failed"] == 0
