"""Deltas between table views: patch(v, diff(v, w)) == w, and refusal of everything that does not fit."""

from __future__ import annotations

import itertools

import pytest
from attrs import evolve
from hypothesis import assume, given
from hypothesis import strategies as st

from callboard.core.slot_records import SlotTable
from callboard.core.table_delta import (
    DeltaError,
    HostEntry,
    SlotRange,
    TableDelta,
    TableView,
    TypeChanges,
    changed_slots,
    diff,
    empty_view,
    make_view,
    patch,
    runs,
)

BITS = 4
SLOTS = 1 << BITS
KINDS = ("cart", "order", "user")

tables = st.builds(
    SlotTable,
    st.lists(st.integers(0, 3), min_size=SLOTS, max_size=SLOTS).map(tuple),
    st.lists(st.integers(0, 5) | st.just((1 << 64) - 1), min_size=SLOTS, max_size=SLOTS).map(tuple),
)
entries = st.builds(
    HostEntry,
    st.integers(1, 9),
    st.text(max_size=4),
    st.text(max_size=4),
    st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2).map(lambda d: tuple(sorted(d.items()))),
)


@st.composite
def contents(draw: st.DrawFn) -> tuple[dict[int, HostEntry], dict[str, SlotTable]]:
    """Hosts, and tables some of which are the same object."""
    pool = draw(st.lists(tables, min_size=1, max_size=2))
    kinds = draw(st.lists(st.sampled_from(KINDS), unique=True))
    hosts = {entry.incarnation: entry for entry in draw(st.lists(entries, max_size=4))}
    return hosts, {kind: draw(st.sampled_from(pool)) for kind in kinds}


@st.composite
def two_views(draw: st.DrawFn) -> tuple[TableView, TableView]:
    before = make_view(draw(st.integers(1, 5)), BITS, *draw(contents()))
    hosts, after = draw(contents())
    for kind in draw(st.lists(st.sampled_from(KINDS), unique=True)):
        if kind in before.tables:
            owners = list(before.tables[kind].owners)
            owners[draw(st.integers(0, SLOTS - 1))] = draw(st.integers(0, 3))
            after[kind] = evolve(before.tables[kind], owners=tuple(owners))
    return before, make_view(before.version + draw(st.integers(1, 3)), BITS, hosts, after)


@given(two_views())
def test_patch_of_diff_is_the_next_view(views: tuple[TableView, TableView]) -> None:
    before, after = views
    delta = diff(before, after)
    patched = patch(before, delta)
    assert patched == after
    assert patched.digest == after.digest
    assert list(patched.hosts) == sorted(patched.hosts)
    assert list(patched.tables) == sorted(patched.tables)


@given(two_views())
def test_snapshots_replace_whatever_is_there(views: tuple[TableView, TableView]) -> None:
    before, after = views
    snapshot = diff(None, after)
    assert snapshot.is_snapshot
    assert patch(before, snapshot) == patch(empty_view(BITS), snapshot) == after


@given(two_views())
def test_deltas_are_compact(views: tuple[TableView, TableView]) -> None:
    before, after = views
    delta = diff(before, after)
    named = [kind for change in delta.changes for kind in change.actor_types]
    assert len(named) == len(set(named))
    assert len({(kind in before.tables, change.ranges) for change in delta.changes for kind in change.actor_types}) == (
        len(delta.changes)
    ), "groups with the same changes are one"
    for change in delta.changes:
        for left, right in itertools.pairwise(change.ranges):
            touching = left.first + left.count == right.first
            assert left.first + left.count <= right.first
            assert not (touching and (left.owner, left.since) == (right.owner, right.since))


