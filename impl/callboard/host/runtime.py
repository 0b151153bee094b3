"""Runs the actors of one host: activations, turns, mailboxes, draining. It knows no network.

`TurnBased`: one turn at a time per activation, except reentrant calls of the chain that runs. A turn is admitted under
a serving right, carries it, and shows it again at the gate: before each access to the store, and before its reply.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from callboard.core.handoff_messages import Held, SlotRun
from callboard.core.native_host_records import CancelTurns, Ended, EndReason, Granted, Refusal, Right, StopAdmitting
from callboard.core.slot_records import slot_of
from callboard.host.activation import DEACTIVATION, Activation, Context
from callboard.host.actors import Actor, ActorType, Chain, DeactivationReason, current_chain, current_deadline_ms
from callboard.host.clock import Clock, Timer
from callboard.host.early_calls import EarlyCalls
from callboard.host.errors import (
    ActorFailedError,
    BadCallError,
    BusyError,
    NotOwnerError,
    NotServedError,
    OutcomeUnknownError,
)
from callboard.host.limits import Figures, RuntimeLimits
from callboard.host.logs import library_logger
from callboard.host.reminders import Reminders
from callboard.host.stores import ActorKey, StateStore
from callboard.host.timers import Timers

log = library_logger(__name__)

Result = TypeVar("Result")


class Admission(Protocol):
    """What decides whether this host may act: the core's `NativeHost`."""

    def admit(self, actor_type: str, slot: int, now_ms: int) -> Right | Refusal:
        """The right under which a turn may start now, or why none may."""

    def gate_open(self, right: Right, now_ms: int) -> bool:
        """Whether an effect or reply of a turn under `right` may pass now."""

    def lease_remaining_ms(self, now_ms: int) -> int | None:
        """How long the gate stays open without another renewal; None for ever."""


