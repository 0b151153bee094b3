"""A native host by itself: drains, renewals, what ends with a lease, and how a host leaves (rules H6 to H8)."""

from __future__ import annotations

import pytest
from attrs import evolve

from callboard.core.handoff_messages import NO_INCARNATION, Farewell, Held, SlotRun
from callboard.core.native_host import NativeHost
from callboard.core.native_host_records import (
    BecomeNewIncarnation,
    CancelTurns,
    Connected,
    Disconnected,
    Drained,
    Ended,
    EndReason,
    Granted,
    LeaveRequested,
    Refusal,
    SendFarewell,
    SendRenewal,
    StopAdmitting,
    Stopped,
)
from callboard.core.native_parting import Phase
from callboard.core.native_renewals import UNANSWERED_MAX
from callboard.core.slot_records import HandoffSettings
from callboard.core.versions import Policy
from tests.core.host_driver import (
    ADMIT_MS,
    CANCEL_MS,
    EPOCH,
    GATE_MS,
    ME,
    OTHER,
    SETTINGS,
    START_MS,
    Driver,
    joined,
    lapsed,
    lose_slot_0,
    serving,
    view,
)

GAP_MS = SETTINGS.tick_ms // 8


# ---- drains and overdue hosts


def test_turns_of_lost_slots_are_cancelled_and_then_the_host_stops_renewing() -> None:
    driver = serving()
    driver.now_ms = lost_ms = START_MS + 50
    lose_slot_0(driver)
    cancel_ms = lost_ms + SETTINGS.drain_ms + 1
    overdue_ms = cancel_ms + SETTINGS.margin_ms
    driver.at(lost_ms + 10)
    driver.answer(driver.renewals[-1].number)
    driver.at(cancel_ms - 1)
    assert not driver.of(CancelTurns)
    assert driver.machine.next_deadline_ms() == cancel_ms
    driver.at(cancel_ms)
    assert driver.of(CancelTurns) == [CancelTurns((SlotRun("cart", 0, 1),), overdue_ms)]
    driver.at(cancel_ms + 1)
    assert not driver.of(CancelTurns)
    driver.at(overdue_ms - 1)
    assert driver.renewals[-1].leaving is False
    assert driver.machine.next_deadline_ms() == overdue_ms
    driver.at(overdue_ms)
    assert driver.phase is Phase.LEAVING
    assert not driver.of(SendRenewal)
    driver.event(Drained("cart", (0,)))
    driver.event(Drained("cart", (1,)))
    text = "turns of lost slots did not end within drain and margin, 300 ms"
    assert driver.of(Stopped) == [Stopped(text, overdue=True)]


def test_the_gate_of_cancelled_turns_shuts_with_the_lease_if_that_is_sooner() -> None:
    driver = serving()
    driver.event(Disconnected(1))
    driver.connect()
    driver.welcome()
    driver.now_ms = ADMIT_MS - 10
    lose_slot_0(driver)
    driver.at(CANCEL_MS - 9)
    assert driver.of(CancelTurns) == [CancelTurns((SlotRun("cart", 0, 1),), GATE_MS - 10 + 1)]
    late = serving()
    late.now_ms = ADMIT_MS + 40
    lose_slot_0(late)
    late.at(CANCEL_MS)
    assert late.of(CancelTurns) == [CancelTurns((SlotRun("cart", 0, 2),), GATE_MS)]
    late.at(CANCEL_MS + 41)
    assert late.of(CancelTurns) == [CancelTurns((SlotRun("cart", 0, 1),), GATE_MS)]


def test_the_lease_ends_rights_that_drain_too() -> None:
    driver = serving()
    driver.event(Disconnected(1))
    lose = driver.right(0)
    driver.connection += 1
    driver.event(Connected(2))
    driver.now_ms = CANCEL_MS
    lose_slot_0(driver)
    driver.at(GATE_MS)
    assert Ended((SlotRun("cart", 0, 2),), EndReason.LEASE) in driver.effects
    assert not driver.machine.gate_open(lose, driver.now_ms)
    assert driver.phase is Phase.RUNNING


# ---- renewals (H6) and what they report


