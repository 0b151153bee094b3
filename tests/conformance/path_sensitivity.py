"""Which seeded bugs of core the replayed paths find, and after how many steps.

python -m tests.conformance.path_sensitivity [WORD ...]   only bugs whose name has one of these words
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
from attrs import frozen

from harness.conformance.models import MODELS
from harness.conformance.paths import kept_graph, run_model
from harness.seeded_bugs import barrier, handoff, membership, tables
from tests.core import slot_mutants

SMALL = {model.name: model for model in MODELS if not model.large}
MEMBERSHIP = ("membership", "membership-restore")
BARRIER = ("barrier", "barrier-reconnect", "barrier-leaders")
EXCLUSIVE = ("exclusive", "exclusive-leaders", "exclusive-faults")


@frozen
class Mutant:
    """A seeded bug, and the models in whose paths it is looked for."""

    name: str
    prepare: Callable[[pytest.MonkeyPatch], None]
    models: tuple[str, ...]


@frozen
class Found:
    """Where a mutant was found: the model, the cover, the steps until then, and what differed."""

    model: str
    cover: str
    steps: int
    problem: str


def mutants() -> Iterator[Mutant]:
    """All of them."""
    for bugs, models in (
        (membership.BUGS, MEMBERSHIP),
        (barrier.BUGS, BARRIER),
        (handoff.BUGS, EXCLUSIVE),
        (tables.BUGS, EXCLUSIVE),
    ):
        for bug in bugs:
            yield Mutant(bug.name, bug.prepare, models)
    for name, prepare, _ in slot_mutants.MUTANTS:
        yield Mutant(name, prepare, EXCLUSIVE)


def look_for(mutant: Mutant, covers: tuple[str, ...] = ("pairs", "edges")) -> Found | None:
    """Replay the models' covers until one shows a difference."""
    for cover in covers:
        steps = 0
        for name in mutant.models:
            graph = kept_graph(SMALL[name])
            with pytest.MonkeyPatch.context() as patched:
                mutant.prepare(patched)
                result = run_model(SMALL[name], graph, cover)
            steps += result.steps
            if result.problem is not None:
                return Found(name, cover, steps, result.problem)
    return None


def main(words: list[str]) -> None:
    """Print the table, as Markdown."""
    print("| bug | found by | steps | what differed |\n|---|---|---|---|", flush=True)
    for mutant in mutants():
        if words and not any(word in mutant.name for word in words):
            continue
        found = look_for(mutant)
        row = "- | | " if found is None else f"{found.model}, {found.cover} | {found.steps:,} | {found.problem[:110]}"
        print(f"| `{mutant.name}` | {row} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
