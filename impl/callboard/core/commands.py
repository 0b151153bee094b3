"""The commands of the replicated state machine and their encoding.

A log entry is the msgpack array [ENCODING_VERSION, kind, session, sequence, acknowledged_below, body]; one for an
operator's request (feature level 3) begins with OPERATOR_ENCODING_VERSION and ends with the request's id and digest.
The body is a map of the command's fields. Unknown fields are ignored and missing ones take their defaults, so that a
newer replica may add fields within one feature level only if old replicas may ignore them.
"""

from __future__ import annotations

from typing import Any

import msgspec
from attrs import Factory, field, fields, frozen
from attrs.validators import ge

from callboard.core.records import HostRecord
from callboard.core.slot_records import SLOT_BITS_DEFAULT, HandoffSettings, HostMark, NativeHostRecord
from callboard.core.versions import Policy

ENCODING_VERSION = 1
OPERATOR_ENCODING_VERSION = 2

NO_SESSION = 0
"""Session number of a request that needs no protection against repetition."""


class MalformedCommandError(ValueError):
    """The bytes are no command: every replica answers them alike, with INVALID."""


class UnknownCommandError(ValueError):
    """The command's kind or encoding is from a newer callboard: this replica must stop rather than guess."""


@frozen
class RequestId:
    """Who asks, for the how-manieth time: a repetition of (session, sequence) has no second effect (ApplyOnce).

    `acknowledged_below`: the client has the answers of all lower sequence numbers, so they may be forgotten.
    """

    session: int = field(default=NO_SESSION, validator=ge(0))
    sequence: int = field(default=0, validator=ge(0))
    acknowledged_below: int = field(default=1, validator=ge(0))


UNPROTECTED = RequestId()


@frozen
class OperatorRequest:
    """The id that an operator gave to a change, so that it can be asked for again at any leader, and a digest of all
    that was asked."""

    request_id: str
    digest: bytes


@frozen
class OpenSession:
    """Issue a session number. Opening is also what expires sessions: the oldest, and those long unused."""


@frozen
class TakeOffice:
    """A newly elected leader starts its epoch. `nonce` makes a repetition by the same leader harmless."""

    replica_id: str
    nonce: str


@frozen
class CreateNamespace:
    """Create a namespace for sidecars. The first committed policy wins; only `barrier` is possible."""

    namespace: str
    policy: Policy


@frozen
class CreateNativeNamespace:
    """Create a namespace for native hosts (feature level 2): 2^slot_bits slots for each actor type, and its times,
    which never change. The first committed policy wins."""

    namespace: str
    policy: Policy
    slot_bits: int = SLOT_BITS_DEFAULT
    settings: HandoffSettings = Factory(HandoffSettings)


@frozen
class DeleteNamespace:
    """Delete a namespace without members. Its version floor is kept."""

    namespace: str


@frozen
class Removal:
    """Remove a member, if it still is this incarnation."""

    name: str
    incarnation: int


@frozen
class CommitBatch:
    """Removals, then upserts, applied as one change of version. Refused unless `epoch` is the current one."""

    epoch: int
    namespace: str
    upserts: tuple[HostRecord, ...] = ()
    removals: tuple[Removal, ...] = ()


@frozen
class RepeatRound:
    """Raise the version of a namespace although its tables stay, so that a round can be run again."""

    epoch: int
    namespace: str


@frozen
class RaiseGeneration:
    """Start a new generation, above every version used before; after a restore or a change of engine."""

    generation: int = field(validator=ge(1))


@frozen
class BeginRestore:
    """Take a backup's place: every number issued from here on lies above those of the backup.

    Only for a state without namespaces, or to continue the restore of the same backup (`source` is its digest).
    """

    source: str
    generation: int = field(validator=ge(1))
    epoch: int = field(validator=ge(0))
    next_incarnation: int = field(validator=ge(1))


@frozen
class RaiseFeatureLevel:
    """Let apply behave as `level` says from here on. Sent once every replica has announced that it knows it."""

    epoch: int
    level: int = field(validator=ge(1))


@frozen
class CommitNativeBatch:
    """Marks, removals, then upserts of native hosts, applied as one change of version, if `epoch` is the current one.

    An upsert with the process token of the present member changes nothing if the record is equal, and the member's
    record if it is not; any other token under that name is a new incarnation. `reason` is kept with tombstones.
    """

    epoch: int
    namespace: str
    upserts: tuple[NativeHostRecord, ...] = ()
    removals: tuple[Removal, ...] = ()
    marks: tuple[HostMark, ...] = ()
    reason: str = ""


