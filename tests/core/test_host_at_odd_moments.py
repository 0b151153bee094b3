"""A native host by itself: words that come before or after their time."""

from __future__ import annotations

import pytest
from attrs import evolve

from callboard.core.handoff_messages import Farewell, Gone, Held, Renewal, SlotRun
from callboard.core.leases import NO_LEASE
from callboard.core.native_host_records import (
    BecomeNewIncarnation,
    Disconnected,
    Drained,
    Ended,
    Granted,
    LeaveRequested,
    Refusal,
    SendFarewell,
    SendTableRequest,
    StopAdmitting,
    Stopped,
)
from callboard.core.slot_records import HandoffSettings
from callboard.core.table_delta import make_view
from callboard.core.versions import Policy
from tests.core.host_driver import (
    CANCEL_MS,
    GATE_MS,
    ME,
    OTHER,
    SETTINGS,
    SLOT_BITS,
    START_MS,
    Driver,
    joined,
    lapsed,
    lose_slot_0,
    serving,
    view,
)


def test_grants_that_come_before_the_table_are_not_accepted() -> None:
    driver = Driver()
    driver.connect()
    driver.welcome()
    driver.answer(driver.renewals[-1].number, grants=(Held("cart", 0, 1, 4, 5),))
    assert driver.effects == []


def test_a_leaving_host_accepts_no_grants() -> None:
    driver = joined()
    driver.grant(Held("cart", 0, 1, 4, 5))
    driver.event(LeaveRequested("stop"))
    driver.grant(Held("cart", 1, 1, 4, 5))
    assert not driver.of(Granted)


def test_where_nothing_is_held_nothing_is_cancelled() -> None:
    driver = joined()
    driver.event(Disconnected(1))
    assert driver.at(CANCEL_MS) == []
    assert driver.at(GATE_MS) == []


def test_a_farewell_is_the_last_word() -> None:
    driver = joined()
    driver.now_ms += SETTINGS.tick_ms
    assert driver.event(LeaveRequested("stop")) == [SendFarewell(1, Farewell(ME)), Stopped("stop")]


def test_under_eventual_a_host_need_not_be_answered_to_serve() -> None:
    driver = Driver(Policy.EVENTUAL)
    driver.connect()
    driver.welcome()
    driver.install(view(4, {"cart": (ME, ME, OTHER, OTHER)}))
    assert driver.of(Granted) == [Granted((Held("cart", 0, 2, 4, 0),))]
    assert driver.right(0).fence == 0


def test_under_eventual_an_answer_may_come_before_the_table() -> None:
    driver = Driver(Policy.EVENTUAL)
    driver.connect()
    driver.welcome()
    driver.answer(driver.renewals[-1].number)
    assert driver.effects == []


def test_under_eventual_a_host_takes_nothing_from_when_its_isolation_is_too_long() -> None:
    for late_ms, takes in ((-1, True), (0, False)):
        driver = serving(Policy.EVENTUAL, evolve(SETTINGS, max_isolation_ms=700))
        driver.now_ms = START_MS + 700 + late_ms
        driver.install(view(5, {"cart": (ME, ME, ME, OTHER)}, {"cart": (4, 4, 5, 4)}))
        assert bool(driver.of(Granted)) is takes


def test_version_0_is_no_newer_table() -> None:
    driver = Driver()
    driver.connect()
    driver.welcome()
    driver.answer(driver.renewals[-1].number, version=0)
    assert not driver.of(SendTableRequest)


def test_a_host_that_a_table_does_not_have_renews_no_more() -> None:
    driver = serving()
    newer = view(5, {"cart": (OTHER,) * 4})
    driver.install(make_view(5, SLOT_BITS, {OTHER: newer.hosts[OTHER]}, dict(newer.tables)))
    sent = len(driver.renewals)
    driver.at(START_MS + SETTINGS.drain_ms)
    assert len(driver.renewals) == sent


def test_a_host_that_a_table_does_not_have_becomes_another_even_if_it_is_told_so_again() -> None:
    driver = serving()
    newer = view(5, {"cart": (OTHER,) * 4})
    driver.install(make_view(5, SLOT_BITS, {OTHER: newer.hosts[OTHER]}, dict(newer.tables)))
    driver.gone()
    driver.event(Drained("cart", (0, 1)))
    text = f"table of version 5 does not have incarnation {ME}"
    assert driver.of(BecomeNewIncarnation) == [BecomeNewIncarnation(text, replaced=False)]


