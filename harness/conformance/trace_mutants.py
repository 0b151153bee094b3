"""`python -m harness.conformance trace-mutants`: which seeded bugs of the machines give traces that are rejected."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Container, Iterator, Sequence
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
WALKS = 20
SLOTS = 4
CAUGHT = frozenset(
    {
        "grant_ignores_pending",
        "release_of_any_version_counts",
        "one_release_is_enough",
        "buried_without_wait",
        "new_leader_does_not_wait",
        "answer_not_stamped",
        "round_of_an_old_epoch_counts",
        "answered_without_a_round",
        "removed_host_answered",
        "follows_the_log_of_later_epochs",
        "lease_from_receipt",
        "lease_from_newest_renewal",
        "admits_up_to_the_cancel_deadline",
        "grant_accepted_twice",
        "release_while_serving",
        "admits_to_lost_slot",
        "farewell_while_serving",
        "answers_are_forgotten",
        "forgotten_requests_run_again",
        "expired_sessions_come_back",
        "version_never_rises",
        "generation_keeps_counters",
        "any_epoch_may_write",
        "removal_ignores_incarnation",
        "incarnations_start_again",
        "rounds_are_restarted",
        "unlock_without_update",
        "update_before_all_have_locked",
        "push_during_a_round",
        "acknowledgement_without_version",
        "table_of_the_version_before",
        "push_of_an_old_version",
        "timeout_cuts_everyone",
    }
)
"""Bugs of which traces have to be rejected with so many walks and slots, or more."""
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
    """Names of those that break more than liveness."""
    return [bug.name for bug in EVERY_BUG if not set(bug.properties) <= LIVENESS]


@click.command("trace-mutants", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, type=click.Choice(safety_mutants()), help="Repeatable.")
@click.option("--walks", type=click.IntRange(1, 10_000), default=WALKS, show_default=True, help="Of each.")
@click.option(
    "--slots", type=click.IntRange(1, 32), default=SLOTS, show_default=True, help="And incarnations, of each walk."
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def trace_mutants(*, only: Sequence[str], walks: int, slots: int, output: str) -> None:
    """Look which seeded bugs give traces that are rejected. Those that did so before have to do so again.

    Exit code 1: one of them does not, with as many walks and slots as by default or more; 2: a bad setup.
    """
    tried, names = Tried(), list(only) or safety_mutants()
    try:
        tools = find_tools()
        for name in names:
            tried.add(name, walks, slots)
        tried.judge(tools)
    except (ModelCheckError, CheckError) as error:
        raise click.UsageError(str(error)) from None
    caught = {name for name in names if tried.caught(name)}
    lost = lost_of(names, caught)
    required = walks >= WALKS and slots >= SLOTS
    if output == "json":
        found = {"caught": len(caught), "of": len(names), "rejected": tried.rejected, "lost": lost}
        print(json.dumps({**found, "required": required}, indent=2))
    else:
        _print(tried, names, caught, lost, required=required)
    if required and lost:
        sys.exit(1)


def lost_of(names: Sequence[str], caught: Container[str]) -> list[str]:
    """Those of these bugs that traces have to catch and did not."""
    return [name for name in names if name in CAUGHT and name not in caught]


def _print(tried: Tried, names: Sequence[str], caught: set[str], lost: Sequence[str], *, required: bool) -> None:
    console = Console(width=120 if not sys.stdout.isatty() else None)
    title = f"{len(caught)} of {len(names)} caught"
    table = Table("seeded bug", *(f"{name}: rejected of" for name in SPECS), title=title)
    for name in names:
        counts = (f"{tried.rejected[spec][name]} of {tried.whose[spec].count(name)}" for spec in SPECS)
        table.add_row(name, *counts)
    console.print(table)
    for name in lost:
        console.print(f"{name} was caught before and is not: no trace of it is rejected")
    for name in names:
        if name in caught and name not in CAUGHT:
            console.print(f"{name} is caught, too: it belongs to those that have to be (CAUGHT)")
    if lost and not required:
        console.print(f"this is no failure with less than --walks {WALKS} --slots {SLOTS}")
