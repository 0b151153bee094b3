"""`Membership` on the replicated state machine: batches under sessions, expiry, restores."""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen

from callboard.core import snapshot
from callboard.core.commands import (
    UNPROTECTED,
    CommitBatch,
    ConfirmEpoch,
    CreateNamespace,
    OpenSession,
    RaiseGeneration,
    Removal,
    Request,
    RequestId,
    TakeOffice,
    decode_request,
    encode_request,
)
from callboard.core.membership import SESSION_IDLE_ENTRIES, apply
from callboard.core.records import Answer, HostRecord, Namespace, ReplicatedState
from callboard.core.versions import Policy
from harness.conformance.replay import Adapter, Difference
from harness.conformance.values import Record, State

NAMESPACE = "shop"
USES_FROM = 10_000
"""Sequence numbers above those of the model's commands, for uses of a session that change nothing."""


@frozen
class ModelCommand:
    """One of the model's commands: see MCMembership."""

    session: str
    sequence: int
    join: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()


COMMANDS = {
    "a1": ModelCommand("a", 1, join=("h1",)),
    "a2": ModelCommand("a", 2, leave=("h1",)),
    "b1": ModelCommand("b", 1, join=("h2",), leave=("h1",)),
}


class MembershipAdapter(Adapter):
    """The state, the answers that clients were given, and a snapshot of the state for each table that there was."""

    def __init__(self) -> None:
        super().__init__()
        self.state = ReplicatedState()
        self.sessions: dict[str, int] = {}
        self.answers: dict[str, Answer] = {}
        self.snapshots: dict[Record, bytes] = {}
        self.counter_ahead = 0
        """By how much the counter of the code's version is ahead of the specification's: restores begin at 1."""
        self.uses = USES_FROM

    def begin(self, state: State) -> None:
        self._apply(Request(TakeOffice("r", "0")))
        self._apply(Request(CreateNamespace(NAMESPACE, Policy.BARRIER)))
        for name in sorted({command.session for command in COMMANDS.values()}):
            self.sessions[name] = self._apply(Request(OpenSession())).number
        self.snapshots[state["table"]] = snapshot.encode_state(self.state)

    def _apply(self, request: Request) -> Answer:
        entry = decode_request(encode_request(request))
        self.state, answer = apply(self.state, self.state.applied_index + 1, entry)
        return answer

    @property
    def _namespace(self) -> Namespace:
        return self.state.namespaces[NAMESPACE]

    def _request(self, name: str) -> Request:
        """What the client of a command sends. It has given up the earlier ones of its session."""
        command = COMMANDS[name]
        members = self._namespace.members
        batch = CommitBatch(
            epoch=self.state.epoch,
            namespace=NAMESPACE,
            upserts=tuple(HostRecord(host, "app", ("T",), process=name) for host in command.join),
            removals=tuple(Removal(host, members[host].incarnation) for host in command.leave if host in members),
        )
        return Request(batch, RequestId(self.sessions[command.session], command.sequence, command.sequence))

    def step(self, action: str, before: State, after: State) -> None:
        old, new = before["table"], after["table"]
        match action:
            case "Call":
                pass
            case "Apply":
                (name,) = new["applied"] - old["applied"]
                self.answers[name] = self._apply(self._request(name))
                if not self.answers[name].succeeded:
                    raise Difference(f"Apply({name}) is refused: {self.answers[name]}")
            case "Answer":
                for name in after["acked"] - before["acked"]:
                    self._answer(name)
            case "Expire":
                (name,) = new["expired"] - old["expired"]
                self._expire(name)
            case "Restore":
                self._restore(before["past"], new)
            case _:
                raise Difference(f"no such action: {action}")
        self.snapshots.setdefault(new, snapshot.encode_state(self.state))

    def _answer(self, name: str) -> None:
        """A client hears, perhaps by asking again, that its command took effect."""
        if not self.answers[name].succeeded:
            raise Difference(f"Answer({name}) tells {self.answers[name]}")

    def _expire(self, name: str) -> None:
        """So many entries pass, of which the other sessions use some; then a session is opened."""
        self.state = evolve(self.state, entries_applied=self.state.entries_applied + SESSION_IDLE_ENTRIES + 1)
        for other, number in self.sessions.items():
            if other != name and number in self.state.sessions:
                self.uses += 1
                self._apply(Request(ConfirmEpoch(self.state.epoch), RequestId(number, self.uses, 1)))
        self._apply(Request(OpenSession(), UNPROTECTED))

    def _restore(self, past: frozenset[Record], restored: Record) -> None:
        """The snapshot of an earlier table, and a new generation."""
        origin = next(table for table in past if Record({**table, "gen": restored["gen"]}) == restored)
        self.state = snapshot.decode_state(self.snapshots[origin])
        answer = self._apply(Request(RaiseGeneration(restored["gen"] - 1)))
        self.demand("Restore", answer.succeeded, True)
        self.counter_ahead = self._namespace.version.counter - restored["version"]

    def compare(self, state: State) -> None:
        table = state["table"]
        namespace = self._namespace
        self.demand("table.gen", self.state.generation + 1, table["gen"])
        self.demand("table.gen of the version", namespace.version.generation + 1, table["gen"])
        self.demand("table.version", namespace.version.counter - self.counter_ahead, table["version"])
        members = {name: member.incarnation for name, member in namespace.members.items()}
        self.demand("table.members", members, {name: number for name, number in table["members"].items() if number})
        self.demand("table.issued", self.state.next_incarnation - 1, table["issued"])
        open_sessions = {name for name, number in self.sessions.items() if number in self.state.sessions}
        self.demand("table.expired", self.sessions.keys() - open_sessions, set(table["expired"]) & set(self.sessions))
        for name, command in COMMANDS.items():
            session = self.state.sessions.get(self.sessions[command.session])
            if session is not None and command.sequence >= session.forgotten_below:
                self.demand(f"{name} in table.applied", command.sequence in session.answers, name in table["applied"])

    def probe(self, state: State) -> None:
        """ApplyOnce: whatever was applied, overtaken or is of an ended session has no effect (any more).

        Nor has the removal of an earlier incarnation, or whatever a deposed leader proposed.
        """
        self._probe_removals()
        table: dict[str, Any] = state["table"]
        for name, command in COMMANDS.items():
            overtaken = any(
                COMMANDS[other].session == command.session and COMMANDS[other].sequence > command.sequence
                for other in table["applied"]
            )
            if name not in table["applied"] and command.session not in table["expired"] and not overtaken:
                continue
            again, answer = apply(self.state, self.state.applied_index + 1, self._request(name))
            same = again.namespaces == self.state.namespaces and again.next_incarnation == self.state.next_incarnation
            if not same:
                raise Difference(f"{name} has an effect, though it may not: {answer}")
            if name in table["applied"] and not overtaken and command.session not in table["expired"]:
                self.demand(f"the answer to {name}, asked again,", answer, self.answers[name])

    def _probe_removals(self) -> None:
        for name, member in self._namespace.members.items():
            for epoch, incarnation in ((0, -1), (-1, 0)):
                removal = Removal(name, member.incarnation + incarnation)
                batch = CommitBatch(self.state.epoch + epoch, NAMESPACE, removals=(removal,))
                after, _ = apply(self.state, self.state.applied_index + 1, Request(batch))
                if after.namespaces != self.state.namespaces:
                    raise Difference(f"{batch} has an effect")
