"""A leader of native hosts by itself: when it wants to be woken, and whose word counts as heard."""

from __future__ import annotations

from callboard.core.commands import Bury, CommitNativeBatch, ConfirmClear
from callboard.core.leases import overdue_after_ms
from callboard.core.native_leader_records import ProposalDone, ProposalFailed, RequestRound, SendGone, SendWelcome
from callboard.core.records import Answer, AnswerCode
from tests.core.leader_driver import NAME, SETTINGS, START_MS, LeaderDriver, kept, one_host, record, two_hosts

TICK_MS = SETTINGS.tick_ms
TIMEOUT_MS = SETTINGS.failure_timeout_ms
WAIT_MS = SETTINGS.wait_ms()


def test_what_is_in_flight_is_no_deadline() -> None:
    driver = LeaderDriver()
    driver.hello(1, record("a"))
    driver.hello(2, record("b"))
    assert driver.machine.next_deadline_ms() is None, "a batch is in flight: only its answer can change anything"
    driver.commit()
    assert driver.machine.next_deadline_ms() == START_MS + SETTINGS.tick_ms


def test_what_a_round_will_not_answer_waits_for_its_end() -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1)
    driver.confirm_round()
    driver.at(driver.now_ms + SETTINGS.tick_ms)
    driver.renew(1, incarnation, 2, base=1)
    heard_ms = driver.now_ms = driver.now_ms + 1
    driver.renew(1, incarnation, 3, base=2)
    assert driver.machine.next_deadline_ms() == heard_ms + TIMEOUT_MS, "a round is running"


def test_a_hello_may_be_repeated_on_its_stream() -> None:
    driver, incarnation = one_host()
    driver.hello(1, record("a"), incarnation)
    assert driver.closed() == []
    assert driver.of(SendWelcome)[0].welcome.incarnation == incarnation


def test_the_hello_that_a_front_repeats_is_not_the_hosts_word() -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1)
    driver.confirm_round()
    version, digest = driver.namespace.version.wire, driver.machine.view.digest
    heard_ms = driver.now_ms = driver.now_ms + 500
    driver.hello(2, record("a"), incarnation, 2, have_version=version, have_digest=digest)
    driver.now_ms += 500
    driver.hello(3, record("a"), incarnation, 3, have_version=version, have_digest=digest, by_front=True)
    driver.at(heard_ms + TIMEOUT_MS - 1)
    assert not driver.proposals
    driver.at(heard_ms + TIMEOUT_MS)
    assert driver.proposed(CommitNativeBatch)[0].reason == f"a was not heard of for {TIMEOUT_MS} ms"


def test_one_round_at_a_time() -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1)
    driver.now_ms += 5 * SETTINGS.tick_ms
    driver.renew(1, incarnation, 2, base=1)
    assert not driver.of(RequestRound)
    driver.confirm_round()
    assert [each.number for each in driver.answers()] == [1]
    assert driver.of(RequestRound), "the next one follows at once"


def test_nobody_is_answered_without_a_stream() -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1)
    driver.end(1)
    assert driver.confirm_round() == []
    assert driver.machine.views.leases(driver.now_ms)[0].answered_ms is None


def test_only_another_process_replaces() -> None:
    driver, incarnation = one_host()
    driver.hello(2, record("a"), incarnation + 7)
    driver.confirm_round()
    assert not driver.of(SendGone)[0].gone.replaced


def test_a_host_that_never_spoke_after_it_was_told_is_silent_not_overdue() -> None:
    driver, _ = one_host()
    driver.at(driver.now_ms + TIMEOUT_MS)
    assert driver.proposed(CommitNativeBatch)[0].reason == f"a was not heard of for {TIMEOUT_MS} ms"


def test_confirmations_are_not_repeated() -> None:
    driver, first, _ = two_hosts()
    driver.renew(1, first, 2, taken=kept(driver, first))
    assert driver.proposed(ConfirmClear)
    driver.commit_all()
    driver.at(driver.now_ms + 5 * SETTINGS.tick_ms)
    assert not driver.proposed(ConfirmClear)


