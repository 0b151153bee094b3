"""OneStore: hosts of policy `exclusive` keep state in one store, because fences are compared there."""

from __future__ import annotations

import pytest
from attrs import evolve

from callboard.core import snapshot
from callboard.core.native_leader_records import CloseStream, SendWelcome
from callboard.core.records import AnswerCode
from callboard.core.slot_membership import NATIVE_RECORD_BYTES_MAX, STORE_LEVEL, native_host_problem
from callboard.core.slot_records import NativeHostRecord
from callboard.core.versions import Policy
from tests.core.leader_driver import SETTINGS, LeaderDriver, record
from tests.core.native_log import Log

REFUSAL = "host b keeps state in store file-2, but host a in store file-1: fences need one store"


def host(name: str, store_id: str, process: str = "p1") -> NativeHostRecord:
    return evolve(record(name, process=process), store_id=store_id)


def test_the_first_committed_store_counts_and_a_refused_batch_changes_nothing() -> None:
    log = Log(STORE_LEVEL)
    assert log.batch(host("a", "file-1"), host("none", "")) == (AnswerCode.OK, "")
    before = log.state
    assert log.batch(host("c", "file-1"), host("b", "file-2")) == (AnswerCode.CONFLICT, REFUSAL)
    assert log.state == evolve(
        before, applied_index=log.state.applied_index, entries_applied=before.entries_applied + 1
    )
    assert log.batch(host("c", "file-1")) == (AnswerCode.OK, "")
    assert log.stores() == {"a": "file-1", "c": "file-1", "none": ""}


def test_two_stores_in_one_batch_are_refused() -> None:
    log = Log(STORE_LEVEL)
    assert log.batch(host("a", "file-1"), host("b", "file-2")) == (AnswerCode.CONFLICT, REFUSAL)
    assert log.stores() == {}


def test_another_store_may_come_when_no_member_has_one() -> None:
    log = Log(STORE_LEVEL)
    log.batch(host("a", "file-1"), host("none", ""))
    assert log.batch(host("b", "file-2"), removed="a") == (AnswerCode.OK, "")
    assert log.stores() == {"b": "file-2", "none": ""}
    assert log.batch(host("b", "file-3", process="p2")) == (AnswerCode.OK, ""), "it was alone with its store"
    assert log.batch(host("none", "file-3")) == (AnswerCode.OK, "")
    code, detail = log.batch(host("b", "file-4", process="p3"))
    assert (code, "host none in store file-3" in detail) == (AnswerCode.CONFLICT, True)


def test_eventual_namespaces_do_not_compare_stores() -> None:
    log = Log(STORE_LEVEL, policy=Policy.EVENTUAL)
    assert log.batch(host("a", "file-1"), host("b", "file-2")) == (AnswerCode.OK, "")


@pytest.mark.parametrize("level", [2, STORE_LEVEL])
def test_snapshots_keep_stores_from_their_level_on_and_equal_states_have_equal_digests(level: int) -> None:
    log = Log(level)
    log.batch(host("a", "file-1"), host("b", ""))
    assert log.stores() == {"a": "file-1" if level == STORE_LEVEL else "", "b": ""}
    content = snapshot.encode_state(log.state)
    assert snapshot.decode_state(content) == log.state
    assert snapshot.encode_state(snapshot.decode_state(content)) == content
    assert (b"file-1" in content) == (b"store_id" in content) == (level == STORE_LEVEL)


def test_before_its_level_apply_ignores_stores_whatever_they_are() -> None:
    """As replicas do that do not know the field."""
    log = Log(level=2)
    assert log.batch(host("a", "file-1"), host("b", "x" * 300)) == (AnswerCode.OK, "")
    plain = Log(level=2)
    plain.batch(host("a", ""), host("b", ""))
    assert snapshot.digest(log.state) == snapshot.digest(plain.state)


def test_store_ids_are_bounded() -> None:
    assert native_host_problem(host("a", "x" * 255)) is None
    problem = native_host_problem(host("a", "x" * 256))
    assert problem == "store id of host a has 256 characters; the limit is 255"
    kinds = tuple(sorted(f"{number:03}" + "y" * 250 for number in range(126)))
    assert native_host_problem(evolve(host("a", ""), actor_types=kinds)) is None
    assert f"the limit is {NATIVE_RECORD_BYTES_MAX}" in str(
        native_host_problem(evolve(host("a", "z" * 255), actor_types=kinds, labels=(("l", "z" * 255),)))
    )


def test_the_leader_refuses_at_the_door_whom_apply_would_refuse() -> None:
    driver = LeaderDriver()
    driver.join(1, host("a", "file-1"))
    driver.new_office()
    driver.hello(2, host("b", "file-2"))
    assert driver.proposals == {}
    driver.confirm_round()
    assert driver.of(CloseStream) == [CloseStream(2, "FAILED_PRECONDITION", REFUSAL)]
    assert driver.proposals == {}


def test_hosts_of_two_stores_that_come_together_are_told_apart_by_the_log() -> None:
    driver = LeaderDriver()
    for stream_id, (name, store_id) in enumerate((("a", "file-1"), ("b", "file-2"), ("c", "file-1")), start=1):
        driver.hello(stream_id, host(name, store_id))
    closed, welcomed = [], []
    for _ in range(6):
        driver.at(driver.now_ms + SETTINGS.tick_ms)
        while driver.proposals:
            driver.commit()
            closed += driver.of(CloseStream)
            welcomed += driver.of(SendWelcome)
    assert closed == [CloseStream(2, "FAILED_PRECONDITION", REFUSAL)]
    assert sorted(each.stream_id for each in welcomed) == [1, 3]
    assert sorted(driver.namespace.members) == ["a", "c"]


def test_a_member_of_before_the_level_gets_its_store_also_by_the_word_of_a_front() -> None:
    driver = LeaderDriver()
    incarnation = driver.join(1, host("a", ""))
    driver.new_office()
    driver.hello(2, host("a", "file-1"), incarnation, 2, by_front=True)
    driver.commit_all()
    assert driver.namespace.members["a"].host.store_id == "file-1"
    assert driver.namespace.members["a"].incarnation == incarnation
    driver.new_office()
    driver.hello(3, evolve(host("a", "file-1"), address="elsewhere:1"), incarnation, 3, by_front=True)
    assert driver.proposals == {}, "a front's word may be old"


def test_the_word_of_a_front_takes_no_store_away() -> None:
    driver = LeaderDriver()
    incarnation = driver.join(1, host("a", "file-1"))
    driver.new_office()
    driver.hello(2, host("a", ""), incarnation, 2, by_front=True)
    assert driver.proposals == {}, "it may be of before the host knew its store"
