"""The placement service as sidecars see it: orders, statuses, texts, and that one bad stream harms no other."""

from __future__ import annotations

import asyncio
import json
import random

import grpc
import grpc.aio
import pytest
from aiohttp import ClientSession

from callboard.consensus.interface import Applied
from callboard.core.commands import CommitBatch, CreateNamespace
from callboard.core.records import HostRecord
from callboard.core.versions import Policy
from callboard.protos.generated import placement_pb2
from callboard.server.replica import Replica
from tests.server.deaf_client import connect_and_fall_silent
from tests.server.support import DEADLINE_S, METHOD, HandSidecar, memory_settings, report_of, serving, sidecar, until


def members(replica: Replica, namespace: str = "default") -> list[str]:
    known = replica.state.namespaces.get(namespace)
    return sorted(known.members) if known else []


async def test_a_host_that_joins_gets_lock_update_unlock_with_its_table() -> None:
    report = report_of("10.0.0.1:50002", "Lamp", "Cart")
    async with serving() as replica, sidecar(replica.grpc_port, report) as hand:
        update = await hand.complete_round(report)
        assert update.tables.version == str(update.version)
        assert update.tables.replication_factor == 100
        assert sorted(update.tables.entries) == ["Cart", "Lamp"]
        entry = update.tables.entries["Cart"]
        assert entry.load_map["10.0.0.1:50002"] == placement_pb2.Host(name="10.0.0.1:50002", id="shop")
        assert not entry.hosts, "virtual nodes are never on the wire"
        assert not entry.sorted_set


async def test_an_unchanged_host_that_reconnects_gets_the_same_version_and_starts_no_round() -> None:
    first, second = report_of("10.0.0.1:50002", "Cart"), report_of("10.0.0.2:50002", "Cart")
    async with serving() as replica, sidecar(replica.grpc_port, first) as one:
        await one.complete_round(first)
        async with sidecar(replica.grpc_port, second) as two:
            versions = await asyncio.gather(one.complete_round(first), two.complete_round(second))
            async with sidecar(replica.grpc_port, second) as again:
                pushed = await again.complete_round(second)
                assert await two.ending() == (
                    "ABORTED",
                    "a newer stream of host 10.0.0.2:50002 took over",
                )
                assert pushed.version == versions[0].version == versions[1].version
                assert replica.state.namespaces["default"].version.wire == pushed.version


async def test_a_host_without_actor_types_gets_the_table_and_is_no_member() -> None:
    report, caller = report_of("10.0.0.1:50002", "Cart"), report_of("10.0.0.9:50002")
    async with serving() as replica, sidecar(replica.grpc_port, report) as hand:
        joined = await hand.complete_round(report)
        async with sidecar(replica.grpc_port, caller) as reader:
            pushed = await reader.complete_round(caller)
            assert pushed.version == joined.version
            assert members(replica) == ["10.0.0.1:50002"]


async def test_namespaces_do_not_meet() -> None:
    one, other = report_of("10.0.0.1:50002", "Cart"), report_of("10.0.0.1:50002", "Cart", namespace="other")
    async with serving() as replica, sidecar(replica.grpc_port, one) as first:
        update = await first.complete_round(one)
        async with sidecar(replica.grpc_port, other) as second:
            await second.complete_round(other)
            assert replica.state.namespaces["default"].version.wire == update.version
            assert members(replica, "other") == ["10.0.0.1:50002"]


async def test_half_close_ends_the_stream_and_removes_the_host() -> None:
    report = report_of("10.0.0.1:50002", "Cart")
    async with serving() as replica, sidecar(replica.grpc_port, report) as hand:
        await hand.complete_round(report)
        await hand.call.done_writing()
        assert await hand.ending() == ("UNKNOWN", "EOF")
        await until(lambda: members(replica) == [], "the host is removed")


TOO_MANY_TYPES = [f"Type{number}" for number in range(10_000)]
BAD_FIRST_MESSAGES = [
    (report_of(id=""), "INVALID_ARGUMENT", "host ID and namespace must be provided"),
    (report_of(namespace=""), "INVALID_ARGUMENT", "host ID and namespace must be provided"),
    (report_of(name=""), "INVALID_ARGUMENT", "host name must be provided"),
    (
        report_of(operation=placement_pb2.UNKNOWN, version=3),
        "INVALID_ARGUMENT",
        "both operation and version must be set or both must be unset",
    ),
    (report_of(operation=9), "INVALID_ARGUMENT", "unknown host operation 9"),
    (
        report_of(operation=placement_pb2.LOCK, version=1),
        "INVALID_ARGUMENT",
        "the first message must be a report, not the acknowledgement LOCK",
    ),
    (
        report_of("10.0.0.1:50002", *TOO_MANY_TYPES),
        "INVALID_ARGUMENT",
        "host 10.0.0.1:50002 has 10000 actor types; the limit is 1000",
    ),
    (
        report_of("10.0.0.1:50002", "dapr.internal.default.other.workflow"),
        "PERMISSION_DENIED",
        "entity dapr.internal.default.other.workflow is not allowed for app ID shop in namespace default",
    ),
    (b"\xff\xff\xff", "INVALID_ARGUMENT", "malformed host report: 3 bytes are no Host message"),
]


