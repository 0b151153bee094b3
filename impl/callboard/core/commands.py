"""The commands of the replicated state machine and their encoding.

A log entry is the msgpack array [ENCODING_VERSION, kind, session, sequence, acknowledged_below, body]; the body
is a map of the command's fields. Unknown fields are ignored and missing ones take their defaults, so that a
newer replica may add fields within one feature level only if old replicas may ignore them.
"""

from __future__ import annotations

from typing import Any

import msgspec
from attrs import field, frozen
from attrs.validators import ge

from callboard.core.records import HostRecord, Policy

ENCODING_VERSION = 1

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
class OpenSession:
    """Issue a session number. Opening is also what expires sessions: the oldest, and those long unused."""


@frozen
class TakeOffice:
    """A newly elected leader starts its epoch. `nonce` makes a repetition by the same leader harmless."""

    replica_id: str
    nonce: str


@frozen
class CreateNamespace:
    """Create a namespace with its policy. The first committed policy wins."""

    namespace: str
    policy: Policy


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
}
_KIND_OF = {command_class: kind for kind, command_class in KINDS.items()}


@frozen
class Request:
    """A command with the id under which it takes effect at most once."""

    command: Command
    request_id: RequestId = UNPROTECTED


def encode_request(request: Request) -> bytes:
    """The log entry of `request`; equal requests give equal bytes."""
    identity = request.request_id
    return msgspec.msgpack.encode(
        [
            ENCODING_VERSION,
            _KIND_OF[type(request.command)],
            identity.session,
            identity.sequence,
            identity.acknowledged_below,
            request.command,
        ],
        order="deterministic",
    )


def decode_request(entry: bytes) -> Request:
    """The request of a log entry.

    Raises:
        MalformedCommandError: not what `encode_request` writes.
        UnknownCommandError: written by a newer callboard.
    """
    try:
        version, kind, session, sequence, acknowledged_below, body = msgspec.msgpack.decode(entry)
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise MalformedCommandError(f"log entry of {len(entry)} bytes is not a command: {error}") from None
    if version != ENCODING_VERSION:
        raise UnknownCommandError(f"log entry has encoding version {version!r}; this replica knows {ENCODING_VERSION}")
    if kind not in KINDS:
        raise UnknownCommandError(f"log entry is a {kind!r} command, which this replica does not know")
    try:
        command = msgspec.convert(body, KINDS[kind])
        identity = RequestId(session, sequence, acknowledged_below)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise MalformedCommandError(f"{kind} command: {error}") from None
    return Request(command, identity)
