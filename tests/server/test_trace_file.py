"""Trace files: lines that merge, a bound, and a clear line when they cannot be written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from attrs import evolve

from callboard.core.commands import Command, CreateNamespace, Request, TakeOffice, encode_request
from callboard.core.versions import Policy
from callboard.server.machine import ReplicatedMachine
from callboard.server.replica import Replica, StartError
from callboard.trace_file import VARIABLE, TraceFile, from_environment
from tests.server.support import memory_settings


def test_what_a_replica_applies_is_a_line_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "replica-{pid}.jsonl"
    machine = ReplicatedMachine(TraceFile(path, "replica r1"))
    machine.apply(1, encode_request(Request(TakeOffice("r1", "nonce"))))
    machine.apply(2, encode_request(Request(CreateNamespace("default", Policy.BARRIER))))
    (line,) = (tmp_path / f"replica-{os.getpid()}.jsonl").read_text().splitlines()
    event = json.loads(line)
    assert event.pop("at_ns") > 0
    assert event == {"process": "replica r1", "event": "TakeOffice", "index": 1, "epoch": 1, "holder": "r1/nonce"}


def test_a_full_disk_ends_the_trace_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    machine = ReplicatedMachine(TraceFile(Path("/dev/full"), "replica r1"))
    told = ReplicatedMachine(None)
    commands: list[Command] = [TakeOffice("r1", "nonce"), CreateNamespace("default", Policy.BARRIER)]
    for index, command in enumerate(commands, start=1):
        payload = encode_request(Request(command))
        assert machine.apply(index, payload) == told.apply(index, payload)
    assert machine.snapshot() == told.snapshot()
    assert [record.message for record in caplog.records] == ["trace file /dev/full ends here: No space left on device"]


def test_a_file_ends_at_its_bound_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    sink = TraceFile(path, "host h1", bytes_max=300)
    for number in range(100):
        sink("Cancel", {"incarnation": number})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[-1]["event"] == "Truncated"
    assert [line["event"] for line in lines[:-1]] == ["Cancel"] * (len(lines) - 1)
    assert path.stat().st_size < 400


def test_nothing_is_traced_unless_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert from_environment("host h1") is None
    assert ReplicatedMachine().trace is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "trace.jsonl"))
    assert from_environment("host h1") is not None


def test_a_file_that_cannot_be_written_stops_the_start_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "trace.jsonl"
    with pytest.raises(
        StartError, match=r"cannot write --trace-file .*nowhere/trace\.jsonl: No such file or directory"
    ):
        Replica(evolve(memory_settings(), trace_file=path))
