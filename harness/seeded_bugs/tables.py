"""Bugs of slot assignment and of tables on the wire."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from attrs import evolve

from callboard.core import native_host, slot_assignment, slot_membership, table_delta, table_feed
from callboard.core.membership import KNOWN_FEATURE_LEVEL
from callboard.core.records import Answer, AnswerCode
from callboard.core.slot_assignment import Candidate
from callboard.core.slot_records import SlotTable
from callboard.core.table_delta import HostEntry, TableDelta, TableView
from callboard.core.table_feed import TableFeed
from harness.seeded_bugs.registry import Bug, Registrar

BUGS: list[Bug] = []
bug = Registrar(BUGS)


def _assign_with(patched: pytest.MonkeyPatch, **changed: Any) -> None:
    original = slot_assignment.assign

    def assign(
        before: SlotTable, candidates: Sequence[Candidate], version: int, successors: Mapping[int, int], *, joined: bool
    ) -> SlotTable:
        found = {"before": before, "candidates": candidates, "version": version, "successors": successors}
        return original(**{**found, "joined": joined, **changed})

    patched.setattr(slot_membership, "assign", assign)


@bug("MinimalMovement")
def leaves_deal_anew(patched: pytest.MonkeyPatch) -> None:
    """When somebody leaves, slots move between hosts that stay."""
    original = slot_assignment.assign

    def assign(
        before: SlotTable, candidates: Sequence[Candidate], version: int, successors: Mapping[int, int], *, joined: bool
    ) -> SlotTable:
        gone = set(before.owners) - {host.incarnation for host in candidates} - {0}
        if gone and candidates and not joined:
            before = SlotTable((0,) * len(before.owners), before.since)
        return original(before, candidates, version, successors, joined=joined)

    patched.setattr(slot_membership, "assign", assign)


@bug("Balance")
def joins_get_only_what_is_free(patched: pytest.MonkeyPatch) -> None:
    """A newcomer takes nothing from the loaded."""
    _assign_with(patched, joined=False)


@bug("OwnerAgreement", origin="Akka.NET #6973: members are ordered differently at a handover")
def ties_go_to_the_younger(patched: pytest.MonkeyPatch) -> None:
    """Hosts that are equally loaded are ordered the wrong way round."""
    original = slot_assignment._hand_out

    def hand_out(owners: Any, free: Any, receivers: Sequence[Candidate], caps: Any, keeps: Any) -> None:
        """With negative numbers in place of the incarnations, and back."""
        turned = [evolve(host, incarnation=-host.incarnation) for host in receivers]
        found = list(owners)
        original(found, free, turned, {-k: v for k, v in caps.items()}, {-k: v for k, v in keeps.items()})
        owners[:] = [abs(owner) for owner in found]

    patched.setattr(slot_assignment, "_hand_out", hand_out)


@bug("MinimalMovement", "OwnerAgreement", origin="Akka #22289: everything is placed anew after a restart")
def restarts_deal_anew(patched: pytest.MonkeyPatch) -> None:
    """A host that restarts under its name does not get its slots back."""
    _assign_with(patched, successors={})


@bug("MinimalMovement", "OwnerAgreement")
def who_is_removed_has_no_successor(patched: pytest.MonkeyPatch) -> None:
    """A host whose removal and return are in one batch does not get its slots back."""
    patched.setattr(slot_membership, "SUCCESSION_LEVEL", KNOWN_FEATURE_LEVEL + 1)


@bug("Balance")
def draining_hosts_keep_everything(patched: pytest.MonkeyPatch) -> None:
    """A host that is to give up its slots keeps them."""
    original = slot_assignment._caps

    def caps(candidates: Any, receivers: Any, counts: Mapping[int, int], slots: int) -> dict[int, int]:
        kept = {host.incarnation: counts[host.incarnation] for host in candidates if host.draining}
        return {**original(candidates, receivers, counts, slots), **kept}

    patched.setattr(slot_assignment, "_caps", caps)


@bug("TableAgreement", "SingleActivation")
def since_is_not_touched(patched: pytest.MonkeyPatch) -> None:
    """The version of the last change of owner stays the first one."""
    original = slot_assignment._table

    def table(before: SlotTable, owners: list[int], version: int) -> SlotTable:
        after = original(before, owners, version)
        since = tuple(old or new for old, new in zip(before.since, after.since, strict=True))
        return after if after is before else SlotTable(after.owners, since)

    patched.setattr(slot_assignment, "_table", table)


@bug("GenerationExact", "TableAgreement")
def new_addresses_keep_the_version(patched: pytest.MonkeyPatch) -> None:
    """A member whose record changed does not raise the version."""
    original = slot_membership.commit_batch

    def commit_batch(state: Any, command: Any) -> Any:
        before = state.native[command.namespace]
        after, answer = original(state, command)
        namespace = after.native[command.namespace]
        same = {k: m.incarnation for k, m in before.members.items()} == {
            k: m.incarnation for k, m in namespace.members.items()
        }
        if same and namespace.tables == before.tables and namespace.version != before.version:
            kept = evolve(namespace, version=before.version)
            after = evolve(after, native={**after.native, command.namespace: kept})
            answer = evolve(answer, number=before.version.wire)
        return after, answer

    patched.setattr(slot_membership, "commit_batch", commit_batch)


@bug("OneStore")
def any_store_may_join(patched: pytest.MonkeyPatch) -> None:
    """A host that keeps state in another store becomes a member all the same."""
    patched.setattr(slot_membership, "store_problem", lambda *_: None)


@bug("OneStore")
def stores_of_the_removed_count(patched: pytest.MonkeyPatch) -> None:
    """A batch is refused for the store of a member that it removes."""
    original = slot_membership.commit_batch

    def commit_batch(state: Any, command: Any) -> Any:
        namespace = state.native[command.namespace]
        for host in command.upserts:
            problem = slot_membership.store_problem(namespace.policy, namespace.members, host)
            if problem is not None:
                return state, Answer(AnswerCode.CONFLICT, detail=problem)
        return original(state, command)

    patched.setattr(slot_membership, "commit_batch", commit_batch)


@bug("TableAgreement", "Convergence")
def hosts_that_left_stay_in_the_table(patched: pytest.MonkeyPatch) -> None:
    """A delta does not say who is gone, and its digest is that of what it leads to."""
    original = table_delta.diff

    def diff(before: TableView | None, after: TableView) -> TableDelta:
        delta = evolve(original(before, after), hosts_gone=())
        hosts: dict[int, HostEntry] = {**(before.hosts if before is not None else {}), **after.hosts}
        wrong = table_delta.make_view(after.version, after.slot_bits, hosts, dict(after.tables))
        return evolve(delta, digest=wrong.digest)

    patched.setattr(table_feed, "diff", diff)


@bug("TableMonotonic", origin="etcd #15271: a watcher travels back in time")
def older_snapshots_are_installed(patched: pytest.MonkeyPatch) -> None:
    """A snapshot that was overtaken replaces a newer table."""
    original = table_delta.patch

    def patch(view: TableView, delta: TableDelta) -> TableView:
        return original(table_delta.empty_view(view.slot_bits) if delta.is_snapshot else view, delta)

    for module in _those_who_patch():
        patched.setattr(module, "patch", patch)


@bug("TableAgreement")
def digests_are_not_compared(patched: pytest.MonkeyPatch) -> None:
    """A damaged delta is applied all the same."""
    original = table_delta.patch

    def patch(view: TableView, delta: TableDelta) -> TableView:
        try:
            return original(view, delta)
        except table_delta.DeltaError:
            if delta.from_version not in {0, view.version} or delta.to_version <= view.version:
                raise
            return original(view, evolve(delta, digest=_result_digest(view, delta)))

    for module in _those_who_patch():
        patched.setattr(module, "patch", patch)


def _result_digest(view: TableView, delta: TableDelta) -> bytes:
    origin = table_delta.empty_view(delta.slot_bits) if delta.is_snapshot else view
    hosts = {number: entry for number, entry in origin.hosts.items() if number not in delta.hosts_gone}
    hosts |= {entry.incarnation: entry for entry in delta.hosts}
    tables = {kind: table for kind, table in origin.tables.items() if kind not in delta.types_gone}
    for change in delta.changes:
        for kind in change.actor_types:
            old = tables.get(kind, table_delta._blank(delta.slot_bits))
            tables[kind] = table_delta._patch_table(old, change.ranges)
    return table_delta.make_view(delta.to_version, delta.slot_bits, hosts, tables).digest


def _those_who_patch() -> list[Any]:
    """Modules that imported `patch` by its name."""
    names = ("tests.model.table_machine",)
    return [native_host, *(sys.modules[name] for name in names if name in sys.modules)]


@bug("Convergence", origin="etcd #17529: events are lost on a slow stream")
def gaps_are_skipped(patched: pytest.MonkeyPatch) -> None:
    """Who missed more changes than are kept gets only those that are."""
    original = TableFeed.path

    def path(self: TableFeed, version: int, digest: bytes | None = None) -> list[tuple[int, int]]:
        found = original(self, version, digest)
        if found and found[0][0] == 0 and version and self._steps:
            return [(step.from_version, step.to_version) for _, step in self._steps if step.from_version > version]
        return found

    patched.setattr(TableFeed, "path", path)
