"""Accepted traces with one line removed, moved or altered: what a trace specification has to reject.

Some removals cannot show: a host that says less than it may, a write that stays on its way, are behaviours too. Such
actions are listed with the reason (`Subject.unseen`); of all others some removal has to be rejected, and of every
action some change of any kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from attrs import define, evolve, field, frozen

from harness.conformance.check import TraceSpec, judge
from harness.conformance.tracelines import Line, Trace
from harness.modelcheck.tools import Tools

HOWS = ("removed", "moved", "altered")


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

    def unnoticed(self, unseen: Mapping[str, str]) -> list[str]:
        """Actions that show too little: no change was rejected, or no removal though it should show."""
        actions = sorted({action for action, _ in self.tried})
        silent = [each for each in actions if not any(self.rejected[each, how] for how in HOWS)]
        removable = [each for each in actions if each not in unseen and not self.rejected[each, "removed"]]
        return sorted({*silent, *removable})


def alterations(traces: Sequence[Trace], per_action: int, random: Random) -> Iterator[Alteration]:
    """For every action and every way of changing its lines up to `per_action` changed traces."""
    places: dict[str, list[tuple[int, int]]] = {}
    for which, trace in enumerate(traces):
        for at, line in enumerate(trace.lines):
            places.setdefault(line["name"], []).append((which, at))
    for action, found in sorted(places.items()):
        for how in HOWS:
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


def measure(spec: TraceSpec, traces: Sequence[Trace], tools: Tools, *, per_action: int, seed: int = 1) -> Sensitivity:
    """Judge changed traces, all in one start of TLC. Raises CheckError."""
    changed = list(alterations(traces, per_action, Random(seed)))
    judgement = judge(spec, [each.trace for each in changed], tools)
    result = Sensitivity(seconds=judgement.seconds)
    for at, each in enumerate(changed):
        result.tried[each.action, each.how] += 1
        result.rejected[each.action, each.how] += at not in judgement.accepted
    return result
