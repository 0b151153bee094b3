"""What a sidecar reads out of a placement order: the tables, their digest, and the ring that it computes from them.

Written from the protocol alone and without a line of callboard's own rings, so that it can serve as an
independent check of them. One `OrderDecoder` is shared by all sidecars of a process: equal messages are parsed
once, and sidecars that got the same bytes hold the very same `Tables`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from hashlib import blake2b

from attrs import field, frozen
from google.protobuf.message import DecodeError

from callboard.protos.generated.placement_pb2 import PlacementOrder, PlacementTables

REPLICATION_FACTOR = 100
"""Virtual nodes per host, unless the server is told otherwise."""


class NoOwner(LookupError):
    """No host of the table runs this actor type."""


class BadOrder(ValueError):
    """The bytes of an order are not a PlacementOrder, or contradict themselves."""


def ring_hash(text: str) -> int:
    """A place on the ring: the first 8 bytes of the 64-byte BLAKE2b digest, little-endian."""
    return int.from_bytes(blake2b(text.encode()).digest()[:8], "little")


@lru_cache(maxsize=20_000)
def virtual_nodes(name: str, replication_factor: int) -> tuple[int, ...]:
    """The places of one host on every ring that it is on: name followed by 0, 1, 2, ... in decimal."""
    return tuple(ring_hash(f"{name}{number}") for number in range(replication_factor))


@frozen(order=True)
class TableHost:
    """A host as a table names it. A change of any field makes the sidecar treat its actor types as changed."""

    name: str
    app_id: str
    port: int = 0


class Ring:
    """The ring of one actor type. Where two hosts share a place, the smaller name has it."""

    def __init__(self, names: Iterable[str], replication_factor: int) -> None:
        pairs = sorted((place, name) for name in names for place in virtual_nodes(name, replication_factor))
        self._places = [place for place, _ in pairs]
        self._names = [name for _, name in pairs]

    def owner(self, actor_id: str) -> str:
        """The host at the first place at or after the id's; past the end, the first one. Raises NoOwner if empty."""
        if not self._places:
            raise NoOwner("the ring is empty")
        index = bisect_left(self._places, ring_hash(actor_id))
        return self._names[index % len(self._names)]


@frozen(eq=False)
class Tables:
    """The tables of one namespace: for each actor type its hosts, by name.

    `version` is the decimal string inside the tables, which old sidecars read. `digest` and `type_digests` name
    the content: equal for equal hosts and replication factor, whatever the version and the order on the wire.
    """

    hosts: Mapping[str, Mapping[str, TableHost]]
    replication_factor: int = REPLICATION_FACTOR
    version: str = ""
    _rings: dict[str, Ring] = field(factory=dict, init=False, repr=False)

    @cached_property
    def type_digests(self) -> Mapping[str, str]:
        """Digest of each actor type's hosts."""
        digests = {}
        for actor_type, hosts in self.hosts.items():
            lines = sorted(f"{key}\0{host.name}\0{host.app_id}\0{host.port}" for key, host in hosts.items())
            digests[actor_type] = blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()
        return digests

    @cached_property
    def digest(self) -> str:
        """Digest of all tables of the namespace."""
        lines = [f"{actor_type}\0{digest}" for actor_type, digest in sorted(self.type_digests.items())]
        text = "\n".join([str(self.replication_factor), *lines])
        return blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def host_names(self) -> frozenset[str]:
        """Every host that is in at least one table."""
        return frozenset(name for hosts in self.hosts.values() for name in hosts)

    def changed_types(self, previous: Tables | None) -> frozenset[str]:
        """Actor types whose ring is not the one of `previous`: new, gone, or with other hosts."""
        if previous is None:
            return frozenset(self.hosts)
        if previous.replication_factor != self.replication_factor:
            return frozenset(self.hosts) | frozenset(previous.hosts)
        old, new = previous.type_digests, self.type_digests
        return frozenset(name for name in {*old, *new} if old.get(name) != new.get(name))

    def owner(self, actor_type: str, actor_id: str) -> str:
        """Name of the host that has to run the actor. Raises NoOwner."""
        if actor_type not in self.hosts:
            raise NoOwner(f"no host runs actor type {actor_type!r}")
        ring = self._rings.get(actor_type)
        if ring is None:
            ring = self._rings[actor_type] = Ring(self.hosts[actor_type], self.replication_factor)
        return ring.owner(actor_id)


NO_TABLES = Tables(hosts={})
"""What a sidecar of the heartbeat generation holds between a lock and the update."""


def tables_of(
    members: Iterable[tuple[TableHost, Iterable[str]]], replication_factor: int = REPLICATION_FACTOR
) -> Tables:
    """The tables that a namespace with these (host, actor types) must have; the digest tells if others are equal."""
    hosts: dict[str, dict[str, TableHost]] = {}
    for host, actor_types in members:
        for actor_type in actor_types:
            hosts.setdefault(actor_type, {})[host.name] = host
    return Tables(hosts, replication_factor)


@frozen
class Order:
    """One order of the server. `version` is the order's own, or for old servers the one inside the tables."""

    operation: str
    version: int = 0
    tables: Tables | None = None


def _read_tables(message: PlacementTables) -> Tables:
    hosts = {
        actor_type: {key: TableHost(host.name, host.id, host.port) for key, host in table.load_map.items()}
        for actor_type, table in message.entries.items()
    }
    return Tables(hosts, message.replication_factor, message.version)


def read_order(message: bytes) -> Order:
    """Parse one order. Raises BadOrder."""
    try:
        order = PlacementOrder.FromString(message)
    except DecodeError as error:
        raise BadOrder(f"not a PlacementOrder: {error}") from error
    tables = _read_tables(order.tables) if order.HasField("tables") else None
    version = order.version
    if not version and tables is not None and tables.version:
        if not tables.version.isdecimal():
            raise BadOrder(f"tables.version is not a decimal number: {tables.version[:40]!r}")
        version = int(tables.version)
    return Order(order.operation, version, tables)


class OrderDecoder:
    """Parses orders, and remembers the last `capacity` different ones by their bytes."""

    def __init__(self, capacity: int = 64) -> None:
        self._capacity = capacity
        self._orders: OrderedDict[bytes, Order] = OrderedDict()
        self.parsed = 0
        """Messages that really were parsed; all others were found in the cache."""

    def __call__(self, message: bytes) -> Order:
        """The order in `message`. Raises BadOrder."""
        known = self._orders.get(message)
        if known is not None:
            self._orders.move_to_end(message)
            return known
        order = read_order(message)
        self.parsed += 1
        self._orders[message] = order
        if len(self._orders) > self._capacity:
            self._orders.popitem(last=False)
        return order
