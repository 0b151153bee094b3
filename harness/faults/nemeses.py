"""Faults as data, and what carries them out.

A `FaultSpec` says what happens, when, for how long and to whom; with the run's seed it says everything, so a list of
them is a schedule that can be stored and replayed. Targets like "leader" are resolved when the fault begins. Each kind
is a `Nemesis`: it resolves its target, injects, proves that the fault bites, and heals.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from attrs import Factory, asdict, define, field, frozen

from harness.faults.cluster import FaultCluster
from harness.faults.history import Recorder
from harness.faults.managed import Managed

Value = int | str


class ScheduleError(ValueError):
    """A schedule cannot be used; the message names the entry and the field."""


@frozen
class FaultSpec:
    """One fault. Faults of one `lane` follow each other; lanes run side by side."""

    kind: str
    at_s: float
    duration_s: float
    lane: str = "network"
    target: str = ""
    parameters: Mapping[str, Value] = Factory(dict)

    def as_json(self) -> dict[str, Any]:
        """For files."""
        return asdict(self)

    def __str__(self) -> str:
        more = "".join(f" {name}={value}" for name, value in self.parameters.items())
        target = f" {self.target}" if self.target else ""
        return f"{self.at_s:5.1f} s + {self.duration_s:4.1f} s  {self.kind}{target}{more}"


def spec_of(entry: Any, number: int) -> FaultSpec:
    """The inverse of `FaultSpec.as_json`. Raises ScheduleError."""
    if not isinstance(entry, dict):
        raise ScheduleError(f"fault {number} is {entry!r}, not an object")
    unknown = entry.keys() - {"kind", "at_s", "duration_s", "lane", "target", "parameters"}
    if unknown:
        raise ScheduleError(f"fault {number} has unknown fields {', '.join(sorted(unknown))}")
    try:
        spec = FaultSpec(
            str(entry["kind"]),
            float(entry["at_s"]),
            float(entry["duration_s"]),
            str(entry.get("lane", "network")),
            str(entry.get("target", "")),
            dict(entry.get("parameters", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ScheduleError(f"fault {number}: {error!r}") from None
    if spec.kind not in KINDS:
        raise ScheduleError(f"fault {number} has kind {spec.kind!r}; known are {', '.join(sorted(KINDS))}")
    if spec.at_s < 0 or spec.duration_s <= 0:
        raise ScheduleError(f"fault {number} lasts from {spec.at_s} s on for {spec.duration_s} s")
    return spec


@define(eq=False)
class World:
    """What a fault may touch and ask."""

    cluster: FaultCluster
    recorder: Recorder
    random: random.Random
    busy: set[str] = field(factory=set)
    """Processes that some fault is doing something to."""

    def replicas(self) -> list[str]:
        """Names of all replicas."""
        return list(self.cluster.replicas)

    def hosts(self) -> list[str]:
        """Names of the hosts that run."""
        return [name for name, host in self.cluster.hosts.items() if host.alive]

    async def pick_replicas(self, target: str) -> list[str]:
        """Replicas by a target: leader, follower, one, minority, majority, all, or names with commas."""
        names = self.replicas()
        match target:
            case "leader":
                return [await self.leader()]
            case "follower":
                followers = [name for name in names if name != await self.leader()]
                return [self.random.choice(followers or names)]
            case "one":
                return [self.random.choice(names)]
            case "minority":
                return self.random.sample(names, max(1, (len(names) - 1) // 2))
            case "majority":
                return self.random.sample(names, len(names) // 2 + 1)
            case "all":
                return names
        return self.named(target, names)

    def pick_hosts(self, target: str) -> list[str]:
        """Hosts that run, by a target: one, all, or names with commas."""
        names = self.hosts()
        match target:
            case "one":
                return [self.random.choice(names)] if names else []
            case "all":
                return names
        return self.named(target, list(self.cluster.hosts))

    def pick_etcd(self, target: str) -> list[str]:
        """Members of etcd, by a target: one, majority, all, or names with commas."""
        names = list(self.cluster.etcd)
        match target:
            case "one":
                return self.random.sample(names, min(1, len(names)))
            case "majority":
                return self.random.sample(names, len(names) // 2 + 1) if names else []
            case "all":
                return names
        return self.named(target, names)

    @staticmethod
    def named(target: str, known: Sequence[str]) -> list[str]:
        """Names with commas. Raises ScheduleError for one that is not known."""
        names = target.split(",")
        for name in names:
            if name not in known:
                raise ScheduleError(f"target {name!r} is none of {', '.join(known)}")
        return names

    async def leader(self) -> str:
        """The replica in office; a drawn one if nobody is within some seconds."""
        try:
            return (await self.cluster.leader(deadline_s=8)).name
        except TimeoutError:
            return self.random.choice(self.replicas())

    def process(self, name: str) -> Managed:
        """By its name."""
        return next(process for process in self.cluster.processes() if process.name == name)

    def note_process(self, name: str, what: str) -> None:
        """Write down what was done to a process."""
        self.recorder.note("process", name=name, what=what)


class Nemesis(Protocol):
    """One fault. Called in this order; `heal` also after a failure of the others."""

    async def resolve(self, world: World, /) -> str:
        """Decide whom it hits; returns it for people. An empty text: nobody is there to be hit."""

    async def inject(self, world: World, /) -> None:
        """Make it happen."""

    async def bit(self, world: World, /) -> str:
        """What proves that it had an effect; empty if nothing does."""

    async def heal(self, world: World, /) -> None:
        """Undo it. Idempotent."""


Maker = Callable[[FaultSpec], Nemesis]
KINDS: dict[str, Maker] = {}
"""All kinds of faults, filled by the modules that define them."""


def kind(*names: str) -> Callable[[Any], Any]:
    """Class decorator: register the nemesis under these kinds."""

    def register(maker: Any) -> Any:
        for name in names:
            KINDS[name] = maker
        return maker

    return register


def number(spec: FaultSpec, name: str, default: int) -> int:
    """An integer parameter. Raises ScheduleError."""
    value = spec.parameters.get(name, default)
    if not isinstance(value, int):
        raise ScheduleError(f"parameter {name} of {spec.kind} is {value!r}, not an integer")
    return value


def text(spec: FaultSpec, name: str, default: str, choices: Iterable[str]) -> str:
    """A parameter out of some. Raises ScheduleError."""
    value = str(spec.parameters.get(name, default))
    if value not in choices:
        raise ScheduleError(f"parameter {name} of {spec.kind} is {value!r}, none of {', '.join(choices)}")
    return value
