"""The benchmark of changes runs and measures something; how fast is not a test's business. How many bytes is."""

from __future__ import annotations

import json
import subprocess
import sys

from harness.processes import REPOSITORY


def test_it_measures_deltas_beside_full_tables() -> None:
    command = (sys.executable, "-m", "harness.bench_slots", *("--hosts", "20", "--types", "1", "3"))
    done = subprocess.run(
        [*command, "--repeated", "1", "-o", "json"], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True
    )
    changes = {(each["what"], each["types"], each["tables"]): each for each in json.loads(done.stdout)}
    assert len(changes) == 2 * (2 + 3)
    for types, tables in ((1, "shared"), (3, "shared"), (3, "separate")):
        join, leave = changes["join", types, tables], changes["leave", types, tables]
        assert join["moved"] == 1024 // 21
        assert 1024 // 20 <= leave["moved"] <= 1024 // 20 + 1
        assert join["bytes_each"] < join["newcomer_bytes"]
        assert join["bytes_each"] < changes["join", types, "full"]["bytes_each"]
        assert min(join["apply_ms"], join["leader_ms"], join["host_ms"]) > 0
