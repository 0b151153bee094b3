"""ApplyOnce for operators: a request id that is known gets the first answer, whoever leads."""

from __future__ import annotations

import pytest
from attrs import evolve

from callboard.core import membership, snapshot
from callboard.core.commands import (
    CommitNativeBatch,
    CreateNamespace,
    DeleteNamespace,
    MalformedCommandError,
    OperatorRequest,
    Removal,
    Request,
    TakeOffice,
    UnknownCommandError,
    decode_request,
    encode_request,
)
from callboard.core.membership import apply
from callboard.core.records import Answer, AnswerCode
from callboard.core.versions import Policy
from tests.core.test_bounds import Log, native

DIGEST = b"sixteen bytes .."


def ask(log: Log, request_id: str, command: CommitNativeBatch | CreateNamespace | DeleteNamespace) -> Answer:
    entry = encode_request(Request(command, operator=OperatorRequest(request_id, DIGEST)))
    log.state, answer = apply(log.state, log.state.applied_index + 1, decode_request(entry))
    return answer


def test_a_retry_at_the_next_leader_does_not_remove_the_host_that_came_back() -> None:
    log = Log()
    log.add(CommitNativeBatch(1, "shop", (native(),)))
    first = ask(log, "one", CommitNativeBatch(1, "shop", removals=(Removal("h", 1),)))
    assert first.code is AnswerCode.OK
    log.add(CommitNativeBatch(1, "shop", (native(process="p2"),)))
    log.add(TakeOffice("r2", "n"))
    before = log.state.native
    # The next leader knows the host's new incarnation.
    assert ask(log, "one", CommitNativeBatch(2, "shop", removals=(Removal("h", 2),))) == first
    assert log.state.native is before


def test_what_was_refused_may_be_asked_for_again() -> None:
    log = Log()
    assert ask(log, "one", DeleteNamespace("x")).code is AnswerCode.NOT_FOUND
    assert ask(log, "two", CommitNativeBatch(7, "shop")).code is AnswerCode.STALE_EPOCH
    assert log.state.operator_answers == ()
    log.add(CreateNamespace("x", Policy.BARRIER))
    assert ask(log, "one", DeleteNamespace("x")).code is AnswerCode.OK


def test_the_newest_answers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "OPERATOR_ANSWERS_MAX", 2)
    log = Log()
    for name in ("a", "b", "c"):
        assert ask(log, name, CreateNamespace(name, Policy.BARRIER)).code is AnswerCode.OK
    assert [kept.request_id for kept in log.state.operator_answers] == ["b", "c"]
    assert ask(log, "b", CreateNamespace("b", Policy.BARRIER)).code is AnswerCode.OK
    assert ask(log, "a", CreateNamespace("a", Policy.BARRIER)).code is AnswerCode.UNCHANGED, "it is asked anew"
    assert [kept.request_id for kept in log.state.operator_answers] == ["c", "a"]


def test_an_id_is_not_used_for_two_requests_and_has_bounds() -> None:
    log = Log()
    assert ask(log, "one", CreateNamespace("x", Policy.BARRIER)).code is AnswerCode.OK
    request = Request(DeleteNamespace("x"), operator=OperatorRequest("one", b"another digest.."))
    _, answer = apply(log.state, log.state.applied_index + 1, request)
    assert answer == Answer(AnswerCode.INVALID, detail="request_id one was used for another request")
    for request_id, digest in (("", DIGEST), ("x" * 65, DIGEST), ("two", DIGEST[1:])):
        request = Request(CreateNamespace("y", Policy.BARRIER), operator=OperatorRequest(request_id, digest))
        _, answer = apply(log.state, log.state.applied_index + 1, request)
        assert answer.code is AnswerCode.INVALID
    assert ask(log, "x" * 64, CreateNamespace("y", Policy.BARRIER)).code is AnswerCode.OK


def test_before_their_level_such_requests_are_refused() -> None:
    log = Log()
    log.state = evolve(log.state, feature_level=2)
    answer = ask(log, "one", CreateNamespace("x", Policy.BARRIER))
    assert answer == Answer(AnswerCode.UNSUPPORTED, detail="operators' requests in the log need feature level 3, not 2")
    assert "x" not in log.state.namespaces


def test_answers_are_in_the_snapshot() -> None:
    log = Log()
    ask(log, "one", CreateNamespace("x", Policy.BARRIER))
    assert log.state.operator_answers
    assert snapshot.decode_state(snapshot.encode_state(log.state)) == log.state


def test_entries_with_other_things_than_an_id_and_a_digest_are_malformed() -> None:
    entry = encode_request(Request(DeleteNamespace("x"), operator=OperatorRequest("one", DIGEST)))
    assert decode_request(entry).operator == OperatorRequest("one", DIGEST)
    with pytest.raises(UnknownCommandError, match="log entry has encoding version 2"):
        decode_request(b"\x96" + entry[1 : -len(DIGEST) - 6])
    with pytest.raises(MalformedCommandError, match="delete_namespace command: "):
        decode_request(entry.replace(b"\xa3one", b"\x07"))
    for other in (
        b"\x88" + bytes(range(1, 17)),
        b"\x98" + bytes([1]) + entry[2:],
    ):  # a map; the version of other entries
        with pytest.raises(MalformedCommandError, match="is not a command"):
            decode_request(other)
