"""What a leader of sidecars has sent and heard, in books of its own: who owes what, and which round runs."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from callboard.core.barrier_records import ACKNOWLEDGED_PHASE, BarrierSettings, HostOperation, Phase, SidecarReport
from harness.violation import PropertyViolation

Sent = tuple[Phase, int]


@define(eq=False)
class StreamBook:
    """Of one stream. `owed`: what it has not acknowledged, and whether that was written."""

    name: str
    newest: Sent | None = None
    owed: dict[Sent, bool] = field(factory=dict)
    owed_since_ms: int = 0


@define(eq=False)
class RoundBook:
    """Of one namespace in one office. `saw` is told of rare situations."""

    settings: BarrierSettings
    saw: Callable[[str], None]
    streams: dict[int, StreamBook] = field(init=False, factory=dict)
    round_version: int | None = field(init=False, default=None)
    _members: dict[int, StreamBook] = field(init=False, factory=dict)
    _waiting_from_ms: int = field(init=False, default=0)

    def opened(self, stream_id: int, name: str) -> None:
        """A stream."""
        self.streams[stream_id] = StreamBook(name)
        if self.round_version is not None:
            self.saw("a sidecar comes during a round")

    def closed(self, stream_id: int) -> None:
        """It is over."""
        self.streams.pop(stream_id, None)
        self._members.pop(stream_id, None)

    def written(self, stream_id: int, phase: Phase, version: int) -> None:
        """An order left."""
        book = self.streams.get(stream_id)
        if book is not None and (phase, version) in book.owed:
            book.owed[phase, version] = True

    def heard(self, stream_id: int, report: SidecarReport) -> None:
        """A message came."""
        book = self.streams[stream_id]
        phase = ACKNOWLEDGED_PHASE.get(report.operation)
        if report.operation is HostOperation.UNKNOWN:
            book.owed = {sent: written for sent, written in book.owed.items() if not written}
        elif phase is not None and book.newest is not None and report.version == book.newest[1]:
            book.owed = {sent: written for sent, written in book.owed.items() if sent[0].rank > phase.rank}
        elif phase is not None:
            self.saw("an acknowledgement of an older round comes late")

    def sends(self, stream_id: int, phase: Phase, version: int, now_ms: int) -> None:
        """An order is sent: it has to be its turn."""
        book = self.streams[stream_id]
        self._check(stream_id, book, phase, version, now_ms)
        book.newest = phase, version
        book.owed = {sent: written for sent, written in book.owed.items() if sent[1] == version}
        book.owed[phase, version] = False
        book.owed_since_ms = now_ms

    def _check(self, stream_id: int, book: StreamBook, phase: Phase, version: int, now_ms: int) -> None:
        newest = book.newest
        if phase is Phase.LOCK:
            if newest is not None and newest[0] is not Phase.UNLOCK:
                raise PropertyViolation("BarrierOrder", f"{book.name} gets lock {version} after {newest}")
            again = self.settings.repeat_push_ms > 0  # old sidecars get a push a second time
            if newest is not None and (version < newest[1] or (version == newest[1] and not again)):
                raise PropertyViolation("TableMonotonic", f"{book.name} gets lock {version} after {newest}")
            if self.round_version not in {None, version}:
                raise PropertyViolation("BarrierOrder", f"lock {version} during round {self.round_version}")
            if self.round_version is None:
                self._waiting_from_ms = now_ms
            self.round_version = version
            self._members[stream_id] = book
            return
        if newest is None or newest[1] != version or newest[0].rank != phase.rank - 1:
            raise PropertyViolation("BarrierOrder", f"{book.name} gets {phase} {version} after {newest}")
        if (Phase.LOCK, version) in book.owed:
            self._was_a_push(stream_id)
        elif stream_id in self._members:
            self._require(Phase.LOCK if phase is Phase.UPDATE else Phase.UPDATE, version)

    def _was_a_push(self, stream_id: int) -> None:
        """Update right after lock: a one-shot push, which may only be while no round runs."""
        book = self._members.pop(stream_id, None)
        if book is None:
            return
        self.saw("a sidecar is brought up to date by a push")
        if self._members:
            text = f"{book.name} gets table {self.round_version} before all have acknowledged the lock"
            raise PropertyViolation("BarrierOrder", text)
        self.round_version = None

    def _require(self, phase: Phase, version: int) -> None:
        for book in self._members.values():
            if (phase, version) in book.owed:
                text = f"round {version} goes on, but {book.name} has not acknowledged {phase}"
                raise PropertyViolation("BarrierOrder", text)

    def finished(self, version: int) -> None:
        """The round is over."""
        if self.round_version is not None:
            self._require(Phase.UNLOCK, version)
        self.round_version, self._members = None, {}

    def cut(self, stream_id: int, now_ms: int) -> None:
        """A silent stream is cut: it must owe something, and have had its time."""
        book = self.streams.get(stream_id)
        self._waiting_from_ms = now_ms
        if book is None:
            return
        if not book.owed:
            text = f"{book.name} is cut although it acknowledged everything"
            raise PropertyViolation("SlowHostIsolation", text)
        patience_ms = min(self.settings.phase_ms_min, self.settings.round_timeout_ms)
        if now_ms - book.owed_since_ms < patience_ms:
            text = f"{book.name} is cut after {now_ms - book.owed_since_ms} ms, before {patience_ms} ms"
            raise PropertyViolation("SlowHostIsolation", text)

    def look(self) -> None:
        """After every event: a round waits for somebody."""
        if self.round_version is None:
            return
        if not any(book.owed for book in self._members.values()):
            raise PropertyViolation("SlowHostIsolation", f"round {self.round_version} waits for nobody")

    def ticked(self, now_ms: int, resumed_ms: int) -> None:
        """After a timer: a round that waits beyond its bound has lost those that it waits for. A replica that stood
        still until `resumed_ms` could not know."""
        if self.round_version is None:
            return
        phase_ms = min(self.settings.phase_ms_min, self.settings.round_timeout_ms)
        waited_ms = now_ms - max(self._waiting_from_ms, resumed_ms)
        longest_ms = self.settings.round_timeout_ms + 2 * phase_ms
        if waited_ms > longest_ms:
            text = f"round {self.round_version} has waited {waited_ms} ms, over {longest_ms} ms, and cut nobody"
            raise PropertyViolation("SlowHostIsolation", text)
