"""Seeded bugs: callboard, broken in one place, in the processes of a fault run. Checkers that never fail prove nothing.

They live here, and nowhere else: `launched` puts them over the modules of its own process before that runs callboard.
The package itself knows no switch for them (tests/faults/test_controls.py looks into the wheel).
"""

# ruff: noqa: SLF001 - a bug replaces what is inside

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import grpc
from attrs import evolve, frozen

from callboard.consensus.pysyncobj_engine import journal
from callboard.consensus.pysyncobj_engine.barriers import BarrierTicket
from callboard.consensus.pysyncobj_engine.core import Core
from callboard.consensus.pysyncobj_engine.guards import GuardedRaft
from callboard.consensus.pysyncobj_engine.journal import Journal
from callboard.consensus.pysyncobj_engine.raft_library import LEADER
from callboard.core import barrier, membership, native_host, slot_assignment, slot_membership
from callboard.core.barrier_records import Phase
from callboard.core.leases import UNLIMITED
from callboard.core.leases import deadlines as deadlines_of
from callboard.core.native_attendance import Attendance
from callboard.core.native_host import NativeHost
from callboard.core.native_host_records import GoneReceived
from callboard.core.native_leader import NativeLeader
from callboard.core.native_rights import Rights
from callboard.core.slot_index import SlotIndex
from callboard.core.table_delta import TableDelta, TableView, empty_view, make_view, patch
from callboard.host.app import Router
from callboard.host.client import Client
from callboard.host.errors import NotServedError, OutcomeUnknownError
from callboard.host.runtime import Runtime
from callboard.host.sqlite import SqliteStore
from callboard.host.stores import Stored
from callboard.protos.generated import admin_pb2
from callboard.server.admin_changes import AdminChanges
from callboard.server.watches import Watch

REPLAYED_S = 4.0
"""Within so long a replica has applied what its journal holds."""
Patch = tuple[Any, str, Any]
"""Where, what, and by what it is replaced."""


class Where(StrEnum):
    """Whose process has the bug. Clients of a run live in the run's own process."""

    REPLICA = "replica"
    HOST = "host"
    CLIENT = "client"


@frozen
class Bug:
    """One way to break callboard."""

    what: str
    where: Where
    patches: Callable[[], list[Patch]]


BUGS: dict[str, Bug] = {}


def bug(where: Where, what: str) -> Callable[[Callable[[], list[Patch]]], Callable[[], list[Patch]]]:
    """Register a bug under its function's name."""

    def register(patches: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
        BUGS[patches.__name__] = Bug(what, where, patches)
        return patches

    return register


def break_process(name: str) -> None:
    """Put the bug over this process, for good."""
    for owner, attribute, value in BUGS[name].patches():
        setattr(owner, attribute, value)


@contextmanager
def broken(name: str) -> Iterator[None]:
    """The bug, for a while."""
    patches = BUGS[name].patches()
    before = [(owner, attribute, vars(owner)[attribute]) for owner, attribute, _ in patches]
    break_process(name)
    try:
        yield
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)


# -- hosts -----------------------------------------------------------------------------------------------


@bug(Where.HOST, "the gate is not checked before effects and replies, only admission is")
def gate_not_checked() -> list[Patch]:
    return [(NativeHost, "gate_open", lambda _self, _right, _now_ms: True)]


@bug(Where.HOST, "a host goes on serving after its lease has run out")
def lease_expiry_ignored() -> list[Patch]:
    original = deadlines_of

    def deadlines(policy: Any, settings: Any, base_ms: int | None) -> Any:
        return original(policy, settings, base_ms) if base_ms is None else UNLIMITED

    return [(native_host, "deadlines", deadlines)]


@bug(Where.HOST, "slots are reported as released while turns still run there")
def released_before_drained() -> list[Patch]:
    original = Rights.drain

    def drain(self: Rights, slots: Iterable[tuple[str, int]], cancel_at_ms: int, overdue_at_ms: int) -> None:
        lost = list(slots)
        original(self, lost, cancel_at_ms, overdue_at_ms)
        self.unsaid.update(dict.fromkeys(lost))

    return [(Rights, "drain", drain)]


