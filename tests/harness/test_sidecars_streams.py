"""Simulated sidecars on real streams, against a server that does what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from callboard.protos.generated.placement_pb2 import LOCK, REPORT, UNKNOWN, UNLOCK, UPDATE
from harness.sidecars import Connection, Fleet, Generation, SidecarSettings, SidecarSpec
from tests.harness.fake_placement import DEADLINE_S, Conversation, FakePlacement, fake_placement

ME = SidecarSpec("a:1", "app-a:1", ("cat",), "pets")
MINE = {"a:1": ("cat",)}


@pytest_asyncio.fixture(loop_scope="function")
async def servers() -> AsyncIterator[tuple[FakePlacement, FakePlacement]]:
    async with fake_placement() as first, fake_placement() as second:
        yield first, second


def fleet_of(*servers: FakePlacement, share_channels: bool = False) -> Fleet:
    return Fleet([server.address for server in servers], share_channels=share_channels)


async def give_round(stream: Conversation, version: int) -> None:
    """A whole round for one modern sidecar, waiting for each acknowledgement."""
    for operation, expected in (("lock", LOCK), ("update", UPDATE), ("unlock", UNLOCK)):
        stream.order(operation, version, MINE if operation == "update" else None)
        answer = await stream.receive()
        assert (answer.operation, answer.version) == (expected, version)
        assert (answer.id, answer.namespace) == ("app-a:1", "pets")
        assert not answer.name
        assert not answer.entities


async def test_modern_sidecar_reports_once_and_acknowledges(servers: tuple[FakePlacement, FakePlacement]) -> None:
    async with fleet_of(servers[0]) as fleet:
        sidecar = fleet.add(ME)
        stream = await servers[0].next_stream()
        report = await stream.receive()
        assert (report.name, report.id, report.namespace, report.operation) == ("a:1", "app-a:1", "pets", REPORT)
        assert list(report.entities) == ["cat"]
        assert not report.HasField("version")
        assert report.api_level == 20
        await give_round(stream, 7)
        await fleet.wait_converged(deadline_s=DEADLINE_S)
        assert sidecar.machine.table_version == 7
        assert stream.received_nothing()
        sidecar.change_types("cat", "dog")
        assert list((await stream.receive()).entities) == ["cat", "dog"]


async def test_heartbeat_sidecar_repeats_itself(servers: tuple[FakePlacement, FakePlacement]) -> None:
    async with fleet_of(servers[0]) as fleet:
        fleet.add(ME, Generation.V1_16, SidecarSettings(heartbeat_s=0.01))
        stream = await servers[0].next_stream()
        first = await stream.receive()
        assert first == await stream.receive()
        assert (first.name, first.operation, list(first.entities)) == ("a:1", UNKNOWN, ["cat"])
        for operation in ("lock", "update", "unlock"):
            stream.order(operation, 7, MINE if operation == "update" else None)
        await fleet.wait_converged(deadline_s=DEADLINE_S)


async def test_double_lock_holds_a_heartbeat_sidecar_until_its_fail_safe(
    servers: tuple[FakePlacement, FakePlacement],
) -> None:
    async with fleet_of(servers[0]) as fleet:
        sidecar = fleet.add(ME, Generation.V1_16, SidecarSettings(fail_safe_s=3600))
        quick = fleet.add(ME, Generation.V1_16, SidecarSettings(fail_safe_s=0.3))
        for stream in (await servers[0].next_stream(), await servers[0].next_stream()):
            stream.order("lock", 1)
            stream.order("lock", 2)
            stream.order("update", 2, MINE)
            stream.order("unlock", 2)

        def all_told() -> bool:
            return fleet.total("unlock") == 2

        await fleet.wait_until(all_told, deadline_s=DEADLINE_S, what="both got all orders")
        assert sidecar.machine.locked
        assert not sidecar.machine.settled
        await fleet.wait_until(lambda: not quick.machine.locked, deadline_s=DEADLINE_S, what="fail-safe")
        assert sidecar.machine.locked


async def test_refused_sidecar_tries_the_next_address(servers: tuple[FakePlacement, FakePlacement]) -> None:
    async with fleet_of(*servers) as fleet:
        sidecar = fleet.add(ME, settings=SidecarSettings(refused_pause_s=0))
        refusal = await servers[0].next_stream()
        refusal.end(grpc.StatusCode.FAILED_PRECONDITION, "node id=r1 is not a leader. Only the leader can serve")
        stream = await servers[1].next_stream()
        await give_round_after_report(stream)
        assert "FAILED_PRECONDITION: node id=r1 is not a leader" in sidecar.machine.last_end
        assert (sidecar.machine.counts["refused"], sidecar.machine.counts["halts"]) == (1, 0)


async def give_round_after_report(stream: Conversation, version: int = 1) -> None:
    assert (await stream.receive()).operation == REPORT
    await give_round(stream, version)


async def test_dead_server_halts_all_and_moves_on(servers: tuple[FakePlacement, FakePlacement]) -> None:
    async with fleet_of(*servers) as fleet:
        sidecar = fleet.add(ME, settings=SidecarSettings(open_failed_pause_s=0.01))
        await give_round_after_report(await servers[0].next_stream())
        sidecar.machine.activate("cat", "tom")
        await servers[0].stop()
        await give_round_after_report(await servers[1].next_stream(), 2)
        assert sidecar.machine.counts["halts"] == 1
        assert not sidecar.machine.actors
        await servers[1].stop()
        machine = sidecar.machine
        await fleet.wait_until(lambda: machine.counts["open_failed"] >= 3, deadline_s=DEADLINE_S, what="nobody there")


@pytest.mark.parametrize("way", ["unknown operation", "older update", "silence after lock"])
async def test_sidecar_that_gives_up_waits_for_the_server_to_end_the_stream(
    servers: tuple[FakePlacement, FakePlacement], way: str
) -> None:
    async with fleet_of(*servers) as fleet:
        sidecar = fleet.add(ME, settings=SidecarSettings(dissemination_timeout_s=0.05))
        stream = await servers[0].next_stream()
        if way == "unknown operation":
            stream.order("dance", 1)
        else:
            stream.order("lock", 3)
        if way == "older update":
            stream.order("update", 2, MINE)
        await stream.closed_by_peer.wait()
        assert sidecar.machine.connection is Connection.CLOSING
        assert servers[1].no_stream_waits()
        stream.end()
        assert (await (await servers[1].next_stream()).receive()).operation == REPORT


async def test_polite_stop_half_closes_and_waits(servers: tuple[FakePlacement, FakePlacement]) -> None:
    async with fleet_of(servers[0]) as fleet:
        sidecar = fleet.add(ME)
        stream = await servers[0].next_stream()
        with pytest.raises(TimeoutError, match="a:1: the server kept the stream open"):
            await sidecar.stop(deadline_s=0.05)
        await stream.closed_by_peer.wait()
        again = fleet.add(ME)
        stream = await servers[0].next_stream()
        stopping = asyncio.create_task(again.stop())
        await stream.closed_by_peer.wait()
        assert not stopping.done()
        stream.end()
        await stopping
        assert again.machine.connection is Connection.STOPPED


async def test_broken_bytes_end_the_stream(servers: tuple[FakePlacement, FakePlacement]) -> None:
    async with fleet_of(*servers) as fleet:
        sidecar = fleet.add(ME)
        (await servers[0].next_stream()).send_raw(b"\xff\xff\xff")
        await servers[1].next_stream()
        assert sidecar.machine.last_end.startswith("INTERNAL: not a PlacementOrder")


async def test_paused_sidecar_says_nothing(servers: tuple[FakePlacement, FakePlacement]) -> None:
    async with fleet_of(servers[0]) as fleet:
        paused = fleet.add(ME, Generation.V1_16, SidecarSettings(heartbeat_s=0.01))
        stream = await servers[0].next_stream()
        await stream.receive()
        paused.pause()
        while not stream.received_nothing():
            await stream.receive()
        stream.order("lock", 1)
        other = fleet.add(ME, Generation.V1_16, SidecarSettings(heartbeat_s=0.01))
        second = await servers[0].next_stream()
        for _ in range(20):
            await second.receive()
        assert paused.machine.counts["lock"] == 0
        paused.resume()
        await fleet.wait_until(lambda: paused.machine.locked, deadline_s=DEADLINE_S, what="lock read after resume")
        assert other.machine.counts["lock"] == 0


@pytest.mark.parametrize("share_channels", [False, True])
async def test_a_hundred_sidecars_share_one_parsed_table(
    servers: tuple[FakePlacement, FakePlacement], share_channels: bool
) -> None:
    count = 100
    hosts = {f"10.0.0.{number}:1": ("cat",) for number in range(count)}
    async with fleet_of(servers[0], share_channels=share_channels) as fleet:
        for name in hosts:
            fleet.add(SidecarSpec(name, f"app-{name}", ("cat",)))
        streams = [await servers[0].next_stream() for _ in range(count)]
        for stream in streams:
            for operation in ("lock", "update", "unlock"):
                stream.order(operation, 1, hosts if operation == "update" else None)
        await fleet.wait_converged(deadline_s=DEADLINE_S)
        assert fleet.decoder.parsed == 3
        assert len({id(sidecar.machine.tables) for sidecar in fleet.sidecars}) == 1


async def test_waiting_in_vain_says_what_it_saw(servers: tuple[FakePlacement, FakePlacement]) -> None:
    async with fleet_of(servers[0]) as fleet:
        fleet.add(ME)
        with pytest.raises(TimeoutError, match=r"one table everywhere: not within 0\.05 s; 1 sidecars .* 0 settled"):
            await fleet.wait_converged(deadline_s=0.05)


async def test_a_wrong_table_is_not_convergence(servers: tuple[FakePlacement, FakePlacement]) -> None:
    """The seeded fault: a server that forgets a host, though it tells all the same."""
    async with fleet_of(servers[0]) as fleet:
        for name in ("a:1", "b:1"):
            fleet.add(SidecarSpec(name, f"app-{name}", ("cat",)))
        for stream in (await servers[0].next_stream(), await servers[0].next_stream()):
            for operation in ("lock", "update", "unlock"):
                stream.order(operation, 1, MINE if operation == "update" else None)
        await fleet.wait_until(fleet.converged, deadline_s=DEADLINE_S, what="the same table everywhere")
        assert not fleet.converged(fleet.expected_tables().digest)
