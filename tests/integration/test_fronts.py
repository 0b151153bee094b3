"""Sessions that outlive leaders, on real replica processes: each host is connected to one replica only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from callboard.host.session import HostRefusedError, Session
from harness.processes import Cluster, ServerProcess, wait_until
from tests.host.slots import RecordingSlots, session_of

pytestmark = pytest.mark.process
DEADLINE_S = 60.0
FLAGS = ("--slot-bits=5", "--lease=3s", "--drain=500ms", "--margin=200ms", "--tick=200ms", "--failure-timeout=5s")
SLOTS = 64


async def until(condition: Callable[[], bool], what: str) -> None:
    async def holds() -> bool:
        return condition()

    await wait_until(holds, deadline_s=DEADLINE_S, what=what)


async def test_killing_the_leader_ends_no_stream_on_other_replicas(tmp_path: Path) -> None:
    async with Cluster(directory=tmp_path, flags=FLAGS) as cluster, AsyncExitStack() as stack:
        leader = await cluster.leader()
        fronts = [server for server in cluster.servers if server is not leader]
        hosts = []
        for number, server in enumerate([*fronts, *fronts]):
            session, slots = session_of(f"h{number}", [server.address])
            stack.push_async_callback(session.stop)
            async with asyncio.timeout(DEADLINE_S):
                await session.start()
            hosts.append((session, slots))
        await until(lambda: served(hosts) == [SLOTS // 4] * 4, "every host serves its share")
        incarnations = [session.machine.incarnation for session, _ in hosts]
        epochs = [session.machine.epoch for session, _ in hosts]
        await leader.kill()
        await until(
            lambda: all(later > old for later, old in zip(epochs_of(hosts), epochs, strict=True)), "a new epoch"
        )
        await until(lambda: served(hosts) == [SLOTS // 4] * 4, "every host serves its share again")
        assert [session.streams_ended for session, _ in hosts] == [0] * 4, "a stream on another replica ended"
        assert [session.machine.incarnation for session, _ in hosts] == incarnations


def epochs_of(hosts: Sequence[tuple[Session, RecordingSlots]]) -> list[int]:
    return [session.machine.epoch for session, _ in hosts]


def served(hosts: Sequence[tuple[Session, RecordingSlots]]) -> list[int]:
    return [len(slots.serving) for _, slots in hosts]


async def test_replicas_that_are_no_fronts_name_the_leader(tmp_path: Path) -> None:
    async with Cluster(directory=tmp_path, flags=(*FLAGS, "--fronts=leader-only")) as cluster:
        leader = await cluster.leader()
        follower: ServerProcess = next(server for server in cluster.servers if server is not leader)
        refused, _ = session_of("h1", [follower.address])
        with pytest.raises(HostRefusedError, match=f"is no front; the leader is {leader.replica_id}"):
            await refused.start()
        await refused.stop()
        session, slots = session_of("h2", cluster.addresses)
        async with asyncio.timeout(DEADLINE_S):
            await session.start()
        await until(lambda: len(slots.serving) == SLOTS, "the host finds the leader by itself")
        await session.stop()
