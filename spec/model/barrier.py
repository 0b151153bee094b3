"""Barrier rounds: what a leader says to the sidecars of one namespace, event by event.

What should be a member follows from the open streams. Whatever differs from the committed table is proposed as one
batch. When a batch raised the version, a round tells everybody: lock; when all have acknowledged, update; when all
have, unlock. Nothing begins while a round runs. A sidecar that came back unchanged gets all three orders at once, by
itself.

    BarrierOrder       `_round_goes_on`: the next phase only when all have acknowledged the last
    SlowHostIsolation  `tick`: silent streams are cut, and the others go on
    TableMonotonic     orders carry the committed version, which only rises
    Convergence        `at_rest`: no difference is left, and everybody has the newest version

Left out: batches that are too large for one entry, and old sidecars that get their table a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

PHASES = ("lock", "update", "unlock")
Said = tuple[object, ...]
"""Something that the leader does: ("order", stream, phase, version), ("close", stream, status), ("finished", version)
or ("propose", hosts to put, names to remove)."""


@dataclass(frozen=True)
class Host:
    """What a sidecar says of itself."""

    name: str
    app: str
    types: tuple[str, ...]


@dataclass
class Stream:
    """An open stream. `owes`: orders not acknowledged; True once they left the leader's process."""

    host: Host
    speaks: bool
    """Whether it ever named an operation. If not, its heartbeats acknowledge what has left."""
    admitted: bool = False
    newest: tuple[int, str] | None = None
    owes: dict[str, bool] = field(default_factory=dict)
    pushed_at: int | None = None


@dataclass
class Round:
    """The round that runs."""

    version: int
    streams: set[int]
    phase: str
    phase_from: int
    silent_from: int


