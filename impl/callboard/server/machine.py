"""The replicated state as the consensus engine feeds it, with observers for what changed."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from callboard.core.commands import MalformedCommandError, UnknownCommandError, decode_request
from callboard.core.membership import UnknownFeatureLevelError, apply
from callboard.core.records import Answer, AnswerCode, ReplicatedState
from callboard.core.snapshot import decode_state, encode_state
from callboard.core.tracing import TraceSink, trace_applied

StateObserver = Callable[[ReplicatedState, ReplicatedState], None]

log = structlog.get_logger(__name__)


class ReplicatedMachine:
    """Implements `callboard.consensus.interface.StateMachine` over the pure `apply`.

    A command or snapshot that needs a newer callboard sets `halted` to a one-line reason; nothing is applied
    from then on, and the server stops. Everything else is answered, never raised.
    """

    def __init__(self, trace: TraceSink | None = None) -> None:
        self.trace = trace
        self.state = ReplicatedState()
        self.halted: str | None = None
        self._observers: list[StateObserver] = []
        self._halt_observers: list[Callable[[str], None]] = []

    def observe(self, observer: StateObserver) -> None:
        """Call `observer(before, after)` after each applied command and restored snapshot."""
        self._observers.append(observer)

    def observe_halt(self, observer: Callable[[str], None]) -> None:
        """Call `observer(reason)` once when the state needs a newer callboard."""
        self._halt_observers.append(observer)

    def apply(self, index: int, command: bytes) -> Answer:
        """Apply one log entry; see `StateMachine.apply`."""
        if self.halted is not None:
            return Answer(AnswerCode.UNSUPPORTED, detail=self.halted)
        before = self.state
        try:
            self.state, answer = apply(before, index, decode_request(command))
        except MalformedCommandError as error:
            self.state = before.at(index)
            answer = Answer(AnswerCode.INVALID, detail=str(error))
        except (UnknownCommandError, UnknownFeatureLevelError) as error:
            return self._halt(f"log position {index}: {error}")
        if self.trace is not None:
            trace_applied(self.trace, before, self.state, answer)
        self._notify(before)
        return answer

    def snapshot(self) -> bytes:
        """The encoded state; see `StateMachine.snapshot`."""
        return encode_state(self.state)

    def restore(self, snapshot: bytes) -> None:
        """Replace the state; see `StateMachine.restore`. Raises SnapshotError (a ValueError)."""
        before = self.state
        try:
            self.state = decode_state(snapshot)
        except UnknownFeatureLevelError as error:
            self._halt(f"snapshot: {error}")
            return
        self._notify(before)

    def _halt(self, reason: str) -> Answer:
        self.halted = reason
        for observer in self._halt_observers:
            observer(reason)
        return Answer(AnswerCode.UNSUPPORTED, detail=reason)

    def _notify(self, before: ReplicatedState) -> None:
        for observer in self._observers:
            try:
                observer(before, self.state)
            except Exception:  # an observer's fault must not look like a fault of the log
                log.exception("an observer of the replicated state failed")
