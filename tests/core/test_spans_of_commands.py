"""Commands of leaders that fit one log entry, and durations below zero."""

from __future__ import annotations

import pytest

from callboard.core import native_releases
from callboard.core.commands import ConfirmClear
from callboard.core.durations import format_duration_ms
from callboard.core.handoff_messages import SlotRun
from tests.core.leader_driver import LeaderDriver, moved, two_hosts


def confirmed(driver: LeaderDriver, first: int) -> list[int]:
    """The host releases every other slot that it lost: how many slots the confirmations name, one by one."""
    released = tuple(SlotRun("cart", slot, 1) for slot in moved(driver)[::2])
    driver.renew(1, first, 2, base=1, dropped=released)
    found = []
    while driver.proposed(ConfirmClear):
        (command,) = driver.proposed(ConfirmClear)
        assert all(span.count == 1 for span in command.spans)
        found.append(len(command.spans))
        driver.commit()
    return found


def test_a_confirmation_takes_so_many_spans_and_the_next_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, first, _ = two_hosts()
    assert confirmed(driver, first) == [4]
    monkeypatch.setattr(native_releases, "COMMAND_SPANS_MAX", 3)
    driver, first, _ = two_hosts()
    assert confirmed(driver, first) == [3, 1]


@pytest.mark.parametrize(("room", "named"), [(43, []), (44, [1] * 4), (87, [1] * 4), (88, [2, 2]), (132, [3, 1])])
def test_a_confirmation_takes_so_many_bytes(room: int, named: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A span takes 40 bytes and its actor type at most."""
    monkeypatch.setattr(native_releases, "COMMAND_BYTES_MAX", room)
    driver, first, _ = two_hosts()
    assert confirmed(driver, first) == named


def test_durations_below_zero() -> None:
    assert [format_duration_ms(each) for each in (-1, -2, -1500)] == ["-1ms", "-2ms", "-1.5s"]
