"""Exclusive handoff: how a slot changes hands so that no two hosts ever serve it at once.

Three parties, each with its rules, which have the numbers of tla/doc/ExclusiveHandoff.md:

    Server   the replicated state: owner, since, pending and fence of each slot (S1 to S6)
    Leader   what one leader may do by what it has heard in its office (L1 to L5)
    Host     one incarnation of one host process (H1 to H8)

A slot has an owner; `pending` are earlier owners that may still hold a right. Nobody is granted a slot while somebody
is pending. A right ends when the host lets go of the slot, or with its lease; each right has a fence above all earlier
ones.

    SingleActivation  below: no two gates to one slot are open at once
    FenceMonotonic    below: fences of rights to one slot rise
    OneStore          below: members keep state in one store
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from spec.model import leases
from spec.model.leases import NEVER, Times
from spec.model.slots import NOBODY, assign
from spec.model.slots import Host as Candidate

SlotName = tuple[str, int]
"""Actor type and number."""


@dataclass
class Slot:
    """S1."""

    owner: int = NOBODY
    since: int = 0
    pending: set[int] = field(default_factory=set)
    fence: int = 0


@dataclass(frozen=True)
class Member:
    """`process` tells lives of a host apart; `rest` is what else it says of itself. `store` keeps its
    actors' state, "" if it has none."""

    incarnation: int
    process: str
    kinds: tuple[str, ...]
    weight: int = 1
    rest: tuple[object, ...] = ()
    store: str = ""


@dataclass
class Server:
    """One namespace of the replicated state. `incarnations_issued` counts over all namespaces. `one_store`: members
    must keep state in one store, because fences are compared there (policy `exclusive`)."""

    slots_per_kind: int
    one_store: bool = True
    version: int = 0
    incarnations_issued: int = 0
    fence: int = 0
    members: dict[str, Member] = field(default_factory=dict)
    marks: dict[str, Candidate] = field(default_factory=dict)
    """What operators said, by host name: `weight` 0 for the host's own."""
    tombstones: set[int] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)
    slots: dict[SlotName, Slot] = field(default_factory=dict)

    def hosts_of(self, kind: str) -> dict[int, Candidate]:
        """Who hosts an actor type, as the assignment sees it."""
        found = {}
        for name, member in self.members.items():
            mark = self.marks.get(name, Candidate(0))
            if kind in member.kinds:
                found[member.incarnation] = Candidate(mark.weight or member.weight, mark.cordoned, mark.draining)
        return found

    def owners(self, kind: str) -> list[int]:
        """By slot."""
        return [self.slots[kind, number].owner for number in range(self.slots_per_kind)]

    def batch(
        self,
        upserts: Collection[tuple[str, Member]],
        removals: Collection[tuple[str, int]] = (),
        marks: Mapping[str, Candidate] | None = None,
    ) -> bool:
        """S2, S3: removals (name, incarnation meant), then upserts (their incarnation is issued here), as one change.
        Who comes under the name of somebody who goes gets that one's slots. Whether the version rose: it does exactly
        if a member or an owner changed (GenerationExact). To be asked of before: `refuses`."""
        members, kinds = dict(self.members), set(self.kinds)
        hosts = {kind: self.hosts_of(kind) for kind in self.kinds}
        self.marks = {name: mark for name, mark in (self.marks | dict(marks or {})).items() if mark != Candidate(0)}
        predecessors: dict[str, int] = {}
        for name, incarnation in removals:
            if name in self.members and self.members[name].incarnation == incarnation:
                self.tombstones.add(incarnation)
                predecessors[name] = incarnation
                del self.members[name]
        for name, wanted in upserts:
            present = self.members.get(name)
            if present is not None and present.process == wanted.process:
                incarnation = present.incarnation
            else:
                self.incarnations_issued += 1
                incarnation = self.incarnations_issued
                if present is not None:
                    self.tombstones.add(present.incarnation)
                    predecessors[name] = present.incarnation
            self.members[name] = replace(wanted, incarnation=incarnation)
        self.kinds |= {kind for member in self.members.values() for kind in member.kinds}
        successors = {
            gone: self.members[name].incarnation for name, gone in predecessors.items() if name in self.members
        }
        moved = self._reassign(hosts, successors)
        rose = bool(moved) or self.members != members or self.kinds != kinds
        if moved or self.kinds != kinds:
            self.fence += 1
        for slot in moved:
            self.slots[slot].fence = self.fence
        self.version += rose
        return rose

    def refuses(self, upserts: Collection[tuple[str, Member]], removals: Collection[tuple[str, int]] = ()) -> bool:
        """OneStore: whether somebody among these comes with another store than those who are there by then. A host may
        change its own store while it is alone with one."""
        gone = {name for name, number in removals if name in self.members and self.members[name].incarnation == number}
        stores = {name: member.store for name, member in self.members.items() if name not in gone}
        for name, wanted in upserts:
            stores.pop(name, None)
            if self.one_store and wanted.store and set(stores.values()) - {"", wanted.store}:
                return True
            stores[name] = wanted.store
        return False

    def _reassign(self, before: Mapping[str, Mapping[int, Candidate]], successors: Mapping[int, int]) -> list[SlotName]:
        """S2: an owner that changes is added to `pending`, also if it is being removed. Returns the slots that
        moved."""
        moved = []
        for kind in sorted(self.kinds):
            then, now = before.get(kind, {}), self.hosts_of(kind)
            for number in range(self.slots_per_kind):
                self.slots.setdefault((kind, number), Slot())
            if then == now:
                continue
            stronger = any(
                number not in then
                or host.weight != then[number].weight
                or (host.receives and not then[number].receives)
                for number, host in now.items()
            )
            handed_on = [successors.get(owner, owner) for owner in self.owners(kind)]
            for number, owner in enumerate(assign(handed_on, now, stronger=stronger)):
                slot = self.slots[kind, number]
                if owner != slot.owner:
                    slot.pending |= {slot.owner} - {NOBODY}
                    slot.owner, slot.since = owner, self.version + 1
                    moved.append((kind, number))
        return moved

    def confirm(self, name: SlotName, since: int) -> None:
        """S4: earlier owners have let go, if it is still the change of owner that was meant."""
        if self.slots[name].since == since:
            self.slots[name].pending = set()

    def bury(self, incarnation: int) -> None:
        """S5: a removed incarnation is gone for certain."""
        if incarnation in self.tombstones:
            self.tombstones.remove(incarnation)
            for slot in self.slots.values():
                slot.pending.discard(incarnation)

    def raise_fences(self, wanted: Iterable[tuple[SlotName, int, int]]) -> None:
        """S6: a new fence for slots whose since and fence are still those named."""
        current = [
            self.slots[n] for n, since, fence in wanted if (self.slots[n].since, self.slots[n].fence) == (since, fence)
        ]
        if current:
            self.fence += 1
        for slot in current:
            slot.fence = self.fence


