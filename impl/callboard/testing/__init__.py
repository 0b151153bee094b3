"""For the tests of applications: a cluster in the test's own event loop, with time that only the test moves.

    from callboard.host import Actor, method
    from callboard.testing import ActorTestCluster

    class Cart(Actor):
        async def on_activate(self) -> None:
            self.count = int(await self.context.load() or b"0")

        @method
        async def add(self, quantity: int) -> int:
            self.count += quantity
            await self.context.save(str(self.count).encode())
            await self.context.remind("forgotten", due_ms=3_600_000)
            return self.count

        async def on_reminder(self, name: str, payload: bytes) -> None:
            self.count = 0
            await self.context.save(b"0")

    async def test_a_cart_survives_its_host() -> None:
        async with ActorTestCluster(actors=[Cart], hosts=3) as cluster:
            cart = cluster.client.actor(Cart, "alice")
            assert await cart.add(2) == 2
            await cluster.kill(cluster.owner(Cart, "alice"))
            assert await cluster.run(cart.add(1)) == 3  # waits until the lease of the dead host has run out
            await cluster.advance(3_600_000)
            assert await cart.add(1) == 1

Actors run under the same runtime, leases, fences and tables as in production, but without processes, sockets or sleeps:
an hour passes in a moment, and takes the same course each time.
"""

from callboard.core.slot_records import HandoffSettings
from callboard.testing.clock import ManualClock, settle
from callboard.testing.cluster import ActorTestCluster
from callboard.testing.host import TestHost

__all__ = ["ActorTestCluster", "HandoffSettings", "ManualClock", "TestHost", "settle"]
