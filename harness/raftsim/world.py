"""A simulated group of replicas: the clock, the links, the disks, the engine instances and the checkers.

Every public method is one thing that may happen in the world. After each, the checkers look at what changed; the
first broken rule is raised as `Violation`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial

from attrs import define, field

from harness.raftsim.checkers import Checkers, Proposal, Violation, check_durability
from harness.raftsim.disk import SimDisk, SimulatedCrash
from harness.raftsim.network import Network
from harness.raftsim.replica import (
    Acknowledged,
    EngineStopped,
    EngineUnderTest,
    Outcome,
    RecordingMachine,
    Replica,
    Seat,
    Settings,
    StartRefused,
)

ROUND_SECONDS = 0.15
"""Longer than the interval between heartbeats, so that each round of ticks sends one."""
QUIET_SECONDS = 0.5
"""Longer than a voter stays with a leader that it heard."""

BRISK_SECONDS = 0.04
"""With natural elections: much shorter than an election timeout, as messages of a healthy network are."""

HEALING_ROUNDS = 200

PADDING = b"." * 40
"""Makes commands so large that a few of them fill a small batch, in any engine's encoding."""

READING_SECONDS = 0.0005
"""By how much each reading of the clock moves it."""


@define(eq=False)
class _Slot:
    """What stays when an instance dies: the disk. And the instance, while there is one."""

    name: str
    disk: SimDisk = field(factory=SimDisk)
    replica: Replica | None = None
    machine: RecordingMachine | None = None
    has_run: bool = False
    power_lost: bool = False
    """How an armed crash ends this replica: with the process only (False) or with the power."""


