"""Defects of the protocol: V1 to V11."""

from __future__ import annotations

import itertools

from harness.raftsim.replica import POISON, Acknowledged, Settings
from harness.raftsim.scenarios.stage import Stage, lead, lost, reelect_after_restart, verdict_of_survivors
from harness.raftsim.unguarded import Unguarded
from harness.raftsim.world import World


def pipelined_loss(stage: Stage) -> str | None:
    """V1. Nothing breaks but the leader, at the end.

    The leader's batches are all acknowledged by one follower. Its first acknowledgement makes the leader send the
    later batches again, and the first of those cuts the follower's log back to its own end.
    """
    for acknowledgements, resent in itertools.product(range(1, 7), range(1, 4)):
        world = stage.world()
        waiting = [world.propose("A") for _ in range(60)]
        world.tick("A")
        world.tick("A")
        world.deliver("A", "B")  # C is slow and gets nothing
        world.deliver("B", "A", acknowledgements)
        world.tick("A")
        world.deliver("B", "A")
        world.tick("A")
        world.deliver("A", "B", resent)
        world.crash("A")
        if (wrong := verdict_of_survivors(world, ["B", "C"], waiting)) is not None:
            return wrong
    return None


def resend_truncation(stage: Stage) -> str | None:
    """V1. Two resets under way make the leader send its log twice; the first batch of the second time cuts."""
    for resets, resent in itertools.product(range(4), range(1, 4)):
        world = stage.world()
        world.cut("A", "B")
        world.cut("B", "C")
        for _ in range(60):
            world.propose("A")
        world.rounds(8)
        reelect_after_restart(world, "A", "C")
        world.cut("A", "C")
        world.link("A", "B")
        world.tick("A")
        world.deliver("A", "B")
        waiting = [world.propose("A")]
        world.tick("A")
        world.tick("A")
        world.deliver("A", "B")
        world.deliver("B", "A", 1)
        world.tick("A")
        world.deliver("A", "B")
        world.deliver("B", "A", resets)
        world.tick("A")
        world.deliver("B", "A")
        world.tick("A")
        world.deliver("A", "B", resent)
        world.crash("A")
        if (wrong := verdict_of_survivors(world, ["C", "B"], waiting)) is not None:
            return wrong
    return None


def snapshot_commit(stage: Stage) -> str | None:
    """V2. A deposed leader returns; the group has compacted past its log; the first chunk of the snapshot carries a
    commit index, and the deposed leader reports its own dead entries as committed.
    """
    for chunks in range(1, 5):
        world = stage.world()
        world.isolate("A")
        waiting = [world.propose("A") for _ in range(5)]
        world.tick("A")
        world.tick("A")
        lead(world, "B", ["B", "C"])
        for _ in range(40):
            world.propose("B")
        world.rounds(8, ["B", "C"])
        world.compact("B")
        world.tick("B")
        world.tick("B")
        world.link("A", "B")
        world.tick("B")
        world.deliver("B", "A", chunks)
        world.tick("A")
        world.rounds(10, ["A", "B"])
        if any(isinstance(pending.outcome, Acknowledged) for pending in waiting) and lost(world, "B", waiting):
            return f"{lost(world, 'B', waiting)} commands are acknowledged that the group never had"
        world.heal()
    return None


def stale_ack(stage: Stage) -> str | None:
    """V3. An acknowledgement says how far the follower's log reaches but not in which term; one from before the
    leader was deposed and elected again is counted for entries that the follower does not have.
    """
    world = stage.world(5)
    for other in "CDE":
        world.cut("A", other)
        world.cut("B", other)
    for _ in range(3):
        world.propose("A")
    world.tick("A")
    world.tick("A")
    world.deliver("A", "B")  # the acknowledgements of B stay under way
    lead(world, "C", ["C", "D", "E"])
    world.link("A", "C")
    world.link("B", "C")
    for _ in range(6):
        world.tick("C")
        for follower in "AB":
            world.deliver("C", follower)
            world.deliver(follower, "C")
    for other in "ABDE":
        world.cut("C", other)
    world.link("A", "D", "E")
    for _ in range(4):
        world.elect("A")
        for _ in range(3):
            for voter in "DE":
                world.deliver("A", voter)
                world.deliver(voter, "A")
        if "A" in world.leaders():
            break
    waiting = [world.propose("A")]
    world.tick("A")
    world.tick("A")
    world.deliver("A", "D")
    world.deliver("D", "A")
    world.deliver("B", "A")  # the old acknowledgements arrive
    world.tick("A")
    world.crash("A")
    world.crash("D")  # two of five: must be survivable
    return verdict_of_survivors(world, ["C", "B", "E"], waiting)


def stale_snapshot(stage: Stage) -> str | None:
    """V4. A snapshot that was sent before the follower caught up by other means replaces its newer state."""
    for resets in range(4):
        world = stage.world()
        world.cut("A", "B")
        world.cut("B", "C")
        for _ in range(40):
            world.propose("A")
        world.rounds(8)
        world.compact("A")
        world.tick("A")
        world.tick("A")
        world.rounds(3, ["A", "C"])
        for _ in range(10):
            world.propose("A")
        world.rounds(6, ["A", "C"])
        reelect_after_restart(world, "A", "C")
        world.cut("A", "C")
        world.link("A", "B")
        world.tick("A")
        world.deliver("A", "B")
        world.propose("A")
        world.tick("A")
        world.tick("A")
        world.deliver("A", "B")
        world.deliver("B", "A", 1)
        world.tick("A")
        world.deliver("A", "B")
        world.deliver("B", "A", resets)
        world.tick("A")
        world.deliver("B", "A")
        world.tick("A")
        world.tick("B")
        while world.deliver("A", "B", 1):
            world.tick("B", seconds=0.001)
        world.heal()
    return None


