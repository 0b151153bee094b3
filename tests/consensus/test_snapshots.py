"""Snapshots: whole or refused, on disk and in chunks."""

from __future__ import annotations

import pytest

from callboard.consensus.interface import EngineStartError
from callboard.consensus.pysyncobj_engine import snapshots
from callboard.consensus.pysyncobj_engine.journal import Base
from callboard.consensus.pysyncobj_engine.snapshots import (
    Snapshot,
    SnapshotCorrupt,
    SnapshotReceiver,
    SnapshotSender,
    SnapshotStore,
)
from tests.consensus.memory_disk import MemoryDisk

SNAPSHOT = Snapshot((b"\x01", 41, 3), (b"\x00last", 42, 4), b"the state" * 20)
BASE = Base(42, 4)


def test_round_trip() -> None:
    assert snapshots.decode(snapshots.encode(SNAPSHOT)) == SNAPSHOT
    assert SNAPSHOT.base == BASE


def test_every_prefix_and_every_flipped_bit_is_refused() -> None:
    data = snapshots.encode(SNAPSHOT)
    for end in range(len(data)):
        with pytest.raises(SnapshotCorrupt):
            snapshots.decode(data[:end])
        for bit in range(8):
            damaged = bytearray(data)
            damaged[end] ^= 1 << bit
            with pytest.raises(SnapshotCorrupt):
                snapshots.decode(bytes(damaged))


def test_a_missing_damaged_or_wrong_file_stops_the_start() -> None:
    disk = MemoryDisk()
    store = SnapshotStore(disk)
    with pytest.raises(EngineStartError, match="missing"):
        store.load(BASE)
    store.save(BASE, snapshots.encode(SNAPSHOT))
    assert store.load(BASE) == SNAPSHOT
    disk.files["snapshot-42-4"] = disk.files["snapshot-42-4"][:-1]
    with pytest.raises(EngineStartError, match="damaged"):
        store.load(BASE)
    store.save(Base(43, 4), snapshots.encode(SNAPSHOT))
    with pytest.raises(EngineStartError, match="another snapshot"):
        store.load(Base(43, 4))


def test_old_snapshots_are_removed() -> None:
    disk = MemoryDisk({"journal": b"", "snapshot-1-1": b"", "snapshot-42-4": b""})
    SnapshotStore(disk).remove_others(BASE)
    assert set(disk.files) == {"journal", "snapshot-42-4"}


def sent(sender: SnapshotSender, node: str) -> list[snapshots.OutgoingChunk]:
    chunks = []
    while True:
        chunk, _, last = sender.getTransmissionData(node)
        chunks.append(chunk)
        if last:
            return chunks


def test_chunks_arrive_as_the_file() -> None:
    store = SnapshotStore(MemoryDisk())
    data = snapshots.encode(SNAPSHOT)
    store.save(BASE, data)
    sender = SnapshotSender(store, 17, lambda _node: False)
    sender.use(BASE)
    receiver = SnapshotReceiver(limit_bytes=10_000)
    for chunk in sent(sender, "b"):
        assert receiver.add("a", chunk.base, chunk.offset, chunk.data)
    assert receiver.finish() == data
    assert b"".join(chunk.data for chunk in sent(sender, "b")) == data


def test_congestion_pauses_without_losing_the_place() -> None:
    store = SnapshotStore(MemoryDisk())
    store.save(BASE, snapshots.encode(SNAPSHOT))
    busy: set[object] = set()
    sender = SnapshotSender(store, 17, lambda node: node in busy)
    sender.use(BASE)
    first = sender.getTransmissionData("b")[0]
    busy.add("b")
    pause, _, last = sender.getTransmissionData("b")
    assert (pause.data, last) == (b"", False)
    busy.clear()
    assert sender.getTransmissionData("b")[0].offset == len(first.data)


def test_chunks_out_of_order_of_another_sender_or_too_many_are_dropped() -> None:
    receiver = SnapshotReceiver(limit_bytes=100)
    assert receiver.add("a", BASE, 0, b"x" * 10)
    assert not receiver.add("a", BASE, 20, b"x")
    assert receiver.add("a", BASE, 0, b"x" * 10)
    assert not receiver.add("c", BASE, 10, b"x")
    assert receiver.add("a", BASE, 0, b"x" * 10)
    assert not receiver.add("a", Base(50, 4), 10, b"x")
    assert not receiver.add("a", BASE, 0, b"x" * 101)