@frozen
class SlotSpan:
    """Consecutive slots of one actor type that share `since`."""

    actor_type: str
    first: int
    count: int
    since: int


@frozen
class ConfirmClear:
    """Every incarnation in `pending` of these slots has released them (rule S4). Slots with another `since` are left
    alone, so the epoch of who proposes it does not matter."""

    namespace: str
    spans: tuple[SlotSpan, ...]


@frozen
class Bury:
    """These removed incarnations are gone for certain (rule S5): no slot waits for them any more."""

    namespace: str
    incarnations: tuple[int, ...]


@frozen
class FenceSpan:
    """Consecutive slots of one actor type that share `since` and `fence`."""

    actor_type: str
    first: int
    count: int
    since: int
    fence: int


@frozen
class RaiseFences:
    """Give the owners of these slots a new fence after their lease ran out (rule S6), where `since` and `fence` still
    are the present ones."""

    namespace: str
    spans: tuple[FenceSpan, ...]


@frozen
class ConfirmEpoch:
    """Changes nothing; its answer says whether `epoch` was current when it committed. The quorum round of renewals."""

    epoch: int


Command = (
    OpenSession
    | TakeOffice
    | CreateNamespace
    | DeleteNamespace
    | CommitBatch
    | RepeatRound
    | RaiseGeneration
    | BeginRestore
    | RaiseFeatureLevel
    | CreateNativeNamespace
    | CommitNativeBatch
    | ConfirmClear
    | Bury
    | RaiseFences
    | ConfirmEpoch
)

KINDS: dict[str, type[Any]] = {
    "open_session": OpenSession,
    "take_office": TakeOffice,
    "create_namespace": CreateNamespace,
    "delete_namespace": DeleteNamespace,
    "commit_batch": CommitBatch,
    "repeat_round": RepeatRound,
    "raise_generation": RaiseGeneration,
    "begin_restore": BeginRestore,
    "raise_feature_level": RaiseFeatureLevel,
    "create_native_namespace": CreateNativeNamespace,
    "commit_native_batch": CommitNativeBatch,
    "confirm_clear": ConfirmClear,
    "bury": Bury,
    "raise_fences": RaiseFences,
    "confirm_epoch": ConfirmEpoch,
}
_KIND_OF = {command_class: kind for kind, command_class in KINDS.items()}


@frozen
class Request:
    """A command with the id under which it takes effect at most once, and the operator's request that it is for."""

    command: Command
    request_id: RequestId = UNPROTECTED
    operator: OperatorRequest | None = None


def encode_request(request: Request) -> bytes:
    """The log entry of `request`; equal requests give equal bytes."""
    identity = request.request_id
    operator = request.operator
    return msgspec.msgpack.encode(
        [
            ENCODING_VERSION if operator is None else OPERATOR_ENCODING_VERSION,
            _KIND_OF[type(request.command)],
            identity.session,
            identity.sequence,
            identity.acknowledged_below,
            _body(request.command),
            *(() if operator is None else (operator.request_id, operator.digest)),
        ],
        order="deterministic",
    )


def _body(command: Command) -> Command | dict[str, object]:
    if not isinstance(command, CommitNativeBatch):
        return command
    content: dict[str, object] = {each.name: getattr(command, each.name) for each in fields(CommitNativeBatch)}
    content["upserts"] = [host.to_store() for host in command.upserts]
    return content


def decode_request(entry: bytes) -> Request:
    """The request of a log entry.

    Raises:
        MalformedCommandError: not what `encode_request` writes.
        UnknownCommandError: written by a newer callboard.
    """
    operator: dict[str, Any] | None = None
    try:
        parts = msgspec.msgpack.decode(entry)
        if isinstance(parts, list) and len(parts) == 8 and parts[0] == OPERATOR_ENCODING_VERSION:
            operator = {"digest": parts.pop(), "request_id": parts.pop()}
        version, kind, session, sequence, acknowledged_below, body = parts
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise MalformedCommandError(f"log entry of {len(entry)} bytes is not a command: {error}") from None
    if version != ENCODING_VERSION and operator is None:
        raise UnknownCommandError(f"log entry has encoding version {version!r}; this replica knows {ENCODING_VERSION}")
    if kind not in KINDS:
        raise UnknownCommandError(f"log entry is a {kind!r} command, which this replica does not know")
    try:
        command = msgspec.convert(body, KINDS[kind])
        identity = RequestId(session, sequence, acknowledged_below)
        asked = None if operator is None else msgspec.convert(operator, OperatorRequest)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise MalformedCommandError(f"{kind} command: {error}") from None
    return Request(command, identity, asked)
