"""What a witness of syncs sees, from outside and after a kill."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from harness.faults import witness

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


def test_syncs_take_as_long_as_they_are_told(tmp_path: Path) -> None:
    witness.prepare(tmp_path / "synced")
    witness.slow_down(tmp_path / "synced", 700)
    assert write(tmp_path, "one", "two") >= 1.4