def test_renewals_report_what_changed_since_the_one_before() -> None:
    driver = joined()
    first = driver.renewals[-1]
    assert (first.base_number, first.taken, first.version) == (0, (), 0)
    driver.now_ms += SETTINGS.tick_ms
    driver.grant(Held("cart", 0, 2, 4, 5))
    second = driver.renewals[-1]
    assert (second.base_number, second.version) == (first.number, 4)
    assert second.taken == (Held("cart", 0, 2, 4, 5),)
    lose_slot_0(driver)
    driver.now_ms += SETTINGS.tick_ms
    driver.event(Drained("cart", (0,)))
    third = driver.renewals[-1]
    assert (third.base_number, third.taken, third.dropped) == (second.number, (), (SlotRun("cart", 0, 1),))
    assert (third.version, third.epoch, third.incarnation, third.connection) == (5, EPOCH, ME, 1)
    driver.connect()
    driver.now_ms += SETTINGS.tick_ms
    driver.welcome()
    full = driver.renewals[-1]
    assert (full.base_number, full.taken, full.dropped) == (0, (Held("cart", 1, 1, 4, 5),), ())
    assert full.connection == 2


def test_a_leader_that_lost_count_hears_everything_again_once() -> None:
    driver = serving()
    driver.now_ms += SETTINGS.tick_ms
    driver.answer(driver.renewals[-1].number, holding_known=False)
    full = driver.renewals[-1]
    assert (full.base_number, full.taken) == (0, (Held("cart", 0, 2, 4, 5),))
    driver.now_ms += SETTINGS.tick_ms
    driver.answer(full.number - 1, holding_known=False)
    assert driver.renewals[-1] is full, "that was asked before the full report"
    driver.answer(full.number, holding_known=False)
    assert driver.renewals[-1].base_number == 0
    assert driver.renewals[-1] is not full


def test_renewals_leave_in_time_and_not_for_every_little_thing() -> None:
    driver = serving()
    every_ms = (SETTINGS.lease_ms - SETTINGS.drain_ms - SETTINGS.margin_ms) // 3
    sent_ms = START_MS
    driver.at(sent_ms + GAP_MS - 1)
    assert not driver.of(SendRenewal)
    driver.at(sent_ms + GAP_MS)
    assert len(driver.of(SendRenewal)) == 1, "the grant is told after the shortest gap"
    sent_ms = driver.now_ms
    driver.at(sent_ms + every_ms - 1)
    assert not driver.of(SendRenewal)
    assert driver.machine.next_deadline_ms() == sent_ms + every_ms
    driver.at(sent_ms + every_ms)
    assert len(driver.of(SendRenewal)) == 1
    numbers = [renewal.number for renewal in driver.renewals]
    assert numbers == sorted(set(numbers))


def test_a_lease_counts_from_when_its_renewal_was_sent_whatever_comes_first() -> None:
    driver = serving()
    sent: dict[int, int] = {}
    for step in range(1, 4):
        driver.at(START_MS + step * 240)
        sent[driver.renewals[-1].number] = driver.now_ms
    first, second, third = sent
    driver.answer(second)
    assert driver.machine.lease_remaining_ms(sent[second]) == SETTINGS.lease_ms
    driver.answer(first)
    assert driver.machine.lease_remaining_ms(sent[second]) == SETTINGS.lease_ms
    driver.answer(third + 1)
    assert driver.machine.lease_remaining_ms(sent[second]) == SETTINGS.lease_ms, "that one was never sent"
    driver.answer(third)
    assert driver.machine.lease_remaining_ms(sent[second]) == SETTINGS.lease_ms, "all up to the unknown are answered"


def test_an_answer_lets_cancelled_hosts_go_on() -> None:
    driver = serving()
    driver.at(CANCEL_MS)
    assert driver.of(CancelTurns)
    number = driver.renewals[-1].number
    driver.now_ms += 1
    driver.answer(number)
    assert driver.right(0)
    driver.at(driver.now_ms + SETTINGS.lease_ms - SETTINGS.margin_ms - 2)
    assert not driver.of(CancelTurns)
    driver.at(driver.now_ms + 1)
    assert driver.of(CancelTurns)


def test_only_so_many_unanswered_renewals_are_remembered() -> None:
    driver = serving(settings=evolve(SETTINGS, lease_ms=100_000, failure_timeout_ms=110_000))
    driver.answer(driver.renewals[-1].number)
    begun = driver.renewals[-1].number
    times: dict[int, int] = {}
    while len(times) < UNANSWERED_MAX + 1:
        deadline_ms = driver.machine.next_deadline_ms()
        assert deadline_ms is not None
        driver.now_ms = min(deadline_ms, driver.now_ms + 500)
        driver.connect()
        driver.welcome()
        if driver.renewals[-1].number > begun + len(times):
            times[driver.renewals[-1].number] = driver.now_ms
    remaining_ms = driver.machine.lease_remaining_ms(driver.now_ms)
    oldest, second = sorted(times)[:2]
    driver.answer(oldest)
    assert driver.machine.lease_remaining_ms(driver.now_ms) == remaining_ms
    driver.answer(second)
    assert driver.machine.lease_remaining_ms(times[second]) == 100_000