class Runtime:
    """See the module's description. `admission` gives the present machine; `drained` is told when slots are empty."""

    def __init__(
        self,
        *,
        namespace: str,
        kinds: Mapping[str, ActorType],
        admission: Callable[[], Admission],
        drained: Callable[[str, tuple[int, ...]], None],
        clock: Clock,
        store: StateStore,
        version: Callable[[], int],
        limits: RuntimeLimits | None = None,
    ) -> None:
        self.admission = admission
        self.clock = clock
        self.figures = Figures()
        self.slot_bits = 0
        self._namespace = namespace
        self._kinds = dict(kinds)
        self._drained = drained
        self._store = store
        self._version = version
        self._limits = limits or RuntimeLimits()
        self._activations: dict[tuple[str, str], Activation] = {}
        self._by_slot: dict[tuple[str, int], set[Activation]] = {}
        self._draining: set[tuple[str, int]] = set()
        self._early = EarlyCalls(clock, self._limits.early_calls_max)
        self._timers = Timers(clock, self.own_turn, self._limits.timers_per_actor_max)
        self.reminders = Reminders(
            namespace=namespace,
            types=frozenset(name for name, kind in kinds.items() if kind.has_reminders),
            clock=clock,
            store=store,
            turns=self,
            settings=self._limits.reminders,
        )
        self._leaving = False
        self._closed = False
        self._idle_check: Timer | None = None

    # -- calls -------------------------------------------------------------------------------------------

    async def call(
        self, actor_type: str, actor_id: str, method: str, payload: bytes, *, deadline_ms: int, chain: Chain
    ) -> bytes:
        """Run one method as a turn and return its encoded result. `deadline_ms` is a time of the host's clock.

        Raises:
            CallError: of the kind that says whether it may have run.
        """
        kind = self._kinds.get(actor_type)
        if kind is None:
            raise BadCallError(f"this host has no actor type {actor_type!r}")
        called = kind.methods.get(method)
        if called is None:
            raise BadCallError(f"actor type {actor_type} has no method {method!r}")
        arguments = called.decode_arguments(payload)

        async def body(actor: Actor) -> bytes:
            return called.encode_result(await called.function(actor, **arguments))

        slot = slot_of(actor_type, actor_id, self.slot_bits)
        right = await self._admitted(actor_type, slot, deadline_ms)
        activation = await self._activation(kind, actor_id, slot, right, deadline_ms)
        reentered = await self._turn(activation, chain, deadline_ms)
        turn = self._start(activation, body, chain, reentered, deadline_ms)
        try:
            async with self.clock.timeout(deadline_ms - self.clock.now_ms()):
                return await asyncio.shield(turn)
        except TimeoutError:
            raise OutcomeUnknownError(f"{activation.key}.{method} still runs at the call's deadline") from None
        except asyncio.CancelledError:
            if turn.cancelled():
                raise OutcomeUnknownError(f"{activation.key}.{method} was cancelled: its host lost the slot") from None
            raise

    async def _admitted(self, actor_type: str, slot: int, deadline_ms: int) -> Right:
        """The right to a slot, waiting for it if the slot is ours but not granted yet.

        Not for ever: a host that is cut off does not hear that the slot has another owner, but the caller may.
        """
        now = self.clock.now_ms()
        until_ms = min(deadline_ms, now + self._limits.early_wait_ms)
        while not self._closed:
            admitted = self.admission().admit(actor_type, slot, now)
            if isinstance(admitted, Right):
                return admitted
            if admitted not in {Refusal.NOT_GRANTED, Refusal.NO_LEASE}:
                raise NotOwnerError(f"slot {slot} of {actor_type}: {admitted.value}", self._version())
            if now >= until_ms:
                raise NotServedError(f"slot {slot} of {actor_type} is still {admitted.value}")
            await self._early.wait(actor_type, slot, until_ms - now)
            now = self.clock.now_ms()
        raise NotServedError("this host has stopped")

    def wake_early_calls(self) -> None:
        """Grants, tables or leases changed: let those who wait look again."""
        self._early.wake()

    async def _activation(
        self, kind: ActorType, actor_id: str, slot: int, right: Right, deadline_ms: int
    ) -> Activation:
        """The live activation under this right, made if there is none."""
        while True:
            activation = self._activations.get((kind.name, actor_id))
            if activation is None:
                if len(self._activations) >= self._limits.activations_max:
                    raise BusyError(f"this host has {len(self._activations)} activations, the most allowed")
                return self._make(kind, actor_id, slot, right)
            if activation.closing is None and activation.right is right:
                return activation
            if activation.closing is None:
                raise NotOwnerError(f"{activation.key} belongs to an earlier right", self._version())
            try:
                async with self.clock.timeout(deadline_ms - self.clock.now_ms()):
                    await activation.closed.wait()
            except TimeoutError:
                raise NotServedError(f"{activation.key} is still being deactivated") from None
            current = self.admission().admit(kind.name, slot, self.clock.now_ms())
            if current is not right:
                raise NotOwnerError(f"slot {slot} of {kind.name} is not served any more", self._version())

    def _make(self, kind: ActorType, actor_id: str, slot: int, right: Right) -> Activation:
        key = ActorKey(self._namespace, kind.name, actor_id)
        activation = Activation(key, slot, right, kind, kind.actor_class(), self.clock.now_ms())
        activation.actor.context = Context(self, self.reminders, activation)
        self._activations[kind.name, actor_id] = activation
        self._by_slot.setdefault((kind.name, slot), set()).add(activation)
        self.figures.activations += 1
        self._arm_idle_check()
        return activation

    async def activate(self, actor_type: str, actor_id: str) -> Activation:
        """The actor's activation, if this host may serve it now: for turns that no call asked for. Raises CallError."""
        now, slot = self.clock.now_ms(), slot_of(actor_type, actor_id, self.slot_bits)
        right = self.admission().admit(actor_type, slot, now)
        if not isinstance(right, Right):
            raise NotOwnerError(f"slot {slot} of {actor_type}: {right.value}", self._version())
        kind = self._kinds[actor_type]
        return await self._activation(kind, actor_id, slot, right, now + kind.actor_class.idle_timeout_ms)

    # -- turns -------------------------------------------------------------------------------------------

    async def _turn(self, activation: Activation, chain: Chain, deadline_ms: int) -> bool:
        """Wait until it is this call's turn. Afterwards the turn is taken: `_start` gives it back when it is over.

        Returns whether the call runs within a turn of its own chain.
        """
        if activation.reenters(chain):
            return True
        if activation.running is not None:
            place = activation.queue()
            try:
                async with self.clock.timeout(deadline_ms - self.clock.now_ms()):
                    await place
            except TimeoutError:
                self._withdraw(activation, place)
                raise NotServedError(f"{activation.name} had other calls to run until the deadline") from None
            except BaseException:
                self._withdraw(activation, place)
                raise
        activation.running = chain
        if not self._may_begin(activation):
            self._release(activation)
            raise NotOwnerError(f"{activation.name} moved away before its turn", self._version())
        return False

    def _may_begin(self, activation: Activation) -> bool:
        """Whether a turn may begin now, under the right that the activation was made under."""
        admitted = self.admission().admit(activation.key.actor_type, activation.slot, self.clock.now_ms())
        return admitted is activation.right and activation.closing is None

    def _withdraw(self, activation: Activation, place: asyncio.Future[None]) -> None:
        if place.done() and not place.cancelled() and place.exception() is None:
            self._release(activation)  # the turn came in the moment in which we gave up
        elif place in activation.waiting:
            activation.waiting.remove(place)

    def _release(self, activation: Activation) -> None:
        """The turn is over: the next one begins, or the activation ends if it is to."""
        if activation.closing is None:
            activation.pass_on()
        else:
            activation.running = None
            self._finish(activation)

    def _start(
        self,
        activation: Activation,
        body: Callable[[Actor], Awaitable[Result]],
        chain: Chain,
        reentered: bool,
        deadline_ms: int | None,
    ) -> asyncio.Task[Result]:
        """Begin the turn that was taken. It is given back when the task is done, however it ends."""
        inner = Chain(chain.chain_id or secrets.token_hex(8), chain.depth + 1, (*chain.path, activation.name))
        if not reentered:
            activation.running = inner
        activation.last_used_ms = self.clock.now_ms()
        task = asyncio.ensure_future(self._run(activation, body, inner, deadline_ms))
        activation.tasks.add(task)
        task.add_done_callback(partial(self._turn_ended, activation, reentered))
        return task

    async def _run(
        self, activation: Activation, body: Callable[[Actor], Awaitable[Result]], chain: Chain, deadline_ms: int | None
    ) -> Result:
        current_chain.set(chain)
        current_deadline_ms.set(deadline_ms)
        try:
            if not activation.activated:
                await activation.actor.on_activate()
                activation.activated = True
            self.figures.turns += 1
            result = await body(activation.actor)
        except Exception as error:
            if not activation.activated:
                self._begin_closing(activation, DeactivationReason.IDLE)
            self._pass_gate(activation)
            raise ActorFailedError(type(error).__name__, str(error)) from error
        self._pass_gate(activation)
        return result

    def _turn_ended(self, activation: Activation, reentered: bool, done: asyncio.Task[Any]) -> None:
        activation.tasks.discard(done)
        if not done.cancelled():
            done.exception()  # its caller may be gone: nobody else takes it
        if not reentered:
            self._release(activation)

    def _pass_gate(self, activation: Activation) -> None:
        if not self.admission().gate_open(activation.right, self.clock.now_ms()):
            self.figures.gate_shut += 1
            raise OutcomeUnknownError(f"{activation.key} ran, but its host lost the right to answer")

    # -- what actors use ---------------------------------------------------------------------------------

    def store_at_gate(self, activation: Activation) -> StateStore:
        """The store, for one access now. Raises OutcomeUnknownError if the gate is shut."""
        self._pass_gate(activation)
        return self._store

    def note_stale(self) -> None:
        """The store refused a fence."""
        self.figures.stale_refused += 1

    def lease_remaining_ms(self) -> int | None:
        """How long the gate stays open without another renewal; None for ever."""
        return self.admission().lease_remaining_ms(self.clock.now_ms())

    def start_timer(
        self, activation: Activation, name: str, callback: Callable[[], Any], due_ms: int, period_ms: int | None
    ) -> None:
        """See `ActorContext.start_timer`."""
        self._timers.start(activation, name, callback, due_ms, period_ms)

    async def own_turn(self, activation: Activation, body: Callable[[Actor], Awaitable[Result]]) -> Result:
        """Run something as a turn of its own chain, which no call asked for. Raises CallError."""
        patience_ms = activation.kind.actor_class.idle_timeout_ms
        chain = Chain(secrets.token_hex(8))
        await self._turn(activation, chain, self.clock.now_ms() + patience_ms)
        turn = self._start(activation, body, chain, reentered=False, deadline_ms=None)
        try:
            return await asyncio.shield(turn)
        except asyncio.CancelledError:
            if turn.cancelled():
                raise OutcomeUnknownError(f"a turn of {activation.key} was cancelled: its host lost the slot") from None
            raise

    # -- ends --------------------------------------------------------------------------------------------

    def granted(self, effect: Granted) -> None:
        """Slots may be served."""
        self._draining.difference_update(_slots(effect.spans))
        self.reminders.granted(effect.spans)
        self.wake_early_calls()

    def stop_admitting(self, effect: StopAdmitting) -> None:
        """Let running turns end, deactivate, and report each slot."""
        self.reminders.lost(effect.spans)
        reason = DeactivationReason.LEAVING if self._leaving else DeactivationReason.MOVED
        for span in effect.spans:
            empty = []
            for kind, slot in _slots((span,)):
                here = self._by_slot.get((kind, slot))
                if here:
                    self._draining.add((kind, slot))
                else:
                    empty.append(slot)
                for activation in list(here or ()):
                    self._begin_closing(activation, reason)
            if empty:
                self._drained(span.actor_type, tuple(empty))
        self.wake_early_calls()

    def cancel(self, effect: CancelTurns) -> None:
        """Cancel what still runs there; the last turns have half of the time until the gate shuts."""
        now = self.clock.now_ms()
        for activation in self._in(effect.spans):
            activation.last_turn_ends_ms = now + (effect.gate_shuts_at_ms - now) // 2
            for task in list(activation.tasks):
                self.figures.cancelled += 1
                task.cancel()

    def ended(self, effect: Ended) -> None:
        """The gate is shut: drop what is left without calling it."""
        self.reminders.lost(effect.spans)
        reason = DeactivationReason.LEASE if effect.reason is EndReason.LEASE else DeactivationReason.MOVED
        for activation in self._in(effect.spans):
            activation.closing = reason
            for task in list(activation.tasks):
                task.cancel()
            self._forget(activation)
        self._draining.difference_update(_slots(effect.spans))
        self.wake_early_calls()

    def _in(self, spans: Iterable[SlotRun]) -> list[Activation]:
        return [activation for key in _slots(spans) for activation in self._by_slot.get(key, ())]

    def _begin_closing(self, activation: Activation, reason: DeactivationReason) -> None:
        if activation.closing is not None:
            return
        activation.closing = reason
        self._refuse_waiting(activation)
        activation.cancel_timers()
        if activation.running is None:
            self._finish(activation)

    def _refuse_waiting(self, activation: Activation) -> None:
        text = f"{activation.key} is being deactivated: {activation.closing}"
        activation.refuse_waiting(NotOwnerError(text, self._version()))

    def _finish(self, activation: Activation) -> None:
        """The last turn: on_deactivate, then the activation is gone."""
        if activation.closed.is_set() or activation.running is DEACTIVATION:
            return
        activation.running = DEACTIVATION
        task = asyncio.ensure_future(self._last_turn(activation))
        activation.tasks.add(task)
        task.add_done_callback(partial(self._last_turn_ended, activation))

    async def _last_turn(self, activation: Activation) -> None:
        if not activation.activated or activation.closing is None:
            return
        chain = Chain(secrets.token_hex(8), 1, (activation.name,))
        current_chain.set(chain)
        ends_ms, now = activation.last_turn_ends_ms, self.clock.now_ms()
        if ends_ms is None:
            await activation.actor.on_deactivate(activation.closing)
            return
        async with self.clock.timeout(ends_ms - now):
            await activation.actor.on_deactivate(activation.closing)

    def _last_turn_ended(self, activation: Activation, done: asyncio.Task[None]) -> None:
        activation.tasks.discard(done)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.warning("on_deactivate failed", actor=str(activation.key), error=repr(error))
        self._forget(activation)

    def _forget(self, activation: Activation) -> None:
        if activation.closed.is_set():
            return
        activation.closed.set()
        activation.cancel_timers()
        self._refuse_waiting(activation)
        key, place = activation.key, (activation.key.actor_type, activation.slot)
        self._activations.pop((key.actor_type, key.actor_id), None)
        reason = activation.closing.value if activation.closing is not None else ""
        self.figures.deactivations[reason] = self.figures.deactivations.get(reason, 0) + 1
        here = self._by_slot.get(place, set())
        here.discard(activation)
        if not here:
            self._by_slot.pop(place, None)
            if place in self._draining:
                self._draining.discard(place)
                self._drained(key.actor_type, (activation.slot,))

    def _arm_idle_check(self) -> None:
        if self._idle_check is None and self._activations and not self._closed:
            self._idle_check = self.clock.call_later(self._limits.idle_check_ms, self._close_idle)

    def _close_idle(self) -> None:
        self._idle_check = None
        now = self.clock.now_ms()
        for activation in list(self._activations.values()):
            idle_ms = now - activation.last_used_ms
            if activation.running is None and idle_ms >= activation.kind.actor_class.idle_timeout_ms:
                self._begin_closing(activation, DeactivationReason.IDLE)
        self._arm_idle_check()

    def activation_count(self) -> int:
        """Live activations."""
        return len(self._activations)

    def begin_leaving(self) -> None:
        """From here on actors are told that the host leaves."""
        self._leaving = True

    async def close(self) -> None:
        """Cancel everything, and wait a moment for what takes no notice. Idempotent."""
        self._leaving = self._closed = True
        if self._idle_check is not None:
            self._idle_check.cancel()
        self.wake_early_calls()
        await self._timers.close()
        await self.reminders.close()
        tasks = []
        for activation in list(self._activations.values()):
            activation.closing = activation.closing or DeactivationReason.LEAVING
            tasks += list(activation.tasks)
            self._forget(activation)
        for task in tasks:
            task.cancel()
        if tasks:
            _, running = await asyncio.wait(tasks, timeout=self._limits.close_grace_ms / 1000)
            for task in running:
                log.warning("a turn did not end when it was cancelled", turn=repr(task))


def _slots(spans: Iterable[SlotRun | Held]) -> Iterable[tuple[str, int]]:
    return ((span.actor_type, slot) for span in spans for slot in range(span.first, span.first + span.count))
