"""Parts of the model of the consensus interface (engine.py): times, messages, disks, what it asks of others."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from attrs import define, field, frozen


@frozen
class EngineTimes:
    """Milliseconds. A follower that heard nothing for a time between the `election`s stands for election.

    `check_quorum`: a leader that has not heard of a majority for the longest election time steps down by itself.
    `zombies_percent`: of commands with unknown outcome that commit later all the same. `answers_lost_percent`: of
    committed commands whose outcome is reported as unknown. `sync_us`: how long the disk takes.
    `compact_entries`: so many entries are applied between two snapshots.
    """

    heartbeat_ms: int = 50
    election_min_ms: int = 200
    election_max_ms: int = 400
    check_quorum: bool = True
    zombies_percent: int = 30
    answers_lost_percent: int = 1
    sync_us: int = 1500
    compact_entries: int = 60


class Outcome(Enum):
    """What `propose` may raise, besides its result."""

    NOT_LEADER = auto()
    UNKNOWN = auto()


Answered = Callable[[int, object], None]
"""Log position (0 if none) and what apply returned, or an `Outcome`."""


@define(eq=False)
class Entry:
    """Of the log."""

    term: int
    command: bytes


@define(eq=False)
class Append:
    """Entries that follow position `before`, or none: a heartbeat."""

    leader: str
    term: int
    before: int
    before_term: int
    entries: tuple[Entry, ...]
    commit: int
    round: int


@define
class Disk:
    """What survives a crash of a process. `written` may be lost with the power beyond `synced` entries.

    The log starts after position `base`, whose state is `snapshot`.
    """

    term: int = 0
    voted_for: str = ""
    base: int = 0
    base_term: int = 0
    snapshot: bytes = b""
    entries: list[Entry] = field(factory=list)
    synced: int = 0

    @property
    def last(self) -> int:
        """Position of the last entry."""
        return self.base + len(self.entries)

    def term_at(self, position: int) -> int:
        """Of an entry that is there, or of the snapshot."""
        return self.base_term if position == self.base else self.entries[position - self.base - 1].term

    def cut(self, position: int) -> None:
        """Drop everything after a position."""
        del self.entries[position - self.base :]
        self.synced = min(self.synced, position)


class Machine(Protocol):
    """What the engine feeds: `StateMachine` of the interface."""

    def apply(self, index: int, command: bytes) -> object:
        """Apply a committed command."""

    def snapshot(self) -> bytes:
        """The whole state."""

    def restore(self, snapshot: bytes) -> None:
        """Replace the state."""


class Observer(Protocol):
    """Who wants to know of rare things."""

    def saw(self, what: str) -> None:
        """It happened."""
