"""Messages between native hosts and the leader, and the events and effects of the two machines that exchange them.

Rules L1 to L5 and H1 to H8 of the module ExclusiveHandoff in tla/, and the lease rules of Leases, say what is done with
them. `NativeLeader` (native_leader.py) and `NativeHost` (native_host.py) are pure: `handle(event, now_ms)` returns
effects, to be carried out in order; `next_deadline_ms()` says when the next `Tick` is due.

    leader = NativeLeader(name, epoch, namespace, now_ms)   one term of office in one namespace
    host = NativeHost(namespace_name, policy, record, store_id)   one incarnation of one host process

A connection is what a host counts: 1, 2, 3 ... over the life of its process, one more for each session stream that it
opens. Messages of one connection arrive in order or not at all; those of different connections may overtake each other,
and only the newest connection of an incarnation counts. A stream id names the path from this leader to a connection.

Under policy `eventual` the messages are the same, but there are no grants, fences or leases: renewals are heartbeats,
and their answers end isolation.
"""

from __future__ import annotations

from enum import StrEnum

from attrs import field, frozen
from attrs.validators import ge

from callboard.core.commands import Command
from callboard.core.records import Answer
from callboard.core.slot_records import HandoffSettings, NativeHostRecord, NativeNamespace
from callboard.core.table_delta import TableDelta
from callboard.core.versions import Policy

NO_INCARNATION = 0
"""In a hello: the process has not got an incarnation yet."""


@frozen
class SlotRun:
    """Consecutive slots of one actor type."""

    actor_type: str
    first: int
    count: int


@frozen
class Held:
    """Consecutive slots of one actor type with the same `since` and fence: held, granted or asked for again."""

    actor_type: str
    first: int
    count: int
    since: int
    fence: int


# -- messages of hosts -----------------------------------------------------------------------------------


@frozen
class Hello:
    """First message of a connection; repeated by the host until it is welcomed.

    `incarnation`: NO_INCARNATION, or the one that the process has. `have_version`, `have_digest`: of the installed
    table (0 and empty for none). `store_id`: identity of the host's state store, empty if it has none. `by_front`: a
    front repeats it to a new leader; such a hello never creates a member.
    """

    namespace: str
    policy: Policy
    host: NativeHostRecord
    incarnation: int = NO_INCARNATION
    connection: int = field(default=1, validator=ge(1))
    have_version: int = 0
    have_digest: bytes = b""
    store_id: str = ""
    by_front: bool = False


@frozen
class Renewal:
    """Asks for the lease to be renewed, and says what the host holds.

    `number` rises over the life of the incarnation; the answer echoes it. `epoch`: newest heard. `version`: of the
    installed table. What is held: with `base_number` 0 exactly `taken`; else what the renewal of that number on this
    connection said, without `dropped`, with `taken` (which replaces). Every slot that is not held is hereby released
    up to `version`. `requests`: slots whose right ended with its lease, with the last fence. `leaving`: an orderly
    stop.
    """

    number: int
    incarnation: int
    connection: int
    epoch: int
    version: int
    base_number: int = 0
    taken: tuple[Held, ...] = ()
    dropped: tuple[SlotRun, ...] = ()
    requests: tuple[Held, ...] = ()
    leaving: bool = False


@frozen
class Farewell:
    """The last word of an incarnation: it admits nothing for ever and holds nothing."""

    incarnation: int


@frozen
class TableRequest:
    """The installed table is not the one that a delta started from, or its digest was wrong: send a snapshot."""

    incarnation: int
    have_version: int


# -- messages of leaders ---------------------------------------------------------------------------------


@frozen
class Welcome:
    """The host is a member as `incarnation`. Tables follow."""

    incarnation: int
    epoch: int
    policy: Policy
    slot_bits: int
    settings: HandoffSettings


@frozen
class RenewalAnswer:
    """The lease runs from when renewal `number` was sent. `version` is the newest of the tables.

    `holding_known`: the leader knows what the host holds, as said up to that renewal; else it asks to hear it in full.
    """

    number: int
    incarnation: int
    epoch: int
    version: int
    holding_known: bool
    grants: tuple[Held, ...] = ()


@frozen
class Grants:
    """Earlier owners of these slots let go; the owner `incarnation` may serve them."""

    incarnation: int
    epoch: int
    grants: tuple[Held, ...]


@frozen
class Gone:
    """The incarnation is no member any more and never will be. `replaced`: by another process under its name."""

    incarnation: int
    text: str
    replaced: bool = False


# -- leader: events --------------------------------------------------------------------------------------


