"""The simulated disk forgets what was not synced, and only that."""

from __future__ import annotations

import random

import pytest

from harness.raftsim.disk import SimDisk, SimulatedCrash


def _after_power_loss(disk: SimDisk, seed: int) -> SimDisk:
    disk.kill()
    disk.revive(power_lost=True, choice=random.Random(seed))
    return disk


def _durable_file(data: bytes) -> SimDisk:
    disk = SimDisk()
    disk.create("log")
    disk.write("log", 0, data)
    disk.sync("log")
    disk.sync_names()
    return disk


@pytest.mark.parametrize("seed", range(20))
def test_synced_bytes_survive_a_power_loss(seed: int) -> None:
    disk = _durable_file(b"synced")
    disk.write("log", 6, b" unsynced")
    assert _after_power_loss(disk, seed).read("log").startswith(b"synced")


def test_unsynced_bytes_are_lost_torn_or_kept() -> None:
    seen = set()
    for seed in range(200):
        disk = _durable_file(b"synced")
        disk.write("log", 6, b"ab")
        seen.add(_after_power_loss(disk, seed).read("log"))
    assert {b"synced", b"synceda", b"syncedab"} <= seen


def test_of_two_unsynced_writes_the_second_alone_may_survive() -> None:
    seen = set()
    for seed in range(200):
        disk = _durable_file(b"....")
        disk.write("log", 0, b"a")
        disk.write("log", 2, b"b")
        seen.add(_after_power_loss(disk, seed).read("log"))
    assert b"..b." in seen


def test_a_kill_keeps_everything_written() -> None:
    disk = _durable_file(b"one")
    disk.write("log", 3, b"two")
    disk.kill()
    disk.revive(power_lost=False, choice=random.Random(1))
    assert disk.read("log") == b"onetwo"


def test_what_survived_a_kill_is_still_unsynced() -> None:
    disk = _durable_file(b"one")
    disk.write("log", 3, b"two")
    disk.kill()
    disk.revive(power_lost=False, choice=random.Random(1))
    lengths = set()
    for seed in range(50):
        again = _durable_file(b"one")
        again.write("log", 3, b"two")
        again.kill()
        again.revive(power_lost=False, choice=random.Random(1))
        lengths.add(len(_after_power_loss(again, seed).read("log")))
    assert min(lengths) == 3


def test_a_name_without_a_synced_directory_may_be_lost_although_its_bytes_are_synced() -> None:
    found = set()
    for seed in range(50):
        disk = SimDisk()
        disk.create("new")
        disk.write("new", 0, b"x")
        disk.sync("new")
        found.add(_after_power_loss(disk, seed).exists("new"))
    assert found == {True, False}


def test_a_rename_never_loses_both_names() -> None:
    seen = set()
    for seed in range(100):
        disk = _durable_file(b"old")
        disk.create("log.tmp")
        disk.write("log.tmp", 0, b"new")
        disk.sync("log.tmp")
        disk.sync_names()
        disk.rename("log.tmp", "log")
        seen.add(_after_power_loss(disk, seed).read("log"))
    assert seen == {b"old", b"new"}


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_the_process_ends_at_the_chosen_write(writes: int) -> None:
    disk = _durable_file(b"")
    disk.crash_after(writes)
    for number in range(writes):
        disk.write("log", 4 * number, b"abcd")
    with pytest.raises(SimulatedCrash):
        disk.write("log", 4 * writes, b"abcd")
    with pytest.raises(SimulatedCrash):
        disk.read("log")
    disk.revive(power_lost=False, choice=random.Random(1))
    assert len(disk.read("log")) == 4 * writes + 2, "the last write is cut in the middle"


def test_a_failing_sync_reports_an_error_once() -> None:
    disk = _durable_file(b"a")
    disk.fail_next_sync = True
    with pytest.raises(OSError, match="Input/output error"):
        disk.sync("log")
    assert disk.failed
    disk.sync("log")
