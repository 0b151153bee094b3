"""Recording and reading histories."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.faults.history import History, HistoryError, Outcome, Phase, Recorder, read_history


def test_what_is_recorded_is_read(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with Recorder(path) as recorder:
        recorder.settings(lease_ms=2000)
        process = recorder.process()
        first = recorder.invoke(process, "write", "a", 1)
        recorder.complete(first, Outcome.OK, index=7)
        recorder.enter(Phase.DURING)
        fault = recorder.fault_begins("partition", "r1", style="refuse")
        recorder.fault_bit(fault, "a dial was refused")
        second = recorder.invoke(process, "read", "a")
        recorder.complete(second, Outcome.INFO, error="deadline")
        recorder.fault_ends(fault)
        recorder.invoke(recorder.process(), "read", "b")
        recorder.note("table", host="h1", version=3)
    history = read_history(path)
    assert [(entry.function, entry.outcome, entry.phase) for entry in history.operations] == [
        ("write", Outcome.OK, Phase.BEFORE),
        ("read", Outcome.INFO, Phase.DURING),
        ("read", Outcome.INFO, Phase.DURING),
    ]
    assert history.operations[0].index == 7
    assert history.operations[1].returned_ns is None
    assert history.faults[0].bit == "a dial was refused"
    assert history.faults[0].ended_ns is not None
    assert [note.fields for note in history.notes_of("table")] == [{"host": "h1", "version": 3}]
    assert history.settings == {"lease_ms": 2000}
    assert set(history.by_key({"read"})) == {"a", "b"}
    assert not history.torn


def test_a_torn_last_line_is_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with Recorder(path) as recorder:
        recorder.invoke(recorder.process(), "write", "a", 1)
    path.write_bytes(path.read_bytes() + b'{"type":"ok","numb')
    history: History = read_history(path)
    assert history.torn
    assert history.operations[0].outcome is Outcome.INFO


INVOKED = '{"type":"invoke","number":1,"process":1,"function":"f","key":"k","argument":null,"phase":"before","at_ns":1}'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"type":"ok","number":1,"result":null,"at_ns":1}', "line 1: operation 1 ends without having been invoked"),
        ("{}", "line 1: not an event"),
        ("nonsense", "line 1: not an event"),
        ('{"type":"later"}', "line 1: unknown type 'later'"),
        (
            "\n".join(INVOKED.replace('"number":1', f'"number":{number}') for number in (1, 2)),
            "line 2: process 1 invokes 2 while 1 is open",
        ),
    ],
)
def test_a_file_that_is_no_history_is_refused_with_its_line(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(lines + "\n")
    with pytest.raises(HistoryError, match=message):
        read_history(path)


def test_a_history_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    Recorder(path).close()
    with pytest.raises(FileExistsError):
        Recorder(path)
