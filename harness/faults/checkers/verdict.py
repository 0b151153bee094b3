"""What a checker says: valid, invalid, or unknown. Unknown is not a pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from attrs import Factory, frozen


class Verdict(StrEnum):
    """Tri-state, so that a checker that ran out of time cannot look like one that found nothing."""

    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"


@frozen
class CheckResult:
    """The verdict on one property over one history.

    `explanation`: for a failure the shortest excerpt that shows it, one line each. `figures`: what was looked at, so
    that a check of nothing is seen to be one.
    """

    checker: str
    verdict: Verdict
    explanation: tuple[str, ...] = ()
    figures: Mapping[str, int] = Factory(dict)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Invalid before unknown before valid."""
    seen = set(verdicts)
    for verdict in (Verdict.INVALID, Verdict.UNKNOWN):
        if verdict in seen:
            return verdict
    return Verdict.VALID
