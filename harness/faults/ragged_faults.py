"""Links that are slow or ragged: delays, little bandwidth, sliced frames, connections that end."""

from __future__ import annotations

import asyncio

from attrs import Factory, define

from harness.faults.background import Background, stopped
from harness.faults.cluster import RAFT
from harness.faults.nemeses import FaultSpec, World, kind, number
from harness.faults.network_faults import NO_ANSWER, Act, heal_links
from harness.faults.probes import (
    FILLER,
    FILLER_BYTES,
    RESET_DEADLINE_S,
    Heard,
    Held,
    answering,
    filler,
    is_consensus,
    probe,
    retried,
)
from harness.faults.proxies import Change, Link

JITTER_S = 0.25
LIMIT_BYTES = (200, 20_000)
"""After how many bytes a connection is torn; drawn between them."""
LONG_S = 5.0
LONG_FILLER = 2 * filler(LIMIT_BYTES[1] // 2)
"""Longer than every limit, in frames that a server takes. A ping alone is shorter."""


async def links_around(spec: FaultSpec, world: World) -> tuple[list[Link], str]:
    """Links from and to a target: a replica, a host, "network" for all of them, or "raft" for those of the engine."""
    network = world.cluster.network
    target = spec.target or "leader"
    if target == "network":
        return list(network.links.values()), "all links"
    if target == "raft":
        found = [link for link in network.links.values() if link.target in world.replicas() or RAFT in link.target]
        return [link for link in found if link.source in world.replicas()], "links between replicas"
    names = world.pick_hosts("one") if target == "host" else await world.pick_replicas(target)
    ends = {*names, *(name + RAFT for name in names)}
    found = [link for link in network.links.values() if link.source in ends or link.target in ends]
    return found, ",".join(names)


@define(eq=False)
class Around:
    """What these faults share: links, some of which answer before."""

    spec: FaultSpec
    _links: list[Link] = Factory(list)
    _probed: list[Link] = Factory(list)
    problem: str = ""

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        target = ""

        async def somebody_answers() -> bool:
            nonlocal target
            self._links, target = await links_around(self.spec, world)
            self._probed = await answering(link for link in self._links if not is_consensus(link))
            return bool(self._probed) or not self._links

        await retried(somebody_answers)
        return target if self._links else ""


@kind("latency", "jitter", "bandwidth", "slicing")
@define(eq=False)
class Slow(Around):
    """Everything comes through, later."""

    _drawing: Background | None = None

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        spec = self.spec
        match spec.kind:
            case "latency" | "jitter":
                await self._delay(world, number(spec, "ms", 100))
            case "bandwidth":
                rate = number(spec, "kilobytes_per_s", 8)
                await self._all(world, lambda link: link.throttle(rate))
            case _:
                size, pause_us = number(spec, "bytes", 40), number(spec, "pause_us", 300)
                await self._all(world, lambda link: link.slice(size, pause_us))
        if spec.kind == "jitter":
            self._drawing = Background(self._draw(world, number(spec, "ms", 100)))

    async def _all(self, world: World, act: Act) -> None:
        await world.cluster.network.apply(Change(link, act) for link in self._links)

    async def _delay(self, world: World, ms: int) -> None:
        await self._all(world, lambda link: link.delay(ms))

    async def _draw(self, world: World, longest_ms: int) -> None:
        """Delays that change all the time; drawn here, since the server's own cannot be repeated."""
        while True:
            await asyncio.sleep(JITTER_S)
            drawn = [(link, world.random.randint(1, longest_ms)) for link in self._links]
            await world.cluster.network.apply(Change(link, _delayed(ms)) for link, ms in drawn)

    async def bit(self, _world: World) -> str:
        """See `Nemesis`."""
        if not self._probed:
            self.problem = NO_ANSWER
            return ""
        through: list[int] = []
        beside: list[int] = []

        async def slower() -> bool:
            through[:], beside[:] = await self._times()
            return self._shown_by(through, beside)

        await retried(slower)
        compared = f"after {through} ms, their servers without them after {beside} ms"
        if self._shown_by(through, beside):
            return f"{len(through)} probed links answer {compared}"
        self.problem = f"probed links answer {compared}; at least {self._least_ms()} ms, and later, were expected"
        return ""

    def _shown_by(self, through: list[int], beside: list[int]) -> bool:
        return bool(through and beside) and min(through) >= max(self._least_ms(), min(beside) + 1)

    async def _times(self) -> tuple[list[int], list[int]]:
        """After how many milliseconds links answer, and the servers behind them without the links: a busy machine is
        slow on both ways."""
        addresses = [*(link.address for link in self._probed), *(link.upstream for link in self._probed)]
        found = await asyncio.gather(*(probe(address, timeout_s=5, filler=FILLER) for address in addresses))
        times = [
            [each.milliseconds for each in half if each.heard is Heard.ANSWERED]
            for half in (found[: len(self._probed)], found[len(self._probed) :])
        ]
        return times[0], times[1]

    def _least_ms(self) -> int:
        """What the probe must take at least, going by the fault's size."""
        match self.spec.kind:
            case "latency":
                return 2 * number(self.spec, "ms", 100) * 9 // 10
            case "bandwidth":
                return FILLER_BYTES // number(self.spec, "kilobytes_per_s", 8)
            case "slicing":
                slices = FILLER_BYTES // (2 * number(self.spec, "bytes", 40))
                return slices * number(self.spec, "pause_us", 300) // 1000
        return 2

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        try:
            await stopped(self._drawing)
        finally:
            await heal_links(world, self._links)


def _delayed(ms: int) -> Act:
    return lambda link: link.delay(ms)


@kind("torn_frames")
@define(eq=False)
class TornFrames(Around):
    """Each connection ends after a drawn number of bytes, in the middle of a frame."""

    async def inject(self, world: World) -> None:
        """See `Nemesis`. Connections that are open count from now on."""
        limits = [(link, world.random.randint(*LIMIT_BYTES)) for link in self._links]
        await world.cluster.network.apply(Change(link, _ending(count)) for link, count in limits)

    async def bit(self, _world: World) -> str:
        """See `Nemesis`."""
        self.problem = "" if self._probed else NO_ANSWER
        heard: list[Heard] = []

        async def known() -> bool:
            answers = await asyncio.gather(*map(_heard_of_much, self._probed))
            heard[:] = [answer for answer in answers if answer is not None]
            return bool(heard)

        if self._probed:
            await retried(known)
        if heard and set(heard) == {Heard.ENDED}:
            return f"{len(heard)} connections ended in the middle of a long frame; short ones come through"
        self.problem = self.problem or f"long frames were {', '.join(sorted(set(heard))) or 'sent to nobody'}"
        return ""

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        await heal_links(world, self._links)


async def _heard_of_much(link: Link) -> Heard | None:
    """What becomes of more than any limit lets through; None if what is short does not come through either."""
    before = await probe(link.address)
    much = await probe(link.address, filler=LONG_FILLER, timeout_s=LONG_S)
    after = await probe(link.address)
    return much.heard if before.heard is after.heard is Heard.ANSWERED else None


def _ending(count_bytes: int) -> Act:
    return lambda link: link.end_after(count_bytes)


@kind("resets")
@define(eq=False)
class Resets(Around):
    """Connections are reset again and again, at any moment."""

    _resetting: Background | None = None

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        self._resetting = Background(self._reset(world))

    async def _reset(self, world: World) -> None:
        while True:
            for link in self._links:
                await world.cluster.network.apply([Change(link, Link.reset)])
            await asyncio.sleep(number(self.spec, "pause_ms", 700) / 1000)

    async def bit(self, _world: World) -> str:
        """See `Nemesis`. Only connections of a reset link can be seen to be reset, so it is asked more than once."""
        self.problem = "" if self._probed else NO_ANSWER
        heard: list[Heard] = []

        async def known() -> bool:
            assert self._resetting is not None
            self._resetting.check()
            answers = await asyncio.gather(*map(_end_of_one, self._probed))
            heard[:] = [answer for answer in answers if answer is not None]
            return Heard.RESET in heard or Heard.SILENT in heard

        if self._probed:
            await retried(known)
        if Heard.RESET in heard and Heard.SILENT not in heard:
            return f"{heard.count(Heard.RESET)} of {len(heard)} open connections were reset"
        self.problem = self.problem or f"open connections were {', '.join(sorted(set(heard))) or 'made to nobody'}"
        return ""

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        try:
            await stopped(self._resetting)
        finally:
            await heal_links(world, self._links)
            # A reset that was broken off may have left the link refused.
            await world.cluster.network.apply(Change(link, _enabled) for link in self._links)


async def _end_of_one(link: Link) -> Heard | None:
    """How a connection that answers ends; None if none answers."""
    held = await Held.open(link.address)
    if held is None:
        return None
    try:
        return await held.end(RESET_DEADLINE_S)
    finally:
        held.close()


def _enabled(link: Link) -> None:
    link.proxy.enable()
