"""The arithmetic of leases: how long hosts may serve, and how long leaders wait (module Leases in tla/).

All times are milliseconds on one process's own monotonic clock. How long a leader waits for the last lease of
a silent host is `HandoffSettings.wait_ms`.
"""

from __future__ import annotations

from attrs import frozen

from callboard.core.slot_records import PARTS_PER_MILLION, HandoffSettings
from callboard.core.versions import Policy

NEVER_MS = 1 << 62
"""A time that no clock reaches."""


@frozen
class Deadlines:
    """When a host stops, on its clock; each applies from that reading on.

    `admit_until_ms`: no turn is admitted, for it might need its whole drain time. `cancel_at_ms`: running turns are
    cancelled. `gate_until_ms`: no effect or reply passes.
    """

    admit_until_ms: int
    cancel_at_ms: int
    gate_until_ms: int


NO_LEASE = Deadlines(-NEVER_MS, -NEVER_MS, -NEVER_MS)
UNLIMITED = Deadlines(NEVER_MS, NEVER_MS, NEVER_MS)


def deadlines(policy: Policy, settings: HandoffSettings, base_ms: int | None) -> Deadlines:
    """The deadlines of a host whose newest answered renewal was sent at `base_ms` (None: none was).

    Under policy `eventual` the longest isolation takes the lease's place; without one a host never stops.
    """
    if policy is Policy.EVENTUAL and settings.max_isolation_ms == 0:
        return UNLIMITED
    if base_ms is None:
        return NO_LEASE
    gate_ms = base_ms + (settings.lease_ms if policy is Policy.EXCLUSIVE else settings.max_isolation_ms)
    cancel_ms = gate_ms - settings.margin_ms
    return Deadlines(cancel_ms - settings.drain_ms, cancel_ms, gate_ms)


def renew_every_ms(policy: Policy, settings: HandoffSettings) -> int:
    """How often a host renews if nothing changes: so that one renewal may get lost without harm, and not more often
    than the leader answers."""
    limit_ms = settings.lease_ms if policy is Policy.EXCLUSIVE else settings.max_isolation_ms
    admits_ms = limit_ms - settings.drain_ms - settings.margin_ms
    if policy is Policy.EXCLUSIVE:
        serving_ms = admits_ms
    else:
        serving_ms = min(settings.failure_timeout_ms, admits_ms if limit_ms else settings.failure_timeout_ms)
    return max(1, min(max(settings.tick_ms, serving_ms // 3), serving_ms - settings.tick_ms))


def overdue_after_ms(settings: HandoffSettings) -> int:
    """How long after a host said that it installed a table it may go on holding what that table took away.

    Drain and margin on the slowest clock, measured on the fastest, and two ticks for its word to come.
    """
    fast, slow = PARTS_PER_MILLION + settings.rate_error_ppm, PARTS_PER_MILLION - settings.rate_error_ppm
    return -(-(settings.drain_ms + settings.margin_ms + 1) * fast // slow) + 2 * settings.tick_ms + 1
