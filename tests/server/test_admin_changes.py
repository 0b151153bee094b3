"""What operators change, through the command line and the admin service of a real replica."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from attrs import Factory, define, evolve
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from callboard.cli.main import main
from callboard.consensus.interface import BarrierFailed, Engine
from callboard.core.commands import Command, CommitNativeBatch, OperatorRequest
from callboard.core.records import Answer, ReplicatedState
from callboard.core.slot_records import HandoffSettings, HostMark, NativeHostRecord
from callboard.protos.generated import admin_pb2
from callboard.server.admin_changes import AdminChanges
from callboard.server.admin_service import SERVICE
from callboard.server.replica import Replica
from tests.server.support import memory_settings, report_of, serving, sidecar, until


async def callboard(replica: Replica, *arguments: str) -> Result:
    """Run the command against the replica, as a user would."""
    command = [*arguments, "--address", f"127.0.0.1:{replica.grpc_port}"]
    return await asyncio.to_thread(lambda: CliRunner().invoke(main, command, catch_exceptions=False))


async def done(replica: Replica, *arguments: str) -> str:
    """As `callboard`, for commands that must succeed; returns what they print."""
    result = await callboard(replica, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    with capture_logs():  # the runner of commands takes the standard output of this whole process
        async with serving() as replica:
            yield replica


async def join(replica: Replica, *names: str, namespace: str = "carts", zone: str = "a") -> None:
    """Make hosts members, as their hellos would."""
    assert replica.office is not None
    hosts = tuple(
        NativeHostRecord(name, f"{name}:7301", ("Cart", "Lamp"), process="p", labels=(("disk", "ssd"), ("zone", zone)))
        for name in names
    )
    answer = await replica.office.propose(CommitNativeBatch(replica.office.epoch, namespace, hosts))
    assert answer.succeeded, answer


async def test_a_namespace_is_created_listed_and_deleted(replica: Replica) -> None:
    assert "has policy eventual" in await done(replica, "namespace", "create", "lamps", "--policy=eventual")
    again = await done(replica, "namespace", "create", "lamps", "--policy=eventual")
    assert "it was so already" in again
    listed = json.loads(await done(replica, "namespace", "list", "-o", "json"))
    assert [(item["name"], item["policy"], item["slot_bits"]) for item in listed["namespaces"]] == [
        ("lamps", "eventual", 10)
    ]
    assert "lamps" in await done(replica, "namespace", "list")
    assert "is deleted" in await done(replica, "namespace", "delete", "lamps")
    assert "deleted before" in await done(replica, "namespace", "delete", "lamps")
    assert not replica.state.native


async def test_times_are_given_and_checked_with_their_arithmetic(replica: Replica) -> None:
    refused = await callboard(replica, "namespace", "create", "n", "--lease=2s", "--drain=1s", "--margin=500ms")
    assert refused.exit_code == 1
    assert "lease 2000 ms is not above drain 1000 + margin 500 + 2 x tick 500 = 2500 ms" in refused.output
    isolated = ("namespace", "create", "n", "--policy=eventual", "--max-isolation=3s")
    refused = await callboard(replica, *isolated)
    assert refused.exit_code == 1
    assert "max isolation 3000 ms is not above drain 1500 + margin 500 + 2 x tick 500 = 3000 ms" in refused.output
    await done(replica, "namespace", "create", "n", "--lease=4s", "--failure-timeout=5s", "--slot-bits=6")
    namespace = replica.state.native["n"]
    assert (namespace.settings.lease_ms, namespace.settings.failure_timeout_ms, namespace.slots) == (4000, 5000, 64)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "text"),
    [
        (("namespace", "create", "n", "--policy=nonsense"), 2, "'nonsense' is not one of"),
        (("cordon", "--namespace=n"), 2, "give either HOST or --label KEY=VALUE"),
        (("cordon", "h1", "--label=a=b"), 2, "give either HOST or --label KEY=VALUE"),
        (("drain", "--label=zone"), 2, "zone is no KEY=VALUE"),
        (("drain", "--label=zone=c", "--namespace=nowhere"), 1, "NOT_FOUND: namespace nowhere does not exist"),
        (("namespace", "delete", "nowhere"), 1, "no namespace nowhere"),
        (("cordon", "h1", "--namespace=nowhere"), 1, "NOT_FOUND: namespace nowhere does not exist"),
        (("weight", "h1", "10001"), 2, "10001 is not in the range 0<=x<=10000"),
        (("handoff", "--namespace=nowhere"), 1, "no native namespace nowhere"),
        (("namespace", "create", "n" * 300), 1, "namespace name must have 1 to 255 characters"),
        (("namespace", "create", "n", "--request-id", "x" * 65), 1, "request_id has 65 characters; the limit is 64"),
    ],
)
async def test_what_cannot_be_done_says_why(
    replica: Replica, arguments: tuple[str, ...], exit_code: int, text: str
) -> None:
    result = await callboard(replica, *arguments)
    assert result.exit_code == exit_code
    assert text in result.output


async def test_marks_move_slots_and_are_seen(replica: Replica) -> None:
    await done(replica, "namespace", "create", "carts")
    await join(replica, "h1", "h2")
    await done(replica, "cordon", "h2", "--namespace=carts")
    await join(replica, "h3")
    await done(replica, "weight", "h3", "50", "--namespace=carts")
    members = {item["name"]: item for item in json.loads(await done(replica, "members", "-o", "json"))["members"]}
    assert members["h2"]["cordoned"]
    assert members["h3"]["weight"] == 50
    assert {item["state"] for item in members.values()} == {"silent"}, "no host has a session"
    assert int(members["h3"]["removed_in_ms"]) > 0
    assert {name: int(item["slots"]) > 0 for name, item in members.items()} == {"h1": True, "h2": True, "h3": True}
    await done(replica, "drain", "h2", "--namespace=carts")
    await done(replica, "drain", "h2", "--namespace=carts")
    members = {item["name"]: item for item in json.loads(await done(replica, "members", "-o", "json"))["members"]}
    assert members["h2"]["draining"]
    assert int(members["h2"]["slots"]) == 0
    assert int(members["h2"]["awaited_slots"]) > 0, "others wait for what it has not let go"
    waited = await callboard(replica, "drain", "h2", "--namespace=carts", "--wait", "--wait-timeout=1ms")
    assert waited.exit_code == 1
    assert "h2 still owns 0 slots and has not let go of" in waited.output
    await done(replica, "uncordon", "h2", "--namespace=carts")
    assert "h2" not in replica.state.native["carts"].marks


@define
class OthersAskMeanwhile:
    """A replica in office that puts nothing into its log before so many requests have been taken in."""

    replica: Replica
    awaited: int
    everybody_asked: asyncio.Event = Factory(asyncio.Event)

    @property
    def office(self) -> OthersAskMeanwhile:
        return self

    @property
    def state(self) -> ReplicatedState:
        return self.replica.state

    @property
    def engine(self) -> Engine:
        return self.replica.engine

    @property
    def epoch(self) -> int:
        assert self.replica.office is not None
        return self.replica.office.epoch

    def leader_id(self) -> str | None:
        return self.replica.leader_id()

    async def propose_at(self, command: Command, operator: OperatorRequest | None = None) -> tuple[Answer, int]:
        await self.everybody_asked.wait()
        assert self.replica.office is not None
        return await self.replica.office.propose_at(command, operator)

    async def is_operator(self, _: object) -> None:
        self.awaited -= 1
        if self.awaited == 0:
            self.everybody_asked.set()


async def test_marks_that_are_made_at_the_same_time_are_all_kept(replica: Replica) -> None:
    await done(replica, "namespace", "create", "carts")
    wanted: list[dict[str, Any]] = [{"cordoned": True}, {"weight": 7}, {"draining": True}]
    slow = OthersAskMeanwhile(replica, len(wanted))
    changes = AdminChanges(slow, HandoffSettings(), slow.is_operator)
    requests = [admin_pb2.MarkHostRequest(namespace="carts", host="h1", **each) for each in wanted]
    async with asyncio.timeout(20):
        nobody: Any = None  # who asks only matters when something is refused
        await asyncio.gather(*(changes.mark_host(request, nobody) for request in requests))
    assert replica.state.native["carts"].marks["h1"] == HostMark("h1", cordoned=True, draining=True, weight=7)


async def test_without_a_quorum_nobody_says_that_nothing_has_to_be_done(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deposed leader that does not know it yet would answer by an old state."""
    await done(replica, "namespace", "create", "carts")
    assert "h1 is no member" in await done(replica, "remove", "h1", "--namespace=carts")

    async def no_quorum(*, timeout_ms: int) -> int:
        raise BarrierFailed(f"no majority within {timeout_ms} ms")

    monkeypatch.setattr(replica.engine, "barrier", no_quorum)
    for refused in (("remove", "h1", "--namespace=carts"), ("cordon", "h1", "--namespace=nowhere")):
        result = await callboard(replica, *refused)
        assert result.exit_code == 3
        assert "nothing was changed: no majority" in result.output


