"""Running tasks side by side, never with more TLC workers than there are cores to use."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import attrs

from harness.modelcheck.plan import Task, output_path
from harness.modelcheck.tlc import Run, Stop, run_tlc
from harness.modelcheck.tools import Tools
from harness.modelcheck.verdict import Verdict


@attrs.frozen
class Outcome:
    """A task with its run and verdict."""

    task: Task
    run: Run
    verdict: Verdict


@attrs.frozen
class Listener:
    """Callbacks for showing progress; they are called from several threads."""

    started: Callable[[Task], None] = lambda _task: None
    progressed: Callable[[Task, int, int], None] = lambda _task, _generated, _distinct: None
    ended: Callable[[Outcome], None] = lambda _outcome: None


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


class CoreBudget:
    """Hands out cores; a task that needs several waits until they are free together."""

    def __init__(self, cores: int) -> None:
        self._free = cores
        self._changed = threading.Condition()

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Hold `count` cores."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


def execute(tasks: Sequence[Task], tools: Tools, build: Path, cores: int, listener: Listener) -> list[Outcome]:
    """Run all tasks and return their outcomes in the order of `tasks`. Ctrl-C ends the running ones and is raised."""
    stop = Stop()
    budget = CoreBudget(cores)

    def run(task: Task) -> Outcome:
        job = attrs.evolve(task.job, workers=min(task.job.workers, cores))
        with budget.take(job.workers):
            listener.started(task)
            result = run_tlc(
                job,
                tools,
                output_path(build, task),
                stop,
                lambda generated, distinct: listener.progressed(task, generated, distinct),
            )
        outcome = Outcome(task, result, task.judge(result))
        listener.ended(outcome)
        return outcome

    pool = ThreadPoolExecutor(max_workers=cores)
    futures = [pool.submit(run, task) for task in tasks]
    try:
        for future in as_completed(futures):
            future.result()
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]
