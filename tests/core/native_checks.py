"""Properties of a `NativeNetwork`: safety at every moment, liveness once nothing fails any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callboard.core.native_host_records import Right
from callboard.core.versions import Policy
from harness.violation import PropertyViolation
from tests.core.native_parts import Process, Slot

if TYPE_CHECKING:
    from tests.core.native_network import NativeNetwork

LONGER_THAN_FAILURE_MS = 1000
"""More than the failure timeout of the network's settings, on the slowest clock."""


def check_rights(network: NativeNetwork) -> None:
    """SingleActivation, and that whoever is gone for certain has its gate shut."""
    if network.policy is not Policy.EXCLUSIVE:
        return
    serving: dict[Slot, Process] = {}
    buried = network.removed - network.namespace.tombstones.keys()
    for process in network.processes:
        if process.crashed:
            continue
        machine, now_ms = process.machine, process.clock.read(network.true_ms)
        for kind, of_kind in machine._rights.live.items():
            for slot, right in of_kind.items():
                if not machine.gate_open(right, now_ms):
                    continue
                if machine.incarnation in buried:
                    text = f"{machine.incarnation} ({process.name}) is buried, but serves {kind}/{slot}"
                    raise PropertyViolation("GoneImpliesGateShut", text)
                other = serving.setdefault((kind, slot), process)
                if other is not process:
                    text = f"{process.name} and {other.name} both serve {kind}/{slot}"
                    raise PropertyViolation("SingleActivation", text)


def check_healed(network: NativeNetwork) -> None:
    """No faults any more: within a bound of true time everybody has the newest table, and each slot has one server."""
    for process in network.processes:
        process.paused = False
        process.turns = [turn for turn in process.turns if not turn.stubborn and not turn.cut_off]
    reconnect_lonely(network)
    bound_ms = 3 * (network.settings.failure_timeout_ms + network.settings.wait_ms()) + 1000
    if not _is_well_within(network, bound_ms):
        for problem in _behind(network):
            raise PropertyViolation("Convergence", problem)
        for problem in _unserved(network):
            raise PropertyViolation("EventuallyServed", problem)
        for problem in _served_twice(network):
            raise PropertyViolation("ExactlyOneAfterHeal", problem)
    _check_nobody_goes(network)


def _is_well_within(network: NativeNetwork, bound_ms: int) -> bool:
    for _ in range(0, bound_ms, 100):
        network.advance(100, settle=True)
        reconnect_lonely(network)
        if not _unserved(network) and not _behind(network) and not _served_twice(network):
            return True
    return False


def _check_nobody_goes(network: NativeNetwork) -> None:
    """Whoever is well stays: somebody joins, and for longer than the failure timeout no member is given up."""
    before = set(network.members)
    network.start("late", ("cart", "user"))
    if not _is_well_within(network, LONGER_THAN_FAILURE_MS):
        for problem in _served_twice(network):
            raise PropertyViolation("ExactlyOneAfterHeal", problem)
        raise PropertyViolation("Convergence", "a host that joins has no table in time, or no slots")
    network.advance(LONGER_THAN_FAILURE_MS, settle=True)
    if before - network.members:
        text = f"{sorted(before - network.members)} had not done anything wrong, but are members no more"
        raise PropertyViolation("Convergence", text)
    for problem in (*_behind(network), *_unserved(network)):
        raise PropertyViolation("Convergence", problem)
    for problem in _served_twice(network):
        raise PropertyViolation("ExactlyOneAfterHeal", problem)


def reconnect_lonely(network: NativeNetwork) -> None:
    for process in network.processes:
        usable = any(
            path.process is process
            and path.connection == process.connections
            and path.leader is network.office
            and (not path.up or path.up[-1] is not None)
            for path in network.paths
        )
        lonely = not usable or process.machine._connection == 0
        if not process.crashed and not process.stopped and lonely:
            network.connect(process)


def _behind(network: NativeNetwork) -> list[str]:
    newest = network.namespace.version.wire
    found = [
        f"{process.name} has version {process.version} of {newest}"
        for process in network.alive()
        if process.version != newest or _is_shadowed(network, process)
    ]
    # A walk may have lost a welcome: the host says nothing until its hello is repeated, and is not heard meanwhile.
    found += [f"{process.name} is not welcomed" for process in network.alive() if not process.machine._welcomed]
    ghosts = network.members - {process.machine.incarnation for process in network.alive()}
    return found + [f"member {each} is nobody who lives" for each in sorted(ghosts)]


def _is_shadowed(network: NativeNetwork, process: Process) -> bool:
    member = network.namespace.members.get(process.name)
    return member is None or member.incarnation != process.machine.incarnation


def _unserved(network: NativeNetwork) -> list[str]:
    by_incarnation = {process.machine.incarnation: process for process in network.alive()}
    found = []
    for kind, table in network.namespace.tables.items():
        for slot, owner in enumerate(table.owners):
            process = by_incarnation.get(owner)
            if owner == 0 and not any(kind in each.kinds for each in network.alive()):
                continue
            if process is None:
                found.append(f"{kind}/{slot} belongs to {owner}, who does not live")
            elif not _admits(network, process, (kind, slot)):
                found.append(f"{kind}/{slot} is not served by {process.name}")
    return found


def _served_twice(network: NativeNetwork) -> list[str]:
    found = []
    for kind, table in network.namespace.tables.items():
        for slot in range(len(table.owners)):
            admitting = [process.name for process in network.alive() if _admits(network, process, (kind, slot))]
            if len(admitting) > 1:
                found.append(f"{kind}/{slot} is served by {' and '.join(admitting)}")
    return found


def _admits(network: NativeNetwork, process: Process, slot: Slot) -> bool:
    return isinstance(process.machine.admit(*slot, process.clock.read(network.true_ms)), Right)
