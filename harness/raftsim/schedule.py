"""Random schedules, as plain data: a schedule can be printed, replayed and shortened.

Each schedule draws its own weights for the kinds of events (some kinds are absent from some schedules), because bugs
hide behind combinations that one fixed mixture never reaches.
"""

from __future__ import annotations

import random

from attrs import frozen

from harness.raftsim.replica import Settings

Event = tuple[str, *tuple[int, ...]]
"""(kind, arguments). Arguments number replicas, counts and choices; what does not apply at its time is skipped."""

LEADER = -1
"""In place of a replica: whoever leads at that time."""

_WEIGHTS = {
    "round": 30,
    "tick": 12,
    "deliver": 45,
    "propose": 16,
    "propose_to_deposed": 4,
    "barrier": 3,
    "elect": 3,
    "depose": 5,
    "cut": 2,
    "isolate": 2,
    "heal": 4,
    "heal_all": 3,
    "hold": 5,
    "lag": 2,
    "kill": 2,
    "crash_at_write": 3,
    "kill_all": 0.4,
    "restart": 6,
    "compact": 4,
    "advance": 2,
    "fail_disk": 0.6,
}


@frozen
class Schedule:
    """One run: the group's size, its settings and what happens."""

    seed: int
    size: int
    settings: Settings
    power: bool
    """Whether crashes of this schedule take the power (unsynced bytes) away, and disks report errors; without it,
    crashes end only the process, and disks work."""
    events: tuple[Event, ...]


def generate(seed: int, *, size: int | None = None, power: bool | None = None) -> Schedule:
    """The schedule of this seed. `size` and `power` are drawn, if not given."""
    choice = random.Random(seed)
    drawn_size = choice.choice((3, 3, 3, 3, 5, 5, 1))
    drawn_power = choice.random() < 0.4
    settings = Settings(
        batch_bytes=choice.choice((60, 200, 600, 1 << 20)),
        chunk_bytes=choice.choice((48, 200, 1 << 16)),
        compact_entries=choice.choice((8, 14, 30, 1_000_000)),
        keep_entries=choice.choice((0, 0, 4)),
        lazy_flush=choice.random() < 0.5,
        natural_elections=choice.random() < 0.3,
    )
    replicas = size or drawn_size
    weights = {kind: weight * choice.choice((0, 0.3, 1, 1, 3)) for kind, weight in _WEIGHTS.items()}
    weights["round"] = max(weights["round"], 10)
    weights["propose"] = max(weights["propose"], 6)
    kinds = list(weights)
    drawn = choice.choices(kinds, [weights[kind] for kind in kinds], k=choice.randint(40, 160))
    events: list[Event] = [("elect", 0), ("round",), ("round",)]
    events += [_event(kind, replicas, choice) for kind in drawn]
    return Schedule(seed, replicas, settings, drawn_power if power is None else power, tuple(events))


def _event(kind: str, size: int, choice: random.Random) -> Event:
    one = choice.randrange(size)
    other = (one + choice.randrange(1, max(2, size))) % size
    match kind:
        case "deliver":
            return (kind, choice.randrange(20), choice.choice((1, 1, 1, 2, 5, 1000)))
        case "propose":
            who = LEADER if choice.random() < 0.8 else one
            return (kind, who, choice.choice((1, 1, 2, 6, 20)))
        case "propose_to_deposed":
            return (kind, choice.choice((1, 3, 8)))
        case "fail_disk":
            return (kind, one, choice.choice((0, 1)))
        case "depose":
            return (kind, choice.choice((0, 0, 1)), one, choice.choice((0, 1, 4)))
        case "hold":
            return (kind, one, other, choice.randrange(6, 50))
        case "barrier" | "compact":
            return (kind, LEADER if choice.random() < 0.5 else one)
        case "cut" | "heal":
            return (kind, one, other)
        case "crash_at_write":
            return (kind, one, choice.choice((0, 1, 2, 3, 5, 8, 13)), choice.getrandbits(16))
        case "isolate":
            return (kind, LEADER if choice.random() < 0.6 else one)
        case "lag":
            return (kind, one, choice.randrange(4, 25))
        case "advance":
            return (kind, choice.choice((1, 4, 10)))
        case "round" | "heal_all" | "kill_all":
            return (kind,)
        case _:
            return (kind, one)