def membership(stage: Stage) -> str | None:
    """V5. An isolated leader takes two changes of membership, and counts the new members at once."""
    del stage
    old, everyone = ["A", "B", "C"], ["A", "B", "C", "D", "E"]
    groups = {name: old if name in old else everyone for name in everyone}
    world = World(Unguarded(dynamic_membership=True), 5, Settings(), 1, groups=groups)
    world.link(*old)
    lead(world, "A", old)
    world.cut("A", "B")
    world.cut("A", "C")
    for newcomer in "DE":
        world.replica("A").add_member(newcomer)  # type: ignore[attr-defined]
        world.tick("A")
    world.link("A", "D", "E")
    world.rounds(10, ["A", "D", "E"])
    one = world.propose("A")
    world.rounds(8, ["A", "D", "E"])
    lead(world, "B", ["B", "C"])
    other = world.propose("B")
    world.rounds(8, ["B", "C"])
    if one.acknowledged and other.acknowledged and lost(world, "B", [one]):
        return "two groups acknowledge different commands at the same time"
    return None


def callback_raises(stage: Stage) -> str | None:
    """V6. The callback of a client raises; the command must count as applied all the same."""
    world = stage.world()
    world.propose("A", raising=True)
    world.rounds(10)
    if not world.items("A") == world.items("B") == world.items("C"):
        return f"replicas differ: {world.items('A')} {world.items('B')} {world.items('C')}"
    world.heal()
    return None


def poison(stage: Stage) -> str | None:
    """V7. A command raises in `apply` on every replica; it must count as applied, once, and the next one must work."""
    world = stage.world()
    world.propose("A", POISON)
    world.rounds(10)
    after = world.propose("A")
    world.rounds(10)
    if not after.acknowledged:
        return "no command is acknowledged after one that raises"
    for name in world.names:
        world.crash(name)
    world.heal()
    return None


def conflict_livelock(stage: Stage) -> str | None:
    """V8. A follower's tail diverges by 120 entries, which is more than one batch; how long until it is repaired?"""
    patience = 300
    world = stage.world(batch_bytes=1000)
    world.isolate("A")
    for _ in range(120):
        world.propose("A")
    world.tick("A")
    world.tick("A")
    lead(world, "B", ["B", "C"])
    for _ in range(130):
        world.propose("B")
    world.rounds(10, ["B", "C"])
    reelect_after_restart(world, "B", "C")
    world.rounds(3, ["B", "C"])
    world.link("A", "B")
    for _ in range(patience):
        world.tick("A", "B")
        world.deliver("B", "A")
        world.deliver("A", "B")
        if world.replica("A").view().log[-1] == world.replica("B").view().log[-1]:
            return None
    return f"a follower whose last 120 entries differ is not caught up after {patience} rounds"


def snapshot_silence(stage: Stage) -> str | None:
    """V9. A follower takes a few seconds for a snapshot, in many chunks. Its leader needs it for a majority, and must
    not take it for dead meanwhile.
    """
    world = stage.world(chunk_bytes=16, natural_elections=True)
    world.isolate("B")
    for _ in range(40):
        world.propose("A", world.choice.randbytes(40))
    world.rounds(8, ["A", "C"])
    world.compact("A")
    world.tick("A")
    world.tick("A")
    world.rounds(2, ["A", "C"])
    world.crash("C")
    world.link("A", "B")
    world.tick("A")
    world.deliver("A", "B", 1)  # B hears its leader before it looks at its clock
    for step in range(60):
        world.tick("A", "B", seconds=0.05)
        world.deliver("A", "B", 1)
        world.deliver("B", "A")
        if "A" not in world.leaders():
            return f"the leader gives up after {step * 0.05:.1f} s of sending a snapshot that arrives well"
    return None


def disturbance(stage: Stage) -> str | None:
    """V10. A replica that nobody heard for five elections is heard again; the leader and its majority are well."""
    world = stage.world()
    term = world.replica("A").view().term
    for _ in range(5):
        world.elect("C")
        world.rounds(1, ["A", "B"])
    world.deliver_all()
    world.rounds(3)
    if world.replica("A").view().term != term:
        return f"the leader of term {term} is deposed by a replica that returns with term {term + 5}"
    world.heal()
    return None


def forgotten_callbacks(stage: Stage) -> str | None:
    """V11. Commands proposed at a follower commit while it is cut off, and a snapshot brings it past them. The
    proposers must be told something: then, or (where followers refuse proposals) at once.
    """
    world = stage.world(chunk_bytes=1 << 16, leader="B")
    waiting = [world.propose("A") for _ in range(5)]
    world.tick("A")
    world.deliver("A", "B")
    world.tick("B")
    world.deliver("B", "A")
    world.isolate("A")
    for _ in range(40):
        world.propose("B")
    world.rounds(8, ["B", "C"])
    world.compact("B")
    world.tick("B")
    world.tick("B")
    world.link("A", "B")
    for _ in range(4):
        world.tick("B")
        world.deliver("B", "A")
        world.deliver("A", "B")
    world.heal()
    forgotten = sum(pending.outcome is None for pending in waiting)
    return f"{forgotten} of 5 proposers never hear of their commands again" if forgotten else None
