"""The fixed hundred of `make test`: mutants spread over modules and operators, all of which must be killed.

hundred.json names each mutant and the test that killed it, so nothing has to be measured first. A mutant whose code, or
whose test, was changed since is left out and named; when too few are left, they have to be chosen anew.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.mutation.campaign import Result, Task
from harness.mutation.judge import Source

HUNDRED = Path(__file__).with_name("hundred.json")
SIZE = 100
COST_MAX_S = 0.3
"""Of the test that kills, without a mutant: the hundred are to be quick."""
LEFT_MIN = 80
"""With fewer, they are no sample of the code any more."""


def _rank(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def choose(results: Sequence[Result], costs_s: Mapping[str, float], size: int = SIZE) -> list[Result]:
    """Killed mutants that need no import: in turn one of each module, and of its operators the one chosen least."""
    by_module: dict[str, list[Result]] = defaultdict(list)
    for each in results:
        cost_s = costs_s.get(each.killer, COST_MAX_S) if each.killer is not None else COST_MAX_S
        if each.outcome == "killed" and not each.imported and cost_s < COST_MAX_S:
            by_module[each.mutant.module].append(each)
    chosen: list[Result] = []
    used: dict[str, int] = defaultdict(int)
    while len(chosen) < size and by_module:
        for module in sorted(by_module):
            left = by_module[module]
            best = min(left, key=lambda each: (used[each.mutant.operator], _rank(each.mutant.name)))
            left.remove(best)
            used[best.mutant.operator] += 1
            chosen.append(best)
            if not left:
                del by_module[module]
            if len(chosen) == size:
                break
    return sorted(chosen, key=lambda each: each.mutant.name)


def write(chosen: Sequence[Result], path: Path = HUNDRED) -> None:
    """Record the choice."""
    entries = [{"mutant": each.mutant.name, "killer": each.killer} for each in chosen]
    path.write_text(json.dumps(entries, indent=1) + "\n")


def tasks(sources: dict[str, Source], tests: Sequence[str], path: Path) -> tuple[list[Task], list[str]]:
    """The recorded mutants, each with its test, and the names of those of which code or test is not there any more."""
    entries: list[dict[str, str]] = json.loads(path.read_text())
    places = {
        mutant.name: (module, index)
        for module, source in sources.items()
        for index, mutant in enumerate(source.mutants)
    }
    known, found, changed = set(tests), [], []
    for entry in entries:
        name, killer = entry["mutant"], entry["killer"]
        if name in places and killer in known:
            found.append(Task(*places[name], (killer,)))
        else:
            changed.append(name)
    return found, changed