def _variants(delta: TableDelta) -> st.SearchStrategy[TableDelta]:
    """Deltas with one thing wrong."""
    entry = HostEntry(77, "x", "y")
    kinds = [change.actor_types for change in delta.changes]
    choices = [
        st.just(evolve(delta, digest=b"")),
        st.just(evolve(delta, from_version=delta.from_version + 1)),
        st.just(evolve(delta, to_version=delta.to_version + 1)),
        st.just(evolve(delta, to_version=0)),
        st.just(evolve(delta, slot_bits=BITS + 1)),
        st.just(evolve(delta, hosts=(*delta.hosts, entry))),
        st.just(evolve(delta, changes=(*delta.changes, TypeChanges(("zoo",), (SlotRange(0, 1, 1, 1),))))),
        st.just(evolve(delta, changes=(*delta.changes, TypeChanges(("zoo",), (SlotRange(SLOTS - 1, 2, 1, 1),))))),
        st.just(evolve(delta, changes=(*delta.changes, TypeChanges(("zoo",), (SlotRange(-1, 1, 1, 1),))))),
        st.just(evolve(delta, changes=(*delta.changes, TypeChanges(("zoo",), (SlotRange(0, 1, -5, 1),))))),
        st.just(evolve(delta, changes=(*delta.changes, TypeChanges(("zoo",), (SlotRange(0, 1, 1, 1 << 64),))))),
    ]
    if kinds:
        choices.append(st.just(evolve(delta, changes=delta.changes[1:])))
    return st.one_of(choices)


@given(st.data(), two_views())
def test_whatever_does_not_fit_is_refused_and_changes_nothing(
    data: st.DataObject, views: tuple[TableView, TableView]
) -> None:
    before, after = views
    assume(after.hosts != before.hosts or after.tables != before.tables)
    copy = make_view(before.version, BITS, dict(before.hosts), dict(before.tables))
    wrong = data.draw(_variants(diff(before, after)))
    with pytest.raises(DeltaError):
        patch(before, wrong)
    assert before == copy
    assert before.digest == copy.digest


@given(two_views())
def test_a_rotten_copy_is_noticed(views: tuple[TableView, TableView]) -> None:
    """A table that went wrong unnoticed gives another digest."""
    kept = SlotTable((1,) * SLOTS, (1,) * SLOTS)
    before, after = (make_view(v.version, BITS, v.hosts, {**v.tables, "zoo": kept}) for v in views)
    rotten = evolve(kept, owners=(2, *kept.owners[1:]))
    with pytest.raises(DeltaError, match="digest"):
        patch(evolve(before, tables={**before.tables, "zoo": rotten}), diff(before, after))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"from_version": 2}, "delta starts from version 2, but 1 is installed"),
        ({"from_version": 1, "to_version": 1}, "delta leads to version 1, but 1 is installed"),
        ({"slot_bits": 5}, "delta has 2^5 slots, but 2^4 are installed"),
        ({"changes": (TypeChanges(("a",), (SlotRange(15, 2, 1, 1),)),)}, "delta changes slots 15 to 16 of 16"),
    ],
)
def test_messages(change: dict[str, object], text: str) -> None:
    view = make_view(1, BITS, {}, {})
    delta = diff(view, make_view(2, BITS, {}, {}))
    with pytest.raises(DeltaError) as caught:
        patch(view, evolve(delta, **change))  # type: ignore[arg-type]
    assert str(caught.value) == text


def test_equal_tables_stay_one_object() -> None:
    blank = SlotTable((0,) * SLOTS, (0,) * SLOTS)
    first = make_view(1, BITS, {}, {"a": blank, "b": blank})
    owned = SlotTable((4,) * SLOTS, (2,) * SLOTS)
    after = make_view(2, BITS, {}, {"a": owned, "b": owned})
    delta = diff(first, after)
    assert delta.changes == (TypeChanges(("a", "b"), (SlotRange(0, SLOTS, 4, 2),)),)
    patched = patch(patch(empty_view(BITS), diff(None, first)), delta)
    assert patched.tables["a"] is patched.tables["b"]


@given(st.lists(st.integers(0, 1), max_size=700), st.data())
def test_changed_slots(before: list[int], data: st.DataObject) -> None:
    after = list(before)
    for at in data.draw(st.lists(st.integers(0, max(0, len(before) - 1)), max_size=4)):
        if before:
            after[at] = data.draw(st.integers(0, 1))
    assert changed_slots(tuple(before), tuple(after)) == [at for at in range(len(after)) if before[at] != after[at]]


@given(st.sets(st.integers(0, 40)))
def test_runs(slots: set[int]) -> None:
    found = runs(sorted(slots))
    assert [slot for first, count in found for slot in range(first, first + count)] == sorted(slots)
    assert all(a + n < b for (a, n), (b, _) in itertools.pairwise(found))
