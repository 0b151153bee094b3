"""Who owns an actor, computed in the plainest way there is: look at every virtual node of every host.

No sorting, no search, no cache of rings, and nothing shared with `tables` or with the server: if this and a
sidecar's ring name the same owner, either both are right or both read the protocol wrong in the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping


def place(text: str) -> int:
    """Unsigned 64-bit number in the first eight bytes of BLAKE2b-512, least significant byte first."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=64).digest()
    return sum(byte << (8 * position) for position, byte in enumerate(digest[:8]))


def naive_owners(actor_ids: Iterable[str], host_names: Iterable[str], replication_factor: int) -> Mapping[str, str]:
    """Owner of each actor id on the ring of `host_names`: the host whose virtual node comes next, going round.

    Of hosts that share a place the one with the smallest name owns it. Raises ValueError if there is no host.
    """
    names_at: dict[int, list[str]] = {}
    for name in host_names:
        for number in range(replication_factor):
            names_at.setdefault(place(name + str(number)), []).append(name)
    if not names_at:
        raise ValueError("no host, so nothing has an owner")
    places = list(names_at)
    first = min(places)
    owners = {}
    for actor_id in actor_ids:
        start = place(actor_id)
        following = min([candidate for candidate in places if candidate >= start], default=first)
        owners[actor_id] = min(names_at[following])
    return owners
