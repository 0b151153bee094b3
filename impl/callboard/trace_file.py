"""A file of trace events (see callboard.core.tracing): one JSON line each, for checking a run against tla/.

Off unless asked for: replicas by `--trace-file`, hosts by the variable CALLBOARD_TRACE_FILE; the file's name may
hold `{pid}`. Each line has `at_ns`, CLOCK_MONOTONIC, so that the files of one machine merge into one order: what is
received was stamped by its sender before. Lines go to the system at once; a killed process loses none.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import msgspec

from callboard.core.tracing import Fields, TraceSink

VARIABLE = "CALLBOARD_TRACE_FILE"
BYTES_MAX = 256 * 1024 * 1024


class TraceFile:
    """A sink. Beyond `bytes_max` it writes one line with the event `Truncated` and then nothing more.

    It never raises when it is called: what is told here happens anyway, and a replica whose disk is full must not apply
    otherwise than the others. The file then ends, perhaps in half a line, and the log says why.
    """

    def __init__(self, path: Path, process: str, bytes_max: int = BYTES_MAX) -> None:
        """Open the file for appending; `{pid}` in its name is replaced. Raises OSError."""
        path = path.with_name(path.name.replace("{pid}", str(os.getpid())))
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._process = process
        self._left = bytes_max

    def __call__(self, event: str, fields: Fields) -> None:
        """Write one line."""
        if self._left <= 0:
            return
        line = self._line(event, fields)
        self._left -= len(line)
        if self._left <= 0:
            line = self._line("Truncated", {})
        try:
            written = os.write(self._file, line)
        except OSError as error:
            self._end(error.strerror or str(error))
        else:
            if written < len(line):
                self._end(f"only {written} of {len(line)} bytes of a line could be written")

    def _end(self, why: str) -> None:
        self._left = 0
        logging.getLogger(__name__).warning("trace file %s ends here: %s", self._path, why)

    def _line(self, event: str, fields: Fields) -> bytes:
        stamp = {"at_ns": time.monotonic_ns(), "process": self._process, "event": event}
        return msgspec.json.encode({**stamp, **fields}) + b"\n"


def from_environment(process: str) -> TraceSink | None:
    """The sink that CALLBOARD_TRACE_FILE asks for, if it is set. Raises OSError."""
    path = os.environ.get(VARIABLE)
    return TraceFile(Path(path), process) if path else None
