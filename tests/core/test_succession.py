"""`MinimalMovement` of restarts: who comes under the name of somebody who goes gets that one's slots."""

from __future__ import annotations

import pytest

from callboard.core.slot_membership import NATIVE_LEVEL, SUCCESSION_LEVEL
from harness.seeded_bugs.tables import who_is_removed_has_no_successor
from tests.core.leader_driver import record
from tests.core.native_log import Log


def restarted_in_one_batch(level: int) -> tuple[list[int], list[int]]:
    """Owners by slot before and after, the newcomer written as its predecessor."""
    log = Log(level)
    log.batch(*(record(name) for name in "abcdefg"))
    before = log.namespace
    log.batch(record("b", process="p2"), removed="b")
    after = log.namespace
    predecessor, successor = before.members["b"].incarnation, after.members["b"].incarnation
    assert successor != predecessor
    assert predecessor in after.tombstones
    owners = [predecessor if owner == successor else owner for owner in after.tables["cart"].owners]
    return list(before.tables["cart"].owners), owners


def test_a_host_whose_removal_and_return_are_in_one_batch_gets_its_slots_back() -> None:
    before, after = restarted_in_one_batch(SUCCESSION_LEVEL)
    assert after == before


def test_below_its_feature_level_they_are_dealt_anew_as_older_replicas_do_it() -> None:
    before, after = restarted_in_one_batch(NATIVE_LEVEL)
    assert after != before


def test_the_slots_wait_for_the_predecessor_all_the_same() -> None:
    log = Log(SUCCESSION_LEVEL)
    log.batch(*(record(name) for name in "ab"))
    gone = log.namespace.members["b"].incarnation
    log.batch(record("b", process="p2"), removed="b")
    table, rights = log.namespace.tables["cart"], log.namespace.rights["cart"]
    heir = log.namespace.members["b"].incarnation
    inherited = [slot for slot, owner in enumerate(table.owners) if owner == heir]
    assert inherited
    assert all(gone in rights.pending.get(slot, ()) for slot in inherited)


def test_a_name_that_stays_empty_has_no_successor() -> None:
    log = Log(SUCCESSION_LEVEL)
    log.batch(*(record(name) for name in "abc"))
    gone = log.namespace.members["b"].incarnation
    log.batch(record("d"), removed="b")
    assert gone not in log.namespace.tables["cart"].owners
    assert "b" not in log.namespace.members


def test_the_seeded_bug_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    who_is_removed_has_no_successor(monkeypatch)
    before, after = restarted_in_one_batch(SUCCESSION_LEVEL)
    assert after != before
