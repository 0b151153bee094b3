"""What replicas say to each other: explicit records in MessagePack, checked field by field when they arrive.

The library hands Python dictionaries to its transport and would pickle them. Nothing here can name a class or a
function: a payload either is one of the records below, with values in range, or `BadMessage` is raised.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

LARGEST = 2**62
"""No index or term ever reaches this; a larger number on the wire is nonsense."""

Index: TypeAlias = Annotated[int, Meta(ge=1, le=LARGEST)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=LARGEST)]
Entry: TypeAlias = tuple[Annotated[bytes, Meta(min_length=1)], Index, Count]
"""(command with its kind in the first byte, index, term): the library's order."""


DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding of arbitrary bytes may raise (bytes that are no UTF-8 are a plain ValueError)."""


class BadMessage(ValueError):
    """Bytes that no replica of this version sends. The link they came from is not to be trusted."""


class _Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class RequestVote(_Record, frozen=True, tag="vote?"):
    """A candidate asks for a vote in `term`."""

    term: Index
    last_index: Index
    last_term: Count


class Vote(_Record, frozen=True, tag="vote!"):
    """The vote was given."""

    term: Index


class RequestPreVote(_Record, frozen=True, tag="prevote?"):
    """Would you vote for me in `term`? Nobody's term changes by asking."""

    term: Index
    last_index: Index
    last_term: Count


class PreVote(_Record, frozen=True, tag="prevote!"):
    """The answer for `asked` term; `term` is the answering replica's own."""

    asked: Index
    term: Count
    granted: bool


class Append(_Record, frozen=True, tag="append"):
    """The leader's entries that follow (`previous_index`, `previous_term`); without entries, a heartbeat."""

    sequence: Count
    term: Index
    commit_index: Count
    previous_index: Index
    previous_term: Count
    entries: list[Entry]


class SnapshotChunk(_Record, frozen=True, tag="snapshot"):
    """Bytes of the leader's snapshot at `index`, starting at `offset`. Empty and not last: a heartbeat."""

    sequence: Count
    term: Index
    index: Count
    index_term: Count
    offset: Count
    last: bool
    data: bytes


class Acknowledge(_Record, frozen=True, tag="ack"):
    """A follower's durable answer in `term` to the message that carried `sequence`."""

    sequence: Count
    term: Index
    next_index: Index
    reset: bool
    success: bool


class RequestBarrier(_Record, frozen=True, tag="barrier?"):
    """A follower asks the leader to confirm its leadership after now."""

    number: Count


class Barrier(_Record, frozen=True, tag="barrier!"):
    """Leadership was confirmed by the entry at `index`, which was proposed after the request arrived."""

    number: Count
    index: Index


Message: TypeAlias = (
    RequestVote | Vote | RequestPreVote | PreVote | Append | SnapshotChunk | Acknowledge | RequestBarrier | Barrier
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The payload of one frame."""
    return _encoder.encode(message)


def decode(payload: bytes) -> Message:
    """The record in `payload`.

    Raises:
        BadMessage: not a record, a value out of range, or entries that do not follow each other.
    """
    try:
        message: Message = _decoder.decode(payload)
    except DECODE_ERRORS as error:
        raise BadMessage(f"not a message of a replica: {error}") from error
    if isinstance(message, Append):
        _check_entries(message)
    return message


def _check_entries(message: Append) -> None:
    index, term = message.previous_index, message.previous_term
    for command, entry_index, entry_term in message.entries:
        if entry_index != index + 1 or entry_term < term or entry_term > message.term:
            raise BadMessage(
                f"entry ({entry_index}, term {entry_term}) cannot follow ({index}, term {term}) in term {message.term}"
            )
        if command[0] > LAST_KIND:
            raise BadMessage(f"entry {entry_index} has the unknown kind {command[0]}")
        index, term = entry_index, entry_term


KIND_COMMAND = b"\x00"
"""First byte of an entry that the state machine applies; the library's own number."""
KIND_NOTHING = b"\x01"
"""First byte of an entry without effect: a new leader's first, and barriers."""
LAST_KIND = 1
