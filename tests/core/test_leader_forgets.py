"""A leader of native hosts by itself: what it counts no more, and what it keeps no longer."""

from __future__ import annotations

import pytest

from callboard.core.commands import Bury, CommitNativeBatch, ConfirmClear, SlotSpan
from callboard.core.leases import overdue_after_ms
from callboard.core.native_attendance import Attendance
from callboard.core.native_leader_records import LeaderLimits, ProposalDone, ProposalFailed, SendGrants
from callboard.core.slot_membership import REASON_LENGTH_MAX
from callboard.core.versions import Policy
from tests.core.leader_driver import (
    NAME,
    SETTINGS,
    SLOT_BITS,
    LeaderDriver,
    all_held,
    moved,
    one_host,
    record,
    two_hosts,
)

TICK_MS = SETTINGS.tick_ms
SLOTS = 1 << SLOT_BITS
WAIT_MS = SETTINGS.wait_ms()


def test_a_full_report_of_nothing_releases_everything() -> None:
    driver, first, _ = two_hosts()
    driver.renew(1, first, 2, base=1)
    assert not driver.proposed(ConfirmClear)
    driver.renew(1, first, 3)
    (confirm,) = driver.proposed(ConfirmClear)
    assert sum(span.count for span in confirm.spans) == SLOTS // 2


def test_one_command_buries_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.core.native_attendance.BURIALS_MAX", 2)
    driver = LeaderDriver()
    joined = [driver.join(stream_id, record(name)) for stream_id, name in enumerate("abc", start=1)]
    driver.remove(*joined)
    driver.at(driver.now_ms + 2 * WAIT_MS)
    assert driver.proposed(Bury) == [Bury(NAME, tuple(joined[:2]))]
    driver.commit()
    assert driver.proposed(Bury) == [Bury(NAME, tuple(joined[2:]))]


def test_nothing_is_kept_of_the_buried() -> None:
    driver, first, second = two_hosts()
    attendance = Attendance(driver.namespace, driver.now_ms)
    attendance.follow(driver.namespace, driver.now_ms)
    driver.remove(first)
    assert [each.incarnation for each in attendance.follow(driver.namespace, driver.now_ms)] == [first]
    assert sorted(attendance.hosts) == [first, second]
    driver.log(Bury(NAME, (first,)))
    assert attendance.follow(driver.namespace, driver.now_ms) == []
    assert sorted(attendance.hosts) == [second]


def test_no_base_of_another_connection_is_known() -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1, taken=all_held(driver, incarnation))
    for number in (2, 3):
        driver.hello(number, record("a"), incarnation, number)
        driver.now_ms += SETTINGS.tick_ms
        driver.at(driver.now_ms)
        driver.confirm_round()
        driver.renew(number, incarnation, number, base=1, connection=number)
        driver.at(driver.now_ms + SETTINGS.tick_ms)
        driver.confirm_round()
        assert [each.holding_known for each in driver.answers()] == [False]


def test_grants_are_sent_to_nobody_whose_stream_ended() -> None:
    driver, first, second = two_hosts()
    driver.end(2)
    driver.renew(1, first, 2, taken=all_held(driver, first))
    driver.commit_all()
    assert not driver.namespace.rights["cart"].pending
    assert driver.of(SendGrants) == []
    driver.confirm_round()
    driver.now_ms += TICK_MS
    driver.hello(3, record("b"), second, 2)
    driver.renew(3, second, 1, connection=2)
    driver.confirm_round()
    assert sum(held.count for held in driver.answers()[0].grants) == SLOTS // 2


def test_an_answer_to_what_is_not_in_flight_changes_nothing() -> None:
    driver = LeaderDriver()
    driver.hello(1, record("a"))
    assert driver.event(ProposalFailed(77)) == []
    driver.commit()
    assert list(driver.namespace.members) == ["a"]