@bug(Where.HOST, "turns of one actor do not wait for each other")
def turns_at_once() -> list[Patch]:
    async def turn(self: Runtime, activation: Any, chain: Any, deadline_ms: int) -> bool:
        del self, activation, chain, deadline_ms
        return True

    return [(Runtime, "_turn", turn)]


@bug(Where.HOST, "the store takes writes of any fence and version")
def store_ignores_fences() -> list[Patch]:
    async def save(self: SqliteStore, key: Any, value: bytes, *, expected_version: int, fence: int) -> int:
        del expected_version

        def write(connection: Any) -> int:
            identity = (key.namespace, key.actor_type, key.actor_id)
            where = "WHERE namespace = ? AND type = ? AND id = ?"
            row = connection.execute(f"SELECT version FROM actor {where}", identity).fetchone()  # noqa: S608
            version = (row[0] if row else 0) + 1
            connection.execute(
                "INSERT OR REPLACE INTO actor VALUES (?, ?, ?, ?, ?, ?)", (*identity, value, version, fence)
            )
            return version

        return await self._in_transaction(write)

    return [(SqliteStore, "save", save)]


@bug(Where.HOST, "the store lets reads pass under any fence, and does not remember theirs")
def store_ignores_fences_on_read() -> list[Patch]:
    async def load(self: SqliteStore, key: Any, fence: int) -> Stored:
        del fence

        def read(connection: Any) -> Stored:
            identity = (key.namespace, key.actor_type, key.actor_id)
            where = "WHERE namespace = ? AND type = ? AND id = ?"
            row = connection.execute(f"SELECT value, version FROM actor {where}", identity).fetchone()  # noqa: S608
            return Stored(*row) if row else Stored(None, 0)

        return await self._in_transaction(read)

    return [(SqliteStore, "load", load)]


@bug(Where.HOST, "a host process ends, in order and without a word, when it is told that it was removed")
def host_ends_when_removed() -> list[Patch]:
    original = NativeHost._take_in

    def take_in(self: NativeHost, event: Any, now_ms: int) -> None:
        original(self, event, now_ms)
        if isinstance(event, GoneReceived):
            os.kill(os.getpid(), signal.SIGTERM)

    return [(NativeHost, "_take_in", take_in)]


@bug(Where.HOST, "a removed incarnation does not listen when it is told that it is gone")
def removal_ignored() -> list[Patch]:
    original = NativeHost._take_in

    def take_in(self: NativeHost, event: Any, now_ms: int) -> None:
        if not isinstance(event, GoneReceived):
            original(self, event, now_ms)

    return [(NativeHost, "_take_in", take_in)]


@bug(Where.HOST, "deltas are applied without comparing the digest, and the last range of each is lost")
def deltas_not_checked() -> list[Patch]:
    def careless(view: TableView, delta: TableDelta) -> TableView:
        if delta.is_snapshot or not delta.changes or delta.to_version <= view.version:
            return patch(view, delta)
        last = delta.changes[-1]
        short = evolve(delta, changes=(*delta.changes[:-1], evolve(last, ranges=last.ranges[:-1])))
        return _patched_unchecked(view, short)

    return [(native_host, "patch", careless)]


def _patched_unchecked(view: TableView, delta: TableDelta) -> TableView:
    hosts = {key: entry for key, entry in view.hosts.items() if key not in delta.hosts_gone}
    hosts.update((entry.incarnation, entry) for entry in delta.hosts)
    tables = dict(view.tables)
    for change in delta.changes:
        for kind in change.actor_types:
            owners, since = list(tables[kind].owners), list(tables[kind].since)
            for each in change.ranges:
                owners[each.first : each.first + each.count] = [each.owner] * each.count
                since[each.first : each.first + each.count] = [each.since] * each.count
            tables[kind] = evolve(tables[kind], owners=tuple(owners), since=tuple(since))
    return make_view(delta.to_version, view.slot_bits, hosts, tables)


@bug(Where.HOST, "a task dies of an exception that nobody takes")
def a_task_is_lost() -> list[Patch]:
    original = Runtime.granted

    async def fails() -> None:
        raise RuntimeError("seeded: nobody takes this")

    def granted(self: Runtime, effect: Any) -> None:
        original(self, effect)
        asyncio.ensure_future(fails())  # noqa: RUF006 - that is the bug

    return [(Runtime, "granted", granted)]


# -- callers ---------------------------------------------------------------------------------------------


