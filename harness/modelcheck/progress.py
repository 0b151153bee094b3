"""Showing which runs are under way."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from harness.modelcheck.execute import Listener, Outcome
from harness.modelcheck.plan import Task
from harness.modelcheck.report import result_text


class ProgressView:
    """A bar over all runs and a line for each running one; without a terminal, a line when a run ends."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._whole = self._progress.add_task("all runs", total=total)
        self._lines: dict[str, TaskID] = {}

    def __enter__(self) -> Listener:
        self._progress.start()
        return Listener(started=self._started, progressed=self._progressed, ended=self._ended)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _started(self, task: Task) -> None:
        self._lines[task.job.label] = self._progress.add_task(task.job.label, total=task.cost or None)

    def _progressed(self, task: Task, generated: int, distinct: int) -> None:
        line = self._lines[task.job.label]
        self._progress.update(line, completed=generated, description=f"{task.job.label} ({distinct:,} distinct)")

    def _ended(self, outcome: Outcome) -> None:
        line = self._lines.pop(outcome.task.job.label)
        self._progress.remove_task(line)
        self._progress.advance(self._whole)
        self._console.print(
            f"{result_text(outcome)}: {outcome.task.module} {outcome.task.name} [{outcome.run.seconds:.1f} s]",
            highlight=False,
            markup=False,
        )
