"""Traces of table dissemination under policy `eventual`: leader and host machines of core under a drawn network.

The network of tests/core carries the effects out. Lines come from what the machines tell, and, for what they have no
word for (processes, hellos), from the network. tla/doc/Traces.md says why the projection is sound.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from attrs import Factory, define, evolve, field

from callboard.core.commands import Command
from callboard.core.handoff_messages import RenewalAnswer
from callboard.core.native_host import NativeHost
from callboard.core.native_host_records import HostEffect, HostEvent, SendHello, SendRenewal, SendTableRequest, Stopped
from callboard.core.native_leader_records import (
    HelloReceived,
    LeaderEffect,
    RenewalReceived,
    SendAnswer,
    SendTable,
    SendWelcome,
    TableRequested,
)
from callboard.core.records import Answer
from callboard.core.versions import Policy
from harness.conformance.exclusive import UNKNOWN, NotProjectableError
from harness.conformance.tracelines import Line, Trace
from tests.core import native_walk
from tests.core.native_network import NativeNetwork
from tests.core.native_parts import NAMES, NAMESPACE, SETTINGS, Office, Path, Process

ISOLATIONS_MS = (0, 400, 2000)
"""The longest isolation, walk after walk; 0 for none."""
Change = tuple[str, int, str]
"""Join or Remove, the incarnation in the log, and the token of its process."""


@define
class _Books:
    """What the lines so far say of one host. `life` counts its incarnations, as the module's host does.

    `isolated`: it has stopped because it heard nothing for so long. `same`: the leader's word that ends this is on its
    way. `serves`: that it runs turns has been said since one of these changed.
    """

    up: bool = False
    life: int = 0
    installed: int = 0
    known: int = 0
    isolated: bool = False
    same: bool = False
    serves: bool = False


@define(eq=False)
class FeedNetwork(NativeNetwork):
    """A `NativeNetwork` that writes lines. A deposed leader falls silent, and fronts repeat no hellos."""

    lines: list[Line] = Factory(list)
    books: dict[int, _Books] = Factory(lambda: {at + 1: _Books() for at in range(len(NAMES))})
    lives: dict[str, tuple[int, int]] = Factory(dict)
    """Host and life of a process token."""
    lives_of_incarnations: dict[int, tuple[int, int]] = Factory(dict)
    renewed: dict[tuple[int, int], int] = Factory(dict)
    """The version that a renewal told, by incarnation and number."""
    commits: list[tuple[int, list[Change]]] = Factory(list)
    """Not followed by the leader yet, by version."""
    versions: dict[int, int] = Factory(lambda: {0: 0})
    """From versions of the code to those of the module."""
    version: int = 0
    epochs: int = 1
    base: int = 0
    said: set[tuple[int, int, int]] = Factory(set)
    """Reports on their way: host, life, version."""
    refused: set[tuple[int, int]] = Factory(set)
    hears: tuple[int, int, int] | None = None
    """The report that the leader takes in, if it does: host, life, version."""
    asked: bool = False
    """The leader hears of a host that it wants the whole table."""
    begun: bool = field(init=False, default=False)

    def _line(self, name: str, **fields: Any) -> None:
        self.lines.append({"name": name, **fields})

    # ---- the log, as the leader follows it

    def _apply(self, command: Command) -> Answer:
        before = self.state.native.get(NAMESPACE)
        answer = super()._apply(command)
        after = self.state.native.get(NAMESPACE)
        if after is None or before is after:
            return answer
        was = {} if before is None else before.members
        changes: list[Change] = []
        for name in sorted(was.keys() | after.members.keys()):
            old, new = was.get(name), after.members.get(name)
            if new is not None and (old is None or old.incarnation != new.incarnation):
                changes.append(("Join", new.incarnation, new.host.process))
            elif old is not None and new is None:
                changes.append(("Remove", old.incarnation, old.host.process))
        if before is None or after.version != before.version:
            self.commits.append((after.version.wire, changes))
        return answer

    def _follow(self, up_to: int) -> None:
        """A batch becomes a version for each change in it; nobody is ever sent those between."""
        while self.commits and self.commits[0][0] <= up_to:
            wire, changes = self.commits.pop(0)
            for name, incarnation, token in changes:
                if name == "Join":
                    self._joins(incarnation, token)
                host, life = self.lives_of_incarnations[incarnation]
                self.version += 1
                self._line(name, i=host, k=life, v=self.version)
                if name == "Join":
                    self.books[host].known = 0
                    self.said.discard((host, life, 0))
            self.versions[wire] = self.version

    def _joins(self, incarnation: int, token: str) -> None:
        """A process that was removed before it knew of its first incarnation is given another."""
        host, life = self.lives[token]
        if (host, life) in self.lives_of_incarnations.values():
            if self.books[host].life != life:
                raise NotProjectableError("a process joins again after another one of its name has started")
            alive = self.books[host].up
            life = self._next_life(host)
            self.lives[token] = host, life
            self._repeat(host, life, 0)
            if not alive:
                self._dies(host)
        if any(who == host and other > life for who, other in self.lives_of_incarnations.values()):
            raise NotProjectableError("a process joins after a later one of its name has joined")
        self.lives_of_incarnations[incarnation] = host, life

    # ---- leaders

    def _open_office(self) -> None:
        super()._open_office()
        self._follow(self.namespace.version.wire)
        self.office.machine.trace = self._told_by_leader
        if self.begun:
            # The next leader has no history: it compares versions with the one that it began with.
            self.epochs += 1
            self._line("NewLeader", v=self.version, e=self.epochs)
            for books in self.books.values():
                books.known = self.version
            if self.base < self.version:
                self.base = self.version
                self._line("Compact", v=self.base)
        self.begun = True

    def take_office(self, *, follows: bool = False) -> None:
        old = self.office
        old.machine.trace = None
        super().take_office(follows=follows)
        old.inbox.clear()
        for path in self.paths:
            if path.leader is old:
                path.up.clear()
                self.break_path(path)

    def _move(self, path: Path) -> None:
        """Hosts say their hellos themselves."""

    def _carry_out_leader(self, office: Office, effect: LeaderEffect) -> None:
        if isinstance(effect, SendTable) and office is not self.office:
            return
        if isinstance(effect, SendWelcome) and office is self.office:
            self._reported()
        if isinstance(effect, SendAnswer) and office is self.office:
            self._answers(effect.answer)
        super()._carry_out_leader(office, effect)

    def deliver_up(self, path: Path) -> None:
        event = path.up[0]
        if path.leader is self.office:
            match event:
                case HelloReceived(_, hello):
                    self.hears = (*self.lives[hello.host.process], self._version(hello.have_version))
                case TableRequested(_, request) if request.incarnation in self.lives_of_incarnations:
                    life = self.lives_of_incarnations[request.incarnation]
                    self.hears = (*life, self._version(request.have_version))
                    self.asked = True
                case RenewalReceived(_, renewal) if renewal.incarnation in self.lives_of_incarnations:
                    self.renewed[renewal.incarnation, renewal.number] = self._version(renewal.version)
                case _:
                    pass
        super().deliver_up(path)
        self.hears, self.asked = None, False

    def _version(self, wire: int) -> int:
        return self.versions.get(wire, UNKNOWN)

    def _reported(self) -> None:
        """The leader takes in what a member says that it has."""
        if self.hears is None:
            return
        host, life, version = self.hears
        self.hears = None
        self._repeat(host, life, version)
        if (host, life, version) not in self.said:
            raise NotProjectableError("a report that was said once is heard twice")
        self.said.discard((host, life, version))
        self.books[host].known = version if version >= self.base else 0
        self._line("RecvReport", i=host, k=life, v=version)

    def _answers(self, answer: RenewalAnswer) -> None:
        """The leader answers a renewal, whatever table the host has: what ends its isolation is on its way."""
        host, life = self.lives_of_incarnations[answer.incarnation]
        books, version = self.books[host], self.renewed.get((answer.incarnation, answer.number), UNKNOWN)
        if self.settings.max_isolation_ms and books.up and books.life == life:
            self._repeat(host, life, version)
            if (host, life, version) in self.said:
                self._line("AnswerRenewal", i=host, k=life, v=version)
                books.same = True

    def _repeat(self, host: int, life: int, version: int) -> None:
        """Hosts say the same again and again: once more, if it is still so and nobody has the word on its way."""
        books = self.books[host]
        if books.up and (books.life, books.installed) == (life, version) and (host, life, version) not in self.said:
            self.said.add((host, life, version))
            self._line("SendReport", i=host, k=life, v=version)

    def _told_by_leader(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "FollowLog":
            self._follow(fields["version"])
        elif event == "SendTable":
            self._reported()
            host, _ = self.lives_of_incarnations[fields["incarnation"]]
            for from_version, to_version in fields["path"]:
                self._sent(host, from_version, self._version(to_version))
        elif event == "RefuseGone" and fields["incarnation"] in self.lives_of_incarnations:
            self._refused(*self.lives_of_incarnations[fields["incarnation"]])

    def _sent(self, host: int, from_wire: int, to: int) -> None:
        books, start = self.books[host], self._version(from_wire)
        if from_wire == 0 and books.known < to:
            self._line("SendSnapshot", i=host, v=to, q=self.asked)
            books.known = to
        elif from_wire != 0 and start != to:
            self._line("SendDelta", i=host, f=start, v=to)
            books.known = to

    def _refused(self, host: int, life: int) -> None:
        """Of a process that is gone there may be no word on its way; then nobody hears the answer either."""
        if self.books[host].life == life:
            self._repeat(host, life, self.books[host].installed)
        versions = sorted(version for who, its, version in self.said if (who, its) == (host, life))
        if versions:
            self.said.discard((host, life, versions[0]))
            self.refused.add((host, life))
            self._line("RefuseGone", i=host, k=life, v=versions[0])

    # ---- hosts

    def _machine(self, name: str, kinds: tuple[str, ...]) -> NativeHost:
        machine = super()._machine(name, kinds)
        host = NAMES.index(name) + 1
        self.lives[machine.record.process] = host, self._next_life(host)
        machine.trace = lambda event, fields: self._told_by_host(host, machine, event, fields)
        return machine

    def _next_life(self, host: int) -> int:
        """Another incarnation: of a host that was told that it is gone, or of one that starts."""
        books = self.books[host]
        if (host, books.life) in self.refused and books.up:
            self.refused.discard((host, books.life))
            self.books[host] = books = _Books(up=True, life=books.life + 1, known=books.known)
            self._line("RecvGone", i=host, k=books.life)
        else:
            # Also one that learns from a table that it is gone, without an answer: as if it had started anew.
            self._dies(host)
            self.books[host] = books = _Books(up=True, life=books.life + 1, known=books.known)
            self._line("Start", i=host, k=books.life)
        return books.life

    def _dies(self, host: int) -> None:
        books = self.books[host]
        if books.up:
            self._line("Crash", i=host, k=books.life)
            self.books[host] = _Books(life=books.life, known=books.known)
            self.refused = {each for each in self.refused if each[0] != host}

    def crash(self, process: Process) -> None:
        super().crash(process)
        self._dies(NAMES.index(process.name) + 1)

    def _carry_out_host(self, process: Process, effect: HostEffect) -> None:
        host, life = self.lives[process.machine.record.process]
        match effect:
            case SendHello(_, hello):
                self._repeat(host, life, self._version(hello.have_version))
            case SendTableRequest(_, request):
                self._repeat(host, life, self._version(request.have_version))
            case SendRenewal(_, renewal) if self.settings.max_isolation_ms:
                self._repeat(host, life, self._version(renewal.version))
            case Stopped():
                self._dies(host)
            case _:
                pass
        super()._carry_out_host(process, effect)

    def _host(self, process: Process, event: HostEvent) -> None:
        host, life = self.lives[process.machine.record.process]
        if not process.stopped and self.books[host].life == life:
            self._isolates(host, process.machine, process.clock.read(self.true_ms))
        super()._host(process, event)

    def _isolates(self, host: int, machine: NativeHost, now_ms: int) -> None:
        """What has no table runs nothing, isolated or not."""
        books = self.books[host]
        if books.up and books.installed and not books.isolated and machine.lease_remaining_ms(now_ms) == 0:
            books.isolated, books.serves = True, False
            self._line("Isolate", i=host, k=books.life)

    def _told_by_host(self, host: int, machine: NativeHost, event: str, fields: Mapping[str, Any]) -> None:
        match event:
            case "Start" | "Install":
                self._installs(host, fields)
                self._isolates(host, machine, fields["now_ms"])
            case "HearAnswer" if fields["gate_until_ms"] > fields["now_ms"]:
                self._answered(host)
            case "Admit" | "Effect" if not self.books[host].serves:
                self.books[host].serves = True
                self._line("Serves", i=host, k=self.books[host].life)
            case _:
                pass

    def _installs(self, host: int, fields: Mapping[str, Any]) -> None:
        books, version = self.books[host], self._version(fields["version"])
        by_digest = {digest.hex(): self._version(wire) for wire, digest in self.digests.items()}
        table = {"v": version, "d": by_digest.get(fields["digest"], UNKNOWN), "s": books.isolated}
        if books.installed != version:
            if fields["from_version"] == 0:
                self._line("RecvSnapshot", i=host, **table)
            else:
                self._line("RecvDelta", i=host, f=self._version(fields["from_version"]), **table)
            books.isolated = books.serves = False
        books.installed = version

    def _answered(self, host: int) -> None:
        books = self.books[host]
        if not books.isolated:
            return
        if not books.same:
            raise NotProjectableError("two answers that were on their way together both end an isolation")
        books.isolated = books.same = books.serves = False
        self._line("RecvSame", i=host, k=books.life)


def take_office(network: NativeNetwork, random: Random) -> None:
    """Another leader; the former one is not heard any more. Often the last changes that it made were told to nobody,
    and hosts that come back soon have a version from before the next one's office."""
    if random.random() < 0.7:
        for entry in list(network.entries):
            network.commit(entry)
        for path in network.paths:
            path.down.clear()
    network.take_office()
    for process in network.alive():
        if random.random() < 0.7:
            network.connect(process)


STEPS: dict[native_walk.Step, int] = {
    **{step: weight for step, weight in native_walk.STEPS.items() if step is not native_walk.take_office},
    native_walk.admit: 8,
    native_walk.effect: 6,
    native_walk.end_turn: 3,
    native_walk.pause: 6,
    native_walk.lose: 12,
    take_office: 4,
}


def trace_eventual(seed: int, steps: int) -> Trace:
    """The trace of one walk. Raises NotProjectableError."""
    random = Random(seed)
    settings = evolve(SETTINGS, max_isolation_ms=ISOLATIONS_MS[seed % len(ISOLATIONS_MS)])
    network = FeedNetwork(random, policy=Policy.EVENTUAL, settings=settings)
    native_walk.start(network, random)
    for step in random.choices(list(STEPS), list(STEPS.values()), k=steps):
        step(network, random)
    return Trace(f"walk {seed}", tuple(network.lines))
