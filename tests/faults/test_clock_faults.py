"""What a host's clock is measured by."""

from __future__ import annotations

import json
from pathlib import Path

from harness.faults.clock_faults import MEASURED_FROM_NS, measured_ppm

SECOND_NS = 1_000_000_000


def write_clock(trace: Path, first_ns: int, last_ns: int, rate: float) -> None:
    with trace.open("a") as file:
        for real_ns in (first_ns, last_ns):
            file.write(json.dumps({"kind": "clock", "real_ns": real_ns, "host_ns": round(real_ns * rate)}) + "\n")


def test_the_clock_of_an_earlier_process_is_not_measured(tmp_path: Path) -> None:
    trace = tmp_path / "h1.jsonl"
    trace.touch()
    write_clock(trace, 1 * SECOND_NS, 5 * SECOND_NS, 0.991)
    started_ns = 6 * SECOND_NS
    assert measured_ppm(trace, started_ns) is None
    write_clock(trace, 7 * SECOND_NS, 7 * SECOND_NS + MEASURED_FROM_NS, 1.009)
    assert measured_ppm(trace, started_ns) == 9_000


def test_too_short_a_time_measures_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "h1.jsonl"
    trace.touch()
    write_clock(trace, SECOND_NS, SECOND_NS + MEASURED_FROM_NS - 1, 1.009)
    assert measured_ppm(trace, 0) is None
