"""callboard's embedded engine in the simulated environment: its synchronous core, as the asyncio engine drives it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pysyncobj.syncobj
from attrs import define, field

from callboard.consensus.interface import (
    Applied,
    BarrierFailed,
    EngineFailed,
    EngineLimits,
    EngineStartError,
    NotApplied,
    ProposalError,
)
from callboard.consensus.pysyncobj_engine.core import Core
from callboard.consensus.pysyncobj_engine.journal import JOURNAL_FILE, Journal
from callboard.consensus.pysyncobj_engine.options import CoreSettings
from harness.raftsim.disk import SimDisk
from harness.raftsim.replica import (
    Acknowledged,
    EngineStopped,
    Outcome,
    Refused,
    Replica,
    Seat,
    Settings,
    StartRefused,
    Unknown,
    View,
)

_DIRECTORY_ID = "simulated"


@define(eq=False)
class _Handle:
    disk: SimDisk
    name: str
    offset: int

    def write(self, data: bytes) -> None:
        self.disk.write(self.name, self.offset, data)
        self.offset += len(data)

    def sync(self) -> None:
        self.disk.sync(self.name)

    def close(self) -> None:
        pass


@define(eq=False)
class SimulatedDirectory:
    """The engine's `Disk` over a simulated one."""

    disk: SimDisk

    def names(self) -> list[str]:
        return self.disk.names()

    def read(self, name: str) -> bytes:
        return self.disk.read(name)

    def create(self, name: str) -> _Handle:
        self.disk.create(name)
        return _Handle(self.disk, name, 0)

    def append(self, name: str) -> _Handle:
        return _Handle(self.disk, name, self.disk.size(name))

    def rename(self, old: str, new: str) -> None:
        self.disk.rename(old, new)

    def remove(self, name: str) -> None:
        self.disk.remove(name)

    def sync_directory(self) -> None:
        self.disk.sync_names()


class _NoPoller:
    def poll(self, _seconds: float) -> None:
        pass


@contextmanager
def core_in_simulation() -> Iterator[None]:
    """Spare the library its poller (the core gives it no sockets), and keep expected failures out of the log."""
    poller = pysyncobj.syncobj.createPoller
    clock = pysyncobj.syncobj.monotonicTime
    loggers = [logging.getLogger(name) for name in ("pysyncobj", "callboard")]
    levels = [logger.level for logger in loggers]
    pysyncobj.syncobj.createPoller = lambda _kind: _NoPoller()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        pysyncobj.syncobj.createPoller = poller
        pysyncobj.syncobj.monotonicTime = clock
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@define(eq=False)
class _HardenedReplica:
    core: Core
    seat: Seat
    _held: int = field(default=0)

    def tick(self) -> None:
        with _stopping():
            self.core.tick()
        self._held = 0

    def receive(self, source: str, message: bytes) -> None:
        with _stopping():
            self.core.receive(source, message)
            self._held += 1
            if not self.seat.settings.lazy_flush or self._held > 3 or self.seat.choice.random() < 0.3:
                self.core.flush()
                self._held = 0

    def connected(self, peer: str) -> None:
        with _stopping():
            self.core.connected(peer)

    def disconnected(self, peer: str) -> None:
        with _stopping():
            self.core.disconnected(peer)

    def propose(self, command: bytes, done: Callable[[Outcome], None]) -> None:
        with _stopping():
            self.core.propose(command, lambda outcome: done(_outcome(outcome)))

    def barrier(self, done: Callable[[Outcome], None]) -> None:
        with _stopping():
            self.core.barrier(
                lambda outcome: done(
                    Unknown(str(outcome)) if isinstance(outcome, BarrierFailed) else Acknowledged(outcome)
                )
            )

    def compact_soon(self) -> None:
        self.core.compact_now()

    def end_election_timeout(self) -> None:
        with _stopping():
            self.core.campaign_now()

    def view(self) -> View:
        view = self.core.inspect()
        return View(view.role == "leader", view.term, view.log, view.commit_index)


class _Patience:
    """Random numbers for an engine whose election timeouts end only when the schedule says so.

    The shortest timeout stays small: it also decides how long a voter stays with a leader that it heard.
    """

    def uniform(self, _shortest: float, _longest: float) -> float:
        return 10.0**9


@contextmanager
def _stopping() -> Iterator[None]:
    try:
        yield
    except EngineFailed as failure:
        raise EngineStopped(str(failure)) from failure


def _outcome(outcome: Applied | ProposalError) -> Outcome:
    if isinstance(outcome, Applied):
        return Acknowledged(outcome.index)
    if isinstance(outcome, NotApplied):
        return Refused(str(outcome))
    return Unknown(str(outcome))


def core_settings(settings: Settings) -> CoreSettings:
    """The engine's settings for a simulated run."""
    return CoreSettings(
        election_min_ms=400,
        election_max_ms=800,
        heartbeat_ms=100,
        fallback_ms=1000 if settings.natural_elections else 10**9,
        batch_bytes=settings.batch_bytes,
        snapshot_entries=settings.compact_entries,
        keep_entries=min(settings.keep_entries, settings.compact_entries - 1),
        chunk_bytes=settings.chunk_bytes,
    )


class Hardened:
    """The embedded engine's core."""

    name = "hardened"
    errors_are_violations = True

    def boot(self, seat: Seat) -> Replica:
        """Start an instance. Use inside `core_in_simulation`."""
        directory = SimulatedDirectory(seat.disk)
        try:
            if seat.first_start and not seat.disk.exists(JOURNAL_FILE):
                Journal.create(directory, _DIRECTORY_ID).close()
            core = Core(
                seat.name,
                seat.peers,
                disk=directory,
                machine=seat.machine,
                send=seat.send,
                clock=seat.clock,
                generator=seat.choice if seat.settings.natural_elections else cast("random.Random", _Patience()),
                directory_id=_DIRECTORY_ID,
                settings=core_settings(seat.settings),
                limits=EngineLimits(),
            )
        except EngineStartError as refusal:
            raise StartRefused(str(refusal)) from refusal
        except EngineFailed as failure:
            raise StartRefused(f"failed at start: {failure}") from failure
        return _HardenedReplica(core, seat)
