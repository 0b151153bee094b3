"""Dapr's consistent hash: which host owns an actor, by the names of the hosts alone.

Every host has 100 virtual nodes on a circle of 2^64 places, at the hashes of its name followed by 0, 1, ... 99. An
actor belongs to the host whose virtual node is the first at or after the hash of the actor's id, going around.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

CIRCLE = 2**64


def place(text: str) -> int:
    """Where a string lies: the first eight bytes of BLAKE2b-512, little-endian."""
    return int.from_bytes(hashlib.blake2b(text.encode()).digest()[:8], "little")


def distance(start: int, end: int) -> int:
    """How far it is clockwise."""
    return (end - start) % CIRCLE


def owner(actor_id: str, hosts: Collection[str], virtual_nodes: int = 100) -> str | None:
    """The owner; if two hosts share the virtual node, the one whose name comes first."""
    nodes = [(place(f"{host}{number}"), host) for host in hosts for number in range(virtual_nodes)]
    start = place(actor_id)
    return min(((distance(start, at), host) for at, host in nodes), default=(0, None))[1]


def OwnerAgreement(actor_id: str, hosts: Collection[str], lookups: Collection[str | None]) -> bool:
    """Everybody who knows the same hosts names the same owner."""
    return all(found == owner(actor_id, hosts) for found in lookups)


def MinimalMovement(actor_ids: Collection[str], before: Collection[str], after: Collection[str]) -> bool:
    """Actors move only to a host that joined, or away from one that left."""
    moves = [(owner(actor, before), owner(actor, after)) for actor in actor_ids]
    return all(old == new or old not in after or new not in before for old, new in moves)
