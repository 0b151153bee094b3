"""What a `NativeNetwork` is made of: clocks, processes with their turns, offices, paths between them, log entries."""

from __future__ import annotations

from collections import deque

from attrs import Factory, define

from callboard.core.commands import Command
from callboard.core.handoff_messages import Hello
from callboard.core.native_host import NativeHost
from callboard.core.native_host_records import HostEvent, Right
from callboard.core.native_leader import NativeLeader
from callboard.core.native_leader_records import LeaderEvent
from callboard.core.slot_records import HandoffSettings

NAMESPACE = "shop"
SLOT_BITS = 4
RATE_ERROR_PPM = 50_000
SETTINGS = HandoffSettings(
    lease_ms=600,
    drain_ms=100,
    margin_ms=50,
    tick_ms=50,
    rate_error_ppm=RATE_ERROR_PPM,
    failure_timeout_ms=700,
)
NAMES = ("a", "b", "c")
KINDS = ("cart", "user")
STEP_MS = 5

Slot = tuple[str, int]


@define
class Clock:
    """A monotonic clock in whole milliseconds with its own rate against true time (in millionths)."""

    offset_ms: int
    rate_ppm: int

    def read(self, true_ms: int) -> int:
        return self.offset_ms + true_ms * (1_000_000 + self.rate_ppm) // 1_000_000


@define(eq=False)
class Turn:
    """A running turn. `stubborn`: it does not end when it is cancelled."""

    right: Right
    admitted_ms: int
    stubborn: bool
    cut_off: bool = False


@define(eq=False)
class Path:
    """From one connection of a process to one leader machine."""

    stream_id: int
    leader: Office
    process: Process
    connection: int
    up: deque[LeaderEvent | None] = Factory(deque)
    down: deque[HostEvent | None] = Factory(deque)
    hello: Hello | None = None


@define(eq=False)
class Process:
    """A host process: its machine, its runtime of turns, and books of its own about its lease."""

    name: str
    kinds: tuple[str, ...]
    clock: Clock
    machine: NativeHost
    lives: int = 1
    paused: bool = False
    crashed: bool = False
    connections: int = 0
    turns: list[Turn] = Factory(list)
    draining: set[Slot] = Factory(set)
    version: int = 0
    stopped: bool = False


@define(eq=False)
class Office:
    """A term of office: the machine, and what of the log is on its way to it."""

    epoch: int
    clock: Clock
    machine: NativeLeader
    inbox: deque[LeaderEvent] = Factory(deque)
    follows: bool = True


@define
class Entry:
    """Something that an office put into the log. `command` None: a round."""

    office: Office
    number: int
    command: Command | None
