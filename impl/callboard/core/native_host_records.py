"""Events, effects and answers of a native host's machine (native_host.py)."""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen

from callboard.core.handoff_messages import (
    Farewell,
    Gone,
    Grants,
    Held,
    Hello,
    Renewal,
    RenewalAnswer,
    SlotRun,
    TableRequest,
    Tick,
    Welcome,
)
from callboard.core.table_delta import TableDelta

# -- events ----------------------------------------------------------------------------------------------


@frozen
class Connected:
    """A session stream is open. Connections are counted over the life of the process, never used twice."""

    connection: int


@frozen
class Disconnected:
    """The session stream ended. Of other connections than the newest it is ignored, like all messages of them."""

    connection: int


@frozen
class WelcomeReceived:
    """A welcome came."""

    connection: int
    welcome: Welcome


@frozen
class TableReceived:
    """A delta or snapshot came."""

    connection: int
    delta: TableDelta


@frozen
class AnswerReceived:
    """The answer to a renewal came."""

    connection: int
    answer: RenewalAnswer


@frozen
class GrantsReceived:
    """Grants came by themselves."""

    connection: int
    grants: Grants


@frozen
class GoneReceived:
    """The leader does not know this incarnation."""

    connection: int
    gone: Gone


@frozen
class Drained:
    """No turn runs in these slots any more and their actors are deactivated, after `StopAdmitting`.

    Slots that are not being drained are ignored.
    """

    actor_type: str
    slots: tuple[int, ...]


@frozen
class LeaveRequested:
    """Stop in good order: admit nothing, let turns finish, say farewell."""

    reason: str


HostEvent = (
    Connected
    | Disconnected
    | WelcomeReceived
    | TableReceived
    | AnswerReceived
    | GrantsReceived
    | GoneReceived
    | Drained
    | LeaveRequested
    | Tick
)


# -- effects ---------------------------------------------------------------------------------------------


@frozen
class SendHello:
    """Write a hello to the connection."""

    connection: int
    hello: Hello


@frozen
class SendRenewal:
    """`now_ms` of the call that returned it is when it counts as sent: it may leave later, never earlier."""

    connection: int
    renewal: Renewal


@frozen
class SendFarewell:
    """Only if there is a connection; nothing is sent after it."""

    connection: int
    farewell: Farewell


@frozen
class SendTableRequest:
    """Ask for a snapshot."""

    connection: int
    request: TableRequest


@frozen
class TableInstalled:
    """A newer table is in use; `owner_of` answers from it. `types` are those whose slots or hosts changed, sorted."""

    version: int
    types: tuple[str, ...]


@frozen
class Granted:
    """The host may serve these slots from now on (`fence` 0 under policy `eventual`)."""

    spans: tuple[Held, ...]


@frozen
class StopAdmitting:
    """These slots admit nothing any more. Deactivate their idle actors, let running turns finish, and report each slot
    by `Drained`, also those without any actor. At `cancel_at_ms` (the host's clock) `CancelTurns` follows."""

    spans: tuple[SlotRun, ...]
    cancel_at_ms: int


@frozen
class CancelTurns:
    """Cancel what still runs in these slots: their gate shuts at `gate_shuts_at_ms` or earlier."""

    spans: tuple[SlotRun, ...]
    gate_shuts_at_ms: int


class EndReason(StrEnum):
    """Why rights ended."""

    RELEASED = "released"
    LEASE = "lease"
    STOPPED = "stopped"


@frozen
class Ended:
    """The gate of these slots is shut; turns that still run there are to be cut off, actors dropped without effects."""

    spans: tuple[SlotRun, ...]
    reason: EndReason


@frozen
class BecomeNewIncarnation:
    """This incarnation is over, and so is its machine: make a new `NativeHost` with a new process token.

    `replaced`: another process took over the name, so trying again at once would throw that one out in turn.
    """

    reason: str
    replaced: bool


@frozen
class Stopped:
    """This incarnation is over, and so is its machine. `overdue`: turns did not end in time; the process must exit."""

    reason: str
    overdue: bool = False


HostEffect = (
    SendHello
    | SendRenewal
    | SendFarewell
    | SendTableRequest
    | TableInstalled
    | Granted
    | StopAdmitting
    | CancelTurns
    | Ended
    | BecomeNewIncarnation
    | Stopped
)


# -- answers of queries ----------------------------------------------------------------------------------


@frozen(eq=False, slots=True)
class Right:
    """A serving right to one slot: what a turn carries from its admission to the gate. Compares by identity.

    `fence` is 0 under policy `eventual`.
    """

    actor_type: str
    slot: int
    since: int
    fence: int


class Refusal(StrEnum):
    """Why a call is not admitted here now."""

    NOT_OWNER = "not owner"
    """The installed table names another owner, or nobody."""
    NOT_GRANTED = "not granted"
    """The slot is this host's, but earlier owners have not let go of it yet: the call may wait here."""
    NO_LEASE = "no lease"
    """The lease ran out, or too little of it is left: the call may wait here for a renewal."""
    LEAVING = "leaving"
    """The host admits nothing any more."""
    UNKNOWN_TYPE = "unknown type"
    """No table has this actor type."""
