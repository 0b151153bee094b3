"""Tables on the wire: a delta leads from one version to another, and a digest tells whether it did.

A table is a flat collection of facts: which member is where, which type exists, who owns which slot since when. A delta
lists the facts that are new or different, those that are gone, the versions between which it leads, and the digest of
its result. A snapshot is a delta from version 0, at which there are no facts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

Facts = Mapping[tuple[object, ...], object]


@dataclass(frozen=True)
class Table:
    """The facts of one version."""

    version: int = 0
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class Delta:
    """What leads from `start` to `end`."""

    start: int
    end: int
    changed: Facts
    gone: frozenset[tuple[object, ...]]
    digest: str


class DoesNotFit(ValueError):
    """The delta starts elsewhere, leads back, or its result is not what its digest says."""


def digest(table: Table) -> str:
    """Equal for equal tables only."""
    return hashlib.sha256(repr((table.version, sorted(table.facts.items(), key=repr))).encode()).hexdigest()


def diff(before: Table, after: Table) -> Delta:
    """What leads from the one to the other."""
    changed = {key: fact for key, fact in after.facts.items() if before.facts.get(key) != fact}
    gone = frozenset(before.facts.keys() - after.facts.keys())
    return Delta(before.version, after.version, changed, gone, digest(after))


def patch(table: Table, delta: Delta) -> Table:
    """The table after the delta. Raises DoesNotFit."""
    if delta.start not in {0, table.version}:
        raise DoesNotFit(f"starts from {delta.start}, not {table.version}")
    if delta.end <= table.version:
        raise DoesNotFit(f"leads to {delta.end}, which is not above {table.version}")
    origin = {} if delta.start == 0 else table.facts
    kept = {key: fact for key, fact in origin.items() if key not in delta.gone}
    result = Table(delta.end, {**kept, **delta.changed})
    if digest(result) != delta.digest:
        raise DoesNotFit("the result has another digest")
    return result


def PatchOfDiff(before: Table, after: Table) -> bool:
    """patch(before, diff(before, after)) = after."""
    return patch(before, diff(before, after)) == after


def TableAgreement(installed: Table, committed: Mapping[int, Table]) -> bool:
    """What is installed at a version is what was committed at it."""
    return installed.version == 0 or installed == committed[installed.version]


def TableMonotonic(before: Table, after: Table) -> bool:
    """Nobody installs an older version after a newer one."""
    return before.version <= after.version
