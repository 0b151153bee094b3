"""A native host by itself: words that come before or after their time."""

from __future__ import annotations

from callboard.core.handoff_messages import Farewell, Gone, Held, Renewal
from callboard.core.leases import NO_LEASE
from callboard.core.native_host_records import (
    Disconnected,
    Granted,
    LeaveRequested,
    SendFarewell,
    SendTableRequest,
    Stopped,
)
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
