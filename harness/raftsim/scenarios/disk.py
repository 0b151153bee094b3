"""Defects of durability: D1 to D4."""

from __future__ import annotations

from harness.raftsim.checkers import Violation
from harness.raftsim.scenarios.stage import Stage, verdict_of_survivors


def compaction_window(stage: Stage) -> str | None:
    """D1. All replicas are killed (the systems survive) after each of many moments around a compaction, while commands
    are acknowledged. The two followers come back first.
    """
    for moment in range(12, 34):
        world = stage.world(compact_entries=20)
        waiting = []
        for number in range(moment):
            waiting.append(world.propose("A"))
            if number < moment - 1:
                world.rounds(1)
        world.tick("A")
        world.deliver_all()
        world.tick("B", "C")  # at some moment: both followers write their snapshot in this tick
        waiting += [world.propose("A"), world.propose("A")]
        world.tick("A")
        world.deliver_all()
        world.deliver_all()
        world.tick("A")
        for name in world.names:
            world.crash(name)
        acknowledged = sum(pending.acknowledged for pending in waiting)
        try:
            for name in "BC":
                world.restart(name)
            wrong = verdict_of_survivors(world, ["B", "C"], waiting)
            world.heal()
        except Violation as found:
            wrong = str(found)
        if wrong is not None:
            return f"killed after {moment} commands, {acknowledged} of them acknowledged: {wrong}"
    return None


def power_loss(stage: Stage) -> str | None:
    """D2. All replicas lose their power after commands were acknowledged."""
    for seed in range(10):
        world = stage.world(seed=seed)
        for _ in range(20):
            world.propose("A")
        world.rounds(6)
        for name in world.names:
            world.crash(name, power_lost=True)
        world.heal()
    return None


def forgotten_vote(stage: Stage) -> str | None:
    """D2. B votes for A, loses its power and its memory of that, and votes for C in the same term."""
    for seed in range(10):
        world = stage.world(leader=None, seed=seed)
        world.cut("A", "C")
        for _ in range(4):
            world.elect("A")
            for _ in range(3):
                world.deliver("A", "B")
                world.deliver("B", "A")
            if "A" in world.leaders():
                break
        world.isolate("A")
        world.crash("B", power_lost=True)
        if not world.restart("B"):
            continue
        world.link("B", "C")
        for _ in range(2):
            world.elect("C")
            for _ in range(3):
                world.deliver("C", "B")
                world.deliver("B", "C")
        world.heal()
    return None


def unreadable_journal(stage: Stage) -> str | None:
    """D3. One replica loses its power in the middle of writing; it must be able to start again."""
    for seed in range(30):
        world = stage.world(seed=seed)
        for number in range(20):
            world.propose("A")
            if number % 3 == 0:
                world.rounds(1)
        world.crash_after_writes("B", seed % 7, power_lost=True)
        world.rounds(2)
        world.crash("B", power_lost=True)
        if not world.restart("B"):
            return f"does not start after a power loss: {world.restart_failures[-1]}"
    return None


def damaged_snapshot(stage: Stage) -> str | None:
    """D4. A byte of a snapshot file changes while its replica is down. The replica must refuse to start, or work."""
    world = stage.world(compact_entries=8)
    for _ in range(30):
        world.propose("A")
        world.rounds(1)
    world.compact("B")
    world.rounds(4)
    world.crash("B")
    files = [path for path in world.disk("B").names() if "dump" in path or "snapshot" in path]
    assert files, f"no snapshot among {world.disk('B').names()}"
    for path in files:
        world.disk("B").damage(path, world.disk("B").size_while_down(path) // 2)
    if not world.restart("B"):
        return None
    world.link_all()
    world.rounds(20)
    if world.items("B") != world.items("A"):
        return f"starts with {len(world.items('B'))} of {len(world.items('A'))} commands in its state, and stays so"
    return None
