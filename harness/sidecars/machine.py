"""A simulated sidecar without its sockets: what both generations of daprd have in common.

`handle(event, now)` returns the effects that the sidecar wants; there is no clock, no task and no I/O here, and
the only randomness is the jitter drawn from the generator that it is given. What differs between generations
is in `modern` (1.18: acknowledges orders) and `heartbeat` (1.16: repeats its report every second).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from enum import StrEnum
from random import Random

from attrs import evolve

from harness.sidecars.events import (
    CloseSend,
    Dial,
    Effect,
    Event,
    Note,
    OpenFailed,
    OrderReceived,
    SetTimer,
    ShutdownAsked,
    SidecarSettings,
    SidecarSpec,
    Started,
    StreamEnded,
    StreamOpened,
    TimerFired,
    TypesChanged,
)
from harness.sidecars.tables import NoOwner, Order, Tables

DRAIN_TIMER = "drain"
NOTES_KEPT = 400


class Connection(StrEnum):
    """Where the sidecar's one stream stands."""

    NONE = "none"
    DIALLING = "dialling"
    OPEN = "open"
    CLOSING = "closing"
    """It sent its half-close and waits for the server to end the response side; daprd has no deadline here."""
    STOPPED = "stopped"


class SidecarMachine(ABC):
    """State and rules of one simulated sidecar. Read its public attributes freely; change them never.

    `counts` has: opened, refused, open_failed, lost, lock, update, unlock (orders received), ignored (orders that
    had no effect), halts (all actors halted because a stream that had served ended), closed (streams that the
    sidecar itself gave up), installed, drained.
    """

    def __init__(self, spec: SidecarSpec, addresses: int, settings: SidecarSettings, random: Random) -> None:
        if addresses < 1:
            raise ValueError("addresses: a sidecar needs at least one placement address, not 0")
        self.spec = spec
        self.settings = settings
        self.connection = Connection.NONE
        self.attempt = 0
        self.served = False
        """Whether the current stream has brought an order yet."""
        self.ready = False
        self.tables: Tables | None = None
        self.table_version = 0
        self.actors: set[tuple[str, str]] = set()
        self.counts: Counter[str] = Counter()
        self.notes: deque[Note] = deque(maxlen=NOTES_KEPT)
        self.last_end = ""
        """Status and text with which the last stream ended."""
        self._addresses = addresses
        self._random = random
        self._stopping = False
        self._draining = False
        self._deferred: deque[Event] = deque()

    # What differs between generations.

    @property
    @abstractmethod
    def locked(self) -> bool:
        """Whether it holds calls back (of any actor type)."""

    @property
    @abstractmethod
    def wedged(self) -> bool:
        """Whether it is locked and no order of an ordinary round will ever unlock it."""

    @abstractmethod
    def _opened(self, now: float) -> list[Effect]: ...

    @abstractmethod
    def _ordered(self, order: Order, now: float) -> list[Effect]: ...

    @abstractmethod
    def _drained(self, now: float) -> list[Effect]: ...

    @abstractmethod
    def _timer(self, timer: str, now: float) -> list[Effect]: ...

    @abstractmethod
    def _types_changed(self, now: float) -> list[Effect]: ...

    @abstractmethod
    def _lost(self, now: float) -> list[Effect]: ...

    @abstractmethod
    def _pause(self, reason: str) -> float: ...

    @abstractmethod
    def _waits_for_drain(self, event: Event) -> bool: ...

    # What does not.

    @property
    def digest(self) -> str:
        """Digest of the installed tables; empty if there are none."""
        return "" if self.tables is None else self.tables.digest

    @property
    def settled(self) -> bool:
        """Connected, told everything that it was promised, and serving."""
        return self.connection is Connection.OPEN and self.served and self.ready and not self.locked

    def owner(self, actor_type: str, actor_id: str) -> str:
        """Name of the host that runs the actor by the installed tables. Raises NoOwner."""
        if self.tables is None:
            raise NoOwner(f"{self.spec.name} has no table yet")
        return self.tables.owner(actor_type, actor_id)

    def activate(self, actor_type: str, actor_id: str) -> None:
        """Run an actor here, until the table moves it away or a stream ends."""
        self.actors.add((actor_type, actor_id))

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Let `event` happen at monotonic time `now`, in seconds."""
        if self._draining and self._waits_for_drain(event):
            self._deferred.append(event)
            return []
        effects = self._dispatch(event, now)
        while self._deferred and not self._draining:
            effects += self._dispatch(self._deferred.popleft(), now)
        return effects

    def _dispatch(self, event: Event, now: float) -> list[Effect]:
        match event:
            case Started():
                return self._dial(0.0, now) if self.connection is Connection.NONE else []
            case ShutdownAsked():
                return self._shut_down(now)
            case TypesChanged(actor_types):
                self.spec = evolve(self.spec, actor_types=actor_types)
                return self._types_changed(now) if self.connection is Connection.OPEN else []
            case TimerFired(timer):
                if timer == DRAIN_TIMER:
                    self._draining = False
                    self.note(now, "drained")
                    return self._drained(now)
                return self._timer(timer, now)
            case StreamOpened(attempt) | OpenFailed(attempt) | OrderReceived(attempt) | StreamEnded(attempt):
                return self._on_stream(event, now) if attempt == self.attempt else []

    def _on_stream(self, event: StreamOpened | OpenFailed | OrderReceived | StreamEnded, now: float) -> list[Effect]:
        match event:
            case StreamOpened():
                self.connection = Connection.OPEN
                self.note(now, "opened")
                return self._opened(now)
            case OpenFailed(detail=detail):
                self.note(now, "open_failed")
                self.last_end = detail
                return self._gone("open_failed", now)
            case OrderReceived(order=order):
                if self.connection is not Connection.OPEN:
                    return []
                self.served = True
                self.note(now, order.operation, order.version)
                return self._ordered(order, now)
            case StreamEnded(code=code, detail=detail):
                self.last_end = f"{code}: {detail}"
                return self._gone("lost" if self.served else "refused", now)

    def _gone(self, reason: str, now: float) -> list[Effect]:
        """The stream is over, for whatever reason: halt every actor, then try the next address."""
        if reason != "open_failed":
            self.note(now, reason)
        if self.served:
            self.note(now, "halts")
        self.actors.clear()
        self.served = False
        effects = self._lost(now)
        if self._stopping:
            self.connection = Connection.STOPPED
            return effects
        return effects + self._dial(self._pause(reason), now)

    def _dial(self, pause_s: float, now: float) -> list[Effect]:
        self.connection = Connection.DIALLING
        self.attempt += 1
        self.note(now, "dialled")
        return [Dial(self.attempt, (self.attempt - 1) % self._addresses, pause_s)]

    def _close(self, now: float) -> list[Effect]:
        """Give the stream up. It counts as ended only when the server ends the response side."""
        self.connection = Connection.CLOSING
        self.note(now, "closed")
        return [CloseSend()]

    def _shut_down(self, now: float) -> list[Effect]:
        self._stopping = True
        if self.connection is Connection.OPEN:
            return self._close(now)
        if self.connection is not Connection.CLOSING:
            self.connection = Connection.STOPPED
            self.attempt += 1  # whatever still happens on the old stream is nobody's business
        return []

    def _install(self, tables: Tables, version: int, now: float) -> list[Effect]:
        """Put new tables in force and start to drain the actors that are no longer ours."""
        self.tables = tables
        self.table_version = version
        self.note(now, "installed", version)
        moving = {actor for actor in self.actors if not self._is_ours(*actor)}
        self.actors -= moving
        if moving and self.settings.drain_s > 0:
            self._draining = True
            return [SetTimer(DRAIN_TIMER, now + self.settings.drain_s)]
        return self._drained(now)

    def _is_ours(self, actor_type: str, actor_id: str) -> bool:
        try:
            return self.owner(actor_type, actor_id) == self.spec.name
        except NoOwner:
            return False

    def _jittered(self, pause_s: float) -> float:
        return pause_s * self._random.uniform(0.5, 1.5)

    def note(self, now: float, what: str, version: int = 0) -> None:
        """Count `what` and remember when it happened."""
        self.counts[what] += 1
        self.notes.append(Note(now, what, version))
