"""Apply of native namespaces with one seeded bug each, by the properties of which one has to catch it."""

# ruff: noqa: ARG005

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import pytest
from attrs import evolve

from callboard.core import slot_assignment, slot_membership, slot_snapshot
from callboard.core.commands import Bury, ConfirmClear, RaiseFences
from callboard.core.records import Answer
from callboard.core.slot_assignment import Candidate
from callboard.core.slot_records import NativeNamespace, SlotRights, SlotTable

Prepare = Callable[[pytest.MonkeyPatch], None]
MUTANTS: list[tuple[str, Prepare, tuple[str, ...]]] = []


def mutant(*killed_by: str) -> Callable[[Prepare], Prepare]:
    """Register a mutant under its function's name."""

    def register(prepare: Prepare) -> Prepare:
        MUTANTS.append((prepare.__name__, prepare, killed_by))
        return prepare

    return register


# -- assignment ------------------------------------------------------------------------------------------


@mutant("Balance")
def the_first_host_gets_everything(patched: pytest.MonkeyPatch) -> None:
    def hand_out(owners: list[int], free: Sequence[int], receivers: Sequence[Candidate], *_: object) -> None:
        for slot in free:
            owners[slot] = receivers[0].incarnation if receivers else 0

    patched.setattr(slot_assignment, "_hand_out", hand_out)


@mutant("Balance")
def weights_are_ignored(patched: pytest.MonkeyPatch) -> None:
    original = slot_assignment.assign

    def assign(before: SlotTable, candidates: Sequence[Candidate], *rest: Any, **named: Any) -> SlotTable:
        return original(before, [evolve(each, weight=100) for each in candidates], *rest, **named)

    patched.setattr(slot_membership, "assign", assign)