def test_a_leaving_host_asks_for_no_tables() -> None:
    driver = serving()
    driver.event(LeaveRequested("stop"))
    driver.answer(1, version=5)
    assert not driver.of(SendTableRequest)


def test_a_leaving_host_whose_lease_ran_out_is_over_before_anything_else() -> None:
    driver = serving()
    driver.event(Disconnected(1))
    driver.event(LeaveRequested("stop"))
    driver.now_ms = GATE_MS
    driver.connect()
    assert [type(each) for each in driver.effects] == [Ended, Stopped]


def test_what_happens_in_one_millisecond_is_told_together() -> None:
    shortest = HandoffSettings(lease_ms=3000, drain_ms=0, margin_ms=0, tick_ms=1, failure_timeout_ms=4000)
    driver = serving(settings=shortest)
    assert [(each.version, each.taken) for each in driver.renewals] == [(0, ())]
    driver.at(START_MS + SETTINGS.tick_ms)
    assert [(each.version, each.taken) for each in driver.renewals[1:]] == [(4, (Held("cart", 0, 2, 4, 5),))]


def test_slots_of_a_type_that_has_no_table_any_more_are_lost() -> None:
    driver = serving()
    driver.install(view(5, {}))
    assert driver.of(StopAdmitting)[0].spans == (SlotRun("cart", 0, 2),)
    assert driver.machine.admit("cart", 0, driver.now_ms) is Refusal.UNKNOWN_TYPE


def test_rights_that_a_newer_table_leaves_alone_are_still_asked_for_again() -> None:
    driver = lapsed()
    lose_slot_0(driver)
    driver.at(GATE_MS + SETTINGS.tick_ms)
    driver.install(view(6, {}))
    driver.at(GATE_MS + 2 * SETTINGS.tick_ms)
    said = [(each.version, each.requests) for each in driver.renewals[-2:]]
    assert said == [(5, (Held("cart", 1, 1, 4, 5),)), (6, ())]


def test_of_very_many_rights_that_ended_so_many_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.core.native_rights.REQUESTS_MAX", 2)
    driver = joined((ME, ME, ME, ME))
    driver.grant(*(Held("cart", slot, 1, 4, 5 + slot) for slot in range(4)))
    driver.event(Disconnected(1))
    driver.at(GATE_MS)
    driver.connect()
    driver.welcome()
    first = driver.renewals[-1]
    assert first.requests == (Held("cart", 0, 1, 4, 5), Held("cart", 1, 1, 4, 6))
    driver.answer(first.number, grants=(Held("cart", 0, 2, 4, 9),))
    driver.at(GATE_MS + SETTINGS.tick_ms)
    assert driver.renewals[-1].requests == (Held("cart", 2, 1, 4, 7), Held("cart", 3, 1, 4, 8))


def test_no_reading_of_a_clock_lies_within_no_lease() -> None:
    assert max(NO_LEASE.admit_until_ms, NO_LEASE.cancel_at_ms, NO_LEASE.gate_until_ms) < -(10**15)


def test_an_overdue_host_lets_its_lease_run_out() -> None:
    driver = serving()
    lose_slot_0(driver)
    overdue_ms = START_MS + SETTINGS.drain_ms + 1 + SETTINGS.margin_ms
    driver.at(overdue_ms - 1)
    sent = len(driver.renewals)
    for later_ms in range(0, 600, 50):
        driver.at(overdue_ms + later_ms)
    assert len(driver.renewals) == sent


def test_a_removed_incarnation_that_is_told_to_stop_does_not_renew_again() -> None:
    driver = serving()
    driver.gone()
    driver.event(LeaveRequested("stop"))
    sent = len(driver.renewals)
    driver.at(START_MS + SETTINGS.drain_ms)
    assert len(driver.renewals) == sent


def test_messages_say_only_what_they_are_told_to_say() -> None:
    assert not Renewal(number=1, incarnation=1, connection=1, epoch=1, version=0).leaving
    assert not Gone(1, "removed").replaced
