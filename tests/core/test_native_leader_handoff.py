"""A leader of native hosts by itself: grants, fences, burials, members that are late, and what operators see."""

from __future__ import annotations

from itertools import pairwise

import pytest
from attrs import evolve

from callboard.core.commands import Bury, CommitNativeBatch, ConfirmClear, FenceSpan, RaiseFences, Removal, SlotSpan
from callboard.core.handoff_messages import Held, RenewalAnswer, SlotRun
from callboard.core.leases import overdue_after_ms
from callboard.core.native_leader_records import (
    Giver,
    LeaderLimits,
    LeaseState,
    Overdue,
    StateChanged,
    Waiting,
)
from callboard.core.slot_membership import NATIVE_MEMBERS_MAX
from callboard.core.slot_records import SlotRights, SlotTable
from callboard.core.versions import Policy
from tests.core.leader_driver import (
    NAME,
    SETTINGS,
    SLOT_BITS,
    START_MS,
    LeaderDriver,
    kept,
    moved,
    one_host,
    record,
    two_hosts,
)

TICK_MS = SETTINGS.tick_ms
SLOTS = 1 << SLOT_BITS
WAIT_MS = SETTINGS.wait_ms()
TIMEOUT_MS = SETTINGS.failure_timeout_ms
OVERDUE_MS = overdue_after_ms(SETTINGS)


# ---- grants (L3)