def test_rights_that_ended_with_their_lease_are_asked_for_again() -> None:
    driver = lapsed()
    renewal = driver.renewals[-1]
    assert renewal.requests == (Held("cart", 0, 2, 4, 5),)
    assert not renewal.taken
    driver.answer(renewal.number, grants=(Held("cart", 0, 1, 4, 6),))
    driver.now_ms += SETTINGS.tick_ms
    driver.at(driver.now_ms)
    assert driver.renewals[-1].requests == (Held("cart", 1, 1, 4, 5),)
    driver.install(view(5, {"cart": (ME, OTHER, OTHER, OTHER)}, {"cart": (4, 5, 4, 4)}))
    driver.at(driver.now_ms + SETTINGS.tick_ms)
    assert not driver.renewals[-1].requests


# ---- leaving (H8)


def test_an_orderly_stop_keeps_renewing_until_all_turns_are_done() -> None:
    driver = serving()
    driver.at(START_MS + GAP_MS)
    assert not driver.renewals[-1].leaving
    driver.now_ms += GAP_MS
    driver.event(LeaveRequested("stop"))
    assert driver.of(StopAdmitting) == [StopAdmitting((SlotRun("cart", 0, 2),), driver.now_ms + SETTINGS.drain_ms + 1)]
    assert [each.renewal.leaving for each in driver.of(SendRenewal)] == [True], "it is told at once"
    assert not driver.of(Stopped)
    driver.answer(driver.renewals[-1].number, grants=(Held("cart", 0, 1, 4, 9),))
    assert not driver.of(Granted)
    driver.install(view(5, {"cart": (ME,) * 4}))
    assert driver.machine.view is not None
    assert driver.machine.view.version == 4
    driver.event(Drained("cart", (0,)))
    assert not driver.of(Stopped)
    driver.event(Drained("cart", (1,)))
    assert [type(each) for each in driver.effects] == [Ended, SendFarewell, Stopped]
    assert driver.of(Stopped) == [Stopped("stop", overdue=False)]
    assert driver.of(SendFarewell) == [SendFarewell(1, Farewell(ME))]
    assert driver.machine.next_deadline_ms() is None
    assert driver.machine.lease_remaining_ms(driver.now_ms) == 0
    assert driver.event(Connected(9)) == []


def test_a_stop_before_any_right_is_at_once_and_without_a_farewell_if_nobody_knows_it() -> None:
    driver = Driver()
    driver.connect()
    driver.event(LeaveRequested("stop"))
    assert driver.effects == [Stopped("stop")]


def test_a_leaving_host_that_is_gone_renews_no_more_and_does_not_come_back() -> None:
    driver = serving()
    driver.event(LeaveRequested("stop"))
    driver.gone()
    sent = len(driver.renewals)
    driver.at(START_MS + SETTINGS.drain_ms)
    assert len(driver.renewals) == sent
    driver.event(Drained("cart", (0, 1)))
    assert driver.of(Stopped) == [Stopped("stop")]


def test_a_gone_host_that_is_told_to_stop_does_not_come_back_either() -> None:
    driver = serving()
    driver.gone(replaced=True)
    driver.event(LeaveRequested("stop"))
    driver.event(Drained("cart", (0, 1)))
    assert not driver.of(BecomeNewIncarnation)
    assert driver.of(Stopped)


def test_a_removed_incarnation_drains_and_becomes_a_new_one() -> None:
    driver = serving()
    driver.gone(ME + 1)
    assert driver.phase is Phase.RUNNING
    driver.gone(replaced=True)
    assert driver.of(StopAdmitting)
    assert not driver.of(SendRenewal)
    assert driver.machine.admit("cart", 0, driver.now_ms) is Refusal.LEAVING
    driver.event(Drained("cart", (0, 1)))
    assert driver.of(BecomeNewIncarnation) == [BecomeNewIncarnation("not a member", replaced=True)]


@pytest.mark.parametrize("order", [(False, True), (True, False)])
def test_whoever_is_told_twice_that_it_is_gone_knows_that_it_was_replaced(order: tuple[bool, bool]) -> None:
    driver = serving()
    for replaced in order:
        driver.gone(replaced=replaced)
    driver.event(Drained("cart", (0, 1)))
    assert driver.of(BecomeNewIncarnation) == [BecomeNewIncarnation("not a member", replaced=True)]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_host_that_was_removed_before_it_was_welcomed_is_another_one_from_then_on(*, replaced: bool) -> None:
    driver = Driver()
    driver.connect()
    driver.gone(7)
    assert driver.phase is Phase.JOINING, "that is another incarnation"
    driver.gone(NO_INCARNATION, replaced=replaced)
    assert driver.effects == [BecomeNewIncarnation("not a member", replaced)], "and there is nothing to say farewell to"


