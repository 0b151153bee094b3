"""Leases: how long a host may serve, and how long a leader waits before it may believe that nobody serves.

A host sends a renewal at reading `sent` of its own clock. If an answer to it comes, the host may serve until its clock
reads `sent + lease`, whenever the answer came. A leader that answered at reading `answered` of *its* clock knows that
the renewal had been sent by then, so the host's clock read `sent` or more. Every clock's rate may be wrong by rho: in
one real second it advances by something between 1 - rho and 1 + rho seconds. So the lease may last lease / (1 - rho) of
real time, while the leader's clock may advance by 1 + rho for each unit of it.

Whole milliseconds: a reading is the clock cut down to whole milliseconds. A host compares two readings of one clock,
which makes its lease at most 1 ms longer than it looks; a leader does so too, which makes its wait shorter; one ms pays
for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

NEVER = float("inf")


@dataclass(frozen=True)
class Times:
    """The settings of a namespace. `rho` is exact: 10,000 parts per million are Fraction(1, 100)."""

    lease_ms: int
    drain_ms: int
    margin_ms: int
    tick_ms: int
    rho: Fraction
    failure_timeout_ms: int
    max_isolation_ms: int = 0


def stretched(duration_ms: int, rho: Fraction) -> int:
    """What the fastest clock may show at the end of a time that the slowest clock measures as `duration_ms`."""
    return ceil(duration_ms * (1 + rho) / (1 - rho))


def wait_ms(times: Times) -> int:
    """How long a leader waits, on its clock, from its last answer to an incarnation (or from its taking office)."""
    return stretched(times.lease_ms, times.rho) + 1


def overdue_after_ms(times: Times) -> int:
    """How long after a host said that it installed a table it may still hold what that table took away: drain, margin
    and one ms of cut readings on its clock, seen on the leader's, and two ticks for the word to travel, and one ms
    again."""
    return stretched(times.drain_ms + times.margin_ms + 1, times.rho) + 2 * times.tick_ms + 1


def gate_shuts_at(times: Times, base_ms: int | None, *, exclusive: bool = True) -> float:
    """From this reading on no effect or reply passes. `base_ms`: when the newest answered renewal was sent."""
    if not exclusive and times.max_isolation_ms == 0:
        return NEVER
    if base_ms is None:
        return -NEVER
    return base_ms + (times.lease_ms if exclusive else times.max_isolation_ms)


def turns_are_cancelled_at(times: Times, base_ms: int | None, *, exclusive: bool = True) -> float:
    """From this reading on running turns are cancelled, so that they can end before the gate shuts."""
    return gate_shuts_at(times, base_ms, exclusive=exclusive) - times.margin_ms


def admission_ends_at(times: Times, base_ms: int | None, *, exclusive: bool = True) -> float:
    """From this reading on no turn begins, for it may need its whole drain time."""
    return turns_are_cancelled_at(times, base_ms, exclusive=exclusive) - times.drain_ms


def works(times: Times) -> bool:
    """Whether these settings make sense under policy `exclusive`: hosts admit at all between two renewals, and a member
    that is removed for its silence has had the time of a lease."""
    return times.lease_ms > times.drain_ms + times.margin_ms + 2 * times.tick_ms and (
        times.failure_timeout_ms >= wait_ms(times)
    )


@dataclass(frozen=True)
class Clock:
    """A clock with a constant rate, for `gone_implies_gate_shut`."""

    offset: Fraction
    rate: Fraction

    def reading(self, real_ms: Fraction) -> int:
        """In whole milliseconds, cut down."""
        return int((self.offset + self.rate * real_ms) // 1)


def gone_implies_gate_shut(
    times: Times, host: Clock, leader: Clock, *, sent: Fraction, answered: Fraction, believed: Fraction
) -> bool:
    """GoneImpliesGateShut: if at real time `believed` the wait is over on the leader's clock, the host's gate is shut.

    `sent` <= `answered` <= `believed` are real times: the renewal is sent, the leader answers it, the leader looks.
    """
    wait_is_over = leader.reading(believed) >= leader.reading(answered) + wait_ms(times)
    gate_is_shut = host.reading(believed) >= gate_shuts_at(times, host.reading(sent))
    return gate_is_shut or not wait_is_over