def test_grants_are_repeated_until_they_show_in_the_report() -> None:
    driver, incarnation = one_host()
    everything = (Held("cart", 0, SLOTS, driver.namespace.version.wire, driver.namespace.fence),)
    assert driver.granted() == [(incarnation, everything[0])]
    driver.renew(1, incarnation, 1)
    driver.confirm_round()
    assert driver.answers()[0].grants == everything
    driver.now_ms += TICK_MS
    half = (evolve(everything[0], count=SLOTS // 2),)
    driver.renew(1, incarnation, 2, base=1, taken=half)
    driver.confirm_round()
    assert driver.answers()[0].grants == (evolve(everything[0], first=SLOTS // 2, count=SLOTS // 2),)
    driver.now_ms += TICK_MS
    driver.renew(1, incarnation, 3, base=2, taken=everything)
    driver.confirm_round()
    assert driver.answers()[0].grants == ()
    driver.now_ms += TICK_MS
    driver.renew(1, incarnation, 4, base=3, dropped=(SlotRun("cart", 2, 2),))
    driver.confirm_round()
    assert driver.answers()[0].grants == (evolve(everything[0], first=2, count=2),)


def test_one_message_holds_so_many_grants_and_the_next_the_others() -> None:
    driver = LeaderDriver(limits=LeaderLimits(grants_max=1))
    incarnation = driver.join(1, record("a", "cart", "user"))
    driver.renew(1, incarnation, 1)
    driver.confirm_round()
    (first,) = driver.answers()[0].grants
    driver.now_ms += TICK_MS
    driver.renew(1, incarnation, 2, base=1, taken=(first,))
    driver.confirm_round()
    (second,) = driver.answers()[0].grants
    assert {first.actor_type, second.actor_type} == {"cart", "user"}


def test_slots_that_wait_are_granted_when_their_owner_released_them() -> None:
    driver, first, second = two_hosts()
    slots = moved(driver)
    assert driver.granted() == [], "all that b owns waits for a"
    driver.now_ms += TICK_MS
    old_version = driver.namespace.version.wire - 1
    driver.renew(1, first, 2, base=1, version=old_version)
    assert not driver.proposed(ConfirmClear), "a has not installed the version that takes slots away"
    driver.now_ms += 1
    driver.renew(1, first, 3, base=2)
    assert not driver.proposed(ConfirmClear), "a still holds them"
    released = tuple(SlotRun("cart", slot, 1) for slot in slots[:3])
    driver.renew(1, first, 4, base=3, dropped=released)
    (confirm,) = driver.proposed(ConfirmClear)
    named = [slot for span in confirm.spans for slot in range(span.first, span.first + span.count)]
    assert named == slots[:3], "one slow slot does not hold back the others"
    assert {span.since for span in confirm.spans} == {driver.namespace.version.wire}
    driver.commit_all()
    granted = [slot for who, held in driver.granted() for slot in range(held.first, held.first + held.count)]
    assert sorted(granted) == slots[:3]
    assert {who for who, _ in driver.granted()} == {second}
    assert moved(driver) == slots[3:]


def test_releases_outlive_the_connection_and_whoever_skips_versions_releases_all() -> None:
    driver, first, _ = two_hosts()
    driver.join(3, record("c"))
    waiting = moved(driver)
    driver.end(1)
    driver.hello(4, record("a"), first, 2)
    driver.renew(4, first, 9, connection=2, taken=kept(driver, first))
    (confirm,) = driver.proposed(ConfirmClear)
    named = [slot for span in confirm.spans for slot in range(span.first, span.first + span.count)]
    rights = driver.namespace.rights["cart"]
    assert named == [slot for slot in waiting if rights.pending[slot] == (first,)]


def test_a_new_office_counts_nothing_that_its_predecessor_heard() -> None:
    driver, first, _ = two_hosts()
    driver.renew(1, first, 2, taken=kept(driver, first))
    assert driver.proposed(ConfirmClear)
    driver.new_office()
    driver.at(driver.now_ms)
    assert not driver.proposals
    driver.hello(7, record("a"), first, 1, by_front=True)
    driver.renew(7, first, 3, base=2)
    assert not driver.proposed(ConfirmClear)
    driver.renew(7, first, 4, taken=kept(driver, first))
    assert driver.proposed(ConfirmClear)


def test_an_office_that_is_over_does_nothing() -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1)
    driver.event(StateChanged(driver.namespace, driver.state.epoch + 1))
    assert driver.effects == []
    assert driver.confirm_round() == []
    assert driver.machine.next_deadline_ms() is None
    driver.event(StateChanged(driver.namespace, driver.state.epoch))
    assert driver.renew(1, incarnation, 2) == []


# ---- requests for fences (L4)


def test_only_the_owner_gets_a_higher_fence_and_only_for_the_present_one() -> None:
    driver, first, second = two_hosts()
    table, rights = driver.namespace.tables["cart"], driver.namespace.rights["cart"]
    slot = table.owners.index(first)
    since, fence = table.since[slot], rights.fences[slot]
    number = 1
    for wrong in (
        Held("cart", slot, 1, since + 1, fence),
        Held("cart", slot, 1, since, fence + 1),
        Held("cart", slot, 1, since, fence - 1),
    ):
        number += 1
        driver.renew(1, first, number, base=number - 1, requests=(wrong,))
        assert not driver.proposed(RaiseFences)
    driver.renew(2, second, 1, requests=(Held("cart", slot, 1, since, fence),))
    assert not driver.proposed(RaiseFences)
    driver.renew(1, first, number + 1, base=number, requests=(Held("cart", slot, 1, since, fence),))
    assert driver.proposed(RaiseFences) == [RaiseFences(NAME, (FenceSpan("cart", slot, 1, since, fence),))]
    driver.commit()
    higher = driver.namespace.rights["cart"].fences[slot]
    assert higher > fence
    assert (first, Held("cart", slot, 1, since, higher)) in driver.granted()
    driver.at(driver.now_ms + 5 * TICK_MS)
    assert not driver.proposed(RaiseFences), "the wish is fulfilled"


# ---- burials (L2)


def test_a_silent_removed_incarnation_is_buried_when_its_last_lease_is_over() -> None:
    driver, first, second = two_hosts()
    answered_ms = driver.now_ms = driver.now_ms + TICK_MS
    driver.renew(1, first, 2, base=1)
    driver.confirm_round()
    assert driver.answers()
    driver.now_ms += 7
    driver.remove(first)
    assert driver.namespace.tombstones
    driver.at(answered_ms + WAIT_MS - 1)
    assert not driver.proposed(Bury)
    assert driver.machine.next_deadline_ms() == answered_ms + WAIT_MS
    driver.renew(2, second, 1)
    driver.at(answered_ms + WAIT_MS)
    assert driver.proposed(Bury) == [Bury(NAME, (first,))]
    driver.commit_all()
    assert not driver.namespace.tombstones
    assert sum(held.count for who, held in driver.granted() if who == second) == SLOTS


def test_a_new_office_waits_from_its_beginning() -> None:
    driver, first, _ = two_hosts()
    driver.remove(first)
    driver.now_ms += WAIT_MS - 10
    driver.new_office()
    began_ms = driver.now_ms
    driver.at(began_ms + WAIT_MS - 1)
    assert not driver.proposed(Bury)
    driver.at(began_ms + WAIT_MS)
    assert driver.proposed(Bury)


def test_a_farewell_buries_at_once_whoever_brings_it() -> None:
    driver, first, _ = two_hosts()
    driver.remove(first)
    driver.farewell(99, first)
    assert driver.proposed(Bury) == [Bury(NAME, (first,))]
    driver.farewell(99, first + 50)
    driver.fail()
    assert driver.machine.next_deadline_ms() == driver.now_ms + TICK_MS
    driver.at(driver.now_ms + TICK_MS - 1)
    assert not driver.proposed(Bury)
    driver.at(driver.now_ms + 1)
    assert driver.proposed(Bury), "a lost proposal is tried again"


# ---- silent, lagging and overdue members


def test_a_silent_member_is_removed_after_the_failure_timeout() -> None:
    driver, first = one_host()
    heard_ms = driver.now_ms = driver.now_ms + 100
    driver.renew(1, first, 1)
    driver.confirm_round()
    assert driver.machine.next_deadline_ms() == heard_ms + TIMEOUT_MS
    driver.at(heard_ms + TIMEOUT_MS - 1)
    assert not driver.proposals
    driver.at(heard_ms + TIMEOUT_MS)
    (batch,) = driver.proposed(CommitNativeBatch)
    assert batch.removals == (Removal("a", first),)
    assert batch.reason == f"a was not heard of for {TIMEOUT_MS} ms"


def test_hellos_of_hosts_are_words_of_theirs_and_those_of_fronts_are_not() -> None:
    driver, first = one_host()
    driver.renew(1, first, 1)
    driver.confirm_round()
    heard_ms = driver.now_ms = driver.now_ms + 500
    driver.hello(2, record("a"), first, 2)
    driver.now_ms += 500
    driver.hello(3, record("a"), first, 3, by_front=True)
    driver.at(heard_ms + TIMEOUT_MS - 1)
    assert not driver.proposals
    driver.at(heard_ms + TIMEOUT_MS)
    assert driver.proposals


def test_the_longest_silent_is_the_next_to_be_removed() -> None:
    driver = LeaderDriver()
    first, second = driver.join(1, record("a")), driver.join(2, record("b"))
    driver.now_ms += 100
    driver.renew(2, second, 1)
    driver.now_ms += 100
    driver.renew(1, first, 1)
    driver.confirm_round()
    driver.at(driver.now_ms + TICK_MS)
    driver.confirm_round()
    heard_ms = driver.now_ms - TICK_MS - 100
    driver.at(heard_ms + TIMEOUT_MS)
    assert driver.proposed(CommitNativeBatch)[0].removals == (Removal("b", second),)


def hold_too_long() -> tuple[LeaderDriver, int, int]:
    """Host a said at `reported_ms` that it installed the table that takes half of its slots, and holds on to them."""
    driver, first, _ = two_hosts()
    driver.now_ms += TICK_MS
    driver.renew(1, first, 2, base=1)
    driver.confirm_round()
    assert driver.answers()
    return driver, first, driver.now_ms


def test_a_host_that_holds_on_is_overdue_removed_and_not_answered() -> None:
    driver, first, reported_ms = hold_too_long()
    driver.now_ms = reported_ms + OVERDUE_MS - 1
    driver.renew(1, first, 3, base=2)
    driver.confirm_round()
    assert driver.answers()
    assert not driver.proposals
    assert driver.machine.next_deadline_ms() == reported_ms + OVERDUE_MS
    assert driver.machine.views.overdue(driver.now_ms) == []
    driver.at(reported_ms + OVERDUE_MS)
    (batch,) = driver.proposed(CommitNativeBatch)
    assert (batch.removals, batch.reason) == ((Removal("a", first),), "a is overdue with releasing slots")
    since = driver.namespace.version.wire
    assert driver.machine.views.overdue(driver.now_ms + 3) == [Overdue(first, "a", since, 3)]
    rounds = len(driver.rounds)
    driver.now_ms += TICK_MS
    driver.renew(1, first, 4, base=3)
    assert len(driver.rounds) == rounds, "its renewals are refused"


def test_a_round_does_not_answer_a_host_that_became_overdue_meanwhile() -> None:
    driver, first, reported_ms = hold_too_long()
    driver.now_ms = reported_ms + OVERDUE_MS - 1
    driver.renew(1, first, 3, base=2)
    driver.now_ms += 1
    driver.confirm_round()
    assert not driver.answers()
    assert driver.proposed(CommitNativeBatch)


def test_who_releases_in_time_is_not_overdue() -> None:
    driver, first, reported_ms = hold_too_long()
    driver.now_ms = reported_ms + OVERDUE_MS - 1
    driver.renew(1, first, 3, taken=kept(driver, first))
    driver.commit_all()
    driver.at(reported_ms + OVERDUE_MS + 1)
    assert not driver.proposed(CommitNativeBatch)
    assert driver.machine.views.overdue(driver.now_ms) == []


def test_a_host_that_renews_but_does_not_install_is_overdue_after_the_failure_timeout() -> None:
    driver, first, _ = two_hosts()
    told_ms = driver.now_ms
    old = driver.namespace.version.wire - 1
    number = 1
    while driver.now_ms < told_ms + TIMEOUT_MS - 300:
        number += 1
        driver.now_ms += 200
        driver.renew(1, first, number, base=number - 1, version=old)
        driver.confirm_round()
        assert driver.answers()
    driver.renew(2, driver.namespace.members["b"].incarnation, 1)
    driver.at(told_ms + TIMEOUT_MS - 1)
    assert not driver.proposals
    driver.at(told_ms + TIMEOUT_MS)
    assert driver.proposed(CommitNativeBatch)[0].removals == (Removal("a", first),)
    late = driver.machine.views.overdue(driver.now_ms + 5)
    assert late == [Overdue(first, "a", driver.namespace.version.wire, 5)]


# ---- proposals


def test_a_failed_batch_is_tried_again_after_a_tick() -> None:
    driver = LeaderDriver()
    driver.hello(1, record("a"))
    driver.fail()
    assert driver.machine.next_deadline_ms() == START_MS + TICK_MS
    driver.at(START_MS + TICK_MS - 1)
    assert not driver.proposals
    driver.at(START_MS + TICK_MS)
    assert driver.proposed(CommitNativeBatch)[0].upserts == (record("a"),)


def test_of_a_refused_batch_only_the_culprit_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.core.slot_membership.ACTOR_TYPES_PER_NAMESPACE_MAX", 2)
    driver = LeaderDriver()
    driver.hello(9, record("z"))
    driver.hello(1, record("a"))
    driver.hello(2, record("b", "cart", "x", "y"))
    driver.hello(3, record("c"))
    driver.commit()
    closed: list[tuple[int, str]] = []
    for _ in range(12):
        driver.at(driver.now_ms + TICK_MS)
        while driver.proposals:
            driver.commit()
            closed += driver.closed()
    assert closed == [(2, "RESOURCE_EXHAUSTED")]
    assert sorted(driver.namespace.members) == ["a", "c", "z"]
    assert NATIVE_MEMBERS_MAX > 3


def test_a_host_whose_batch_is_refused_after_its_stream_ended_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.core.slot_membership.ACTOR_TYPES_PER_NAMESPACE_MAX", 2)
    driver = LeaderDriver()
    driver.hello(1, record("a", "cart", "x", "y"))
    driver.end(1)
    assert not driver.commit().succeeded
    assert driver.closed() == []


def test_hosts_of_a_refused_batch_are_tried_singly_whatever_else_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.core.slot_membership.ACTOR_TYPES_PER_NAMESPACE_MAX", 2)
    driver = LeaderDriver()
    leaving = [(stream_id, driver.join(stream_id, record(name))) for stream_id, name in enumerate("wxyz", start=1)]
    driver.hello(9, record("b"))
    for stream_id, name in enumerate("cdef", start=11):
        driver.hello(stream_id, record(name))
    driver.hello(20, record("g", "cart", "x", "y"))
    driver.commit()
    sizes, buried = [], 0
    for _ in range(12):
        driver.at(driver.now_ms + TICK_MS)
        while driver.proposals:
            command = next(iter(driver.proposals.values()))
            if isinstance(command, CommitNativeBatch) and command.upserts:
                sizes.append(len(command.upserts))
            buried += isinstance(command, Bury)
            driver.commit()
        if leaving and sizes:
            driver.farewell(*leaving.pop())
    assert buried == 4
    assert sizes == [5, 1, 1, 1, 1, 1]


def test_a_batch_takes_so_many_hosts_and_so_many_bytes() -> None:
    driver = LeaderDriver(limits=LeaderLimits(batch_items_max=2))
    driver.hello(9, record("z"))
    for stream_id, name in enumerate("abc", start=1):
        driver.hello(stream_id, record(name))
    driver.commit()
    driver.at(driver.now_ms + TICK_MS)
    assert [each.name for each in driver.proposed(CommitNativeBatch)[0].upserts] == ["a", "b"]
    small = LeaderDriver(limits=LeaderLimits(batch_bytes_max=1))
    small.hello(9, record("z"))
    for stream_id, name in enumerate("ab", start=1):
        small.hello(stream_id, record(name))
    small.commit()
    small.at(small.now_ms + TICK_MS)
    assert [each.name for each in small.proposed(CommitNativeBatch)[0].upserts] == ["a"]


# ---- policy eventual


def test_under_eventual_renewals_are_heartbeats() -> None:
    driver = LeaderDriver(Policy.EVENTUAL)
    first = driver.join(1, record("a"))
    assert not driver.granted()
    driver.renew(1, first, 1)
    driver.confirm_round()
    newest = driver.namespace.version.wire
    assert driver.answers() == [RenewalAnswer(1, first, 1, newest, holding_known=True, grants=())]
    driver.join(2, record("b"))
    assert not driver.proposals
    assert driver.machine.views.handoffs(driver.now_ms) == []


# ---- what operators see


def test_operators_see_which_slots_wait_for_whom() -> None:
    driver, first, second = two_hosts()
    since = driver.namespace.version.wire
    waited_from_ms = driver.now_ms
    heard_ms = START_MS + TICK_MS
    now_ms = driver.now_ms + 30
    found = driver.machine.views.handoffs(now_ms)
    assert sum(each.count for each in found) == SLOTS // 2
    giver = Giver(first, "a", "not heard", heard_ms + TIMEOUT_MS - now_ms)
    assert {each.givers for each in found} == {(giver,)}
    assert {(each.owner, each.since, each.waited_ms) for each in found} == {(second, since, now_ms - waited_from_ms)}
    driver.now_ms += 50
    driver.renew(1, first, 2, base=1)
    draining = driver.machine.views.handoffs(driver.now_ms + 10)
    assert draining[0].givers == (Giver(first, "a", "draining", OVERDUE_MS - 10),)
    overdue = driver.machine.views.handoffs(driver.now_ms + OVERDUE_MS)
    assert overdue[0].givers == (Giver(first, "a", "overdue", None),)
    driver.renew(1, first, 3, taken=kept(driver, first))
    released = driver.machine.views.handoffs(driver.now_ms)
    assert released[0].givers == (Giver(first, "a", "released", 0),)
    assert isinstance(released[0], Waiting)
    whole = [slot for each in found for slot in range(each.first, each.first + each.count)]
    assert whole == moved(driver)
    assert all(one.first + one.count < other.first for one, other in pairwise(found)), "runs are as long as they can be"


def test_operators_see_no_time_below_zero() -> None:
    driver, first, _ = two_hosts()
    waited_from_ms = driver.now_ms
    assert {each.waited_ms for each in driver.machine.views.handoffs(waited_from_ms - 1)} == {0}
    (silent,) = {each.givers for each in driver.machine.views.handoffs(waited_from_ms + 2 * TIMEOUT_MS)}
    assert silent == (Giver(first, "a", "not heard", 0),)
    driver.remove(first)
    (removed,) = {each.givers for each in driver.machine.views.handoffs(waited_from_ms + 2 * WAIT_MS)}
    assert removed == (Giver(first, "a", "removed", 0),)


def test_slots_that_wait_for_different_hosts_are_different_runs() -> None:
    """Slots 0 to 7 of one owner: two wait for the first host, three for the second, one for both, two for nobody."""
    driver, first, second = two_hosts()
    third = 99
    table = SlotTable((third,) * 8 + (first,) * 8, (5,) * 7 + (6,) + (1,) * 8)
    pending = {0: (first,), 1: (first,), 2: (second,), 3: (second,), 4: (second,), 5: (first, second), 7: (77,)}
    rights = SlotRights(driver.namespace.rights["cart"].fences, pending)
    namespace = evolve(driver.namespace, tables={"cart": table}, rights={"cart": rights})
    driver.event(StateChanged(namespace, driver.state.epoch))
    found = driver.machine.views.handoffs(driver.now_ms)
    names = [(each.first, each.count, each.since, [giver.name for giver in each.givers]) for each in found]
    assert names == [(0, 2, 5, ["a"]), (2, 3, 5, ["b"]), (5, 1, 5, ["a", "b"]), (7, 1, 6, [""])]
    assert found[-1].givers == (Giver(77, "", "not heard", None),)


def test_slots_that_wait_for_one_host_are_different_runs_by_type_owner_since_and_place() -> None:
    driver, first, _ = two_hosts()
    table = SlotTable((98, 98, 99, 99, 99) + (first,) * (SLOTS - 5), (5, 6, 6, 6, 6) + (1,) * (SLOTS - 5))
    rights = SlotRights(driver.namespace.rights["cart"].fences, dict.fromkeys((0, 1, 2, 4), (first,)))
    namespace = evolve(driver.namespace, tables={"cart": table, "user": table}, rights={"cart": rights, "user": rights})
    driver.event(StateChanged(namespace, driver.state.epoch))
    found = driver.machine.views.handoffs(driver.now_ms)
    of_one_type = [(0, 1, 98, 5), (1, 1, 98, 6), (2, 1, 99, 6), (4, 1, 99, 6)]
    assert [(each.actor_type, each.first, each.count, each.owner, each.since) for each in found] == [
        (kind, *run) for kind in ("cart", "user") for run in of_one_type
    ]


def test_operators_see_the_oldest_version_that_a_host_has_not_followed() -> None:
    driver, first, _ = two_hosts()
    since = driver.namespace.version.wire
    driver.renew(1, first, 2, base=1)
    driver.join(3, record("c"))
    assert moved(driver)
    driver.renew(1, first, 3, base=2)
    assert len({each.since for each in driver.machine.views.handoffs(driver.now_ms)}) > 1
    (late,) = driver.machine.views.overdue(driver.now_ms + 2 * OVERDUE_MS)
    assert (late.incarnation, late.since) == (first, since)


def test_operators_see_how_long_removed_hosts_are_waited_for() -> None:
    driver, first, _ = two_hosts()
    driver.remove(first)
    (giver,) = {each.givers[0] for each in driver.machine.views.handoffs(driver.now_ms)}
    answered_ms = START_MS + 2 * TICK_MS
    assert giver == Giver(first, "a", "removed", answered_ms + WAIT_MS - driver.now_ms)


def test_operators_see_leases() -> None:
    driver, first, second = two_hosts()
    answered_ms = START_MS + 2 * TICK_MS
    now_ms = driver.now_ms + 20
    one, two = driver.machine.views.leases(now_ms)
    heard_ms = START_MS + TICK_MS
    installed = driver.namespace.version.wire - 1
    margin_ms = TIMEOUT_MS - (now_ms - heard_ms)
    assert one == LeaseState(first, "a", True, installed, now_ms - heard_ms, now_ms - answered_ms, margin_ms)
    assert (two.incarnation, two.connected, two.answered_ms, two.installed_version) == (second, True, None, 0)
    driver.end(2)
    assert not driver.machine.views.leases(now_ms)[1].connected
    assert driver.machine.views.leases(now_ms + 10 * TIMEOUT_MS)[0].margin_ms == 0


def test_confirmations_are_of_the_slots_that_wait() -> None:
    driver, first, _ = two_hosts()
    since = driver.namespace.version.wire
    driver.renew(1, first, 2, taken=kept(driver, first))
    (confirm,) = driver.proposed(ConfirmClear)
    assert all(isinstance(span, SlotSpan) and span.since == since for span in confirm.spans)
    assert sum(span.count for span in confirm.spans) == SLOTS // 2
