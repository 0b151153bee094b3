"""Histories: what clients did and saw, what was done to the cluster, in one file that is written as it happens.

One JSON object a line. An operation is an `invoke` line and at most one `ok`, `fail` or `info` line of the same
process and number: `fail` means that it surely had no effect, `info` (or no second line) that it may have had, now or
later. A process whose operation ended as `info` goes on under a new number, so that each process has at most one
operation open (Jepsen's discipline).

Times are nanoseconds of one monotonic clock of the machine that all processes of a run share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from attrs import Factory, define, field, frozen

LINE_BYTES_MAX = 1024 * 1024


class Outcome(StrEnum):
    """How an operation ended for its client."""

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


class Phase(StrEnum):
    """Parts of a run: before faults, under faults, after everything was healed."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"


class HistoryError(ValueError):
    """A history file cannot be used; the message names file and line."""


@frozen
class Operation:
    """One operation of one client.

    `returned_ns` is None if no answer came. `index` is the log position at which the service says that it took effect,
    if it says so. `key` names the object (a member, an actor): operations of different keys are independent.
    """

    number: int
    process: int
    function: str
    key: str
    argument: Any
    outcome: Outcome
    result: Any
    called_ns: int
    returned_ns: int | None
    phase: Phase
    index: int | None = None
    error: str = ""


@frozen
class Fault:
    """One fault, from the first step of injecting it to the last step of healing it. `bit` says what proved it."""

    number: int
    kind: str
    target: str
    begun_ns: int
    ended_ns: int | None
    parameters: Mapping[str, Any] = Factory(dict)
    bit: str = ""


@frozen
class Note:
    """Anything else that checkers read: an installed table, an effect at a store, a change of leader."""

    kind: str
    at_ns: int
    fields: Mapping[str, Any]


@frozen
class History:
    """A whole history, operations in the order of their calls."""

    operations: tuple[Operation, ...]
    faults: tuple[Fault, ...] = ()
    notes: tuple[Note, ...] = ()
    settings: Mapping[str, Any] = Factory(dict)
    torn: bool = False
    """Whether the last line was cut off, as a killed recorder leaves it."""

    def notes_of(self, kind: str) -> Iterator[Note]:
        """Notes of one kind, in the order of the file."""
        return (note for note in self.notes if note.kind == kind)

    def by_key(self, functions: Iterable[str]) -> dict[str, list[Operation]]:
        """Operations of these functions by key, in the order of their calls."""
        wanted, found = frozenset(functions), dict[str, list[Operation]]()
        for operation in self.operations:
            if operation.function in wanted:
                found.setdefault(operation.key, []).append(operation)
        return found


