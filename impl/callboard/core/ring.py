"""Dapr's consistent hash ring, bit for bit: sidecars of version 1.13 and later compute the same from the host names.

A host has `replication_factor` virtual nodes; number i sits at the hash of the host name with the decimal i appended,
without anything in between. An actor belongs to the host of the first virtual node at or after the hash of its id; past
the last one it is the first one again. The actor type selects the ring and is not hashed. The hash is the first eight
bytes of BLAKE2b-512, little-endian (the 64-byte digest cut short, not BLAKE2b with a digest of 8 bytes).

Host names of which one continues the other share virtual nodes: `10.0.0.1:5000` + `21` and `10.0.0.1:50002` + `1` are
one string. A sidecar lets the host that it inserted last win, in the random order of Go's maps, so two
sidecars may disagree about ids that fall on a shared node. This ring lets the host with the smallest name win (by
code points), whatever the order of insertion, and `candidates` tells which hosts a sidecar might pick.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable
from functools import lru_cache

DEFAULT_REPLICATION_FACTOR = 100
HOSTS_CACHED = 4096
"""Virtual nodes are kept for this many hosts, since most rings differ from the one before by one host."""


def ring_hash(text: str) -> int:
    """The place of a string on the ring, 0 .. 2^64 - 1."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass")).digest()[:8], "little")


@lru_cache(maxsize=HOSTS_CACHED)
def virtual_nodes(host: str, replication_factor: int = DEFAULT_REPLICATION_FACTOR) -> tuple[int, ...]:
    """The places of a host on the ring, by number of the virtual node."""
    return tuple(ring_hash(f"{host}{number}") for number in range(replication_factor))


class Ring:
    """The ring of one actor type. Immutable; `hosts` are its hosts' names, sorted."""

    __slots__ = ("_owners", "_places", "_shared", "hosts", "replication_factor")

    def __init__(self, hosts: Iterable[str], replication_factor: int = DEFAULT_REPLICATION_FACTOR) -> None:
        """Build the ring. Raises ValueError for a negative replication factor."""
        if replication_factor < 0:
            raise ValueError(f"replication factor {replication_factor} is negative")
        self.hosts = tuple(sorted(set(hosts)))
        self.replication_factor = replication_factor
        owner_at: dict[int, str] = {}
        for host in reversed(self.hosts):
            owner_at.update(dict.fromkeys(virtual_nodes(host, replication_factor), host))
        self._places = sorted(owner_at)
        self._owners = [owner_at[place] for place in self._places]
        shared = len(owner_at) < len(self.hosts) * replication_factor
        self._shared = self._find_shared() if shared else {}

    def _find_shared(self) -> dict[int, tuple[str, ...]]:
        hosts_at: dict[int, dict[str, None]] = {}
        for host in self.hosts:
            for place in virtual_nodes(host, self.replication_factor):
                hosts_at.setdefault(place, {})[host] = None
        return {place: tuple(hosts) for place, hosts in hosts_at.items() if len(hosts) > 1}

    def lookup(self, actor_id: str) -> str | None:
        """The host that owns the actor, or None if the ring is empty (no hosts, or a replication factor of 0)."""
        if not self._places:
            return None
        return self._owners[self._index(actor_id)]

    def candidates(self, actor_id: str) -> tuple[str, ...]:
        """The hosts that a sidecar might take for the owner, sorted: more than one if the virtual node is shared."""
        if not self._places:
            return ()
        index = self._index(actor_id)
        return self._shared.get(self._places[index], (self._owners[index],))

    def _index(self, actor_id: str) -> int:
        index = bisect_left(self._places, ring_hash(actor_id))
        return index if index < len(self._places) else 0

    @property
    def shared_virtual_nodes(self) -> int:
        """How many places belong to more than one host; their ids are ambiguous among sidecars."""
        return len(self._shared)
