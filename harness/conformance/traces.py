"""`python -m harness.conformance traces`: are traces of the code behaviours of the specification?

For each specification the traces of a source are judged by its trace specification in one run of TLC. A table shows how
often each action was seen; a rejected trace is shown with the first line that no step takes. With `--sensitivity`
accepted traces are changed line by line, and must be rejected.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from attrs import define, field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.conformance.check import FOLDER, CheckError, Stuck, diagnose, judge
from harness.conformance.gather import SLOTS_PER_RUN, SUBJECTS, Gathered, Subject, counts
from harness.conformance.process_source import record_cluster
from harness.conformance.reasons import never, unseen
from harness.conformance.sensitivity import HOWS, Sensitivity, measure
from harness.conformance.tracelines import Record, Trace, TraceError, read_files
from harness.modelcheck.errors import ModelCheckError
from harness.modelcheck.tools import Tools, find_tools
from harness.processes import ProcessError

PROCESSES = "processes"
SOURCES = ("walks", "simulation", PROCESSES)
"""Whoever gives files knows what is in them: no action has to be seen there."""
EXPLAINED_MAX = 3
CONTEXT_LINES = 6
_TAKEN = re.compile(r'(?:Is|By)\("(\w+)"\)')
_CALLED = re.compile(r"\b([A-Z]\w+)\(")
_ACTION = re.compile(r"^\\\* @actor: .*\n(\w+)", re.MULTILINE)


@define
class Result:
    """What came out for one specification.

    `never`: why actions are in no trace of this source. `zero`: what is wrong with that: an action at zero without a
    reason, or one that is seen in spite of it. `dull`: the same for changes that are not noticed.
    """

    name: str
    gathered: Gathered
    accepted: set[int]
    seconds: float
    states: int
    seen: Counter[str]
    never: dict[str, str]
    zero: list[str]
    stuck: list[tuple[Trace, Stuck]] = field(factory=list)
    sensitivity: Sensitivity | None = None
    dull: list[str] = field(factory=list)

    @property
    def good(self) -> bool:
        """Everything accepted, nothing at zero, every change that should show shown."""
        return len(self.accepted) == len(self.gathered.traces) and not self.zero and not self.dull


def actions_of(subject: Subject) -> list[str]:
    """The actions of the specification that a trace is of, in the order of the module."""
    module = subject.spec.module.removeprefix("Trace")
    text = (FOLDER / f"{module}.tla").read_text(encoding="utf-8")
    found = _ACTION.findall(text) or _CALLED.findall(text[text.index("\nNext ==") : text.index("\nSpec ==")])
    return list(dict.fromkeys(found))


def lines_taken(subject: Subject) -> list[str]:
    """The names of lines that the trace specification knows."""
    return _TAKEN.findall((FOLDER / f"{subject.spec.module}.tla").read_text(encoding="utf-8"))


def looks_of(subject: Subject) -> list[str]:
    """Lines that the trace specification takes without a step: they only look."""
    return [each for each in dict.fromkeys(lines_taken(subject)) if each not in actions_of(subject)]


def run(
    name: str,
    gathered: Gathered,
    tools: Tools,
    *,
    sensitivity: int = 0,
    source: str = "walks",
    whole: bool = True,
) -> Result:
    """Judge what was gathered for one specification. `whole`: what has no reason not to has to be seen.

    Raises CheckError.
    """
    subject = SUBJECTS[name]
    judgement = judge(subject.spec, gathered.traces, tools)
    seen = counts([trace for at, trace in enumerate(gathered.traces) if at in judgement.accepted])
    excused = never(name, source)
    names = [*actions_of(subject), *looks_of(subject)]
    zero = zeros(names, seen, excused, same_each_time=source != PROCESSES) if whole else []
    result = Result(name, gathered, judgement.accepted, judgement.seconds, judgement.states, seen, excused, zero)
    rejected = [trace for at, trace in enumerate(gathered.traces) if at not in judgement.accepted]
    for trace in rejected[:EXPLAINED_MAX]:
        result.stuck.append((trace, diagnose(subject.spec, trace, tools)))
    if sensitivity and not rejected:
        excuses = unseen(name)
        result.sensitivity = measure(subject.spec, gathered.traces, tools, per_action=sensitivity, unseen=excuses)
        result.dull = result.sensitivity.problems(excuses)
    return result


def zeros(
    actions: Sequence[str], seen: Mapping[str, int], excused: Mapping[str, str], *, same_each_time: bool = True
) -> list[str]:
    """What is wrong with the actions that no trace has, and with the reasons.

    A reason against what is seen is no error where runs are not the `same_each_time`.
    """
    stale = [each for each in excused if seen.get(each)] if same_each_time else []
    return [
        *(f"no trace has {each}" for each in actions if not seen.get(each) and each not in excused),
        *(f"{each} is seen, so this is wrong: {excused[each]}" for each in stale),
    ]


def print_result(result: Result, console: Console) -> None:
    """For people."""
    gathered = result.gathered
    title = (
        f"{result.name}: {len(result.accepted)} of {len(gathered.traces)} traces accepted "
        f"({gathered.runs} runs, {sum(result.seen.values())} lines, {result.states} states, TLC {result.seconds:.1f} s)"
    )
    subject = SUBJECTS[result.name]
    shown = result.sensitivity
    columns = ("action", "seen", *((f"{how}: rejected of" for how in HOWS) if shown else ()), "remark")
    table = Table(*columns, title=title, title_justify="left")
    for action in dict.fromkeys([*actions_of(subject), *looks_of(subject), *sorted(result.seen)]):
        remark = result.never.get(action, "") if not result.seen[action] else _unseen_text(result.name, action)
        cells = [f"{shown.rejected[action, how]} of {shown.tried[action, how]}" for how in HOWS] if shown else []
        table.add_row(action, str(result.seen[action]), *cells, Text(remark))
    console.print(table)
    for reason, count in gathered.left_out.items():
        console.print(f"left out {count} times: {reason}", markup=False)
    for problem in [*result.zero, *result.dull]:
        console.print(f"{result.name}: {problem}", markup=False)
    for trace, stuck in result.stuck:
        print_stuck(trace, stuck, console)


def _unseen_text(name: str, action: str) -> str:
    reasons = {how: why for (of, how), why in unseen(name).items() if of == action}
    return "; ".join(f"{how}: {why}" for how, why in reasons.items())


def print_stuck(trace: Trace, stuck: Stuck, console: Console) -> None:
    """A rejected trace: lines before, the line, the state before it."""
    why = f"the step would break {stuck.breaks}" if stuck.breaks else "no step of the specification does this"
    console.print(f"REJECTED {trace.label}: line {stuck.number} of {len(trace.lines)}: {why}", markup=False)
    for at in range(max(0, stuck.number - CONTEXT_LINES), stuck.number):
        mark = ">" if at + 1 == stuck.number else " "
        console.print(f"  {mark} {at + 1}: {shown_line(trace.lines[at])}", markup=False)
    console.print("  the state before it:", markup=False)
    for variable, value in sorted(stuck.before.items()):
        console.print(f"    {variable} = {value}", markup=False)


def shown_line(line: dict[str, Any]) -> str:
    """An action with its fields."""
    return f"{line['name']}({', '.join(f'{key}={value}' for key, value in line.items() if key != 'name')})"


def as_dict(result: Result) -> dict[str, Any]:
    """For machines."""
    labels = [trace.label for trace in result.gathered.traces]
    shown = result.sensitivity
    return {
        "specification": result.name,
        "runs": result.gathered.runs,
        "traces": len(labels),
        "accepted": [labels[at] for at in sorted(result.accepted)],
        "rejected": [label for at, label in enumerate(labels) if at not in result.accepted],
        "first_unexplained": [
            {"trace": trace.label, "line": stuck.number, "event": shown_line(trace.lines[stuck.number - 1])}
            | {"breaks": stuck.breaks, "state_before": dict(stuck.before)}
            for trace, stuck in result.stuck
        ],
        "left_out": dict(result.gathered.left_out),
        "seen": dict(sorted(result.seen.items())),
        "excused": {action: why for action, why in result.never.items() if not result.seen[action]},
        "wrongly_seen_or_not": result.zero,
        "seconds": round(result.seconds, 1),
        "states": result.states,
        "changes": None
        if shown is None
        else {f"{action} {how}": [shown.rejected[action, how], tried] for (action, how), tried in shown.tried.items()},
        "unnoticed": result.dull,
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--spec", "names", multiple=True, type=click.Choice(list(SUBJECTS)), help="Only this one; repeatable.")
@click.option(
    "--source",
    default="walks",
    show_default=True,
    help="walks (of machines under a drawn network), simulation (whole clusters), processes (a real cluster), or trace "
    "files with commas between.",
)
@click.option("--runs", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Seeds to run.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The first of them.")
@click.option("--slots", type=click.IntRange(1, 64), default=SLOTS_PER_RUN, show_default=True, help="Of each run.")
@click.option("--sensitivity", type=click.IntRange(0), default=0, help="Change so many lines of each action, each way.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def traces(
    *, names: Sequence[str], source: str, runs: int, seed: int, slots: int, sensitivity: int, output: str
) -> None:
    """Check traces of the code against the specification. Exit code 1: something is wrong; 2: a bad setup."""
    console = Console(stderr=output == "json", width=150 if not sys.stdout.isatty() else None)
    try:
        tools = find_tools()
        results = []
        records = None if source in {"walks", "simulation"} else _records(source)
        for name in names or [each for each in SUBJECTS if _tells(each, source)]:
            if not _tells(name, source):
                raise TraceError(f"--spec {name}: --source {source} says nothing of it; walks do")
            gathered = _gather(name, source, records, range(seed, seed + runs), slots)
            results.append(run(name, gathered, tools, sensitivity=sensitivity, source=source, whole=source in SOURCES))
            print_result(results[-1], console)
    except (ModelCheckError, TraceError, CheckError, ProcessError, TimeoutError) as error:
        raise click.UsageError(str(error)) from None
    if output == "json":
        print(json.dumps([as_dict(result) for result in results], indent=2))
    if not all(result.good for result in results):
        sys.exit(1)


def _records(source: str) -> list[Record]:
    if source != PROCESSES:
        return read_files([Path(each) for each in source.split(",")])
    with tempfile.TemporaryDirectory(prefix="callboard-traces-") as folder:
        return read_files(record_cluster(Path(folder)))


def _tells(name: str, source: str) -> bool:
    subject = SUBJECTS[name]
    return source == "walks" or (subject.simulations if source == "simulation" else subject.of_records) is not None


def _gather(name: str, source: str, records: list[Record] | None, seeds: range, slots: int) -> Gathered:
    subject = SUBJECTS[name]
    if records is None:
        gather = subject.walks if source == "walks" else subject.simulations
        assert gather is not None
        return gather(seeds, slots)
    assert subject.of_records is not None
    gathered = subject.of_records(records, "cluster", slots)
    if not gathered.traces:
        raise TraceError(
            f"the trace has no lines for {name}: is there an exclusive namespace in it from its beginning?"
        )
    return gathered
