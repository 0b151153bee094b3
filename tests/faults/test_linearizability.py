"""The checker of linearizability against brute force, and against simulated services with seeded bugs."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.faults.checkers.linearizability import Search, check, check_by_index
from harness.faults.checkers.models import AppendList, Counter, MemberRegister, Register
from harness.faults.checkers.verdict import Verdict
from harness.faults.history import Operation, Outcome
from tests.faults.histories import drawn_register_history, linearizable_by_brute_force, operation

LIMIT_S = 60.0


@st.composite
def small_histories(draw: st.DrawFn) -> list[Operation]:
    """Up to six operations on a register, overlapping in every way, answers right and wrong."""
    history = []
    for process in range(draw(st.integers(1, 6))):
        called = draw(st.integers(0, 12))
        returned = draw(st.none() | st.integers(called, called + 8))
        function = draw(st.sampled_from(["read", "write", "compare_and_set"]))
        value = draw(st.integers(0, 2))
        match function:
            case "read":
                entry = operation("read", called, returned, result=draw(st.none() | st.integers(0, 2)), process=process)
            case "write":
                entry = operation("write", called, returned, value, process=process)
            case _:
                result = draw(st.booleans())
                argument = [draw(st.none() | st.integers(0, 2)), value]
                entry = operation("compare_and_set", called, returned, argument, result, process=process)
        history.append(entry)
    return sorted(history, key=lambda entry: entry.called_ns)


@given(small_histories())
@settings(max_examples=600, deadline=None)
def test_agrees_with_trying_every_order(history: list[Operation]) -> None:
    expected = Verdict.VALID if linearizable_by_brute_force(history, Register()) else Verdict.INVALID
    assert check({"k": history}, Register(), time_limit_s=LIMIT_S).verdict is expected


@given(st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_histories_of_a_right_register_are_linearizable(seed: int) -> None:
    history = drawn_register_history(seed, operations=60, processes=5)
    assert check({"k": history}, Register(), time_limit_s=LIMIT_S).verdict is Verdict.VALID


def test_stale_reads_and_lost_writes_are_found() -> None:
    for bug in ("stale_reads", "lost_writes"):
        found = 0
        for seed in range(20):
            history = drawn_register_history(seed, operations=60, processes=5, **{bug: True})
            result = check({"k": history}, Register(), time_limit_s=LIMIT_S)
            found += result.verdict is Verdict.INVALID
            assert result.verdict is Verdict.VALID or "key k is not linearizable" in result.explanation[0]
        assert found >= 10, bug


def test_an_illegal_key_is_found_among_many_legal_ones() -> None:
    keys = {str(seed): drawn_register_history(seed, operations=40, processes=4) for seed in range(30)}
    keys["broken"] = [operation("write", 0, 1, 5), operation("read", 2, 3, result=6)]
    result = check(keys, Register(), time_limit_s=LIMIT_S)
    assert result.verdict is Verdict.INVALID
    assert result.explanation[0] == "key broken is not linearizable"
    assert any("read() on k -> ok 6" in line for line in result.explanation)


def test_running_out_of_time_is_unknown_and_no_pass() -> None:
    # Many concurrent writes and one impossible read: every order of the writes has to be tried.
    history = [operation("write", 0, 1000, number, process=number) for number in range(25)]
    history.append(operation("read", 10, 20, result="never written", process=99))
    result = check({"k": history}, Register(), time_limit_s=0.0)
    assert result.verdict is Verdict.UNKNOWN
    assert "not decided within 0.0 s" in result.explanation[0]


def test_an_operation_of_unknown_outcome_may_happen_late_or_never() -> None:
    write = operation("write", 0, None, 1)
    assert Search([write, operation("read", 5, 6, result=None)], Register()).run(1000) is Verdict.VALID
    late = [write, operation("read", 5, 6, result=None), operation("read", 7, 8, result=1)]
    assert Search(late, Register()).run(1000) is Verdict.VALID
    undone = [*late, operation("read", 9, 10, result=None)]
    assert Search(undone, Register()).run(1000) is Verdict.INVALID


def test_a_failed_operation_must_not_have_happened() -> None:
    history = [operation("write", 0, 1, 1, outcome=Outcome.FAIL), operation("read", 2, 3, result=1)]
    assert check({"k": history}, Register(), time_limit_s=LIMIT_S).verdict is Verdict.INVALID


def test_other_models() -> None:
    appended = [operation("append", 0, 1, 1, [1]), operation("append", 0, 2, 2), operation("read", 3, 4, result=[1, 2])]
    assert Search(appended, AppendList()).run(1000) is Verdict.VALID
    lost = [*appended, operation("read", 5, 6, result=[2])]
    assert Search(lost, AppendList()).run(1000) is Verdict.INVALID
    counted = [operation("add", 0, 1, 2, 2), operation("add", 0, 1, 3, 5), operation("read", 2, 3, result=5)]
    assert Search(counted, Counter()).run(1000) is Verdict.VALID
    twice = [*counted, operation("add", 4, 5, 1, 7)]
    assert Search(twice, Counter()).run(1000) is Verdict.INVALID


def verdict_of_member(*history: Operation) -> Verdict:
    verdict = check({"k": history}, MemberRegister(), time_limit_s=LIMIT_S).verdict
    brute_force = linearizable_by_brute_force(history, MemberRegister())
    assert verdict is (Verdict.VALID if brute_force else Verdict.INVALID)
    return verdict


def test_a_member_that_is_removed_joins_again_with_its_weight() -> None:
    removed = [operation("upsert", 0, 1, 7), operation("remove", 2, 3), operation("read", 4, 5, result=None)]
    weighed = [*removed, operation("upsert", 6, 7, 9), operation("read", 8, 9, result=None)]
    back = [*weighed, operation("join", 10, 11), operation("read", 12, 13, result=9)]
    assert verdict_of_member(*back) is Verdict.VALID


def test_members_that_vanish_or_come_back_by_themselves_are_found() -> None:
    upsert, remove = operation("upsert", 0, 1, 7), operation("remove", 2, 3)
    vanished = [upsert, operation("read", 4, 5, result=None)]
    assert verdict_of_member(*vanished) is Verdict.INVALID
    assert check_by_index({"k": _at_positions(vanished)}, MemberRegister()).verdict is Verdict.INVALID
    still_there = [upsert, remove, operation("read", 4, 5, result=7)]
    assert verdict_of_member(*still_there) is Verdict.INVALID
    assert check_by_index({"k": _at_positions(still_there)}, MemberRegister()).verdict is Verdict.INVALID
    gone_first = [upsert, remove, operation("read", 4, 5, result=None)]
    came_back = [*gone_first, operation("read", 6, 7, result=7)]
    assert verdict_of_member(*came_back) is Verdict.INVALID
    did_not_come_back = [*gone_first, operation("join", 6, 7), operation("read", 8, 9, result=None)]
    assert verdict_of_member(*did_not_come_back) is Verdict.INVALID
    lost_weight = [*gone_first, operation("join", 6, 7), operation("read", 8, 9, result=100)]
    assert verdict_of_member(*lost_weight) is Verdict.INVALID


def _at_positions(history: list[Operation]) -> list[Operation]:
    return [evolve(entry, index=position) for position, entry in enumerate(history, start=1)]


def test_removals_and_joins_of_unknown_outcome_happen_late_or_never() -> None:
    upsert = operation("upsert", 0, 1, 7)
    lost = operation("remove", 2, None)
    assert verdict_of_member(upsert, lost, operation("read", 4, 5, result=7)) is Verdict.VALID
    assert verdict_of_member(upsert, lost, operation("read", 4, 5, result=None)) is Verdict.VALID
    late = operation("join", 2, None)
    seen = [operation("remove", 3, 4), operation("read", 5, 6, result=None), operation("read", 7, 8, result=7)]
    assert verdict_of_member(upsert, late, *seen) is Verdict.VALID
    twice = [operation("remove", 9, 10), operation("read", 11, 12, result=7)]
    assert verdict_of_member(upsert, late, *seen, *twice) is Verdict.INVALID


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_positions_of_a_right_service_are_accepted(seed: int) -> None:
    history = [
        entry for entry in drawn_register_history(seed, operations=60, processes=5) if entry.returned_ns is not None
    ]
    by_index = check_by_index({"k": history}, Register())
    searched = check({"k": history}, Register(), time_limit_s=LIMIT_S)
    # Leaving out writes of unknown outcome can only make a right history wrong, and then for both.
    assert by_index.verdict is searched.verdict or searched.verdict is Verdict.VALID


def test_positions_that_contradict_the_model_time_or_each_other_are_found() -> None:
    def problem(*history: Operation) -> str:
        result = check_by_index({"k": history}, Register())
        assert result.verdict is Verdict.INVALID
        return result.explanation[0]

    write = operation("write", 0, 1, 1, index=1)
    assert "cannot happen" in problem(write, operation("read", 2, 3, result=2, index=1))
    assert "contradict real time" in problem(operation("write", 5, 6, 1, index=1), operation("write", 0, 1, 2, index=2))
    assert "two writes at position 1" in problem(write, operation("write", 2, 3, 2, index=1))
    open_ended = check_by_index({"k": [operation("write", 0, None, 1)]}, Register())
    assert open_ended.verdict is Verdict.UNKNOWN, "nothing was looked at"
    assert open_ended.figures == {"keys": 0, "operations": 0, "keys_left_out": 1}


def test_writes_of_unknown_outcome_excuse_what_they_can_have_done_and_nothing_else() -> None:
    def verdict(*history: Operation) -> Verdict:
        return check_by_index({"k": history}, Register()).verdict

    one, unknown = operation("write", 0, 1, 1, index=1), operation("write", 2, None, 2)
    assert verdict(one, unknown, operation("read", 3, 4, result=2, index=3)) is Verdict.VALID
    assert verdict(one, unknown, operation("read", 3, 4, result=1, index=3)) is Verdict.VALID
    assert verdict(one, unknown, operation("read", 1, 1, result=2, index=3)) is Verdict.INVALID, "not called before"
    three = operation("write", 3, 4, 3, index=4)
    assert verdict(one, unknown, three, operation("read", 5, 6, result=1, index=5)) is Verdict.INVALID, "overwritten"
    counted = [operation("add", 0, 1, 1, 1, index=1), operation("add", 0, None, 1), operation("read", 2, 3, index=2)]
    assert check_by_index({"k": counted}, Counter()).figures["keys_left_out"] == 1, "any sum is possible"
