"""Guards of the host that order on a connection makes rare: each with the message that it is there for, and its bug."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
from attrs import evolve

from callboard.core.handoff_messages import Grants, Held
from callboard.core.native_host import NativeHost
from callboard.core.native_host_records import GrantsReceived, TableReceived
from callboard.core.table_delta import TableDelta, TableView, diff
from harness.violation import PropertyViolation
from tests.core.native_network import NativeNetwork
from tests.core.native_parts import Path, Process


def settled(*names: str) -> NativeNetwork:
    """A network in which these hosts serve all slots."""
    network = NativeNetwork(Random(1))
    for name in names:
        network.start(name, ("cart",))
    network.advance(2500, settle=True)
    assert len(network.members) == len(names)
    return network


def path_of(network: NativeNetwork, process: Process) -> Path:
    return next(path for path in network.paths if path.process is process)


def until_table_is_on_its_way(network: NativeNetwork, path: Path) -> None:
    """Everything flows but what is on its way down `path`, until a delta is the next there."""
    for _ in range(200):
        while path.down and not isinstance(path.down[0], TableReceived):
            network.deliver_down(path)
        if path.down:
            return
        for entry in list(network.entries):
            network.commit(entry)
        while network.office.inbox:
            network.hear_log(network.office)
        for each in network.paths:
            while each.up:
                network.deliver_up(each)
        network.advance(5)
    pytest.fail("no delta came")


def damaged_table_is_repaired() -> None:
    network = settled("a")
    process = network.processes[0]
    network.start("b", ("cart",))
    path = path_of(network, process)
    until_table_is_on_its_way(network, path)
    network.corrupt_down(path)
    network.advance(4 * network.settings.tick_ms, settle=True)
    assert process.version == network.namespace.version.wire
    assert process.lives == 1


def older_table_is_dropped() -> None:
    network = settled("a")
    process = network.processes[0]
    old = process.machine.view
    network.start("b", ("cart",))
    network.advance(500, settle=True)
    assert old is not None
    assert old.version < process.version
    network._host(process, TableReceived(process.connections, diff(None, old)))
    assert process.machine.view is not None
    assert process.machine.view.version == network.namespace.version.wire


def grant_of_another_version_is_dropped() -> None:
    network = settled("a")
    network.start("b", ("cart",))
    network.crash(network.processes[0])
    network.advance(300, settle=True)
    process = network.processes[1]
    machine, view = process.machine, process.machine.view
    assert view is not None
    slot = view.tables["cart"].owners.index(machine.incarnation)
    before = network.grants_seen
    since = view.tables["cart"].since[slot]
    held = Held("cart", slot, 1, since - 1, network.namespace.rights["cart"].fences[slot] + 1)
    grants = Grants(machine.incarnation, network.office.epoch, (held,))
    network._host(process, GrantsReceived(process.connections, grants))
    assert network.grants_seen == before
    network._host(process, GrantsReceived(process.connections, evolve(grants, grants=(evolve(held, since=since),))))
    assert network.grants_seen == before + 1, "the grant was refused for another reason"


def test_a_damaged_table_is_asked_for_again() -> None:
    damaged_table_is_repaired()


def test_an_older_table_is_not_installed() -> None:
    older_table_is_dropped()


def test_a_grant_of_another_version_is_not_accepted() -> None:
    grant_of_another_version_is_dropped()


def test_a_host_that_does_not_report_gaps_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NativeHost, "_ask_for_table", lambda _self, _now_ms: None)
    with pytest.raises(AssertionError):
        damaged_table_is_repaired()


def test_a_host_that_installs_older_tables_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = NativeHost._table

    def table(self: NativeHost, delta: TableDelta, now_ms: int) -> None:
        before: TableView | None = self._view
        if before is not None and delta.from_version == 0:
            self._view = None
        original(self, delta, now_ms)

    monkeypatch.setattr(NativeHost, "_table", table)
    with pytest.raises((PropertyViolation, AssertionError)):
        older_table_is_dropped()


def test_a_host_that_accepts_grants_of_any_version_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = NativeHost._accept

    def accept(self: NativeHost, grants: Iterable[Held], now_ms: int) -> None:
        view = self._view
        assert view is not None
        now = [evolve(held, since=view.tables[held.actor_type].since[held.first]) for held in grants]
        original(self, now, now_ms)

    monkeypatch.setattr(NativeHost, "_accept", accept)
    with pytest.raises(AssertionError):
        grant_of_another_version_is_dropped()
