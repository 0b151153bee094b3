"""The arithmetic of leases against what it promises, over all settings that are accepted."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve
from hypothesis import assume, given
from hypothesis import strategies as st

from callboard.core.leases import NEVER_MS, NO_LEASE, UNLIMITED, Deadlines, deadlines, overdue_after_ms, renew_every_ms
from callboard.core.slot_records import PARTS_PER_MILLION, HandoffSettings
from callboard.core.versions import Policy


@st.composite
def exclusive_settings(draw: st.DrawFn) -> HandoffSettings:
    """Settings that a namespace may be created with."""
    drain_ms, margin_ms, tick_ms = draw(st.integers(0, 500)), draw(st.integers(0, 500)), draw(st.integers(1, 500))
    lease_ms = drain_ms + margin_ms + 2 * tick_ms + draw(st.integers(1, 5000))
    rate_error_ppm = draw(st.sampled_from([0, 1, 10_000, 500_000]))
    settings = HandoffSettings(lease_ms, drain_ms, margin_ms, tick_ms, rate_error_ppm, failure_timeout_ms=10**6)
    assert settings.problem() is None
    return settings


@given(exclusive_settings(), st.integers(0, 10**6))
def test_the_three_deadlines_of_a_lease(settings: HandoffSettings, base_ms: int) -> None:
    times = deadlines(Policy.EXCLUSIVE, settings, base_ms)
    assert times.gate_until_ms - base_ms == settings.lease_ms
    assert times.gate_until_ms - times.cancel_at_ms == settings.margin_ms
    assert times.cancel_at_ms - times.admit_until_ms == settings.drain_ms
    assert times.admit_until_ms > base_ms + 2 * settings.tick_ms


def test_without_an_answered_renewal_nothing_is_served() -> None:
    settings = HandoffSettings(max_isolation_ms=5)
    for policy in (Policy.EXCLUSIVE, Policy.EVENTUAL):
        assert deadlines(policy, settings, None) == NO_LEASE
    assert max(NO_LEASE.admit_until_ms, NO_LEASE.cancel_at_ms, NO_LEASE.gate_until_ms) < -(10**15)
    assert deadlines(Policy.EXCLUSIVE, HandoffSettings(max_isolation_ms=0), None) == NO_LEASE


@given(st.one_of(st.none(), st.integers(0, 10**6)), st.integers(0, 1000))
def test_under_eventual_the_longest_isolation_takes_the_place_of_the_lease(
    base_ms: int | None, longest_ms: int
) -> None:
    settings = HandoffSettings(drain_ms=30, margin_ms=20, max_isolation_ms=longest_ms)
    times = deadlines(Policy.EVENTUAL, settings, base_ms)
    if longest_ms == 0:
        assert times == UNLIMITED
    elif base_ms is not None:
        end_ms = base_ms + longest_ms
        assert times == Deadlines(end_ms - 50, end_ms - 20, end_ms)


def test_a_host_without_a_bound_on_isolation_never_stops() -> None:
    assert Deadlines(NEVER_MS, NEVER_MS, NEVER_MS) == UNLIMITED
    assert NEVER_MS > 10**15


@given(exclusive_settings())
def test_a_host_renews_while_it_still_admits_and_not_more_often_than_it_is_answered(settings: HandoffSettings) -> None:
    every_ms = renew_every_ms(Policy.EXCLUSIVE, settings)
    admitting_ms = settings.lease_ms - settings.drain_ms - settings.margin_ms
    assert 1 <= every_ms <= admitting_ms - settings.tick_ms
    assert every_ms >= min(settings.tick_ms, admitting_ms - settings.tick_ms)
    if admitting_ms >= 3 * settings.tick_ms:
        assert 2 * every_ms <= admitting_ms, "one lost renewal would end admission"
        assert every_ms == admitting_ms // 3, "more traffic than three renewals in the time of one lease"


def test_how_often_hosts_renew() -> None:
    settings = HandoffSettings(lease_ms=1000, drain_ms=60, margin_ms=40, tick_ms=100, failure_timeout_ms=2000)
    assert renew_every_ms(Policy.EXCLUSIVE, settings) == 300
    slow = HandoffSettings(lease_ms=1000, drain_ms=60, margin_ms=40, tick_ms=400, failure_timeout_ms=2000)
    assert renew_every_ms(Policy.EXCLUSIVE, slow) == 400
    close = HandoffSettings(lease_ms=1000, drain_ms=60, margin_ms=40, tick_ms=890, failure_timeout_ms=2000)
    assert renew_every_ms(Policy.EXCLUSIVE, close) == 10
    assert renew_every_ms(Policy.EVENTUAL, settings) == 666
    short = evolve(settings, max_isolation_ms=1000)
    assert renew_every_ms(Policy.EVENTUAL, short) == 300
    assert renew_every_ms(Policy.EVENTUAL, evolve(settings, max_isolation_ms=1)) == 1
    assert renew_every_ms(Policy.EVENTUAL, evolve(settings, max_isolation_ms=9000)) == 666


@given(exclusive_settings(), st.integers(1, 3))
def test_nobody_is_overdue_who_kept_to_drain_and_margin(settings: HandoffSettings, faster: int) -> None:
    """The slowest clock of a host against the fastest of a leader, with a reading cut on each side and two ticks."""
    assume(settings.rate_error_ppm < PARTS_PER_MILLION)
    rho = Fraction(settings.rate_error_ppm, PARTS_PER_MILLION)
    longest_ms = (settings.drain_ms + settings.margin_ms + 1) * (1 + rho) / (1 - rho) + 2 * settings.tick_ms
    bound_ms = overdue_after_ms(settings)
    assert longest_ms + 1 <= bound_ms < longest_ms + 2


@given(exclusive_settings())
def test_leaders_wait_for_the_last_lease_of_the_slowest_clock(settings: HandoffSettings) -> None:
    rho = Fraction(settings.rate_error_ppm, PARTS_PER_MILLION)
    longest_ms = settings.lease_ms * (1 + rho) / (1 - rho)
    assert longest_ms + 1 <= settings.wait_ms() < longest_ms + 2
