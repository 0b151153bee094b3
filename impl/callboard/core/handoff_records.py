"""What native hosts and their leader say to each other, and what goes into and comes out of their two machines.

`NativeLeader` (native_leader.py) is the leader's side of one namespace in one epoch, `NativeHost` (native_host.py) the
side of one host process. Both are fed events with the time of their own monotonic clock in milliseconds, and answer
with effects to carry out in order. Rules L1 to L5 and H1 to H8 are those of tla/doc/ExclusiveHandoff.md.
"""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen

from callboard.core.commands import Command
from callboard.core.records import Answer
from callboard.core.slot_records import HandoffSettings, NativeHostRecord, NativeNamespace
from callboard.core.table_delta import TableDelta
from callboard.core.versions import Policy

# -- messages --------------------------------------------------------------------------------------------


@frozen
class Span:
    """Consecutive slots of one actor type that share `since` and `fence`."""

    actor_type: str
    first: int
    count: int
    since: int
    fence: int

    @property
    def end(self) -> int:
        """One past the last slot."""
        return self.first + self.count


@frozen
class Hello:
    """A host opens a session.

    `incarnation` is 0 until it was told one. `connection` counts the connections of this incarnation: only words of
    the newest count. `have_version` and `have_digest` name the table that it knows (0 and empty: none). `store_id`
    names the state store that it writes to ("" for none). `by_front`: repeated by the replica that holds its stream, on
    behalf of the host; such a hello never makes a member.
    """

    namespace: str
    policy: Policy
    host: NativeHostRecord
    incarnation: int = 0
    connection: int = 1
    have_version: int = 0
    have_digest: bytes = b""
    store_id: str = ""
    by_front: bool = False


@frozen
class Welcome:
    """The session is open. A table follows."""

    incarnation: int
    epoch: int
    policy: Policy
    slot_bits: int
    settings: HandoffSettings


@frozen
class Renewal:
    """Asks for another lease, and says what the host holds.

    Every slot that is not in `holding` is hereby released up to `version`, the version of the installed table (H6).
    `holding` is None if it is what the last renewal with `holding` said that was answered on this connection.
    `requests` name slots whose right ended with a lease, with the highest fence that the host ever accepted (H7).
    """

    number: int
    incarnation: int
    connection: int
    epoch: int
    version: int
    holding: tuple[Span, ...] | None = None
    requests: tuple[Span, ...] = ()


@frozen
class RenewalAnswer:
    """The lease runs from the moment at which the host sent renewal `number`. Comes after a quorum round.

    `holding_known`: the leader has the host's `holding`, so the next renewals may leave it out.
    """

    number: int
    incarnation: int
    epoch: int
    version: int
    holding_known: bool
    grants: tuple[Span, ...] = ()


@frozen
class Grants:
    """Rights that the incarnation may take up (L3). Repeated with every answer until the host holds them."""

    incarnation: int
    epoch: int
    spans: tuple[Span, ...]


@frozen
class Gone:
    """The incarnation is no member any more and never will be again (L5)."""

    incarnation: int
    text: str


@frozen
class Farewell:
    """The last word of an incarnation: it holds nothing and never will again (H8)."""

    incarnation: int


@frozen
class TableRequest:
    """The host could not use a delta: it needs a snapshot."""

    incarnation: int


# -- events of the leader --------------------------------------------------------------------------------


@frozen
class StateChanged:
    """The replicated namespace after a command was applied."""

    namespace: NativeNamespace


@frozen
class HelloReceived:
    """The first message of a stream, or a front's repetition of it. Stream ids are never used twice."""

    stream_id: int
    hello: Hello


@frozen
class RenewalReceived:
    """A renewal came."""

    stream_id: int
    renewal: Renewal


@frozen
class FarewellReceived:
    """An incarnation said its last word."""

    stream_id: int
    farewell: Farewell


@frozen
class TableRequested:
    """A host needs a snapshot."""

    stream_id: int


@frozen
class StreamEnded:
    """A stream ended, from whichever side."""

    stream_id: int


@frozen
class RoundConfirmed:
    """An entry that was proposed after `round_id` was asked for committed in this epoch: the leader still led."""

    round_id: int


@frozen
class RoundFailed:
    """The round did not come to an end; it may be tried again."""

    round_id: int


@frozen
class ProposalDone:
    """The command of a `Propose` effect was applied, and `StateChanged` was handled before if it changed something."""

    proposal_id: int
    answer: Answer


@frozen
class ProposalFailed:
    """The command of a `Propose` effect was surely not applied."""

    proposal_id: int


@frozen
class Tick:
    """Time passed; come by `next_deadline_ms`."""


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

# -- effects of the leader -------------------------------------------------------------------------------


@frozen
class SendWelcome:
    """Tell the host that its session is open."""

    stream_id: int
    welcome: Welcome


@frozen
class SendTable:
    """Send the change from `from_version` (None: a snapshot) to `to_version`; `NativeLeader.view_at` has both."""

    stream_id: int
    from_version: int | None
    to_version: int


