"""`Balance` and `MinimalMovement` of one assignment, by shares that are worked out here from the weights alone."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil, floor

from attrs import evolve
from hypothesis import assume, given
from hypothesis import strategies as st

from callboard.core.slot_assignment import Candidate, assign, empty_table
from callboard.core.slot_records import NOBODY, SlotTable

SLOTS = 64
hosts = st.lists(st.sampled_from([50, 100, 100, 300]), min_size=1, max_size=7).map(
    lambda weights: [Candidate(number, weight) for number, weight in enumerate(weights, start=1)]
)
equal_hosts = st.integers(1, 12).map(lambda count: [Candidate(number, 100) for number in range(1, count + 1)])


def counts(table: SlotTable) -> Counter[int]:
    return Counter(table.owners)


def first(candidates: list[Candidate]) -> SlotTable:
    return assign(empty_table(SLOTS), candidates, 1, {}, joined=True)


def moved(before: SlotTable, after: SlotTable) -> list[int]:
    return [slot for slot in range(SLOTS) if before.owners[slot] != after.owners[slot]]


def check_shares(before: SlotTable, after: SlotTable, candidates: list[Candidate], *, joined: bool) -> None:
    """Each host's count lies between its share rounded down (if hosts joined) and rounded up."""
    had, has = counts(before), counts(after)
    receivers = [each for each in candidates if each.receives]
    whole = sum(each.weight for each in candidates if not each.draining)
    left = SLOTS
    for each in candidates:
        if each.draining:
            assert has[each.incarnation] == (0 if receivers else had[each.incarnation])
        elif each.cordoned:
            share = ceil(Fraction(SLOTS * each.weight, whole)) if receivers else SLOTS
            assert has[each.incarnation] == min(had[each.incarnation], share)
        left -= 0 if each.receives else has[each.incarnation]
    weights = sum(each.weight for each in receivers)
    for each in receivers:
        share_of_left = Fraction(left * each.weight, weights)
        assert has[each.incarnation] <= ceil(share_of_left)
        if joined and len({each.weight for each in receivers}) == 1:
            assert has[each.incarnation] >= floor(share_of_left)
    if receivers:
        assert sum(has[each.incarnation] for each in candidates) == SLOTS, "some slots belong to nobody"
    for slot in range(SLOTS):
        changed = before.owners[slot] != after.owners[slot]
        assert after.since[slot] == (9 if changed else before.since[slot])


@given(hosts)
def test_the_first_hosts_share_all_slots_by_weight(candidates: list[Candidate]) -> None:
    table = first(candidates)
    total = sum(each.weight for each in candidates)
    for each in candidates:
        share = Fraction(SLOTS * each.weight, total)
        assert floor(share) <= table.owners.count(each.incarnation) <= ceil(share)
    assert assign(table, candidates, 9, {}, joined=True) is table


@given(hosts, st.data())
def test_a_leave_moves_only_the_slots_of_who_leaves(candidates: list[Candidate], data: st.DataObject) -> None:
    leaver = data.draw(st.sampled_from(candidates)).incarnation
    before = first(candidates)
    rest = [each for each in candidates if each.incarnation != leaver]
    after = assign(before, rest, 9, {}, joined=False)
    assert moved(before, after) == [slot for slot in range(SLOTS) if before.owners[slot] == leaver]
    check_shares(before, after, rest, joined=False)
    if not rest:
        assert set(after.owners) == {NOBODY}


@given(equal_hosts, st.integers(1, 3))
def test_a_join_moves_only_what_the_newcomers_get(candidates: list[Candidate], newcomers: int) -> None:
    before = first(candidates)
    more = [*candidates, *(Candidate(100 + number, 100) for number in range(newcomers))]
    after = assign(before, more, 9, {}, joined=True)
    assert {after.owners[slot] for slot in moved(before, after)} <= set(range(100, 100 + newcomers))
    check_shares(before, after, more, joined=True)
    down, up = SLOTS // len(more), -(-SLOTS // len(more))
    assert len(moved(before, after)) == max(newcomers * down, SLOTS - len(candidates) * up), "no more than it must"


@given(hosts, st.sampled_from([50, 100, 300]))
def test_a_join_of_any_weight(candidates: list[Candidate], weight: int) -> None:
    before = first(candidates)
    more = [*candidates, Candidate(100, weight)]
    after = assign(before, more, 9, {}, joined=True)
    check_shares(before, after, more, joined=True)
    share = Fraction(SLOTS * weight, sum(each.weight for each in more))
    assert floor(share) <= counts(after)[100] <= ceil(share)
    to_others = [slot for slot in moved(before, after) if after.owners[slot] != 100]
    assert len(to_others) <= len(candidates)


@given(hosts, st.data())
def test_cordoned_and_draining_hosts(candidates: list[Candidate], data: st.DataObject) -> None:
    """A cordoned host gets nothing and keeps at most its share, a draining one gives all that others can take."""
    before = first(candidates)
    states = data.draw(st.lists(st.sampled_from(["", "", "cordoned", "draining", "both"]), min_size=7, max_size=7))
    marked = [
        evolve(each, cordoned=state in ("cordoned", "both"), draining=state in ("draining", "both"))
        for each, state in zip(candidates, states, strict=False)
    ]
    after = assign(before, marked, 9, {}, joined=False)
    check_shares(before, after, marked, joined=False)
    if any(each.receives for each in marked):
        givers = {each.incarnation for each in marked if not each.receives}
        assert all(before.owners[slot] in givers or after.owners[slot] not in givers for slot in moved(before, after))
    else:
        assert after is before


@given(hosts)
def test_a_host_that_was_stronger_gives_back(candidates: list[Candidate]) -> None:
    """Nobody may stay above its share rounded up, also if no host joined."""
    assume(len(candidates) > 1)
    heavy = [evolve(candidates[0], weight=3000), *candidates[1:]]
    before = first(heavy)
    after = assign(before, candidates, 9, {}, joined=True)
    check_shares(before, after, candidates, joined=True)
    gave = {before.owners[slot] for slot in moved(before, after)}
    assert gave <= {1}


def test_those_who_have_most_by_weight_give_first() -> None:
    owners = (1,) * 30 + (2,) * 20 + (3,) * 14
    before = SlotTable(owners, (1,) * SLOTS)
    candidates = [Candidate(1, 300), Candidate(2, 100), Candidate(3, 100), Candidate(4, 100)]
    after = assign(before, candidates, 9, {}, joined=True)
    gave = Counter(before.owners[slot] for slot in moved(before, after))
    assert gave == {2: 9, 3: 3}, "host 1 has least by its weight"
    highest_of_2 = [slot for slot in range(SLOTS) if owners[slot] == 2][-9:]
    assert [slot for slot in moved(before, after) if owners[slot] == 2] == highest_of_2


@given(hosts)
def test_a_successor_takes_its_predecessors_slots(candidates: list[Candidate]) -> None:
    before = first(candidates)
    now = [*candidates[1:], Candidate(50, candidates[0].weight)]
    after = assign(before, now, 9, {1: 50}, joined=False)
    assert [slot for slot in range(SLOTS) if after.owners[slot] == 50] == [
        slot for slot in range(SLOTS) if before.owners[slot] == 1
    ]
    assert moved(before, after) == [slot for slot in range(SLOTS) if before.owners[slot] == 1]
