"""Which host owns which slot: sticky, weighted, under a cap; decided inside apply, integers only.

A slot keeps its owner unless the owner left, drains, or owns more than its cap, which is its share by weight rounded
up. Slots that need an owner go, one by one, to the host that would be the least loaded by weight with it.

Bounds, for hosts that are neither cordoned nor draining (share = slots x weight / sum of weights):

- `Balance`: no host owns more than its share rounded up, so max/mean is at most 1 + 1/share: below 1.04 from 32 slots
  per host on.
- `MinimalMovement`: a leave moves only the slots of who leaves. A join moves what the newcomer gets, at most its share
  rounded up; with unequal weights other hosts may each give one more slot for rounding.

Labels do not steer the assignment; they travel with the table for those who route.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence

from attrs import frozen

from callboard.core.slot_records import NOBODY, SlotTable
from callboard.core.table_delta import changed_slots

_SCALE = 1 << 40
"""Loads are compared as counts x _SCALE / weight, in whole numbers."""


@frozen
class Candidate:
    """A host of the actor type, as far as the assignment looks at it."""

    incarnation: int
    weight: int
    cordoned: bool = False
    draining: bool = False

    @property
    def receives(self) -> bool:
        """Whether it may get slots that it does not have."""
        return not self.cordoned and not self.draining


def assign(
    before: SlotTable, candidates: Sequence[Candidate], version: int, successors: Mapping[int, int], *, joined: bool
) -> SlotTable:
    """The table after a batch, which is `before` itself if nothing changes.

    Args:
        before: owners may be incarnations that are no candidates any more.
        candidates: hosts of the type, ascending by incarnation.
        version: wire version of the batch, the `since` of every slot whose owner changes.
        successors: removed incarnation -> incarnation that took its name in this batch, and so its slots.
        joined: whether hosts came or became stronger: only then does the least loaded take from others.
    """
    owners = list(before.owners)
    if successors:
        owners = [successors.get(owner, owner) for owner in owners]
    counts = Counter(owners)
    receivers = [candidate for candidate in candidates if candidate.receives]
    caps = _caps(candidates, receivers, counts, len(owners))
    keeps = {incarnation: min(counts[incarnation], cap) for incarnation, cap in caps.items()}
    if joined:
        _make_room(receivers, keeps, len(owners))
    free = _give_up(owners, keeps, counts)
    _hand_out(owners, free, receivers, caps, keeps)
    return _table(before, owners, version)


def _caps(
    candidates: Sequence[Candidate], receivers: Sequence[Candidate], counts: Mapping[int, int], slots: int
) -> dict[int, int]:
    """How many slots each candidate may own. The caps of receivers leave room for all that the others do not keep."""
    if not receivers:  # nobody could take anything
        return {candidate.incarnation: counts[candidate.incarnation] for candidate in candidates}
    whole = sum(candidate.weight for candidate in candidates if not candidate.draining)
    caps: dict[int, int] = {}
    for candidate in candidates:
        if candidate.draining:
            caps[candidate.incarnation] = 0
        elif candidate.cordoned:
            share = -(-slots * candidate.weight // whole)
            caps[candidate.incarnation] = min(counts[candidate.incarnation], share)
    left = slots - sum(caps.values())
    weights = sum(candidate.weight for candidate in receivers)
    for candidate in receivers:
        caps[candidate.incarnation] = -(-left * candidate.weight // weights)
    return caps


def _make_room(receivers: Sequence[Candidate], keeps: dict[int, int], slots: int) -> None:
    """Let receivers above their share rounded down give, until every receiver can have its share rounded down.

    Nobody keeps more than its share rounded up, so each gives one slot at most, and they are enough.
    """
    others = sum(keeps.values()) - sum(keeps[host.incarnation] for host in receivers)
    left = slots - others
    weights = sum(host.weight for host in receivers)
    floors = {host.incarnation: left * host.weight // weights for host in receivers}
    free = left - sum(keeps[host.incarnation] for host in receivers)
    missing = sum(max(0, floors[host.incarnation] - keeps[host.incarnation]) for host in receivers) - free
    givers = sorted(
        (-keeps[host.incarnation] * _SCALE // host.weight, host.incarnation)
        for host in receivers
        if keeps[host.incarnation] > floors[host.incarnation]
    )
    for _, incarnation in givers[: max(0, missing)]:
        keeps[incarnation] -= 1


def _give_up(owners: Sequence[int], keeps: Mapping[int, int], counts: Mapping[int, int]) -> list[int]:
    """The slots that their owners do not keep, the highest ones of each, ascending."""
    content = {incarnation for incarnation, kept in keeps.items() if kept == counts[incarnation]}
    left = dict(keeps)
    free = []
    for slot in [slot for slot, owner in enumerate(owners) if owner not in content]:
        owner = owners[slot]
        if left.get(owner, 0) > 0:
            left[owner] -= 1
        else:
            free.append(slot)
    return free


def _hand_out(
    owners: list[int],
    free: Sequence[int],
    receivers: Sequence[Candidate],
    caps: Mapping[int, int],
    keeps: Mapping[int, int],
) -> None:
    """Each free slot goes to the receiver below its cap that is the least loaded with it; to nobody if all are full."""
    counts = {host.incarnation: keeps[host.incarnation] for host in receivers}
    queue = [
        ((counts[host.incarnation] + 1) * _SCALE // host.weight, host.incarnation, host.weight)
        for host in receivers
        if counts[host.incarnation] < caps[host.incarnation]
    ]
    heapq.heapify(queue)
    for slot in free:
        if not queue:
            owners[slot] = NOBODY
            continue
        _, incarnation, weight = queue[0]
        owners[slot] = incarnation
        counts[incarnation] += 1
        if counts[incarnation] < caps[incarnation]:
            heapq.heapreplace(queue, ((counts[incarnation] + 1) * _SCALE // weight, incarnation, weight))
        else:
            heapq.heappop(queue)


def _table(before: SlotTable, owners: list[int], version: int) -> SlotTable:
    now = tuple(owners)
    moved = changed_slots(before.owners, now)
    if not moved:
        return before
    since = list(before.since)
    for slot in moved:
        since[slot] = version
    return SlotTable(now, tuple(since))


def empty_table(slots: int) -> SlotTable:
    """Nobody owns anything yet."""
    return SlotTable((NOBODY,) * slots, (0,) * slots)
