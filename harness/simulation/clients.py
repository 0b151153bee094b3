"""Who uses the cluster: callers of actors, with tables that may be stale; operators of the membership."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from attrs import define, field

from callboard.core.commands import (
    UNPROTECTED,
    Command,
    CommitNativeBatch,
    OpenSession,
    RepeatRound,
    Request,
    RequestId,
    encode_request,
)
from callboard.core.records import Answer
from callboard.core.slot_records import HostMark, slot_of
from callboard.core.table_delta import TableView
from callboard.core.versions import Policy
from harness.simulation.actors import Call, Result
from harness.simulation.engine_records import Outcome
from harness.simulation.kernel import MS, Process

if TYPE_CHECKING:
    from harness.simulation.replicas import Replica
    from harness.simulation.world import World

REFRESH_MS = 250
CALM_WORK_MS = 350
CALL_MS = 1200
PAUSE_MS = 15
PAUSE_MAX_MS = 120
REPLY_GRACE_MS = 30
ATTEMPT_MS = 500
ATTEMPTS_MAX = 30


def _nobody(_result: Result, _number: int) -> None:
    """Takes the reply of a call that was not sent."""


@define(eq=False)
class Operation:
    """What a caller wants done. `began`: the actor's count that was acknowledged before."""

    call: Call
    deadline_ms: int
    began: int
    attempt: int = 0
    pause_ms: int = PAUSE_MS
    done: bool = False


@define(eq=False)
class Caller(Process):
    """Calls actors one after the other. Definite failures are tried again until the deadline, others never."""

    world: World = field(kw_only=True)
    random: Random = field(kw_only=True)
    outcomes: dict[Result, int] = field(init=False, factory=lambda: dict.fromkeys(Result, 0))
    calm_from: int | None = field(init=False, default=None)
    """Operations from this number on have to succeed."""
    calm_calls: int = field(init=False, default=0)
    _views: dict[str, TableView] = field(init=False, factory=dict)

    def start(self) -> None:
        """Begin to call."""
        self._refresh()
        self.later(self.random.randrange(20, 200), self._next)

    # ---- tables

    def _refresh(self) -> None:
        self._ask(self.random.choice(self.world.group.names))
        self.later(REFRESH_MS, self._refresh)

    def _ask(self, name: str) -> None:
        replica = self.world.replicas[name]
        self.world.network.datagram(self.node, replica, self._serve_views, replica)

    def _serve_views(self, replica: Replica) -> None:
        views = self.world.history.views
        for name, namespace in replica.state.native.items():
            view = views.get((name, namespace.version.wire))
            if view is not None:
                self.world.network.datagram(replica.node, self, self._learn, name, view)

    def _learn(self, name: str, view: TableView) -> None:
        known = self._views.get(name)
        if known is not None and view.version < known.version:
            self.world.saw("a caller is shown an older table")
        self._views[name] = view

    # ---- calls

    def _next(self) -> None:
        plan, random = self.world.plan, self.random
        namespace = random.choice(plan.native_namespaces)
        kind = random.choice(namespace.kinds)
        actor = (namespace.name, kind, f"{kind}-{random.randrange(plan.actors)}")
        number = self.world.next_number()
        stubborn = random.random() * 100 < plan.stubborn_percent and self.calm_from is None
        long = stubborn or random.random() * 100 < plan.long_percent
        longest_ms = plan.long_ms if self.calm_from is None else min(plan.long_ms, CALM_WORK_MS)
        work_ms = random.randrange(20, longest_ms) if long else random.randrange(1, 8)
        call = Call(
            operation=number,
            actor=actor,
            slot=slot_of(kind, actor[2], plan.slot_bits),
            work_ms=work_ms,
            stubborn=stubborn,
            timeout_ms=CALL_MS,
            replied=_nobody,
        )
        if namespace.policy is Policy.EXCLUSIVE:
            self.world.fenced_operations.add(number)
        self._try(Operation(call, self.now_ms() + CALL_MS, self.world.turns.called(actor)))

    def _try(self, operation: Operation) -> None:
        operation.attempt += 1
        call = operation.call
        view = self._views.get(call.actor[0])
        table = None if view is None else view.tables.get(call.actor[1])
        entry = None if table is None or view is None else view.hosts.get(table.owners[call.slot])
        host = None if entry is None else self.world.process_at(entry.address, entry.incarnation)
        replied = partial(self._replied, operation, operation.attempt)
        left_ms = max(1, operation.deadline_ms - self.now_ms())
        if host is not None and host.alive:
            sent = call.sent(left_ms, replied)
            if self.world.network.datagram(self.node, host, host.called, self, sent):
                self.later(left_ms + REPLY_GRACE_MS, replied, Result.UNKNOWN, 0)
                return
        self.kernel.after(MS, self.take, replied, Result.NOT_SERVED, 0)

    def _replied(self, operation: Operation, attempt: int, result: Result, number: int) -> None:
        if attempt != operation.attempt or operation.done:
            return
        if not result.definite:
            self._done(operation, result, number)
            return
        view = self._views.get(operation.call.actor[0])
        if result is Result.NOT_OWNER and view is not None and number > view.version:
            self.world.saw("a caller with a stale table is set right")
            self._ask(self.random.choice(self.world.group.names))
        if self.now_ms() + operation.pause_ms >= operation.deadline_ms:
            self._done(operation, result, 0)
            return
        self.world.saw("a definite failure is retried")
        operation.attempt += 1
        self.later(operation.pause_ms, self._try, operation)
        operation.pause_ms = min(2 * operation.pause_ms, PAUSE_MAX_MS)

    def _done(self, operation: Operation, result: Result, number: int) -> None:
        operation.done = True
        call = operation.call
        self.outcomes[result] += 1
        self.world.turns.returned(call.operation, call.actor, result, number, operation.began)
        if self.calm_from is not None and call.operation >= self.calm_from:
            self.calm_calls += 1
            if result is not Result.OK:
                self.world.not_served(call.actor, f"a call of {self.name} on {call.actor} ends with {result.name}")
        self.later(self.random.randrange(*self.world.plan.think_ms), self._next)


