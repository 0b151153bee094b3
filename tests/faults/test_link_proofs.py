"""What proves that a fault on links bit, through a real toxiproxy-server: true proofs, and faults that did nothing."""

from __future__ import annotations

import asyncio
import random
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from callboard.consensus.pysyncobj_engine.identity import Hello
from harness.faults import probes, ragged_faults
from harness.faults.cluster import RAFT, FaultCluster
from harness.faults.nemeses import KINDS, FaultSpec, Nemesis
from harness.faults.network_faults import NO_ANSWER
from harness.faults.probes import ACK, PAYLOAD, PING, STRANGER, Heard, answering, probe, silenced
from harness.faults.proxies import Change, Link, Network
from harness.processes import wait_until

SHORT_S = 1.0


class Servers:
    """Servers that answer pings, and strangers of the consensus, unless they are told to hang up."""

    def __init__(self) -> None:
        self.hang_ups = 0
        self.address = ""
        self.tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError), closing(writer.transport):
            if self.hang_ups:
                self.hang_ups -= 1
                return
            heard = b""
            while data := await reader.read(65536):
                heard += data
                if PING + PAYLOAD in heard:
                    writer.write(ACK + PAYLOAD)
                    heard = b""
                elif heard == STRANGER:
                    writer.write(b"refused")
                    await writer.drain()
                    return


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    servers = Servers()
    server = await asyncio.start_server(servers.accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    servers.address = f"{host}:{port}"
    yield servers
    server.close()
    for task in servers.tasks:
        task.cancel()
    await asyncio.gather(*servers.tasks, return_exceptions=True)


@pytest.fixture(autouse=True)
def _short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "ANSWER_DEADLINE_S", SHORT_S)
    monkeypatch.setattr(ragged_faults, "RESET_DEADLINE_S", SHORT_S)


async def world_of(network: Network, servers: Servers, engine: str = "pysyncobj") -> Any:
    """Two replicas with their links, of services and of the consensus."""
    for source, target in (("r1", "r2"), ("r2", "r1"), ("r2", "r1" + RAFT)):
        await network.connect(source, target, servers.address)
    cluster: Any = SimpleNamespace(network=network, settings=SimpleNamespace(engine=engine), clients=list)
    cluster.links = lambda a, b: FaultCluster.links(cluster, a, b)

    async def pick_replicas(_target: str) -> list[str]:
        return ["r1"]

    return SimpleNamespace(
        cluster=cluster,
        random=random.Random(1),
        replicas=lambda: ["r1", "r2"],
        hosts=list,
        pick_replicas=pick_replicas,
    )


def nemesis(kind: str, duration_s: float = 1.0, **parameters: int | str) -> Nemesis:
    return KINDS[kind](FaultSpec(kind, 0.0, duration_s, target="network", parameters=parameters))


async def proof_of(fault: Nemesis, world: Any) -> str:
    """What a fault's whole life proves."""
    try:
        assert await fault.resolve(world)
        await fault.inject(world)
        return await fault.bit(world)
    finally:
        await fault.heal(world)


def without_effect(monkeypatch: pytest.MonkeyPatch, name: str, instead: Callable[..., None] = lambda *_: None) -> None:
    monkeypatch.setattr(Link, name, instead)


def test_the_stranger_speaks_as_replicas_do() -> None:
    length, checksum = struct.unpack("<II", STRANGER[:8])
    assert (length, checksum) == (len(STRANGER) - 8, zlib.crc32(STRANGER[8:]))
    assert msgspec.msgpack.decode(STRANGER[8:], type=Hello).replica_id == "a-probe"


# -- partitions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["black_hole", "refuse"])
async def test_a_partition_is_proved_at_the_consensus_too(network: Network, servers: Servers, style: str) -> None:
    world = await world_of(network, servers)
    proof = await proof_of(nemesis("partition_replicas", style=style), world)
    assert proof.startswith("3 links that answered are")
    assert "1 of them of the consensus" in proof
    links = list(network.links.values())
    assert len(await answering(links)) == 3, "it is healed"


@pytest.mark.parametrize("way", ["in", "out"])
async def test_a_one_way_cut_is_proved_though_the_end_of_connections_comes_through(
    network: Network, servers: Servers, way: str
) -> None:
    world = await world_of(network, servers)
    proof = await proof_of(nemesis("one_way", way=way), world)
    assert proof == "3 links that answered are silent, 1 of them of the consensus"


