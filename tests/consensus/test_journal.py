"""The journal: what was synced is there after a crash at any byte, torn tails are cut, damage is refused."""

from __future__ import annotations

import random

import pytest

from callboard.consensus.pysyncobj_engine import journal as journals
from callboard.consensus.pysyncobj_engine.journal import JOURNAL_FILE, Base, Journal, JournalCorrupt, LogEntry
from tests.consensus.memory_disk import MemoryDisk

State = tuple[list[LogEntry], int, str | None]


def state_of(journal: Journal) -> State:
    return journal[:], journal.getCurrentTerm(), journal.getVotedForNodeId()


def written() -> tuple[MemoryDisk, dict[int, State]]:
    """A journal with all kinds of changes, and what it held at each length at which it had been synced."""
    disk = MemoryDisk()
    journal = Journal.create(disk, "d1")
    states = {len(disk.files[JOURNAL_FILE]): state_of(journal)}

    def sync() -> None:
        journal.sync()
        states[len(disk.files[JOURNAL_FILE])] = state_of(journal)

    journal.setCurrentTerm(1, "r1")
    sync()
    for index in range(2, 8):
        journal.add(b"\x00" + b"command %d" % index, index, 1)
    journal.setRaftCommitIndex(5)
    sync()
    journal.deleteEntriesFrom(5)
    journal.add(b"\x01", 6, 2)
    journal.setCurrentTerm(2, None)
    sync()
    journal.add(b"\x00" * 700, 7, 2)
    sync()
    journal.deleteEntriesFrom(6)
    sync()
    return disk, states


def test_what_was_synced_is_there_again() -> None:
    disk, states = written()
    journal = Journal.open(disk, "d1")
    assert state_of(journal) == states[len(disk.files[JOURNAL_FILE])]
    assert journal.getRaftCommitIndex() == 5
    journal.add(b"\x00more", 7, 3)
    journal.sync()
    assert Journal.open(disk, "d1")[-1] == (b"\x00more", 7, 3)


def test_every_prefix_holds_the_last_synced_state() -> None:
    disk, states = written()
    data = disk.files[JOURNAL_FILE]
    first = min(states)
    for end in range(first, len(data) + 1):
        cut = MemoryDisk({JOURNAL_FILE: data[:end]})
        journal = Journal.open(cut, "d1")
        assert state_of(journal) == states[max(length for length in states if length <= end)]
        # The torn tail is gone: what is written next follows the last good frame.
        journal.add(b"\x00next", journal.last_index + 1, 9)
        journal.sync()
        assert Journal.open(cut, "d1")[-1][0] == b"\x00next"


def test_a_prefix_of_the_first_frame_is_refused_because_that_is_written_atomically() -> None:
    disk, states = written()
    data = disk.files[JOURNAL_FILE]
    for end in range(min(states)):
        with pytest.raises(JournalCorrupt):
            Journal.open(MemoryDisk({JOURNAL_FILE: data[:end]}), "d1")


def test_unwritten_sectors_of_the_last_frame_are_a_torn_tail() -> None:
    disk, states = written()
    lengths = sorted(states)
    whole = disk.files[JOURNAL_FILE][: lengths[-2]]
    before = lengths[-3]
    for sector in range(before // 512, len(whole) // 512 + 1):
        start, end = max(before, sector * 512), min(len(whole), sector * 512 + 512)
        if start >= end:
            continue
        torn = MemoryDisk({JOURNAL_FILE: whole[:start] + bytes(end - start) + whole[end:]})
        assert state_of(Journal.open(torn, "d1")) == states[before]


def test_every_flipped_bit_is_noticed() -> None:
    disk, _ = written()
    data = disk.files[JOURNAL_FILE]
    generator = random.Random(1)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << generator.randrange(8)
        with pytest.raises(JournalCorrupt):
            Journal.open(MemoryDisk({JOURNAL_FILE: bytes(damaged)}), "d1")


def test_without_checksums_flipped_bits_go_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: it does when checksums are not computed."""

    class NoChecksum:
        @staticmethod
        def crc32(_data: bytes) -> int:
            return 0

    monkeypatch.setattr(journals, "zlib", NoChecksum)
    with pytest.raises(pytest.fail.Exception):
        test_every_flipped_bit_is_noticed()


@pytest.mark.parametrize("removed", [0, 1, 2, 3])
def test_a_missing_frame_is_refused(removed: int) -> None:
    disk, states = written()
    data = disk.files[JOURNAL_FILE]
    cuts = [0, *sorted(states)]
    without = data[: cuts[removed]] + data[cuts[removed + 1] :]
    with pytest.raises(JournalCorrupt):
        Journal.open(MemoryDisk({JOURNAL_FILE: without}), "d1")


def test_a_journal_of_another_directory_is_refused() -> None:
    disk, _ = written()
    with pytest.raises(JournalCorrupt, match="belongs to directory d1"):
        Journal.open(disk, "d2")


def test_a_missing_journal_is_refused() -> None:
    with pytest.raises(JournalCorrupt, match="missing"):
        Journal.open(MemoryDisk(), "d1")


def test_rebase_keeps_the_tail_and_names_the_snapshot() -> None:
    disk = MemoryDisk()
    journal = Journal.create(disk, "d1")
    for index in range(2, 30):
        journal.add(b"\x00%d" % index, index, 1)
    journal.setRaftCommitIndex(25)
    journal.rebase(Base(20, 1), keep_from=15)
    assert not journal.dirty
    for opened in (journal, Journal.open(disk, "d1")):
        assert (opened.base, opened.first_index, opened.last_index) == (Base(20, 1), 15, 29)
        assert opened.entry_at(16) == (b"\x0016", 16, 1)
        assert opened.term_at(14) is None
        assert opened.term_at(30) is None
        assert opened.entry_bytes == sum(len(entry[0]) for entry in opened[:])


def test_install_replaces_everything() -> None:
    disk = MemoryDisk()
    journal = Journal.create(disk, "d1")
    for index in range(2, 30):
        journal.add(b"\x00", index, 1)
    journal.setCurrentTerm(7, "r2")
    journal.install(Base(100, 6), [(b"\x01", 99, 6), (b"\x00x", 100, 6)])
    opened = Journal.open(disk, "d1")
    assert (opened.first_index, opened.last_index, opened.getRaftCommitIndex()) == (99, 100, 100)
    assert (opened.getCurrentTerm(), opened.getVotedForNodeId()) == (7, "r2")


def test_nothing_is_written_without_a_change() -> None:
    disk = MemoryDisk()
    journal = Journal.create(disk, "d1")
    before = disk.files[JOURNAL_FILE]
    journal.setRaftCommitIndex(1)
    journal.sync()
    assert disk.files[JOURNAL_FILE] == before


def test_a_vote_is_told_once_it_is_durable() -> None:
    disk = MemoryDisk()
    journal = Journal.create(disk, "d1")
    seen = [journal.durable_vote]
    journal.setCurrentTerm(3, "r2")
    seen.append(journal.durable_vote)
    journal.sync()
    assert [*seen, journal.durable_vote] == [(0, None), None, (3, "r2")]
