"""What every engine does alike: feeding a state machine that may raise, and telling observers who leads."""

from __future__ import annotations

import logging

from callboard.consensus.interface import Leadership, LeadershipObserver, StateMachine

logger = logging.getLogger(__name__)


def apply_safely(machine: StateMachine, index: int, command: bytes) -> object:
    """Apply one committed command; an exception becomes its result, so that the log position is spent all the same."""
    try:
        return machine.apply(index, command)
    except Exception as error:
        logger.exception("the state machine raised at log position %d; the position counts as applied", index)
        return error


class LeadershipFeed:
    """The newest `Leadership` and those who want to hear of changes."""

    def __init__(self) -> None:
        self._current = Leadership(leader=None, term=0, is_local=False)
        self._observers: list[LeadershipObserver] = []

    @property
    def current(self) -> Leadership:
        """What was published last."""
        return self._current

    def observe(self, observer: LeadershipObserver) -> None:
        """Add `observer`; it hears every later change."""
        self._observers.append(observer)

    def publish(self, leadership: Leadership) -> None:
        """Make `leadership` current and, if it differs, tell every observer. Their exceptions are logged."""
        if leadership == self._current:
            return
        self._current = leadership
        for observer in tuple(self._observers):
            try:
                observer(leadership)
            except Exception:
                logger.exception("a leadership observer raised")