@frozen
class SendAnswer:
    """Answer a renewal."""

    stream_id: int
    answer: RenewalAnswer


@frozen
class SendGrants:
    """Grant rights at once, without waiting for the next renewal."""

    stream_id: int
    grants: Grants


@frozen
class SendGone:
    """Tell an incarnation that it is removed. Its stream stays, for its farewell."""

    stream_id: int
    gone: Gone


@frozen
class CloseStream:
    """End a stream with a gRPC status (by name)."""

    stream_id: int
    status: str
    text: str


@frozen
class RequestRound:
    """Propose `ConfirmEpoch` from now on, and report `RoundConfirmed` or `RoundFailed`."""

    round_id: int


@frozen
class Propose:
    """Put a command into the log, and report `ProposalDone` or `ProposalFailed`."""

    proposal_id: int
    command: Command


LeaderEffect = SendWelcome | SendTable | SendAnswer | SendGrants | SendGone | CloseStream | RequestRound | Propose


# -- views of the leader, for operators ------------------------------------------------------------------


@frozen
class Handoff:
    """Slots that are not granted to their owner yet. `waits_for`: givers that have not let go; `why` says what is
    awaited of them. `waiting_ms` counts from when this leader first saw the wait."""

    actor_type: str
    first: int
    count: int
    owner: int
    since: int
    waits_for: tuple[int, ...]
    waiting_ms: int
    why: str


@frozen
class LeaseView:
    """One incarnation as the leader sees it: member or tombstone. Ages are None if nothing was heard in this epoch."""

    name: str
    incarnation: int
    connected: bool
    removed: bool
    heard_ms_ago: int | None
    answered_ms_ago: int | None
    version: int
    overdue: bool


# -- events of the host ----------------------------------------------------------------------------------


@frozen
class Connected:
    """A stream to some replica is open."""


@frozen
class Disconnected:
    """The stream ended."""


@frozen
class WelcomeReceived:
    """See `Welcome`."""

    welcome: Welcome


@frozen
class TableReceived:
    """A delta or snapshot came."""

    delta: TableDelta


@frozen
class AnswerReceived:
    """See `RenewalAnswer`."""

    answer: RenewalAnswer


@frozen
class GrantsReceived:
    """See `Grants`."""

    grants: Grants


@frozen
class GoneReceived:
    """See `Gone`."""

    gone: Gone


@frozen
class Drained:
    """No turn of these slots runs any more and none will start: the runtime's answer to `StopAdmitting`."""

    actor_type: str
    slots: tuple[int, ...]


@frozen
class LeaveRequested:
    """The application wants to stop in order."""


@frozen
class NewIncarnation:
    """The runtime forgot all activations; `process` is a fresh random token."""

    process: str


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
    | NewIncarnation
    | Tick
)

# -- effects of the host ---------------------------------------------------------------------------------


class EndReason(StrEnum):
    """Why a right ended."""

    MOVED = "moved"
    LEASE = "lease"
    GONE = "gone"
    LEAVING = "leaving"


@frozen
class SendHello:
    """Open the session."""

    hello: Hello


@frozen
class SendRenewal:
    """Send it at once: the lease counts from the time of the event that gave this effect."""

    renewal: Renewal


@frozen
class SendFarewell:
    """Say the last word."""

    farewell: Farewell


@frozen
class SendTableRequest:
    """Ask for a snapshot."""

    request: TableRequest


@frozen
class StopAdmitting:
    """These slots are lost: let running turns end, deactivate, then report `Drained` for each of them, whether or not
    anything ran there. Turns that still run at `cancel_at_ms` are cancelled by a `CancelTurns`."""

    spans: tuple[Span, ...]
    cancel_at_ms: int
    reason: EndReason


@frozen
class CancelTurns:
    """Cancel what still runs in these slots; their gate shuts soon."""

    spans: tuple[Span, ...]
    reason: EndReason


@frozen
class RightsGained:
    """These slots may be served from now on."""

    spans: tuple[Span, ...]


@frozen
class RightsEnded:
    """These rights are over for good: their gate is shut. Deactivate what is left without calling it."""

    spans: tuple[Span, ...]
    reason: EndReason


@frozen
class TableInstalled:
    """The host's table is now this version: re-evaluate reminders and routes."""

    version: int


@frozen
class BecomeNewIncarnation:
    """This incarnation is over. Forget everything and answer with `NewIncarnation`."""

    reason: str


@frozen
class Stopped:
    """The host is out: close the stream. `orderly`: it left by request; else the process must not serve again."""

    orderly: bool
    reason: str


HostEffect = (
    SendHello
    | SendRenewal
    | SendFarewell
    | SendTableRequest
    | StopAdmitting
    | CancelTurns
    | RightsGained
    | RightsEnded
    | TableInstalled
    | BecomeNewIncarnation
    | Stopped
)
