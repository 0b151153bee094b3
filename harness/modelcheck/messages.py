"""Reading what TLC prints with ``-tool``: numbered messages, never its prose around them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import attrs

START = re.compile(r"@!@!@STARTMSG (-?\d+):(\d+) @!@!@")

# Message numbers of TLC (class tlc2.output.EC).
INVARIANT_VIOLATED_AT_START = 2107
PROPERTY_VIOLATED_AT_START = 2108
INVARIANT_VIOLATED = 2110
ACTION_PROPERTY_VIOLATED = 2112
DEADLOCK = 2114
TEMPORAL_VIOLATED = 2116
TRACE_STATE = 2217
STUTTERING = 2218
BACK_TO_STATE = 2122
SUCCESS = 2193
DEPTH = 2194
COUNTS = 2199
PROGRESS = 2200
SIMULATION_PROGRESS = 2209
VERSION = 2262
COVERAGE_START = 2201
COVERAGE_ACTION = 2772

CLASS_ERROR = 1
CLASS_BUG = 2

_VIOLATED = re.compile(r"^(?:Invariant|Action property|Property) (.+?) is (?:violated|false)")
_COVERED = re.compile(r"^<(\w+) (line .+?)>: (\d+):(\d+)")
_STATE_HEAD = re.compile(r"^(\d+): (?:<(.*?)(?: line .*)?>|(Stuttering)|Back to state.*)$")
_NUMBER = re.compile(r"[\d,]+")


@attrs.frozen
class Message:
    """One message: its number, its class (0 plain, 1 error, 2 bug, 3 warning, 4 state) and its text."""

    code: int
    severity: int
    text: str


@attrs.frozen
class TraceState:
    """One state of a counterexample: the action that led to it, and each variable's value as TLC wrote it."""

    number: int
    action: str
    variables: dict[str, str]


@attrs.define
class Output:
    """All that matters of one run's output."""

    finished: bool = False
    simulated: bool = False
    violated: str | None = None  # name of an invariant or property, "Deadlock", "(temporal)" or a place in a module
    generated: int | None = None
    distinct: int | None = None
    depth: int | None = None
    coverage: dict[str, int] = attrs.field(factory=dict)
    trace: list[TraceState] = attrs.field(factory=list)
    loop: str | None = None  # how a temporal counterexample goes on: "stuttering" or "back to state N"
    errors: list[str] = attrs.field(factory=list)
    version: str = ""


def messages(text: str) -> Iterator[Message]:
    """The messages of an output in order. Lines outside of messages are skipped."""
    found = list(START.finditer(text))
    for match in found:
        end = text.find(f"@!@!@ENDMSG {match[1]} @!@!@", match.end())
        body = text[match.end() : end if end >= 0 else len(text)]
        yield Message(int(match[1]), int(match[2]), body.strip("\n"))


def parse_output(text: str) -> Output:
    """Read a whole output."""
    out = Output()
    coverage: Counter[tuple[str, str]] = Counter()
    for message in messages(text):
        if message.code == COVERAGE_START:
            coverage.clear()  # only the last block counts: it is the total
        elif message.code == COVERAGE_ACTION and (found := _COVERED.match(message.text)):
            coverage[found[1], found[2]] += int(found[4])
        else:
            _take(out, message)
    for (name, _place), count in coverage.items():
        out.coverage[name] = out.coverage.get(name, 0) + count
    return out


def _take(out: Output, message: Message) -> None:
    code = message.code
    if code == SUCCESS:
        out.finished = True
    elif code == SIMULATION_PROGRESS:
        out.simulated = True
        out.generated = _numbers(message.text.partition(":")[2].partition(":")[2].partition(":")[2])[0]
    elif code == COUNTS:
        out.generated, out.distinct = _numbers(message.text)[:2]
    elif code == DEPTH:
        out.depth = _numbers(message.text)[0]
    elif code == VERSION:
        out.version = message.text
    elif code in (TRACE_STATE, STUTTERING, BACK_TO_STATE):
        _take_state(out, message)
    elif code in _VIOLATIONS:
        out.violated = out.violated or _violated(message)
        if code in (INVARIANT_VIOLATED_AT_START, PROPERTY_VIOLATED_AT_START):
            out.trace.append(TraceState(1, "Initial predicate", variables_of(message.text)))
    elif message.severity in (CLASS_ERROR, CLASS_BUG) and code not in _TRACE_HEADINGS:
        out.errors.append(f"{code}: {' '.join(message.text.split())[:600]}")


_VIOLATIONS = {
    INVARIANT_VIOLATED_AT_START,
    PROPERTY_VIOLATED_AT_START,
    INVARIANT_VIOLATED,
    ACTION_PROPERTY_VIOLATED,
    DEADLOCK,
    TEMPORAL_VIOLATED,
}
_TRACE_HEADINGS = {2121, 2264}


def _violated(message: Message) -> str:
    if message.code == DEADLOCK:
        return "Deadlock"
    if message.code == TEMPORAL_VIOLATED:
        return "(temporal)"
    match = _VIOLATED.match(message.text)
    return match[1] if match else " ".join(message.text.split())[:200]


def _take_state(out: Output, message: Message) -> None:
    if message.code == STUTTERING:
        out.loop = "stuttering"
        return
    if message.code == BACK_TO_STATE:
        number = _numbers(message.text)
        out.loop = f"back to state {number[0]}" if number else "back to an earlier state"
        return
    head, _, body = message.text.partition("\n")
    match = _STATE_HEAD.match(head)
    number_text = head.partition(":")[0]
    action = match[2] if match and match[2] else head
    out.trace.append(TraceState(int(number_text), action, variables_of(body)))


def variables_of(body: str) -> dict[str, str]:
    """Split the text of a state into variable and value. A state of one variable has no leading ``/\\``."""
    variables: dict[str, str] = {}
    name = None
    for line in body.splitlines():
        match = re.match(r"^(?:/\\ )?(\w+) = (.*)$", line)
        if match and not line.startswith(" "):
            name = match[1]
            variables[name] = match[2]
        elif name is not None and line.strip():
            variables[name] += " " + line.strip()
    return variables


def _numbers(text: str) -> list[int]:
    return [int(n.replace(",", "")) for n in _NUMBER.findall(text) if n.strip(",")]


def last_progress(text: str) -> tuple[int, int] | None:
    """States generated and distinct of the newest progress message in a part of an output."""
    newest = None
    for message in messages(text):
        if message.code == PROGRESS:
            numbers = re.search(r"([\d,]+) states generated.*?([\d,]+) distinct states", message.text)
            if numbers:
                newest = (int(numbers[1].replace(",", "")), int(numbers[2].replace(",", "")))
    return newest
