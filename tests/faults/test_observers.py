"""What a run writes down beside its operations: nothing that matters is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from harness.faults.cluster import NAMESPACE
from harness.faults.history import Recorder, read_history
from harness.faults.managed import HostUnderTest
from harness.faults.observers import LOG_LINES_MAX, Observers, bad_lines


def test_no_number_of_errors_hides_a_traceback(tmp_path: Path) -> None:
    log = tmp_path / "replica-1.log"
    log.write_text("[error    ] a peer is away\n" * (2 * LOG_LINES_MAX) + "Traceback (most recent call last):\n")
    found = bad_lines(log)
    assert found[0].startswith("Traceback")
    assert len(found) == LOG_LINES_MAX


async def test_a_run_waits_until_everybody_has_what_is_newest_then(tmp_path: Path) -> None:
    host = HostUnderTest("h1", 1, tmp_path, {})
    host.started_ns = 10

    def installed(*tables: tuple[int, int]) -> None:
        lines = [json.dumps({"kind": "table", "at_ns": at_ns, "version": version}) for at_ns, version in tables]
        host.trace_path.write_text("\n".join(lines))

    with Recorder(tmp_path / "history.jsonl") as recorder:
        observers = Observers(cast("Any", None), recorder, versions={NAMESPACE: 7, "other": 3})
        installed((9, 7), (11, 6))
        await observers.wait_arrived([host], deadline_s=0)
        assert observers.behind([host]) == ["h1"], "what its former process had does not count"
        installed((9, 7), (11, 6), (12, 7))
        await observers.wait_arrived([host], deadline_s=60)
        assert observers.behind([host]) == []
    (first, second) = read_history(tmp_path / "history.jsonl").notes_of("arriving")
    assert first.fields["versions"] == second.fields["versions"] == {NAMESPACE: 7, "other": 3}