@bug(Where.CLIENT, "calls of unknown outcome are tried again")
def unknown_outcomes_retried() -> list[Patch]:
    original = Client._attempt

    async def attempt(self: Client, owner: Any, **call: Any) -> bytes:
        try:
            return await original(self, owner, **call)
        except OutcomeUnknownError as error:
            raise NotServedError(str(error)) from None

    return [(Client, "_attempt", attempt)]


@bug(Where.CLIENT, "a watch that comes to a replica that lags takes its older table")
def watch_goes_back() -> list[Patch]:
    def install(self: Router, delta: TableDelta) -> None:
        empty = empty_view(delta.slot_bits)
        self._view = patch(empty if delta.is_snapshot or self._view is None else self._view, delta)
        self._changes.notify()
        self.client.follow(self._view)

    return [(Router, "_install", install)]


# -- fronts ----------------------------------------------------------------------------------------------


@bug(Where.REPLICA, "of the watches of one namespace at a replica only the newest is told of changes")
def only_the_newest_watch_is_told() -> list[Patch]:
    original, newest = Watch.changes, dict[int, Watch]()

    def changes(self: Watch) -> list[bytes]:
        if not self.version:
            newest[id(self._watched)] = self
        return original(self) if newest[id(self._watched)] is self else []

    return [(Watch, "changes", changes)]


# -- leaders ---------------------------------------------------------------------------------------------


@bug(Where.REPLICA, "a new leader changes no marks of hosts for its first 25 s")
def new_leaders_refuse_changes() -> list[Patch]:
    original, asked_first = AdminChanges._change, dict[int, float]()

    async def change(self: AdminChanges, request: Any, context: Any, command_of: Any) -> Any:
        office = self._replica.office
        if office is not None and isinstance(request, admin_pb2.MarkHostRequest):
            since = asked_first.setdefault(office.epoch, time.monotonic())
            if time.monotonic() < since + 25:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "nothing was changed: too early")
        return await original(self, request, context, command_of)

    return [(AdminChanges, "_change", change)]


@bug(Where.REPLICA, "slots are granted while earlier owners have not let go")
def grants_without_release() -> list[Patch]:
    def granted(self: SlotIndex, incarnation: int, kinds: Iterable[str], holding: Any) -> Iterator[Any]:
        for kind in kinds:
            table, rights = self.namespace.tables[kind], self.namespace.rights[kind]
            for slot in self.owned(kind, incarnation):
                present = (table.since[slot], rights.fences[slot])
                if holding.slots.get(kind, {}).get(slot) != present:
                    yield (kind, slot, *present)

    return [(SlotIndex, "granted", granted)]


@bug(Where.REPLICA, "slots are granted with another `since` than the table's")
def granted_of_another_since() -> list[Patch]:
    original = SlotIndex.granted

    def granted(self: SlotIndex, incarnation: int, kinds: Iterable[str], holding: Any) -> Iterator[Any]:
        for kind, slot, since, fence in original(self, incarnation, kinds, holding):
            yield (kind, slot, max(1, since - 1), fence)

    return [(SlotIndex, "granted", granted)]


@bug(Where.REPLICA, "the leader does not wait for the last lease of a removed host")
def lease_wait_skipped() -> list[Patch]:
    return [(Attendance, "wait_over_ms", lambda _self, _incarnation: 0)]


@bug(Where.REPLICA, "a new leader does not wait for leases that its predecessor gave")
def new_leader_does_not_wait() -> list[Patch]:
    original = Attendance.wait_over_ms

    def wait_over_ms(self: Attendance, incarnation: int) -> int:
        return 0 if self.hosts[incarnation].answered_ms is None else original(self, incarnation)

    return [(Attendance, "wait_over_ms", wait_over_ms)]


@bug(Where.REPLICA, "renewals are answered without asking a quorum")
def renewals_without_quorum() -> list[Patch]:
    original = NativeLeader._begin_round

    def begin_round(self: NativeLeader) -> None:
        ran = self._rounds.running
        original(self)
        if self._rounds.running and not ran:
            self._effects.pop()
            self._round_confirmed(self._rounds.round_id)

    return [(NativeLeader, "_begin_round", begin_round)]


