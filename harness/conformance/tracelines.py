"""Trace events in one order, and the lines of a projected trace.

A record is what one process (or the tracer of the environment) wrote: a mapping with `at` (real time, in a unit of the
source), `process`, `event` and the event's fields. A line is what a trace specification reads: the name of an action
and short fields. Names of events and fields: callboard.core.tracing and tla/doc/Traces.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

Record = dict[str, Any]
Line = dict[str, Any]


class TraceError(Exception):
    """A trace file that cannot be read; one clear line."""


@frozen
class Trace:
    """A projected trace: what it is about, its lines, and what of the records it could not show."""

    label: str
    lines: tuple[Line, ...]
    constants: Mapping[str, Any] = field(factory=dict)


@define
class Recorder:
    """Collects records of machines that run in one thread, in the order in which they act."""

    now: Callable[[], float]
    records: list[Record] = field(factory=list)

    def sink(self, process: str) -> Callable[[str, dict[str, Any]], None]:
        """For the machine of one process."""

        def write(event: str, fields: dict[str, Any]) -> None:
            self.add(process, event, fields)

        return write

    def add(self, process: str, event: str, fields: Mapping[str, Any]) -> None:
        """One record now."""
        self.records.append({"at": self.now(), "process": process, "event": event, **fields})


def read_files(paths: Iterable[Path]) -> list[Record]:
    """The records of all files in one order: by the time at which they were written.

    Entries of the log that several replicas applied count once, when the first of them did.

    Raises:
        TraceError: a file that cannot be read, or a line that is no event.
    """
    found: list[Record] = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TraceError(f"cannot read trace file {path}: {error}") from None
        for number, line in enumerate(text.splitlines(), start=1):
            found.append(_record(line, f"{path}:{number}"))
    found.sort(key=lambda record: record["at"])
    return _with_incarnations(once(found))


def _record(line: str, where: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise TraceError(f"{where}: not a line of JSON: {error}") from None
    if not isinstance(record, dict) or not {"at_ns", "process", "event"} <= record.keys():
        raise TraceError(f"{where}: not a trace event: at_ns, process or event is missing")
    if record["event"] == "Truncated":
        raise TraceError(f"{where}: the file reached its bound here; what came after is missing")
    record["at"] = record.pop("at_ns")
    if "gate_until_ms" in record:
        record["ends_at"] = record["at"] + (record["gate_until_ms"] - record["now_ms"]) * 1_000_000
    return record


def once(records: list[Record]) -> list[Record]:
    """Each entry of the log as the first replica applied it."""
    seen: set[tuple[Any, ...]] = set()
    kept = []
    for record in records:
        if "index" in record:
            key = (record["index"], record["event"], record.get("namespace"))
            if key in seen:
                continue
            seen.add(key)
        kept.append(record)
    return kept


def _with_incarnations(records: list[Record]) -> list[Record]:
    """Who killed a process knows its name only; its incarnation is the last that it was welcomed as."""
    last: dict[str, int] = {}
    for record in records:
        if record["event"] == "Welcomed":
            last[record["process"]] = record["incarnation"]
        elif record["event"] == "Crash" and "incarnation" not in record:
            record["incarnation"] = last.pop(record["process"], 0)
    return records
