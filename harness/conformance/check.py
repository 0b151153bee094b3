"""Has TLC decide which traces a trace specification accepts: all traces of a run in one start of TLC."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from harness.conformance.tracelines import Trace
from harness.modelcheck.messages import parse_output
from harness.modelcheck.tlc import Job, Run, Stop, run_tlc
from harness.modelcheck.tools import Tools
from harness.modelcheck.values import parse_value, show

FOLDER = Path(__file__).resolve().parents[2] / "tla"
TIMEOUT_S = 1200.0
_ACCEPTED = re.compile(r'<<"ACCEPTED", (\d+)>>')
_AT = re.compile(r'<<"AT", (\d+), (\d+)>>')


class CheckError(Exception):
    """TLC could not judge the traces; the text says what it said."""


@frozen
class TraceSpec:
    """A trace specification. From all traces of a run: `constants` of the cfg, as TLA+ text, and `data`, further
    definitions of TraceData. `encode`: a line as the module reads it, given all traces. `sources_max`: so many traces,
    and changes of them, are judged in one start of TLC."""

    module: str
    constants: Callable[[Sequence[Trace]], tuple[str, ...]]
    invariants: tuple[str, ...]
    data: Any = field(default=lambda _traces: {})
    sources_max: int = 2000
    encode: Any = field(default=lambda line, _trace, _traces: line)


@frozen
class Stuck:
    """Why a trace was rejected: the first line that no step takes, the state before it, and what would be broken."""

    number: int
    line: Mapping[str, Any]
    before: Mapping[str, str]
    breaks: str | None


@define
class Judgement:
    """Which traces were accepted, by position."""

    accepted: set[int]
    seconds: float
    states: int


def tla(value: Any) -> str:
    """A value in TLA+."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(tla, value))) + "}"
    if isinstance(value, Mapping):
        return "[" + ", ".join(f"{key} |-> {tla(each)}" for key, each in value.items()) + "]"
    return "<<" + ", ".join(map(tla, value)) + ">>"


def trace_data(spec: TraceSpec, traces: Sequence[Trace]) -> str:
    """The module that a trace specification extends."""
    data = spec.data(traces)
    rows = ["---- MODULE TraceData ----", "EXTENDS Naturals, Sequences"]
    rows += [f"{name} == {tla(value)}" for name, value in data.items()]
    for at, trace in enumerate(traces, start=1):
        lines = ",\n  ".join(tla(spec.encode(line, trace, traces)) for line in trace.lines)
        rows.append(f"Trace{at} == <<\n  {lines}>>")
    rows.append("Traces == <<" + ", ".join(f"Trace{at}" for at in range(1, len(traces) + 1)) + ">>")
    rows.append("====")
    return "\n".join(rows) + "\n"


def judge(spec: TraceSpec, traces: Sequence[Trace], tools: Tools) -> Judgement:
    """Which of the traces are behaviours of the specification. Raises CheckError."""
    judgement = Judgement(set(), 0.0, 0)
    for chosen in _batches(traces, spec.sources_max):
        run, text = _run(spec, [traces[at] for at in chosen], tools, ("Accepted",), checking=True)
        _require_finished(run, text)
        judgement.accepted |= {chosen[int(number) - 1] for number in _ACCEPTED.findall(text)}
        judgement.seconds += run.seconds
        judgement.states += run.output.distinct or 0
    return judgement


def _batches(traces: Sequence[Trace], sources_max: int) -> list[list[int]]:
    """Positions of traces, so many sources together: changed traces have the constants of the one they came from."""
    sources: dict[int, int] = {}
    batches: dict[int, list[int]] = {}
    for at, trace in enumerate(traces):
        source = sources.setdefault(id(trace.constants), len(sources))
        batches.setdefault(source // sources_max, []).append(at)
    return list(batches.values())


def diagnose(spec: TraceSpec, trace: Trace, tools: Tools) -> Stuck:
    """Why a trace is rejected. Raises CheckError if it is not."""
    run, text = _run(spec, [trace], tools, ("Reached",), checking=True)
    _require_finished(run, text)
    number = max(int(at) for _, at in _AT.findall(text))
    if number > len(trace.lines):
        raise CheckError(f"trace {trace.label} is accepted")
    run, text = _run(spec, [trace], tools, ("NotYet",), checking=True, stop=(1, number))
    before = {name: show(parse_value(value)) for name, value in run.output.trace[-1].variables.items()}
    run, text = _run(spec, [trace], tools, spec.invariants, checking=False)
    broken = run.output.violated
    return Stuck(number, trace.lines[number - 1], before, broken)


def _require_finished(run: Run, text: str) -> None:
    if not run.output.finished or run.output.errors:
        said = "; ".join(run.output.errors) or " ".join(text.split())[-600:]
        raise CheckError(f"TLC ended with exit code {run.exit_code}: {said}")


def _run(
    spec: TraceSpec,
    traces: Sequence[Trace],
    tools: Tools,
    invariants: Sequence[str],
    *,
    checking: bool,
    stop: tuple[int, int] = (0, 0),
) -> tuple[Run, str]:
    cfg = [
        "INIT TraceInit",
        "NEXT TraceNext",
        "CONSTANTS",
        *(f"  {each}" for each in spec.constants(traces)),
        f"  Checking = {tla(checking)}",
        "INVARIANTS",
        *(f"  {each}" for each in invariants),
    ]
    data = trace_data(spec, traces).replace("====\n", f"StopTrace == {stop[0]}\nStopLine == {stop[1]}\n====\n")
    with tempfile.TemporaryDirectory(prefix="callboard-trace-") as name:
        job = Job(
            label=spec.module,
            folder=FOLDER,
            module=spec.module,
            cfg_text="\n".join(cfg) + "\n",
            overlay={"TraceData.tla": data},
            short=True,
            timeout_s=TIMEOUT_S,
        )
        run = run_tlc(job, tools, Path(name) / "output.txt", Stop())
        text = run.output_file.read_text(encoding="utf-8", errors="replace")
    return run, text


__all__ = ["CheckError", "Judgement", "Stuck", "TraceSpec", "diagnose", "judge", "parse_output", "tla", "trace_data"]
