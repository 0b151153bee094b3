"""What a leader keeps of earlier tables, and which way it leads a host from the table that it has to the newest."""

from __future__ import annotations

import pytest
from attrs import evolve

from callboard.core.slot_records import NativeNamespace, SlotTable
from callboard.core.table_delta import TableView, diff, view_of
from callboard.core.table_feed import TableFeed
from callboard.core.versions import Policy, Version

SLOTS = 4
FIRST = NativeNamespace(Policy.EVENTUAL, Version(0, 1), slot_bits=2)


def namespace(version: int) -> NativeNamespace:
    table = SlotTable((version,) * SLOTS, (version,) * SLOTS)
    return evolve(FIRST, version=Version(0, version), tables={"cart": table})


def fed(newest: int, *, steps_kept: int) -> tuple[TableFeed, dict[int, TableView]]:
    """A feed that has followed versions 1 to `newest`, and the tables of each."""
    views = {version: view_of(namespace(version)) for version in range(1, newest + 1)}
    feed = TableFeed(steps_kept, views[1])
    for version in range(2, newest + 1):
        feed.follow(namespace(version))
    return feed, views


def test_the_way_to_the_newest_table_is_short_if_its_steps_are_kept() -> None:
    feed, views = fed(5, steps_kept=3)
    assert feed.path(5) == []
    assert feed.path(5, views[5].digest) == []
    assert feed.path(4) == [(4, 5)]
    assert feed.path(2) == feed.path(2, views[2].digest) == [(2, 3), (3, 4), (4, 5)]
    assert feed.path(1) == [(0, 5)], "one step is missing"
    assert feed.path(0) == [(0, 5)]
    assert feed.path(6) == [(0, 5)], "a version of another life of the cluster"


def test_another_table_of_the_same_version_is_replaced() -> None:
    feed, views = fed(4, steps_kept=3)
    assert feed.path(4, b"another") == [(0, 4)]
    assert feed.path(2, b"another") == [(0, 4)]
    assert feed.path(2, views[3].digest) == [(0, 4)]


def test_every_pair_of_a_path_is_at_hand_and_no_other() -> None:
    feed, views = fed(4, steps_kept=2)
    assert feed.delta(2, 3) == diff(views[2], views[3])
    assert feed.delta(3, 4) == diff(views[3], views[4])
    assert feed.delta(0, 4) == diff(None, views[4])
    for pair in ((1, 2), (0, 3), (2, 4), (1, 4), (4, 5)):
        with pytest.raises(KeyError, match=f"no delta from version {pair[0]} to {pair[1]}; newest is 4"):
            feed.delta(*pair)


def test_a_snapshot_is_of_the_newest_table() -> None:
    feed, _ = fed(2, steps_kept=2)
    assert feed.delta(0, 2).to_version == 2
    feed.follow(namespace(3))
    assert feed.delta(0, 3) == diff(None, view_of(namespace(3)))
