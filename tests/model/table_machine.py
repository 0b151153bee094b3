"""Slot tables, their deltas and those who hold them, beside `spec.model.exclusive`, `slots` and `deltas`.

A native namespace changes through the real `apply`; a leader's feed sends deltas to hosts, which get
lost, damaged, repeated and out of order. The model has the same members, and says which facts each version consists of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, evolve, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from callboard.core import membership
from callboard.core.commands import (
    CommitNativeBatch,
    CreateNativeNamespace,
    RaiseFeatureLevel,
    Removal,
    Request,
    TakeOffice,
)
from callboard.core.records import AnswerCode, ReplicatedState
from callboard.core.slot_records import HandoffSettings, HostMark, NativeHostRecord, NativeNamespace, SlotTable
from callboard.core.table_delta import DeltaError, TableDelta, TableView, empty_view, patch, view_of
from callboard.core.table_feed import TableFeed
from callboard.core.versions import Policy
from spec.model.deltas import PatchOfDiff, Table, TableMonotonic
from spec.model.exclusive import Member, OneStore, Server
from spec.model.slots import Balance, Hosts, MinimalMovement
from spec.model.slots import Host as Candidate
from tests.model.support import Disagreement, SideBySide, agree

NAMESPACE = "shop"
SLOT_BITS = 4
NAMES = ("a", "b", "c", "d", "e")
STEPS_KEPT = 4
ADDRESSES = ("x:1", "x:2")

records = st.builds(
    NativeHostRecord,
    name=st.sampled_from(NAMES),
    address=st.sampled_from(ADDRESSES),
    actor_types=st.sets(st.sampled_from(("cart", "user")), min_size=1).map(lambda kinds: tuple(sorted(kinds))),
    process=st.sampled_from(("p1", "p2")),
    weight=st.sampled_from((100, 100, 100, 50, 300)),
    store_id=st.sampled_from(("", "file-1", "file-1", "file-1", "file-2")),
)
marks = st.builds(
    HostMark,
    name=st.sampled_from(NAMES),
    cordoned=st.booleans(),
    draining=st.booleans(),
    weight=st.sampled_from((None, None, 200)),
)


def as_member(host: NativeHostRecord) -> Member:
    """As the model knows it, without an incarnation."""
    return Member(0, host.process, host.actor_types, host.weight, (host.address, host.labels), host.store_id)


def as_candidate(mark: HostMark) -> Candidate:
    """As the model knows it."""
    return Candidate(mark.weight or 0, mark.cordoned, mark.draining)


def facts_of_view(view: TableView) -> Table:
    """What a host holds, as facts."""
    facts: dict[tuple[object, ...], object] = {}
    for number, entry in view.hosts.items():
        facts["host", number] = (entry.name, entry.address, entry.labels)
    for kind, table in view.tables.items():
        facts["type", kind] = True
        for slot, owned in enumerate(zip(table.owners, table.since, strict=True)):
            facts["slot", kind, slot] = owned
    return Table(view.version, facts)


def facts_of_model(server: Server) -> Table:
    """What hosts should hold, as facts."""
    facts: dict[tuple[object, ...], object] = {}
    for name, member in server.members.items():
        facts["host", member.incarnation] = (name, *member.rest)
    for kind in server.kinds:
        facts["type", kind] = True
    for (kind, number), slot in server.slots.items():
        facts["slot", kind, number] = (slot.owner, slot.since)
    return Table(server.version, facts)


@define(eq=False)
class Holder:
    """A host as far as tables go: what it has installed, and what is on its way to it."""

    view: TableView = field(factory=lambda: empty_view(SLOT_BITS))
    coming: list[TableDelta] = field(factory=list)
    told: int = 0
    """The version to which what was sent leads."""


class TableMachine(SideBySide):
    """Rules are changes of members, and what becomes of deltas."""

    def __init__(self) -> None:
        super().__init__()
        self.state = ReplicatedState()
        self._apply(TakeOffice("r", "n"))
        self._apply(RaiseFeatureLevel(1, membership.KNOWN_FEATURE_LEVEL))
        self.committed: dict[int, Table] = {0: Table()}
        self.holders = [Holder(), Holder()]

    def _apply(self, command: Any, *, refused: bool = False) -> int:
        before = self.state
        self.state, answer = membership.apply(self.state, self.state.applied_index + 1, Request(command))
        agree("OneStore", answer.code is AnswerCode.CONFLICT, refused)
        assert answer.succeeded or refused, answer
        assert not refused or self.state.native is before.native
        return answer.number

    @property
    def namespace(self) -> NativeNamespace:
        return self.state.native[NAMESPACE]

    # -- changes

    def _batch(
        self, upserts: list[NativeHostRecord], removals: list[tuple[str, int]], changed: list[HostMark] | None = None
    ) -> None:
        before = {kind: (self.namespace.tables[kind], self.model.hosts_of(kind)) for kind in self.model.kinds}
        command = CommitNativeBatch(
            1, NAMESPACE, tuple(upserts), tuple(Removal(*each) for each in removals), tuple(changed or ())
        )
        coming = [(host.name, as_member(host)) for host in upserts]
        refused = self.model.refuses(coming, removals)
        version = self._apply(command, refused=refused)
        if refused:
            return
        rose = self.model.batch(coming, removals, {mark.name: as_candidate(mark) for mark in changed or ()})
        agree("OneStore", OneStore(self.model), True)
        self._check_assignment(before)
        agree("GenerationExact", version, self.model.version)
        if rose:
            self.feed.follow(self.namespace)
        for kind in self.model.kinds:
            agree("OwnerAgreement", self._owners(kind), self.model.owners(kind))
        table = facts_of_model(self.model)
        earlier = self.committed.setdefault(table.version, table)
        agree("GenerationExact", earlier, table)

    def _check_assignment(self, before: Mapping[str, tuple[SlotTable, Hosts]]) -> None:
        """What must hold of the code's owners by themselves, before they are compared with the model's."""
        for kind in self.model.kinds:
            present = self.model.hosts_of(kind)
            came = present.keys() - (before[kind][1].keys() if kind in before else ())
            agree("Balance", Balance(self._owners(kind), present, came), True)
        for kind, (then, hosts) in before.items():
            now = self.namespace.tables[kind]
            moves = MinimalMovement(then.owners, now.owners, hosts, self.model.hosts_of(kind))
            agree("MinimalMovement", moves, True)
            slots = zip(then.owners, now.owners, then.since, now.since, strict=True)
            renewed = [slot for slot, (old, new, since, later) in enumerate(slots) if old == new and since != later]
            agree("MinimalMovement", renewed, [])  # an owner that stays gets its slot anew

    def _owners(self, kind: str) -> list[int]:
        return list(self.namespace.tables[kind].owners)

    @initialize(
        policy=st.sampled_from((Policy.EVENTUAL, Policy.EXCLUSIVE)),
        present=st.lists(records, min_size=1, max_size=4, unique_by=lambda host: host.name),
    )
    def begin(self, policy: Policy, present: list[NativeHostRecord]) -> None:
        self._apply(CreateNativeNamespace(NAMESPACE, policy, SLOT_BITS, HandoffSettings()))
        self.model = Server(1 << SLOT_BITS, one_store=policy is Policy.EXCLUSIVE)
        self.feed = TableFeed(STEPS_KEPT, view_of(self.namespace))
        self._batch(present, [])

    @rule(
        upserts=st.lists(records, max_size=3, unique_by=lambda host: host.name),
        gone=st.sets(st.sampled_from(NAMES), max_size=2),
    )
    def batch(self, upserts: list[NativeHostRecord], gone: set[str]) -> None:
        members = self.model.members
        self._batch(upserts, [(name, members[name].incarnation) for name in sorted(gone) if name in members])

    @rule(host=records)
    def join(self, host: NativeHostRecord) -> None:
        self._batch([host], [])

    @precondition(lambda self: self.model.members)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.members)))
        self._batch([], [(name, self.model.members[name].incarnation)])

    @rule(host=records)
    def take_the_place_of_all(self, host: NativeHostRecord) -> None:
        """A host comes in the batch in which all others leave."""
        self._batch([host], [(name, each.incarnation) for name, each in sorted(self.model.members.items())])

    @precondition(lambda self: self.model.members)
    @rule(data=st.data())
    def move_house(self, data: st.DataObject) -> None:
        """A host answers at another address; nothing else is new."""
        name = data.draw(st.sampled_from(sorted(self.namespace.members)))
        host = self.namespace.members[name].host
        self._batch([evolve(host, address=ADDRESSES[host.address == ADDRESSES[0]])], [])

    @rule(mark=marks)
    def mark(self, mark: HostMark) -> None:
        self._batch([], [], [mark])

    # -- deltas

    @rule(which=st.integers(0, 1))
    def send(self, which: int) -> None:
        """What leads on from where the leader believes the host to be."""
        holder = self.holders[which]
        holder.coming += [self.feed.delta(*pair) for pair in self.feed.path(holder.told)]
        holder.told = self.feed.view.version

    @rule(which=st.integers(0, 1), lost=st.booleans(), damaged=st.booleans(), repeated=st.booleans())
    def arrive(self, which: int, lost: bool, damaged: bool, repeated: bool) -> None:
        holder = self.holders[which]
        if not holder.coming:
            return
        delta = holder.coming[0]
        if not repeated:
            del holder.coming[0]
        if damaged and delta.changes:
            delta = evolve(delta, changes=delta.changes[1:])
        if not lost or damaged:
            self._install(holder, delta)

    @rule(which=st.integers(0, 1))
    def overtake(self, which: int) -> None:
        """What was sent last arrives first."""
        if self.holders[which].coming:
            self._install(self.holders[which], self.holders[which].coming.pop())

    @rule(which=st.integers(0, 1))
    def reconnect(self, which: int) -> None:
        """A new connection: it begins with a snapshot, whatever is still on its way by the old one."""
        self.holders[which].told = 0
        self.send(which)

    @rule(which=st.integers(0, 1))
    def rot(self, which: int) -> None:
        """An installed table goes wrong unnoticed; no delta may make it worse."""
        view = self.holders[which].view
        for kind, table in view.tables.items():
            owners = (table.owners[0] + 1, *table.owners[1:])
            self.holders[which].view = evolve(view, tables={**view.tables, kind: evolve(table, owners=owners)})
            self.holders[which].told = 0
            return

    def _install(self, holder: Holder, delta: TableDelta) -> None:
        before = facts_of_view(holder.view)
        try:
            after = patch(holder.view, delta)
        except DeltaError:
            holder.told = 0  # it asks for a snapshot
            return
        found = facts_of_view(after)
        agree("TableMonotonic", TableMonotonic(before, found) and found.version > before.version, True)
        agree("TableAgreement", found, self.committed[after.version])
        holder.view = after

    # -- invariants

    @invariant()
    def table_agreement(self) -> None:
        """TableAgreement: the leader's table is the model's."""
        agree("TableAgreement", facts_of_view(view_of(self.namespace)), facts_of_model(self.model))
        self.aim("versions that a host lags", self.feed.view.version - min(h.view.version for h in self.holders))
        self.aim("deltas on their way", max(len(holder.coming) for holder in self.holders))

    def finish(self) -> None:
        """Convergence: whatever was lost, one more exchange brings everybody up to date."""
        newest = facts_of_model(self.model)
        for holder in self.holders:
            if facts_of_view(holder.view) != self.committed.get(holder.view.version):
                holder.view = empty_view(SLOT_BITS)  # it rotted: its host was restarted
            for pair in self.feed.path(holder.view.version, holder.view.digest):
                agree("PatchOfDiff", PatchOfDiff(self.committed[pair[0]], self.committed[pair[1]]), True)
                try:
                    holder.view = patch(holder.view, self.feed.delta(*pair))
                except DeltaError as error:
                    raise Disagreement("Convergence", f"the delta {pair} does not fit: {error}") from None
            agree("Convergence", facts_of_view(holder.view), newest)


TestTables = TableMachine.TestCase
TestTables.settings = settings(stateful_step_count=40)
