"""The arithmetic of leases and of isolation: what is refused at the door, and that hosts renew in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.core.leases import deadlines, renew_every_ms
from callboard.core.slot_records import HandoffSettings
from callboard.core.versions import Policy

TIMES = st.builds(
    HandoffSettings,
    lease_ms=st.integers(1, 10_000),
    drain_ms=st.integers(0, 3000),
    margin_ms=st.integers(0, 1000),
    tick_ms=st.integers(1, 1000),
    rate_error_ppm=st.integers(0, 500_000),
    failure_timeout_ms=st.integers(1, 20_000),
    max_isolation_ms=st.integers(0, 10_000),
)


@given(TIMES, st.sampled_from([Policy.EXCLUSIVE, Policy.EVENTUAL]))
def test_a_host_that_renews_in_time_never_stops_admitting(settings: HandoffSettings, policy: Policy) -> None:
    """The answer to a renewal takes up to one tick; until then the one before must carry."""
    if settings.creation_problem(policy) is not None:
        return
    every_ms = renew_every_ms(policy, settings)
    assert 1 <= every_ms < settings.failure_timeout_ms
    assert carries(settings, policy, every_ms)


def carries(settings: HandoffSettings, policy: Policy, every_ms: int) -> bool:
    return deadlines(policy, settings, 0).admit_until_ms >= every_ms + settings.tick_ms


@pytest.mark.parametrize(
    ("settings", "policy", "text"),
    [
        (HandoffSettings(lease_ms=3000), Policy.EXCLUSIVE, "lease 3000 ms is not above drain 1500 + margin 500 + 2 x"),
        (HandoffSettings(failure_timeout_ms=6121), Policy.EXCLUSIVE, "below the lease wait of 6123 ms"),
        (HandoffSettings(failure_timeout_ms=1000), Policy.EVENTUAL, "1000 ms is not above two ticks of 500 ms"),
        (
            HandoffSettings(max_isolation_ms=3000),
            Policy.EVENTUAL,
            "max isolation 3000 ms is not above drain 1500 + margin 500 + 2 x tick 500 = 3000 ms",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_arithmetic(settings: HandoffSettings, policy: Policy, text: str) -> None:
    assert text in (settings.creation_problem(policy) or "")


def test_a_host_that_renews_too_rarely_is_noticed() -> None:
    """What was wrong: drain time and margin were not taken off the longest isolation."""
    settings = HandoffSettings(drain_ms=1500, margin_ms=500, tick_ms=500, max_isolation_ms=3001)
    assert carries(settings, Policy.EVENTUAL, renew_every_ms(Policy.EVENTUAL, settings))
    assert not carries(settings, Policy.EVENTUAL, settings.max_isolation_ms // 3)