@dataclass
class Leader:
    """What one leader may do, by what it heard in its own office. `server`: the replicated state as far as it has
    applied the log. It may always do less; that it does enough is EventuallyServed."""

    times: Times
    server: Server
    started: int
    released: dict[tuple[int, SlotName], int] = field(default_factory=dict)
    """By incarnation and slot: the newest version up to which it was reported as released. Such a word does not age."""
    farewells: set[int] = field(default_factory=set)
    answered: dict[int, int] = field(default_factory=dict)
    collected: set[tuple[int, int]] = field(default_factory=set)
    """Renewals (incarnation, number) heard since the last round began."""
    in_round: set[tuple[int, int]] = field(default_factory=set)
    lapsed: set[tuple[SlotName, int, int]] = field(default_factory=set)
    """Slots (with since and fence) for which their owner asked for a new fence."""

    def hears_renewal(self, incarnation: int, number: int, version: int, held: Collection[SlotName]) -> None:
        """Whatever is not held is hereby released up to the installed version (H6)."""
        self.collected.add((incarnation, number))
        for name in self.server.slots:
            if name not in held:
                self.released[incarnation, name] = max(version, self.released.get((incarnation, name), -1))

    def begins_round(self) -> None:
        """What was collected until now is what this round will confirm."""
        self.in_round |= self.collected
        self.collected = set()

    def is_member(self, incarnation: int) -> bool:
        """L5: whoever is not is told GONE, and nothing else."""
        return any(member.incarnation == incarnation for member in self.server.members.values())

    def may_answer(self, incarnation: int, number: int) -> bool:
        """Only members, and only what was heard before the confirming round was asked for."""
        return (
            (incarnation, number) in self.in_round and self.is_member(incarnation) and incarnation not in self.farewells
        )

    def may_confirm(self, name: SlotName, since: int) -> bool:
        """L1: each incarnation in `pending` has released the slot at or after its last change of owner."""
        slot = self.server.slots[name]
        return slot.since != since or all(self.released.get((i, name), -1) >= since for i in slot.pending)

    def wait_ends(self, incarnation: int) -> int:
        """When the last lease that anybody can have given it is over, on this leader's clock."""
        return max(self.started, self.answered.get(incarnation, self.started)) + leases.wait_ms(self.times)

    def may_bury(self, incarnation: int, now: int) -> bool:
        """L2: its own last word, or the wait, counted by this leader in this office."""
        removed = incarnation in self.server.tombstones
        return not removed or incarnation in self.farewells or now >= self.wait_ends(incarnation)

    def may_grant(self, incarnation: int, name: SlotName, since: int, fence: int) -> bool:
        """L3: to the owner, as committed, and nobody is pending."""
        slot = self.server.slots[name]
        return (slot.owner, slot.since, slot.fence, slot.pending) == (incarnation, since, fence, set())

    def may_raise_fence(self, name: SlotName, since: int, fence: int) -> bool:
        """L4: its owner asked for it, naming the present since and fence."""
        return (name, since, fence) in self.lapsed

    def hears_request(self, incarnation: int, name: SlotName, since: int, fence: int) -> None:
        """L4."""
        slot = self.server.slots[name]
        if (slot.owner, slot.since, slot.fence) == (incarnation, since, fence):
            self.lapsed.add((name, since, fence))


