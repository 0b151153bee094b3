"""Links that are cut: partitions of every shape.

A partition is a grudge: a set of ordered pairs (a, b) where nothing that a says reaches b. Who dialled whom does not
matter for that: along a's own links to b the forward half is cut, along b's links to a the backward half.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable

from attrs import Factory, define

from harness.faults.background import Background, stopped
from harness.faults.cluster import ETCD, RAFT, others
from harness.faults.nemeses import FaultSpec, World, kind, text
from harness.faults.probes import answering, is_consensus, retried, silenced
from harness.faults.proxies import Change, Direction, Link, Style

Grudge = frozenset[tuple[str, str]]
Act = Callable[[Link], None]
NO_ANSWER = "no link of it answered before it"
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


CONSENSUS_CUTS = (
    "partition_replicas",
    "partition_from_everybody",
    "partition_halves",
    "partition_bridge",
    "partition_ring",
    "one_way",
)
"""Kinds that are drawn with an engine of replicas only: members of etcd talk to each other past every link."""
PARTITIONS = (
    *CONSENSUS_CUTS,
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
    _answered: list[list[Link]] = Factory(list)
    problem: str = ""

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""
        target = ""

        async def somebody_answers() -> bool:
            nonlocal target
            grudge, target = await grudge_of(self.spec, world)
            self._halves = _halves_of(grudge, world)
            self._answered = await _answering_of(world, [link for link, _ in self._halves.values()])
            return all(self._answered)

        await retried(somebody_answers)
        return target if self._halves else ""

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        style = Style(text(self.spec, "style", Style.BLACK_HOLE.value, STYLES))
        await world.cluster.network.apply(
            Change(link, _cut(style, tuple(sorted(directions)))) for link, directions in self._halves.values()
        )

    async def bit(self, _world: World) -> str:
        """See `Nemesis`."""
        self.problem = "" if all(self._answered) else NO_ANSWER
        return "" if self.problem else await silenced(self._answered)

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        await heal_links(world, [link for link, _ in self._halves.values()])


def _halves_of(grudge: Grudge, world: World) -> dict[str, tuple[Link, set[Direction]]]:
    """The directions of links that a grudge cuts."""
    halves: dict[str, tuple[Link, set[Direction]]] = {}
    for a, b in grudge:
        for link in world.cluster.links(a, b):
            halves.setdefault(link.name, (link, set()))[1].add(Direction.FORWARD)
        for link in world.cluster.links(b, a):
            halves.setdefault(link.name, (link, set()))[1].add(Direction.BACKWARD)
    return halves


async def _answering_of(world: World, links: Iterable[Link]) -> list[list[Link]]:
    """Links that answer now, those of the consensus apart: that replicas do not hear each other is to be shown there.
    An empty list: there are such links, and none answers."""
    groups: tuple[list[Link], list[Link]] = ([], [])
    for link in links:
        groups[is_consensus(link)].append(link)
    services, consensus = groups
    # With other engines nobody listens at the ports of the consensus.
    wanted = [services, consensus] if world.cluster.settings.engine == "pysyncobj" else [services]
    return [await answering(group) for group in wanted if group]


@kind("swizzle")
@define(eq=False)
class Swizzle:
    """Swizzle-clogging, as FoundationDB has it: some nodes are cut off one after the other, and come back one after the
    other in another order."""

    spec: FaultSpec
    _order: list[str] = Factory(list)
    _clogged: set[str] = Factory(set)
    _answered: list[list[Link]] = Factory(list)
    _work: Background | None = None
    problem: str = ""

    async def resolve(self, world: World) -> str:
        """See `Nemesis`."""

        async def somebody_answers() -> bool:
            nodes = [*world.replicas(), *world.hosts()]
            self._order = world.random.sample(nodes, world.random.randint(min(2, len(nodes)), len(nodes)))
            self._answered = await _answering_of(world, self._links(world, self._order[0]))
            return all(self._answered)

        await retried(somebody_answers)
        return ",".join(self._order)

    @staticmethod
    def _links(world: World, node: str) -> list[Link]:
        links = world.cluster.network.links.values()
        return [link for link in links if node in {link.source, link.target.removesuffix(RAFT).removesuffix(ETCD)}]

    async def inject(self, world: World) -> None:
        """See `Nemesis`."""
        await self._clog(world, self._order[0])
        self._work = Background(self._go_on(world))

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
        self.problem = "" if all(self._answered) else NO_ANSWER
        return "" if self.problem else await silenced(self._answered)

    async def heal(self, world: World) -> None:
        """See `Nemesis`."""
        try:
            await stopped(self._work)
        finally:
            await heal_links(world, [link for node in self._order for link in self._links(world, node)])


def _cut(style: Style, directions: tuple[Direction, ...]) -> Act:
    def act(link: Link) -> None:
        # A connection has two halves: refusing it is for both.
        if style is Style.REFUSE and len(directions) > 1:
            link.refuse()
        else:
            link.black_hole(directions)

    return act


async def heal_links(world: World, links: Iterable[Link]) -> None:
    """Make links whole."""
    await world.cluster.network.apply(Change(link, Link.heal) for link in links)
