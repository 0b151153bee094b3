"""Accepted traces with one line removed, moved or altered: what a trace specification has to reject.

Of every action some removed line, some line at another place and some altered one have to be rejected. Some changes
cannot show: a host that says less than it may, a write that stays on its way, are behaviours too. These are listed
with the reason by action and way (`Subject.unseen`), and if one of them is rejected all the same, the reason is wrong.
Rare ones need many tries, so what has not been rejected by the first few is tried again at more places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from attrs import define, evolve, field, frozen

from harness.conformance.check import TraceSpec, judge
from harness.conformance.tracelines import Line, Trace
from harness.modelcheck.tools import Tools

HOWS = ("removed", "moved", "altered")
MORE = (20, 200)
"""So many more changes of a kind are tried, each time if none before was rejected and one should be."""


@frozen
class Alteration:
    """One changed trace: of which action a line was changed, and how."""

    action: str
    how: str
    trace: Trace


@define
class Sensitivity:
    """How many changes of each action's lines were tried and rejected, by (action, how)."""

    tried: Counter[tuple[str, str]] = field(factory=Counter)
    rejected: Counter[tuple[str, str]] = field(factory=Counter)
    seconds: float = 0.0

    def silent(self, unseen: Mapping[tuple[str, str], str]) -> list[tuple[str, str]]:
        """What was never rejected and has no reason. A line without fields cannot be altered."""
        every = [(action, how) for action in sorted({action for action, _ in self.tried}) for how in HOWS]
        return [
            each
            for each in every
            if each not in unseen and not self.rejected[each] and (self.tried[each] or each[1] != "altered")
        ]

    def problems(self, unseen: Mapping[tuple[str, str], str]) -> list[str]:
        """What is not noticed, and what is, though a reason is given why it cannot be."""
        stale = [(action, how) for action, how in unseen if self.rejected[action, how]]
        return [
            *(f"{action} {how} is not noticed" for action, how in self.silent(unseen)),
            *(f"{action} {how} is noticed, so this is wrong: {unseen[action, how]}" for action, how in sorted(stale)),
        ]


def alterations(
    traces: Sequence[Trace], per_action: int, random: Random, only: Container[tuple[str, str]] | None = None
) -> Iterator[Alteration]:
    """For every action and every way of changing its lines, or those in `only`, up to `per_action` changed traces."""
    places: dict[str, list[tuple[int, int]]] = {}
    for which, trace in enumerate(traces):
        for at, line in enumerate(trace.lines):
            places.setdefault(line["name"], []).append((which, at))
    for action, found in sorted(places.items()):
        for how in HOWS:
            if only is not None and (action, how) not in only:
                continue
            chosen = random.sample(found, min(len(found), per_action))
            for which, at in chosen:
                lines = _changed(traces[which], at, how, random)
                if lines is not None:
                    label = f"{traces[which].label}, line {at + 1} ({action}) {how}"
                    yield Alteration(action, how, evolve(traces[which], lines=lines, label=label))


def _changed(trace: Trace, at: int, how: str, random: Random) -> tuple[Line, ...] | None:
    lines = list(trace.lines)
    if how == "removed":
        del lines[at]
    elif how == "moved":
        other = random.randrange(len(lines))
        line = lines.pop(at)
        lines.insert(other, line)
        if lines == list(trace.lines):
            return None
    else:
        fields = [key for key in lines[at] if key != "name"]
        if not fields:
            return None
        key = random.choice(fields)
        lines[at] = {**lines[at], key: _other(lines[at][key], key, trace, random)}
    return tuple(lines) if lines else None


def _other(value: Any, key: str, trace: Trace, random: Random) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        others = sorted({line[key] for line in trace.lines if isinstance(line.get(key), int)} - {value})
        return random.choice(others) if others and random.random() < 0.7 else value + 1
    if isinstance(value, (set, frozenset)):
        return set(value) - {min(value)} if value else {1}
    if isinstance(value, str):
        others = sorted({line[key] for line in trace.lines if isinstance(line.get(key), str)} - {value})
        return random.choice(others) if others else value + "?"
    return value[:-1] if value else [1]


def measure(
    spec: TraceSpec,
    traces: Sequence[Trace],
    tools: Tools,
    *,
    per_action: int,
    unseen: Mapping[tuple[str, str], str],
    seed: int = 1,
) -> Sensitivity:
    """Judge changed traces, all in one start of TLC, and more of what none of them showed. Raises CheckError."""
    result = Sensitivity()
    _try(spec, list(alterations(traces, per_action, Random(seed))), tools, result)
    for again, more in enumerate(MORE, 1):
        if silent := result.silent(unseen):
            _try(spec, list(alterations(traces, more, Random(seed + again), silent)), tools, result)
    return result


def _try(spec: TraceSpec, changed: list[Alteration], tools: Tools, result: Sensitivity) -> None:
    judgement = judge(spec, [each.trace for each in changed], tools)
    result.seconds += judgement.seconds
    for at, each in enumerate(changed):
        result.tried[each.action, each.how] += 1
        result.rejected[each.action, each.how] += at not in judgement.accepted
