"""Membership: what the replicated log makes of the commands in it, for namespaces of sidecars.

`Log` is the whole state. Each method below "commands" is a command; `once` and `entry` put it into the log. It answers
with a word and a number, as the implementation does. All replicas apply the same entries in the same order, so one
object stands for all of them.

    LinearizableMembership  an entry takes effect at its place in the log, at once and whole
    GenerationExact         versions rise by one exactly when the table changes; see `_changed`
    ApplyOnce               a repeated request has no second effect; see `once`, and `asked` for operators
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

Version = tuple[int, int]
"""(generation, counter), compared in this order."""
Answer = tuple[str, int]
"""A word, and the number that was issued: a version, an epoch, a session."""


@dataclass(frozen=True)
class Host:
    """What a sidecar says of itself. Two equal hosts are the same host, as far as the table goes."""

    name: str
    rest: tuple[object, ...] = ()


@dataclass
class Namespace:
    """A table: its version, and who is in it. `incarnations` numbers each host's present life."""

    policy: str
    version: Version
    hosts: dict[str, Host] = field(default_factory=dict)
    incarnations: dict[str, int] = field(default_factory=dict)


@dataclass
class Session:
    """What is remembered of one client."""

    last_used: int
    answers: dict[int, Answer] = field(default_factory=dict)
    forgotten_below: int = 1


def wire(version: Version) -> int:
    """A version as one number, in the same order."""
    return version[0] * 2**32 + version[1]