@define
class Recorder:
    """Appends to a history file. Every line is written by one call: a kill leaves whole lines and one torn."""

    path: Path
    phase: Phase = Phase.BEFORE
    _descriptor: int = field(init=False)
    _next_operation: int = 1
    _next_process: int = 1
    _next_fault: int = 1
    counts: dict[str, int] = Factory(dict)

    def __attrs_post_init__(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self._descriptor = os.open(self.path, flags, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Sync and close. Idempotent."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def process(self) -> int:
        """A new process number."""
        number, self._next_process = self._next_process, self._next_process + 1
        return number

    def settings(self, **fields: Any) -> None:
        """What bounds are computed from."""
        self._write({"type": "settings", **fields})

    def enter(self, phase: Phase) -> None:
        """Operations called from here on belong to `phase`."""
        self.phase = phase
        self.note("phase", phase=phase.value)

    def invoke(self, process: int, function: str, key: str, argument: Any = None) -> int:
        """Record a call before it is sent; returns its number."""
        number, self._next_operation = self._next_operation, self._next_operation + 1
        self._write(
            {
                "type": "invoke",
                "number": number,
                "process": process,
                "function": function,
                "key": key,
                "argument": argument,
                "phase": self.phase.value,
                "at_ns": time.monotonic_ns(),
            }
        )
        return number

    def complete(
        self, number: int, outcome: Outcome, result: Any = None, *, index: int | None = None, error: str = ""
    ) -> None:
        """Record the end of an operation, after its whole answer was read."""
        line = {"type": outcome.value, "number": number, "result": result, "at_ns": time.monotonic_ns()}
        if index is not None:
            line["index"] = index
        if error:
            line["error"] = error
        self._write(line)

    def fault_begins(self, kind: str, target: str, **parameters: Any) -> int:
        """Record that a fault is about to be injected; returns its number."""
        number, self._next_fault = self._next_fault, self._next_fault + 1
        self._write(
            {
                "type": "fault",
                "number": number,
                "kind": kind,
                "target": target,
                "parameters": parameters,
                "at_ns": time.monotonic_ns(),
            }
        )
        return number

    def fault_bit(self, number: int, proof: str) -> None:
        """Record what showed that the fault had an effect."""
        self._write({"type": "bit", "number": number, "proof": proof, "at_ns": time.monotonic_ns()})

    def fault_ends(self, number: int) -> None:
        """Record that the fault is healed."""
        self._write({"type": "healed", "number": number, "at_ns": time.monotonic_ns()})

    def note(self, kind: str, **fields: Any) -> None:
        """Record anything else."""
        self._write({"type": "note", "kind": kind, "at_ns": time.monotonic_ns(), **fields})

    def _write(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        if len(data) > LINE_BYTES_MAX:
            raise HistoryError(f"{self.path}: a line of {len(data)} bytes; the limit is {LINE_BYTES_MAX}")
        kind = str(line["type"])
        self.counts[kind] = self.counts.get(kind, 0) + 1
        os.write(self._descriptor, data)


def read_history(path: Path) -> History:
    """The history in a file. A torn last line is forgiven and marked.

    Raises:
        HistoryError: a line is no event of a history, or contradicts an earlier one.
    """
    reader = _Reader(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HistoryError(f"{path}: {error.strerror}") from None
    lines = data.split(b"\n")
    torn = lines.pop() != b""
    for number, line in enumerate(lines, start=1):
        try:
            reader.take(json.loads(line))
        except HistoryError as error:
            raise HistoryError(f"{path}, line {number}: {error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise HistoryError(f"{path}, line {number}: not an event of a history ({error!r})") from None
    return reader.history(torn)


@define
class _Reader:
    path: Path
    invoked: dict[int, dict[str, Any]] = Factory(dict)
    completed: dict[int, dict[str, Any]] = Factory(dict)
    open_of_process: dict[int, int] = Factory(dict)
    faults: dict[int, dict[str, Any]] = Factory(dict)
    notes: list[Note] = Factory(list)
    settings: dict[str, Any] = Factory(dict)

    def take(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "invoke":
                self._invoke(event)
            case "ok" | "fail" | "info":
                self._complete(event)
            case "fault":
                self.faults[event["number"]] = event
            case "bit":
                self.faults[event["number"]]["bit"] = event["proof"]
            case "healed":
                self.faults[event["number"]]["ended_ns"] = event["at_ns"]
            case "settings":
                self.settings.update({name: value for name, value in event.items() if name != "type"})
            case "note":
                fields = {name: value for name, value in event.items() if name not in {"type", "kind", "at_ns"}}
                self.notes.append(Note(event["kind"], event["at_ns"], fields))
            case other:
                raise HistoryError(f"unknown type {other!r}")

    def _invoke(self, event: dict[str, Any]) -> None:
        number, process = event["number"], event["process"]
        if number in self.invoked:
            raise HistoryError(f"operation {number} is invoked twice")
        if process in self.open_of_process:
            raise HistoryError(f"process {process} invokes {number} while {self.open_of_process[process]} is open")
        self.invoked[number] = event
        self.open_of_process[process] = number

    def _complete(self, event: dict[str, Any]) -> None:
        number = event["number"]
        if number not in self.invoked:
            raise HistoryError(f"operation {number} ends without having been invoked")
        if number in self.completed:
            raise HistoryError(f"operation {number} ends twice")
        if event["at_ns"] < self.invoked[number]["at_ns"]:
            raise HistoryError(f"operation {number} ends before it was invoked")
        self.completed[number] = event
        if event["type"] != Outcome.INFO:
            del self.open_of_process[self.invoked[number]["process"]]

    def history(self, torn: bool) -> History:
        operations = [_operation(event, self.completed.get(number)) for number, event in self.invoked.items()]
        operations.sort(key=lambda operation: (operation.called_ns, operation.number))
        faults = tuple(
            Fault(
                number,
                event["kind"],
                event["target"],
                event["at_ns"],
                event.get("ended_ns"),
                event["parameters"],
                event.get("bit", ""),
            )
            for number, event in self.faults.items()
        )
        return History(tuple(operations), faults, tuple(self.notes), self.settings, torn)


def _operation(invoked: dict[str, Any], completed: dict[str, Any] | None) -> Operation:
    ended = completed or {"type": Outcome.INFO, "result": None, "at_ns": None}
    outcome = Outcome(ended["type"])
    return Operation(
        number=invoked["number"],
        process=invoked["process"],
        function=invoked["function"],
        key=invoked["key"],
        argument=invoked["argument"],
        outcome=outcome,
        result=ended["result"],
        called_ns=invoked["at_ns"],
        returned_ns=None if outcome is Outcome.INFO else ended["at_ns"],
        phase=Phase(invoked["phase"]),
        index=ended.get("index"),
        error=ended.get("error", ""),
    )
