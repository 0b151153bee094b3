"""The barrier machine: words of streams that are over, or that leave something out."""

from __future__ import annotations

from callboard.core.barrier import BarrierNamespace
from callboard.core.barrier_records import (
    BarrierSettings,
    BatchCommitted,
    BatchFailed,
    CloseStream,
    Effect,
    HostOperation,
    MessageReceived,
    OrderWritten,
    Phase,
    ProposeBatch,
    RoundFinished,
    SendOrder,
    SidecarReport,
    Started,
    StreamClosed,
    StreamOpened,
    TablesChanged,
    Tick,
)
from callboard.core.membership import host_record_bytes
from callboard.core.records import HostRecord, Member
from callboard.core.versions import Version
from tests.core.test_barrier_edges import member, report, started


def test_a_later_report_need_not_repeat_the_name() -> None:
    machine = started()
    machine.handle(StreamOpened(1, report("a", "T1")), 0)
    machine.handle(BatchCommitted(1, Version(), member("a", "T1")), 0)
    effects = machine.handle(MessageReceived(1, SidecarReport("", "app-a", ("T2",))), 5)
    assert effects == [ProposeBatch(2, (HostRecord("a", "app-a", ("T2",)),), ())]


def test_a_stream_that_changes_its_name_is_over_whatever_else_it_says() -> None:
    machine = started()
    machine.handle(StreamOpened(1, report("a", "T1")), 0)
    effects = machine.handle(MessageReceived(1, report("b", "T2")), 5)
    text = "host name changed from a to b on one stream"
    assert effects == [CloseStream(1, "INVALID_ARGUMENT", text)]
    committed = machine.handle(BatchCommitted(1, Version(0, 1), member("a", "T1")), 6)
    assert not [each for each in committed if isinstance(each, SendOrder)]
    assert machine.stream_count == 0


def test_the_first_version_is_a_version() -> None:
    machine = started()
    machine.handle(StreamOpened(1, report("a", "T1")), 0)
    acknowledgement = SidecarReport("", operation=HostOperation.LOCK, version=5)
    nothing_sent = machine.handle(MessageReceived(1, acknowledgement), 1)
    assert nothing_sent[0] == CloseStream(
        1, "INVALID_ARGUMENT", "acknowledgement of lock of version 5, but no order was sent"
    )
    other = started()
    other.handle(StreamOpened(1, report("a", "T1")), 0)
    other.handle(BatchCommitted(1, Version(), member("a", "T1")), 0)
    text = "acknowledgement of lock of version 5, but the newest order sent is unlock of version 0"
    assert other.handle(MessageReceived(1, acknowledgement), 1)[0] == CloseStream(1, "INVALID_ARGUMENT", text)


def test_a_pause_between_batches_is_no_deadline_while_a_round_runs() -> None:
    machine = started()
    machine.handle(StreamOpened(1, report("a", "T1")), 0)
    machine.handle(BatchFailed(1, retry=True), 100)
    assert machine.next_deadline_ms() == 300
    machine.handle(StreamOpened(2, report("client")), 110)
    assert machine.handle(TablesChanged(Version(0, 1), {}), 120) == [SendOrder(2, Phase.LOCK, 1)]
    assert machine.next_deadline_ms() == 120 + BarrierSettings().round_timeout_ms


def test_removals_count_towards_the_bytes_of_a_batch() -> None:
    name = "n" * 20
    names = [f"{name}{number}" for number in range(1, 4)]
    present = {each: Member(HostRecord(each, "app", ("T",)), at) for at, each in enumerate(names, start=1)}
    machine = BarrierNamespace(BarrierSettings(batch_bytes_max=2 * 37))
    machine.handle(Started(Version(0, 3), present), 0)
    for stream_id, host in enumerate(present, start=1):
        machine.handle(StreamOpened(stream_id, SidecarReport(host, "app", ("T",))), 0)
    deadline_ms = 100
    for stream_id in range(1, 4):
        for phase in (HostOperation.LOCK, HostOperation.UPDATE, HostOperation.UNLOCK):
            machine.handle(MessageReceived(stream_id, SidecarReport("", operation=phase, version=3)), deadline_ms)
    blocker = machine.handle(StreamOpened(9, report("z", "T")), deadline_ms)
    assert isinstance(blocker[0], ProposeBatch)
    for stream_id in range(1, 4):
        machine.handle(StreamClosed(stream_id), deadline_ms)
    effects = machine.handle(BatchFailed(blocker[0].batch_id, retry=False), deadline_ms)
    (batch,) = [each for each in effects if isinstance(each, ProposeBatch)]
    assert len(batch.removals) == 2, "three take 111 bytes"


