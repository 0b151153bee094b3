"""S1 and S2 of DEFECTS.md: what the library does for a stranger at its port. (Ours: tests/consensus/test_links.py)

The stranger sends nothing but bytes over one loopback connection.
"""

from __future__ import annotations

import pickle
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pysyncobj import SyncObj, SyncObjConf

from harness.processes import PortLease


class _TouchFile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


def _frame(message: object) -> bytes:
    data = zlib.compress(pickle.dumps(message, 2))
    return struct.pack("i", len(data)) + data


@pytest.fixture
def node() -> Iterator[Any]:
    """One node of three, whose peers do not exist."""
    lease = PortLease(3)
    mine, *peers = [f"127.0.0.1:{port}" for port in lease.ports]
    node = SyncObj(mine, peers, SyncObjConf(autoTick=False, bindAddress=mine))
    yield node
    node.destroy()
    lease.release()


def _until(node: Any, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        node.doTick(0.01)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_s1_the_library_executes_what_a_stranger_sends(node: Any, tmp_path: Path) -> None:
    host, port = node.selfNode.address.split(":")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(_frame(_TouchFile(tmp_path / "executed")))
        _until(node, (tmp_path / "executed").exists)


def test_s2_a_stranger_is_obeyed_as_a_leader(node: Any) -> None:
    host, port = node.selfNode.address.split(":")
    command = {
        "type": "append_entries",
        "term": 1_000_000,
        "commit_index": 1,
        "entries": [],
        "prevLogIdx": 1,
        "prevLogTerm": 0,
    }
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(_frame("readonly") + _frame(command))
        _until(node, lambda: bool(node.raftCurrentTerm == 1_000_000))
