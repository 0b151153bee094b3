"""Records of whole simulated clusters (harness.simulation): replicas, fronts, hosts with actors, all its faults."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any
from unittest.mock import patch

from callboard.core.tracing import Fields
from harness.conformance.tracelines import Record, Recorder, once
from harness.simulation.campaign import run_world
from harness.simulation.hosts import Host
from harness.simulation.plan import draw
from harness.simulation.world import World

ACTING = "harness.simulation.actors"
"""Where turns ask the machine; the simulator's checkers ask the same questions, and those are no actions."""
DEPTH_MAX = 6


def record_seed(seed: int) -> tuple[list[Record], str]:
    """The records of one seed, and the property that it violated, or an empty text."""
    plan = draw(seed)
    worlds: list[World] = []
    recorder = Recorder(lambda: worlds[0].kernel.now_us if worlds else 0)

    def trace(process: str, event: str, fields: Fields) -> None:
        if event in {"Admit", "Effect"} and not _asked_by_a_turn():
            return
        more: Mapping[str, Any] = fields
        if "gate_until_ms" in fields:
            # Two processes may have one name while one of them is cut off: their clocks are not the same.
            host = next(each for each in worlds[0].hosts if each.alive and _is(each, process, fields["incarnation"]))
            more = {**fields, "ends_at": host.clock.when(int(str(fields["gate_until_ms"])))}
        recorder.add(f"replica {process}" if process.startswith("r") else f"host {process}", event, more)

    def crash(host: Host) -> None:
        if host.alive:
            recorder.add(f"host {host.name}", "Crash", {"incarnation": host.machine.incarnation})
        original(host)

    original = Host.crash
    with patch.object(Host, "crash", crash):
        world = World(plan, trace=trace)
        worlds.append(world)
        result = run_world(world)
    return once(recorder.records), result.violated


def _is(host: Host, name: str, incarnation: object) -> bool:
    return host.name == name and host.machine.incarnation == incarnation


def _asked_by_a_turn() -> bool:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the only way to know who asks
    for _ in range(DEPTH_MAX):
        if frame is None:
            return False
        if frame.f_globals.get("__name__") == ACTING:
            return True
        frame = frame.f_back
    return False
