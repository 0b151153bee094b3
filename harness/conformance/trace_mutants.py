"""`python -m harness.conformance trace-mutants`: which seeded bugs of the machines give traces that are rejected."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

import click
import pytest
from attrs import define, field
from rich.console import Console
from rich.table import Table

from harness.conformance import native_source, specs
from harness.conformance.check import CheckError, TraceSpec, judge
from harness.conformance.gather import (
    Gather,
    Gathered,
    barrier_stories,
    exclusive_traces,
    leases_traces,
    membership_stories,
)
from harness.conformance.tracelines import Trace
from harness.modelcheck.errors import ModelCheckError
from harness.modelcheck.tools import Tools, find_tools
from harness.seeded_bugs.barrier import BUGS as BARRIER_BUGS
from harness.seeded_bugs.handoff import BUGS
from harness.seeded_bugs.membership import BUGS as MEMBERSHIP_BUGS
from harness.seeded_bugs.registry import Bug
from tests.core.native_parts import NAMESPACE

LIVENESS = {"EventuallyServed", "Convergence"}
"""What never happens shows in no finite trace: bugs that only break these are not looked for."""
SPECS: dict[str, TraceSpec] = {
    "ExclusiveHandoff": specs.EXCLUSIVE,
    "Leases": specs.LEASES,
    "Membership": specs.MEMBERSHIP,
    "BarrierDissemination": specs.BARRIER,
}
STORIES: tuple[tuple[str, Sequence[Bug], Gather], ...] = (
    ("Membership", MEMBERSHIP_BUGS, membership_stories),
    ("BarrierDissemination", BARRIER_BUGS, barrier_stories),
)
"""Bugs of machines that are not those of hosts and leaders, with what runs them."""
EVERY_BUG = (*BUGS, *MEMBERSHIP_BUGS, *BARRIER_BUGS)


@define
class Tried:
    """Traces of seeded bugs, by specification, and how many of each were rejected."""

    traces: dict[str, list[Trace]] = field(factory=lambda: {name: [] for name in SPECS})
    whose: dict[str, list[str]] = field(factory=lambda: {name: [] for name in SPECS})
    rejected: dict[str, Counter[str]] = field(factory=lambda: {name: Counter() for name in SPECS})

    def add(self, mutant: str, walks: int, slots: int) -> None:
        """Record walks of one mutant."""
        bug = next(bug for bug in EVERY_BUG if bug.name == mutant)
        found = {name: Gathered() for name in SPECS}
        with pytest.MonkeyPatch.context() as patch:
            bug.prepare(patch)
            for name, bugs, gather in STORIES:
                if bug in bugs:
                    found[name].traces = list(_stories(gather, walks))
            for seed in range(walks if bug in BUGS else 0):
                records, _ = native_source.record_walk(seed, 300 if bug.stalls else 120, stalls=bug.stalls)
                exclusive_traces(records, NAMESPACE, f"{mutant} {seed}", slots, found["ExclusiveHandoff"])
                leases_traces(records, f"{mutant} {seed}", slots, found["Leases"])
        for name, gathered in found.items():
            self.traces[name] += gathered.traces
            self.whose[name] += [mutant] * len(gathered.traces)

    def judge(self, tools: Tools) -> None:
        """One start of TLC for each specification. Raises CheckError."""
        for name, spec in SPECS.items():
            if not self.traces[name]:
                continue
            accepted = judge(spec, self.traces[name], tools).accepted
            self.rejected[name].update(who for at, who in enumerate(self.whose[name]) if at not in accepted)

    def caught(self, mutant: str) -> bool:
        """Whether some trace of it was rejected."""
        return any(counter[mutant] for counter in self.rejected.values())


def _stories(gather: Gather, count: int) -> Iterator[Trace]:
    """Those that the bug does not bring down: a machine that raises is found without any trace."""
    for seed in range(count):
        with suppress(KeyError, ValueError):
            yield from gather(range(seed, seed + 1), 1).traces


def safety_mutants() -> list[str]:
    """Those that break more than liveness."""
    return [bug.name for bug in EVERY_BUG if not set(bug.properties) <= LIVENESS]


@click.command("trace-mutants", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, type=click.Choice(safety_mutants()), help="Repeatable.")
@click.option("--walks", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Of each.")
@click.option(
    "--slots", type=click.IntRange(1, 32), default=4, show_default=True, help="And incarnations, of each walk."
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def trace_mutants(*, only: Sequence[str], walks: int, slots: int, output: str) -> None:
    """Count the seeded bugs whose traces are rejected. Exit code 2: a bad setup."""
    tried, names = Tried(), list(only) or safety_mutants()
    try:
        tools = find_tools()
        for name in names:
            tried.add(name, walks, slots)
        tried.judge(tools)
    except (ModelCheckError, CheckError) as error:
        raise click.UsageError(str(error)) from None
    caught = sum(map(tried.caught, names))
    if output == "json":
        print(json.dumps({"caught": caught, "of": len(names), "rejected": tried.rejected}, indent=2))
        return
    table = Table("seeded bug", *(f"{name}: rejected of" for name in SPECS), title=f"{caught} of {len(names)} caught")
    for name in names:
        counts = (f"{tried.rejected[spec][name]} of {tried.whose[spec].count(name)}" for spec in SPECS)
        table.add_row(name, *counts)
    Console(width=120 if not sys.stdout.isatty() else None).print(table)
