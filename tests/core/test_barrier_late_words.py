"""The barrier machine: words of streams that are over, or that leave something out."""

from __future__ import annotations

from callboard.core.barrier import BarrierNamespace
from callboard.core.barrier_records import (
    BarrierSettings,
    BatchCommitted,
    BatchFailed,
    CloseStream,
    HostOperation,
    MessageReceived,
    OrderWritten,
    Phase,
    ProposeBatch,
    SendOrder,
    SidecarReport,
    Started,
    StreamClosed,
    StreamOpened,
    TablesChanged,
)
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
    name = "n" * 100
    names = [f"{name}{number}" for number in range(1, 4)]
    present = {each: Member(HostRecord(each, "app", ("T",)), at) for at, each in enumerate(names, start=1)}
    machine = BarrierNamespace(BarrierSettings(batch_bytes_max=2 * 117))
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
    assert len(batch.removals) == 2, "three take 351 bytes"


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