def test_a_host_that_knows_its_incarnation_is_not_gone_because_it_was_without_one() -> None:
    driver = serving()
    driver.gone(NO_INCARNATION)
    assert driver.phase is Phase.RUNNING


def test_a_stop_whose_turns_do_not_end_is_overdue() -> None:
    driver = serving()
    driver.event(LeaveRequested("stop"))
    overdue_ms = START_MS + SETTINGS.drain_ms + 1 + SETTINGS.margin_ms
    driver.at(overdue_ms - 1)
    driver.answer(driver.renewals[-1].number)
    sent = len(driver.renewals)
    driver.at(overdue_ms)
    driver.at(overdue_ms + 400)
    assert len(driver.renewals) == sent
    driver.event(Drained("cart", (0, 1)))
    assert driver.of(Stopped) == [Stopped("stop", overdue=True)]


def test_a_leaving_host_asks_for_nothing_again() -> None:
    driver = lapsed()
    number = driver.renewals[-1].number
    driver.answer(number, grants=(Held("cart", 0, 1, 4, 6),))
    driver.now_ms += SETTINGS.tick_ms
    driver.event(LeaveRequested("stop"))
    assert driver.renewals[-1].requests == ()
    assert driver.renewals[-1].leaving


# ---- policy eventual


def test_under_eventual_the_table_alone_gives_rights() -> None:
    driver = serving(Policy.EVENTUAL)
    assert driver.right(0).fence == 0
    assert driver.machine.admit("cart", 2, driver.now_ms) is Refusal.NOT_OWNER
    driver.at(START_MS + 10 * SETTINGS.lease_ms)
    assert driver.right(0), "without max_isolation_ms a host never stops"
    renewal = driver.renewals[-1]
    assert (renewal.taken, renewal.dropped, renewal.requests) == ((), (), ())
    driver.now_ms += 50
    lose_slot_0(driver)
    assert driver.of(StopAdmitting)
    back = view(6, {"cart": (ME, ME, OTHER, OTHER)}, {"cart": (6, 4, 4, 4)})
    driver.install(back)
    assert not driver.of(Granted), "a slot that is being drained is not taken"
    driver.event(Drained("cart", (0,)))
    assert driver.of(Granted) == [Granted((Held("cart", 0, 1, 6, 0),))]


def test_under_eventual_grants_do_not_count() -> None:
    driver = joined((OTHER, OTHER, ME, ME), Policy.EVENTUAL)
    assert driver.machine.admit("cart", 0, driver.now_ms) is Refusal.NOT_OWNER
    assert driver.right(3).since == 4


def test_isolation_ends_rights_and_an_answer_brings_them_back() -> None:
    settings = evolve(SETTINGS, max_isolation_ms=700)
    driver = Driver(Policy.EVENTUAL, settings)
    driver.connect()
    driver.welcome()
    driver.install(view(4, {"cart": (ME, ME, OTHER, OTHER)}))
    assert driver.machine.admit("cart", 0, driver.now_ms) is Refusal.NOT_GRANTED, "isolated until the first answer"
    driver.answer(driver.renewals[-1].number)
    assert driver.of(Granted) == [Granted((Held("cart", 0, 2, 4, 0),))]
    driver.event(Disconnected(1))
    right = driver.right(0)
    assert driver.machine.gate_open(right, START_MS + 699)
    driver.at(START_MS + 700)
    assert driver.effects == [Ended((SlotRun("cart", 0, 2),), EndReason.LEASE)]
    driver.connect()
    driver.welcome()
    driver.answer(driver.renewals[-1].number)
    assert driver.right(0) is not right


def test_an_overdue_host_under_eventual_stops_at_once() -> None:
    driver = serving(Policy.EVENTUAL)
    lose_slot_0(driver)
    driver.at(START_MS + SETTINGS.drain_ms + 1 + SETTINGS.margin_ms)
    assert Ended((SlotRun("cart", 0, 2),), EndReason.STOPPED) in driver.effects
    assert driver.of(Stopped)[0].overdue


def test_a_machine_that_is_over_does_nothing() -> None:
    driver = Driver()
    driver.event(LeaveRequested("stop"))
    assert driver.effects == [Stopped("stop")]
    driver.connect()
    assert driver.effects == []


def test_settings_come_with_the_welcome() -> None:
    settings = HandoffSettings(lease_ms=3000, drain_ms=0, margin_ms=0, tick_ms=1, failure_timeout_ms=4000)
    driver = serving(settings=settings)
    assert driver.machine.lease_remaining_ms(START_MS) == 3000
    assert isinstance(driver.machine, NativeHost)
