"""Runs schedules, shortens failing ones, and reports."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

from attrs import define, evolve, field, frozen

from harness.raftsim.checkers import Violation
from harness.raftsim.replica import EngineUnderTest
from harness.raftsim.schedule import LEADER, Event, Schedule, generate
from harness.raftsim.world import World


@frozen
class EngineKind:
    """An engine to simulate, and the environment that it needs."""

    engine: EngineUnderTest
    environment: Callable[[], AbstractContextManager[None]] = nullcontext


@frozen
class Failure:
    """A schedule in which a rule broke."""

    schedule: Schedule
    rule: str
    detail: str
    step: int
    """Number of the event at which it was noticed; the number of events when it was noticed while healing."""


@define
class Totals:
    """What a series of schedules did, in numbers."""

    schedules: int = 0
    events: int = 0
    proposals: int = 0
    acknowledged: int = 0
    messages: int = 0
    disk_changes: int = 0
    crashes: int = 0
    restarts: int = 0
    elections: int = 0
    """Terms in which somebody led."""
    cuts: int = 0
    """Times that a follower removed entries that contradicted its leader's."""
    installs: int = 0
    """Snapshots of leaders taken over."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    rules: Counter[str] = field(factory=Counter)
    failures: list[Failure] = field(factory=list)

    @property
    def per_second(self) -> float:
        """Schedules per second of processor time."""
        return self.schedules / self.cpu_seconds if self.cpu_seconds else 0.0


class _Player:
    """Plays the events of one schedule in a world."""

    def __init__(self, world: World, schedule: Schedule) -> None:
        self.world = world
        self.schedule = schedule
        self.lagging: dict[str, int] = {}
        self.held: dict[tuple[str, str], int] = {}
        self.crashes = 0

    def play(self, event: Event) -> None:
        """Let one event happen; events that make no sense now are skipped."""
        kind, *numbers = event
        self.lagging = {name: left - 1 for name, left in self.lagging.items() if left > 1}
        self.held = {link: left - 1 for link, left in self.held.items() if left > 1}
        getattr(self, f"_{kind}")(*numbers)

    def _name(self, number: int) -> str | None:
        if number == LEADER:
            leaders = self.world.leaders()
            return leaders[-1] if leaders else None
        name = self.world.names[number]
        return name if name in self.world.alive() else None

    def _round(self) -> None:
        awake = [name for name in self.world.alive() if name not in self.lagging]
        if awake:
            self.world.tick(*awake)
            self._deliver_among(awake)

    def _deliver_among(self, names: list[str]) -> None:
        waiting = [(link, self.world.network.waiting(*link)) for link in self.world.network.pairs]
        for (source, target), count in waiting:
            if count and source in names and target in names and (source, target) not in self.held:
                self.world.deliver(source, target, count)

    def _tick(self, one: int) -> None:
        if (name := self._name(one)) is not None:
            self.world.tick(name, seconds=0.02)

    def _deliver(self, which: int, count: int) -> None:
        links = [link for link in self.world.network.pairs if self.world.network.waiting(*link)]
        if links:
            self.world.deliver(*links[which % len(links)], count)

    def _hold(self, one: int, other: int, events: int) -> None:
        self.held[self.world.names[one], self.world.names[other]] = events

    def _propose(self, one: int, count: int) -> None:
        for _ in range(count):
            if (name := self._name(one)) is not None:
                self.world.propose(name)

    def _propose_to_deposed(self, count: int) -> None:
        for _ in range(count):
            if leaders := self.world.leaders():
                self.world.propose(leaders[0])

    def _depose(self, how: int, one: int, proposals: int) -> None:
        """The leader is cut off (how=0) or killed; the others elect somebody, who gets commands."""
        if (leader := self._name(LEADER)) is None:
            return
        if how == 0:
            self.world.isolate(leader)
        else:
            self._kill(self.world.names.index(leader))
        others = [name for name in self.world.alive() if name != leader]
        self.world.link(*others)
        if self.world.names[one] in others:
            self.world.elect(self.world.names[one])
        for _ in range(4):
            self._deliver_among(others)
        self.world.tick(*others, seconds=0.02)
        self._propose(one, proposals)
        self._deliver_among(others)

    def _barrier(self, one: int) -> None:
        if (name := self._name(one)) is not None:
            self.world.barrier(name)

    def _elect(self, one: int) -> None:
        if (name := self._name(one)) is not None:
            self.world.elect(name)

    def _compact(self, one: int) -> None:
        if (name := self._name(one)) is not None:
            self.world.compact(name)

    def _cut(self, one: int, other: int) -> None:
        if one != other:
            self.world.cut(self.world.names[one], self.world.names[other])

    def _heal(self, one: int, other: int) -> None:
        self.world.link(self.world.names[one], self.world.names[other])

    def _heal_all(self) -> None:
        self.world.link_all()

    def _isolate(self, one: int) -> None:
        if (name := self._name(one)) is not None:
            self.world.isolate(name)

    def _lag(self, one: int, events: int) -> None:
        self.lagging[self.world.names[one]] = events

    def _advance(self, tenths: int) -> None:
        self.world.now += tenths / 10

    def _kill(self, one: int) -> None:
        if (name := self._name(one)) is not None:
            self.crashes += 1
            self.world.crash(name, power_lost=self.schedule.power)

    def _kill_all(self) -> None:
        for name in self.world.alive():
            self.crashes += 1
            self.world.crash(name, power_lost=self.schedule.power)

    def _crash_at_write(self, one: int, writes: int, _nonce: int) -> None:
        if (name := self._name(one)) is not None:
            self.crashes += 1
            self.world.crash_after_writes(name, writes, power_lost=self.schedule.power)

    def _fail_disk(self, one: int, write: int) -> None:
        if self.schedule.power and (name := self._name(one)) is not None:
            self.world.fail_disk(name, write=bool(write))

    def _restart(self, one: int) -> None:
        name = self.world.names[one]
        if name not in self.world.alive() and self.world.restart(name):
            self.world.link(*self.world.names)


def run_schedule(kind: EngineKind, schedule: Schedule, totals: Totals | None = None) -> Failure | None:
    """Play a schedule, heal, and check. Returns the first broken rule."""
    step = 0
    world: World | None = None
    player: _Player | None = None
    with kind.environment():
        try:
            world = World(kind.engine, schedule.size, schedule.settings, schedule.seed)
            world.link_all()
            player = _Player(world, schedule)
            for event in schedule.events:
                player.play(event)
                step += 1
            world.heal()
        except Violation as found:
            return Failure(schedule, found.rule, found.detail, step)
        finally:
            if totals is not None and world is not None and player is not None:
                _count(totals, world, player, step)
    return None


def _count(totals: Totals, world: World, player: _Player, step: int) -> None:
    totals.schedules += 1
    totals.events += step
    totals.proposals += world.checkers.clients.proposals
    totals.acknowledged += len(world.checkers.clients.acknowledged)
    totals.messages += world.network.sent
    totals.disk_changes += sum(world.disk(name).writes for name in world.names)
    totals.crashes += player.crashes
    totals.restarts += world.restarts
    totals.elections += len(world.checkers.election.leaders)
    totals.cuts += world.checkers.matching.cuts
    totals.installs += world.installs


def run_many(
    kind: EngineKind,
    seeds: Iterator[int],
    *,
    size: int | None = None,
    power: bool | None = None,
    stop_after: int | None = None,
    on_failure: Callable[[Failure], None] = lambda _failure: None,
) -> Totals:
    """Run the schedules of these seeds; stop after `stop_after` failures, if given."""
    totals = Totals()
    began, cpu_began = time.perf_counter(), time.process_time()
    for seed in seeds:
        failure = run_schedule(kind, generate(seed, size=size, power=power), totals)
        if failure is not None:
            totals.failures.append(failure)
            totals.rules[failure.rule] += 1
            on_failure(failure)
            if stop_after is not None and len(totals.failures) >= stop_after:
                break
    totals.seconds = time.perf_counter() - began
    totals.cpu_seconds = time.process_time() - cpu_began
    return totals


def shorten(kind: EngineKind, failure: Failure, max_runs: int = 600) -> Failure:
    """Remove events as long as the same rule breaks (delta debugging), with at most `max_runs` runs."""
    best = failure
    events = list(failure.schedule.events[: failure.step + 1])
    part = max(1, len(events) // 2)
    runs = 0
    while runs < max_runs:
        position, progress = 0, False
        while position < len(events) and runs < max_runs:
            candidate = events[:position] + events[position + part :]
            runs += 1
            found = run_schedule(kind, evolve(failure.schedule, events=tuple(candidate)))
            if found is not None and found.rule == failure.rule:
                best, events, progress = found, candidate, True
            else:
                position += part
        if part == 1 and not progress:
            break
        part = max(1, part // 2)
    return best