@frozen
class StateChanged:
    """The replicated namespace changed. To be told before anything that follows it in the log.

    `epoch` is the current one of the replicated state: a machine of another epoch does nothing any more.
    """

    namespace: NativeNamespace
    epoch: int


@frozen
class HelloReceived:
    """A hello came by a stream. Stream ids are never used twice."""

    stream_id: int
    hello: Hello


@frozen
class RenewalReceived:
    """A renewal came by a stream."""

    stream_id: int
    renewal: Renewal


@frozen
class FarewellReceived:
    """A last word came by a stream."""

    stream_id: int
    farewell: Farewell


@frozen
class TableRequested:
    """A host asks for a snapshot."""

    stream_id: int
    request: TableRequest


@frozen
class StreamEnded:
    """A stream ended, from whichever side."""

    stream_id: int


@frozen
class RoundConfirmed:
    """The round's entry, proposed after `RequestRound`, committed in this machine's epoch and was applied."""

    round_id: int


@frozen
class RoundFailed:
    """The round's entry did not commit, or nobody knows: it confirms nothing."""

    round_id: int


@frozen
class ProposalDone:
    """The command was applied, with this answer, and `StateChanged` has told of its effect."""

    proposal_id: int
    answer: Answer


@frozen
class ProposalFailed:
    """The command was not applied, or nobody knows: it is worked out anew and tried again after a pause."""

    proposal_id: int


@frozen
class Tick:
    """Time has passed. Due when `next_deadline_ms` says so; harmless at any other time. For both machines."""


LeaderEvent = (
    StateChanged
    | HelloReceived
    | RenewalReceived
    | FarewellReceived
    | TableRequested
    | StreamEnded
    | RoundConfirmed
    | RoundFailed
    | ProposalDone
    | ProposalFailed
    | Tick
)


# -- leader: effects -------------------------------------------------------------------------------------


@frozen
class SendWelcome:
    """Write a welcome to a stream."""

    stream_id: int
    welcome: Welcome


@frozen
class SendTable:
    """Send `NativeLeader.delta(from_version, to_version)`; from 0: a snapshot. One encoding serves all streams."""

    stream_id: int
    from_version: int
    to_version: int


@frozen
class SendAnswer:
    """Write an answer to a stream."""

    stream_id: int
    answer: RenewalAnswer


@frozen
class SendGrants:
    """Write grants to a stream."""

    stream_id: int
    grants: Grants


@frozen
class SendGone:
    """Write the last word to a stream; its end is up to the host."""

    stream_id: int
    gone: Gone


@frozen
class CloseStream:
    """End a stream with a gRPC status (its name, as in `FAILED_PRECONDITION`). The machine has forgotten it already."""

    stream_id: int
    status: str
    text: str


@frozen
class RequestRound:
    """Propose `ConfirmEpoch(epoch)` now (never join an entry proposed before this effect), and tell the outcome.
    One round may serve several namespaces that asked before it was proposed."""

    round_id: int


@frozen
class Propose:
    """Commit this command; to be answered with `ProposalDone` or `ProposalFailed`."""

    proposal_id: int
    command: Command


LeaderEffect = SendWelcome | SendTable | SendAnswer | SendGrants | SendGone | CloseStream | RequestRound | Propose


# -- leader: views of operators --------------------------------------------------------------------------


@frozen
class Giver:
    """An earlier owner that slots wait for. `why`: `draining`, `not heard`, `removed` (its lease runs out), `overdue`,
    or `released` (only the others are waited for). `remaining_ms`: at most so long, if there is a bound."""

    incarnation: int
    name: str
    why: str
    remaining_ms: int | None


@frozen
class Waiting:
    """Consecutive slots that are not granted to `owner` yet, and the earlier owners that they wait for.

    `waited_ms`: since this leader first saw that change of owner.
    """

    actor_type: str
    first: int
    count: int
    owner: int
    since: int
    waited_ms: int
    givers: tuple[Giver, ...]


@frozen
class LeaseState:
    """One member as the leader sees it. `answered_ms`: since its last answer in this office (None: none yet), or
    `heard_ms`: since its last renewal; it is removed when `margin_ms`, what is left of the failure timeout, is over."""

    incarnation: int
    name: str
    connected: bool
    installed_version: int
    heard_ms: int
    answered_ms: int | None
    margin_ms: int


@frozen
class Overdue:
    """A member that has not released slots in time; its renewals are refused and its removal is proposed."""

    incarnation: int
    name: str
    since: int
    late_ms: int


# -- host: events ----------------------------------------------------------------------------------------


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


# -- host: effects ---------------------------------------------------------------------------------------


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


# -- host: answers of queries ----------------------------------------------------------------------------


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