def test_the_end_of_another_proposal_is_not_the_end_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host that is refused alone is still known to be to blame."""
    monkeypatch.setattr("callboard.core.slot_membership.ACTOR_TYPES_PER_NAMESPACE_MAX", 2)
    driver, first, _ = two_hosts()
    driver.at(driver.now_ms + TICK_MS)
    driver.hello(3, record("c", "cart", "x", "y"))
    driver.renew(1, first, 2, taken=all_held(driver, first))
    batch, confirmation = sorted(driver.proposals)
    answer = driver.apply(driver.proposals.pop(confirmation))
    driver.event(ProposalDone(confirmation, answer))
    assert not driver.commit().succeeded
    assert batch not in driver.proposals
    assert driver.closed() == [(3, "RESOURCE_EXHAUSTED")]


def test_after_all_of_a_refused_batch_were_tried_batches_are_whole_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.core.slot_membership.ACTOR_TYPES_PER_NAMESPACE_MAX", 2)
    driver = LeaderDriver()
    for stream_id, host in enumerate([record("z"), record("a"), record("b", "v", "x", "y"), record("c")], start=1):
        driver.hello(stream_id, host)
    for _ in range(6):
        driver.commit_all()
        driver.at(driver.now_ms + TICK_MS)
    assert sorted(driver.namespace.members) == ["a", "c", "z"]
    for stream_id, name in enumerate("def", start=5):
        driver.hello(stream_id, record(name))
    driver.commit_all()
    driver.at(driver.now_ms + TICK_MS)
    (batch,) = driver.proposed(CommitNativeBatch)
    assert [host.name for host in batch.upserts] == ["e", "f"]


def test_a_batch_removes_as_many_as_it_takes_and_says_as_much_as_it_may() -> None:
    driver = LeaderDriver(limits=LeaderLimits(batch_items_max=3))
    names = [letter * 100 for letter in "abcd"]
    joined = [driver.join(stream_id, record(name)) for stream_id, name in enumerate(names, start=1)]
    driver.at(driver.now_ms + SETTINGS.failure_timeout_ms)
    (batch,) = driver.proposed(CommitNativeBatch)
    assert [each.incarnation for each in batch.removals] == joined[:3]
    assert len(batch.reason) == REASON_LENGTH_MAX
    assert driver.commit().succeeded


@pytest.mark.parametrize("policy", [Policy.EVENTUAL, Policy.EXCLUSIVE])
def test_a_host_of_which_a_renewal_was_lost_is_asked_for_everything_and_stays(policy: Policy) -> None:
    """A front may lose a word between two leaders; what builds on it says nothing, not even which table there is."""
    driver = LeaderDriver(policy)
    first = driver.join(1, record("a"))
    driver.renew(1, first, 1)
    driver.join(2, record("b"))
    driver.renew(1, first, 3, base=2)
    driver.at(driver.now_ms + SETTINGS.tick_ms)
    driver.confirm_round()
    assert [each.holding_known for each in driver.answers()] == [False]
    driver.renew(1, first, 4)
    driver.at(driver.now_ms + SETTINGS.failure_timeout_ms - 1)
    driver.renew(1, first, 5, base=4)
    driver.at(driver.now_ms + SETTINGS.tick_ms)
    driver.commit_all()
    assert "a" in driver.namespace.members


@pytest.mark.parametrize("by_word", [True, False])
def test_no_round_begins_for_a_host_that_is_gone(by_word: bool) -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1)
    driver.confirm_round()
    driver.renew(1, incarnation, 2, base=1)
    if by_word:
        driver.farewell(1, incarnation)
    else:
        driver.remove(incarnation)
    driver.at(driver.now_ms + 2 * TICK_MS)
    assert len(driver.rounds) == 1, "there is nothing to answer"


def test_a_host_that_was_buried_while_its_round_ran_is_not_answered() -> None:
    driver, incarnation = one_host()
    driver.now_ms += TICK_MS
    driver.renew(1, incarnation, 1)
    driver.farewell(1, incarnation)
    driver.commit_all()
    assert not driver.namespace.tombstones
    assert driver.confirm_round() == []


def test_who_was_removed_is_not_removed_again_when_its_round_ends() -> None:
    driver, first, _ = two_hosts()
    driver.now_ms += TICK_MS
    driver.renew(1, first, 2, base=1)
    driver.remove(first)
    driver.now_ms += overdue_after_ms(SETTINGS)
    assert driver.confirm_round() == []
    assert not driver.proposals


def test_what_was_confirmed_is_owed_no_more_whoever_confirmed_it() -> None:
    driver, first, _ = two_hosts()
    driver.now_ms += TICK_MS
    driver.renew(1, first, 2, base=1)
    driver.confirm_round()
    since = driver.namespace.tables["cart"].since
    driver.log(ConfirmClear(NAME, tuple(SlotSpan("cart", slot, 1, since[slot]) for slot in moved(driver))))
    driver.now_ms += overdue_after_ms(SETTINGS)
    assert driver.machine.views.overdue(driver.now_ms) == []
    driver.renew(1, first, 3, base=2)
    driver.confirm_round()
    assert [each.incarnation for each in driver.answers()] == [first]
    assert not driver.proposed(CommitNativeBatch)


def test_of_a_removed_host_that_asks_again_the_stream_is_like_any_other() -> None:
    driver, incarnation = one_host()
    driver.remove(incarnation)
    driver.log(Bury(NAME, (incarnation,)))
    driver.hello(9, record("z"))
    driver.hello(1, record("a", process="p9"))
    driver.hello(2, record("a", process="p2"))
    assert driver.closed() == [(1, "ABORTED")], "another process asks for its name"


def test_a_new_office_counts_from_its_beginning_how_long_slots_wait() -> None:
    driver, _, _ = two_hosts()
    driver.now_ms += 500
    driver.new_office()
    assert {each.waited_ms for each in driver.machine.views.handoffs(driver.now_ms + 70)} == {70}
