"""A leader of native hosts by itself: what it counts no more, and what it keeps no longer."""

from __future__ import annotations

import pytest

from callboard.core.commands import Bury, ConfirmClear
from callboard.core.native_attendance import Attendance
from tests.core.leader_driver import (
    NAME,
    SETTINGS,
    SLOT_BITS,
    LeaderDriver,
    all_held,
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
    removed, forgotten = attendance.follow(driver.namespace, driver.now_ms)
    assert ([each.incarnation for each in removed], forgotten) == ([first], [])
    assert sorted(attendance.hosts) == [first, second]
    driver.log(Bury(NAME, (first,)))
    assert attendance.follow(driver.namespace, driver.now_ms) == ([], [first])
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
