"""What a call to an actor can end with (`DefiniteOrUnknown`).

A definite failure surely did not run the method: it may be tried again, and the client does so by itself within the
call's deadline. Of any other failure the method may have run, may still run, or ran and raised.
"""

from __future__ import annotations

from callboard.core.table_delta import HostEntry


class CallError(Exception):
    """A call did not return a result. `definite`: the method surely did not run."""

    definite = False


class NotServedError(CallError):
    """Nobody could serve the actor within the deadline. The message says why."""

    definite = True


class NotOwnerError(CallError):
    """The host that was asked does not serve the actor. `version` is of its table: the caller's is older, or newer.
    `owner`: who has the actor by that table, if the host said so."""

    definite = True

    def __init__(self, text: str, version: int, owner: HostEntry | None = None) -> None:
        super().__init__(text)
        self.version = version
        self.owner = owner


class BusyError(CallError):
    """A queue is full: back off."""

    definite = True


class BadCallError(CallError):
    """Unknown actor type or method, arguments that do not fit, or a message that is too large."""

    definite = True


class ReentrancyError(CallError):
    """A chain of calls came back to an actor that is not reentrant, or went too deep: waiting would last for ever."""

    definite = True


class OutcomeUnknownError(CallError):
    """The method may have run: the connection or the time ran out, or its host lost the right to answer."""


class ActorFailedError(CallError):
    """The method ran and raised. `error_type` and the message are those of the exception in the actor's host."""

    def __init__(self, error_type: str, text: str) -> None:
        super().__init__(f"{error_type}: {text}")
        self.error_type = error_type
        self.text = text
