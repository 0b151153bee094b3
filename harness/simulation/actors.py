"""Actors of a simulated host: activations, turns that take time, effects through the gate; and the store behind them.

It follows callboard.host.runtime in what it promises, without its tasks: admission when a call comes and again when its
turn begins, the gate before each access to the store and before the reply, one turn at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import TYPE_CHECKING

from attrs import define, field

from callboard.core.handoff_messages import Held, SlotRun
from callboard.core.native_host_records import CancelTurns, Ended, Granted, Refusal, Right, StopAdmitting
from harness.simulation.kernel import MS

if TYPE_CHECKING:
    from harness.simulation.hosts import Host

EARLY_WAIT_MS = 300
EARLY_MAX = 200


class Result(Enum):
    """Of a call."""

    OK = auto()
    NOT_OWNER = auto()
    NOT_SERVED = auto()
    UNKNOWN = auto()

    @property
    def definite(self) -> bool:
        """Whether the call surely did not run."""
        return self is Result.NOT_OWNER or self is Result.NOT_SERVED


Replied = Callable[[Result, int], None]
"""A result, and a number: the actor's count after OK, the host's version after NOT_OWNER."""


@define(eq=False)
class Call:
    """One attempt of operation `operation` on an actor. `work_ms`: how long its turn takes. `stubborn`: it does not end
    when it is cancelled."""

    operation: int
    actor: tuple[str, str, str]
    """Namespace, type, id."""
    slot: int
    work_ms: int
    stubborn: bool
    timeout_ms: int
    replied: Replied
    until_ms: int = 0

    def sent(self, timeout_ms: int, replied: Replied) -> Call:
        """Another attempt."""
        return Call(self.operation, self.actor, self.slot, self.work_ms, self.stubborn, timeout_ms, replied)


@define(eq=False)
class Activation:
    """A live actor."""

    actor: tuple[str, str, str]
    slot: int
    right: Right
    count: int | None = None
    closing: bool = False
    waiting: deque[Call] = field(factory=deque)
    turn: Turn | None = None


@define(eq=False)
class Turn:
    """A call that runs. `over`: it was replied to; `cut`: it does not count any more, though it may still run."""

    host: Host
    call: Call
    activation: Activation
    admitted_ms: int = 0
    over: bool = False
    cut: bool = False


@define(eq=False)
class Store:
    """Keeps a count of each actor and which operations made it, under fences: reads check and raise them too."""

    node: str = "store"
    fences: dict[tuple[str, str, str], int] = field(factory=dict)
    operations: dict[tuple[str, str, str], list[int]] = field(factory=dict)
    accepted: dict[int, int] = field(factory=dict)
    """How often each operation was written."""
    refused: int = 0

    def check(self, actor: tuple[str, str, str], fence: int) -> bool:
        """Whether the fence is good, and so the highest seen."""
        if fence < self.fences.get(actor, 0):
            self.refused += 1
            return False
        self.fences[actor] = fence
        return True

    def load(self, actor: tuple[str, str, str], fence: int) -> tuple[bool, int]:
        """Refused or not, and the count."""
        if not self.check(actor, fence):
            return True, 0
        return False, len(self.operations.get(actor, ()))

    def save(self, actor: tuple[str, str, str], fence: int, expected: int, operation: int) -> tuple[bool, int]:
        """Refused or not, and the count."""
        done = self.operations.setdefault(actor, [])
        if not self.check(actor, fence) or len(done) != expected:
            return True, 0
        done.append(operation)
        self.accepted[operation] = self.accepted.get(operation, 0) + 1
        return False, len(done)


@define(eq=False)
class Runtime:
    """The actors of one process."""

    host: Host
    activations: dict[tuple[str, str, str], Activation] = field(init=False, factory=dict)
    _by_slot: dict[tuple[str, int], list[Activation]] = field(init=False, factory=dict)
    _draining: set[tuple[str, int]] = field(init=False, factory=set)
    _early: list[Call] = field(init=False, factory=list)

    # ---- calls

    def call(self, call: Call) -> None:
        """A call arrived."""
        call.until_ms = self.host.now_ms() + min(EARLY_WAIT_MS, call.timeout_ms)
        self._try(call)

    def _try(self, call: Call) -> None:
        host = self.host
        now_ms = host.now_ms()
        kind = call.actor[1]
        admitted = host.machine.admit(kind, call.slot, now_ms)
        if isinstance(admitted, Refusal):
            if admitted not in {Refusal.NOT_GRANTED, Refusal.NO_LEASE}:
                call.replied(Result.NOT_OWNER, host.version)
            elif now_ms >= call.until_ms or len(self._early) >= EARLY_MAX:
                call.replied(Result.NOT_SERVED, 0)
            else:
                self._early.append(call)
                host.later(call.until_ms - now_ms, self._waited, call)
            return
        activation = self.activations.get(call.actor)
        if activation is None:
            activation = Activation(call.actor, call.slot, admitted)
            self.activations[call.actor] = activation
            self._by_slot.setdefault((kind, call.slot), []).append(activation)
        elif activation.right is not admitted or activation.closing:
            call.replied(Result.NOT_OWNER, host.version)
            return
        activation.waiting.append(call)
        self._next(activation)

    def _waited(self, call: Call) -> None:
        if call in self._early:
            self._early.remove(call)
            self._try(call)

    def wake(self) -> None:
        """Grants, tables or leases changed: who waits looks again."""
        early, self._early = self._early, []
        for call in early:
            self._try(call)

    # ---- turns

    def _next(self, activation: Activation) -> None:
        host = self.host
        while activation.turn is None and activation.waiting:
            call = activation.waiting.popleft()
            admitted = host.machine.admit(activation.actor[1], activation.slot, host.now_ms())
            if admitted is not activation.right or activation.closing:
                call.replied(Result.NOT_OWNER, host.version)
                continue
            turn = activation.turn = Turn(host, call, activation)
            host.world.turns.begins(turn)
            self._load(turn)

    def _load(self, turn: Turn) -> None:
        activation = turn.activation
        if activation.count is not None or activation.right.fence == 0:
            self._work(turn)
        elif self._passes(turn):
            self.host.access_store(self._loaded, turn, None)

    def _loaded(self, turn: Turn, refused: bool, count: int) -> None:
        if refused:
            self._stale(turn)
        elif not turn.over or turn.call.stubborn:
            turn.activation.count = count
            self._work(turn)

    def _work(self, turn: Turn) -> None:
        self.host.later(turn.call.work_ms, self._worked, turn)

    def _worked(self, turn: Turn) -> None:
        if turn.over and not turn.call.stubborn:
            return
        if turn.cut and isinstance(self._admits(turn), Right):
            self.host.world.saw("a turn outlives its right, and its host has the slot again")
        if not self._passes(turn):
            return
        if turn.activation.right.fence == 0:
            self._reply(turn, Result.OK, 0)
        else:
            self.host.access_store(self._saved, turn, turn.call.operation)

    def _admits(self, turn: Turn) -> Right | Refusal:
        return self.host.machine.admit(turn.call.actor[1], turn.call.slot, self.host.now_ms())

    def _saved(self, turn: Turn, refused: bool, count: int) -> None:
        if refused:
            self._stale(turn)
            return
        turn.activation.count = count
        if not turn.over and self._passes(turn):
            self._reply(turn, Result.OK, count)

    def _stale(self, turn: Turn) -> None:
        self.host.world.saw("a zombie's access is refused by the store")
        self._reply(turn, Result.UNKNOWN, 0)

    def _passes(self, turn: Turn) -> bool:
        """The gate. A turn that finds it shut is over, with unknown outcome."""
        host, right = self.host, turn.activation.right
        if host.machine.gate_open(right, host.now_ms()):
            host.world.rights.passes_gate(host, right)
            return True
        host.world.saw("a turn finds the gate shut")
        self._reply(turn, Result.UNKNOWN, 0)
        return False

    def _reply(self, turn: Turn, result: Result, count: int) -> None:
        if not turn.over:
            turn.over = True
            turn.call.replied(result, count)
        self._turn_over(turn)

    def _turn_over(self, turn: Turn) -> None:
        self.host.world.turns.ends(turn)
        activation = turn.activation
        if activation.turn is turn:
            activation.turn = None
            if activation.closing:
                self._forget(activation)
            else:
                self._next(activation)

    # ---- ends

    def granted(self, effect: Granted) -> None:
        """Slots may be served."""
        self._draining.difference_update(slots_of(effect.spans))
        self.wake()

    def stop_admitting(self, effect: StopAdmitting) -> None:
        """Let running turns end, and report each slot."""
        for span in effect.spans:
            empty = []
            for key in slots_of((span,)):
                here = self._by_slot.get(key)
                if not here:
                    empty.append(key[1])
                    continue
                self._draining.add(key)
                for activation in list(here):
                    self._close(activation)
            if empty:
                self.host.drained(span.actor_type, tuple(empty))
        self.wake()

    def _close(self, activation: Activation) -> None:
        activation.closing = True
        self._refuse_waiting(activation)
        if activation.turn is None:
            self._forget(activation)

    def _refuse_waiting(self, activation: Activation) -> None:
        waiting, activation.waiting = activation.waiting, deque()
        for call in waiting:
            call.replied(Result.NOT_OWNER, self.host.version)

    def cancel(self, effect: CancelTurns) -> None:
        """Cancel what still runs there."""
        now_ms = self.host.now_ms()
        for activation in self._in(effect.spans):
            turn = activation.turn
            if turn is not None and not turn.cut:
                self.host.world.turns.cancelled(turn, now_ms)
                if turn.call.stubborn:
                    self.host.overdue = True
                    self.host.world.saw("a turn does not end when it is cancelled")
                else:
                    self._reply(turn, Result.UNKNOWN, 0)

    def ended(self, effect: Ended) -> None:
        """The gate is shut."""
        for activation in self._in(effect.spans):
            activation.closing = True
            turn = activation.turn
            if turn is not None:
                turn.cut = True
                if not turn.over:
                    turn.over = True
                    turn.call.replied(Result.UNKNOWN, 0)
                self.host.world.turns.ends(turn)
            self._forget(activation)
        self._draining.difference_update(slots_of(effect.spans))
        self.wake()

    def _in(self, spans: Iterable[SlotRun]) -> list[Activation]:
        return [activation for key in slots_of(spans) for activation in self._by_slot.get(key, ())]

    def _forget(self, activation: Activation) -> None:
        if self.activations.get(activation.actor) is not activation:
            return
        del self.activations[activation.actor]
        self._refuse_waiting(activation)
        key = (activation.actor[1], activation.slot)
        here = self._by_slot[key]
        here.remove(activation)
        if not here:
            del self._by_slot[key]
            if key in self._draining:
                self._draining.discard(key)
                self.host.drained(key[0], (key[1],))

    def drop(self) -> None:
        """The process is gone."""
        for activation in self.activations.values():
            if activation.turn is not None:
                self.host.world.turns.ends(activation.turn)
        self.activations, self._early = {}, []


def slots_of(spans: Iterable[SlotRun | Held]) -> list[tuple[str, int]]:
    """Actor type and slot, one by one."""
    return [(span.actor_type, slot) for span in spans for slot in range(span.first, span.first + span.count)]


STORE_RETRY_US = 20 * MS
