"""What transcripts cannot say of the barrier machine: misuse by the server, answers out of the ordinary, views."""

from __future__ import annotations

import pytest

from callboard.core.barrier import BarrierNamespace
from callboard.core.barrier_records import (
    BarrierSettings,
    BatchCommitted,
    BatchFailed,
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
    Tick,
)
from callboard.core.records import HostRecord, Member
from callboard.core.versions import Version


def started(settings: BarrierSettings | None = None) -> BarrierNamespace:
    machine = BarrierNamespace(settings or BarrierSettings())
    assert machine.handle(Started(Version(), {}), 0) == []
    return machine


def report(name: str, *types: str) -> SidecarReport:
    return SidecarReport(name, f"app-{name}", types)


def member(name: str, *types: str, incarnation: int = 1) -> dict[str, Member]:
    return {name: Member(HostRecord(name, f"app-{name}", types), incarnation)}


def test_misuse_is_an_error() -> None:
    with pytest.raises(ValueError, match="Tick before Started"):
        BarrierNamespace(BarrierSettings()).handle(Tick(), 0)
    machine = started()
    with pytest.raises(ValueError, match="Started twice"):
        machine.handle(Started(Version(), {}), 0)
    machine.handle(StreamOpened(1, report("a", "T1")), 0)
    with pytest.raises(ValueError, match="stream id 1 is used twice"):
        machine.handle(StreamOpened(1, report("b")), 0)
    with pytest.raises(ValueError, match="batch 7 is not in flight"):
        machine.handle(BatchFailed(7, retry=True), 0)
    machine.handle(BatchCommitted(1, Version(0, 1), member("a", "T1")), 0)
    with pytest.raises(ValueError, match="batch 1 is not in flight"):
        machine.handle(BatchCommitted(1, Version(0, 1), {}), 0)
    with pytest.raises(ValueError, match=r"version 0\.0 is below 0\.1"):
        machine.handle(TablesChanged(Version(), {}), 0)


def test_events_of_streams_that_are_not_open_are_ignored() -> None:
    machine = started()
    assert machine.handle(MessageReceived(9, report("a", "T1")), 0) == []
    assert machine.handle(StreamClosed(9), 0) == []
    assert machine.handle(OrderWritten(9, Phase.LOCK, 1), 0) == []


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="round_timeout_ms"):
        BarrierSettings(round_timeout_ms=0)
    with pytest.raises(ValueError, match="batch_items_max"):
        BarrierSettings(batch_items_max=0)


def test_committed_without_a_new_version() -> None:
    """The state had the member already: nobody's table changes, so the stream gets a one-shot push."""
    machine = started()
    machine.handle(StreamOpened(1, report("a", "T1")), 0)
    effects = machine.handle(BatchCommitted(1, Version(), member("a", "T1")), 5)
    assert effects == [SendOrder(1, phase, 0) for phase in Phase]
    assert machine.status().phase is None


def test_commit_without_any_effect_is_not_repeated_at_once() -> None:
    machine = started()
    machine.handle(StreamOpened(1, report("a", "T1")), 0)
    assert machine.handle(BatchCommitted(1, Version(), {}), 5) == []
    assert machine.next_deadline_ms() == 205
    assert machine.handle(Tick(), 204) == []
    assert isinstance(machine.handle(Tick(), 205)[0], ProposeBatch)


def test_acknowledgement_before_the_write_is_reported_counts() -> None:
    """A sidecar may answer before the server's write call returns."""
    machine = started()
    machine.handle(StreamOpened(1, report("a", "T1")), 0)
    machine.handle(BatchCommitted(1, Version(0, 1), member("a", "T1")), 0)
    acknowledgement = SidecarReport("", operation=HostOperation.LOCK, version=1)
    assert machine.handle(MessageReceived(1, acknowledgement), 1) == [SendOrder(1, Phase.UPDATE, 1)]
    assert machine.handle(OrderWritten(1, Phase.LOCK, 1), 2) == []


def test_members_at_known_versions_only() -> None:
    machine = started()
    with pytest.raises(KeyError, match="no table of version 7 at hand; the current version is 0"):
        machine.members_at(7)
    machine.handle(StreamOpened(1, report("a", "T1")), 0)
    machine.handle(BatchCommitted(1, Version(0, 1), member("a", "T1")), 0)
    machine.handle(TablesChanged(Version(0, 2), member("b", "T1")), 0)
    assert list(machine.members_at(1)) == ["a"]
    assert list(machine.members_at(2)) == ["b"]
    with pytest.raises(KeyError, match="no table of version 3 at hand; the current version is 2"):
        machine.members_at(3)


def test_counts() -> None:
    machine = started()
    machine.handle(StreamOpened(1, report("a", "T1")), 0)
    machine.handle(StreamOpened(2, report("client")), 0)
    assert (machine.stream_count, machine.actor_stream_count, machine.waiting_count) == (2, 1, 0)
    machine.handle(BatchCommitted(1, Version(0, 1), member("a", "T1")), 0)
    assert machine.waiting_count == 2
    assert machine.status().waiting_for == ("a", "client")
    machine.handle(StreamClosed(1), 0)
    assert (machine.stream_count, machine.actor_stream_count, machine.waiting_count) == (1, 0, 1)


def test_generations_keep_the_order_of_versions() -> None:
    machine = started()
    machine.handle(StreamOpened(1, report("client")), 0)
    effects = machine.handle(TablesChanged(Version(1, 1), {}), 0)
    assert effects == [SendOrder(1, Phase.LOCK, (1 << 32) + 1)]


