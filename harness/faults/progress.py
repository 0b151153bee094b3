"""How a campaign shows its progress: a bar for the whole, a line for each cluster, a line for each run that ended."""

from __future__ import annotations

from typing import Any, Self

from attrs import define, field
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.faults.plan import Planned
from harness.faults.summary import RESULTS, Figures, duration, headline

LINE_MAX = 110


@define(eq=False)
class CampaignProgress:
    """A context manager; see `campaign.Progress`."""

    console: Console
    wanted_s: float
    jobs: int
    _bars: Progress = field(init=False)
    _whole: TaskID = field(init=False)
    _lacking: TaskID = field(init=False)
    _workers: list[TaskID] = field(init=False)
    _planned: dict[int, Planned] = field(init=False, factory=dict)
    _ended: int = 0
    _failed: int = 0

    def __enter__(self) -> Self:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._bars.start()
        self._whole = self._bars.add_task("live cluster time", total=self.wanted_s, note="")
        self._lacking = self._bars.add_task("still missing", total=None, note="", visible=False)
        self._workers = [
            self._bars.add_task(f"cluster {number + 1}", total=None, note="") for number in range(self.jobs)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def began(self, worker: int, planned: Planned) -> None:
        """See `campaign.Progress`."""
        self._planned[worker] = planned
        schedule = planned.schedule
        self._bars.reset(self._workers[worker], total=None, description=planned.folder[:40], note="starting")
        settings = schedule.settings
        cluster = ", ".join(str(settings[name]) for name in ("engine", "policy") if name in settings)
        self.said(worker, f"{len(schedule.faults)} faults{', ' if cluster else ''}{cluster}")

    def said(self, worker: int, line: str) -> None:
        """See `campaign.Progress`."""
        self._bars.update(self._workers[worker], note=line.strip()[:LINE_MAX])

    def ended(self, worker: int, result: dict[str, Any], live_s: float) -> None:
        """See `campaign.Progress`."""
        folder = self._planned[worker].folder
        self._ended += 1
        self._failed += not result["passed"]
        bitten = sum(bool(fault["proof"]) for fault in result["faults"])
        said = f"{bitten} faults bit, {result['figures'].get('moves', 0)} moves"
        verdict, style = ("passed", "green") if result["passed"] else ("FAILED", "bold red")
        self._bars.console.print(f"[{style}]{verdict}[/] {folder}: {said}", highlight=False)
        for problem in result["problems"][:3]:
            self._bars.console.print(f"       {problem[:LINE_MAX]}", markup=False, highlight=False)
        note = f"{duration(live_s)} of {duration(self.wanted_s)}; {self._ended} runs, {self._failed} failed"
        self._bars.update(self._whole, completed=min(live_s, self.wanted_s), note=note)

    def lacks(self, missing: list[str]) -> None:
        """What the campaign has not shown so far."""
        self._bars.update(self._lacking, visible=bool(missing), note="; ".join(missing)[:LINE_MAX])


def summary_table(summary: Figures) -> Table:
    """The end of a campaign in one table."""
    table = Table("figure", "", title="Campaign", title_justify="left", show_header=False)
    for name, value in headline(summary):
        table.add_row(name, value)
    for line in summary["missing"]:
        table.add_row("[bold yellow]missing[/]", line)
    for failure in summary["failed"]:
        table.add_row(f"[bold red]failed[/] {failure['folder']}", "; ".join(failure["problems"])[:400])
    table.caption = f"each run's figures are in {RESULTS} in its folder"
    return table
