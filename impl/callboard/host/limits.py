"""Bounds of one host, and what it counts."""

from __future__ import annotations

from attrs import define, field, frozen

from callboard.host.reminders import ReminderSettings


@frozen
class RuntimeLimits:
    """Bounds of one host. `early_calls_max`: calls that wait for a slot that is this host's but not granted yet;
    `early_wait_ms`: so long, then their callers look for the owner anew. `close_grace_ms`: how long cancelled turns are
    waited for when the host stops."""

    activations_max: int = 1_000_000
    early_calls_max: int = 10_000
    early_wait_ms: int = 1_000
    idle_check_ms: int = 5_000
    timers_per_actor_max: int = 100
    close_grace_ms: int = 1_000
    reminders: ReminderSettings = field(factory=ReminderSettings)


@define
class Figures:
    """Counts of one host since its start."""

    turns: int = 0
    activations: int = 0
    deactivations: dict[str, int] = field(factory=dict)
    gate_shut: int = 0
    stale_refused: int = 0
    cancelled: int = 0
