"""Every checker passes a right history, says unknown of an empty one, and catches a seeded bug."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.faults.checkers.activations import (
    check_duplicate_window,
    check_exactly_one,
    check_single_activation,
    check_stale_turns,
    check_turn_based,
)
from harness.faults.checkers.effects import check_acknowledged_once, check_fences
from harness.faults.checkers.tables import check_tables
from harness.faults.checkers.verdict import CheckResult, Verdict, worst
from harness.faults.history import Fault, History, Note, Outcome
from tests.faults.histories import operation

MS = 1_000_000


def turn(host: str, begun_ms: int, ended_ms: int, *, fence: int = 1, actor: str = "a", chain: str = "") -> Note:
    fields: dict[str, Any] = {"actor": actor, "host": host, "incarnation": 1, "fence": fence, "chain": chain}
    return Note("turn", begun_ms * MS, fields | {"begun_ns": begun_ms * MS, "ended_ns": ended_ms * MS})


def note(kind: str, at_ms: int = 0, **fields: Any) -> Note:
    return Note(kind, at_ms * MS, fields)


def history(*notes: Note) -> History:
    return History((), notes=notes)


MOVED = history(turn("x", 0, 5), turn("x", 6, 8), turn("y", 9, 12, fence=2))


@pytest.mark.parametrize("check", [check_single_activation, check_turn_based, check_stale_turns])
def test_an_actor_that_moves_once_is_right(check: Callable[[History], CheckResult]) -> None:
    result = check(MOVED)
    assert result.verdict is Verdict.VALID
    assert result.figures.get("duplicates", 0) == 0
    assert (result.figures["actors"], result.figures["turns"], result.figures["moves"]) == (1, 3, 1)


def test_two_activations_at_once_are_found_even_around_a_third_turn() -> None:
    result = check_single_activation(history(turn("x", 0, 100), turn("x", 10, 20), turn("y", 50, 60)))
    assert result.verdict is Verdict.INVALID
    assert result.figures["duplicates"] == 1
    assert "x/1" in result.explanation[1]
    assert "y/1" in result.explanation[2]


def test_two_turns_at_once_are_found_unless_they_are_one_chain() -> None:
    assert check_turn_based(history(turn("x", 0, 5), turn("x", 4, 6))).verdict is Verdict.INVALID
    assert check_turn_based(history(turn("x", 0, 5, chain="1"), turn("x", 1, 4, chain="2"))).verdict is Verdict.INVALID
    assert check_turn_based(history(turn("x", 0, 5, chain="1"), turn("x", 1, 4, chain="1"))).verdict is Verdict.VALID


def test_a_zombie_that_acts_after_its_successor_is_found() -> None:
    zombie = history(turn("x", 0, 5, fence=1), turn("y", 6, 7, fence=2), turn("x", 8, 9, fence=1))
    assert check_single_activation(zombie).verdict is Verdict.VALID
    assert check_stale_turns(zombie).verdict is Verdict.INVALID
    assert check_stale_turns(zombie).figures["duplicates"] == 1


def test_duplicates_are_measured_from_the_heal_and_held_against_the_bound() -> None:
    alternating = history(turn("x", 0, 5), turn("y", 10, 11), turn("x", 300, 301), turn("y", 400, 401))
    within = check_duplicate_window(alternating, bound_ms=300, healed_ns=100 * MS)
    assert within.verdict is Verdict.VALID
    assert within.figures["longest_after_heal_ms"] == 300
    assert check_duplicate_window(alternating, bound_ms=299, healed_ns=100 * MS).verdict is Verdict.INVALID
    assert check_duplicate_window(MOVED, bound_ms=0, healed_ns=0).verdict is Verdict.VALID


def granted(host: str, at_ms: int, since: int) -> Note:
    return note("granted", at_ms, host=host, incarnation=1, actor_type="Tally", first=0, count=16, since=since, fence=0)


def test_a_place_that_a_later_table_gives_the_actor_back_to_is_no_duplicate() -> None:
    settings = {"namespaces": {"actors": {"slot_bits": 4}}}

    def window(*notes: Note) -> Verdict:
        found = check_duplicate_window(History((), settings=settings, notes=notes), bound_ms=10, healed_ns=0)
        return found.verdict

    at_x, at_y, back = (
        turn(host, at_ms, at_ms + 1, fence=0, actor="Tally/a") for host, at_ms in (("x", 1), ("y", 20), ("x", 90))
    )
    moved = (granted("x", 0, 1), at_x, granted("y", 19, 2), at_y)
    assert window(*moved, granted("x", 80, 3), back) is Verdict.VALID
    assert window(*moved, back) is Verdict.INVALID, "it had never heard of the other"
    assert window(*moved, granted("x", 80, 1), back) is Verdict.INVALID, "by the table that it had before"
    third = (granted("z", 60, 4), turn("z", 61, 62, fence=0, actor="Tally/a"))
    assert window(*moved, *third, granted("x", 80, 3), back) is Verdict.INVALID, "a third was newer"
    assert window(*moved, *third, granted("x", 80, 5), back) is Verdict.VALID


def in_second_places(*turns: Note) -> int:
    """For how long after the heal, at 1000 ms: x has the slot since version 1, y since 2, z since 1."""
    settings = {"namespaces": {"actors": {"slot_bits": 4}}}
    notes = (granted("x", 0, 1), granted("y", 0, 2), granted("z", 0, 1), *turns)
    found = check_duplicate_window(History((), settings=settings, notes=notes), bound_ms=10, healed_ns=1000 * MS)
    assert (found.verdict is Verdict.INVALID) is (found.figures["longest_after_heal_ms"] > 10)
    return found.figures["longest_after_heal_ms"]


def test_whoever_goes_on_by_an_old_table_is_a_duplicate_until_its_last_turn() -> None:
    def at(host: str, begun_ms: int, ended_ms: int = 0) -> Note:
        return turn(host, begun_ms, ended_ms or begun_ms + 1, fence=0, actor="Tally/a")

    moved = (at("x", 1), at("y", 20))
    assert in_second_places(*moved, at("y", 61_000)) == 0
    assert in_second_places(*moved, at("x", 1005), at("x", 30_000), at("x", 61_000), at("y", 61_100)) == 60_000
    assert in_second_places(*moved, at("z", 61_000), at("y", 62_000)) == 60_000, "it had never run it before"
    around = (at("x", 900, 5000), at("y", 1001, 1002), at("y", 4900, 4901))
    assert in_second_places(*around) == 3901, "overlaps count to their end"


def test_exactly_one_means_neither_two_nor_none() -> None:
    both = history(turn("x", 10, 11), turn("y", 12, 13))
    assert check_exactly_one(both, settled_ns=0, actors=["a"]).verdict is Verdict.INVALID
    assert check_exactly_one(both, settled_ns=12 * MS, actors=["a"]).verdict is Verdict.VALID
    nowhere = check_exactly_one(both, settled_ns=20 * MS, actors=["a"])
    assert nowhere.explanation[0] == "actor a runs nowhere after everything had settled"
    assert check_exactly_one(both, settled_ns=0, actors=[]).verdict is Verdict.UNKNOWN


def store(fence: int, *, accepted: bool) -> Note:
    return note("store", actor="a", fence=fence, accepted=accepted)


def test_fences_at_the_store() -> None:
    right = history(store(1, accepted=True), store(2, accepted=True), store(1, accepted=False))
    assert check_fences(right).figures == {"writes": 3, "refused": 1}
    assert check_fences(right).verdict is Verdict.VALID
    stale = history(store(2, accepted=True), store(1, accepted=True))
    assert check_fences(stale).verdict is Verdict.INVALID
    needless = history(store(1, accepted=True), store(1, accepted=False))
    assert check_fences(needless).verdict is Verdict.INVALID
    assert check_fences(history()).verdict is Verdict.UNKNOWN


def test_a_turn_under_a_newer_fence_ends_what_the_store_may_accept() -> None:
    """Its load has raised the fence, also if it wrote nothing."""
    read = turn("y", 1000, 1010, fence=2)

    def write(at_ms: int, fence: int) -> Note:
        return note("store", at_ms, actor="a", fence=fence, accepted=True)

    stale = check_fences(history(read, write(1500, 1)))
    assert stale.explanation == ("actor a: a write under fence 1 was accepted after a turn under 2 had ended",)
    assert check_fences(history(read, write(1500, 2))).verdict is Verdict.VALID
    assert check_fences(history(read, write(1050, 1))).verdict is Verdict.VALID, "the store's times are not that sharp"
    clock = Fault(1, "host_clock_rate", "h1", 0, None)
    assert check_fences(History((), (clock,), (read, write(1500, 1)))).verdict is Verdict.VALID


def test_acknowledged_work_is_there_once() -> None:
    appended = {
        "a": [
            operation("append", 0, 1, 1),
            operation("append", 2, None, 2),
            operation("append", 3, 4, 3, outcome=Outcome.FAIL),
        ]
    }
    assert check_acknowledged_once(appended, {"a": [1]}).verdict is Verdict.VALID
    assert check_acknowledged_once(appended, {"a": [1, 2]}).verdict is Verdict.VALID
    for final, complaint in (
        ([2], "acknowledged value 1 of a is there 0 times"),
        ([], "acknowledged value 1 of a is there 0 times"),
        ([1, 1], "acknowledged value 1 of a is there 2 times"),
        ([1, 2, 2], "value 2 of a of unknown outcome is there 2 times"),
        ([1, 3], "value 3 of a surely failed"),
        ([1, 9], "value 9 of a was never appended"),
    ):
        result = check_acknowledged_once(appended, {"a": final})
        assert result.verdict is Verdict.INVALID
        assert complaint in result.explanation[0]
    assert check_acknowledged_once(appended, {"a": [2]}).figures["lost"] == 1
    assert check_acknowledged_once({}, {}).verdict is Verdict.UNKNOWN


def table(host: str, version: int, digest: str = "d", at_ms: int = 0) -> Note:
    return note("table", at_ms, host=host, incarnation=1, version=version, digest=digest)


def committed(version: int, digest: str = "d", *, since: int | None = None) -> Note:
    before = version - 1 if since is None else since
    return note("committed", version=version, from_version=before, digest=digest, replica="r1")


@pytest.mark.parametrize(
    "seen",
    [
        (committed(3, since=0),),
        (committed(1), committed(3, since=0)),
        (committed(1), committed(3, since=1)),
    ],
)
def test_what_the_watch_of_a_replica_may_have_missed_is_no_accusation(seen: tuple[Note, ...]) -> None:
    assert check_tables(history(*seen, table("x", 2))).verdict is Verdict.VALID


def test_tables() -> None:
    right = history(committed(1), committed(3), table("x", 1), table("x", 3), table("y", 3))
    assert check_tables(right).verdict is Verdict.VALID
    for wrong, complaint in (
        (history(table("x", 2), table("x", 1)), "x/1 installs version 1 after 2"),
        (history(table("x", 2), table("x", 2)), "x/1 installs version 2 after 2"),
        (history(committed(2, "d"), table("x", 2, "e")), "version 2 has digest d at r1 and e at x"),
        (history(committed(1), table("x", 2)), "x installs version 2, which no replica committed"),
        (history(committed(5, since=0), table("x", 6)), "x installs version 6, which no replica committed"),
    ):
        result = check_tables(wrong)
        assert result.verdict is Verdict.INVALID
        assert result.explanation == (complaint,)
    assert check_tables(history()).verdict is Verdict.UNKNOWN


def test_invalid_comes_before_unknown_before_valid() -> None:
    assert worst([]) is Verdict.VALID
    assert worst([Verdict.VALID, Verdict.UNKNOWN]) is Verdict.UNKNOWN
    assert worst([Verdict.UNKNOWN, Verdict.INVALID, Verdict.VALID]) is Verdict.INVALID


def test_what_hosts_install_while_all_are_ended_was_watched_by_nobody() -> None:
    def late(*ending: Note) -> Verdict:
        installed = note("table", 20, host="x", incarnation=1, version=2, digest="d")
        return check_tables(history(committed(1), *ending, installed)).verdict

    assert late(note("ending", 10)) is Verdict.VALID
    assert late(note("ending", 30)) is Verdict.INVALID
    assert late() is Verdict.INVALID
