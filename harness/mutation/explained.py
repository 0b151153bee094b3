"""Mutants that no test of promised behaviour can tell from the code, each with the reason.

explained.toml holds one table per reason:

    [[explained]]
    reason = "why the mutant behaves the same, or why the difference is no promise"
    mutants = ["leases.deadlines | ..."]

An entry is checked in each run that meets it: one that does not exist any more, or that a test kills, is an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

EXPLAINED = Path(__file__).with_name("explained.toml")


class ExplanationError(Exception):
    """The file of explanations is not what it has to be."""


def read(path: Path = EXPLAINED) -> dict[str, str]:
    """Reasons by the mutant's name.

    Raises:
        ExplanationError: an entry has no reason, or a mutant has two.
    """
    reasons: dict[str, str] = {}
    for entry in tomllib.loads(path.read_text()).get("explained", []):
        reason = str(entry.get("reason", "")).strip()
        if len(reason) < 20:
            raise ExplanationError(f"{path.name}: reason {reason!r} of {entry.get('mutants')} explains nothing")
        for name in entry["mutants"]:
            if name in reasons:
                raise ExplanationError(f"{path.name}: {name!r} is explained twice")
            reasons[name] = reason
    return reasons


def missing(reasons: Iterable[str], modules: Iterable[str], existing: Iterable[str]) -> list[str]:
    """Explained mutants of these modules that do not exist any more."""
    known, of_modules = set(existing), set(modules)
    return [name for name in reasons if _module(name, of_modules) and name not in known]


def _module(name: str, modules: set[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)
