"""What an engine offers to be simulated, and what the checkers see of it."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import define, field, frozen

from harness.raftsim.disk import SimDisk

LogEntry = tuple[bytes, int, int]
"""(command, index, term), as the library stores it."""


@frozen
class Settings:
    """Tiny limits, so that batches, snapshots and their chunks are many in a short run."""

    batch_bytes: int = 600
    chunk_bytes: int = 64
    compact_entries: int = 1_000_000
    keep_entries: int = 0
    """Entries kept before a snapshot, where the engine can do that."""
    lazy_flush: bool = False
    """Let some received messages wait for their sync, as when many arrive together (where the engine groups syncs)."""
    natural_elections: bool = False
    """False: an election timeout ends only when the schedule says so (every timeout is legal in Raft)."""

    @property
    def election_timeout_ms(self) -> tuple[int, int]:
        """Shortest and longest election timeout."""
        return (400, 800) if self.natural_elections else (10**9, 10**9 + 1000)


@frozen
class View:
    """What can be seen of a replica between two steps."""

    is_leader: bool
    term: int
    log: Sequence[LogEntry]
    """Entries in memory. The first one may stand for a snapshot."""
    commit_index: int


@frozen
class Acknowledged:
    """The engine says: committed and applied, at this position."""

    index: int


@frozen
class Refused:
    """The engine says: surely without effect, now and later."""

    reason: str


@frozen
class Unknown:
    """The engine says that it does not know."""

    reason: str


Outcome = Acknowledged | Refused | Unknown


class PoisonError(RuntimeError):
    """Raised by `RecordingMachine.apply` for a poisoned command, always and on every replica."""


POISON = b"poison"


@define(eq=False)
class RecordingMachine:
    """A state machine that remembers the order of commands and tells the checkers of each.

    Its state is the list of (index, command) and a digest over it, so that a lost, doubled or exchanged command
    shows in every later digest.
    """

    on_apply: Callable[[int, bytes, int], None]
    """Called with (index, command, digest before) for each application."""
    on_restore: Callable[[list[tuple[int, bytes]], int], None]
    items: list[tuple[int, bytes]] = field(factory=list)
    digest: int = 0

    def apply(self, index: int, command: bytes) -> int:
        """Record the command; its answer is its position."""
        self.on_apply(index, command, self.digest)
        self.items.append((index, command))
        self.digest = next_digest(self.digest, index, command)
        if command.startswith(POISON):
            raise PoisonError("this command raises on every replica")
        return index

    def replace(self, items: list[tuple[int, bytes]], digest: int) -> None:
        """Take over the state of a snapshot."""
        self.items = list(items)
        self.digest = digest
        self.on_restore(self.items, digest)

    def snapshot(self) -> bytes:
        """The state as text: one line per command, hexadecimal."""
        return b"\n".join(b"%d %s" % (index, command.hex().encode()) for index, command in self.items)

    def restore(self, snapshot: bytes) -> None:
        """The inverse of `snapshot`."""
        items: list[tuple[int, bytes]] = []
        digest = 0
        for line in snapshot.splitlines():
            number, _, code = line.partition(b" ")
            items.append((int(number), bytes.fromhex(code.decode())))
            digest = next_digest(digest, *items[-1])
        self.replace(items, digest)


def next_digest(digest: int, index: int, command: bytes) -> int:
    """The digest after applying one more command. The same in every process."""
    return zlib.crc32(b"%d:%s" % (index, command), digest)


class Replica(Protocol):
    """One simulated engine instance: an incarnation of a replica's process."""

    def tick(self) -> None:
        """What the engine does regularly. The clock does not move during it."""

    def receive(self, source: str, message: bytes) -> None:
        """Handle one message of a peer."""

    def connected(self, peer: str) -> None:
        """The link to this peer came up."""

    def disconnected(self, peer: str) -> None:
        """The link to this peer went down."""

    def propose(self, command: bytes, done: Callable[[Outcome], None]) -> None:
        """Propose a command; `done` is called at most once, with what the engine says of it."""

    def barrier(self, done: Callable[[Outcome], None]) -> None:
        """A linearizable read; `Acknowledged.index` is the position that local reads now reflect."""

    def compact_soon(self) -> None:
        """Ask for a snapshot at the next tick."""

    def end_election_timeout(self) -> None:
        """The election timeout has run out: campaign at the next tick."""

    def view(self) -> View:
        """What the checkers look at. Must not change anything."""


@frozen
class Seat:
    """Everything that an engine instance is given."""

    name: str
    peers: tuple[str, ...]
    disk: SimDisk
    clock: Callable[[], float]
    choice: random.Random
    send: Callable[[str, bytes], bool]
    machine: RecordingMachine
    settings: Settings
    first_start: bool
    """False once this replica has run: an engine then must not start empty."""


class EngineUnderTest(Protocol):
    """A kind of engine that can be simulated."""

    name: str
    errors_are_violations: bool
    """False for an engine that logs exceptions of its steps and goes on."""

    def boot(self, seat: Seat) -> Replica:
        """Start an instance on the files that the seat's disk holds."""


class EngineStopped(Exception):
    """The engine ended itself, because going on could break a promise."""


class StartRefused(Exception):
    """The engine refuses to start on these files."""
