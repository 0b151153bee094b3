"""Versions of tables, and policies of namespaces."""

from __future__ import annotations

from enum import StrEnum

from attrs import field, frozen
from attrs.validators import ge, le

COUNTER_BITS = 32
"""Bits of a wire version that hold the counter; the bits above hold the generation."""

MAX_COUNTER = (1 << COUNTER_BITS) - 1
MAX_GENERATION = (1 << COUNTER_BITS) - 1


@frozen(order=True)
class Version:
    """The version of a namespace's tables: (generation, counter), compared in that order.

    The counter rises by one with every change of a table (`GenerationExact`). The generation rises when a
    backup is restored or the engine is changed, so that no version is ever used twice. On the wire a version
    is one unsigned 64-bit number, which keeps the order.
    """

    generation: int = field(default=0, validator=[ge(0), le(MAX_GENERATION)])
    counter: int = field(default=0, validator=[ge(0), le(MAX_COUNTER)])

    @property
    def wire(self) -> int:
        """As one number: generation in the high 32 bits, counter in the low 32 bits."""
        return (self.generation << COUNTER_BITS) | self.counter

    @classmethod
    def from_wire(cls, number: int) -> Version:
        """The inverse of `wire`. Raises ValueError outside 0 .. 2^64 - 1."""
        return cls(number >> COUNTER_BITS, number & MAX_COUNTER)

    def next(self) -> Version:
        """The version after this one, in the same generation."""
        return Version(self.generation, self.counter + 1)

    def __str__(self) -> str:
        return f"{self.generation}.{self.counter}"


class Policy(StrEnum):
    """How a namespace hands actors from host to host (design: barrier, eventual, exclusive)."""

    BARRIER = "barrier"
    EVENTUAL = "eventual"
    EXCLUSIVE = "exclusive"
