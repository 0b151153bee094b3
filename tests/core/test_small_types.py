"""Durations, versions and snapshots: what operators write and read, and what may never change on the wire."""

from __future__ import annotations

import hashlib

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from callboard.core import slot_snapshot, snapshot
from callboard.core.durations import format_duration_ms, parse_duration_ms
from callboard.core.records import Answer, AnswerCode, ReplicatedState, Session
from callboard.core.slot_assignment import empty_table
from callboard.core.slot_records import (
    HandoffSettings,
    HostMark,
    NativeNamespace,
)
from callboard.core.snapshot import MAGIC, SnapshotError, decode_state, encode_state
from callboard.core.versions import MAX_COUNTER, MAX_GENERATION, Policy, Version

EXAMPLES = {
    "0s": 0,
    "1ms": 1,
    "999ms": 999,
    "1s": 1000,
    "1.001s": 1001,
    "1.5s": 1500,
    "1.01s": 1010,
    "59.999s": 59_999,
    "1m0s": 60_000,
    "1m30s": 90_000,
    "59m59s": 3_599_000,
    "1h0m0s": 3_600_000,
    "1h1m1.1s": 3_661_100,
    "25h0m0s": 90_000_000,
}


@pytest.mark.parametrize(("text", "duration_ms"), EXAMPLES.items())
def test_durations_as_go_prints_them(text: str, duration_ms: int) -> None:
    assert format_duration_ms(duration_ms) == text
    assert parse_duration_ms(text) == duration_ms


