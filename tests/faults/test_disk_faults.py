"""What a witness of syncs sees, from outside and after a kill."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.faults import witness
from harness.faults.disk_faults import LOST_BYTES_MAX, TailLoss
from harness.faults.nemeses import FaultSpec

WRITER = """
import os, sys
from pathlib import Path
from harness.faults import witness
witness.install(Path(sys.argv[1]))
for name in sys.argv[2:]:
    descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, bytes(100))
    os.fdatasync(descriptor)
    os.write(descriptor, bytes(23))
os.kill(os.getpid(), 9)
"""


def write(directory: Path, *names: str) -> float:
    """Run the writer until it kills itself; seconds that it took."""
    begun = time.monotonic()
    command = [sys.executable, "-c", WRITER, str(directory / "synced"), *(str(directory / name) for name in names)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -9
    return time.monotonic() - begun


def test_the_witness_knows_what_was_synced(tmp_path: Path) -> None:
    write(tmp_path, "one", "two")
    (tmp_path / "three").write_bytes(b"never synced")
    assert (tmp_path / "one").stat().st_size == 123
    sizes = [witness.synced_bytes(tmp_path / "synced", tmp_path / name) for name in ("one", "two", "three")]
    assert sizes == [100, 100, 0]
    write(tmp_path, "two")
    assert witness.synced_bytes(tmp_path / "synced", tmp_path / "two") == 223
    assert witness.synced_bytes(tmp_path / "synced", tmp_path / "one") == 100, "what an earlier process synced stays"


def test_it_never_says_more_than_the_file_has(tmp_path: Path) -> None:
    write(tmp_path, "one")
    os.truncate(tmp_path / "one", 40)
    assert witness.synced_bytes(tmp_path / "synced", tmp_path / "one") == 40


def test_power_loss_keeps_what_was_synced_and_takes_the_newest_bytes_only(tmp_path: Path) -> None:
    world: Any = SimpleNamespace(random=random.Random(1))
    for size, synced, least in ((10_000, 9_900, 9_900), (10_000, 0, 10_000 - LOST_BYTES_MAX), (300, 300, 300)):
        ends = set()
        for drawn in (0, 1) * 20:
            journal = tmp_path / "journal"
            journal.write_bytes(bytes(size))
            fault = TailLoss(FaultSpec("tail_loss", 1, 1, parameters={"drawn": drawn}))
            lost = fault._cut(world, journal, synced)
            assert journal.stat().st_size == size - lost
            ends.add(size - lost)
        assert min(ends) == least
        assert max(ends) <= size
        assert len(ends) > 1 or synced == size, "sometimes less is lost"


def test_syncs_take_as_long_as_they_are_told(tmp_path: Path) -> None:
    witness.prepare(tmp_path / "synced")
    witness.slow_down(tmp_path / "synced", 700)
    assert write(tmp_path, "one", "two") >= 1.4
