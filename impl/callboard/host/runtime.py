"""Runs the actors of one host: activations, turns, mailboxes, draining. It knows no network.

`TurnBased`: one turn at a time per activation, except reentrant calls of the chain that runs. A turn is admitted under
a serving right, carries it, and shows it again at the gate: before each access to the store, and before its reply.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import structlog
from attrs import define, field, frozen

from callboard.core.handoff_records import CancelTurns, Ended, EndReason, Granted, Refusal, Right, StopAdmitting
from callboard.core.slot_records import slot_of
from callboard.host.actors import Actor, ActorType, Chain, DeactivationReason, current_chain
from callboard.host.errors import (
    ActorFailedError,
    BadCallError,
    BusyError,
    CallError,
    NotOwnerError,
    NotServedError,
    OutcomeUnknownError,
    ReentrancyError,
)
from callboard.host.stores import ActorKey, StaleFenceError, StateStore

log = structlog.get_logger(__name__)


class Admission(Protocol):
    """What decides whether this host may act: the core's `NativeHost`."""

    def admit(self, actor_type: str, slot: int, now_ms: int) -> Right | Refusal:
        """The right under which a turn may start now, or why none may."""

    def gate_open(self, right: Right, now_ms: int) -> bool:
        """Whether an effect or reply of a turn under `right` may pass now."""

    def lease_remaining_ms(self, now_ms: int) -> int | None:
        """How long the gate stays open without another renewal; None for ever."""


@frozen
class RuntimeLimits:
    """Bounds of one host. `early_calls_max`: calls that wait for a slot that is this host's but not granted yet."""

    activations_max: int = 1_000_000
    early_calls_max: int = 10_000
    idle_check_ms: int = 5_000
    timers_per_actor_max: int = 100


@define(eq=False)
class _Activation:
    """One live actor instance."""

    key: ActorKey
    slot: int
    right: Right
    kind: ActorType
    actor: Actor
    last_used_ms: int
    chain: Chain | None = None
    """Of the running turn; None if none runs."""
    activated: bool = False
    closing: DeactivationReason | None = None
    waiting: deque[asyncio.Future[None]] = field(factory=deque)
    tasks: set[asyncio.Task[Any]] = field(factory=set)
    timers: dict[str, asyncio.TimerHandle] = field(factory=dict)
    closed: asyncio.Event = field(factory=asyncio.Event)


class _Context:
    """The `ActorContext` of one activation."""

    def __init__(self, runtime: Runtime, activation: _Activation) -> None:
        self._runtime = runtime
        self._activation = activation
        self._version = 0

    @property
    def actor_type(self) -> str:
        return self._activation.key.actor_type

    @property
    def actor_id(self) -> str:
        return self._activation.key.actor_id

    @property
    def fence(self) -> int:
        return self._activation.right.fence

    def lease_remaining_ms(self) -> int | None:
        runtime = self._runtime
        return runtime.admission().lease_remaining_ms(runtime.clock())

    async def load(self) -> bytes | None:
        store = self._runtime.store_at_gate(self._activation)
        try:
            stored = await store.load(self._activation.key, self.fence)
        except StaleFenceError:
            self._runtime.figures.stale_refused += 1
            raise
        self._version = stored.version
        return stored.value

    async def save(self, value: bytes) -> None:
        store = self._runtime.store_at_gate(self._activation)
        try:
            self._version = await store.save(
                self._activation.key, value, expected_version=self._version, fence=self.fence
            )
        except StaleFenceError:
            self._runtime.figures.stale_refused += 1
            raise

    def set_timer(self, name: str, delay_ms: int, callback: Callable[[], Any], *, period_ms: int | None = None) -> None:
        self._runtime.set_timer(self._activation, name, delay_ms, callback, period_ms)

    def cancel_timer(self, name: str) -> None:
        timer = self._activation.timers.pop(name, None)
        if timer is not None:
            timer.cancel()


@define
class Figures:
    """Counts of one host since its start."""

    turns: int = 0
    activations: int = 0
    deactivations: dict[str, int] = field(factory=dict)
    gate_shut: int = 0
    stale_refused: int = 0
    cancelled: int = 0


