"""How operations end in a history: only what surely did not happen has failed."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from callboard.core.handoff_messages import Tick
from callboard.core.native_host import HELLO_REPEAT_MS
from callboard.core.native_host_records import Connected, Disconnected, Stopped
from callboard.host import ActorFailedError, BusyError, Host, NotServedError, OutcomeUnknownError, SqliteStore
from callboard.protos.generated import admin_pb2
from harness.faults.clients import (
    Answer,
    Caller,
    Channels,
    DidNotHappenError,
    OperatorClient,
    StandIn,
    called,
    surely_not_done,
)
from harness.faults.history import Outcome, Recorder, read_history
from harness.faults.keys import OPERATIONS_PER_KEY, UNKNOWN_PER_KEY, Key
from harness.faults.workload_host import Tally, Trace, TracedHost
from harness.faults.workloads import actor_name


def rpc_error(code: grpc.StatusCode, text: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=text)


def raising(error: BaseException) -> Callable[[str], Awaitable[Answer]]:
    async def call(_token: str) -> Answer:
        raise error

    return call


async def test_a_caller_whose_operation_has_no_answer_goes_on_as_another_process(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with Recorder(path) as recorder:
        caller = Caller(recorder)
        tokens: list[str] = []

        async def fine(token: str) -> Answer:
            tokens.append(token)
            return Answer(7, index=3)

        assert await caller.do("add", "counter/k", 7, fine) == (Outcome.OK, 7)
        assert (await caller.do("add", "counter/k", 1, raising(DidNotHappenError("no"))))[0] is Outcome.FAIL
        for error in (OutcomeUnknownError("?"), TimeoutError(), rpc_error(grpc.StatusCode.UNAVAILABLE, "gone")):
            assert (await caller.do("add", "counter/k", 1, raising(error)))[0] is Outcome.INFO
        assert (await caller.do("add", "counter/k", 7, fine))[0] is Outcome.OK
    operations = read_history(path).operations
    assert [operation.outcome.value for operation in operations] == ["ok", "fail", "info", "info", "info", "ok"]
    assert [operation.process for operation in operations] == [1, 1, 1, 2, 3, 4]
    assert operations[0].index == 3
    assert tokens == [str(operations[0].number), str(operations[-1].number)]


@pytest.mark.parametrize(
    ("error", "happened"),
    [
        (NotServedError("nobody"), False),
        (BusyError("full"), False),
        (ActorFailedError("StaleFenceError", "older"), False),
        (ActorFailedError("VersionConflictError", "other"), False),
        (ActorFailedError("ZeroDivisionError", "oops"), True),
        (OutcomeUnknownError("gone"), True),
    ],
)
async def test_calls_that_surely_did_nothing(*, error: Exception, happened: bool) -> None:
    async def call() -> None:
        raise error

    with pytest.raises(type(error) if happened else DidNotHappenError):
        await called(call())


@pytest.mark.parametrize(
    ("code", "text", "not_done"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "only the leader can change this; it is replica-2", True),
        (grpc.StatusCode.UNAVAILABLE, "nothing was changed: the proposal was dropped", True),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: refused", True),
        (grpc.StatusCode.UNAVAILABLE, "whether it was changed is not known: timed out", False),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", False),
    ],
)
def test_answers_of_replicas_that_surely_did_nothing(code: grpc.StatusCode, text: str, *, not_done: bool) -> None:
    assert surely_not_done(rpc_error(code, text)) is not_done


class Answering(OperatorClient):
    """An operator whose replicas say what a test gave them, in the order in which they are asked."""

    def __init__(self, *answers: bytes | grpc.aio.AioRpcError) -> None:
        super().__init__(cast("Channels", None), ["replica-1", "replica-2", "replica-3"])
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []

    async def _ask(self, replica: str, method: str, request: Any) -> bytes:
        del request
        self.asked.append((replica, method.rpartition("/")[2]))
        answer = self.answers.pop(0)
        if isinstance(answer, bytes):
            return answer
        raise answer


NOT_LEADING = rpc_error(grpc.StatusCode.FAILED_PRECONDITION, "only the leader can change this; it is replica-2")
GONE = rpc_error(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def members_reply(index: int, **weights: int) -> bytes:
    reply = admin_pb2.ListMembersReply(applied_index=index)
    for name, weight in weights.items():
        reply.members.add(name=name, weight=weight)
    return reply.SerializeToString()


async def test_what_operators_record_of_members(tmp_path: Path) -> None:
    removed = admin_pb2.ChangeReply(changed=True, applied_index=7).SerializeToString()
    unchanged = admin_pb2.ChangeReply(text="host r1 is no member").SerializeToString()
    operator = Answering(
        *(NOT_LEADING, removed, unchanged, GONE),
        *(members_reply(8, r1=5, r2=6), members_reply(9, r2=6), GONE),
    )
    path = tmp_path / "history.jsonl"
    with Recorder(path) as recorder:
        caller = Caller(recorder)
        assert await operator.remove(caller, "r1") is Outcome.OK
        assert await operator.remove(caller, "r1") is Outcome.FAIL
        assert await operator.remove(caller, "r1") is Outcome.INFO
        for _ in range(2):
            assert await operator.read(caller, "r1", "replica-3") is Outcome.OK
        assert await operator.read(caller, "r1", "replica-3") is Outcome.FAIL
    found = [(entry.function, entry.outcome, entry.result, entry.index) for entry in read_history(path).operations]
    assert found == [
        ("remove", Outcome.OK, None, 7),
        ("remove", Outcome.FAIL, None, None),
        ("remove", Outcome.INFO, None, None),
        ("read", Outcome.OK, 5, 8),
        ("read", Outcome.OK, None, 9),
        ("read", Outcome.FAIL, None, None),
    ]
    # Who did it last is asked first.
    replicas = ["replica-1", "replica-2", "replica-2", "replica-2"]
    assert operator.asked[:4] == [(replica, "RemoveHost") for replica in replicas]


async def test_a_stand_in_counts_how_often_it_asked_to_become_a_member(tmp_path: Path) -> None:
    stand_in = StandIn("r1", ["127.0.0.1:1"])
    for at_ms, event in ((0, Connected(1)), (HELLO_REPEAT_MS, Tick()), (HELLO_REPEAT_MS + 1, Disconnected(1))):
        for effect in stand_in.machine.handle(event, at_ms):
            stand_in._carry_out(effect)
    assert stand_in.asked == 2
    path = tmp_path / "history.jsonl"
    with Recorder(path) as recorder:
        assert await stand_in.may_join_late(Caller(recorder)) is Outcome.INFO
    (operation,) = read_history(path).operations
    assert (operation.function, operation.key, operation.returned_ns) == ("join", "member/r1", None)


def test_keys_are_given_up_when_a_search_would_get_expensive() -> None:
    many, unknown = Key("counter/k1"), Key("list/k2")
    for _ in range(OPERATIONS_PER_KEY):
        assert not many.spent
        many.note(Outcome.OK)
    for _ in range(UNKNOWN_PER_KEY):
        assert not unknown.spent
        unknown.note(Outcome.INFO)
    assert many.spent
    assert unknown.spent
    assert (actor_name("counter/k1"), actor_name("list/k2")) == ("Tally/k1", "Journal/k2")


async def test_a_host_that_is_out_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def over(_self: Host) -> Stopped:
        return Stopped("turns did not end", overdue=True)

    monkeypatch.setattr(Host, "stopped", over)
    monkeypatch.setattr(Host, "session", SimpleNamespace(machine=SimpleNamespace(incarnation=3)))
    host = TracedHost(
        listen="127.0.0.1:0", cluster="127.0.0.1:1", actors=[Tally], name="h1", store=SqliteStore(tmp_path / "state.db")
    )
    path = tmp_path / "h1.jsonl"
    host.trace = Trace(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
    assert (await host.stopped()).overdue
    os.close(host.trace.descriptor)
    line = json.loads(path.read_text())
    assert {name: line[name] for name in ("kind", "host", "incarnation", "overdue")} == {
        "kind": "out",
        "host": "h1",
        "incarnation": 3,
        "overdue": True,
    }