async def test_a_whole_zone_is_drained_in_one_change(replica: Replica) -> None:
    """One after the other would move what the first gives up to the second, and then once more."""
    await done(replica, "namespace", "create", "carts")
    await join(replica, "h1", "h2", zone="a")
    await join(replica, "h3", "h4", zone="b")
    before = replica.state.native["carts"]
    shown = await done(replica, "drain", "--label=zone=a", "--label=disk=ssd", "--namespace=carts")
    assert "every member with zone=a, disk=ssd is draining" in shown
    after = replica.state.native["carts"]
    assert after.version == before.version.next()
    owned_before, owned_after = (each.tables["Cart"].owners for each in (before, after))
    gone = {before.members[name].incarnation for name in ("h1", "h2")}
    moved = [slot for slot, owner in enumerate(owned_after) if owner != owned_before[slot]]
    assert moved == [slot for slot, owner in enumerate(owned_before) if owner in gone]
    assert not gone & set(owned_after)
    nobody = await callboard(replica, "drain", "--label=zone=c", "--namespace=carts")
    assert nobody.exit_code == 1
    assert "NOT_FOUND: no member of namespace carts has labels zone=c" in nobody.output
    await done(replica, "uncordon", "--label=zone=a", "--namespace=carts")
    assert not replica.state.native["carts"].marks