async def test_a_partition_that_leaves_the_consensus_alone_is_not_proved(
    network: Network, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await world_of(network, servers)
    cut = Link.black_hole
    spared = ("r2->r1" + RAFT,)
    monkeypatch.setattr(Link, "black_hole", lambda link, *rest: None if link.name in spared else cut(link, *rest))
    assert await proof_of(nemesis("partition_replicas"), world) == ""


async def test_a_partition_without_a_consensus_link_that_answers_is_not_proved(
    network: Network, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await world_of(network, servers)
    monkeypatch.setattr(probes, "STRANGER", b"what nobody answers")
    fault: Any = nemesis("partition_replicas")
    assert await proof_of(fault, world) == ""
    assert fault.problem == NO_ANSWER
    other = SimpleNamespace(**vars(world))
    other.cluster.settings.engine = "etcd"
    assert "2 links" in await proof_of(nemesis("partition_replicas"), other), "there it is elsewhere"


async def test_connections_that_end_prove_nothing(network: Network, servers: Servers) -> None:
    """The process behind the link may have been killed meanwhile."""
    world = await world_of(network, servers)
    links = list(network.links.values())
    assert len(await answering(links)) == 3
    servers.hang_ups = 1_000_000
    assert await silenced([links]) == ""
    servers.hang_ups = 0
    assert await silenced([links]) == "", "they answer"
    assert await silenced([]) == ""
    assert world.replicas()


async def test_a_fault_waits_for_somebody_who_answers(network: Network, servers: Servers) -> None:
    world = await world_of(network, servers)
    servers.hang_ups = 5
    assert "of the consensus" in await proof_of(nemesis("partition_replicas"), world)


# -- torn frames, resets, delays -------------------------------------------------------------------------


async def test_frames_are_torn_by_the_limit(network: Network, servers: Servers) -> None:
    world = await world_of(network, servers)
    proof = await proof_of(nemesis("torn_frames"), world)
    assert proof == "2 connections ended in the middle of a long frame; short ones come through"


async def test_a_limit_without_effect_is_not_proved(
    network: Network, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await world_of(network, servers)
    without_effect(monkeypatch, "end_after")
    fault: Any = nemesis("torn_frames")
    assert await proof_of(fault, world) == ""
    assert fault.problem == "long frames were answered"


async def test_connections_that_end_whatever_is_sent_are_not_torn(
    network: Network, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await world_of(network, servers)
    without_effect(monkeypatch, "end_after", lambda link, _count: link.refuse())
    assert await proof_of(nemesis("torn_frames"), world) == ""


async def test_resets_are_seen_as_resets(network: Network, servers: Servers) -> None:
    world = await world_of(network, servers)
    proof = await proof_of(nemesis("resets", pause_ms=200), world)
    assert "open connections were reset" in proof
    assert (await probe(network.links["r1", "r2"].address)).heard is Heard.ANSWERED


def _ended_only(link: Link) -> None:
    link.proxy.disable()
    link.proxy.enable()


@pytest.mark.parametrize(("instead", "heard"), [(_ended_only, "ended"), (lambda _: None, "silent")])
async def test_connections_that_are_not_reset_are_no_proof(
    network: Network, servers: Servers, monkeypatch: pytest.MonkeyPatch, instead: Callable[[Link], None], heard: str
) -> None:
    world = await world_of(network, servers)
    without_effect(monkeypatch, "reset", instead)
    fault: Any = nemesis("resets", pause_ms=200)
    assert await proof_of(fault, world) == ""
    assert fault.problem == f"open connections were {heard}"


async def test_resets_that_stopped_are_told(
    network: Network, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await world_of(network, servers)

    def fail(_link: Link) -> None:
        raise RuntimeError("seeded")

    without_effect(monkeypatch, "reset", fail)
    fault: Any = nemesis("resets")
    assert await fault.resolve(world)
    await fault.inject(world)

    async def over() -> bool:
        return bool(fault._resetting.over)

    await wait_until(over, deadline_s=30, what="the resets fail")
    for step in (fault.bit, fault.heal):
        with pytest.raises(RuntimeError, match="seeded"):
            await step(world)


async def test_silence_is_no_delay(network: Network, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process behind the link may be frozen."""
    world = await world_of(network, servers)
    proof = await proof_of(nemesis("latency", ms=30), world)
    assert proof.startswith("2 probed links answer after")

    async def silent(*_: object, **__: object) -> probes.Probe:
        return probes.Probe(Heard.SILENT, 5000)

    fault = nemesis("latency", ms=30)
    assert await fault.resolve(world)
    monkeypatch.setattr(ragged_faults, "probe", silent)
    await fault.inject(world)
    assert await fault.bit(world) == ""
    await fault.heal(world)


async def test_links_that_there_are_none_of_are_not_hit(network: Network) -> None:
    async def nobody(_target: str) -> list[str]:
        return []

    cluster = SimpleNamespace(network=network)
    world: Any = SimpleNamespace(cluster=cluster, replicas=lambda: ["r1"], pick_replicas=nobody, hosts=list)
    for kind in ("latency", "resets", "torn_frames"):
        assert await KINDS[kind](FaultSpec(kind, 0.0, 1.0, target="raft")).resolve(world) == ""


async def test_a_change_of_one_link_leaves_the_others(network: Network, servers: Servers) -> None:
    await world_of(network, servers)
    first, *rest = network.links.values()
    await network.apply([Change(first, Link.black_hole)])
    assert await answering([first, *rest]) == rest