@bug(Where.REPLICA, "silent members are never removed")
def members_never_removed() -> list[Patch]:
    return [(Attendance, "silent", lambda _self, _now_ms: [])]


@bug(Where.REPLICA, "sidecars are unlocked before they get their tables")
def unlock_before_update() -> list[Patch]:
    original = barrier.BarrierNamespace._order
    swapped = {Phase.UPDATE: Phase.UNLOCK, Phase.UNLOCK: Phase.UPDATE}

    def order(self: Any, stream: Any, phase: Phase, version: int) -> None:
        original(self, stream, phase, version)
        self._effects[-1] = evolve(self._effects[-1], phase=swapped.get(phase, phase))

    return [(barrier.BarrierNamespace, "_order", order)]


# -- the replicated state and the log --------------------------------------------------------------------


@bug(Where.REPLICA, "fences do not rise when slots move")
def fences_do_not_rise() -> list[Patch]:
    return [(slot_membership, "_next_fence", lambda namespace, _version: max(namespace.fence, 1))]


@bug(Where.REPLICA, "a restarted host keeps the incarnation number of its dead process")
def incarnations_used_again() -> list[Patch]:
    original = slot_membership.commit_batch

    def commit_batch(state: Any, command: Any) -> Any:
        namespace = state.native[command.namespace]
        members = dict(namespace.members)
        for host in command.upserts:
            if host.name in members:
                known = members[host.name]
                members[host.name] = evolve(known, host=evolve(known.host, process=host.process))
        same = evolve(namespace, members=members)
        after, answer = original(evolve(state, native={**state.native, command.namespace: same}), command)
        return after, answer

    return [(slot_membership, "commit_batch", commit_batch)]


@bug(Where.REPLICA, "slots are dealt in an order that depends on PYTHONHASHSEED")
def dealt_by_hash_seed() -> list[Patch]:
    original = slot_assignment._hand_out

    def hand_out(owners: list[int], free: Sequence[int], *rest: Any) -> None:
        original(owners, sorted(free, key=lambda slot: hash(str(slot))), *rest)

    return [(slot_assignment, "_hand_out", hand_out)]


@bug(Where.REPLICA, "votes are not written to the journal")
def votes_not_persisted() -> list[Patch]:
    def frame(*fields: Any) -> Any:
        *others, _, commit_index = fields
        return original(*others, None, commit_index)

    original: Callable[..., Any] = journal._Frame
    return [(journal, "_Frame", frame)]


@bug(Where.REPLICA, "a replica that starts again forgets the answers of sessions that its log holds (ApplyOnce)")
def sessions_forgotten() -> list[Patch]:
    original, begun = membership._remember, time.monotonic()
    again = any((Path(argument) / "journal").exists() for argument in sys.argv)

    def remember(state: Any, identity: Any, answer: Any) -> Any:
        if again and time.monotonic() - begun < REPLAYED_S:
            return state
        return original(state, identity, answer)

    return [(membership, "_remember", remember)]


@bug(Where.REPLICA, "linearizable reads ask nobody")
def reads_without_quorum() -> list[Patch]:
    def confirmed(self: Core, done: Callable[[Any], None]) -> BarrierTicket:
        ticket = BarrierTicket(done)
        ticket.finish(self.applied_index)
        return ticket

    return [(Core, "barrier", confirmed)]


@bug(Where.REPLICA, "a leader commits alone")
def leader_commits_alone() -> list[Patch]:
    original = GuardedRaft.tick

    def tick(self: Any) -> None:
        if self.role() == LEADER:
            for node in self.nodes.values():
                self._SyncObj__raftMatchIndex[node] = self._journal.last_index
        original(self)

    return [(GuardedRaft, "tick", tick)]


@bug(Where.REPLICA, "appended frames of the journal are not synced")
def journal_not_synced() -> list[Patch]:
    original = Journal.sync

    class Unsynced:
        def __init__(self, handle: Any) -> None:
            self._handle = handle

        def write(self, data: bytes) -> None:
            self._handle.write(data)

        def sync(self) -> None:
            """The bug."""

        def close(self) -> None:
            self._handle.close()

    def sync(self: Any) -> None:
        handle = self._handle
        if handle is not None and not isinstance(handle, Unsynced):
            self._handle = Unsynced(handle)
        original(self)

    return [(Journal, "sync", sync)]
