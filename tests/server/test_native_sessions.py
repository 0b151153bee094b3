"""Sessions of native hosts with a real replica: the host's machine and the leader's machine over gRPC."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import grpc
import grpc.aio
import pytest
from attrs import evolve

from callboard.core.commands import CommitNativeBatch, CreateNativeNamespace, Removal
from callboard.core.native_host_records import StopAdmitting
from callboard.core.slot_records import HandoffSettings
from callboard.core.table_delta import TableDelta
from callboard.core.versions import Policy
from callboard.host import Router
from callboard.host.session import HostRefusedError, Session
from callboard.protos import convert
from callboard.protos.generated import host_pb2
from callboard.server import native_runner
from callboard.server.endings import Ending
from callboard.server.native_runner import NativeRunner
from callboard.server.native_session import Context, HostSession, Way
from callboard.server.replica import Replica
from callboard.server.settings import NativeSettings
from tests.host.slots import RecordingSlots, session_of
from tests.server.support import memory_settings, report_of, serving, sidecar, until

QUICK = HandoffSettings(lease_ms=900, drain_ms=200, margin_ms=100, tick_ms=100, failure_timeout_ms=1500)
SLOTS = 32


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    native = NativeSettings(slot_bits=4, handoff=QUICK)
    async with serving(evolve(memory_settings(), native=native)) as replica:
        yield replica


@pytest.fixture
async def hosts(replica: Replica) -> AsyncIterator[Hosts]:
    hosts = Hosts(replica)
    async with hosts.stack:
        yield hosts


class Hosts:
    """Sessions that end with the test."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.stack = AsyncExitStack()

    async def join(
        self, name: str, policy: Policy = Policy.EXCLUSIVE, store_id: str = ""
    ) -> tuple[Session, RecordingSlots]:
        session, slots = session_of(name, [f"127.0.0.1:{self.replica.grpc_port}"], policy=policy, store_id=store_id)
        self.stack.push_async_callback(session.stop)
        async with asyncio.timeout(20):
            await session.start()
        return session, slots

    def runner(self) -> NativeRunner:
        return self.replica.native_runners()["carts"]


