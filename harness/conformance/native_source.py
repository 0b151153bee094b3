"""Records of `NativeNetwork` walks: leader and host machines over the real replicated state, with faults and true time.

The network of tests/core carries the effects out and is the tracer of the environment: it tells of crashes, of what the
store accepts, and when leases run out in true time.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from attrs import Factory, define, field

from callboard.core.commands import Command, CommitNativeBatch
from callboard.core.native_host import NativeHost
from callboard.core.native_leader_records import StateChanged
from callboard.core.records import Answer
from callboard.core.slot_records import HostMark
from callboard.core.tracing import trace_applied
from harness.conformance.tracelines import Record, Recorder
from harness.violation import PropertyViolation
from tests.core import native_walk
from tests.core.native_checks import check_rights
from tests.core.native_network import NativeNetwork
from tests.core.native_parts import NAMES, NAMESPACE, Clock, Entry, Process, Turn

WRITES_MAX = 60
"""On their way to the store at the same time."""
BUSY_SLOTS = 3
"""Most turns run in few slots, so that a slot with turns also changes hands."""


@define
class Write:
    """Past a host's gate, not yet at the store."""

    incarnation: int
    kind: str
    slot: int
    fence: int


@define(eq=False)
class TracedNetwork(NativeNetwork):
    """A `NativeNetwork` that records. Writes take their time to the store, so that it refuses some."""

    recorder: Recorder = field(init=False)
    writes: list[Write] = Factory(list)
    store: dict[tuple[str, int], int] = Factory(dict)
    acting: bool = False
    """A turn asks the machine, not one of the network's checks."""

    def __attrs_pre_init__(self) -> None:
        self.recorder = Recorder(lambda: self.true_ms)

    def _apply(self, command: Command) -> Answer:
        before = self.state
        answer = super()._apply(command)
        trace_applied(self.recorder.sink("log"), before, self.state, answer)
        return answer

    def _open_office(self) -> None:
        super()._open_office()
        office = self.office
        sink = self._clocked(f"leader {office.epoch}", lambda: office.clock)
        office.machine.trace = sink
        begun = {"namespace": NAMESPACE, "epoch": office.epoch, "now_ms": office.machine.started_ms}
        sink("BeginOffice", {**begun, "version": self.namespace.version.wire})

    def _machine(self, name: str, kinds: tuple[str, ...]) -> NativeHost:
        machine = super()._machine(name, kinds)

        def clock() -> Clock:
            return next(each.clock for each in self.processes if each.machine is machine)

        machine.trace = self._clocked(f"host {name}", clock)
        return machine

    def _clocked(self, process: str, clock: Callable[[], Clock]) -> Callable[[str, dict[str, Any]], None]:
        def write(event: str, fields: dict[str, Any]) -> None:
            if event in {"Admit", "Effect"} and not self.acting:
                return
            reads = clock()
            if "gate_until_ms" in fields:
                fields = {**fields, "ends_at": _true_ms(reads, fields["gate_until_ms"])}
            times = {"clock_offset_ms": reads.offset_ms, "clock_rate_ppm": reads.rate_ppm}
            self.recorder.add(process, event, {**fields, **times})

        return write

    def commit(self, entry: Entry, *, lost: bool = False) -> None:
        if entry.command is None and not lost and entry.office.epoch == self.state.epoch:
            self.recorder.add("log", "ConfirmRound", {"epoch": entry.office.epoch, "round": entry.number})
        super().commit(entry, lost=lost)

    def crash(self, process: Process) -> None:
        self.recorder.add(f"host {process.name}", "Crash", {"incarnation": process.machine.incarnation})
        super().crash(process)

    def effect(self, process: Process, turn: Turn) -> None:
        seen = len(self.recorder.records)
        self.acting = True
        super().effect(process, turn)
        self.acting = False
        if len(self.recorder.records) > seen:
            right = turn.right
            self.writes.append(Write(process.machine.incarnation, right.actor_type, right.slot, right.fence))

    def admit(self, process: Process, kind: str, slot: int, *, stubborn: bool = False) -> None:
        self.acting = True
        super().admit(process, kind, slot, stubborn=stubborn)
        self.acting = False

    def end_turn(self, process: Process, turn: Turn) -> None:
        """The turn has nothing more to do."""
        process.turns.remove(turn)
        right, who = turn.right, process.machine.incarnation
        what = {"incarnation": who, "actor_type": right.actor_type, "slot": right.slot, "fence": right.fence}
        self.recorder.add(f"host {process.name}", "EndTurn", what)

    def write_arrives(self, at: int) -> None:
        """The store compares fences."""
        write = self.writes.pop(at)
        key = (write.kind, write.slot)
        accepts = write.fence >= self.store.get(key, 0)
        if accepts:
            self.store[key] = write.fence
        what = {"incarnation": write.incarnation, "actor_type": write.kind, "slot": write.slot, "fence": write.fence}
        self.recorder.add("store", "StoreAccepts" if accepts else "StoreRefuses", what)

    def operate(self, mark: HostMark) -> None:
        """An operator's command commits: a weight, a cordon, a drain."""
        self._apply(CommitNativeBatch(self.state.epoch, NAMESPACE, marks=(mark,)))
        for each in self.offices:
            if each.follows:
                each.inbox.append(StateChanged(self.namespace, self.state.epoch))