@dataclass
class Log:
    """Everything that the log decides. The limits are of sessions, of their age in entries, and of kept answers, to a
    client and to operators."""

    sessions_max: int
    idle_entries: int
    answers_max: int
    operators_max: int
    level: int = 1
    entries: int = 0
    generation: int = 0
    epoch: int = 0
    holder: str = ""
    restored_from: str = ""
    incarnations_issued: int = 0
    sessions_issued: int = 0
    sessions: dict[int, Session] = field(default_factory=dict)
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    floors: dict[str, Version] = field(default_factory=dict)
    operators: list[tuple[str, object, Answer]] = field(default_factory=list)
    """Id, what was asked, and what was answered."""

    # -- entries

    def entry(self, command: Callable[[], Answer]) -> Answer:
        """An entry without protection against repetition."""
        self.entries += 1
        return command()

    def once(self, session: int, sequence: int, acknowledged_below: int, command: Callable[[], Answer]) -> Answer:
        """ApplyOnce: the first time the command is carried out; later times get the same answer, or a refusal."""
        self.entries += 1
        if session not in self.sessions:
            return "expired_session", 0
        known = self.sessions[session]
        if sequence in known.answers:
            return known.answers[sequence]
        if sequence < known.forgotten_below:
            return "stale_request", 0
        answer = command()
        known.last_used = self.entries
        known.answers[sequence] = answer
        known.forgotten_below = max(known.forgotten_below, min(acknowledged_below, sequence))
        while len(self._remembered(known)) > self.answers_max:
            known.forgotten_below = min(self._remembered(known)) + 1
        known.answers = self._remembered(known)
        return answer

    def asked(self, request_id: str, what: object, command: Callable[[], Answer]) -> Answer:
        """ApplyOnce for operators, whoever leads: what was carried out once is answered again, for the newest ids.
        Asking for something else under a known id is refused."""
        if self.level < 3:
            return "unsupported", 0
        for known_id, known_what, answer in self.operators:
            if known_id == request_id:
                return answer if known_what == what else ("invalid", 0)
        answer = command()
        if answer[0] in {"ok", "unchanged"}:
            self.operators.append((request_id, what, answer))
            del self.operators[: -self.operators_max]
        return answer

    def _remembered(self, session: Session) -> dict[int, Answer]:
        return {sequence: kept for sequence, kept in session.answers.items() if sequence >= session.forgotten_below}

    # -- commands

    def open_session(self) -> Answer:
        """Numbers are never issued twice. Sessions long unused are forgotten, and the least used of too many."""
        fresh = {n: s for n, s in self.sessions.items() if s.last_used >= self.entries - self.idle_entries}
        newest_use_first = sorted(fresh, key=lambda number: (fresh[number].last_used, number), reverse=True)
        self.sessions = {number: fresh[number] for number in newest_use_first[: self.sessions_max - 1]}
        self.sessions_issued += 1
        self.sessions[self.sessions_issued] = Session(self.entries)
        return "ok", self.sessions_issued

    def take_office(self, holder: str) -> Answer:
        """A new leader, a new epoch; the same leader's repeated word changes nothing."""
        if self.holder == holder:
            return "unchanged", self.epoch
        self.holder, self.epoch = holder, self.epoch + 1
        return "ok", self.epoch

    def raise_level(self, epoch: int, level: int) -> Answer:
        """Levels never fall."""
        if epoch != self.epoch:
            return "stale_epoch", self.epoch
        if level <= self.level:
            return "unchanged", self.level
        self.level = level
        return "ok", level

    def create(self, name: str, policy: str) -> Answer:
        """A namespace starts above everything that a namespace of that name ever was."""
        if name in self.namespaces:
            present = self.namespaces[name]
            return ("unchanged", wire(present.version)) if present.policy == policy else ("conflict", 0)
        version = max(self.floors.pop(name, (0, 0)), (self.generation, 0))
        self.namespaces[name] = Namespace(policy, version)
        return "ok", wire(version)

    def delete(self, name: str) -> Answer:
        """Only without members. Its version stays behind as a floor."""
        if name not in self.namespaces:
            return "not_found", 0
        if self.namespaces[name].hosts:
            return "conflict", 0
        self.floors[name] = self.namespaces.pop(name).version
        return "ok", wire(self.floors[name])

    def batch(self, epoch: int, name: str, upserts: Collection[Host], removals: Mapping[str, int]) -> Answer:
        """Removals (name -> incarnation meant), then upserts, as one change. A deposed leader's has no effect."""
        if epoch != self.epoch:
            return "stale_epoch", self.epoch
        if name not in self.namespaces:
            return "not_found", 0
        namespace = self.namespaces[name]
        before = dict(namespace.hosts)
        for host_name, incarnation in removals.items():
            if namespace.incarnations.get(host_name) == incarnation:
                del namespace.hosts[host_name], namespace.incarnations[host_name]
        for host in upserts:
            if namespace.hosts.get(host.name) != host:
                self.incarnations_issued += 1
                namespace.hosts[host.name] = host
                namespace.incarnations[host.name] = self.incarnations_issued
        return self._changed(namespace) if namespace.hosts != before else ("unchanged", wire(namespace.version))

    def repeat_round(self, epoch: int, name: str) -> Answer:
        """The same table under a new version, so that a round can be run again."""
        if epoch != self.epoch:
            return "stale_epoch", self.epoch
        return self._changed(self.namespaces[name]) if name in self.namespaces else ("not_found", 0)

    def _changed(self, namespace: Namespace) -> Answer:
        """GenerationExact: by one, and only here within a generation."""
        namespace.version = (namespace.version[0], namespace.version[1] + 1)
        return "ok", wire(namespace.version)

    def raise_generation(self, generation: int) -> Answer:
        """Every table gets a version above all that were used before."""
        if generation <= self.generation:
            return "invalid", 0
        self.generation = generation
        for namespace in self.namespaces.values():
            namespace.version = (generation, 1)
        return "ok", generation

    def begin_restore(self, source: str, generation: int, epoch: int, incarnations_issued: int) -> Answer:
        """Continue another life: nothing is issued again that was issued in it. Only for an empty cluster, once."""
        if self.restored_from == source:
            return "unchanged", self.generation
        if self.namespaces or self.restored_from:
            return "conflict", 0
        if generation <= self.generation:
            return "invalid", 0
        self.restored_from, self.generation, self.holder = source, generation, ""
        self.epoch = max(self.epoch, epoch) + 1
        self.incarnations_issued = max(self.incarnations_issued, incarnations_issued)
        return "ok", generation


def IncarnationsUnique(log: Log) -> bool:
    """No two members of any namespace have one incarnation, and none has one that was not issued yet."""
    numbers = [number for space in log.namespaces.values() for number in space.incarnations.values()]
    return len(numbers) == len(set(numbers)) and all(number <= log.incarnations_issued for number in numbers)


def GenerationExact(history: Collection[tuple[Version, frozenset[Host]]]) -> bool:
    """Versions of a namespace with their tables, in the order of the log: never used twice for another table, and
    within a generation without gaps."""
    tables: dict[Version, frozenset[Host]] = {}
    previous: Version | None = None
    for version, table in history:
        if tables.setdefault(version, table) != table or (previous is not None and version < previous):
            return False
        if previous is not None and version[0] == previous[0] and version[1] > previous[1] + 1:
            return False
        previous = version
    return True