async def test_slots_are_granted_handed_over_and_come_back(hosts: Hosts) -> None:
    _, first = await hosts.join("h1")
    await until(lambda: len(first.serving) == SLOTS, "the only host serves every slot")
    second_session, second = await hosts.join("h2")
    await until(lambda: len(second.serving) == SLOTS // 2, "a join takes its share")
    assert len(first.serving) == SLOTS // 2
    assert not first.serving & second.serving
    assert await second_session.leave(10_000)
    await until(lambda: len(first.serving) == SLOTS, "a leave gives it back")
    assert list(hosts.replica.state.native["carts"].members) == ["h1"]


async def test_a_slot_is_not_granted_before_its_giver_has_let_go(hosts: Hosts) -> None:
    _, first = await hosts.join("h1")
    await until(lambda: len(first.serving) == SLOTS, "the only host serves every slot")
    first.hold = True
    _, second = await hosts.join("h2")
    await until(lambda: any(isinstance(told, StopAdmitting) for told in first.told), "h1 is told to let go")
    namespace = hosts.replica.state.native["carts"]
    assert len(second.serving) == 0
    assert all(namespace.rights[kind].pending for kind in ("Cart", "Lamp"))
    for told in first.told:
        if isinstance(told, StopAdmitting):
            first.drain(told)
    await until(lambda: len(second.serving) == SLOTS // 2, "h2 gets what h1 let go")


async def test_a_silent_host_is_removed_and_its_slots_wait_for_its_lease(hosts: Hosts) -> None:
    session, first = await hosts.join("h1")
    _, second = await hosts.join("h2")
    await until(lambda: len(first.serving) == len(second.serving) == SLOTS // 2, "both serve their share")
    await session.stop()
    await until(lambda: len(second.serving) == SLOTS, "h2 takes over")
    namespace = hosts.replica.state.native["carts"]
    assert list(namespace.members) == ["h2"]
    assert not namespace.tombstones


async def test_a_removed_host_comes_back_as_another_incarnation(hosts: Hosts) -> None:
    session, slots = await hosts.join("h1")
    await until(lambda: len(slots.serving) == SLOTS, "it serves")
    before = session.machine.incarnation
    assert hosts.replica.office is not None
    removal = CommitNativeBatch(hosts.replica.office.epoch, "carts", removals=(Removal("h1", before),))
    await hosts.replica.office.propose(removal)
    await until(lambda: session.machine.incarnation > before and len(slots.serving) == SLOTS, "it serves again")


async def test_two_policies_do_not_meet(hosts: Hosts) -> None:
    await hosts.join("h1")
    with pytest.raises(HostRefusedError, match="h2 speaks policy eventual, but namespace carts has policy exclusive"):
        await hosts.join("h2", Policy.EVENTUAL)


@pytest.mark.parametrize("policy", [Policy.EXCLUSIVE, Policy.EVENTUAL])
async def test_the_first_hello_creates_a_namespace_with_what_is_configured(policy: Policy) -> None:
    native = NativeSettings(policy=policy, slot_bits=5, handoff=QUICK)
    async with serving(evolve(memory_settings(), native=native)) as replica:
        hosts = Hosts(replica)
        async with hosts.stack:
            other = Policy.EVENTUAL if policy is Policy.EXCLUSIVE else Policy.EXCLUSIVE
            with pytest.raises(HostRefusedError, match=f"speaks policy {other}, but namespace carts has .* {policy}"):
                await hosts.join("h1", other)
            created = replica.state.native["carts"]
            assert (created.policy, created.slot_bits, created.settings) == (policy, 5, QUICK)
            _, slots = await hosts.join("h1", policy)
            await until(lambda: len(slots.serving) == 64, "it serves two types of 32 slots")


async def test_a_new_leader_keeps_other_stores_out_before_anybody_has_repeated_a_hello(hosts: Hosts) -> None:
    first, slots = await hosts.join("h1", store_id="file-a")
    await until(lambda: len(slots.serving) == SLOTS, "it serves")
    await first.stop()
    before = hosts.replica.office
    hosts.replica.renew_office("an election")
    await until(lambda: hosts.replica.office not in {None, before}, "another office")
    assert "h1" in hosts.replica.state.native["carts"].members
    with pytest.raises(HostRefusedError, match="h2 keeps state in store file-b, but host h1 in store file-a"):
        await hosts.join("h2", store_id="file-b")


async def test_hosts_with_two_stores_that_come_at_once_do_not_both_become_members(hosts: Hosts) -> None:
    names = ("h1", "h2", "h3", "h4")
    asked = [hosts.join(name, store_id=f"file-{number % 2}") for number, name in enumerate(names)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, HostRefusedError)]
    assert len(refused) == 2
    assert all("fences need one store" in str(answer) for answer in refused)
    assert len({member.host.store_id for member in hosts.replica.state.native["carts"].members.values()}) == 1


async def test_before_level_3_the_leader_remembers_stores_and_the_log_does_not() -> None:
    native = NativeSettings(slot_bits=4, handoff=QUICK)
    async with serving(evolve(memory_settings(), native=native, feature_level=2)) as replica:
        hosts = Hosts(replica)
        async with hosts.stack:
            await hosts.join("h1", store_id="file-a")
            with pytest.raises(HostRefusedError, match="h2 keeps state in store file-b, but host h1 in store file-a"):
                await hosts.join("h2", store_id="file-b")
            await hosts.join("h2", store_id="file-a")
            assert {member.host.store_id for member in replica.state.native["carts"].members.values()} == {""}


async def test_a_member_that_is_not_connected_still_keeps_other_stores_out(hosts: Hosts) -> None:
    first, slots = await hosts.join("h1", store_id="file-a")
    await until(lambda: len(slots.serving) == SLOTS, "it serves")
    await first.stop()
    await until(lambda: hosts.runner().stream_count() == 0, "its stream is gone")
    assert "h1" in hosts.replica.state.native["carts"].members
    with pytest.raises(HostRefusedError, match="h2 keeps state in store file-b, but host h1 in store file-a"):
        await hosts.join("h2", store_id="file-b")
    await until(lambda: not hosts.replica.state.native["carts"].members, "it is removed")
    await hosts.join("h2", store_id="file-b")


async def test_tables_are_encoded_once_however_many_take_them(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, encoded = convert.delta_message, Counter[tuple[int, int]]()

    def counted(delta: TableDelta) -> host_pb2.TableDelta:
        encoded[delta.from_version, delta.to_version] += 1
        return encode(delta)

    monkeypatch.setattr(convert, "delta_message", counted)
    joined = [await hosts.join(f"h{number}") for number in range(5)]
    async with AsyncExitStack() as stack:
        address = f"127.0.0.1:{hosts.replica.grpc_port}"
        routers = [await stack.enter_async_context(Router(cluster=address, namespace="carts")) for _ in range(5)]
        joined.append(await hosts.join("h5"))
        version = hosts.replica.state.native["carts"].version.wire

        def all_have_it() -> bool:
            views = [*(session.machine.view for session, _ in joined), *(router.view for router in routers)]
            return all(view is not None and view.version == version for view in views)

        await until(all_have_it, "everybody has the table")
    assert encoded[version - 1, version] == 2, "once for all hosts, once for all watchers"
    assert max(encoded.values()) <= 2


async def test_tables_that_are_too_large_are_not_sent(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_runner, "TABLE_BYTES_MAX", 10)
    session, slots = await hosts.join("h1")
    await until(lambda: session.streams_ended > 0, "its stream ends")
    assert not slots.serving
    monkeypatch.undo()
    await until(lambda: len(slots.serving) == SLOTS, "it serves after all")


async def test_native_hosts_and_sidecars_do_not_meet(replica: Replica) -> None:
    report = report_of("10.0.0.1:50002", "Cart")
    async with sidecar(replica.grpc_port, report) as hand:
        await hand.complete_round(report)
        session, _ = session_of("h1", [f"127.0.0.1:{replica.grpc_port}"], namespace="default")
        with pytest.raises(HostRefusedError, match="it is for sidecars"):
            await session.start()
        await session.stop()


async def test_policy_eventual_serves_without_grants(hosts: Hosts) -> None:
    address = f"127.0.0.1:{hosts.replica.grpc_port}"
    assert hosts.replica.office is not None
    await hosts.replica.office.propose(CreateNativeNamespace("lamps", Policy.EVENTUAL, 4, QUICK))
    one, first = session_of("h1", [address], namespace="lamps", policy=Policy.EVENTUAL)
    two, second = session_of("h2", [address], namespace="lamps", policy=Policy.EVENTUAL)
    hosts.stack.push_async_callback(one.stop)
    hosts.stack.push_async_callback(two.stop)
    await one.start()
    await two.start()
    await until(lambda: len(first.serving) == len(second.serving) == SLOTS // 2, "both serve their share")


async def next_table(watch: grpc.aio.UnaryStreamCall[Any, Any]) -> TableDelta:
    """The next update that has one."""
    while True:
        update = await watch.read()
        assert isinstance(update, host_pb2.WatchUpdate)
        if update.HasField("table"):
            return convert.delta_record(update.table)


async def test_watches_and_lookups(hosts: Hosts) -> None:
    await hosts.join("h1")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{hosts.replica.grpc_port}") as channel:
        watch = channel.unary_stream(
            "/callboard.host.v1.Placement/Watch",
            request_serializer=host_pb2.WatchRequest.SerializeToString,
            response_deserializer=host_pb2.WatchUpdate.FromString,
        )(host_pb2.WatchRequest(namespace="carts", protocol_version=convert.PROTOCOL_VERSION))
        lookup = channel.unary_unary(
            "/callboard.host.v1.Placement/Lookup",
            request_serializer=host_pb2.LookupRequest.SerializeToString,
            response_deserializer=host_pb2.LookupReply.FromString,
        )
        snapshot = await next_table(watch)
        assert snapshot.is_snapshot
        await hosts.join("h2")
        async with asyncio.timeout(20):
            delta = await next_table(watch)
        assert delta.from_version == snapshot.to_version
        assert [entry.name for entry in delta.hosts] == ["h2"]
        request = host_pb2.LookupRequest(namespace="carts", actor_type="Cart", actor_id="alice", linearizable=True)
        reply = await lookup(request)
        assert reply.name in {"h1", "h2"}
        assert reply.version == delta.to_version
        with pytest.raises(grpc.aio.AioRpcError, match="ever hosted actor type 'Sofa'"):
            await lookup(host_pb2.LookupRequest(namespace="carts", actor_type="Sofa", actor_id="alice"))
        with pytest.raises(grpc.aio.AioRpcError, match="no namespace nowhere"):
            await lookup(host_pb2.LookupRequest(namespace="nowhere"))
        watch.cancel()


async def test_a_watch_says_how_old_it_may_be_and_versions_shake_hands(hosts: Hosts) -> None:
    await hosts.join("h1")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{hosts.replica.grpc_port}") as channel:
        watch: grpc.aio.UnaryStreamMultiCallable[Any, Any] = channel.unary_stream(
            "/callboard.host.v1.Placement/Watch",
            request_serializer=host_pb2.WatchRequest.SerializeToString,
            response_deserializer=host_pb2.WatchUpdate.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError, match="protocol_version 9 is not known; this replica knows 1"):
            await watch(host_pb2.WatchRequest(namespace="carts", protocol_version=9)).read()
        update = await watch(host_pb2.WatchRequest(namespace="carts", protocol_version=1)).read()
        assert isinstance(update, host_pb2.WatchUpdate)
        assert update.leader_known
        assert update.policy == "exclusive"
        assert 0 < update.applied_index <= hosts.replica.state.applied_index


async def test_what_newer_peers_add_is_not_minded(replica: Replica) -> None:
    """Fields that this release does not know, in a hello and in a message that it does not know at all."""
    hello = host_pb2.Hello(
        protocol_version=1, connection=1, policy="exclusive", namespace="n", name="h", address="h:1", process="p",
        actor_types=["Cart"], weight=100,
    )  # fmt: skip
    unknown = b"\xfa\x7f\x03new"  # field 2047, three bytes
    async with grpc.aio.insecure_channel(f"127.0.0.1:{replica.grpc_port}") as channel:
        call: grpc.aio.StreamStreamCall[Any, Any] = channel.stream_stream(
            "/callboard.host.v1.Placement/Session", response_deserializer=host_pb2.ServerMessage.FromString
        )()
        newer = host_pb2.Hello.FromString(hello.SerializeToString() + unknown)
        await call.write(host_pb2.HostMessage(hello=newer).SerializeToString() + unknown)
        await call.write(unknown)
        async with asyncio.timeout(20):
            welcome, table = await call.read(), await call.read()
        assert isinstance(welcome, host_pb2.ServerMessage)
        assert isinstance(table, host_pb2.ServerMessage)
        assert welcome.welcome.incarnation > 0
        assert table.table.to_version > 0
        call.cancel()


@pytest.mark.parametrize(
    ("payload", "code", "text"),
    [
        (b"\xff\xff", "INVALID_ARGUMENT", "malformed message: 2 bytes are no HostMessage"),
        (host_pb2.HostMessage(farewell=host_pb2.Farewell(incarnation=1)), "INVALID_ARGUMENT", "no hello but farewell"),
        (host_pb2.HostMessage(hello=host_pb2.Hello(protocol_version=7)), "INVALID_ARGUMENT", "protocol_version 7"),
        (
            host_pb2.HostMessage(
                hello=host_pb2.Hello(protocol_version=1, connection=1, policy="exclusive", namespace="n", name="h")
            ),
            "INVALID_ARGUMENT",
            "host address must have 1 to 255 characters, not 0",
        ),
    ],
)
async def test_bad_first_messages_are_refused(
    replica: Replica, payload: bytes | host_pb2.HostMessage, code: str, text: str
) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{replica.grpc_port}") as channel:
        call: grpc.aio.StreamStreamCall[Any, Any] = channel.stream_stream("/callboard.host.v1.Placement/Session")()
        await call.write(payload if isinstance(payload, bytes) else payload.SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code().name == code
        assert text in (error.value.details() or "")


@pytest.mark.parametrize(
    ("field", "other", "words"),
    [
        ("name", "h2", "host name changed from h to h2 on one stream"),
        ("namespace", "m", "host namespace changed from n to m on one stream"),
    ],
)
async def test_a_stream_of_one_host_does_not_speak_for_another(
    replica: Replica, field: str, other: str, words: str
) -> None:
    hello = host_pb2.Hello(
        protocol_version=1, connection=1, policy="exclusive", namespace="n", name="h", address="h:1", process="p",
        actor_types=["Cart"], weight=100,
    )  # fmt: skip
    async with grpc.aio.insecure_channel(f"127.0.0.1:{replica.grpc_port}") as channel:
        call: grpc.aio.StreamStreamCall[Any, Any] = channel.stream_stream("/callboard.host.v1.Placement/Session")()
        await call.write(host_pb2.HostMessage(hello=hello).SerializeToString())
        async with asyncio.timeout(20):
            await call.read()
        setattr(hello, field, other)
        await call.write(host_pb2.HostMessage(hello=hello).SerializeToString())
        async with asyncio.timeout(20):
            with pytest.raises(grpc.aio.AioRpcError, match=words) as error:
                await read_to_the_end(call)
        assert error.value.code().name == "INVALID_ARGUMENT"


async def test_nor_does_it_while_no_leader_is_known() -> None:
    said = host_pb2.HostMessage(hello=host_pb2.Hello(namespace="n", name="h2")).SerializeToString()
    context = SimpleNamespace(read=AsyncMock(return_value=said))

    async def nobody_leads(_: host_pb2.Hello) -> Way:
        await asyncio.Event().wait()
        raise AssertionError

    session = HostSession(cast("Context", context), waiting_max=1)
    hello = host_pb2.Hello(namespace="n", name="h")
    ending = await session.serve(hello, check=lambda _: None, attach=nobody_leads)
    assert ending == Ending("INVALID_ARGUMENT", "host name changed from h to h2 on one stream")


async def read_to_the_end(call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
    """Raises grpc.aio.AioRpcError: how it ended."""
    while True:
        await call.read()