@given(st.integers(-(10**12), 10**12))
def test_every_duration_can_be_read_again(duration_ms: int) -> None:
    text = format_duration_ms(duration_ms)
    assert parse_duration_ms(text.removeprefix("-")) == abs(duration_ms)
    assert text.startswith("-") is (duration_ms < 0)


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("0", 0),
        ("1.s", 1000),
        (".5s", 500),
        ("1500us", None),
        ("2000us", 2),
        ("2000µs", 2),
        ("3000000ns", 3),
        ("2h1ms", 7200001),
    ],
)
def test_other_ways_to_write_durations(text: str, duration_ms: int | None) -> None:
    if duration_ms is None:
        with pytest.raises(ValueError, match=f"'{text}' is not a whole number of milliseconds"):
            parse_duration_ms(text)
    else:
        assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize("text", ["", "1", "s", "-1s", "1s ", " 1s", "1s2", "1d", "1s-1s", "1.2.3s", "00", "1m x 1s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as"):
        parse_duration_ms(text)


def test_versions_on_the_wire() -> None:
    assert Version(0, 1).wire == 1
    assert Version(1, 0).wire == 1 << 32
    assert Version(MAX_GENERATION, MAX_COUNTER).wire == (1 << 64) - 1
    assert Version.from_wire((3 << 32) + 7) == Version(3, 7)
    assert Version(3, 7).next() == Version(3, 8)
    assert str(Version(3, 7)) == "3.7"
    for number in (-1, 1 << 64):
        with pytest.raises(ValueError, match="must be"):
            Version.from_wire(number)
    with pytest.raises(ValueError, match="must be"):
        Version(0, MAX_COUNTER).next()


@given(*(st.builds(Version, st.integers(0, 3), st.integers(0, 3)) for _ in range(2)))
def test_the_wire_keeps_the_order(one: Version, other: Version) -> None:
    assert (one < other) == (one.wire < other.wire)
    assert Version.from_wire(one.wire) == one


# ---- snapshots


def test_a_snapshot_begins_with_magic_format_and_checksum() -> None:
    written = encode_state(ReplicatedState(epoch=3))
    assert written.startswith(b"callboard-state\n\x01")
    body = written[len(MAGIC) + 17 :]
    assert written[len(MAGIC) + 1 : len(MAGIC) + 17] == hashlib.blake2b(body, digest_size=16).digest()
    assert snapshot.digest(ReplicatedState(epoch=3)) == hashlib.blake2b(body, digest_size=16).hexdigest()
    assert decode_state(written) == ReplicatedState(epoch=3)


def test_equal_states_have_one_digest_whatever_the_order_in_memory() -> None:
    answers = {number: Answer(AnswerCode.OK, number) for number in (1, 2)}
    states = [
        ReplicatedState(sessions={7: Session(1, 1, dict(items))})
        for items in (answers.items(), [*answers.items()][::-1])
    ]
    assert states[0] == states[1]
    assert snapshot.digest(states[0]) == snapshot.digest(states[1])


def test_a_snapshot_with_tables_of_another_size_holds_no_state() -> None:
    namespace = NativeNamespace(Policy.EVENTUAL, Version(), 3, tables={"T": empty_table(8)})
    stored = slot_snapshot.stored(namespace)
    assert slot_snapshot.restored(stored) == namespace
    for bits in (2, 4):
        with pytest.raises(ValueError, match=f"a table of 8 slots in a namespace of {1 << bits}"):
            slot_snapshot.restored(evolve(stored, slot_bits=bits))


def test_what_is_no_snapshot() -> None:
    good = encode_state(ReplicatedState())
    for bad in (b"", MAGIC, good[: len(MAGIC) + 16], b"x" + good):
        with pytest.raises(SnapshotError, match="not a callboard snapshot"):
            decode_state(bad)
    for bad in (good[:-1], good + b"\0", good[: len(MAGIC) + 17]):
        with pytest.raises(SnapshotError, match=f"snapshot of {len(bad)} bytes is damaged"):
            decode_state(bad)
    other_format = good[: len(MAGIC)] + b"\x02" + good[len(MAGIC) + 1 :]
    with pytest.raises(SnapshotError, match="format version 2; this callboard knows 1"):
        decode_state(other_format)


@pytest.mark.parametrize("body", [b"", b"\x93\x01\x02\x03", b"\x81\xa5epoch\xa1x", b"\xc1"])
def test_a_snapshot_of_nonsense_with_the_right_checksum(body: bytes) -> None:
    checksum = hashlib.blake2b(body, digest_size=16).digest()
    with pytest.raises(SnapshotError, match="snapshot holds no state"):
        decode_state(MAGIC + b"\x01" + checksum + body)


# ---- settings and marks


def test_settings_that_cannot_work_say_why() -> None:
    good = HandoffSettings(lease_ms=1001, drain_ms=500, margin_ms=300, tick_ms=100, failure_timeout_ms=1023)
    assert good.wait_ms() == 1023
    assert good.problem() is None
    assert "lease 1000 ms is not above drain 500 + margin 300 + 2 x tick 100 = 1000" in (
        evolve(good, lease_ms=1000).problem() or ""
    )
    assert "failure timeout 1022 ms is below the lease wait of 1023" in (
        evolve(good, failure_timeout_ms=1022).problem() or ""
    )
    eventual = HandoffSettings(tick_ms=100, failure_timeout_ms=201)
    assert eventual.problem(Policy.EVENTUAL) is None
    assert "200 ms is not above two ticks of 100" in (
        evolve(eventual, failure_timeout_ms=200).problem(Policy.EVENTUAL) or ""
    )
    isolated = evolve(eventual, drain_ms=30, margin_ms=20, max_isolation_ms=251)
    assert isolated.creation_problem(Policy.EVENTUAL) is None
    assert "max isolation 250 ms is not above drain 30 + margin 20 + 2 x tick 100 = 250" in (
        evolve(isolated, max_isolation_ms=250).creation_problem(Policy.EVENTUAL) or ""
    )
    assert evolve(isolated, max_isolation_ms=0).creation_problem(Policy.EVENTUAL) is None
    assert evolve(good, max_isolation_ms=1).creation_problem(Policy.EXCLUSIVE) is None


def test_marks_that_say_something() -> None:
    assert HostMark("h").is_default
    for mark in (HostMark("h", cordoned=True), HostMark("h", draining=True), HostMark("h", weight=100)):
        assert not mark.is_default
