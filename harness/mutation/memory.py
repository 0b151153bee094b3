"""Results that still hold: a mutant that a test killed is killed while the core and that test stay as they are."""

from __future__ import annotations

import json
import os
from typing import Any

from harness.mutation.baseline import CACHE, Baseline, core_content
from harness.mutation.campaign import Result
from harness.mutation.judge import Source

WRITTEN_EVERY = 20
FILES_MAX = 5


class Memory:
    """Results of the present core, in .build; those of tests that were changed since are not given out."""

    def __init__(self, baseline: Baseline, budget_s: float) -> None:
        self._baseline = baseline
        self._budget_s = budget_s
        self._file = CACHE / f"results-{core_content()}.json"
        self._entries = self._read()
        self._unwritten: dict[str, dict[str, Any]] = {}

    def _read(self) -> dict[str, dict[str, Any]]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    def knows(self, name: str) -> bool:
        """Whether the mutant was judged before, by whatever tests there were."""
        return name in self._entries

    def recall(self, source: Source, index: int) -> Result | None:
        """What became of the mutant, if nothing that decided it has changed."""
        mutant = source.mutants[index]
        entry = self._entries.get(mutant.name)
        if entry is None or entry["decided_by"] != self._decided_by(entry["killer"]):
            return None
        return Result(mutant, entry["outcome"], entry["killer"], entry["seconds"], entry["imported"])

    def note(self, result: Result) -> None:
        """Keep a result; written now and then, so that an interrupted run can go on."""
        self._unwritten[result.mutant.name] = {
            "outcome": result.outcome,
            "killer": result.killer,
            "seconds": result.seconds,
            "imported": result.imported,
            "decided_by": self._decided_by(result.killer),
        }
        if len(self._unwritten) >= WRITTEN_EVERY:
            self.write()

    def write(self) -> None:
        """Write what is not written yet, beside what other runs have written meanwhile."""
        CACHE.mkdir(parents=True, exist_ok=True)
        old = sorted(CACHE.glob("results-*.json"), key=lambda each: each.stat().st_mtime)
        for each in old[:-FILES_MAX]:
            each.unlink()
        partial = self._file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({**self._read(), **self._unwritten}))
        partial.rename(self._file)
        self._unwritten = {}

    def _decided_by(self, killer: str | None) -> str:
        """Of a kill, the test that killed; of everything else, all tests."""
        contents = self._baseline.contents
        if killer is not None:
            return contents.get(killer.split("::")[0], "")
        return f"{self._budget_s} s: " + " ".join(f"{name}={content}" for name, content in sorted(contents.items()))