class Runtime:
    """See the module's description. `admission` gives the present machine; `drained` is told when slots are empty."""

    def __init__(
        self,
        *,
        namespace: str,
        kinds: Mapping[str, ActorType],
        admission: Callable[[], Admission],
        drained: Callable[[str, tuple[int, ...]], None],
        clock: Callable[[], int],
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
        self._activations: dict[tuple[str, str], _Activation] = {}
        self._by_slot: dict[tuple[str, int], set[_Activation]] = {}
        self._early: dict[tuple[str, int], set[asyncio.Future[None]]] = {}
        self._early_count = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._idle_check: asyncio.TimerHandle | None = None

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
        if method not in kind.methods:
            raise BadCallError(f"actor type {actor_type} has no method {method!r}")
        arguments = kind.methods[method].decode_arguments(payload)
        slot = slot_of(actor_type, actor_id, self.slot_bits)
        right = await self._admitted(actor_type, slot, deadline_ms)
        activation = await self._activation(kind, actor_id, slot, right, deadline_ms)
        await self._turn(activation, chain, deadline_ms)
        turn = asyncio.ensure_future(self._run(activation, method, arguments, chain))
        activation.tasks.add(turn)
        turn.add_done_callback(lambda done: self._turn_ended(activation, done))
        try:
            async with asyncio.timeout(max(0, deadline_ms - self.clock()) / 1000):
                return await asyncio.shield(turn)
        except TimeoutError:
            raise OutcomeUnknownError(f"{activation.key}.{method} still runs at the call's deadline") from None
        except asyncio.CancelledError:
            if turn.cancelled():
                raise OutcomeUnknownError(f"{activation.key}.{method} was cancelled: its host lost the slot") from None
            raise

    async def _admitted(self, actor_type: str, slot: int, deadline_ms: int) -> Right:
        """The right to a slot, waiting for it if the slot is ours but not granted yet."""
        while True:
            now = self.clock()
            admitted = self.admission().admit(actor_type, slot, now)
            if isinstance(admitted, Right):
                return admitted
            if admitted not in {Refusal.NOT_GRANTED, Refusal.NO_LEASE}:
                raise NotOwnerError(f"slot {slot} of {actor_type}: {admitted.value}", self._version())
            if now >= deadline_ms:
                raise NotServedError(f"slot {slot} of {actor_type} is still {admitted.value}")
            if self._early_count >= self._limits.early_calls_max:
                raise BusyError(f"{self._early_count} calls wait for slots that are not granted yet")
            await self._change_of(actor_type, slot, deadline_ms - now)

    async def _change_of(self, actor_type: str, slot: int, timeout_ms: int) -> None:
        changed = asyncio.get_running_loop().create_future()
        waiting = self._early.setdefault((actor_type, slot), set())
        waiting.add(changed)
        self._early_count += 1
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await changed
        except TimeoutError:
            pass
        finally:
            self._early_count -= 1
            waiting.discard(changed)
            if not waiting:
                self._early.pop((actor_type, slot), None)

    def wake_early_calls(self) -> None:
        """Grants, tables or leases changed: let those who wait look again."""
        for waiting in self._early.values():
            for changed in waiting:
                if not changed.done():
                    changed.set_result(None)

    async def _activation(
        self, kind: ActorType, actor_id: str, slot: int, right: Right, deadline_ms: int
    ) -> _Activation:
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
                async with asyncio.timeout(max(0, deadline_ms - self.clock()) / 1000):
                    await activation.closed.wait()
            except TimeoutError:
                raise NotServedError(f"{activation.key} is still being deactivated") from None
            current = self.admission().admit(kind.name, slot, self.clock())
            if current is not right:
                raise NotOwnerError(f"slot {slot} of {kind.name} is not served any more", self._version())

    def _make(self, kind: ActorType, actor_id: str, slot: int, right: Right) -> _Activation:
        key = ActorKey(self._namespace, kind.name, actor_id)
        activation = _Activation(key, slot, right, kind, kind.actor_class(), self.clock())
        activation.actor.context = _Context(self, activation)
        self._activations[kind.name, actor_id] = activation
        self._by_slot.setdefault((kind.name, slot), set()).add(activation)
        self.figures.activations += 1
        self._arm_idle_check()
        return activation

    # -- turns -------------------------------------------------------------------------------------------

    async def _turn(self, activation: _Activation, chain: Chain, deadline_ms: int) -> None:
        """Wait until it is this call's turn. Afterwards the turn is taken: `_run` gives it back."""
        running = activation.chain
        if running is None and not activation.waiting:
            activation.chain = chain
            return
        me = f"{activation.key.actor_type}/{activation.key.actor_id}"
        if chain.chain_id and me in chain.path:
            actor = activation.kind.actor_class
            if not actor.reentrant:
                raise ReentrancyError(f"{me} is called by a chain of calls that it waits for, and is not reentrant")
            if chain.depth > actor.reentrancy_depth_max:
                raise ReentrancyError(
                    f"{me} is called at depth {chain.depth}; the limit is {actor.reentrancy_depth_max}"
                )
            return
        if len(activation.waiting) >= activation.kind.actor_class.mailbox_max:
            raise BusyError(f"{len(activation.waiting)} calls wait for {me}")
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        activation.waiting.append(mine)
        try:
            async with asyncio.timeout(max(0, deadline_ms - self.clock()) / 1000):
                await mine
        except TimeoutError:
            self._withdraw(activation, mine)
            raise NotServedError(f"{me} had other calls to run until the deadline") from None
        except BaseException:
            self._withdraw(activation, mine)
            raise
        activation.chain = chain
        if self.admission().admit(activation.key.actor_type, activation.slot, self.clock()) is not activation.right:
            self._release(activation)
            raise NotOwnerError(f"{me} moved away before its turn", self._version())

    def _withdraw(self, activation: _Activation, mine: asyncio.Future[None]) -> None:
        if mine.done() and not mine.cancelled() and mine.exception() is None:
            self._release(activation)  # the turn came in the moment in which we gave up
        elif mine in activation.waiting:
            activation.waiting.remove(mine)

    def _release(self, activation: _Activation) -> None:
        """The turn is over: the next one begins, or the activation ends if it is to."""
        activation.chain = None
        while activation.waiting and activation.closing is None:
            following = activation.waiting.popleft()
            if not following.done():
                activation.chain = Chain("(reserved)")
                following.set_result(None)
                return
        if activation.closing is not None:
            self._finish(activation)

    async def _run(self, activation: _Activation, method: str, arguments: dict[str, Any], chain: Chain) -> bytes:
        me = f"{activation.key.actor_type}/{activation.key.actor_id}"
        reentered = bool(chain.chain_id) and me in chain.path
        inner = Chain(chain.chain_id or secrets.token_hex(8), chain.depth + 1, (*chain.path, me))
        if not reentered:
            activation.chain = inner
        current_chain.set(inner)
        called = activation.kind.methods[method]
        activation.last_used_ms = self.clock()
        try:
            if not activation.activated:
                await activation.actor.on_activate()
                activation.activated = True
            self.figures.turns += 1
            result = await called.function(activation.actor, **arguments)
            payload = called.encode_result(result)
        except CallError as error:
            raise ActorFailedError(type(error).__name__, str(error)) from error
        except Exception as error:
            if not activation.activated:
                self._begin_closing(activation, DeactivationReason.IDLE)
            raise ActorFailedError(type(error).__name__, str(error)) from error
        finally:
            if not reentered:
                self._release(activation)
        self._pass_gate(activation)
        return payload

    def _turn_ended(self, activation: _Activation, done: asyncio.Task[Any]) -> None:
        activation.tasks.discard(done)
        if not done.cancelled():
            done.exception()  # its caller may be gone: nobody else takes it

    def _pass_gate(self, activation: _Activation) -> None:
        if not self.admission().gate_open(activation.right, self.clock()):
            self.figures.gate_shut += 1
            raise OutcomeUnknownError(f"{activation.key} ran, but its host lost the right to answer")

    def store_at_gate(self, activation: _Activation) -> StateStore:
        """The store, for one access now. Raises OutcomeUnknownError if the gate is shut."""
        self._pass_gate(activation)
        return self._store

    def set_timer(
        self,
        activation: _Activation,
        name: str,
        delay_ms: int,
        callback: Callable[[], Any],
        period_ms: int | None,
    ) -> None:
        """See `ActorContext.set_timer`. Raises ValueError beyond the limit of timers."""
        context = activation.actor.context
        context.cancel_timer(name)
        if len(activation.timers) >= self._limits.timers_per_actor_max:
            raise ValueError(f"{activation.key} has {len(activation.timers)} timers, the most allowed")

        def due() -> None:
            activation.timers.pop(name, None)
            task = asyncio.ensure_future(self._timer_turn(activation, callback))
            activation.tasks.add(task)
            task.add_done_callback(lambda done: self._timer_ended(activation, done))
            if period_ms is not None and activation.closing is None:
                self.set_timer(activation, name, period_ms, callback, period_ms)

        activation.timers[name] = asyncio.get_running_loop().call_later(delay_ms / 1000, due)

    async def _timer_turn(self, activation: _Activation, callback: Callable[[], Any]) -> None:
        me = f"{activation.key.actor_type}/{activation.key.actor_id}"
        chain = Chain(secrets.token_hex(8), 1, (me,))
        await self._turn(activation, Chain(chain.chain_id), self.clock() + activation.kind.actor_class.idle_timeout_ms)
        activation.chain = chain
        current_chain.set(chain)
        try:
            result = callback()
            if asyncio.iscoroutine(result):
                await result
        finally:
            self._release(activation)

    def _timer_ended(self, activation: _Activation, done: asyncio.Task[Any]) -> None:
        activation.tasks.discard(done)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.warning("a timer failed", actor=str(activation.key), error=repr(error))

    # -- ends --------------------------------------------------------------------------------------------

    def granted(self, _effect: Granted) -> None:
        """Slots may be served."""
        self.wake_early_calls()

    def stop_admitting(self, effect: StopAdmitting) -> None:
        """Let running turns end, deactivate, and report each slot."""
        reason = DeactivationReason.LEAVING if self._closed else DeactivationReason.MOVED
        for span in effect.spans:
            empty = []
            for slot in range(span.first, span.first + span.count):
                here = self._by_slot.get((span.actor_type, slot))
                if not here:
                    empty.append(slot)
                for activation in list(here or ()):
                    self._begin_closing(activation, reason)
            if empty:
                self._drained(span.actor_type, tuple(empty))
        self.wake_early_calls()

    def cancel(self, effect: CancelTurns) -> None:
        """Cancel what still runs there."""
        for activation in self._in(effect.spans):
            for task in list(activation.tasks):
                self.figures.cancelled += 1
                task.cancel()

    def ended(self, effect: Ended) -> None:
        """The gate is shut: drop what is left without calling it."""
        reason = DeactivationReason.LEASE if effect.reason is EndReason.LEASE else DeactivationReason.MOVED
        for activation in self._in(effect.spans):
            activation.closing = reason
            for task in list(activation.tasks):
                task.cancel()
            self._forget(activation)
        self.wake_early_calls()

    def _in(self, spans: Iterable[Any]) -> list[_Activation]:
        return [
            activation
            for span in spans
            for slot in range(span.first, span.first + span.count)
            for activation in self._by_slot.get((span.actor_type, slot), ())
        ]

    def _begin_closing(self, activation: _Activation, reason: DeactivationReason) -> None:
        if activation.closing is not None:
            return
        activation.closing = reason
        for waiting in activation.waiting:
            if not waiting.done():
                waiting.set_exception(
                    NotOwnerError(f"{activation.key} is being deactivated: {reason}", self._version())
                )
        activation.waiting.clear()
        if activation.chain is None:
            self._finish(activation)

    def _finish(self, activation: _Activation) -> None:
        """The last turn: on_deactivate, then the activation is gone."""
        if activation.closed.is_set():
            return

        async def last_turn() -> None:
            try:
                if activation.activated and activation.closing is not None:
                    await activation.actor.on_deactivate(activation.closing)
            except Exception:
                log.exception("on_deactivate failed", actor=str(activation.key))
            finally:
                self._forget(activation)

        activation.chain = Chain("(deactivation)")
        task = asyncio.ensure_future(last_turn())
        activation.tasks.add(task)
        task.add_done_callback(activation.tasks.discard)

    def _forget(self, activation: _Activation) -> None:
        if activation.closed.is_set():
            return
        for timer in activation.timers.values():
            timer.cancel()
        activation.closed.set()
        key = activation.key
        self._activations.pop((key.actor_type, key.actor_id), None)
        here = self._by_slot.get((key.actor_type, activation.slot), set())
        here.discard(activation)
        reason = activation.closing.value if activation.closing is not None else ""
        self.figures.deactivations[reason] = self.figures.deactivations.get(reason, 0) + 1
        if not here:
            self._by_slot.pop((key.actor_type, activation.slot), None)
            if activation.closing is not DeactivationReason.IDLE:
                self._drained(key.actor_type, (activation.slot,))

    def _arm_idle_check(self) -> None:
        if self._idle_check is None and self._activations and not self._closed:
            delay_s = self._limits.idle_check_ms / 1000
            self._idle_check = asyncio.get_running_loop().call_later(delay_s, self._close_idle)

    def _close_idle(self) -> None:
        self._idle_check = None
        now = self.clock()
        for activation in list(self._activations.values()):
            idle = activation.chain is None and not activation.waiting
            if idle and now - activation.last_used_ms >= activation.kind.actor_class.idle_timeout_ms:
                self._begin_closing(activation, DeactivationReason.IDLE)
        self._arm_idle_check()

    def activation_count(self) -> int:
        """Live activations."""
        return len(self._activations)

    def begin_leaving(self) -> None:
        """From here on actors are told that the host leaves."""
        self._closed = True

    async def close(self) -> None:
        """Cancel everything. Idempotent."""
        self._closed = True
        if self._idle_check is not None:
            self._idle_check.cancel()
        tasks = []
        for activation in list(self._activations.values()):
            activation.closing = activation.closing or DeactivationReason.LEAVING
            tasks += list(activation.tasks)
            self._forget(activation)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
