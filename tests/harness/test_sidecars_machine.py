"""What a simulated sidecar does on each order, timer and end of stream: both generations, without sockets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from typing import TypeVar

import pytest

from harness.sidecars.events import (
    CancelTimer,
    CloseSend,
    Dial,
    Effect,
    Event,
    OpenFailed,
    OrderReceived,
    Send,
    SetTimer,
    ShutdownAsked,
    SidecarSettings,
    SidecarSpec,
    Started,
    StreamEnded,
    StreamOpened,
    TimerFired,
    TypesChanged,
)
from harness.sidecars.heartbeat import HeartbeatSidecar
from harness.sidecars.machine import Connection, SidecarMachine
from harness.sidecars.modern import ModernSidecar
from harness.sidecars.tables import NO_TABLES, read_order
from tests.harness.fake_placement import order_bytes

Machine = TypeVar("Machine", bound=SidecarMachine)
ME = SidecarSpec("a:1", "app-a:1", ("cat",))
MINE: dict[str, tuple[str, ...]] = {"a:1": ("cat",)}
THEIRS: dict[str, tuple[str, ...]] = {"b:1": ("cat",)}


def modern(settings: SidecarSettings | None = None, addresses: int = 3) -> ModernSidecar:
    machine = ModernSidecar(ME, addresses, settings or SidecarSettings(), Random(1))
    return _open(machine)


def heartbeat(settings: SidecarSettings | None = None, addresses: int = 3) -> HeartbeatSidecar:
    machine = HeartbeatSidecar(ME, addresses, settings or SidecarSettings(), Random(1))
    return _open(machine)


def _open(machine: Machine) -> Machine:
    assert machine.handle(Started(), 0.0) == [Dial(1, 0, 0.0)]
    machine.handle(StreamOpened(1), 0.0)
    return machine


def give(
    machine: SidecarMachine,
    operation: str,
    version: int = 1,
    hosts: Mapping[str, Iterable[str]] | None = None,
    now: float = 1.0,
) -> list[Effect]:
    order = read_order(order_bytes(operation, version, hosts))
    return machine.handle(OrderReceived(machine.attempt, order), now)


def is_locked(machine: SidecarMachine) -> bool:
    """Read afresh: a type checker takes an attribute to be what an earlier assertion said of it."""
    return machine.locked


def connection(machine: SidecarMachine) -> Connection:
    """Read afresh, likewise."""
    return machine.connection


def acknowledgements(effects: list[Effect]) -> list[tuple[str, int | None]]:
    reports = [effect.report for effect in effects if isinstance(effect, Send)]
    assert all(report.host is None for report in reports), "an acknowledgement names neither host nor types"
    return [(report.operation, report.version) for report in reports]


class TestModern:
    def test_reports_itself_once_without_version(self) -> None:
        machine = ModernSidecar(ME, 1, SidecarSettings(), Random(1))
        machine.handle(Started(), 0.0)
        (sent,) = machine.handle(StreamOpened(1), 0.0)
        assert isinstance(sent, Send)
        assert (sent.report.operation, sent.report.version, sent.report.host) == ("REPORT", None, ME)
        (sent,) = machine.handle(TypesChanged(("dog",)), 1.0)
        assert isinstance(sent, Send)
        assert sent.report.host is not None
        assert sent.report.host.actor_types == ("dog",)

    def test_a_round(self) -> None:
        machine = modern()
        assert give(machine, "lock", 5) == [SetTimer("table", 31.0), *give(modern(), "lock", 5)[1:]]
        assert machine.locked
        effects = give(machine, "update", 5, MINE)
        assert effects[0] == CancelTimer("table")
        assert acknowledgements(effects) == [("UPDATE", 5)]
        assert machine.locked, "the type is new, so it is blocked until the unlock"
        assert not machine.ready
        assert acknowledgements(give(machine, "unlock", 5)) == [("UNLOCK", 5)]
        assert machine.settled
        assert (machine.table_version, machine.owner("cat", "tom")) == (5, "a:1")

    def test_only_changed_types_block(self) -> None:
        machine = modern()
        for version in (5, 6):
            give(machine, "lock", version)
            give(machine, "update", version, MINE | THEIRS)
            assert machine.blocked_types == ({"cat"} if version == 5 else set())
            give(machine, "unlock", version)

    def test_lock_only_looks_ahead(self) -> None:
        machine = modern()
        assert acknowledgements(give(machine, "lock", 5)) == [("LOCK", 5)]
        assert acknowledgements(give(machine, "lock", 6)) == [("LOCK", 6)]

    def test_older_update_closes_the_stream(self) -> None:
        machine = modern()
        give(machine, "lock", 5)
        assert CloseSend() in give(machine, "update", 4, MINE)
        assert machine.connection is Connection.CLOSING
        assert machine.tables is None

    def test_unlock_needs_an_update_before_it(self) -> None:
        machine = modern()
        assert give(machine, "unlock", 5) == []
        give(machine, "lock", 5)
        assert give(machine, "unlock", 5) == []
        give(machine, "update", 5, MINE)
        assert give(machine, "unlock", 4) == [], "an older unlock is stale"
        assert acknowledgements(give(machine, "unlock", 5)) == [("UNLOCK", 5)]
        assert give(machine, "unlock", 5) == [], "the round is over"
        assert machine.counts["ignored"] == 4

    def test_unknown_operation_closes_the_stream(self) -> None:
        machine = modern()
        assert CloseSend() in give(machine, "dance")

    def test_update_that_never_comes_closes_the_stream(self) -> None:
        machine = modern()
        give(machine, "lock", 5, now=2.0)
        assert machine.handle(TimerFired("table"), 32.0) == [CloseSend()]
        assert give(machine, "update", 5, MINE) == [], "orders after the half-close are dropped"
        assert machine.handle(StreamEnded(1), 33.0)[-1] == Dial(2, 1, 0.0)

    def test_timer_does_nothing_after_the_update(self) -> None:
        machine = modern()
        give(machine, "lock", 5)
        give(machine, "update", 5, MINE)
        assert machine.handle(TimerFired("table"), 32.0) == []

    def test_drains_before_the_update_ack_and_defers_what_comes_meanwhile(self) -> None:
        machine = modern(SidecarSettings(drain_s=2.0))
        for operation in ("lock", "update", "unlock"):
            give(machine, operation, 5, MINE if operation == "update" else None)
        machine.activate("cat", "tom")
        give(machine, "lock", 6)
        effects = give(machine, "update", 6, THEIRS, now=10.0)
        assert SetTimer("drain", 12.0) in effects
        assert acknowledgements(effects) == []
        assert give(machine, "unlock", 6, now=11.0) == []
        effects = machine.handle(TimerFired("drain"), 12.0)
        assert acknowledgements(effects) == [("UPDATE", 6), ("UNLOCK", 6)]
        assert machine.actors == set()

    def test_idle_actors_need_no_drain_time(self) -> None:
        machine = modern(SidecarSettings(drain_s=2.0))
        give(machine, "lock", 5)
        machine.activate("cat", "tom")
        assert acknowledgements(give(machine, "update", 5, MINE)) == [("UPDATE", 5)]
        assert machine.actors == {("cat", "tom")}

    def test_stream_loss_halts_all_and_dials_the_next_address_at_once(self) -> None:
        machine = modern()
        for operation in ("lock", "update", "unlock"):
            give(machine, operation, 5, MINE if operation == "update" else None)
        machine.activate("cat", "tom")
        effects = machine.handle(StreamEnded(1, "UNAVAILABLE", "gone"), 3.0)
        assert effects[-1] == Dial(2, 1, 0.0)
        assert machine.actors == set()
        assert machine.counts["halts"] == 1
        assert machine.owner("cat", "tom") == "a:1", "the table is kept"
        machine.handle(StreamOpened(2), 3.0)
        assert machine.locked, "until the first update of the new stream"
        give(machine, "lock", 2)
        give(machine, "update", 2, MINE)
        give(machine, "unlock", 2)
        assert machine.settled, "a lower version is fine on a new stream"

    def test_refusal_pauses_briefly_and_open_failure_longer(self) -> None:
        machine = modern()
        (*_, dial) = machine.handle(StreamEnded(1, "FAILED_PRECONDITION", "not a leader"), 1.0)
        assert isinstance(dial, Dial)
        assert (dial.attempt, dial.address_index) == (2, 1)
        assert 0.05 <= dial.after_s <= 0.15
        (*_, dial) = machine.handle(OpenFailed(2), 2.0)
        assert isinstance(dial, Dial)
        assert dial.address_index == 2
        assert 0.25 <= dial.after_s <= 0.75
        assert machine.counts["halts"] == 0, "it had never served"
        (*_, dial) = machine.handle(OpenFailed(3), 3.0)
        assert isinstance(dial, Dial)
        assert dial.address_index == 0

    def test_events_of_an_older_stream_are_dropped(self) -> None:
        machine = modern()
        machine.handle(StreamEnded(1), 1.0)
        machine.handle(StreamOpened(2), 1.0)
        order = read_order(order_bytes("lock", 5))
        assert machine.handle(OrderReceived(1, order), 1.0) == []
        assert machine.handle(StreamEnded(1), 1.0) == []

    def test_shutdown_waits_for_the_server_to_end_the_stream(self) -> None:
        machine = modern()
        assert machine.handle(ShutdownAsked(), 1.0) == [CloseSend()]
        assert connection(machine) is Connection.CLOSING
        machine.handle(StreamEnded(1), 2.0)
        assert connection(machine) is Connection.STOPPED

    def test_shutdown_while_dialling(self) -> None:
        machine = ModernSidecar(ME, 1, SidecarSettings(), Random(1))
        machine.handle(Started(), 0.0)
        assert machine.handle(ShutdownAsked(), 1.0) == []
        assert machine.handle(StreamOpened(1), 2.0) == []
        assert machine.connection is Connection.STOPPED


class TestHeartbeat:
    def test_repeats_its_full_report(self) -> None:
        machine = HeartbeatSidecar(ME, 1, SidecarSettings(), Random(1))
        machine.handle(Started(), 0.0)
        beat = TimerFired("heartbeat")
        events: list[Event] = [StreamOpened(1), beat, beat]
        for second, event in enumerate(events):
            sent, timer = machine.handle(event, float(second))
            assert timer == SetTimer("heartbeat", second + 1.0)
            assert isinstance(sent, Send)
            assert (sent.report.operation, sent.report.version, sent.report.host) == ("UNKNOWN", None, ME)

    def test_never_acknowledges(self) -> None:
        machine = heartbeat()
        assert give(machine, "lock", 5) == [SetTimer("fail-safe 1", 16.0)]
        assert machine.locked
        assert machine.tables is None
        assert give(machine, "update", 5, MINE) == []
        assert machine.locked
        assert give(machine, "unlock", 5) == []
        assert machine.settled
        assert give(machine, "dance") == []
        assert machine.connection is Connection.OPEN

    def test_lock_clears_the_table(self) -> None:
        machine = heartbeat()
        for operation in ("lock", "update", "unlock", "lock"):
            give(machine, operation, 5, MINE if operation == "update" else None)
        assert machine.tables is not None
        assert machine.tables.host_names == frozenset()

    def test_ready_only_when_all_own_types_are_in_the_table(self) -> None:
        machine = heartbeat()
        dogs: dict[str, tuple[str, ...]] = {"b:1": ("dog",)}
        for version, hosts in ((1, dogs), (2, THEIRS)):
            give(machine, "lock", version)
            give(machine, "update", version, hosts)
            give(machine, "unlock", version)
            assert not machine.locked
            assert machine.ready is (version == 2)

    def test_two_locks_leave_it_locked_until_the_fail_safe(self) -> None:
        machine = heartbeat()
        give(machine, "lock", 5, now=1.0)
        give(machine, "lock", 6, now=2.0)
        give(machine, "update", 6, MINE)
        give(machine, "unlock", 6)
        assert is_locked(machine)
        assert not machine.wedged, "the fail-safe will come"
        machine.handle(TimerFired("fail-safe 1"), 16.0)
        assert is_locked(machine), "the fail-safe of the first lock finds its lock undone"
        machine.handle(TimerFired("fail-safe 2"), 17.0)
        assert not is_locked(machine)
        assert machine.digest == NO_TABLES.digest, "the fail-safe clears the table"

    def test_late_unlock_after_the_fail_safe_wedges_it_for_good(self) -> None:
        machine = heartbeat()
        give(machine, "lock", 5)
        machine.handle(TimerFired("fail-safe 1"), 16.0)
        assert not is_locked(machine)
        give(machine, "update", 5, MINE)
        give(machine, "unlock", 5)
        for version in (6, 7, 8):
            give(machine, "lock", version)
            assert machine.wedged
            give(machine, "update", version, MINE)
            give(machine, "unlock", version)
            machine.handle(TimerFired(f"fail-safe {machine.locks}"), 100.0)
            assert is_locked(machine)
            assert machine.wedged

    def test_stream_lost_in_a_round_costs_the_table_until_a_push_after_the_fail_safe(self) -> None:
        """What a server should know: the push on reconnecting does not help, one more than 15 s later does."""
        machine = heartbeat()
        give(machine, "lock", 5, now=1.0)
        machine.handle(StreamEnded(1, "UNAVAILABLE"), 1.5)
        machine.handle(StreamOpened(2), 2.5)
        give(machine, "lock", 5, now=2.5)
        give(machine, "update", 5, MINE)
        give(machine, "unlock", 5)
        assert is_locked(machine)
        for number in (1, 2):
            machine.handle(TimerFired(f"fail-safe {number}"), 15.0 + number)
        assert not is_locked(machine)
        assert machine.digest == NO_TABLES.digest
        give(machine, "lock", 5, now=20.0)
        give(machine, "update", 5, MINE)
        give(machine, "unlock", 5)
        assert not is_locked(machine)
        assert machine.owner("cat", "tom") == "a:1"

    def test_ordinary_rounds_never_wedge(self) -> None:
        machine = heartbeat()
        for version in range(1, 20):
            give(machine, "lock", version)
            give(machine, "update", version, MINE)
            give(machine, "unlock", version)
            machine.handle(TimerFired(f"fail-safe {version}"), version + 15.0)
            assert machine.settled
            assert machine.table_version == version

    def test_equal_version_is_ignored_by_older_ones_only(self) -> None:
        for ignores, expected in ((False, "b:1"), (True, "a:1")):
            machine = heartbeat(SidecarSettings(ignores_equal_version=ignores))
            for hosts in (MINE, THEIRS):
                give(machine, "lock", 5)
                give(machine, "update", 5, hosts)
                give(machine, "unlock", 5)
            assert machine.owner("cat", "tom") == expected
            assert machine.settled

    def test_stream_loss_halts_all_and_pauses_a_second(self) -> None:
        machine = heartbeat()
        give(machine, "lock", 5)
        machine.activate("cat", "tom")
        assert machine.handle(StreamEnded(1, "UNAVAILABLE"), 3.0) == [Dial(2, 1, 1.0)]
        assert machine.counts["halts"] == 1
        assert machine.actors == set()
        assert machine.handle(OpenFailed(2), 4.0) == [Dial(3, 2, 1.0)]
        assert machine.handle(TimerFired("heartbeat"), 4.5) == []
        assert (machine.locks, machine.unlocks) == (1, 0), "the counts outlive the stream"

    def test_heartbeats_go_on_while_it_drains(self) -> None:
        machine = heartbeat(SidecarSettings(drain_s=2.0))
        give(machine, "lock", 5)
        machine.activate("cat", "tom")
        assert SetTimer("drain", 3.0) in give(machine, "update", 5, THEIRS)
        assert machine.handle(TimerFired("heartbeat"), 1.5) != []
        give(machine, "unlock", 5)
        assert machine.locked
        machine.handle(TimerFired("drain"), 3.0)
        assert not machine.locked


def test_needs_an_address() -> None:
    with pytest.raises(ValueError, match="addresses"):
        ModernSidecar(ME, 0, SidecarSettings(), Random(1))


def test_notes_have_times_and_versions() -> None:
    machine = modern()
    give(machine, "lock", 5, now=7.5)
    assert [(note.at, note.what, note.version) for note in machine.notes][-1] == (7.5, "lock", 5)