def test_an_order_that_was_written_in_another_version_is_not_acknowledged_by_a_heartbeat() -> None:
    """A heartbeat acknowledges what had left the process, and only that."""
    machine = started()
    heartbeat = SidecarReport("a", "app-a", ("T1",), operation=HostOperation.UNKNOWN)
    machine.handle(StreamOpened(1, heartbeat), 0)
    machine.handle(BatchCommitted(1, Version(0, 1), member("a", "T1")), 0)
    assert machine.waiting_count == 1
    machine.handle(OrderWritten(1, Phase.LOCK, 7), 1)
    machine.handle(MessageReceived(1, heartbeat), 2)
    assert machine.waiting_count == 1
    machine.handle(OrderWritten(1, Phase.LOCK, 1), 3)
    assert machine.handle(MessageReceived(1, heartbeat), 4) == [SendOrder(1, Phase.UPDATE, 1)]


def test_a_wrong_acknowledgement_is_not_traced_or_counted() -> None:
    seen: list[str] = []
    machine = started()
    machine.trace = lambda action, _fields: seen.append(action)
    machine.handle(StreamOpened(1, report("a", "T1")), 0)
    machine.handle(MessageReceived(1, SidecarReport("", operation=HostOperation.LOCK, version=5)), 1)
    assert seen == ["Attach", "ProposeBatch", "StreamEnds"]


def test_a_stream_that_changes_its_name_while_a_round_runs_is_not_admitted_after_it() -> None:
    machine = started()
    machine.handle(StreamOpened(1, report("client")), 0)
    machine.handle(TablesChanged(Version(0, 1), {}), 0)
    machine.handle(StreamOpened(2, report("a", "T1")), 0)
    effects = machine.handle(MessageReceived(2, report("b", "T2")), 1)
    assert [each.stream_id for each in effects if isinstance(each, CloseStream)] == [2]
    for phase in (HostOperation.LOCK, HostOperation.UPDATE, HostOperation.UNLOCK):
        machine.handle(MessageReceived(1, SidecarReport("", operation=phase, version=1)), 2)
    assert machine.status().phase is None
    assert machine.stream_count == 1


def test_a_host_that_is_larger_than_a_batch_is_proposed_alone() -> None:
    machine = started(BarrierSettings(batch_bytes_max=1))
    assert isinstance(machine.handle(StreamOpened(1, report("a", "T1")), 0)[0], ProposeBatch)


def test_a_commit_that_left_one_host_out_is_not_repeated_at_once() -> None:
    machine = started()
    machine.handle(StreamOpened(1, report("a", "T1")), 0)
    machine.handle(StreamOpened(2, report("b", "T1")), 0)
    machine.handle(StreamOpened(3, report("c", "T1")), 0)
    machine.handle(BatchFailed(1, retry=True), 0)
    (batch,) = machine.handle(Tick(), 200)
    assert isinstance(batch, ProposeBatch)
    assert sorted(host.name for host in batch.upserts) == ["a", "b", "c"]
    effects = machine.handle(BatchCommitted(2, Version(), member("a", "T1")), 300)
    assert not [each for each in effects if isinstance(each, ProposeBatch)]
    assert machine.next_deadline_ms() == 500


def leftovers(settings: BarrierSettings) -> BarrierNamespace:
    """Host old is a member with a stream of an old sidecar. Three come: one commits, one is in flight, one waits."""
    machine = BarrierNamespace(settings)
    heartbeat = SidecarReport("old", "app-old", ("T1",), operation=HostOperation.UNKNOWN)
    machine.handle(Started(Version(0, 3), member("old", "T1")), 0)
    machine.handle(StreamOpened(1, heartbeat), 100)
    for phase in Phase:
        machine.handle(OrderWritten(1, phase, 3), 100)
    machine.handle(MessageReceived(1, heartbeat), 110)
    for stream_id, name in enumerate(("b", "c", "d"), start=2):
        machine.handle(StreamOpened(stream_id, report(name, "T1")), 120)
    machine.handle(BatchFailed(1, retry=True), 130)
    (first,) = machine.handle(Tick(), 330)
    assert isinstance(first, ProposeBatch)
    two = member("old", "T1") | member(first.upserts[0].name, "T1", incarnation=2)
    (second,) = machine.handle(BatchCommitted(first.batch_id, Version(0, 4), two), 340)
    assert isinstance(second, ProposeBatch)
    return machine


def test_changes_that_wait_are_counted_once() -> None:
    assert leftovers(BarrierSettings(batch_items_max=1)).status().changes_waiting == 1


def test_tables_are_not_repeated_just_before_a_round() -> None:
    machine = leftovers(BarrierSettings(batch_items_max=1, repeat_push_ms=20_000))
    assert machine.handle(Tick(), 20_100) == [], "the round that is due follows the batch that is in flight"


