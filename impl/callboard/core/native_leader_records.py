"""Bounds, events, effects and operators' views of a leader's machine for one native namespace (native_leader.py)."""

from __future__ import annotations

from attrs import frozen

from callboard.core.commands import Command
from callboard.core.handoff_messages import (
    Farewell,
    Gone,
    Grants,
    Hello,
    Renewal,
    RenewalAnswer,
    TableRequest,
    Tick,
    Welcome,
)
from callboard.core.records import Answer
from callboard.core.slot_records import NativeNamespace


@frozen
class LeaderLimits:
    """Bounds of one namespace's leader. `grants_max`: spans in one message; the others follow with the next answer.

    `steps_kept`: changes of version of which hosts that missed them still get deltas. `batch_bytes_max`: of host
    records in one command.
    """

    streams_max: int = 20_000
    batch_items_max: int = 500
    batch_bytes_max: int = 192 * 1024
    grants_max: int = 5000
    steps_kept: int = 64


# -- events ----------------------------------------------------------------------------------------------


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


# -- effects ---------------------------------------------------------------------------------------------


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


# -- views of operators ----------------------------------------------------------------------------------


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
