"""A campaign: many runs, some clusters at a time, and one summary.

Each run is a process of its own, so that a run that hangs or dies costs the campaign nothing else, and runs share
neither memory nor an event loop. After each run the summary of what there is so far is written, so that a campaign that
is killed leaves one, and can be gone on with. Ctrl-C (SIGINT, SIGTERM) asks the running ones to end; what they recorded
is checked, and the summary is written. A second one kills them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from attrs import Factory, define, field, frozen

from harness.faults.history import LINE_BYTES_MAX
from harness.faults.plan import Planned
from harness.faults.runner import INTERRUPTED, RESULTS
from harness.processes import LEASH, REPOSITORY

PATIENCE_S = 420.0
"""What a run may take besides its faults: to start, to settle, to be checked."""
GRACE_S = 90.0
STOPPED = "interrupted"
"""Why a campaign ended that somebody ended."""
FAILURES_TO_STOP = 3
"""So many runs in a row that never got to their faults: something is wrong with the machine, not with the service."""


class Progress(Protocol):
    """Who is told how a campaign goes on."""

    def began(self, worker: int, planned: Planned) -> None:
        """A run begins."""

    def said(self, worker: int, line: str) -> None:
        """What a run says of itself."""

    def ended(self, worker: int, result: dict[str, Any], live_s: float) -> None:
        """A run has ended; `live_s` is that of the whole campaign so far."""


@frozen
class Limits:
    """When a campaign has enough: after so much live cluster time, or so many runs."""

    live_s: float
    runs: int | None = None


@define(eq=False)
class Campaign:
    """`run`, then read the results in the directory (see `summary`)."""

    directory: Path
    planned: Iterator[Planned]
    limits: Limits
    jobs: int
    progress: Progress
    after_each: Callable[[], None] = lambda: None
    """Called when the results of another run are there."""
    interrupted: bool = False
    live_s: float = 0.0
    runs: int = 0
    stopped_because: str = ""
    _running: dict[int, asyncio.subprocess.Process] = Factory(dict)
    _starts_failed: int = 0
    _began: float = field(init=False, default=0.0)

    async def run(self) -> None:
        """Until there is enough, or somebody interrupts."""
        self.directory.mkdir(parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.interrupt)
        try:
            await asyncio.gather(*(self._work(worker) for worker in range(self.jobs)))
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            for process in self._running.values():
                _signal(process, signal.SIGKILL)

    def interrupt(self) -> None:
        """End in order; when called again, at once."""
        number = signal.SIGKILL if self.interrupted else signal.SIGINT
        self.interrupted, self.stopped_because = True, STOPPED
        for process in self._running.values():
            _signal(process, number)

    def _enough(self) -> bool:
        runs = self.limits.runs
        if runs is not None and self.runs >= runs:
            self.stopped_because = self.stopped_because or f"{runs} runs"
        elif self.live_s >= self.limits.live_s:
            self.stopped_because = self.stopped_because or "enough live cluster time"
        elif self._starts_failed >= FAILURES_TO_STOP:
            self.stopped_because = f"{FAILURES_TO_STOP} runs in a row never got to their faults"
        return bool(self.stopped_because)

    async def _work(self, worker: int) -> None:
        while not self._enough():
            self.runs += 1
            planned = next(self.planned)
            self.progress.began(worker, planned)
            result = await self._one(worker, planned)
            live_s = float(result["figures"].get("live_s", 0.0))
            self.live_s += live_s
            self._starts_failed = 0 if result["faults"] or self.interrupted else self._starts_failed + 1
            self.progress.ended(worker, result, self.live_s)
            self.after_each()

    async def _one(self, worker: int, planned: Planned) -> dict[str, Any]:
        """One run in a process of its own. What it leaves is read from its directory, whatever became of it."""
        directory = self.directory / planned.folder
        directory.mkdir(parents=True)
        path = directory / "schedule.json"
        planned.schedule.save(path)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(LEASH), str(os.getpid())),
            *(sys.executable, "-m", "harness.faults", "run", "--schedule", str(path), "--directory", str(directory)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'impl'}{os.pathsep}{REPOSITORY}"},
            start_new_session=True,
            limit=LINE_BYTES_MAX,
        )
        self._running[worker] = process
        tail: deque[str] = deque(maxlen=5)
        reading = asyncio.ensure_future(self._read(worker, process, directory / "console.log", tail))
        problem = ""
        try:
            async with asyncio.timeout(planned.schedule.duration_s + PATIENCE_S):
                await reading
                await process.wait()
        except TimeoutError:
            problem = "the run did not end and was killed"
            _signal(process, signal.SIGINT)
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE_S):
                    await process.wait()
            _signal(process, signal.SIGKILL)
            await process.wait()
        finally:
            del self._running[worker]
        return result_of(directory, problem or f"the run's process ended: {' | '.join(tail)}")

    async def _read(self, worker: int, process: asyncio.subprocess.Process, path: Path, tail: deque[str]) -> None:
        assert process.stdout is not None, "it is a pipe"
        with path.open("wb") as log:
            async for line in process.stdout:
                log.write(line)
                text = line.decode(errors="replace").rstrip()
                if text:
                    tail.append(text)
                    self.progress.said(worker, text)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


def result_of(directory: Path, problem: str) -> dict[str, Any]:
    """The results.json of a run; one that says that the run failed if it left none."""
    try:
        found: dict[str, Any] = json.loads((directory / RESULTS).read_text())
    except (OSError, ValueError):
        schedule = json.loads((directory / "schedule.json").read_text())
        found = {
            "passed": False,
            "problems": [problem],
            "schedule": schedule,
            "results": [],
            "gates": [],
            "failures": [problem],
            "faults": [],
            "figures": {},
        }
        (directory / RESULTS).write_text(json.dumps(found, indent=2) + "\n")
    return found


def kept_runs(directory: Path) -> dict[int, dict[str, Any]]:
    """Results by number of the runs of an earlier campaign in `directory` that need not run again. What was only
    interrupted, or left no results, is removed; an interrupted run that found something stays."""
    kept: dict[int, dict[str, Any]] = {}
    for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
        number = folder.name.partition("-")[0]
        if not number.isdigit():
            continue
        try:
            result = json.loads((folder / RESULTS).read_text())
        except (OSError, ValueError):
            result = {"problems": [INTERRUPTED]}
        if result["problems"] == [INTERRUPTED]:
            shutil.rmtree(folder)
        else:
            kept[int(number)] = result
    return kept
