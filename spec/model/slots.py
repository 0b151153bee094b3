"""Slot assignment: which host owns which slot of one actor type, after a change of hosts.

Three rules, in this order:

1. Everybody keeps what it has, but not more than its share rounded up. (A host that drains keeps nothing if others can
take
   it; a cordoned host gets nothing new.) Of too many slots the highest are given up.
2. If somebody came or became stronger: while some host has less than its share rounded down, and the free slots do not
   suffice, the most loaded host gives up one.
3. Free slots, in ascending order, go to the host that is the least loaded with it, up to its share rounded up.

Load is slots / weight, compared exactly. Ties go to the older incarnation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

NOBODY = 0


@dataclass(frozen=True)
class Host:
    """What matters of a host: its weight, and what operators said."""

    weight: int = 1
    cordoned: bool = False
    draining: bool = False

    @property
    def receives(self) -> bool:
        """Whether it may get slots that it does not have."""
        return not self.cordoned and not self.draining


Hosts = Mapping[int, Host]
"""By incarnation."""


def shares(slots: int, hosts: Hosts, owned: Mapping[int, int]) -> dict[int, Fraction]:
    """What is due to each host. What hosts that do not receive go on owning is not there for the others."""
    receivers = {number: host for number, host in hosts.items() if host.receives}
    if not receivers:
        return {number: Fraction(owned[number]) for number in hosts}
    found: dict[int, Fraction] = {}
    staying = sum(host.weight for host in hosts.values() if not host.draining)
    for number, host in hosts.items():
        if host.draining:
            found[number] = Fraction(0)
        elif host.cordoned:
            found[number] = Fraction(min(owned[number], ceil(Fraction(slots * host.weight, staying))))
    left = slots - sum(found.values(), Fraction(0))
    weights = sum(host.weight for host in receivers.values())
    return found | {number: left * Fraction(host.weight, weights) for number, host in receivers.items()}


def assign(owners: Sequence[int], hosts: Hosts, *, stronger: bool) -> list[int]:
    """The owner of each slot after the change. `stronger`: somebody came, has more weight, or may receive again."""
    owned = {number: list(owners).count(number) for number in hosts}
    due = shares(len(owners), hosts, owned)
    keeps = {number: min(owned[number], ceil(due[number])) for number in hosts}
    receivers = sorted(number for number, host in hosts.items() if host.receives)

    def load(number: int, more: int = 0) -> Fraction:
        return Fraction(keeps[number] + more, hosts[number].weight)

    if stronger and receivers:
        left = len(owners) - sum(keeps[number] for number in hosts if number not in receivers)
        weights = sum(hosts[number].weight for number in receivers)
        least = {number: floor(Fraction(left * hosts[number].weight, weights)) for number in receivers}
        while sum(max(0, least[n] - keeps[n]) for n in receivers) > left - sum(keeps[n] for n in receivers):
            keeps[max((n for n in receivers if keeps[n] > least[n]), key=lambda n: (load(n), -n))] -= 1

    after = []
    kept = dict(keeps)
    for owner in owners:
        keep = kept.get(owner, 0) > 0
        after.append(owner if keep else NOBODY)
        if keep:
            kept[owner] -= 1
    for slot, owner in enumerate(after):
        if owner == NOBODY:
            hungry = [number for number in receivers if keeps[number] < ceil(due[number])]
            if hungry:
                after[slot] = min(hungry, key=lambda number: (load(number, 1), number))
                keeps[after[slot]] += 1
    return after


def Balance(owners: Sequence[int], hosts: Hosts, came: Collection[int] = ()) -> bool:
    """Nobody owns more than its share rounded up (who drains: nothing, if another may receive), who just came has at
    least its share rounded down, and no slot is free while one may receive."""
    owned = {number: list(owners).count(number) for number in hosts}
    due = shares(len(owners), hosts, owned)
    fair = all(owned[number] <= ceil(due[number]) for number in hosts)
    fair = fair and all(owned[number] >= floor(due[number]) for number in came)
    receivers = any(host.receives for host in hosts.values())
    return fair and (not receivers or all(owner in hosts for owner in owners))


def MinimalMovement(before: Sequence[int], after: Sequence[int], then: Hosts, now: Hosts) -> bool:
    """Who only leaves moves nothing but his own slots; with equal weights a newcomer takes at most its share, rounded
    up, and nobody else gets anything from a host that stays."""
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    came = now.keys() - then.keys()
    if any(then[number] != now[number] for number in then.keys() & now.keys()):
        return True  # weights and marks changed as well: only Balance speaks of that
    if not came:
        return all(old not in now for old, _ in moved)
    if len({*then.values(), *now.values()}) > 1 or not all(host.receives for host in now.values()):
        return True  # with weights, rounding may cost another slot for each host; marked hosts give up slots besides
    taken_from_those_who_stay = [new for old, new in moved if old in now]
    share = ceil(Fraction(len(after), len(now)))
    return all(new in came for new in taken_from_those_who_stay) and (
        all(taken_from_those_who_stay.count(number) <= share for number in came)
    )
