"""What a leader notes of its hosts: what they report and are told, and when the removed ones may be buried."""

from __future__ import annotations

from attrs import evolve

from callboard.core.handoff_messages import Held, Renewal
from callboard.core.native_attendance import Attendance, KnownHost
from tests.core.leader_driver import SETTINGS, SLOT_BITS, START_MS, LeaderDriver, one_host, record, two_hosts

TIMEOUT_MS = SETTINGS.failure_timeout_ms
WAIT_MS = SETTINGS.wait_ms()
REPORT = Renewal(number=1, incarnation=7, connection=1, epoch=1, version=4, taken=(Held("cart", 0, 2, 4, 5),))


def attendance_of(driver: LeaderDriver) -> Attendance:
    """Of an office that begins at START_MS with the members that there are."""
    attendance = Attendance(driver.namespace, START_MS)
    attendance.follow(driver.namespace, START_MS)
    return attendance


def test_a_report_on_a_base_that_is_not_at_hand_says_nothing() -> None:
    known = KnownHost(7, "a", ("cart",), START_MS)
    known.connected(1, 1)
    assert known.take_in(REPORT) is True
    assert known.take_in(evolve(REPORT, number=3, base_number=2, version=5, taken=())) is False
    assert not known.holding_known
    assert (known.version, known.last_number) == (4, 3)
    assert known.holding.has("cart", 0)


def test_over_a_new_connection_nothing_has_been_reported_yet() -> None:
    known = KnownHost(7, "a", ("cart",), START_MS)
    known.connected(1, 1)
    known.take_in(REPORT)
    known.connected(2, 2)
    assert not known.holding_known


def test_a_report_of_an_older_version_does_not_settle_what_a_host_was_told() -> None:
    driver, incarnation = one_host()
    attendance = attendance_of(driver)
    known = attendance.hosts[incarnation]
    known.sent_version = 2
    attendance.note_told(known, START_MS + 100)
    known.version = 1
    attendance.note_installed(known, START_MS + 200)
    assert attendance.lagging(START_MS + 100 + TIMEOUT_MS - 1) == []
    assert attendance.lagging(START_MS + 100 + TIMEOUT_MS) == [incarnation]
    known.version = 2
    attendance.note_installed(known, START_MS + 300)
    assert attendance.lagging(START_MS + 10 * TIMEOUT_MS) == []


def test_what_a_host_was_told_later_counts_from_when_it_caught_up_with_what_came_before() -> None:
    driver, incarnation = one_host()
    attendance = attendance_of(driver)
    known = attendance.hosts[incarnation]
    for version, told_ms in ((2, START_MS + 100), (3, START_MS + 200)):
        known.sent_version = version
        attendance.note_told(known, told_ms)
    known.version = 2
    attendance.note_installed(known, START_MS + 300)
    assert attendance.lagging(START_MS + 300 + TIMEOUT_MS - 1) == []
    assert attendance.lagging(START_MS + 300 + TIMEOUT_MS) == [incarnation]


def test_each_tombstone_is_buried_in_its_own_time() -> None:
    driver, first, second = two_hosts()
    attendance = attendance_of(driver)
    attendance.hosts[first].answered_ms, attendance.hosts[second].answered_ms = START_MS + 100, START_MS + 300
    driver.remove(first, second)
    attendance.follow(driver.namespace, START_MS + 300)
    assert attendance.burial_due_ms == START_MS + 100 + WAIT_MS
    assert attendance.to_bury(START_MS + 100 + WAIT_MS - 1) == ()
    assert attendance.to_bury(START_MS + 100 + WAIT_MS) == (first,)
    assert attendance.to_bury(START_MS + 300 + WAIT_MS) == (first, second)


def test_a_member_with_more_actor_types_than_before_is_granted_those_too() -> None:
    driver, incarnation = one_host()
    driver.now_ms += SETTINGS.tick_ms
    driver.hello(2, record("a", "cart", "user"), incarnation, 2)
    driver.commit()
    assert driver.namespace.members["a"].incarnation == incarnation
    granted = [held for _, held in driver.granted() if held.actor_type == "user"]
    assert sum(held.count for held in granted) == 1 << SLOT_BITS
