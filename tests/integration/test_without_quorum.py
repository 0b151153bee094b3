"""What a replica without a quorum says to those who look, on real processes: it answers soon, and names the reason."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from callboard.host import Router
from callboard.protos.generated import host_pb2
from harness.processes import Cluster, wait_until
from tests.host.slots import session_of

pytestmark = pytest.mark.process
DEADLINE_S = 60.0
CALL_S = 20.0
"""Far above the few seconds after which a replica gives up to ask a quorum; reaching it is the failure."""


async def look_up(address: str, *, linearizable: bool) -> host_pb2.LookupReply:
    async with grpc.aio.insecure_channel(address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(
            "/callboard.host.v1.Placement/Lookup",
            request_serializer=host_pb2.LookupRequest.SerializeToString,
            response_deserializer=host_pb2.LookupReply.FromString,
        )
        request = host_pb2.LookupRequest(
            namespace="carts", actor_type="Cart", actor_id="alice", linearizable=linearizable
        )
        reply = await call(request, timeout=CALL_S)
        assert isinstance(reply, host_pb2.LookupReply)
        return reply


async def test_without_a_quorum_lookups_are_refused_and_routers_go_on_to_the_next_replica(tmp_path: Path) -> None:
    async with Cluster(directory=tmp_path) as cluster:
        leader = await cluster.leader()
        last = next(server for server in cluster.servers if server is not leader)
        others = [server for server in cluster.servers if server is not last]
        session, _ = session_of("h1", cluster.addresses)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await session.start()
            # The last replica comes first: the router watches it as long as it knows a leader.
            addresses = ",".join(server.address for server in (last, *others))
            async with Router(cluster=addresses, namespace="carts") as router:

                async def watches(address: str) -> bool:
                    seen = router.watched
                    return seen is not None and seen.replica == address and seen.leader_known

                await wait_until(lambda: watches(last.address), deadline_s=DEADLINE_S, what="the router watches")
                assert (await look_up(last.address, linearizable=True)).name == "h1"
                for server in others:
                    await server.kill()
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await look_up(last.address, linearizable=True)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                assert str(refused.value.details()).startswith("no linearizable read: ")
                assert (await look_up(last.address, linearizable=False)).name == "h1", "stale lookups need no quorum"

                async def was_left() -> bool:
                    seen = router.watched
                    return seen is not None and seen.replica == last.address and not seen.leader_known

                await wait_until(was_left, deadline_s=DEADLINE_S, what="the replica says that it has no leader")

                async def has_gone_on() -> bool:
                    return any(server.address in router.trouble for server in others)

                await wait_until(has_gone_on, deadline_s=DEADLINE_S, what="the router asks the other replicas")
                for server in others:
                    server.start()

                async def hears_of_a_leader() -> bool:
                    return router.watched is not None and router.watched.leader_known

                await wait_until(hears_of_a_leader, deadline_s=DEADLINE_S, what="the router watches again")
                assert (await look_up(last.address, linearizable=True)).version > 0
        finally:
            await session.stop()
