"""Faults on links: partitions of every shape, delays, little bandwidth, sliced frames, ended connections.

A partition is a grudge: a set of ordered pairs (a, b) where nothing that a says reaches b. Who dialled whom does not
matter for that: along a's own links to b the forward half is cut, along b's links to a the backward half.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable

from attrs import Factory, define

from harness.faults.cluster import ETCD, RAFT, others
from harness.faults.nemeses import FaultSpec, World, kind, number, text
from harness.faults.probes import FILLER, FILLER_BYTES, SILENCE_S, Heard, Held, Probe, probe
from harness.faults.proxies import Change, Direction, Link, Style

Grudge = frozenset[tuple[str, str]]
Act = Callable[[Link], None]
PROBED_MAX = 4
JITTER_S = 0.25
STYLES = tuple(style.value for style in Style)


def apart(left: Iterable[str], right: Iterable[str]) -> Grudge:
    """Neither side hears the other."""
    pairs = [(a, b) for a in left for b in right]
    return frozenset([*pairs, *((b, a) for a, b in pairs)])


async def grudge_of(spec: FaultSpec, world: World) -> tuple[Grudge, str]:
    """The grudge of a kind of partition, and whom it hits, for people."""
    if spec.kind.startswith(("host", "client")):
        return _grudge_of_hosts(spec, world)
    replicas = world.replicas()
    everybody = [*replicas, *world.hosts(), *world.cluster.clients(), "sidecars"]
    match spec.kind:
        case "partition_replicas":
            hit = await world.pick_replicas(spec.target or "leader")
            return apart(hit, others(replicas, *hit)), ",".join(hit)
        case "partition_from_everybody":
            hit = await world.pick_replicas(spec.target or "leader")
            return apart(hit, others(everybody, *hit)), ",".join(hit)
        case "replica_from_etcd":
            hit = await world.pick_replicas(spec.target or "leader")
            ends = [name + ETCD for name in replicas] if world.cluster.etcd else []
            return apart(hit, ends), ",".join(hit)
        case "partition_named":
            everybody += others(world.cluster.hosts, *everybody)
            hit = await _ends(world, spec.target, everybody)
            rest = (
                await _ends(world, str(spec.parameters["from"]), everybody) if "from" in spec.parameters else everybody
            )
            return apart(hit, others(rest, *hit)), ",".join(hit)
        case "partition_halves":
            one = world.random.sample(everybody, len(everybody) // 2)
            return apart(one, others(everybody, *one)), "+".join(sorted(one))
        case "partition_bridge":
            order = world.random.sample(replicas, len(replicas))
            half = (len(order) - 1) // 2
            return apart(order[:half], order[half + 1 :]), f"{order[half]} sees both sides"
        case "partition_ring":
            order = world.random.sample(replicas, len(replicas))
            return ring(order), "->".join(order)
    hit = await world.pick_replicas(spec.target or "leader")
    return _one_way(spec, hit, others(replicas, *hit))


async def _ends(world: World, target: str, known: list[str]) -> list[str]:
    """Names with commas, among them `leader`, and `followers` for all the other replicas. Raises ScheduleError."""
    found: list[str] = []
    for name in target.split(","):
        if name in {"leader", "followers"}:
            leader = await world.leader()
            found += [leader] if name == "leader" else others(world.replicas(), leader)
        else:
            found += world.named(name, known)
    return found


def _grudge_of_hosts(spec: FaultSpec, world: World) -> tuple[Grudge, str]:
    replicas, hosts = world.replicas(), world.hosts()
    match spec.kind:
        case "host_isolated":
            hit = world.pick_hosts(spec.target or "one")
            return apart(hit, [*replicas, *others(hosts, *hit)]), ",".join(hit)
        case "host_with_one_replica":
            hit = world.pick_hosts(spec.target or "one")
            kept = world.random.choice(replicas)
            return apart(hit, others(replicas, kept)), f"{','.join(hit)} sees {kept} only"
        case "host_from_host":
            pair = world.random.sample(hosts, min(2, len(hosts)))
            return apart(pair[:1], pair[1:]), " and ".join(pair)
        case "client_from_hosts":
            client = world.random.choice(world.cluster.clients())
            return apart([client], hosts), client
    return _one_way(spec, world.pick_hosts(spec.target or "one"), replicas)


def _one_way(spec: FaultSpec, hit: list[str], rest: list[str]) -> tuple[Grudge, str]:
    pairs = itertools.product(hit, rest)
    if text(spec, "way", "out", ("in", "out")) == "out":
        return frozenset(pairs), f"{','.join(hit)} is not heard"
    return frozenset((b, a) for a, b in pairs), f"{','.join(hit)} does not hear"


def ring(order: list[str]) -> Grudge:
    """Everybody hears a majority, no two the same one: each hears itself and those next before it on the ring."""
    heard = len(order) // 2
    count = len(order)
    deaf = [(order[(place - step) % count], order[place]) for place in range(count) for step in range(heard + 1, count)]
    return frozenset(deaf)


PARTITIONS = (
    "partition_replicas",
    "partition_from_everybody",
    "partition_halves",
    "partition_bridge",
    "partition_ring",
    "one_way",
    "host_isolated",
    "host_with_one_replica",
    "host_from_host",
    "host_one_way",
    "client_from_hosts",
)
ETCD_CUTS = ("replica_from_etcd",)
"""Kinds that are drawn with the etcd engine only."""


@kind(*PARTITIONS, *ETCD_CUTS, "partition_named")
@define(eq=False)
class Partition:
    """A grudge on the links."""

    spec: FaultSpec
    _halves: dict[str, tuple[Link, set[Direction]]] = Factory(dict)
    _answered: list[Link] = Factory(list)
    problem: str = ""

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        grudge, target = await grudge_of(self.spec, world)
        for a, b in grudge:
            for link in world.cluster.links(a, b):
                self._halves.setdefault(link.name, (link, set()))[1].add(Direction.FORWARD)
            for link in world.cluster.links(b, a):
                self._halves.setdefault(link.name, (link, set()))[1].add(Direction.BACKWARD)
        self._answered = await answering([link for link, _ in self._halves.values()])
        return target if self._halves else ""

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        style = Style(text(self.spec, "style", Style.BLACK_HOLE.value, STYLES))
        await world.cluster.network.apply(
            Change(link, _cut(style, tuple(sorted(directions)))) for link, directions in self._halves.values()
        )

    async def bit(self, _world: World) -> str:
        """See `Nemesis`."""
        if not self._answered:
            self.problem = "nobody answered before it either"
        return await silenced(self._answered)

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        await heal_links(world, [link for link, _ in self._halves.values()])


@kind("swizzle")
@define(eq=False)
class Swizzle:
    """Swizzle-clogging, as FoundationDB has it: some nodes are cut off one after the other, and come back one after the
    other in another order."""

    spec: FaultSpec
    _order: list[str] = Factory(list)
    _clogged: set[str] = Factory(set)
    _answered: list[Link] = Factory(list)
    _work: asyncio.Task[None] | None = None
    problem: str = ""

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        nodes = [*world.replicas(), *world.hosts()]
        self._order = world.random.sample(nodes, world.random.randint(min(2, len(nodes)), len(nodes)))
        self._answered = await answering(self._links(world, self._order[0]))
        return ",".join(self._order)

    @staticmethod
    def _links(world: World, node: str) -> list[Link]:
        links = world.cluster.network.links.values()
        return [link for link in links if node in {link.source, link.target.removesuffix(RAFT).removesuffix(ETCD)}]

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        await self._clog(world, self._order[0])
        self._work = asyncio.ensure_future(self._go_on(world))

    async def _clog(self, world: World, node: str) -> None:
        self._clogged.add(node)
        cut = _cut(Style(text(self.spec, "style", Style.BLACK_HOLE.value, STYLES)), tuple(sorted(Direction)))
        await world.cluster.network.apply(Change(link, cut) for link in self._links(world, node))

    async def _go_on(self, world: World) -> None:
        pause_s = self.spec.duration_s / (2 * len(self._order) + 1)
        for node in self._order[1:]:
            await asyncio.sleep(pause_s)
            await self._clog(world, node)
        for node in world.random.sample(self._order, len(self._order)):
            await asyncio.sleep(pause_s)
            self._clogged.discard(node)
            still = {link.name for other in self._clogged for link in self._links(world, other)}
            await heal_links(world, [link for link in self._links(world, node) if link.name not in still])

    async def bit(self, _world: World) -> str:
        """See `Nemesis`."""
        if not self._answered:
            self.problem = "nobody answered before it either"
        return await silenced(self._answered)

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        await heal_links(world, [link for node in self._order for link in self._links(world, node)])


def _cut(style: Style, directions: tuple[Direction, ...]) -> Act:
    def act(link: Link) -> None:
        # A connection has two halves: refusing it is for both.
        if style is Style.REFUSE and len(directions) > 1:
            link.refuse()
        else:
            link.black_hole(directions)

    return act


async def answering(links: Iterable[Link]) -> list[Link]:
    """Some of the links whose servers answer a ping now."""
    grpc_links = [link for link in links if not link.target.endswith(RAFT)]
    heard = await asyncio.gather(*(probe(link.address) for link in grpc_links))
    pairs = zip(grpc_links, heard, strict=True)
    return [link for link, answer in pairs if answer.heard is Heard.ANSWERED][:PROBED_MAX]


async def silenced(links: list[Link]) -> str:
    """Proof that links which answered before do not any more."""
    heard = await asyncio.gather(*(probe(link.address) for link in links))
    if not heard or any(answer.heard is Heard.ANSWERED for answer in heard):
        return ""
    kinds = sorted({answer.heard.value for answer in heard})
    return f"{len(heard)} links that answered are {' or '.join(kinds)}"


async def heal_links(world: World, links: Iterable[Link]) -> None:
    """Make links whole."""
    await world.cluster.network.apply(Change(link, Link.heal) for link in links)


# -- slow and ragged links -------------------------------------------------------------------------------


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


@kind("latency", "jitter", "bandwidth", "slicing")
@define(eq=False)
class Slow:
    """Everything comes through, later."""

    spec: FaultSpec
    _links: list[Link] = Factory(list)
    _probed: list[Link] = Factory(list)
    _before: list[Probe] = Factory(list)
    _drawing: asyncio.Task[None] | None = None
    problem: str = ""

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        self._links, target = await links_around(self.spec, world)
        self._probed = await answering(self._links)
        self._before = await self._probes()
        return target

    async def _probes(self) -> list[Probe]:
        return await asyncio.gather(*(probe(link.address, timeout_s=5, filler=FILLER) for link in self._probed))

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
            self._drawing = asyncio.ensure_future(self._draw(world, number(spec, "ms", 100)))

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
        after = await self._probes()
        times = [late.milliseconds for late in after if late.heard in {Heard.ANSWERED, Heard.SILENT}]
        quickest_before = min((early.milliseconds for early in self._before), default=0)
        if times and min(times) >= max(self._least_ms(), quickest_before + 1):
            return f"{len(times)} probed links answer after {min(times)} ms at least; it was {quickest_before} ms"
        if not self._probed:
            self.problem = "nobody answered before it either"
            return ""
        self.problem = f"probed links answer after {times} ms; at least {self._least_ms()} ms were expected"
        return ""

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
        if self._drawing is not None:
            self._drawing.cancel()
            await asyncio.gather(self._drawing, return_exceptions=True)
        await heal_links(world, self._links)


def _delayed(ms: int) -> Act:
    return lambda link: link.delay(ms)


@kind("resets", "torn_frames")
@define(eq=False)
class Resets:
    """Connections end again and again: at any moment, or after a drawn number of bytes, in the middle of a frame."""

    spec: FaultSpec
    _links: list[Link] = Factory(list)
    _held: list[Held] = Factory(list)
    _resetting: asyncio.Task[None] | None = None
    problem: str = ""

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        self._links, target = await links_around(self.spec, world)
        for link in await answering(self._links):
            held = await Held.open(link.address)
            self._held += [held] if held is not None else []
        return target

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        if self.spec.kind == "torn_frames":
            limits = [(link, world.random.randint(200, 20_000)) for link in self._links]
            await world.cluster.network.apply(Change(link, _ending(count)) for link, count in limits)
            await world.cluster.network.apply(Change(link, _again) for link in self._links)
        else:
            self._resetting = asyncio.ensure_future(self._reset(world))

    async def _reset(self, world: World) -> None:
        while True:
            for link in self._links:
                await world.cluster.network.apply([Change(link, _again)])
            await asyncio.sleep(number(self.spec, "pause_ms", 700) / 1000)

    async def bit(self, _world: World) -> str:
        """See `Nemesis`."""
        await asyncio.sleep(SILENCE_S)
        if not self._held:
            self.problem = "nobody answered before it either"
        ended = await asyncio.gather(*(held.ended() for held in self._held))
        return f"{sum(ended)} of {len(ended)} open connections ended" if ended and all(ended) else ""

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        if self._resetting is not None:
            self._resetting.cancel()
            await asyncio.gather(self._resetting, return_exceptions=True)
        for held in self._held:
            held.close()
        await heal_links(world, self._links)
        # A cancelled reset may have left the link refused.
        await world.cluster.network.apply(Change(link, _enabled) for link in self._links)


def _ending(count_bytes: int) -> Act:
    return lambda link: link.end_after(count_bytes)


def _again(link: Link) -> None:
    """End what is open; new connections are welcome."""
    link.proxy.disable()
    link.proxy.enable()


def _enabled(link: Link) -> None:
    link.proxy.enable()
