"""What operators do while a cluster works: drain, cordon and remove hosts, upgrade replicas in place."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc.aio
from attrs import define

from callboard.core.membership import KNOWN_FEATURE_LEVEL
from callboard.protos.generated import admin_pb2
from harness.faults.cluster import NAMESPACE
from harness.faults.nemeses import FaultSpec, World, kind
from harness.faults.process_faults import RollingRestart
from harness.processes import ProcessError, wait_until

CHANGE_DEADLINE_S = 60.0
EFFECT_DEADLINE_S = 40.0
MEMBER_DEADLINE_S = 60.0


async def change(world: World, method: str, request: Any) -> None:
    """One change by the admin service, at whoever leads. Raises TimeoutError."""

    async def changed() -> bool:
        with suppress(grpc.aio.AioRpcError, TimeoutError):
            leader = await world.cluster.leader(deadline_s=5)
            await leader.process.admin(method, request.SerializeToString())
            return True
        return False

    await wait_until(changed, deadline_s=CHANGE_DEADLINE_S, what=f"{method} of {request.host}")


async def member(world: World, name: str) -> admin_pb2.Member | None:
    """The host as the leader's table has it. Raises grpc.aio.AioRpcError, TimeoutError."""
    leader = await world.cluster.leader(deadline_s=5)
    found = [each for each in await leader.process.members(NAMESPACE) if each.name == name]
    return found[0] if found else None


@define(eq=False)
class OnMember:
    """What these faults share: one host, which runs."""

    spec: FaultSpec
    name: str = ""
    problem: str = ""
    _incarnation: int = 0
    _slots: int = 0

    async def resolve(self, world: World) -> str:
        """See `Nemesis`. Other faults may keep all replicas down, or a host from being a member, for a while."""

        async def is_member() -> bool:
            names = [name for name in world.pick_hosts(self.spec.target or "one") if name not in world.busy]
            for name in names[:1]:
                with suppress(grpc.aio.AioRpcError, TimeoutError):
                    found = await member(world, name)
                    if found is not None:
                        self.name, self._incarnation, self._slots = name, found.incarnation, found.slots
            return bool(self.name)

        if world.hosts():
            await wait_until(is_member, deadline_s=MEMBER_DEADLINE_S, what="a host that is a member")
        return self.name


@kind("host_drain", "host_cordon")
@define(eq=False)
class Marked(OnMember):
    """`callboard drain` moves everything off a host, `callboard cordon` gives it nothing new. Undone at the end."""

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        await change(world, "MarkHost", self._mark(on=True))

    def _mark(self, *, on: bool) -> admin_pb2.MarkHostRequest:
        if self.spec.kind == "host_drain":
            return admin_pb2.MarkHostRequest(namespace=NAMESPACE, host=self.name, draining=on)
        return admin_pb2.MarkHostRequest(namespace=NAMESPACE, host=self.name, cordoned=on)

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""
        seen: list[admin_pb2.Member] = []

        async def has_effect() -> bool:
            with suppress(grpc.aio.AioRpcError, TimeoutError):
                found = await member(world, self.name)
                seen[:] = [found] if found is not None else []
                # A host that was removed meanwhile owns nothing either.
                return found is None or found.cordoned or (found.draining and found.slots == 0)
            return False

        await wait_until(has_effect, deadline_s=EFFECT_DEADLINE_S, what=f"the mark of {self.name} has its effect")
        kept = seen[0].slots if seen else 0
        return f"{self.name} owned {self._slots} slots, and owns {kept} now"

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        await change(world, "MarkHost", self._mark(on=False))


@kind("host_removed")
@define(eq=False)
class Removed(OnMember):
    """`callboard remove` of a host that runs: its slots wait for its lease; it comes back as another incarnation."""

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        await change(world, "RemoveHost", admin_pb2.RemoveHostRequest(namespace=NAMESPACE, host=self.name))

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""

        async def gone() -> bool:
            with suppress(grpc.aio.AioRpcError, TimeoutError):
                found = await member(world, self.name)
                return found is None or found.incarnation != self._incarnation
            return False

        await wait_until(gone, deadline_s=EFFECT_DEADLINE_S, what=f"incarnation {self._incarnation} is removed")
        return f"incarnation {self._incarnation} of {self.name} is no member any more"

    async def heal(self, _world: World) -> None:
        """See `Nemesis`. It comes back by itself."""


@kind("upgrade")
@define(eq=False)
class Upgrade(RollingRestart):
    """Replicas are restarted one after the other, from an earlier feature level to the newest: the last leader raises
    it. (That they run an older program before is not shown by this.)"""

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        if world.cluster.settings.feature_level in {None, KNOWN_FEATURE_LEVEL}:
            raise ProcessError("an upgrade needs a cluster of an earlier feature level: settings.feature_level")
        return await super().resolve(world)

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        for name in self.names:
            world.cluster.replicas[name].process.more_flags = (f"--feature-level={KNOWN_FEATURE_LEVEL}",)
        await super().inject(world)

    async def bit(self, world: World) -> str:
        """See `Nemesis`."""
        levels: dict[str, int] = {}

        async def raised() -> bool:
            assert self._work is not None
            self._work.check()
            for name in self.names:
                process = world.cluster.replicas[name].process
                with suppress(grpc.aio.AioRpcError, TimeoutError, ProcessError):
                    async with asyncio.timeout(2):
                        levels[name] = (await process.status()).feature_level
            return [levels.get(name) for name in self.names] == [KNOWN_FEATURE_LEVEL] * len(self.names)

        await wait_until(raised, deadline_s=90, what=f"feature level {KNOWN_FEATURE_LEVEL} at all replicas")
        return f"from feature level {world.cluster.settings.feature_level} to {KNOWN_FEATURE_LEVEL} at all replicas"
