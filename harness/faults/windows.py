"""Parts of a run's time: when no fault was active, and when a majority of replicas was whole and connected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from harness.faults.figures import span_ns
from harness.faults.history import Fault, History, Phase

EVERYBODY = "everybody"
ONE_BY_NAME = frozenset(
    {
        *("kill", "pause", "pause_in_round", "crash_loop"),
        *("torn_tail", "corrupt_byte", "wiped_disk", "tail_loss", "full_disk"),
        *("partition_replicas", "partition_from_everybody", "partition_named"),
    }
)
"""Faults that touch just the replicas that their target names."""
BESIDE_REPLICAS = re.compile(r"host_|client_|sidecar_|storm$")
"""Faults that touch no replica. What slows replicas down, and partitions in which majorities overlap or are heard one
way only, touch everybody: Raft's elections may disturb each other there for as long as it lasts."""
ONE_AT_A_TIME = frozenset({"one replica at a time"})
REPLICA = re.compile(r"replica-\d+")
CLIENT = re.compile(r"\bc\d+\b")


@frozen
class Window:
    """From `begun_ns` to `ended_ns`. `last`: it ends with the run, not with another fault."""

    begun_ns: int
    ended_ns: int
    last: bool = False


def quiet_windows(history: History) -> list[Window]:
    """When faults had begun, and none was active. Each begins with a heal, the last when everything is whole."""
    end_ns = span_ns(history)[1]
    healed = [note.at_ns for note in history.notes_of("healed")]
    during = [note.at_ns for note in history.notes_of("phase") if note.fields["phase"] == Phase.DURING.value]
    if not during:
        return []
    found, since_ns = [], 0
    for fault in sorted(history.faults, key=lambda fault: fault.begun_ns):
        if since_ns and fault.begun_ns > since_ns:
            found.append(Window(since_ns, fault.begun_ns))
        since_ns = max(since_ns, fault.ended_ns or end_ns)
    if healed:
        # Until then links and processes may still be mended.
        found = [window for window in found if window.ended_ns <= healed[-1]]
        found.append(Window(max(healed[-1], since_ns), end_ns, last=True))
    return found


def touched(fault: Fault, settings: Mapping[str, Any]) -> frozenset[str]:
    """Which replicas a fault stops or cuts off; EVERYBODY if that cannot be told by its target."""
    if BESIDE_REPLICAS.match(fault.kind):
        return frozenset()
    if fault.kind == "rolling_restart":
        return ONE_AT_A_TIME
    named = frozenset(REPLICA.findall(fault.target))
    if fault.kind == "partition_halves":
        replicas = int(settings["replicas"])
        others = frozenset(f"replica-{number}" for number in range(1, replicas + 1)) - named
        clients = len(CLIENT.findall(fault.target))
        if len(named) > replicas // 2 and clients:
            return others
        return named if len(others) > replicas // 2 and clients < int(settings["clients"]) else frozenset({EVERYBODY})
    return named if fault.kind in ONE_BY_NAME else frozenset({EVERYBODY})


def with_quorum(history: History) -> list[Window]:
    """When a majority of replicas ran and reached each other and the clients, cut where something happened to one: each
    window begins with the beginning or the end of a fault that touched a replica."""
    first_ns, end_ns = load_span(history)
    events: list[tuple[int, bool, Fault]] = []
    for fault in history.faults:
        if touched(fault, history.settings):
            events += [(fault.begun_ns, True, fault), (fault.ended_ns or end_ns, False, fault)]
    events.sort(key=lambda event: event[:2])
    found, active, since_ns = [], dict[int, Fault](), first_ns
    for at_ns, begins, fault in events:
        if _quorum(active.values(), history.settings) and at_ns > since_ns:
            found.append(Window(since_ns, min(at_ns, end_ns)))
        since_ns = at_ns
        if begins:
            active[fault.number] = fault
        else:
            active.pop(fault.number, None)
    if _quorum(active.values(), history.settings) and end_ns > since_ns:
        found.append(Window(since_ns, end_ns, last=True))
    return found


def _quorum(active: Iterable[Fault], settings: Mapping[str, Any]) -> bool:
    gone, replicas = {name for fault in active for name in touched(fault, settings)}, int(settings["replicas"])
    return EVERYBODY not in gone and replicas - len(gone) > replicas // 2


def load_span(history: History) -> tuple[int, int]:
    """From the first phase to the end of the last operation of the workloads: the final reads come after it."""
    phases = [note.at_ns for note in history.notes_of("phase")]
    settled = [note.at_ns for note in history.notes_of("settled")]
    first_ns, end_ns = span_ns(history)
    return (phases[0] if phases else first_ns), (settled[-1] if settled else end_ns)