@define(eq=False)
class Operator(Process):
    """Changes marks of hosts, repeats rounds, reads. Changes have request ids; they are retried until answered."""

    world: World = field(kw_only=True)
    random: Random = field(kw_only=True)
    _session: int = field(init=False, default=0)
    _sequence: int = field(init=False, default=0)

    def start(self) -> None:
        """Begin to read, if the plan wants that."""
        if self.world.plan.read_every_ms:
            self.later(self.world.plan.read_every_ms, self._look)

    def _look(self) -> None:
        self._read(lambda _epoch: None)
        if self.world.kernel.now_us < self.world.plan.duration_ms * MS:
            self.later(self.world.plan.read_every_ms, self._look)

    def mark(self, namespace: str, mark: HostMark, done: Callable[[], None]) -> None:
        """Say something of a host name."""
        marks = self.world.history.marks
        marking = marks.begins(namespace, mark)

        def answered(answer: Answer) -> None:
            marks.ends(marking, answer)
            if answer.succeeded:
                done()

        self._change(lambda epoch: CommitNativeBatch(epoch, namespace, marks=(mark,)), answered)

    def repeat_round(self, namespace: str, done: Callable[[], None]) -> None:
        """Raise the version of a barrier namespace."""

        def answered(answer: Answer) -> None:
            if answer.succeeded:
                done()

        self._change(lambda epoch: RepeatRound(epoch, namespace), answered)

    def _change(self, make: Callable[[int], Command], done: Callable[[Answer], None]) -> None:
        self._read(lambda epoch: self._with_session(make(epoch), done))

    def _with_session(self, command: Command, done: Callable[[Answer], None]) -> None:
        if self._session:
            self._propose(command, done)
            return

        def opened(answer: Answer) -> None:
            self._session = answer.number
            self._propose(command, done)

        self._submit(encode_request(Request(OpenSession(), UNPROTECTED)), self.world.history.calls(), 1, opened)

    def _propose(self, command: Command, done: Callable[[Answer], None]) -> None:
        self._sequence += 1
        entry = encode_request(Request(command, RequestId(self._session, self._sequence, self._sequence)))

        self._submit(entry, self.world.history.calls(), 1, done)

    def _submit(self, entry: bytes, began: int, attempt: int, done: Callable[[Answer], None]) -> None:
        if attempt > ATTEMPTS_MAX:
            return
        open_ = [True]

        def again() -> None:
            if open_[0]:
                open_[0] = False
                self.later(PAUSE_MS, self._submit, entry, began, attempt + 1, done)

        def answered(index: int, result: object) -> None:
            if isinstance(result, Answer) and open_[0]:
                open_[0] = False
                self.world.history.acknowledges(began, index, entry)
                if attempt > 1:
                    self.world.saw("an operator's change is acknowledged after a retry")
                done(result)
            elif isinstance(result, Outcome):
                again()

        name = self.world.group.names[(attempt + self.random.randrange(2)) % len(self.world.group.names)]
        self.world.network.datagram(self.node, self.world.replicas[name], self._at_replica, name, entry, answered)
        self.later(ATTEMPT_MS, again)

    def _at_replica(self, name: str, entry: bytes, answered: Callable[[int, object], None]) -> None:
        replica = self.world.replicas[name]

        def reply(index: int, result: object) -> None:
            self.world.network.datagram(replica.node, self, answered, index, result)

        replica.engine.propose(entry, ATTEMPT_MS, reply)

    # ---- linearizable reads

    def _read(self, done: Callable[[int], None], attempt: int = 1) -> None:
        if attempt > ATTEMPTS_MAX:
            return
        began = self.world.history.calls()
        open_ = [True]

        def again() -> None:
            if open_[0]:
                open_[0] = False
                self.later(PAUSE_MS, self._read, done, attempt + 1)

        def answered(index: int, epoch: int) -> None:
            if index < 0:
                again()
            elif open_[0]:
                open_[0] = False
                self.world.history.reads(began, index)
                done(epoch)

        name = self.random.choice(self.world.group.names)
        self.world.network.datagram(self.node, self.world.replicas[name], self._read_at, name, answered)
        self.later(ATTEMPT_MS, again)

    def _read_at(self, name: str, answered: Callable[[int, int], None]) -> None:
        replica = self.world.replicas[name]

        def reply(position: int) -> None:
            index = -1 if position < 0 else replica.state.applied_index
            self.world.network.datagram(replica.node, self, answered, index, replica.state.epoch)

        replica.engine.barrier(ATTEMPT_MS, reply)