@dataclass
class Right:
    """What lets an incarnation serve a slot. `ends_by`: when it stopped admitting and must be let go, else None."""

    since: int
    fence: int
    ends_by: int | None = None


@dataclass
class Host:
    """One incarnation. `now` is always its own clock; every event begins with `clock`."""

    times: Times
    exclusive: bool = True
    incarnation: int = 0
    epoch: int = 0
    version: int = 0
    table: dict[SlotName, tuple[int, int]] = field(default_factory=dict)
    """Owner and since, as installed."""
    base: int | None = None
    sent: dict[int, int] = field(default_factory=dict)
    rights: dict[SlotName, Right] = field(default_factory=dict)
    highest: dict[SlotName, int] = field(default_factory=dict)
    wanted: dict[SlotName, tuple[int, int]] = field(default_factory=dict)
    leaving: bool = False
    over: bool = False
    too_late: bool = False
    """Turns of lost slots did not end in time."""

    # -- what it may do

    def gate_is_open(self, name: SlotName, fence: int, now: int) -> bool:
        """H5: the right lives, it is the turn's own, and the lease runs by the clock read now."""
        return now < self.gate_shuts() and name in self.rights and self.rights[name].fence == fence

    def admits(self, name: SlotName, now: int) -> bool:
        """H4: the right lives and does not drain, and the lease leaves the time for a whole drain."""
        ends = leases.admission_ends_at(self.times, self.base, exclusive=self.exclusive)
        return now < ends and name in self.rights and self.rights[name].ends_by is None

    def may_cancel(self, name: SlotName, now: int) -> bool:
        """Turns are cancelled when their drain time is over, or when the lease leaves only the margin."""
        right = self.rights.get(name)
        lease = now >= leases.turns_are_cancelled_at(self.times, self.base, exclusive=self.exclusive)
        return lease or (
            right is not None and right.ends_by is not None and now >= right.ends_by - self.times.margin_ms
        )

    def gate_shuts(self) -> float:
        """On its clock."""
        if self.over or self.incarnation == 0:
            return -NEVER
        return leases.gate_shuts_at(self.times, self.base, exclusive=self.exclusive)

    # -- what happens to it

    def clock(self, now: int) -> None:
        """H7: a lease that ran out ends every right for good, before anything that comes now is looked at. What had not
        been lost before is asked for again."""
        if now >= self.gate_shuts():
            for name, right in self.rights.items():
                if right.ends_by is None:
                    self.wanted[name] = (right.since, right.fence)
            self.rights = {}
        late = any(right.ends_by is not None and now >= right.ends_by for right in self.rights.values())
        if late and not self.too_late:
            self.too_late = True
            self.leave(now)
            if not self.exclusive:
                self.rights = {}
        self._rest()

    def welcomed(self, incarnation: int, epoch: int) -> None:
        """H1: it begins without rights."""
        if epoch >= self.epoch:
            self.epoch = epoch
            self.incarnation = self.incarnation or incarnation

    def installs(
        self, version: int, members: Collection[int], table: Mapping[SlotName, tuple[int, int]], now: int
    ) -> None:
        """H2, H6: only upwards. Slots whose since is another one admit nothing any more."""
        if self.leaving or version <= self.version:
            return
        if self.incarnation not in members:
            self.leave(now)
            return
        self.version, self.table = version, dict(table)
        self._drain([name for name, right in self.rights.items() if self._since(name) != right.since], now)
        self.wanted = {name: last for name, last in self.wanted.items() if self._since(name) == last[0]}
        self.takes_owned(now)

    def sends_renewal(self, number: int, now: int) -> tuple[int, frozenset[SlotName]]:
        """Remember when. What it says: the installed version, and what it holds."""
        self.sent[number] = now
        return self.version, frozenset(self.rights)

    def answered(self, number: int, epoch: int, grants: Iterable[tuple[SlotName, int, int]], now: int) -> None:
        """The lease runs from when the renewal was sent that the answer echoes."""
        if epoch < self.epoch:
            return
        self.epoch = epoch
        if number in self.sent:
            self.base = self.sent[number] if self.base is None else max(self.base, self.sent[number])
        self.takes_owned(now)
        self._accept(grants, now)

    def granted(self, epoch: int, grants: Iterable[tuple[SlotName, int, int]], now: int) -> None:
        """Grants that came by themselves."""
        if epoch >= self.epoch:
            self.epoch = epoch
            self._accept(grants, now)

    def _accept(self, grants: Iterable[tuple[SlotName, int, int]], now: int) -> None:
        """H3: (slot, since, fence), each by itself."""
        if self.leaving or self.incarnation == 0 or now >= self.gate_shuts():
            return
        for name, since, fence in grants:
            mine = self.table.get(name) == (self.incarnation, since)
            if mine and fence > self.highest.get(name, -1) and name not in self.rights:
                self.rights[name] = Right(since, fence)
                self.highest[name] = fence
                self.wanted.pop(name, None)

    def takes_owned(self, now: int) -> None:
        """Policy `eventual`: the table alone gives rights, to slots that do not drain."""
        if not self.exclusive and not self.leaving and now < self.gate_shuts():
            for name, (owner, since) in self.table.items():
                if owner == self.incarnation and name not in self.rights:
                    self.rights[name] = Right(since, 0)

    def drained(self, names: Iterable[SlotName], now: int) -> None:
        """H6: no turn runs there any more. Rights that drain end."""
        for name in names:
            if name in self.rights and self.rights[name].ends_by is not None:
                del self.rights[name]
        self.takes_owned(now)
        self._rest()

    def leave(self, now: int) -> None:
        """H8: for whatever reason, nothing is admitted or accepted any more."""
        if not self.leaving:
            self.leaving = True
            self.wanted = {}
            self._drain(self.rights, now)
            self._rest()

    def _drain(self, names: Iterable[SlotName], now: int) -> None:
        """Drain and margin, and the ms that readings are cut by."""
        for name in names:
            if self.rights[name].ends_by is None:
                self.rights[name].ends_by = now + self.times.drain_ms + 1 + self.times.margin_ms

    def _rest(self) -> None:
        """H8: the last word, once no right lives."""
        self.over = self.over or (self.leaving and not self.rights)

    def _since(self, name: SlotName) -> int | None:
        return self.table[name][1] if name in self.table else None


