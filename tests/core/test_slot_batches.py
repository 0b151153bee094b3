"""What one batch does to the tables, rights and fences of several actor types, each promise by itself."""

from __future__ import annotations

from callboard.core.commands import (
    CommitNativeBatch,
    ConfirmClear,
    CreateNativeNamespace,
    RaiseGeneration,
    Removal,
    SlotSpan,
)
from callboard.core.records import Answer, AnswerCode
from callboard.core.slot_records import NOBODY, HostMark, NativeHostRecord
from callboard.core.versions import Policy, Version
from tests.core.leader_driver import NAME, SETTINGS, SLOT_BITS, LeaderDriver, record

SLOTS = 1 << SLOT_BITS


class Batches(LeaderDriver):
    """Its leader does nothing; batches are written as they come."""

    def batch(self, *upserts: NativeHostRecord, removed: str = "", marks: tuple[HostMark, ...] = ()) -> Answer:
        removals = (Removal(removed, self.namespace.members[removed].incarnation),) if removed else ()
        return self.apply(CommitNativeBatch(self.state.epoch, NAME, upserts, removals, marks))

    def incarnation(self, name: str) -> int:
        return self.namespace.members[name].incarnation

    def owners(self, kind: str = "cart") -> tuple[int, ...]:
        return self.namespace.tables[kind].owners


def test_who_leaves_moves_only_its_own_slots_though_shares_change() -> None:
    log = Batches()
    log.batch(*(record(name) for name in "abc"))
    log.batch(*(record(name, weight=300) for name in "def"), record("g"))
    log.batch(record("h"), marks=(HostMark("h", cordoned=True),))
    before, gone = log.owners(), log.incarnation("c")
    log.batch(removed="c")
    moved = [slot for slot in range(SLOTS) if log.owners()[slot] != before[slot]]
    assert moved == [slot for slot in range(SLOTS) if before[slot] == gone]


def test_who_becomes_stronger_gets_its_share_rounded_down() -> None:
    log = Batches()
    log.batch(*(record(name) for name in "abcdefgh"))
    log.batch(record("i"))
    assert log.owners().count(log.incarnation("i")) == 1
    log.batch(record("i", weight=200))
    assert log.owners().count(log.incarnation("i")) == SLOTS * 200 // 1000


def test_who_may_receive_again_gets_its_share_rounded_down() -> None:
    log = Batches()
    log.batch(*(record(name) for name in "abcdefgh"))
    log.batch(record("i"), marks=(HostMark("i", cordoned=True),))
    assert log.incarnation("i") not in log.owners()
    log.batch(marks=(HostMark("i"),))
    assert log.owners().count(log.incarnation("i")) == SLOTS // 9


def test_a_slot_that_nobody_ever_owned_has_no_fence() -> None:
    log = Batches()
    log.batch(record("a"), marks=(HostMark("a", cordoned=True),))
    assert set(log.owners()) == {NOBODY}
    assert set(log.namespace.rights["cart"].fences) == {0}


def test_a_change_that_moves_nothing_raises_no_fence() -> None:
    log = Batches()
    log.batch(record("a"), record("b"))
    before = log.namespace
    assert log.batch(marks=(HostMark("a", cordoned=True),)).succeeded
    assert log.namespace.marks
    assert log.owners() == before.tables["cart"].owners
    assert (log.namespace.fence, log.namespace.rights) == (before.fence, before.rights)


def test_fences_rise_also_if_only_some_types_move() -> None:
    log = Batches()
    log.batch(record("a", "cart"), record("b", "user"))
    for name in "cde":
        before = log.namespace
        log.batch(record(name, "cart"))
        fences = log.namespace.rights["cart"].fences
        assert max(fences) == log.namespace.fence > before.fence
        assert log.namespace.rights["user"] == before.rights["user"]


def test_fences_are_in_the_generation_in_which_the_namespace_began() -> None:
    log = Batches()
    log.apply(RaiseGeneration(3))
    assert log.apply(CreateNativeNamespace("late", Policy.EXCLUSIVE, SLOT_BITS, SETTINGS)).succeeded
    assert log.apply(CommitNativeBatch(log.state.epoch, "late", (record("a"),))).succeeded
    assert set(log.state.native["late"].rights["cart"].fences) == {Version(3, 1).wire}


def span(log: Batches, kind: str, slot: int, behind: int = 0) -> SlotSpan:
    return SlotSpan(kind, slot, 1, log.namespace.tables[kind].since[slot] - behind)


def test_of_a_confirmation_each_type_takes_what_is_still_so() -> None:
    log = Batches()
    log.batch(record("a", "cart", "user"))
    log.batch(record("b", "cart"), record("c", "user"))
    slots = {kind: min(log.namespace.rights[kind].pending) for kind in ("cart", "user")}
    spans = (span(log, "cart", slots["cart"]), span(log, "user", slots["user"], behind=1))
    assert log.apply(ConfirmClear(NAME, spans)).code is AnswerCode.OK
    assert slots["cart"] not in log.namespace.rights["cart"].pending
    assert slots["user"] in log.namespace.rights["user"].pending


def test_types_that_share_their_rights_go_on_sharing_them_after_a_confirmation() -> None:
    log = Batches()
    log.batch(record("a", "cart", "user"))
    log.batch(record("b", "cart", "user"))
    assert log.namespace.rights["cart"] is log.namespace.rights["user"]
    slot = min(log.namespace.rights["cart"].pending)
    log.apply(ConfirmClear(NAME, (span(log, "cart", slot), span(log, "user", slot))))
    assert slot not in log.namespace.rights["cart"].pending
    assert log.namespace.rights["cart"] is log.namespace.rights["user"]
