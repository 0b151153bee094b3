"""The encoding of the whole replicated state, and its digest.

A snapshot is MAGIC, one byte of format version, a BLAKE2b-128 checksum of the rest, and the state as msgpack with
sorted keys. Equal states give equal bytes on every replica and Python version, so `digest` compares replicas
(`ReplicaAgreement`).
"""

from __future__ import annotations

import hashlib

import msgspec
from attrs import Factory, evolve, fields, frozen

from callboard.core.membership import require_known_level
from callboard.core.records import ReplicatedState
from callboard.core.slot_snapshot import StoredNamespace, restored, stored, to_store

MAGIC = b"callboard-state\n"
FORMAT_VERSION = 1
CHECKSUM_BYTES = 16


class SnapshotError(ValueError):
    """The bytes are no snapshot of a state that this callboard can read; the message is one line."""


def encode_state(state: ReplicatedState) -> bytes:
    """The snapshot of `state`."""
    body = _canonical_bytes(state)
    return MAGIC + bytes([FORMAT_VERSION]) + _checksum(body) + body


def decode_state(snapshot: bytes) -> ReplicatedState:
    """The state of a snapshot.

    Raises:
        SnapshotError: not a snapshot, damaged, or of an unknown format version.
        UnknownFeatureLevelError: written at a feature level that this callboard does not know.
    """
    header_bytes = len(MAGIC) + 1 + CHECKSUM_BYTES
    if not snapshot.startswith(MAGIC) or len(snapshot) < header_bytes:
        raise SnapshotError("not a callboard snapshot: it does not start with the magic line")
    version = snapshot[len(MAGIC)]
    if version != FORMAT_VERSION:
        raise SnapshotError(f"snapshot has format version {version}; this callboard knows {FORMAT_VERSION}")
    checksum, body = snapshot[len(MAGIC) + 1 : header_bytes], snapshot[header_bytes:]
    if _checksum(body) != checksum:
        raise SnapshotError(f"snapshot of {len(snapshot)} bytes is damaged: its checksum does not match")
    level = _feature_level(body)
    require_known_level(level)
    try:
        native = msgspec.msgpack.decode(body, type=_NativePart).native
        rest = msgspec.msgpack.decode(body, type=dict[str, msgspec.Raw])
        rest.pop("native", None)
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(rest), type=ReplicatedState)
        return evolve(state, native={name: restored(kept) for name, kept in native.items()})
    except (msgspec.DecodeError, ValueError, IndexError) as error:
        raise SnapshotError(f"snapshot holds no state: {error}") from None


def digest(state: ReplicatedState) -> str:
    """A hexadecimal name of the state's content: equal exactly for equal states."""
    return _checksum(_canonical_bytes(state)).hex()


def _canonical_bytes(state: ReplicatedState) -> bytes:
    """Every map sorted by key, every record's fields in the order of their definition."""
    sessions = {
        number: evolve(session, answers=dict(sorted(session.answers.items())))
        for number, session in sorted(state.sessions.items())
    }
    namespaces = {
        name: evolve(namespace, members=dict(sorted(namespace.members.items())))
        for name, namespace in sorted(state.namespaces.items())
    }
    changed = {
        "sessions": sessions,
        "namespaces": namespaces,
        "deleted_namespaces": dict(sorted(state.deleted_namespaces.items())),
        "native": {name: to_store(stored(namespace)) for name, namespace in sorted(state.native.items())},
        "deleted_native": dict(sorted(state.deleted_native.items())),
    }
    names = sorted(field.name for field in fields(ReplicatedState))
    content = {name: changed[name] if name in changed else getattr(state, name) for name in names}
    for name in ("native", "deleted_native", "operator_answers"):  # so that states of earlier levels keep their bytes
        if not content[name]:
            del content[name]
    return msgspec.msgpack.encode(content)


@frozen
class _NativePart:
    """What of a snapshot is stored in another form than it has in memory."""

    native: dict[str, StoredNamespace] = Factory(dict)


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=CHECKSUM_BYTES).digest()


def _feature_level(body: bytes) -> int:
    try:
        content = msgspec.msgpack.decode(body, type=dict[str, msgspec.Raw])
        return msgspec.msgpack.decode(content.get("feature_level", b"\x01"), type=int)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"snapshot holds no state: {error}") from None