def SingleActivation(hosts: Iterable[tuple[Host, int]]) -> bool:
    """No two incarnations' gates to one slot are open. Each host comes with its clock's reading."""
    serving = [
        name for host, now in hosts for name, right in host.rights.items() if host.gate_is_open(name, right.fence, now)
    ]
    return len(serving) == len(set(serving))


def OneStore(server: Server) -> bool:
    """No two members keep state in different stores."""
    return not server.one_store or len({member.store for member in server.members.values()} - {""}) <= 1


def FenceMonotonic(before: Mapping[SlotName, int], after: Mapping[SlotName, int]) -> bool:
    """Highest fences accepted for each slot, by anybody: they never fall."""
    return all(after.get(name, -1) >= fence for name, fence in before.items())


def PendingCoversRights(server: Server, hosts: Iterable[Host]) -> bool:
    """Whoever holds a right to a slot is its owner or pending: the reason for SingleActivation. Gates that are shut for
    ever do not count."""
    return all(
        host.incarnation in {server.slots[name].owner, *server.slots[name].pending}
        for host in hosts
        for name in host.rights
    )


def EventuallyServed(server: Server, hosts: Iterable[tuple[Host, int]]) -> list[SlotName]:
    """Slots that have an owner and are not served by it: none, once everything is at rest."""
    by_incarnation = {host.incarnation: (host, now) for host, now in hosts}
    unserved = []
    for name, slot in server.slots.items():
        host, now = by_incarnation.get(slot.owner, (None, 0))
        if slot.owner != NOBODY and (host is None or not host.admits(name, now)):
            unserved.append(name)
    return unserved
