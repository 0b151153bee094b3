"""Every bound of the replicated state, at the bound and one beyond it; and the words of each refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from callboard.core import membership, slot_membership
from callboard.core.commands import (
    BeginRestore,
    Bury,
    Command,
    CommitBatch,
    CommitNativeBatch,
    ConfirmClear,
    ConfirmEpoch,
    CreateNamespace,
    CreateNativeNamespace,
    DeleteNamespace,
    FenceSpan,
    OpenSession,
    RaiseFeatureLevel,
    RaiseFences,
    RaiseGeneration,
    Removal,
    RepeatRound,
    Request,
    SlotSpan,
    TakeOffice,
)
from callboard.core.membership import KNOWN_FEATURE_LEVEL, apply, host_problem
from callboard.core.records import Answer, AnswerCode, HostRecord, ReplicatedState
from callboard.core.slot_membership import native_host_problem
from callboard.core.slot_records import HandoffSettings, HostMark, NativeHostRecord
from callboard.core.versions import MAX_GENERATION, Policy, Version

NAME_MAX = 255
SLOTS = 16


class Log:
    """A state with namespaces `dapr` (barrier) and `shop` (exclusive), led in epoch 1."""

    def __init__(self) -> None:
        self.state = ReplicatedState()
        self.add(TakeOffice("r1", "n"))
        assert self.add(RaiseFeatureLevel(1, KNOWN_FEATURE_LEVEL)).code is AnswerCode.OK
        assert self.add(CreateNamespace("dapr", Policy.BARRIER)).code is AnswerCode.OK
        assert self.add(CreateNativeNamespace("shop", Policy.EXCLUSIVE, 4, HandoffSettings())).code is AnswerCode.OK

    def add(self, command: Command) -> Answer:
        self.state, answer = apply(self.state, self.state.applied_index + 1, Request(command))
        return answer

    def refused(self, command: Command, code: AnswerCode, words: str) -> None:
        """The command is refused with these words and changes nothing but the count of entries."""
        before = self.state
        answer = self.add(command)
        assert (answer.code, words in answer.detail) == (code, True), answer
        index, entries = before.applied_index, before.entries_applied
        assert evolve(self.state, applied_index=index, entries_applied=entries) == before


def sidecar(**changes: Any) -> HostRecord:
    return evolve(HostRecord("h", "app", ("T",)), **changes)


def native(**changes: Any) -> NativeHostRecord:
    return evolve(NativeHostRecord("h", "h:1", ("T",), "p"), **changes)


def kinds(count: int) -> tuple[str, ...]:
    return tuple(f"{number:06}" for number in range(count))


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        (sidecar(name="h" * NAME_MAX), sidecar(name="h" * (NAME_MAX + 1)), "host name must have 1 to 255"),
        (sidecar(name="h"), sidecar(name=""), "not 0"),
        (sidecar(app_id="a" * NAME_MAX), sidecar(app_id="a" * (NAME_MAX + 1)), "application id of host h has 256"),
        (sidecar(actor_types=("T" * NAME_MAX,)), sidecar(actor_types=("T" * (NAME_MAX + 1),)), "has 256 characters"),
        (sidecar(actor_types=("T",)), sidecar(actor_types=("",)), "has 0 characters"),
        (sidecar(actor_types=kinds(1000)), sidecar(actor_types=kinds(1001)), "1001 actor types; the limit is 1000"),
        (sidecar(actor_types=("A", "B")), sidecar(actor_types=("B", "A")), "not sorted and distinct"),
    ],
)
def test_hosts_behind_sidecars(good: HostRecord, bad: HostRecord, words: str) -> None:
    assert host_problem(good) is None
    assert words in (host_problem(bad) or "")


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        (native(name="h" * NAME_MAX), native(name="h" * (NAME_MAX + 1)), "host name must have 1 to 255"),
        (native(), native(name=""), "host name must"),
        (native(address="a" * NAME_MAX), native(address="a" * (NAME_MAX + 1)), "host address must"),
        (native(address="a"), native(address=""), "host address must"),
        (native(process="p" * NAME_MAX), native(process="p" * (NAME_MAX + 1)), "host process token must"),
        (native(process="p"), native(process=""), "host process token must"),
        (native(), native(name=slot_membership.FORMER_LIFE), "is reserved"),
        (native(), native(actor_types=()), "has no actor types"),
        (native(actor_types=kinds(1000)), native(actor_types=kinds(1001)), "1001 actor types; the limit is 1000"),
        (native(actor_types=("T" * NAME_MAX,)), native(actor_types=("T" * (NAME_MAX + 1),)), "has 256 characters"),
        (native(actor_types=("T",)), native(actor_types=("",)), "has 0 characters"),
        (native(actor_types=("A", "B")), native(actor_types=("A", "A")), "not sorted and distinct"),
        (
            native(labels=tuple((f"{n:02}", "") for n in range(32))),
            native(labels=tuple((f"{n:02}", "") for n in range(33))),
            "at most 32",
        ),
        (native(labels=(("a", "1"), ("b", "0"))), native(labels=(("b", "0"), ("a", "1"))), "must be sorted"),
        (native(weight=1), native(weight=0), "weight 0 of host h is not between 1 and 10000"),
        (native(weight=10_000), native(weight=10_001), "weight 10001"),
    ],
)
def test_native_hosts(good: NativeHostRecord, bad: NativeHostRecord, words: str) -> None:
    assert native_host_problem(good) is None
    assert words in (native_host_problem(bad) or "")


@pytest.mark.parametrize(
    ("problem", "host", "fixed"),
    [
        (host_problem, HostRecord("h", "app", ("T",)), 64 + (1 + 3) + (3 + 3) + 3),
        (native_host_problem, NativeHostRecord("h", "h:1", ("T",), "p"), 64 + (1 + 3) + (3 + 3) + (1 + 3)),
    ],
)
def test_the_size_of_a_record(problem: Callable[[Any], str | None], host: Any, fixed: int) -> None:
    limit = 32 * 1024
    left = limit - fixed
    many = [f"{number:0252}" for number in range(left // 255)]
    left -= len(many) * 255
    fitting = (*many, "z" * (left - 3))
    assert problem(evolve(host, actor_types=fitting)) is None
    beyond = (*many, "z" * (left - 2))
    assert f"{limit + 1} bytes; the limit is {limit}" in (problem(evolve(host, actor_types=beyond)) or "")


def test_labels_count_towards_the_size_of_a_native_host() -> None:
    many = tuple(f"{number:0252}" for number in range(127))
    assert native_host_problem(native(actor_types=many)) is None
    assert "the limit is 32768" in (native_host_problem(native(actor_types=many, labels=(("k", "v" * 400),))) or "")


# ---- namespaces


@pytest.mark.parametrize("name", ["", "n" * (NAME_MAX + 1)])
def test_names_of_namespaces(name: str) -> None:
    log = Log()
    log.refused(CreateNamespace(name, Policy.BARRIER), AnswerCode.INVALID, "must have 1 to 255 characters")
    command = CreateNativeNamespace(name, Policy.EXCLUSIVE, 4, HandoffSettings())
    log.refused(command, AnswerCode.INVALID, "must have 1 to 255 characters")
    assert log.add(CreateNamespace("n" * NAME_MAX, Policy.BARRIER)).code is AnswerCode.OK
    assert log.add(evolve(command, namespace="m" * NAME_MAX)).code is AnswerCode.OK


def test_namespaces_of_hosts_and_of_sidecars_do_not_share_names() -> None:
    log = Log()
    native_dapr = CreateNativeNamespace("dapr", Policy.EXCLUSIVE, 4, HandoffSettings())
    log.refused(native_dapr, AnswerCode.CONFLICT, "namespace dapr exists with policy barrier")
    log.refused(CreateNamespace("shop", Policy.BARRIER), AnswerCode.CONFLICT, "exists with policy exclusive")
    assert log.add(CreateNamespace("dapr", Policy.BARRIER)).code is AnswerCode.UNCHANGED
    log.refused(evolve(native_dapr, namespace="x", policy=Policy.BARRIER), AnswerCode.INVALID, "eventual or exclusive")
    log.refused(CreateNamespace("x", Policy.EVENTUAL), AnswerCode.UNSUPPORTED, "policy eventual needs a later")


@pytest.mark.parametrize(("bits", "fits"), [(3, False), (4, True), (16, True), (17, False)])
def test_slot_bits(bits: int, fits: bool) -> None:
    log = Log()
    answer = log.add(CreateNativeNamespace("x", Policy.EXCLUSIVE, bits, HandoffSettings()))
    assert answer.succeeded is fits
    if not fits:
        assert f"slot bits {bits} are not between 4 and 16" in answer.detail


def test_native_namespaces_need_their_feature_level() -> None:
    state, _ = apply(ReplicatedState(), 1, Request(TakeOffice("r1", "n")))
    command = CreateNativeNamespace("x", Policy.EXCLUSIVE, 4, HandoffSettings())
    after, answer = apply(state, 2, Request(command))
    assert answer.code is AnswerCode.UNSUPPORTED
    assert "need feature level 2, not 1" in answer.detail
    assert not after.native
    at_level, _ = apply(after, 3, Request(RaiseFeatureLevel(1, 2)))
    assert apply(at_level, 4, Request(command))[1].code is AnswerCode.OK


def test_all_names_count_towards_the_limit_of_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "NAMESPACES_MAX", 4)
    log = Log()
    assert log.add(CreateNamespace("a", Policy.BARRIER)).succeeded
    assert log.add(DeleteNamespace("a")).succeeded
    assert log.add(CreateNativeNamespace("b", Policy.EVENTUAL, 4, HandoffSettings())).succeeded
    assert log.add(DeleteNamespace("b")).succeeded
    log.refused(CreateNamespace("c", Policy.BARRIER), AnswerCode.LIMIT, "more than 4 namespaces")


def test_a_namespace_with_members_or_tombstones_is_not_deleted() -> None:
    log = Log()
    log.add(CommitBatch(1, "dapr", (sidecar(),)))
    log.refused(DeleteNamespace("dapr"), AnswerCode.CONFLICT, "still has 1 members")
    log.add(CommitNativeBatch(1, "shop", (native(),)))
    log.refused(DeleteNamespace("shop"), AnswerCode.CONFLICT, "still has 1 members")
    incarnation = log.state.native["shop"].members["h"].incarnation
    log.add(CommitNativeBatch(1, "shop", (), (Removal("h", incarnation),)))
    log.refused(DeleteNamespace("shop"), AnswerCode.CONFLICT, "still has 1 tombstones")
    version = log.state.native["shop"].version
    fence = log.state.native["shop"].fence
    assert fence > 0
    log.add(Bury("shop", (incarnation,)))
    assert log.add(DeleteNamespace("shop")).code is AnswerCode.OK
    assert log.add(CreateNativeNamespace("shop", Policy.EXCLUSIVE, 4, HandoffSettings())).number == version.wire
    assert log.state.native["shop"].fence == fence
    log.refused(DeleteNamespace("nothing"), AnswerCode.NOT_FOUND, "no namespace nothing")


def test_a_name_keeps_its_version_when_it_changes_between_hosts_and_sidecars() -> None:
    log = Log()
    log.add(CommitBatch(1, "dapr", (sidecar(),)))
    member = log.state.namespaces["dapr"].members["h"]
    log.add(CommitBatch(1, "dapr", (), (Removal("h", member.incarnation),)))
    version = log.state.namespaces["dapr"].version
    assert log.add(DeleteNamespace("dapr")).succeeded
    assert log.add(CreateNativeNamespace("dapr", Policy.EVENTUAL, 4, HandoffSettings())).number == version.wire
    assert log.add(DeleteNamespace("dapr")).succeeded
    assert log.add(CreateNamespace("dapr", Policy.BARRIER)).number == version.wire == Version(0, 2).wire


# ---- epochs, generations, restores, levels


def test_an_epoch_begins_once_for_each_term() -> None:
    log = Log()
    assert log.add(TakeOffice("r1", "n")) == Answer(AnswerCode.UNCHANGED, 1)
    assert log.add(TakeOffice("r1", "m")) == Answer(AnswerCode.OK, 2)
    assert log.add(ConfirmEpoch(2)) == Answer(AnswerCode.OK, 2)
    log.refused(ConfirmEpoch(1), AnswerCode.STALE_EPOCH, "epoch 1 is over; the current one is 2")
    for command in (
        CommitBatch(1, "dapr", (sidecar(),)),
        CommitNativeBatch(1, "shop", (native(),)),
        RepeatRound(1, "dapr"),
        RaiseFeatureLevel(1, 2),
    ):
        log.refused(command, AnswerCode.STALE_EPOCH, "epoch 1 is over")


def test_commands_for_namespaces_that_do_not_exist() -> None:
    log = Log()
    for command in (CommitBatch(1, "no", (sidecar(),)), RepeatRound(1, "no")):
        log.refused(command, AnswerCode.NOT_FOUND, "no namespace no")
    for native_command in (CommitNativeBatch(1, "no"), ConfirmClear("no", ()), Bury("no", ()), RaiseFences("no", ())):
        log.refused(native_command, AnswerCode.NOT_FOUND, "no native namespace no")


def test_a_repeated_round_is_one_version() -> None:
    log = Log()
    assert log.add(RepeatRound(1, "dapr")) == Answer(AnswerCode.OK, Version(0, 1).wire)
    assert log.state.namespaces["dapr"].version == Version(0, 1)


@pytest.mark.parametrize("generation", [1, 4, 5, MAX_GENERATION + 1])
def test_generations_only_rise(generation: int) -> None:
    log = Log()
    assert log.add(RaiseGeneration(5)) == Answer(AnswerCode.OK, 5)
    log.refused(RaiseGeneration(generation), AnswerCode.INVALID, f"generation {generation} is not above 5")


def test_the_last_generation_may_be_used() -> None:
    log = Log()
    assert log.add(RaiseGeneration(MAX_GENERATION)).code is AnswerCode.OK
    assert log.state.namespaces["dapr"].version == Version(MAX_GENERATION, 1)
    assert log.state.native["shop"].version == Version(MAX_GENERATION, 1)
    assert log.state.native["shop"].fence >= Version(MAX_GENERATION, 1).wire


def empty(generation: int = 3) -> ReplicatedState:
    return ReplicatedState(epoch=4, epoch_holder="r/1", generation=generation, next_incarnation=10)


def applied(state: ReplicatedState, command: Command) -> tuple[ReplicatedState, Answer]:
    return apply(state, state.applied_index + 1, Request(command))


def test_a_restore_continues_above_backup_and_cluster() -> None:
    command = BeginRestore(source="backup", generation=8, epoch=6, next_incarnation=20)
    state, answer = applied(empty(), command)
    assert answer == Answer(AnswerCode.OK, 8)
    assert (state.generation, state.epoch, state.epoch_holder, state.next_incarnation) == (8, 7, "", 20)
    again, answer = applied(state, command)
    assert answer == Answer(AnswerCode.UNCHANGED, 8)
    assert again.epoch == 7
    state, _ = applied(empty(), evolve(command, epoch=2, next_incarnation=5))
    assert (state.epoch, state.next_incarnation) == (5, 10)
    _, answer = applied(state, evolve(command, source="another"))
    assert answer.code is AnswerCode.CONFLICT
    assert "this one has backup backup" in answer.detail


@pytest.mark.parametrize(("generation", "fits"), [(3, False), (4, True), (MAX_GENERATION, True), (1 << 32, False)])
def test_the_generation_of_a_restore_is_above_the_cluster(generation: int, fits: bool) -> None:
    state, answer = applied(empty(), BeginRestore("backup", generation, 6, 20))
    assert answer.succeeded is fits
    assert state.restored_from == ("backup" if fits else "")


def test_only_an_empty_cluster_is_restored() -> None:
    log = Log()
    log.refused(BeginRestore("backup", 8, 6, 20), AnswerCode.CONFLICT, "this one has 2 namespaces")
    state, _ = applied(empty(), CreateNamespace("one", Policy.BARRIER))
    _, answer = applied(state, BeginRestore("backup", 8, 6, 20))
    assert "this one has 1 namespaces" in answer.detail


def test_levels_rise_and_never_fall() -> None:
    log = Log()
    assert log.add(RaiseFeatureLevel(1, 1)) == Answer(AnswerCode.UNCHANGED, KNOWN_FEATURE_LEVEL)
    assert log.state.feature_level == KNOWN_FEATURE_LEVEL


# ---- members


def test_the_number_of_members_behind_sidecars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MEMBERS_PER_NAMESPACE_MAX", 2)
    log = Log()
    log.refused(CommitBatch(1, "dapr", tuple(sidecar(name=n) for n in "abc")), AnswerCode.LIMIT, "more than 2 members")
    assert log.add(CommitBatch(1, "dapr", (sidecar(name="a"), sidecar(name="b")))).succeeded


def test_the_numbers_of_a_native_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NATIVE_MEMBERS_MAX", "TOMBSTONES_MAX", "MARKS_MAX", "ACTOR_TYPES_PER_NAMESPACE_MAX"):
        monkeypatch.setattr(slot_membership, name, 2)
    log = Log()
    three = tuple(native(name=name) for name in "abc")
    log.refused(CommitNativeBatch(1, "shop", three), AnswerCode.LIMIT, "more than 2 members")
    marks = tuple(HostMark(name, cordoned=True) for name in "abc")
    log.refused(CommitNativeBatch(1, "shop", marks=marks), AnswerCode.LIMIT, "more than 2 marks")
    many = native(actor_types=("A", "B", "C"))
    log.refused(CommitNativeBatch(1, "shop", (many,)), AnswerCode.LIMIT, "more than 2 actor types")
    assert log.add(CommitNativeBatch(1, "shop", (native(actor_types=("A", "B")),), marks=marks[:2])).succeeded
    for process in ("q", "r"):
        assert log.add(CommitNativeBatch(1, "shop", (native(actor_types=("A",), process=process),))).succeeded
    log.refused(CommitNativeBatch(1, "shop", (native(process="s", actor_types=("A",)),)), AnswerCode.LIMIT, "2 tomb")
    other = native(name="o", actor_types=("C",))
    log.refused(CommitNativeBatch(1, "shop", (other,)), AnswerCode.LIMIT, "more than 2 actor types")


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        (HostMark("m" * NAME_MAX, cordoned=True), HostMark("m" * (NAME_MAX + 1), cordoned=True), "not 256"),
        (HostMark("m", cordoned=True), HostMark("", cordoned=True), "1 to 255 characters, not 0"),
        (HostMark("m", weight=1), HostMark("m", weight=0), "weight 0 of host m"),
        (HostMark("m", weight=10_000), HostMark("m", weight=10_001), "weight 10001 of host m"),
    ],
)
def test_marks(good: HostMark, bad: HostMark, words: str) -> None:
    log = Log()
    log.refused(CommitNativeBatch(1, "shop", marks=(bad,)), AnswerCode.INVALID, words)
    assert log.add(CommitNativeBatch(1, "shop", marks=(good,))).succeeded
    assert log.state.native["shop"].marks == {good.name: good}
    log.add(CommitNativeBatch(1, "shop", marks=(HostMark(good.name),)))
    assert not log.state.native["shop"].marks, "a mark that says nothing is not kept"


def test_reasons_and_hosts_of_a_batch() -> None:
    log = Log()
    batch = CommitNativeBatch(1, "shop", (native(),), reason="r" * 200)
    log.refused(evolve(batch, reason="r" * 201), AnswerCode.INVALID, "reason has 201 characters; the limit is 200")
    log.refused(evolve(batch, upserts=(native(weight=0),)), AnswerCode.INVALID, "weight 0")
    assert log.add(batch).succeeded


@pytest.mark.parametrize(
    ("first", "count", "fits"),
    [(-1, 1, False), (0, 0, False), (0, 1, True), (0, SLOTS, True), (SLOTS - 1, 1, True), (SLOTS - 1, 2, False)],
)
def test_spans_of_slots(first: int, count: int, fits: bool) -> None:
    log = Log()
    log.add(CommitNativeBatch(1, "shop", (native(),)))
    for command in (
        ConfirmClear("shop", (SlotSpan("T", first, count, 1),)),
        RaiseFences("shop", (FenceSpan("T", first, count, 7, 1),)),
    ):
        answer = log.add(command)
        assert answer.succeeded is fits
        if not fits:
            assert answer.detail == f"slots {first} to {first + count - 1} are not within 0 to 15"


def test_spans_of_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    log.add(CommitNativeBatch(1, "shop", (native(),)))
    span = SlotSpan("T", 0, 1, 1)
    log.refused(ConfirmClear("shop", (evolve(span, actor_type="U"),)), AnswerCode.INVALID, "no actor type U")
    log.refused(RaiseFences("shop", (FenceSpan("U", 0, 1, 1, 1),)), AnswerCode.INVALID, "no actor type U")
    monkeypatch.setattr(slot_membership, "SPANS_MAX", 2)
    log.refused(ConfirmClear("shop", (span,) * 3), AnswerCode.INVALID, "3 spans; the limit is 2")
    assert log.add(ConfirmClear("shop", (span,) * 2)).succeeded
    log.add(CreateNativeNamespace("soft", Policy.EVENTUAL, 4, HandoffSettings()))
    log.refused(ConfirmClear("soft", (span,)), AnswerCode.INVALID, "a namespace of policy eventual has no handoff")


def test_sessions_are_numbered() -> None:
    log = Log()
    assert [log.add(OpenSession()).number for _ in range(3)] == [1, 2, 3]