async def test_handoff_says_who_is_waited_for(replica: Replica) -> None:
    await done(replica, "namespace", "create", "carts", "--slot-bits=4")
    await join(replica, "h1")
    await join(replica, "h2")
    assert "h1/" in await done(replica, "handoff")
    told = json.loads(await done(replica, "handoff", "-o", "json"))["waiting"]
    assert {giver["why"] for item in told for giver in item["givers"]} == {"removed", "not heard"}
    assert all(int(item["waited_ms"]) >= 0 and int(giver["remaining_ms"]) for item in told for giver in item["givers"])
    shown = replica.metrics.exposition().decode()
    assert 'callboard_native_members{namespace="carts"} 2.0' in shown
    assert 'callboard_native_ungranted_slots{giver="h1",namespace="carts"} 16.0' in shown
    assert 'callboard_native_oldest_wait_seconds{namespace="carts"}' in shown
    assert 'callboard_native_lease_margin_seconds{namespace="carts"}' in shown
    await done(replica, "remove", "h1", "--namespace=carts")
    assert "h1 is no member" in await done(replica, "remove", "h1", "--namespace=carts")
    waiting = json.loads(await done(replica, "handoff", "-o", "json"))["waiting"]
    assert {item["owner"] for item in waiting} == {"h2"}
    assert {giver["why"] for item in waiting for giver in item["givers"]} == {"removed"}
    found = json.loads(await done(replica, "lookup", "Cart", "alice", "--namespace=carts", "-o", "json"))
    assert found["host"] == "h2"
    assert not found["granted"] or found["slot"] not in range(waiting[0]["first"], waiting[-1]["first"] + 1)


async def test_a_request_id_is_answered_once_and_not_reused(replica: Replica) -> None:
    first = await done(replica, "namespace", "create", "n", "--request-id=one", "-o", "json")
    assert json.loads(first)["changed"]
    assert await done(replica, "namespace", "create", "n", "--request-id=one", "-o", "json") == first
    reused = await callboard(replica, "namespace", "create", "other", "--request-id=one")
    assert "request_id one was used for another request" in reused.output


async def test_a_request_id_gets_the_first_answer_at_the_next_leader_too(replica: Replica) -> None:
    await done(replica, "namespace", "create", "carts")
    await join(replica, "h1")
    removal = ("remove", "h1", "--namespace=carts", "--request-id=one", "-o", "json")
    first = await done(replica, *removal)
    await join(replica, "h1")
    office = replica.office
    replica.renew_office("an election")
    await until(lambda: replica.office not in {None, office}, "another office")
    assert await done(replica, *removal) == first
    assert "h1" in replica.state.native["carts"].members, "it was removed once more"
    reused = await callboard(replica, "remove", "h2", "--namespace=carts", "--request-id=one")
    assert "request_id one was used for another request" in reused.output


async def test_below_level_3_request_ids_are_remembered_by_the_leader_alone() -> None:
    with capture_logs():
        async with serving(evolve(memory_settings(), feature_level=2)) as replica:
            first = await done(replica, "namespace", "create", "n", "--request-id=one", "-o", "json")
            assert await done(replica, "namespace", "create", "n", "--request-id=one", "-o", "json") == first
            assert replica.state.operator_answers == ()


async def test_a_namespace_of_sidecars_is_not_one_of_native_hosts(replica: Replica) -> None:
    report = report_of("10.0.0.1:50002", "Cart")
    async with sidecar(replica.grpc_port, report) as hand:
        await hand.complete_round(report)
        refused = await callboard(replica, "namespace", "create", "default")
        assert "namespace default exists with policy barrier" in refused.output
        assert "namespace default is for sidecars" in (await callboard(replica, "cordon", "h1")).output


async def test_native_namespaces_need_the_feature_level() -> None:
    async with serving(evolve(memory_settings(), feature_level=1)) as replica:
        refused = await callboard(replica, "namespace", "create", "n")
        assert "native namespaces need feature level 2, not 1" in refused.output


async def test_a_replica_that_does_not_lead_names_the_leader(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "office", None)
    refused = await callboard(replica, "namespace", "create", "n")
    assert "only the leader can change this; it is r1" in refused.output


async def test_a_message_with_an_unknown_policy_is_refused(replica: Replica) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{replica.grpc_port}") as channel:
        call: Any = channel.unary_unary(
            f"/{SERVICE}/CreateNamespace",
            request_serializer=admin_pb2.CreateNamespaceRequest.SerializeToString,
            response_deserializer=admin_pb2.ChangeReply.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError, match="policy 'later' is none of barrier, eventual, exclusive"):
            await call(admin_pb2.CreateNamespaceRequest(name="n", policy="later"))