@pytest.mark.parametrize(("message", "code", "text"), BAD_FIRST_MESSAGES)
async def test_a_bad_first_message_is_refused_and_harms_nobody(
    message: placement_pb2.Host | bytes, code: str, text: str
) -> None:
    good = report_of("10.0.0.7:50002", "Cart")
    async with serving() as replica, sidecar(replica.grpc_port, good) as neighbour:
        before = await neighbour.complete_round(good)
        async with sidecar(replica.grpc_port) as hand:
            await hand.send(message)
            assert await hand.ending() == (code, text)
        assert members(replica) == ["10.0.0.7:50002"]
        assert replica.state.namespaces["default"].version.wire == before.version


async def test_an_acknowledgement_of_an_order_never_sent_ends_the_stream() -> None:
    report = report_of("10.0.0.1:50002", "Cart")
    async with serving() as replica, sidecar(replica.grpc_port, report) as hand:
        update = await hand.complete_round(report)
        await hand.send(
            placement_pb2.Host(id="shop", namespace="default", operation=placement_pb2.LOCK, version=update.version + 5)
        )
        code, text = await hand.ending()
        assert code == "INVALID_ARGUMENT"
        assert str(update.version + 5) in text


async def test_a_message_over_the_limit_is_refused() -> None:
    async with serving(memory_settings(message_bytes_max=64 * 1024)) as replica, sidecar(replica.grpc_port) as hand:
        await hand.send(report_of("10.0.0.1:50002", "x" * 70_000))
        code, _ = await hand.ending()
        assert code == "RESOURCE_EXHAUSTED"


async def test_a_silent_host_is_cut_by_the_round_timeout_and_the_round_goes_on() -> None:
    """SlowHostIsolation on the wire, with upstream's text."""
    first, silent = report_of("10.0.0.1:50002", "Cart"), report_of("10.0.0.2:50002", "Cart")
    async with serving(memory_settings(round_timeout_ms=500)) as replica, sidecar(replica.grpc_port, first) as one:
        await one.complete_round(first)
        async with sidecar(replica.grpc_port, silent) as two:
            update = await one.complete_round(first)
            assert await two.ending() == (
                "DEADLINE_EXCEEDED",
                f"dissemination timeout after 500ms for version {update.version}",
            )
        await one.complete_round(first)
        await until(lambda: members(replica) == ["10.0.0.1:50002"], "the silent host is removed")


async def test_unknown_methods_are_unimplemented() -> None:
    async with serving() as replica, grpc.aio.insecure_channel(f"127.0.0.1:{replica.grpc_port}") as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            METHOD.replace("ReportDaprStatus", "Config")
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await method(b"", timeout=DEADLINE_S)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_replica_that_does_not_lead_refuses_before_reading() -> None:
    async with serving() as replica:
        assert replica.office is not None
        replica.office = None
        async with sidecar(replica.grpc_port) as hand:
            assert await hand.ending() == (
                "FAILED_PRECONDITION",
                "node id=r1 is not a leader. Only the leader can serve requests",
            )


async def test_stopping_ends_streams_and_keeps_members() -> None:
    report = report_of("10.0.0.1:50002", "Cart")
    async with serving() as replica, sidecar(replica.grpc_port, report) as hand:
        await hand.complete_round(report)
        await replica.stop()
        assert await hand.ending() == ("UNAVAILABLE", "placement server is shutting down")
        assert members(replica) == ["10.0.0.1:50002"]


async def test_a_stream_that_never_reports_is_ended() -> None:
    async with serving(memory_settings(round_timeout_ms=200)) as replica, sidecar(replica.grpc_port) as hand:
        assert await hand.ending() == ("DEADLINE_EXCEEDED", "no host report within 0.2 s")


async def test_placement_state_is_upstreams_json() -> None:
    report = report_of("10.0.0.1:50002", "Lamp", "Cart", pod="p-0")
    async with serving() as replica, ClientSession() as http:
        url = f"http://127.0.0.1:{replica.healthz_port}/placement/state"
        async with http.get(url) as answer:
            assert await answer.json() == {}
        async with sidecar(replica.grpc_port, report) as hand:
            update = await hand.complete_round(report)
            async with http.get(url) as answer:
                assert await answer.json() == {
                    "tables": {
                        "default": {
                            "hosts": [
                                {
                                    "name": "10.0.0.1:50002",
                                    "entities": ["Cart", "Lamp"],
                                    "id": "shop",
                                    "pod": "p-0",
                                    "api_level": 20,
                                    "namespace": "default",
                                    "operation": 1,
                                }
                            ],
                            "version": update.version,
                        }
                    }
                }
        replica.office = None
        async with http.get(url) as answer:
            assert answer.status == 503
            assert "is not a leader" in json.loads(await answer.text())["error"]


