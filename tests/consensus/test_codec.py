"""Messages between replicas: a closed set of records, and nothing else gets through."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.consensus.pysyncobj_engine import codec

MESSAGES: list[codec.Message] = [
    codec.RequestVote(2, 7, 1),
    codec.Vote(2),
    codec.RequestPreVote(3, 7, 1),
    codec.PreVote(3, 2, granted=True),
    codec.Append(9, 3, 6, 7, 1, [(b"\x00set", 8, 2), (b"\x01", 9, 3)]),
    codec.SnapshotChunk(4, 3, 100, 2, 0, last=False, data=b"abc"),
    codec.Acknowledge(4, 3, 8, reset=True, success=False),
    codec.RequestBarrier(1),
    codec.Barrier(1, 12),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(message: codec.Message) -> None:
    assert codec.decode(codec.encode(message)) == message


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_are_a_message(payload: bytes) -> None:
    try:
        message = codec.decode(payload)
    except codec.BadMessage:
        return
    assert codec.decode(codec.encode(message)) == message


def test_changed_messages_are_refused_or_are_a_message() -> None:
    generator = random.Random(7)
    for _ in range(3000):
        payload = bytearray(codec.encode(generator.choice(MESSAGES)))
        for _ in range(generator.randrange(1, 4)):
            payload[generator.randrange(len(payload))] = generator.randrange(256)
        with contextlib.suppress(codec.BadMessage):
            codec.decode(bytes(payload))


class _Evil:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_code_is_only_bytes(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "executed"
    with pytest.raises(codec.BadMessage):
        codec.decode(pickle.dumps(_Evil(target), protocol))
    assert not target.exists()


@pytest.mark.parametrize(
    "value",
    [
        ["append", 9, 3, 6, 7, 1, [[b"\x00a", 9, 2]]],  # a hole
        ["append", 9, 3, 6, 7, 1, [[b"\x00a", 8, 4]]],  # an entry of a later term
        ["append", 9, 3, 6, 7, 2, [[b"\x00a", 8, 1]]],  # terms go down
        ["append", 9, 3, 6, 7, 1, [[b"", 8, 2]]],  # no kind
        ["append", 9, 3, 6, 7, 1, [[b"\x02a", 8, 2]]],  # a change of membership
        ["append", 9, 3, 6, 7, 1, [[b"\x03a", 8, 2]]],  # a change of code version
        ["append", 9, 0, 6, 7, 1, []],  # no such term
        ["append", 9, 2**63, 6, 7, 1, []],
        ["append", 9, 3, -1, 7, 1, []],
        ["append", 9, 3, 6, 7, 1, [], 1],
        ["append", 9, 3.0, 6, 7, 1, []],
        ["ack", 4, 3, 0, True, False],
        ["ack", 4, 3, "8", True, False],
        ["timeout_now", 4],
        ["apply_command", b"x"],
        {"type": "append_entries", "term": 10**6},
        "readonly",
        None,
        [[[[[]]]]],
    ],
)
def test_nonsense_is_refused(value: object) -> None:
    with pytest.raises(codec.BadMessage):
        codec.decode(msgspec.msgpack.encode(value))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(codec.BadMessage):
        codec.decode(b"\x91" * 100_000)
