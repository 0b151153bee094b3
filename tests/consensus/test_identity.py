"""Directories: who may use them, and whom their owner talks to."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from callboard.consensus.interface import EngineStartError
from callboard.consensus.pysyncobj_engine import identity as identities
from callboard.consensus.pysyncobj_engine.identity import (
    IDENTITY_FILE,
    Directory,
    Hello,
    PeerRefused,
    open_real_directory,
)
from callboard.consensus.pysyncobj_engine.journal import JOURNAL_FILE, Journal
from tests.consensus.memory_disk import FailingDisk, MemoryDisk

IDS = ("a", "b", "c")


def fresh(replica_id: str, disk: MemoryDisk | None = None) -> Directory:
    return Directory.open(disk or MemoryDisk(), replica_id, tuple(other for other in IDS if other != replica_id))


def introduce(one: Directory, other: Directory) -> tuple[bool, bool]:
    """Both hellos cross, as on a link."""
    first, second = one.hello(), other.hello()
    return other.meet(first), one.meet(second)


def formed_group() -> tuple[dict[str, MemoryDisk], dict[str, Directory]]:
    disks = {replica: MemoryDisk() for replica in IDS}
    group = {replica: fresh(replica, disks[replica]) for replica in IDS}
    for one in IDS:
        for other in IDS:
            if one < other:
                assert introduce(group[one], group[other]) == (False, False)
    return disks, group


def test_a_group_is_formed_when_everyone_met_everyone() -> None:
    disks, group = formed_group()
    assert len({directory.identity.cluster_id for directory in group.values()}) == 1
    assert all(directory.identity.formed for directory in group.values())
    assert all(JOURNAL_FILE in disk.files for disk in disks.values())
    assert introduce(group["a"], group["b"]) == (True, True)


def test_two_of_three_are_not_a_group_yet() -> None:
    a, b = fresh("a"), fresh("b")
    introduce(a, b)
    assert introduce(a, b) == (False, False)
    assert not a.identity.formed


def test_a_single_replica_is_formed_at_once() -> None:
    disk = MemoryDisk()
    assert Directory.open(disk, "a", ()).identity.formed
    assert JOURNAL_FILE in disk.files


def test_what_was_learnt_survives_a_restart() -> None:
    disks, group = formed_group()
    assert fresh("a", disks["a"]).identity == group["a"].identity


def test_a_peer_that_comes_back_empty_is_refused() -> None:
    _, group = formed_group()
    empty = fresh("c")
    with pytest.raises(PeerRefused, match="its disk was lost or exchanged"):
        group["a"].meet(empty.hello())
    # Nor does the empty one ever form a group with those that remember its predecessor.
    empty.meet(group["a"].hello())
    empty.meet(group["b"].hello())
    with pytest.raises(PeerRefused):
        group["b"].meet(empty.hello())


def test_a_late_third_cannot_form_a_second_group_with_one_that_knows_nothing() -> None:
    """b and c formed with a's directory; a loses it; a and an empty c together are a majority, and must not start."""
    _, group = formed_group()
    empty_a, empty_c = fresh("a"), fresh("c")
    introduce(empty_a, empty_c)
    assert not empty_a.identity.formed
    with pytest.raises(PeerRefused):
        group["b"].meet(empty_a.hello())
    with pytest.raises(PeerRefused):
        group["b"].meet(empty_c.hello())


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("protocol", "http", "not ours"),
        ("version", 2, "not ours"),
        ("replica_id", "d", "not a peer"),
        ("replica_id", "a", "not a peer"),
        ("replicas", ["a", "b", "d"], "knows the group"),
        ("peer_set", 2, "has peer set 2"),
        ("cluster_id", "0" * 32, "is not"),
        ("membership", "0" * 32, "disagrees"),
        ("directory_id", "0" * 32, "lost or exchanged"),
    ],
)
def test_strangers_are_refused(field: str, value: object, reason: str) -> None:
    _, group = formed_group()
    hello: Hello = msgspec.structs.replace(group["b"].hello(), **{field: value})
    with pytest.raises(PeerRefused, match=reason):
        group["a"].meet(hello)
    before = group["a"].identity
    assert group["a"].meet(group["b"].hello())
    assert group["a"].identity == before


def test_directories_of_others_are_refused() -> None:
    disks, _ = formed_group()
    with pytest.raises(EngineStartError, match="belongs to replica a, not to b"):
        Directory.open(disks["a"], "b", ("a", "c"))
    with pytest.raises(EngineStartError, match="belongs to the group a, b, c, not to a, b, d"):
        Directory.open(disks["a"], "a", ("b", "d"))


def test_a_directory_without_identity_is_only_new_if_it_is_empty() -> None:
    disks, _ = formed_group()
    del disks["a"].files[IDENTITY_FILE]
    with pytest.raises(EngineStartError, match=f"but no file {IDENTITY_FILE}"):
        fresh("a", disks["a"])
    with pytest.raises(EngineStartError, match="member"):
        fresh("a", MemoryDisk({"member": b""}))
    assert not fresh("a", MemoryDisk({"lock": b"", "lost+found": b"", "identity.tmp": b"torn"})).identity.formed


def test_an_identity_that_forgot_the_group_is_refused_next_to_a_used_journal() -> None:
    disk = MemoryDisk()
    directory = fresh("a", disk)
    journal = Journal.create(disk, directory.identity.directory_id)
    fresh("a", disk)
    journal.add(b"\x00x", 2, 1)
    journal.sync()
    with pytest.raises(EngineStartError, match="never met"):
        fresh("a", disk)


def test_every_flipped_bit_of_the_identity_is_noticed() -> None:
    disks, _ = formed_group()
    data = disks["a"].files[IDENTITY_FILE]
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(EngineStartError):
            identities.decode(bytes(damaged))


def test_other_formats_are_refused() -> None:
    later = msgspec.structs.replace(fresh("a").identity, version=99)
    with pytest.raises(EngineStartError, match="format 99"):
        identities.decode(identities.encode(later))


class Crash(BaseException):
    """The process ends here."""


def test_a_crash_at_any_step_of_forming_is_survived() -> None:
    step = 0
    while True:
        disks = {replica: MemoryDisk() for replica in IDS}
        left = [step]

        def maybe_crash(_operation: str, _name: str, left: list[int] = left) -> int | None:
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            return None

        crashed = False
        try:
            first = Directory.open(FailingDisk(disks["a"], maybe_crash), "a", ("b", "c"))
            for other in ("b", "c"):
                introduce(first, fresh(other, disks[other]))
        except Crash:
            crashed = True
        group = {replica: fresh(replica, disks[replica]) for replica in IDS}
        for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
            introduce(group[one], group[other])
        assert all(introduce(group[one], group[other]) == (True, True) for one, other in (("a", "b"), ("b", "c")))
        assert Journal.open(disks["a"], group["a"].identity.directory_id).last_index == 1
        if not crashed:
            assert step > 10
            return
        step += 1


def test_two_processes_cannot_share_a_directory(tmp_path: Path) -> None:
    _, _, lock = open_real_directory(tmp_path / "a", "a", ("b", "c"))
    with pytest.raises(EngineStartError, match="used by another process"):
        open_real_directory(tmp_path / "a", "a", ("b", "c"))
    lock.release()
    _, _, lock = open_real_directory(tmp_path / "a", "a", ("b", "c"))
    lock.release()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineStartError, match="file/a cannot be created"):
        open_real_directory(tmp_path / "file" / "a", "a", ("b", "c"))