def test_an_old_sidecar_gets_its_tables_once_more() -> None:
    """A sidecar of 1.16 that lost its stream in mid-round forgets its tables 15 s later: nothing else would heal it."""
    machine = BarrierNamespace(BarrierSettings(repeat_push_ms=20_000))
    machine.handle(Started(Version(0, 3), member("old", "T1") | member("new", "T1", incarnation=2)), 0)
    heartbeat = SidecarReport("old", "app-old", ("T1",), operation=HostOperation.UNKNOWN)
    triple = [SendOrder(1, phase, 3) for phase in Phase]

    assert machine.handle(StreamOpened(1, heartbeat), 100) == triple
    assert machine.handle(StreamOpened(2, report("new", "T1")), 100) == [SendOrder(2, phase, 3) for phase in Phase]
    for phase in Phase:
        machine.handle(OrderWritten(1, phase, 3), 100)
    machine.handle(MessageReceived(1, heartbeat), 1_000)
    machine.handle(MessageReceived(2, SidecarReport("", operation=HostOperation.UNLOCK, version=3)), 1_000)
    assert machine.handle(Tick(), 20_099) == []
    assert machine.next_deadline_ms() == 20_100
    assert machine.handle(Tick(), 20_100) == triple, "and only the old one"
    for phase in Phase:
        machine.handle(OrderWritten(1, phase, 3), 20_100)
    machine.handle(MessageReceived(1, heartbeat), 21_000)
    assert machine.handle(Tick(), 60_000) == [], "once, not for ever"


def test_a_round_before_the_repeated_push_puts_it_off() -> None:
    """The old sidecar counts from its last lock on: a push before it forgets its tables would only be another lock."""
    machine = BarrierNamespace(BarrierSettings(repeat_push_ms=20_000))
    machine.handle(Started(Version(0, 3), member("old", "T1")), 0)
    heartbeat = SidecarReport("old", "app-old", ("T1",), operation=HostOperation.UNKNOWN)
    machine.handle(StreamOpened(1, heartbeat), 100)
    for phase in Phase:
        machine.handle(OrderWritten(1, phase, 3), 100)
    machine.handle(MessageReceived(1, heartbeat), 1_000)

    machine.handle(TablesChanged(Version(0, 4), member("old", "T1")), 10_000)
    for at_ms, phase in enumerate(Phase, start=10_001):
        machine.handle(OrderWritten(1, phase, 4), at_ms)
        machine.handle(MessageReceived(1, heartbeat), at_ms)
    assert machine.handle(Tick(), 29_999) == []
    assert machine.handle(Tick(), 30_000) == [SendOrder(1, phase, 4) for phase in Phase]


def test_a_repeated_push_waits_for_orders_under_way_and_ends_with_the_stream() -> None:
    machine = BarrierNamespace(BarrierSettings(repeat_push_ms=20_000, round_timeout_ms=60_000))
    machine.handle(Started(Version(0, 3), member("old", "T1")), 0)
    heartbeat = SidecarReport("old", "app-old", ("T1",), operation=HostOperation.UNKNOWN)
    machine.handle(StreamOpened(1, heartbeat), 0)
    assert machine.handle(Tick(), 20_000) == [], "its first push is not acknowledged yet"
    assert machine.next_deadline_ms() == 40_000, "and it is not looked at again and again"
    for phase in Phase:
        machine.handle(OrderWritten(1, phase, 3), 20_001)
    machine.handle(MessageReceived(1, heartbeat), 20_002)
    assert machine.handle(Tick(), 40_000) == [SendOrder(1, phase, 3) for phase in Phase]
    machine.handle(StreamClosed(1), 40_001)
    assert machine.handle(Tick(), 90_000) == []


def test_a_repeated_push_that_is_due_ends_with_its_stream() -> None:
    machine = BarrierNamespace(BarrierSettings(repeat_push_ms=20_000, round_timeout_ms=60_000))
    machine.handle(Started(Version(0, 3), member("old", "T1")), 0)
    machine.handle(StreamOpened(1, SidecarReport("old", "app-old", ("T1",), operation=HostOperation.UNKNOWN)), 0)
    machine.handle(StreamClosed(1), 100)
    assert not [each for each in machine.handle(Tick(), 20_000) if isinstance(each, SendOrder)]


def test_tables_are_not_repeated_in_the_middle_of_a_round() -> None:
    """Also not to a sidecar that has acknowledged all that was sent to it so far, while others are awaited."""
    machine = BarrierNamespace(BarrierSettings(repeat_push_ms=2_000, round_timeout_ms=60_000))
    machine.handle(Started(Version(0, 3), member("old", "T1") | member("new", "T1", incarnation=2)), 0)
    heartbeat = SidecarReport("old", "app-old", ("T1",), operation=HostOperation.UNKNOWN)
    machine.handle(StreamOpened(1, heartbeat), 0)
    machine.handle(StreamOpened(2, report("new", "T1")), 0)
    machine.handle(TablesChanged(Version(0, 4), member("old", "T1") | member("new", "T1", incarnation=2)), 10)
    for version in (3, 4):
        for phase in Phase:
            machine.handle(OrderWritten(1, phase, version), 20)
    machine.handle(MessageReceived(1, heartbeat), 30)
    assert machine.handle(Tick(), 2_010) == [], "the other one has not locked yet"
    assert machine.next_deadline_ms() == 4_010
