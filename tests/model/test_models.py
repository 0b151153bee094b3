"""Models that need no machine: rings and leases, beside the implementation."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from callboard.core.leases import NO_LEASE, UNLIMITED, Deadlines, deadlines, overdue_after_ms
from callboard.core.ring import Ring
from callboard.core.slot_records import HandoffSettings
from callboard.core.versions import Policy
from spec.model import leases, ring, slots
from spec.model.leases import Clock, Times, gone_implies_gate_shut

HOSTS = st.lists(st.from_regex(r"10\.0\.0\.[1-9]:5000[0-9]{0,2}", fullmatch=True), min_size=1, max_size=4, unique=True)
ACTORS = [f"actor-{number}" for number in range(8)]

settings_ = st.builds(
    HandoffSettings,
    lease_ms=st.integers(1, 20_000),
    drain_ms=st.integers(0, 5000),
    margin_ms=st.integers(0, 2000),
    tick_ms=st.integers(1, 2000),
    rate_error_ppm=st.integers(0, 200_000),
    failure_timeout_ms=st.integers(1, 60_000),
    max_isolation_ms=st.sampled_from((0, 1000)),
)


def times_of(settings: HandoffSettings) -> Times:
    return Times(
        settings.lease_ms,
        settings.drain_ms,
        settings.margin_ms,
        settings.tick_ms,
        Fraction(settings.rate_error_ppm, 1_000_000),
        settings.failure_timeout_ms,
        settings.max_isolation_ms,
    )


@given(HOSTS, HOSTS)
def test_rings(before: list[str], after: list[str]) -> None:
    """OwnerAgreement beside the implementation; MinimalMovement of the model, and so of both."""
    for actor in ACTORS:
        assert ring.OwnerAgreement(
            actor, before, [Ring(before).lookup(actor), Ring(sorted(before)[::-1]).lookup(actor)]
        )
    assert ring.MinimalMovement(ACTORS, before, after)


def test_nobody_owns_anything_on_an_empty_ring() -> None:
    assert ring.owner("a", []) is None
    assert Ring([]).lookup("a") is None


@given(settings_, st.none() | st.integers(0, 10**6), st.booleans())
def test_deadlines(settings: HandoffSettings, base_ms: int | None, exclusive: bool) -> None:
    policy, times = Policy.EXCLUSIVE if exclusive else Policy.EVENTUAL, times_of(settings)
    found = deadlines(policy, settings, base_ms)
    gate = leases.gate_shuts_at(times, base_ms, exclusive=exclusive)
    if abs(gate) == leases.NEVER:
        assert found == (UNLIMITED if gate > 0 else NO_LEASE)
        return
    admits = leases.admission_ends_at(times, base_ms, exclusive=exclusive)
    cancels = leases.turns_are_cancelled_at(times, base_ms, exclusive=exclusive)
    assert found == Deadlines(int(admits), int(cancels), int(gate))


@given(settings_)
def test_waits_are_those_of_the_exact_arithmetic(settings: HandoffSettings) -> None:
    times = times_of(settings)
    assert settings.wait_ms() == leases.wait_ms(times)
    assert overdue_after_ms(settings) == leases.overdue_after_ms(times)
    assert (settings.problem() is None) == leases.works(times)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Times, Clock, Clock, Fraction, Fraction, Fraction]:
    """A lease that is given, and a leader that looks at its clock about when the wait is over."""
    ppm = draw(st.integers(0, 200_000))
    rho = Fraction(ppm, 1_000_000)
    times = Times(draw(st.integers(1, 3000)), 0, 0, 1, rho, 1)
    rates = st.sampled_from((1 - rho, Fraction(1), 1 + rho))
    parts = st.fractions(0, 3, max_denominator=50)
    host, leader = Clock(draw(parts), draw(rates)), Clock(draw(parts), draw(rates))
    sent = draw(parts)
    answered = sent + draw(parts)
    over = answered + Fraction(leases.wait_ms(times)) / leader.rate
    return times, host, leader, sent, answered, over + draw(st.fractions(-2, 2, max_denominator=50))


@given(histories())
def test_gone_implies_gate_shut(history: tuple[Times, Clock, Clock, Fraction, Fraction, Fraction]) -> None:
    times, host, leader, sent, answered, believed = history
    assume(believed >= answered)
    assert gone_implies_gate_shut(times, host, leader, sent=sent, answered=answered, believed=believed)


@pytest.mark.parametrize("wrong", ["rates ignored", "no millisecond for cut readings"])
def test_a_shorter_wait_is_not_enough(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is exact: with less there is a lease that outlives it."""
    rho, exact = Fraction(1, 10), leases.wait_ms
    times = Times(900, 0, 0, 1, rho, 1)  # 900 x 1.1 / 0.9 is whole
    host, leader = Clock(Fraction(0), 1 - rho), Clock(Fraction(0), 1 + rho)
    shorter = {"rates ignored": lambda t: t.lease_ms + 1, "no millisecond for cut readings": lambda t: exact(t) - 1}
    monkeypatch.setattr(leases, "wait_ms", shorter[wrong])
    moments = [Fraction(number, 100) for number in range(500)]
    violated = [
        sent
        for sent in moments
        if not gone_implies_gate_shut(
            times,
            host,
            leader,
            sent=sent,
            answered=sent,
            believed=Fraction(leader.reading(sent) + leases.wait_ms(times)) / leader.rate,
        )
    ]
    assert violated


def test_shares_and_movement_of_slots() -> None:
    """The model's own predicates can fail."""
    two = {1: slots.Host(), 2: slots.Host()}
    assert slots.Balance([1, 1, 2, 2], two)
    assert not slots.Balance([1, 1, 1, 2], two)
    assert not slots.Balance([1, 1, 0, 2], two)
    assert not slots.Balance([1, 1, 2, 2], {**two, 3: slots.Host()}, [3])
    assert not slots.Balance([1, 1, 2, 2], {1: slots.Host(draining=True), 2: slots.Host()})
    assert slots.MinimalMovement([1, 1, 1, 1], [1, 2, 1, 2], {1: slots.Host()}, two)
    assert not slots.MinimalMovement(
        [1, 2, 1, 2], [1, 1, 2, 1], two, {1: slots.Host(), 2: slots.Host()} | {3: slots.Host()}
    )
    assert not slots.MinimalMovement([1, 2, 3, 1], [2, 1, 1, 1], {**two, 3: slots.Host()}, two)