def test_a_host_that_holds_on_while_it_is_told_more_keeps_its_deadline() -> None:
    driver, first, _ = two_hosts()
    driver.renew(1, first, 2, base=1)
    reported_ms = driver.now_ms
    driver.join(3, record("c"))
    driver.renew(1, first, 3, base=2)
    assert driver.now_ms > reported_ms, "it owes slots of c too, since now"
    assert driver.machine.next_deadline_ms() == reported_ms + overdue_after_ms(SETTINGS)


def test_at_its_deadline_a_host_that_holds_on_is_overdue_whatever_it_was_told_since() -> None:
    driver, first, _ = two_hosts()
    driver.renew(1, first, 2, base=1)
    reported_ms = driver.now_ms
    driver.join(3, record("c"))
    driver.renew(1, first, 3, base=2)
    driver.at(reported_ms + overdue_after_ms(SETTINGS) - 1)
    assert driver.machine.views.overdue(driver.now_ms) == []
    driver.at(reported_ms + overdue_after_ms(SETTINGS))
    assert [(each.incarnation, each.late_ms) for each in driver.machine.views.overdue(driver.now_ms)] == [(first, 0)]
    assert "a is overdue" in driver.proposed(CommitNativeBatch)[0].reason


def test_nobody_wakes_up_for_the_slots_of_a_host_that_is_removed_anyway() -> None:
    driver, first, _ = two_hosts()
    driver.now_ms += TICK_MS
    driver.renew(1, first, 2, base=1, leaving=True)
    driver.confirm_round()
    assert driver.proposed(CommitNativeBatch)
    due_ms = driver.machine.next_deadline_ms()
    assert due_ms is not None
    assert due_ms > driver.now_ms + overdue_after_ms(SETTINGS)


def two_removed() -> tuple[LeaderDriver, int, int]:
    """Two hosts were removed, and the first of them has said farewell."""
    driver = LeaderDriver()
    first, second = driver.join(1, record("a")), driver.join(2, record("b"))
    driver.now_ms += TICK_MS
    driver.remove(first, second)
    driver.farewell(1, first)
    return driver, first, second


def test_no_burial_is_waited_for_while_one_is_in_flight() -> None:
    driver, first, _ = two_removed()
    ((number, bury),) = driver.proposals.items()
    assert bury == Bury(NAME, (first,))
    driver.log(driver.proposals.pop(number))
    assert driver.machine.next_deadline_ms() is None, "the answer is still to come"
    driver.event(ProposalDone(number, Answer(AnswerCode.OK)))
    assert driver.machine.next_deadline_ms() == START_MS + WAIT_MS


def test_a_burial_that_failed_once_does_not_hide_when_the_next_is_due() -> None:
    driver, first, second = two_removed()
    driver.fail()
    assert driver.machine.next_deadline_ms() == driver.now_ms + TICK_MS
    driver.at(driver.now_ms + TICK_MS)
    assert driver.proposed(Bury) == [Bury(NAME, (first,))]
    driver.commit()
    assert driver.machine.next_deadline_ms() == START_MS + WAIT_MS
    driver.at(START_MS + WAIT_MS)
    assert driver.proposed(Bury) == [Bury(NAME, (second,))]


def test_the_failure_of_what_is_not_in_flight_delays_nothing() -> None:
    driver = LeaderDriver()
    driver.hello(1, record("a"))
    driver.event(ProposalFailed(77))
    assert driver.machine.next_deadline_ms() is None


def test_what_was_refused_is_tried_again_a_tick_later() -> None:
    driver, first, _ = two_hosts()
    driver.renew(1, first, 2, taken=kept(driver, first))
    ((number, command),) = driver.proposals.items()
    assert isinstance(command, ConfirmClear)
    del driver.proposals[number]
    driver.event(ProposalDone(number, Answer(AnswerCode.UNSUPPORTED)))
    driver.at(driver.now_ms + TICK_MS - 1)
    assert not driver.proposals
    driver.at(driver.now_ms + 1)
    assert driver.proposed(ConfirmClear) == [command]
