"""Checkers that hold times against bounds: each passes a right history, catches a seeded bug, and knows of stalls."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from harness.faults.bounds import available_ms, convergence_ms, duplicate_window_ms
from harness.faults.checkers.availability import check_availability
from harness.faults.checkers.convergence import arrivals, check_arrivals, convergence_figures
from harness.faults.checkers.rounds import check_rounds
from harness.faults.checkers.verdict import Verdict
from harness.faults.history import Fault, History, Note
from harness.faults.windows import quiet_windows, touched, with_quorum
from tests.faults.histories import operation

MS = 1_000_000
S = 1000
NATIVE = {"policy": "exclusive", "tick_ms": 200, "failure_timeout_ms": 3000, "drain_ms": 500, "margin_ms": 200}
BARRIER = {"policy": "barrier", "disseminate_timeout_ms": 3000, "coalesce_ms": 0, "member_grace_ms": 6000}
SETTINGS = {
    "replicas": 3,
    "clients": 2,
    "election_ms": 3000,
    "workloads": ["actors", "members"],
    "policy": "exclusive",
    "namespaces": {"actors": NATIVE, "sidecars": BARRIER},
}


def note(kind: str, at_ms: int, **fields: Any) -> Note:
    return Note(kind, at_ms * MS, fields)


def fault(begun_ms: int, ended_ms: int, *, kind: str = "kill", target: str = "replica-1", number: int = 1) -> Fault:
    return Fault(number, kind, target, begun_ms * MS, ended_ms * MS)


def history(*notes: Note, faults: tuple[Fault, ...] = (), operations: tuple[Any, ...] = ()) -> History:
    phases = (note("phase", 0, phase="before"), note("phase", 1 * S, phase="during"))
    return History(operations, faults, (*phases, *notes), SETTINGS)


def table(host: str, at_ms: int, version: int, namespace: str = "actors") -> Note:
    return note("table", at_ms, namespace=namespace, host=host, incarnation=1, version=version, digest="d")


def committed(at_ms: int, version: int) -> Note:
    return note("committed", at_ms, namespace="actors", replica="replica-1", version=version, digest="d")


HEALED = (
    note("healed", 10 * S),
    note("settled", 60 * S, hosts=["h1", "h2"], actors=[]),
    note("phase", 60 * S, phase="x"),
)


# -- bounds and windows ----------------------------------------------------------------------------------


def test_bounds_follow_the_formulas() -> None:
    assert convergence_ms(SETTINGS, "actors") == 2 * 3000 + 10_000 + 2000 + 2 * 200
    assert convergence_ms(SETTINGS, "sidecars") == 2 * 3000 + 1000 + 0 + 6 * (3000 + 2 * 2500)
    assert duplicate_window_ms(SETTINGS, "actors") == convergence_ms(SETTINGS, "actors") + 3000 + 500 + 200
    assert available_ms(SETTINGS) == 2 * 3000 + 2 * 4000
    assert available_ms({**SETTINGS, "replicas": 5}) == 2 * 3000 + 3 * 4000


def test_quiet_is_what_lies_between_faults_and_after_the_heal() -> None:
    faults = (fault(2 * S, 4 * S), fault(3 * S, 5 * S, number=2), fault(7 * S, 8 * S, number=3))
    windows = quiet_windows(history(*HEALED, faults=faults))
    assert [(window.begun_ns // MS, window.ended_ns // MS) for window in windows] == [(5000, 7000), (10_000, 60_000)]
    assert [window.last for window in windows] == [False, True]


def test_a_fault_touches_the_replicas_that_it_names_or_all() -> None:
    def by(kind: str, target: str) -> set[str]:
        return set(touched(fault(0, 1, kind=kind, target=target), SETTINGS))

    assert by("kill", "replica-1,replica-3") == {"replica-1", "replica-3"}
    assert by("host_pause", "h1") == by("sidecar_silent", "10.0.0.1:50002") == set()
    assert by("pause_in_round", "replica-2") == {"replica-2"}
    assert by("partition_ring", "replica-1->replica-2") == {"everybody"}
    assert len(by("rolling_restart", "replica-1,replica-2,replica-3")) == 1, "one at a time"
    assert by("partition_halves", "c1+h1+replica-1+replica-2") == {"replica-3"}
    assert by("partition_halves", "c1+h1+h2+replica-3") == {"replica-3"}
    assert by("partition_halves", "h1+h2+replica-1+replica-2") == {"everybody"}, "no client reaches a majority"
    assert by("partition_halves", "c1+c2+replica-3+sidecars") == {"everybody"}


def test_a_quorum_is_there_while_a_minority_is_touched() -> None:
    faults = (fault(2 * S, 9 * S), fault(4 * S, 6 * S, target="replica-2", number=2))
    windows = with_quorum(history(*HEALED, faults=faults))
    spans = [(window.begun_ns // MS, window.ended_ns // MS) for window in windows]
    assert spans == [(0, 2000), (2000, 4000), (6000, 9000), (9000, 60_000)]


# -- convergence -----------------------------------------------------------------------------------------


def test_versions_that_arrive_in_time() -> None:
    notes = (committed(3 * S, 1), committed(20 * S, 2), *(table(host, 3 * S + 5, 1) for host in ("h1", "h2")))
    skipped = (table("h1", 21 * S, 2), table("h1", 26 * S, 3), table("h2", 25 * S, 3))
    result = check_arrivals(history(*HEALED, *notes, *skipped), "actors")
    assert result.verdict is Verdict.VALID
    assert result.figures == {"arrivals": 3, "in_place": 3, "heals": 1, "slowest_ms": 5000, "left_out": 0}, (
        "who has version 3 has 2 as well"
    )
    figures = convergence_figures(history(*HEALED, *notes, table("h1", 21 * S, 2), table("h2", 25 * S, 2)), ["actors"])
    assert figures["actors"]["delays_ms"] == [1000, 5000]


def test_a_host_that_never_gets_a_version_is_found() -> None:
    notes = (committed(3 * S, 1), table("h1", 3 * S, 1))
    result = check_arrivals(history(*HEALED, *notes), "actors")
    assert result.verdict is Verdict.INVALID
    assert result.explanation[0] == "h2 got version 1 never; the bound is 18400 ms"


def test_a_host_that_is_late_is_found_unless_the_machine_stood_still() -> None:
    late = (committed(3 * S, 1), table("h1", 3 * S, 1), table("h2", 29 * S, 1))
    assert check_arrivals(history(*HEALED, *late), "actors").verdict is Verdict.INVALID
    stall = note("stall", 20 * S, late_ms=900)
    assert check_arrivals(history(*HEALED, *late, stall), "actors").verdict is Verdict.VALID
    elsewhere = note("stall", 40 * S, late_ms=900)
    assert check_arrivals(history(*HEALED, *late, elsewhere), "actors").verdict is Verdict.INVALID


def test_a_restarted_host_is_given_the_time_to_start() -> None:
    notes = (committed(3 * S, 1), table("h1", 3 * S, 1), table("h2", 3 * S, 1))
    restarted = note("process", 30 * S, name="h2", what="started")
    lost = check_arrivals(history(*HEALED, *notes, restarted), "actors")
    assert lost.verdict is Verdict.INVALID, "what its former process knew does not count"
    back = check_arrivals(history(*HEALED, *notes, restarted, table("h2", 57 * S, 1)), "actors")
    assert back.verdict is Verdict.VALID


def test_what_a_fault_interrupts_is_not_held_against_anybody() -> None:
    faults = (fault(2 * S, 4 * S), fault(7 * S, 8 * S, number=2))
    run = history(*HEALED, committed(5 * S, 1), table("h1", 5 * S, 1), table("h2", 9 * S, 1), faults=faults)
    assert check_arrivals(run, "actors").verdict is Verdict.VALID
    assert check_arrivals(run, "actors").figures["left_out"] == 1
    interrupted = [one for one in arrivals(run, "actors") if one.receiver == "h2" and not one.window.last]
    assert [one.arrived_ns for one in interrupted] == [None]


def test_a_run_that_ends_before_the_bound_proves_nothing() -> None:
    notes = (committed(3 * S, 1), *(table(host, 3 * S, 1) for host in ("h1", "h2")), committed(50 * S, 2))
    result = check_arrivals(history(*HEALED, *notes, table("h1", 51 * S, 2)), "actors")
    assert result.verdict is Verdict.UNKNOWN
    assert result.explanation == ("the run ended before h2 had version 2 and before the bound was over",)


def test_nothing_to_look_at_is_unknown() -> None:
    assert check_arrivals(history(), "actors").verdict is Verdict.UNKNOWN


# -- availability ----------------------------------------------------------------------------------------


def successes(*times_ms: int) -> tuple[Any, ...]:
    return tuple(
        operation(function, (at - 5) * MS, at * MS, 7, 7, key="member/r1")
        for at in times_ms
        for function in ("upsert", "read")
    )


def test_a_minority_that_is_away_stops_nobody_for_long() -> None:
    faults = (fault(10 * S, 40 * S),)
    often = successes(*range(100, 10 * S, 500), *range(15 * S, 60 * S, 500))
    assert check_availability(history(*HEALED, faults=faults, operations=often)).verdict is Verdict.VALID
    rarely = successes(*range(100, 10 * S, 500), *range(25 * S, 60 * S, 500))
    result = check_availability(history(*HEALED, faults=faults, operations=rarely))
    assert result.verdict is Verdict.INVALID
    assert result.explanation[0].startswith("no upsert of a member succeeded for 15000 ms with a quorum")
    stalled = history(*HEALED, note("stall", 20 * S, late_ms=1200), faults=faults, operations=rarely)
    assert check_availability(stalled).verdict is Verdict.VALID


def test_without_a_quorum_nothing_is_asked_for() -> None:
    faults = (fault(10 * S, 40 * S, target="replica-1,replica-2"),)
    rarely = successes(*range(100, 10 * S, 500), *range(41 * S, 60 * S, 500))
    assert check_availability(history(*HEALED, faults=faults, operations=rarely)).verdict is Verdict.VALID
    assert check_availability(history(*HEALED)).verdict is Verdict.UNKNOWN


# -- sidecars --------------------------------------------------------------------------------------------


def order(sidecar: str, at_ms: int, operation: str, version: int) -> Note:
    return note("order", at_ms, namespace="sidecars", sidecar=sidecar, attempt=1, operation=operation, version=version)


def full_round(version: int, at_ms: int, *sidecars: str) -> list[Note]:
    return [
        order(name, at_ms + step, kind, version)
        for step, kind in enumerate(("lock", "update", "unlock"))
        for name in sidecars
    ]


CONNECTED = note("connected", 60 * S, namespace="sidecars", hosts=["a", "b"])


def test_sidecars_that_switch_together() -> None:
    notes = [CONNECTED, *full_round(1, 5, "a", "b"), *full_round(2, 100, "a", "b", "c")]
    result = check_rounds(history(*notes), bound_ms=0, healed_ns=0)
    assert result.verdict is Verdict.VALID
    assert check_rounds(history(), bound_ms=0, healed_ns=0).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(("bound_ms", "verdict"), [(496, Verdict.INVALID), (502, Verdict.VALID)])
def test_unlocked_sidecars_that_differ_for_a_while(bound_ms: int, verdict: Verdict) -> None:
    notes = [CONNECTED, *full_round(1, 5, "a", "b"), *full_round(2, 100, "a"), *full_round(2, 600, "b")]
    assert check_rounds(history(*notes), bound_ms=bound_ms, healed_ns=100 * MS).verdict is verdict


def test_unlocked_sidecars_that_end_with_two_tables() -> None:
    notes = [CONNECTED, *full_round(1, 5, "a", "b"), *full_round(2, 100, "a")]
    result = check_rounds(history(*notes), bound_ms=100_000, healed_ns=0)
    assert result.verdict is Verdict.INVALID
    assert result.explanation == ("unlocked sidecars end with different versions: a 2, b 1",)
    gone = evolve(CONNECTED, fields={"namespace": "sidecars", "hosts": ["a"]})
    assert check_rounds(history(gone, *notes[1:]), bound_ms=0, healed_ns=0).verdict is Verdict.VALID
