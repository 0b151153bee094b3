"""Keys of operations that workloads use, each for a limited time only."""

from __future__ import annotations

from attrs import define

from harness.faults.history import Outcome

OPERATIONS_PER_KEY = 150
UNKNOWN_PER_KEY = 4
"""Each may have happened at any later time: many of them make the search of an order expensive."""


@define
class Key:
    """A key in use, until it has had enough operations."""

    name: str
    operations: int = 0
    unknown: int = 0

    @property
    def spent(self) -> bool:
        """Whether a fresh key should take over."""
        return self.operations >= OPERATIONS_PER_KEY or self.unknown >= UNKNOWN_PER_KEY

    def note(self, outcome: Outcome) -> None:
        """Count an operation."""
        self.operations += 1
        self.unknown += outcome is Outcome.INFO
