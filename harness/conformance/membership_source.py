"""Traces of Membership: clients with sessions against the real `apply`, over a log that delays, repeats and drops.

A client has one command at a time. It gives up on one of which it heard nothing, whose copies may still commit; answers
get lost; commands of deposed leaders are refused; sessions are expired by others that open theirs; operators begin new
generations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from attrs import Factory, define

from callboard.core import membership
from callboard.core.commands import (
    Command,
    CommitBatch,
    CreateNamespace,
    OpenSession,
    RaiseGeneration,
    Removal,
    Request,
    RequestId,
    TakeOffice,
)
from callboard.core.records import Answer, HostRecord, Namespace, ReplicatedState
from callboard.core.versions import Policy
from harness.conformance.tracelines import Line, Trace

NAMESPACE = "default"
HOSTS = ("h1", "h2", "h3")
CLIENTS = 3
SESSIONS_MAX = 4
STEPS = {"call": 20, "give_up": 3, "commit": 30, "repeat": 8, "drop": 2, "read": 8, "answer_read": 8}
RARE_STEPS = {"reopen": 2, "take_office": 1, "restore": 0.5}


@define(eq=False)
class Client:
    """One session, one command at a time. `asking`: the command that it waits for."""

    session: int
    sequence: int = 1
    asking: Request | None = None


@define(eq=False)
class Story:
    """One run. Lines have numbers of this run; commands are (session, sequence, joins, leaves)."""

    random: Random
    state: ReplicatedState = Factory(ReplicatedState)
    clients: list[Client] = Factory(list)
    log: list[Request] = Factory(list)
    lines: list[Line] = Factory(list)
    commands: list[list[Any]] = Factory(list)
    number_of: dict[tuple[int, int], int] = Factory(dict)
    reads: list[int] = Factory(list)
    read_count: int = 0
    ports: int = 0
    applied: int = 0
    expired: int = 0
    counter_floor: int = 0
    """The counter of the version at which the present generation began, less what it counts on from."""

    def __attrs_post_init__(self) -> None:
        self._apply(Request(TakeOffice("r", "0")))
        self._apply(Request(CreateNamespace(NAMESPACE, Policy.BARRIER)))
        for _ in range(CLIENTS):
            self.clients.append(Client(self._apply(Request(OpenSession())).number))

    @property
    def namespace(self) -> Namespace:
        return self.state.namespaces[NAMESPACE]

    def _apply(self, request: Request) -> Answer:
        before = self.state
        self.state, answer = membership.apply(self.state, self.state.applied_index + 1, request)
        for session in sorted(before.sessions.keys() - self.state.sessions.keys()):
            self.expired += 1
            self.lines.append({"name": "Expire", "s": session})
        return answer

    def _table(self) -> Line:
        version, members = self.namespace.version, self.namespace.members
        incarnations = [members[name].incarnation if name in members else 0 for name in HOSTS]
        return {
            "g": version.generation + 1,
            "v": self._count(),
            "m": incarnations,
            "a": self.applied,
            "x": self.expired,
        }

    def _count(self) -> int:
        return self.namespace.version.counter - self.counter_floor

    # ---- steps

    def call(self) -> None:
        """A client asks for something."""
        idle = [client for client in self.clients if client.asking is None]
        if not idle:
            return
        client = self.random.choice(idle)
        identity = RequestId(client.session, client.sequence, client.sequence)
        client.asking = Request(self._batch(), identity)
        self.number_of[client.session, client.sequence] = len(self.commands)
        self.commands.append([client.session, client.sequence, [], []])
        self.lines.append({"name": "Call", "c": len(self.commands) - 1})
        client.sequence += 1
        self.log.append(client.asking)

    def _batch(self) -> Command:
        name, other = self.random.sample(HOSTS, 2)
        self.ports += 1
        join = HostRecord(name, "app", ("T",), self.ports)
        member = self.namespace.members.get(other)
        number = member.incarnation if member is not None and self.random.random() < 0.8 else 1
        leave = Removal(other, number)
        kind = self.random.choice(("join", "leave", "both"))
        upserts, removals = (join,) if kind != "leave" else (), (leave,) if kind != "join" else ()
        epoch = self.state.epoch if self.random.random() < 0.9 else self.state.epoch - 1
        return CommitBatch(epoch, NAMESPACE, upserts, removals)

    def give_up(self) -> None:
        """A client stops asking; what it sent may still commit."""
        client = self.random.choice(self.clients)
        client.asking = None

    def repeat(self) -> None:
        """A client asks again under the same identity."""
        asking = [client.asking for client in self.clients if client.asking is not None]
        if asking:
            self.log.append(self.random.choice(asking))

    def drop(self) -> None:
        """A copy never commits."""
        if self.log:
            self.log.pop(self.random.randrange(len(self.log)))

    def commit(self) -> None:
        """Some copy commits; the client may hear of it."""
        if not self.log:
            return
        request = self.log.pop(self.random.randrange(len(self.log)))
        identity = request.request_id
        key = (identity.session, identity.sequence)
        number, command = self.number_of[key], request.command
        assert isinstance(command, CommitBatch)
        answered = self._answered(key)
        members = self.namespace.members
        current = command.epoch == self.state.epoch
        answer = self._apply(request)
        if not answered and self._answered(key):
            removed = [each.name for each in command.removals if _is_member(members, each)]
            self.commands[number][2] = [HOSTS.index(each.name) + 1 for each in command.upserts] if current else []
            self.commands[number][3] = [HOSTS.index(name) + 1 for name in removed] if current else []
            self.applied += 1
            self.lines.append({"name": "Apply", "c": number, **self._table(), "n": self.state.next_incarnation - 1})
        client = next((each for each in self.clients if each.asking is request), None)
        if client is not None and self.random.random() < 0.8:
            client.asking = None
            if answer.succeeded:
                self.lines.append({"name": "Answer", "c": number})

    def _answered(self, key: tuple[int, int]) -> bool:
        session = self.state.sessions.get(key[0])
        return session is not None and (key[1] in session.answers or key[1] < session.forgotten_below)

    def read(self) -> None:
        """A linearizable read is called; the engine's promise is that it sees everything acknowledged before."""
        self.reads.append(self.read_count)
        self.lines.append({"name": "ReadCall", "r": self.read_count})
        self.read_count += 1

    def answer_read(self) -> None:
        """... and answered from the state as it is now."""
        if self.reads:
            read = self.reads.pop(self.random.randrange(len(self.reads)))
            self.lines.append({"name": "ReadAnswer", "r": read, **self._table()})

    def reopen(self) -> None:
        """A client opens another session; the least used one may expire."""
        client = self.random.choice(self.clients)
        client.session, client.sequence, client.asking = self._apply(Request(OpenSession())).number, 1, None

    def take_office(self) -> None:
        """Commands of the former leader are refused from here on."""
        self._apply(Request(TakeOffice("r", str(self.state.epoch))))

    def restore(self) -> None:
        """A new generation: reads have to be called again."""
        count, generation = self._count(), self.state.generation + 1
        self._apply(Request(RaiseGeneration(generation)))
        self.counter_floor = self.namespace.version.counter - count
        self.reads.clear()
        self.lines.append({"name": "Restore", **self._table(), "n": self.state.next_incarnation - 1})


def _is_member(members: Any, removal: Removal) -> bool:
    return removal.name in members and members[removal.name].incarnation == removal.incarnation


@contextmanager
def few_sessions() -> Iterator[None]:
    """So that sessions expire in runs of a few hundred commands."""
    before, membership.SESSIONS_MAX = membership.SESSIONS_MAX, SESSIONS_MAX
    try:
        yield
    finally:
        membership.SESSIONS_MAX = before


def trace_story(seed: int, steps: int) -> Trace:
    """The trace of one run."""
    story = Story(Random(seed))
    choices = {**STEPS, **RARE_STEPS}
    with few_sessions():
        for step in story.random.choices(list(choices), list(choices.values()), k=steps):
            getattr(story, step)()
    kept = {
        "commands": story.commands,
        "sessions": story.state.next_session - 1,
        "reads": story.read_count,
        "generations": story.state.generation + 1,
    }
    return Trace(f"story {seed}", tuple(story.lines), kept)