class World:
    """A group of `size` replicas named A, B, C ... of one kind of engine."""

    def __init__(
        self,
        engine: EngineUnderTest,
        size: int,
        settings: Settings,
        seed: int,
        *,
        groups: dict[str, list[str]] | None = None,
    ) -> None:
        """`groups` says whom each replica takes for its group at first; by default everybody."""
        self.engine = engine
        self.settings = settings
        self.names = [chr(ord("A") + number) for number in range(size)]
        self.network = Network(self.names)
        self.now = 1000.0
        self.choice = random.Random(seed)
        self.checkers = Checkers()
        self.restart_failures: list[str] = []
        self.errors: deque[str] = deque(maxlen=10)
        self.commands = 0
        self.restarts = 0
        self.installs = 0
        """Snapshots of leaders taken over by running replicas."""
        self._groups = groups or dict.fromkeys(self.names, self.names)
        self._found: Violation | None = None
        self._proposed: list[tuple[Pending, str, Replica]] = []
        self._slots = {name: _Slot(name) for name in self.names}
        for name in self.names:
            self._boot(name)

    # -- what can be seen

    def alive(self) -> list[str]:
        """Names of the replicas that run."""
        return [name for name in self.names if self._slots[name].replica is not None]

    def leaders(self) -> list[str]:
        """Names of the replicas that take themselves for the leader; those of the highest term last."""
        views = {name: self.replica(name).view() for name in self.alive()}
        return sorted((name for name in views if views[name].is_leader), key=lambda name: views[name].term)

    def replica(self, name: str) -> Replica:
        """The running instance."""
        replica = self._slots[name].replica
        assert replica is not None, f"{name} does not run"
        return replica

    def items(self, name: str) -> list[bytes]:
        """The commands in the state of a running replica, in order."""
        machine = self._slots[name].machine
        assert machine is not None
        return [command for _, command in machine.items]

    def disk(self, name: str) -> SimDisk:
        """The disk of a replica, running or not."""
        return self._slots[name].disk

    # -- time, links and messages

    def tick(self, *names: str, seconds: float = ROUND_SECONDS) -> None:
        """Let time pass, then tick these replicas (all, if none is named)."""
        self.now += seconds
        for name in names or self.alive():
            if self._slots[name].replica is not None:
                self._step(name, self.replica(name).tick)

    def deliver(self, source: str, target: str, count: int = 1_000_000) -> int:
        """Deliver up to `count` waiting messages of one direction, returning how many were."""
        done = 0
        while done < count and self._slots[target].replica is not None:
            message = self.network.take(source, target)
            if message is None:
                break
            done += 1
            self._step(target, partial(self.replica(target).receive, source, message))
        return done

    def deliver_all(self, names: list[str] | None = None) -> int:
        """Deliver what now waits on all links between these replicas, but not what that causes."""
        waiting = [
            (source, target, self.network.waiting(source, target))
            for source, target in self.network.pairs
            if names is None or (source in names and target in names)
        ]
        return sum(self.deliver(source, target, count) for source, target, count in waiting if count)

    def rounds(self, count: int, names: list[str] | None = None) -> None:
        """Ticks and deliveries in turn, between these replicas only."""
        for _ in range(count):
            self.tick(*(names or ()))
            self.deliver_all(names)

    def link(self, *names: str) -> None:
        """Bring all links between these replicas up."""
        for one in names:
            for other in names:
                if one < other and one in self.alive() and other in self.alive():
                    self._connect(one, other)

    def link_all(self) -> None:
        """Bring all links up."""
        self.link(*self.names)

    def cut(self, one: str, other: str) -> None:
        """Break a link; what was under way is lost."""
        if self.network.disconnect(one, other):
            for name, peer in ((one, other), (other, one)):
                if self._slots[name].replica is not None:
                    self._step(name, partial(self.replica(name).disconnected, peer))

    def isolate(self, name: str) -> None:
        """Break all links of a replica."""
        for other in self.names:
            if other != name:
                self.cut(name, other)

    def _connect(self, one: str, other: str) -> None:
        if self.network.connect(one, other):
            for name, peer in ((one, other), (other, one)):
                if self._slots[name].replica is not None:
                    self._step(name, partial(self.replica(name).connected, peer))

    # -- clients

    def propose(self, name: str, command: bytes | None = None, *, raising: bool = False) -> Pending:
        """A client proposes a command (a new one, if none is given); `raising`: its callback raises."""
        if command is None:
            self.commands += 1
            command = b"c%d" % self.commands + PADDING
        pending = Pending(self, self.checkers.clients.begin(name, command), raising)
        self._proposed.append((pending, name, self.replica(name)))
        self._step(name, lambda: self.replica(name).propose(command, pending))
        return pending

    def barrier(self, name: str) -> Pending:
        """A client asks for a linearizable read."""
        pending = Pending(self, self.checkers.clients.begin(name, None), raising=False)
        self._step(name, lambda: self.replica(name).barrier(pending))
        return pending

    def told(self, proposal: Proposal, outcome: Outcome) -> None:
        """The engine reports an outcome to a client."""
        slot = self._slots[proposal.replica]
        if slot.disk.dead:
            return  # the process died before the answer could leave it
        try:
            self.checkers.clients.end(proposal, outcome, self.checkers.safety)
        except Violation as found:
            self._found = self._found or found

    # -- elections and snapshots

    def elect(self, name: str) -> None:
        """The election timeout of this replica ends, and it ticks. Nobody has heard a leader for a while then."""
        self.now += QUIET_SECONDS
        if self._slots[name].replica is not None:
            self._step(name, self.replica(name).end_election_timeout)
        if self._slots[name].replica is not None:
            self._step(name, self.replica(name).tick)

    def compact(self, name: str) -> None:
        """Ask a replica for a snapshot at its next tick."""
        self._step(name, self.replica(name).compact_soon)

    # -- crashes

    def crash(self, name: str, *, power_lost: bool = False) -> None:
        """Kill -9 a replica, or take its power away."""
        slot = self._slots[name]
        if slot.replica is None:
            return
        slot.disk.kill()
        slot.power_lost = power_lost
        self._bury(slot)

    def crash_after_writes(self, name: str, writes: int, *, power_lost: bool) -> None:
        """Let the replica die at a coming change of its disk."""
        slot = self._slots[name]
        slot.disk.crash_after(writes)
        slot.power_lost = power_lost

    def fail_disk(self, name: str, *, write: bool) -> None:
        """The next sync (or write) of this replica's disk reports an error."""
        disk = self._slots[name].disk
        disk.fail_next_sync, disk.fail_next_write = not write, write

    def restart(self, name: str) -> bool:
        """Start a replica again on what its disk kept. False when the engine refuses the files."""
        if self._slots[name].replica is not None:
            return True
        self.restarts += 1
        return self._boot(name)

    def _boot(self, name: str) -> bool:
        slot = self._slots[name]
        slot.disk.revive(power_lost=slot.power_lost, choice=self.choice)
        slot.power_lost = False
        self.checkers.started(name)

        def on_apply(index: int, command: bytes, digest_before: int) -> None:
            self._watch(lambda: self.checkers.applied(name, index, command, digest_before))

        def on_restore(items: list[tuple[int, bytes]], digest: int) -> None:
            self.installs += slot.replica is not None
            self._watch(lambda: self.checkers.safety.restored(name, items, digest))

        slot.machine = RecordingMachine(on_apply, on_restore)
        peers = tuple(peer for peer in self._groups[name] if peer != name)
        seat = Seat(
            name, peers, slot.disk, self._clock, self.choice,
            lambda peer, message: not slot.disk.dead and self.network.send(name, peer, message),
            slot.machine, self.settings, not slot.has_run,
        )  # fmt: skip
        try:
            slot.replica = self.engine.boot(seat)
        except SimulatedCrash:
            self._bury(slot)
            return False
        except StartRefused as refusal:
            self.restart_failures.append(f"{name}: {refusal}")
            slot.disk.kill()
            return False
        slot.has_run = True
        self._look(slot)
        return True

    def _clock(self) -> float:
        # Reading the clock takes time: code that loops until time has passed must come to an end.
        self.now += READING_SECONDS
        return self.now

    def _bury(self, slot: _Slot) -> None:
        slot.replica = None
        for other in self.names:
            if other != slot.name:
                self.cut(slot.name, other)

    def _watch(self, check: Callable[[], None]) -> None:
        try:
            check()
        except Violation as found:
            self._found = self._found or found

    def _step(self, name: str, action: Callable[[], object]) -> None:
        """Let one thing happen in a replica, then look at it."""
        slot = self._slots[name]
        if slot.replica is None:
            return
        try:
            action()
        except SimulatedCrash:
            pass
        except EngineStopped as stopped:
            if not slot.disk.failed:
                raise Violation("EngineFailed", f"{name} stopped itself on a healthy disk: {stopped}") from stopped
            slot.disk.kill()
        except Exception as error:
            if self.engine.errors_are_violations:
                raise Violation("UnexpectedError", f"{name}: {error!r}") from error
            self.errors.append(f"{name}: {error!r}")  # as in the library's tick thread, which logs and goes on
        if slot.disk.dead:
            self._bury(slot)
        else:
            self._look(slot)
        if self._found is not None:
            raise self._found

    def _look(self, slot: _Slot) -> None:
        if slot.replica is not None:
            self.checkers.observe(slot.name, slot.replica.view())

    # -- the end of a run

    def heal(self) -> None:
        """Repair everything, wait until the group works again, and check that nothing acknowledged was lost.

        Raises:
            Violation: `Convergence` when that takes more than `HEALING_ROUNDS` rounds, or any other rule.
        """
        natural = self.settings.natural_elections
        for slot in self._slots.values():
            slot.disk.disarm()
            slot.disk.fail_next_sync = slot.disk.fail_next_write = False
        for name in self.names:
            if not self.restart(name):
                raise Violation("Convergence", f"does not start again: {'; '.join(self.restart_failures[-1:]) or name}")
        self.link_all()
        probe: Pending | None = None
        for number in range(HEALING_ROUNDS):
            self.tick(seconds=BRISK_SECONDS if natural else ROUND_SECONDS)
            self.deliver_all()
            served = probe is not None and probe.acknowledged
            if served and self._agree():
                break
            leaders = self.leaders()
            if not natural and (number % 12 == 11 or (number % 4 == 3 and not leaders)):
                # Somebody hears of no leader, or only of one of an older term, and so the election timeout ends.
                self.elect(self.names[number // 4 % len(self.names)])
            elif leaders and number % 4 == 0 and not served:
                probe = self.propose(leaders[-1])
        else:
            state = {name: (len(self.items(name)), self.replica(name).view().commit_index) for name in self.alive()}
            raise Violation("Convergence", f"not all replicas work {HEALING_ROUNDS} rounds after healing: {state}")
        self._check_answers()
        for name in self.names:
            check_durability(self.checkers.clients.acknowledged, name, self._machine(name).items)

    def _check_answers(self) -> None:
        self.rounds(4)
        for pending, name, replica in self._proposed:
            if pending.outcome is None and self._slots[name].replica is replica:
                number = pending.proposal.number
                raise Violation("EveryProposalEnds", f"proposal {number} at {name} never had an outcome")

    def _machine(self, name: str) -> RecordingMachine:
        machine = self._slots[name].machine
        assert machine is not None
        return machine

    def _agree(self) -> bool:
        last = {self._machine(name).items[-1:] == self._machine(self.names[0]).items[-1:] for name in self.names}
        return last == {True}


@define(eq=False)
class Pending:
    """A client that waits; called with the outcome."""

    world: World
    proposal: Proposal
    raising: bool
    outcome: Outcome | None = None

    def __call__(self, outcome: Outcome) -> None:
        """Take the outcome."""
        self.outcome = outcome
        self.world.told(self.proposal, outcome)
        if self.raising:
            raise RuntimeError("a client callback raises")

    @property
    def acknowledged(self) -> bool:
        """Whether the engine said that the command is committed and applied."""
        return isinstance(self.outcome, Acknowledged)