@mutant("Balance", "MinimalMovement")
def nobody_makes_room(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(slot_assignment, "_make_room", lambda *_: None)


@mutant("EverySlotHasAnOwner")
def shares_are_rounded_down(patched: pytest.MonkeyPatch) -> None:
    original = slot_assignment._caps

    def caps(candidates: Any, receivers: Sequence[Candidate], counts: Any, slots: int) -> dict[int, int]:
        found = original(candidates, receivers, counts, slots)
        return {key: cap - 1 if len(receivers) > 2 and cap else cap for key, cap in found.items()}

    patched.setattr(slot_assignment, "_caps", caps)


@mutant("MinimalMovement")
def everything_is_dealt_anew(patched: pytest.MonkeyPatch) -> None:
    original = slot_assignment._give_up

    def give_up(owners: list[int], keeps: Mapping[int, int], counts: Mapping[int, int]) -> list[int]:
        return original(owners, dict.fromkeys(keeps, 0), counts)

    def assign(before: SlotTable, candidates: Sequence[Candidate], *rest: Any, **named: Any) -> SlotTable:
        return deal(SlotTable((0,) * len(before.owners), before.since), candidates, *rest, **named)

    deal = slot_assignment.assign
    patched.setattr(slot_assignment, "_give_up", give_up)
    patched.setattr(slot_membership, "assign", assign)


@mutant("MinimalMovement")
def restarted_hosts_start_with_nothing(patched: pytest.MonkeyPatch) -> None:
    original = slot_assignment.assign

    def assign(before: Any, candidates: Any, version: int, successors: Any, *, joined: bool) -> SlotTable:
        return original(before, candidates, version, {}, joined=joined)

    patched.setattr(slot_membership, "assign", assign)


@mutant("Marks")
def cordoned_hosts_receive(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(Candidate, "receives", property(lambda self: not self.draining))


@mutant("Marks")
def draining_hosts_keep_what_they_have(patched: pytest.MonkeyPatch) -> None:
    original = slot_assignment._caps

    def caps(candidates: Sequence[Candidate], receivers: Any, counts: Mapping[int, int], slots: int) -> dict[int, int]:
        found = original(candidates, receivers, counts, slots)
        return {**found, **{each.incarnation: counts.get(each.incarnation, 0) for each in candidates if each.draining}}

    patched.setattr(slot_assignment, "_caps", caps)


# -- rights ----------------------------------------------------------------------------------------------


@mutant("S2")
def since_is_kept(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(slot_assignment, "_table", lambda before, owners, version: SlotTable(tuple(owners), before.since))


@mutant("S2")
def since_of_every_slot_rises(patched: pytest.MonkeyPatch) -> None:
    def table(before: SlotTable, owners: list[int], version: int) -> SlotTable:
        return before if tuple(owners) == before.owners else SlotTable(tuple(owners), (version,) * len(owners))

    patched.setattr(slot_assignment, "_table", table)


@mutant("S2")
def restarted_hosts_go_on_with_old_rights(patched: pytest.MonkeyPatch) -> None:
    original = slot_assignment._table

    def assign(before: SlotTable, candidates: Any, version: int, successors: Any, *, joined: bool) -> SlotTable:
        heirs = tuple(successors.get(owner, owner) for owner in before.owners)
        return deal(SlotTable(heirs, before.since), candidates, version, {}, joined=joined)

    deal = slot_assignment.assign
    patched.setattr(slot_assignment, "_table", original)
    patched.setattr(slot_membership, "assign", assign)


def _with_pending(
    patched: pytest.MonkeyPatch, of: Callable[[SlotTable, int, tuple[int, ...]], tuple[int, ...]]
) -> None:
    original = slot_membership._moved

    def moved(
        namespace: NativeNamespace, before: SlotTable, after: SlotTable, rights: SlotRights, fence: int
    ) -> SlotRights:
        found = original(namespace, before, after, rights, fence)
        pending = {
            slot: kept
            for slot, givers in found.pending.items()
            if (kept := givers if before.owners[slot] == after.owners[slot] else of(before, slot, givers))
        }
        return evolve(found, pending=pending)

    patched.setattr(slot_membership, "_moved", moved)


@mutant("S2")
def pending_is_replaced(patched: pytest.MonkeyPatch) -> None:
    _with_pending(patched, lambda before, slot, givers: (before.owners[slot],) if before.owners[slot] else ())


@mutant("S2")
def the_last_owner_is_not_waited_for(patched: pytest.MonkeyPatch) -> None:
    _with_pending(patched, lambda before, slot, givers: tuple(each for each in givers if each != before.owners[slot]))


@mutant("FenceMonotonic", "S6")
def fences_do_not_rise(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(slot_membership, "_next_fence", lambda namespace, version: max(1, namespace.fence))


@mutant("S3")
def the_removed_are_forgotten(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(slot_membership, "_buried_later", lambda namespace, removed, version, reason: namespace.tombstones)


@mutant("GenerationExact")
def moves_without_a_version(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(slot_membership, "_tables_differ", lambda before, after: False)


@mutant("S4")
def confirmations_of_other_versions_count(patched: pytest.MonkeyPatch) -> None:
    original = slot_membership.confirm_clear

    def confirm(namespace: NativeNamespace, command: ConfirmClear) -> tuple[NativeNamespace, Answer]:
        spans = tuple(
            evolve(span, first=slot, count=1, since=namespace.tables[span.actor_type].since[slot])
            for span in command.spans
            for slot in range(span.first, span.first + span.count)
        )
        return original(namespace, evolve(command, spans=spans))

    patched.setattr(slot_membership, "confirm_clear", confirm)


@mutant("S5")
def members_can_be_buried(patched: pytest.MonkeyPatch) -> None:
    original = slot_membership.bury

    def bury(namespace: NativeNamespace, command: Bury) -> tuple[NativeNamespace, Answer]:
        found, answer = original(namespace, command)
        gone, rights = set(command.incarnations), {}
        for kind, kept in found.rights.items():
            left = {slot: tuple(each for each in waits if each not in gone) for slot, waits in kept.pending.items()}
            rights[kind] = evolve(kept, pending={slot: waits for slot, waits in left.items() if waits})
        return evolve(found, rights=rights), answer

    patched.setattr(slot_membership, "bury", bury)


@mutant("S6")
def fences_rise_for_whoever_asks(patched: pytest.MonkeyPatch) -> None:
    original = slot_membership.raise_fences

    def raise_fences(namespace: NativeNamespace, command: RaiseFences) -> tuple[NativeNamespace, Answer]:
        spans = tuple(
            evolve(span, fence=namespace.rights[span.actor_type].fences[span.first]) for span in command.spans
        )
        return original(namespace, evolve(command, spans=spans))

    patched.setattr(slot_membership, "raise_fences", raise_fences)


# -- snapshots -------------------------------------------------------------------------------------------


@mutant("ReplicaAgreement")
def snapshots_forget_who_is_waited_for(patched: pytest.MonkeyPatch) -> None:
    original = slot_snapshot._stored_table
    patched.setattr(slot_snapshot, "_stored_table", lambda table, rights: evolve(original(table, rights), pending={}))


@mutant("ReplicaAgreement")
def slots_are_dealt_by_what_no_snapshot_holds(patched: pytest.MonkeyPatch) -> None:
    def hand_out(owners: list[int], free: list[int], *rest: Any) -> None:
        original(owners, free[:: 1 if next(calls) % 3 else -1], *rest)

    calls = count()
    original = slot_assignment._hand_out
    patched.setattr(slot_assignment, "_hand_out", hand_out)
