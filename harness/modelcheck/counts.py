"""Writing new state counts into a manifest, on request only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.modelcheck.execute import Outcome
from harness.modelcheck.manifest import Suite


def update_counts(suite: Suite, outcomes: Sequence[Outcome]) -> list[str]:
    """Write the counts of all exhaustive configs that TLC finished; returns one line for each changed config."""
    changed = []
    for outcome in outcomes:
        if outcome.task.category != "config" or outcome.verdict.result != "pass":
            continue
        config = suite.config(outcome.task.name)
        if config.simulate is not None:
            continue
        output = outcome.run.output
        counts = {"distinct": output.distinct, "generated": output.generated}
        if config.workers == 1 or config.depth is not None:
            counts["depth"] = output.depth
        known = {name: value for name, value in counts.items() if value is not None}
        if any(getattr(config, name) != value for name, value in known.items()):
            _rewrite(config.source, config.name, known)
            changed.append(f"{config.name}: " + ", ".join(f"{name} = {value}" for name, value in known.items()))
    return changed


def _rewrite(path: Path, name: str, counts: Mapping[str, int]) -> None:
    text = path.read_text(encoding="utf-8")
    start = text.index(f'name = "{name}"')
    following = re.compile(r"(?m)^\[").search(text, start)
    end = following.start() if following else len(text)
    entry = text[start:end]
    for field, value in counts.items():
        line = f"{field} = {value}"
        pattern = re.compile(rf"(?m)^{field} = .*$")
        if pattern.search(entry):
            entry = pattern.sub(line, entry)
        else:
            entry = entry.rstrip("\n") + f"\n{line}\n" + entry[len(entry.rstrip("\n")) + 1 :]
    path.write_text(text[:start] + entry + text[end:], encoding="utf-8")