def test_a_refused_batch_does_not_hold_up_the_round_of_what_is_committed() -> None:
    machine = started(BarrierSettings(batch_items_max=2))
    for stream_id, name in enumerate("abcdef", start=1):
        machine.handle(StreamOpened(stream_id, report(name, "T1")), 0)
    machine.handle(BatchFailed(1, retry=True), 0)
    (first,) = machine.handle(Tick(), 200)
    assert isinstance(first, ProposeBatch)
    two = {host.name: Member(host, at) for at, host in enumerate(first.upserts, start=1)}
    (second,) = machine.handle(BatchCommitted(first.batch_id, Version(0, 1), two), 210)
    assert isinstance(second, ProposeBatch)
    effects = machine.handle(BatchFailed(second.batch_id, retry=False), 220)
    assert {type(each) for each in effects} == {SendOrder}
    assert len(effects) == len(first.upserts)


def test_a_sidecar_that_acknowledges_by_operation_needs_no_repetition() -> None:
    """Whether it says so with its first word or only later; and nobody is woken for its sake."""
    machine = started(BarrierSettings(repeat_push_ms=20_000))
    new, silent = report("new"), SidecarReport("silent", "app", (), operation=HostOperation.UNKNOWN)
    last = SidecarReport("", operation=HostOperation.UNLOCK, version=0)
    machine.handle(StreamOpened(1, new), 0)
    machine.handle(MessageReceived(1, last), 10)
    assert machine.next_deadline_ms() is None
    machine.handle(StreamOpened(2, silent), 20)
    machine.handle(MessageReceived(2, last), 30)
    assert machine.next_deadline_ms() == 20_020
    assert machine.handle(Tick(), 20_020) == []
    assert machine.next_deadline_ms() is None


def batch_of(effects: list[Effect]) -> ProposeBatch:
    (batch,) = [each for each in effects if isinstance(each, ProposeBatch)]
    return batch


def names(effects: list[Effect]) -> str:
    """Those of the batch among these effects."""
    return "".join(host.name for host in batch_of(effects).upserts)


def come_together(machine: BarrierNamespace, hosts: str, now_ms: int, first_stream: int = 1) -> list[Effect]:
    """What follows when these hosts come while nothing else goes on, and the batch of the first one fails, so that it
    comes last."""
    first, *_ = [
        machine.handle(StreamOpened(stream_id, report(name, "T1")), now_ms)
        for stream_id, name in enumerate(hosts, start=first_stream)
    ]
    machine.handle(BatchFailed(batch_of(first).batch_id, retry=True), now_ms)
    return machine.handle(Tick(), now_ms + machine.settings.retry_ms)


def test_a_batch_that_failed_for_a_moment_is_proposed_again_whole() -> None:
    machine = started()
    effects = come_together(machine, "abcd", 0)
    assert names(effects) == "bcda"
    machine.handle(BatchFailed(batch_of(effects).batch_id, retry=True), 500)
    assert names(machine.handle(Tick(), 500 + machine.settings.retry_ms)) == "bcda"


def test_batches_are_large_again_after_one_that_was_committed() -> None:
    machine = started()
    present: dict[str, Member] = {}
    effects = machine.handle(BatchFailed(batch_of(come_together(machine, "abcd", 0)).batch_id, retry=False), 500)
    for version, pair in enumerate(("bc", "da"), start=1):
        assert names(effects) == pair
        for name in pair:
            present = present | member(name, "T1", incarnation=len(present) + 1)
        effects = machine.handle(BatchCommitted(batch_of(effects).batch_id, Version(0, version), present), 500)
    for phase in (HostOperation.LOCK, HostOperation.UPDATE, HostOperation.UNLOCK):
        for stream_id in range(1, 5):
            machine.handle(MessageReceived(stream_id, SidecarReport("", operation=phase, version=2)), 500)
    assert names(come_together(machine, "efgh", 600, 11)) == "fghe"


def test_who_did_not_fit_a_refused_batch_is_in_the_next_one() -> None:
    machine = BarrierNamespace(BarrierSettings(batch_items_max=1))
    machine.handle(Started(Version(), {}), 0)
    effects = come_together(machine, "ab", 0)
    assert names(effects) == "b"
    effects = machine.handle(BatchFailed(batch_of(effects).batch_id, retry=False), 500)
    assert [each.stream_id for each in effects if isinstance(each, CloseStream)] == [2]
    assert names(effects) == "a"


def test_a_round_without_anybody_is_over_at_once() -> None:
    machine = started()
    assert machine.handle(TablesChanged(Version(0, 5), {}), 7) == [RoundFinished(5, (0, 0, 0), 0, ())]


def test_hosts_count_towards_the_bytes_of_a_batch() -> None:
    two = 2 * host_record_bytes(HostRecord("a", "app-a", ("T1",)))
    for bytes_max, fit in ((two, "ba"), (two - 1, "b")):
        machine = BarrierNamespace(BarrierSettings(batch_bytes_max=bytes_max))
        machine.handle(Started(Version(), {}), 0)
        assert names(come_together(machine, "ab", 0)) == fit
