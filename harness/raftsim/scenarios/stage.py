"""What scenarios share: fresh worlds of one engine, and the question what survived."""

from __future__ import annotations

from attrs import frozen

from harness.raftsim.replica import Acknowledged, EngineUnderTest, Settings
from harness.raftsim.world import Pending, World


@frozen
class Stage:
    """An engine, and worlds of it."""

    engine: EngineUnderTest

    def world(
        self,
        size: int = 3,
        *,
        batch_bytes: int = 600,
        chunk_bytes: int = 64,
        compact_entries: int = 1_000_000,
        seed: int = 1,
        leader: str | None = "A",
        natural_elections: bool = False,
    ) -> World:
        """A new group, all linked, led by `leader`."""
        settings = Settings(batch_bytes, chunk_bytes, compact_entries, natural_elections=natural_elections)
        world = World(self.engine, size, settings, seed)
        world.link_all()
        if leader is not None:
            lead(world, leader)
        return world


def lead(world: World, name: str, among: list[str] | None = None) -> None:
    """Make a replica the leader, with the votes of these replicas, and let its first entry commit."""
    names = among or world.names
    for _ in range(4):
        world.elect(name)
        world.deliver_all(names)
        world.deliver_all(names)
        world.deliver_all(names)
        world.deliver_all(names)
        if name in world.leaders():
            break
    assert world.leaders()[-1:] == [name], f"{name} was not elected: {world.leaders()}"
    world.rounds(6, names)


def reelect_after_restart(world: World, name: str, voter: str) -> None:
    """The leader's process restarts, and wins a new term with one vote (of three replicas)."""
    term = world.replica(name).view().term
    world.crash(name)
    world.restart(name)
    world.link(name, voter)
    for _ in range(4):
        world.elect(name)
        for _ in range(3):
            world.deliver(name, voter)
            world.deliver(voter, name)
        view = world.replica(name).view()
        if view.is_leader and view.term > term:
            return
    raise AssertionError(f"{name} was not elected again")


def lost(world: World, name: str, waiting: list[Pending]) -> int:
    """How many acknowledged commands are not in the state of this replica."""
    present = set(world.items(name))
    return sum(1 for pending in waiting if pending.acknowledged and pending.proposal.command not in present)


def verdict_of_survivors(world: World, survivors: list[str], waiting: list[Pending]) -> str | None:
    """Let a majority that is still there elect a leader; say how many acknowledged commands it lost."""
    world.link(*survivors)
    for candidate in survivors * 3:
        world.elect(candidate)
        world.rounds(6, survivors)
        if world.leaders():
            break
    else:
        return f"the survivors {survivors} elect no leader"
    leader = world.leaders()[-1]
    world.propose(leader)
    world.rounds(8, survivors)
    missing = lost(world, leader, waiting)
    acknowledged = sum(isinstance(pending.outcome, Acknowledged) for pending in waiting)
    return f"{missing} of {acknowledged} acknowledged commands are lost" if missing else None
