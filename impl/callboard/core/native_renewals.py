"""A host's renewals: their numbers, when they were sent, and which of them the next may build on."""

from __future__ import annotations

from attrs import define, field

from callboard.core.leases import NEVER_MS

UNANSWERED_MAX = 64
"""Renewals whose send time is remembered."""


@define(eq=False)
class SentRenewals:
    """Of one incarnation. Numbers begin at 1; times are milliseconds of the host's clock.

    `base_number`: the renewal on whose report the next builds; 0 if the next says everything. `sent_ms`: of those that
    may still be answered, by number.
    """

    number: int = field(init=False, default=0)
    base_number: int = field(init=False, default=0)
    last_sent_ms: int = field(init=False, default=-NEVER_MS)
    sent_ms: dict[int, int] = field(init=False, factory=dict)
    _full_number: int = field(init=False, default=0)

    def begin(self, now_ms: int) -> int:
        """The next is sent now. Returns what it builds on; its own number is `number` from here on."""
        base_number = self.base_number
        self.number += 1
        if base_number == 0:
            self._full_number = self.number
        self.base_number = self.number
        self.sent_ms[self.number] = self.last_sent_ms = now_ms
        if len(self.sent_ms) > UNANSWERED_MAX:
            del self.sent_ms[next(iter(self.sent_ms))]
        return base_number

    def answered(self, number: int) -> int | None:
        """When the renewal was sent that this answer echoes; None if that is not remembered. Answers to earlier ones
        say nothing new."""
        at_ms = self.sent_ms.get(number)
        self.sent_ms = {each: sent_ms for each, sent_ms in self.sent_ms.items() if each > number}
        return at_ms

    def start_over(self, number: int) -> bool:
        """The leader did not know what that renewal built on. Whether the next has to say everything; not if one that
        does is under way."""
        if number < self._full_number:
            return False
        self.base_number = 0
        return True
