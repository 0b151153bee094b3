"""Tables above gRPC's default limit of 4 MiB for a message pass through a front like any others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import grpc
import grpc.aio
from attrs import evolve

from callboard.consensus.interface import Leadership
from callboard.core.commands import CommitNativeBatch, CreateNativeNamespace
from callboard.core.slot_records import HandoffSettings, NativeHostRecord
from callboard.core.versions import Policy
from callboard.server.native_service import NativeReplica, NativeService
from callboard.server.replica import Replica
from callboard.server.settings import NativeSettings
from tests.host.slots import session_of
from tests.server.support import memory_settings, serving, until

DEFAULT_MAX = 4 * 1024 * 1024
HOSTS = 160
LABELS = tuple((f"l{number:02}", "x" * 900) for number in range(31))


@asynccontextmanager
async def front_of(leader: Replica) -> AsyncIterator[str]:
    """The services of a replica that does not lead, and knows who does."""
    address = f"127.0.0.1:{leader.grpc_port}"
    follower = SimpleNamespace(
        engine=SimpleNamespace(replica_id="r2", leadership=lambda: Leadership("r1", 1, is_local=False)),
        office=None,
        state=leader.state,
        stopping=lambda: False,
    )
    settings = NativeSettings(replicas=(("r1", address),))
    service = NativeService(cast("NativeReplica", follower), settings, tls=None, trust_domain=None)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(service.handlers())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await service.close()
        await server.stop(None)


async def test_a_large_snapshot_passes_through_a_front() -> None:
    async with serving(evolve(memory_settings(), native=NativeSettings(slot_bits=4))) as leader:
        assert leader.office is not None
        patient = HandoffSettings(failure_timeout_ms=600_000)  # most of the members below never speak
        created = await leader.office.propose(CreateNativeNamespace("carts", Policy.EVENTUAL, 4, patient))
        assert created.succeeded, created
        for number in range(HOSTS):
            host = NativeHostRecord(f"h{number}", f"h{number}:1", ("Cart",), process="p", labels=LABELS)
            answer = await leader.office.propose(CommitNativeBatch(leader.office.epoch, "carts", (host,)))
            assert answer.succeeded, answer
        async with front_of(leader) as address:
            session, _ = session_of("me", [address], policy=Policy.EVENTUAL)
            try:
                async with asyncio.timeout(20):
                    await session.start()
                await until(lambda: session.machine.view is not None, "the table is installed")
                view: Any = session.machine.view
                assert len(view.hosts) == HOSTS + 1
                labels = sum(len(key) + len(value) for each in view.hosts.values() for key, value in each.labels)
                assert labels > DEFAULT_MAX
            finally:
                await session.stop()
