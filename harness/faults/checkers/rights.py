"""Checkers of serving rights (`SingleActivation`): what hosts were granted, and what their gates let pass.

Both accuse by facts alone: a freeze of a process at any moment cannot make them wrong.
"""

from __future__ import annotations

from bisect import bisect_left

from harness.faults.checkers.activations import GRANTED, turns_of
from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.history import History

PASSED = "passed"
"""Note of an access to the store that the gate let pass: actor, host, incarnation, fence, asked_ns (before that)."""

RENEWED = "renewed"
"""Note of a lease that a host got: host, incarnation, epoch that answered, sent_ns (not later than the renewal)."""


def check_grants(history: History) -> CheckResult:
    """A fence of a slot is one right: it is granted once, to one incarnation."""
    first: dict[tuple[str, int, int], tuple[str, int]] = {}
    figures = {"grants": 0}
    for note in history.notes_of(GRANTED):
        fields = note.fields
        if not fields["fence"]:
            continue
        who = (fields["host"], fields["incarnation"])
        for slot in range(fields["first"], fields["first"] + fields["count"]):
            figures["grants"] += 1
            key = (fields["actor_type"], slot, fields["fence"])
            before = first.setdefault(key, who)
            if before is not who:
                text = f"slot {slot} of {key[0]} under fence {key[2]} is granted to {_name(before)} and to {_name(who)}"
                return CheckResult("grants", Verdict.INVALID, (text,), figures)
    return _looked("grants", figures, "grants", "nothing was granted")


def _looked(checker: str, figures: dict[str, int], count: str, nothing: str) -> CheckResult:
    """Valid, if there was something to look at."""
    if figures[count]:
        return CheckResult(checker, Verdict.VALID, (), figures)
    return CheckResult(checker, Verdict.UNKNOWN, (nothing,), figures)


def _name(who: tuple[str, int]) -> str:
    return f"{who[0]}/{who[1]}"


def check_renewals(history: History) -> CheckResult:
    """A deposed leader extends nothing: no renewal that was sent after a newer epoch took office is answered by an
    older one, for the answer needs a round that commits in between."""
    begun = _offices(history)
    figures = {"renewals": 0, "epochs": len(begun)}
    for note in history.notes_of(RENEWED):
        figures["renewals"] += 1
        fields = note.fields
        for epoch, at_ns in begun.items():
            if epoch <= fields["epoch"] or at_ns >= fields["sent_ns"]:
                continue
            text = (
                f"{fields['host']}/{fields['incarnation']} renewed at {fields['sent_ns'] / 1e6:.3f} ms, and "
                f"epoch {fields['epoch']} answered; epoch {epoch} was in office from {at_ns / 1e6:.3f} ms on"
            )
            return CheckResult("renewals", Verdict.INVALID, (text,), figures)
    return _looked("renewals", figures, "renewals", "no lease was renewed")


def _offices(history: History) -> dict[int, int]:
    """When each epoch was first seen in office."""
    first: dict[int, int] = {}
    for note in history.notes_of("replica"):
        if note.fields.get("in_office"):
            first.setdefault(note.fields["epoch"], note.at_ns)
    return first


def check_gate(history: History) -> CheckResult:
    """Nothing passes a gate after the right has ended. The gate was asked after `asked_ns`; a turn under a higher fence
    that began before that shows that the right was over."""
    by_actor = turns_of(history)
    figures = {"passed": 0}
    for note in history.notes_of(PASSED):
        figures["passed"] += 1
        fields = note.fields
        turns = by_actor.get(fields["actor"], [])
        for turn in turns[: bisect_left([turn.begun_ns for turn in turns], fields["asked_ns"])]:
            if turn.fence > fields["fence"]:
                asked = (
                    f"the gate of {fields['host']}/{fields['incarnation']} was asked after "
                    f"{fields['asked_ns'] / 1e6:.3f} ms for {fields['actor']} under fence {fields['fence']}, and open"
                )
                lines = (asked, f"  {turn}")
                return CheckResult("gate", Verdict.INVALID, lines, figures)
    return _looked("gate", figures, "passed", "no access passed a gate")