def _true_ms(clock: Clock, reading_ms: int) -> int:
    """The first true time at which the clock shows the reading or more."""
    return -(-(reading_ms - clock.offset_ms) * 1_000_000 // (1_000_000 + clock.rate_ppm))


def write_arrives(network: NativeNetwork, random: Random) -> None:
    """Some writes reach the store, younger ones often first."""
    assert isinstance(network, TracedNetwork)
    while network.writes and (len(network.writes) > WRITES_MAX or random.random() < 0.4):
        newest = len(network.writes) - 1
        network.write_arrives(newest if random.random() < 0.8 else random.randrange(newest + 1))


def operate(network: NativeNetwork, random: Random) -> None:
    """An operator shifts load."""
    assert isinstance(network, TracedNetwork)
    name = random.choice(NAMES)
    network.operate(random.choice([HostMark(name, weight=random.choice([50, 100, 400])), HostMark(name)]))


def busy(network: NativeNetwork, random: Random) -> None:
    """Calls come to a slot that is held, and have effects; what ran there before may end, or go on.

    Slots with writes of earlier rights on their way come first: the store is to refuse some.
    """
    assert isinstance(network, TracedNetwork)
    processes = [each for each in network.alive() if each.machine._rights.any_live()]  # noqa: SLF001
    if not processes:
        return
    process = random.choice(processes)
    slots = process.machine._rights.live_slots()  # noqa: SLF001
    who = process.machine.incarnation
    waiting = {(write.kind, write.slot) for write in network.writes if write.incarnation != who} & set(slots)
    kind, slot = random.choice(sorted(waiting) or [each for each in slots if each[1] < BUSY_SLOTS] or slots)
    network.admit(process, kind, slot, stubborn=random.random() < 0.3)
    for turn in process.turns:
        if turn.right.slot == slot or random.random() < 0.2:
            network.effect(process, turn)


def end_turn(network: NativeNetwork, random: Random) -> None:
    """A turn ends."""
    assert isinstance(network, TracedNetwork)
    processes = [each for each in network.alive() if each.turns]
    if processes:
        process = random.choice(processes)
        network.end_turn(process, random.choice(process.turns))


STEPS: dict[native_walk.Step, int] = {
    **native_walk.STEPS,
    native_walk.end_turn: 0,
    end_turn: 16,
    write_arrives: 12,
    operate: 10,
    busy: 24,
}


def record_walk(seed: int, steps: int, *, stalls: int = 0) -> tuple[list[Record], str | None]:
    """The records of one walk, and the property that it broke, if any (then the records end there)."""
    random = Random(seed)
    network = TracedNetwork(random)
    chosen, weights = [*STEPS, native_walk.stall], [*STEPS.values(), stalls]
    try:
        native_walk.start(network, random)
        for step in random.choices(chosen, weights, k=steps):
            step(network, random)
            check_rights(network)
        while network.writes:
            network.write_arrives(len(network.writes) - 1)
    except PropertyViolation as violation:
        return network.recorder.records, violation.name
    return network.recorder.records, None