@dataclass
class Leader:
    """One namespace in one term of office. Times in milliseconds."""

    timeout: int
    phase_least: int
    coalesce: int
    grace: int
    retry: int
    version: int
    table: dict[str, Host]
    now: int = 0
    streams: dict[int, Stream] = field(default_factory=dict)
    not_back: set[str] = field(default_factory=set)
    grace_ends: int | None = None
    proposed: frozenset[str] | None = None
    propose_not_before: int | None = None
    round_due: bool = False
    round: Round | None = None
    said: list[Said] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.not_back = set(self.table)
        self.grace_ends = self.now + self.grace if self.table else None

    # -- what should be

    def stream_of(self, name: str) -> Stream | None:
        """A host name has at most one stream: the newest."""
        return next((stream for stream in self.streams.values() if stream.host.name == name), None)

    def differs(self, name: str) -> bool:
        """Whether the table says something else of a host than its stream. Who may still come back does not differ."""
        stream = self.stream_of(name)
        if stream is None and name in self.not_back:
            return False
        should_be = stream.host if stream is not None and stream.host.types else None
        return should_be != self.table.get(name)

    def differences(self) -> set[str]:
        """All names of which something must be committed."""
        names = {stream.host.name for stream in self.streams.values()} | set(self.table)
        return {name for name in names if self.differs(name)}

    def at_rest(self) -> bool:
        """Convergence: nothing runs, nothing differs, and every stream has unlocked the newest version."""
        idle = self.round is None and self.proposed is None and not self.round_due
        newest = (self.version, "unlock")
        in_step = all(stream.newest == newest and not stream.owes for stream in self.streams.values())
        return idle and not self.differences() and in_step

    # -- events

    def opened(self, number: int, host: Host, *, speaks: bool) -> None:
        """A newer stream under a name takes the older one's place."""
        for older in [n for n, stream in self.streams.items() if stream.host.name == host.name]:
            self._close(older, "ABORTED")
        self.streams[number] = Stream(host, speaks)
        self.not_back.discard(host.name)
        self._go_on()

    def reported(self, number: int, host: Host, *, speaks: bool) -> None:
        """A later report, or a heartbeat."""
        if number in self.streams:
            stream = self.streams[number]
            stream.speaks = stream.speaks or speaks
            if not stream.speaks:
                stream.owes = {phase: left for phase, left in stream.owes.items() if not left}
            stream.host = host
        self._go_on()

    def acknowledged(self, number: int, phase: str, version: int) -> None:
        """An acknowledgement covers earlier phases of its version. One of something never sent ends the stream."""
        if number in self.streams:
            stream = self.streams[number]
            stream.speaks = True
            newest = stream.newest or (-1, "unlock")
            if version > newest[0] or (version == newest[0] and PHASES.index(phase) > PHASES.index(newest[1])):
                self._close(number, "INVALID_ARGUMENT")
            elif version == newest[0]:
                covered = PHASES[: PHASES.index(phase) + 1]
                stream.owes = {order: left for order, left in stream.owes.items() if order not in covered}
        self._go_on()

    def left(self, number: int, phase: str, version: int) -> None:
        """An order left the leader's process."""
        stream = self.streams.get(number)
        if stream is not None and stream.newest is not None and stream.newest[0] == version and phase in stream.owes:
            stream.owes[phase] = True
        self._go_on()

    def closed(self, number: int) -> None:
        """A stream ended."""
        self.streams.pop(number, None)
        self._go_on()

    def committed(self, version: int, table: Mapping[str, Host]) -> None:
        """The batch in flight was applied. If it changed nothing and is still wanted, it is tried again a little
        later."""
        names, self.proposed = self.proposed, None
        without_effect = version == self.version
        self._adopt(version, table)
        if without_effect and names is not None and any(self.differs(name) for name in names):
            self.propose_not_before = self.now + self.retry
        self._go_on()

    def failed(self, *, retry: bool) -> None:
        """The batch had no effect. A single host that was refused is at fault."""
        names, self.proposed = self.proposed, None
        assert names is not None
        culprit = next((n for n, stream in self.streams.items() if {stream.host.name} == names), None)
        if retry or culprit is None:
            self.propose_not_before = self.now + self.retry
        else:
            self._close(culprit, "RESOURCE_EXHAUSTED")
        self._go_on()

    def changed_elsewhere(self, version: int, table: Mapping[str, Host]) -> None:
        """Somebody else changed the namespace."""
        self._adopt(version, table)
        self._go_on()

    def tick(self) -> None:
        """SlowHostIsolation: streams that are silent for too long are cut."""
        if self.round is not None and self.now >= self._patience_ends(self.round):
            for number in sorted(self._awaited(self.round)):
                self._close(number, "DEADLINE_EXCEEDED")
            self.round.silent_from = self.now
        for number, stream in list(self.streams.items()):
            if stream.pushed_at is not None and stream.owes and self.now >= stream.pushed_at + self.timeout:
                self._close(number, "DEADLINE_EXCEEDED")
        if self.grace_ends is not None and self.now >= self.grace_ends:
            self.grace_ends, self.not_back = None, set()
        self._go_on()

    # -- what follows

    def _adopt(self, version: int, table: Mapping[str, Host]) -> None:
        self.round_due = self.round_due or version > self.version
        self.version, self.table = version, dict(table)

    def _close(self, number: int, status: str) -> None:
        self.said.append(("close", number, status))
        del self.streams[number]

    def _awaited(self, running: Round) -> set[int]:
        """Who has not acknowledged the phase."""
        return {number for number in running.streams if number in self.streams and self.streams[number].owes}

    def _patience_ends(self, running: Round) -> int:
        return max(running.silent_from + self.timeout, running.phase_from + min(self.phase_least, self.timeout))

    def _order(self, number: int, phase: str, version: int) -> None:
        stream = self.streams[number]
        if stream.newest is None or stream.newest[0] != version:
            stream.owes = {}
        stream.newest = (version, phase)
        stream.owes[phase] = False
        self.said.append(("order", number, phase, version))

    def _order_all(self, running: Round, phase: str) -> None:
        running.phase, running.phase_from = phase, self.now
        for number in sorted(running.streams & self.streams.keys()):
            self._order(number, phase, running.version)

    def _go_on(self) -> None:
        """Everything that can be done now."""
        if self.round is not None:
            self._round_goes_on(self.round)
        if self.propose_not_before is not None and self.now >= self.propose_not_before:
            self.propose_not_before = None
        quiet = self.round is None and self.proposed is None
        if quiet and not self.round_due and self.propose_not_before is None:
            self._propose(self.differences())
        if self.round is None and self.proposed is None and self.round_due:
            self._begin_round()
            self._go_on()
        elif self.round is None and not self.round_due:
            self._push()

    def _propose(self, names: Iterable[str]) -> None:
        names = frozenset(names)
        if names:
            streams = {name: self.stream_of(name) for name in names}
            put = frozenset(stream.host for stream in streams.values() if stream is not None and stream.host.types)
            self.proposed = names
            self.said.append(("propose", put, names - {host.name for host in put}))

    def _begin_round(self) -> None:
        for stream in self.streams.values():
            stream.admitted = stream.admitted or not self.differs(stream.host.name)
            stream.pushed_at = None
        streams = {number for number, stream in self.streams.items() if stream.admitted}
        self.round_due = False
        self.round = Round(self.version, streams, "lock", self.now, self.now)
        self._order_all(self.round, "lock")
        self._round_goes_on(self.round)

    def _round_goes_on(self, running: Round) -> None:
        """BarrierOrder: lock, update, unlock, each when everybody has acknowledged the one before."""
        while not self._awaited(running):
            if running.phase == "unlock":
                self.round = None
                if self.coalesce:
                    self.propose_not_before = self.now + self.coalesce
                self.said.append(("finished", running.version))
                return
            self._order_all(running, PHASES[PHASES.index(running.phase) + 1])

    def _push(self) -> None:
        """Streams that need no change, and are not in the batch in flight, get the table at once."""
        for number, stream in self.streams.items():
            name = stream.host.name
            if not stream.admitted and name not in (self.proposed or ()) and not self.differs(name):
                stream.admitted, stream.pushed_at = True, self.now
                for phase in PHASES:
                    self._order(number, phase, self.version)


def BarrierOrder(orders: Iterable[tuple[str, int]]) -> bool:
    """The orders of one stream are whole triples of rising versions; the last may still be open."""
    expected, newest = "lock", -1
    for phase, version in orders:
        if phase != expected or (version <= newest if phase == "lock" else version != newest):
            return False
        newest, expected = version, PHASES[(PHASES.index(phase) + 1) % 3]
    return True