async def test_fuzzed_bytes_on_both_ports_harm_nobody() -> None:
    """Random bytes, HTTP/2 prefaces followed by garbage, and random protobuf fields on open streams."""
    noise = random.Random(20)
    report = report_of("10.0.0.1:50002", "Cart")
    async with serving() as replica, sidecar(replica.grpc_port, report) as hand:
        before = await hand.complete_round(report)
        for port in (replica.grpc_port, replica.healthz_port):
            for start in (
                b"",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET /placement/state HTTP/1.1\r\n",
                b"\x16\x03\x01",
            ):
                for _ in range(15):
                    await _throw(port, start + noise.randbytes(noise.randrange(1, 4000)))
        for _ in range(60):
            mangled = bytearray(report_of("10.0.0.2:50002", "Cart").SerializeToString())
            for _ in range(noise.randrange(1, 6)):
                mangled[noise.randrange(len(mangled))] = noise.randrange(256)
            stranger = HandSidecar(replica.grpc_port)
            try:
                await stranger.send(bytes(mangled))
                await stranger.call.done_writing()
                await stranger.ending()
            finally:
                await stranger.close()
        assert replica.failure() is None
        assert "10.0.0.1:50002" in members(replica)
        assert replica.state.namespaces["default"].version.wire >= before.version
        async with ClientSession() as http, http.get(f"http://127.0.0.1:{replica.healthz_port}/healthz") as answer:
            assert answer.status == 200


async def _throw(port: int, payload: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(payload)
        writer.write_eof()
        async with asyncio.timeout(DEADLINE_S):
            while await reader.read(65536):
                pass
    except OSError:
        pass  # being thrown out is a fine answer
    finally:
        writer.close()


async def test_a_stream_that_does_not_read_is_cut_when_others_wait_for_the_window() -> None:
    """SlowHostIsolation in bytes: a full window does not hold the others up until the round timeout."""
    types = tuple(f"{number:0100}" for number in range(250))
    hosts = tuple(HostRecord(f"10.1.0.{number}:50002", "shop", types) for number in range(64))
    settings = memory_settings(window_bytes=1, write_stall_ms=300, round_timeout_ms=60_000)
    async with serving(settings) as replica:
        assert replica.office is not None
        await replica.office.propose(CreateNamespace("default", Policy.BARRIER))
        for host in hosts:
            await replica.office.propose(CommitBatch(replica.office.epoch, "default", (host,)))
        replica.renew_office("the members above count as known")
        office = await replica.wait_in_office()
        deaf = await asyncio.to_thread(
            connect_and_fall_silent, replica.grpc_port, report_of("10.0.0.1:50002").SerializeToString()
        )
        try:
            await until(lambda: office.window.in_flight_bytes > 500_000, "the write to the deaf stream is stuck")
            other = report_of("10.0.0.2:50002")
            async with sidecar(replica.grpc_port, other) as reader:
                await reader.complete_round(other)
                assert office.runners["default"].connected_names() == {"10.0.0.2:50002"}
        finally:
            deaf.close()


async def test_an_unexpected_error_in_the_log_does_not_leave_a_namespace_standing_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The office is taken anew, and the sidecar that comes back is served."""
    report = report_of("10.0.0.1:50002", "Cart")
    async with serving() as replica, sidecar(replica.grpc_port) as hand:
        original, failures = replica.engine.propose, [ZeroDivisionError("a bug")]

        async def propose(command: bytes, *, timeout_ms: int) -> Applied:
            if b"commit_batch" in command and failures:
                raise failures.pop()
            return await original(command, timeout_ms=timeout_ms)

        monkeypatch.setattr(replica.engine, "propose", propose)
        await hand.send(report)
        assert (await hand.ending())[0] == "FAILED_PRECONDITION"
        await replica.wait_in_office()
        async with sidecar(replica.grpc_port, report) as again:
            await again.complete_round(report)
        assert replica.failure() is None


async def test_a_replica_that_cannot_take_office_says_so_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Replica(memory_settings())

    async def propose(command: bytes, *, timeout_ms: int) -> Applied:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(replica.engine, "propose", propose)
    await replica.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert await replica.wait_failed() == "taking office failed: ZeroDivisionError('a bug')"
    finally:
        await replica.stop()
