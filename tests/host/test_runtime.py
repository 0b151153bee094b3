"""The runtime's promises on a manual clock. Each is a scenario, and each has a seeded bug with which it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from callboard.core.handoff_messages import SlotRun
from callboard.core.native_host_records import CancelTurns
from callboard.host import (
    Actor,
    ActorFailedError,
    ActorKey,
    BusyError,
    CallError,
    DeactivationReason,
    NotServedError,
    OutcomeUnknownError,
    ReentrancyError,
    method,
)
from callboard.host.activation import Activation
from callboard.host.actors import Chain
from callboard.host.early_calls import EarlyCalls
from callboard.host.limits import RuntimeLimits
from callboard.host.runtime import Runtime
from callboard.host.timers import Timers
from callboard.testing.clock import settle
from tests.host.lone_host import SETTINGS, LoneHost, Scenario, ended_with

KEY = ActorKey("default", "Worker", "a")
LATE_MS = SETTINGS.lease_ms + 1


class Worker(Actor):
    """Its turns begin and end as tests say."""

    mailbox_max = 3
    idle_timeout_ms = 20_000
    doors: ClassVar[dict[str, asyncio.Event]] = {}
    told: ClassVar[list[str]] = []
    inside: ClassVar[set[str]] = set()
    host: ClassVar[LoneHost]
    slow_ends: ClassVar[bool] = False

    async def on_deactivate(self, reason: DeactivationReason) -> None:
        Worker.told.append(f"{reason.value} begins")
        if Worker.slow_ends:
            await self._door("end")
        Worker.told.append(reason.value)

    async def _door(self, name: str) -> None:
        await Worker.doors.setdefault(name, asyncio.Event()).wait()

    @method
    async def work(self, door: str) -> str:
        """Until the door opens."""
        me = self.context.actor_id
        assert me not in Worker.inside, "two turns at once"
        Worker.inside.add(me)
        try:
            await self._door(door)
        finally:
            Worker.inside.discard(me)
        return door

    @method
    async def quick(self) -> str:
        me = self.context.actor_id
        assert me not in Worker.inside, "two turns at once"
        return "quick"

    @method
    async def stubborn(self, *, saves: bool = False, fails: bool = False) -> str:
        """Goes on when it is cancelled, until the door `late` opens."""
        door = Worker.doors.setdefault("late", asyncio.Event())
        while not door.is_set():
            try:
                await door.wait()
            except asyncio.CancelledError:
                Worker.told.append("cancelled")
        if saves:
            await self.context.save(b"too late")
        if fails:
            raise KeyError("too late")
        return "done"

    @method
    async def tick_every(self, period_ms: int) -> None:
        async def tick() -> None:
            assert self.context.actor_id not in Worker.inside, "two turns at once"
            Worker.told.append("tick")

        self.context.start_timer("t", tick, due_ms=period_ms, period_ms=period_ms)

    @method
    async def stop_ticking(self) -> None:
        self.context.cancel_timer("t")


class Circle(Worker):
    """Calls itself through itself."""

    reentrant = True
    reentrancy_depth_max = 4

    @method
    async def ring(self, depth: int) -> int:
        return 0 if depth == 0 else 1 + await Worker.host.actor(Circle, self.context.actor_id).ring(depth - 1)


class Straight(Worker):
    """Calls itself, which it may not."""

    @method
    async def ring(self) -> str:
        return await Worker.host.actor(Straight, self.context.actor_id).quick()


def host_of(*actors: type[Actor], limits: RuntimeLimits | None = None, given: bool = True) -> LoneHost:
    Worker.doors, Worker.told, Worker.inside, Worker.slow_ends = {}, [], set(), False
    Worker.host = host = LoneHost(*(actors or (Worker, Circle, Straight)), limits=limits)
    if given:
        host.give()
    return host


async def open_door(name: str) -> None:
    Worker.doors.setdefault(name, asyncio.Event()).set()
    await settle()


# -- turns -----------------------------------------------------------------------------------------------


async def turns_follow_each_other() -> None:
    host = host_of()
    first = await host.begin(host.actor(Worker).work("one"))
    second = await host.begin(host.actor(Worker).work("two"))
    await open_door("two")
    assert Worker.inside == {"a"}
    assert not second.done()
    await open_door("one")
    assert (first.result(), second.result()) == ("one", "two")


async def actors_run_in_parallel() -> None:
    host = host_of()
    calls = [await host.begin(host.actor(Worker, name).work("one")) for name in "abc"]
    assert Worker.inside == {"a", "b", "c"}
    await open_door("one")
    assert [call.result() for call in calls] == ["one"] * 3


async def chains_come_back_only_to_reentrant_actors() -> None:
    host = host_of()
    assert await host.actor(Circle).ring(3) == 3
    too_deep = await host.begin(host.actor(Circle).ring(6))
    ended_with(too_deep, ActorFailedError, "ReentrancyError: Circle/a is called at depth 5; the limit is 4")
    refused = await host.begin(host.actor(Straight).ring())
    ended_with(refused, ActorFailedError, "ReentrancyError: Straight/a is called by a chain of calls")
    assert await host.actor(Straight).quick() == "quick", "the actor is stuck"


async def a_chain_that_came_too_late_waits() -> None:
    """A turn ended without waiting for the calls that it made; these come back while others have their turn."""
    host = host_of()
    late = Chain("late", 2, ("Circle/a", "Worker/b"))

    async def comes_back() -> bytes:
        deadline_ms = host.clock.now_ms() + 1000
        return await host.runtime.call("Circle", "a", "quick", b"\x80", deadline_ms=deadline_ms, chain=late)

    running = await host.begin(host.actor(Circle).work("one"))
    waiting = await host.begin(comes_back())
    assert not waiting.done(), "it ran within another chain's turn"
    await open_door("one")
    assert running.result() == "one"
    await waiting
    await comes_back()
    again = await host.begin(host.actor(Circle).quick())
    assert again.done(), "the actor is stuck"


async def a_turn_cancelled_before_it_began_is_given_back() -> None:
    host = host_of()
    call = asyncio.ensure_future(host.actor(Worker).quick())
    await asyncio.sleep(0)
    ((_, slot),) = host.runtime._by_slot
    host.runtime.cancel(CancelTurns((SlotRun("Worker", slot, 1),), host.clock.now_ms() + 100))
    await settle()
    ended_with(call, OutcomeUnknownError, "was cancelled: its host lost the slot")
    assert (await host.begin(host.actor(Worker).quick())).done(), "the actor is stuck"


async def full_mailboxes_refuse() -> None:
    host = host_of()
    running = await host.begin(host.actor(Worker).work("one"))
    waiting = [await host.begin(host.actor(Worker).quick()) for _ in range(3)]
    refused = await host.begin(host.actor(Worker).quick())
    ended_with(refused, BusyError, "3 calls wait for Worker/a")
    assert BusyError.definite
    await open_door("one")
    assert [call.result() for call in [running, *waiting]] == ["one", "quick", "quick", "quick"]


async def calls_end_at_their_deadline() -> None:
    """Those that wait surely did not run; those that run may have an effect later."""
    host = host_of()
    running = await host.begin(host.actor(Worker, timeout_ms=700).work("one"))
    waiting = await host.begin(host.actor(Worker, timeout_ms=500).quick())
    await host.clock.advance(499)
    assert not waiting.done()
    await host.clock.advance(1)
    ended_with(waiting, NotServedError, "Worker/a had other calls to run until the deadline")
    await host.clock.advance(200)
    ended_with(running, OutcomeUnknownError, "Worker/a.work still runs at the call's deadline")
    await open_door("one")
    assert await host.actor(Worker).quick() == "quick"


# -- early calls -----------------------------------------------------------------------------------------


async def early_calls_wait_for_the_grant() -> None:
    host = host_of(given=False)
    host.give(granted=False)
    early = await host.begin(host.actor(Worker).quick())
    given_up = await host.begin(host.actor(Worker, timeout_ms=300).quick())
    await host.clock.advance(299)
    assert not early.done()
    assert not given_up.done()
    await host.clock.advance(1)
    ended_with(given_up, NotServedError, "of Worker is still not granted")
    host.grant()
    await settle()
    assert early.done(), "the grant woke nobody"
    assert early.result() == "quick"


async def early_calls_are_bounded() -> None:
    host = host_of(given=False, limits=RuntimeLimits(early_calls_max=2))
    host.give(granted=False)
    early = [await host.begin(host.actor(Worker, name).quick()) for name in "abc"]
    ended_with(early[2], BusyError, "2 calls wait for slots that are not granted yet")
    host.grant()
    await settle()
    assert [call.result() for call in early[:2]] == ["quick", "quick"]


async def early_callers_look_again() -> None:
    """A host that is cut off does not hear that its slot has another owner: it must not keep who may know."""
    host = host_of(given=False)
    host.give(granted=False)
    early = await host.begin(host.actor(Worker).quick())
    await host.clock.advance(1100)
    assert host.client.figures.retried > 0, "the call waits here until its deadline"
    host.grant()
    await host.clock.advance(100)
    assert early.result() == "quick"


async def early_calls_go_on_when_the_lease_is_renewed() -> None:
    host = host_of()
    host.answers = False
    await host.clock.advance(SETTINGS.lease_ms - SETTINGS.drain_ms - SETTINGS.margin_ms)
    early = await host.begin(host.actor(Worker).quick())
    assert not early.done(), "a turn began without the time that it may need"
    host.renew()
    await settle()
    assert early.done(), "the renewal woke nobody"
    assert early.result() == "quick"


# -- deactivation ----------------------------------------------------------------------------------------


async def idle_actors_are_deactivated() -> None:
    host = host_of()
    await host.actor(Worker, "b").quick()
    running = await host.begin(host.actor(Worker, timeout_ms=100_000).work("one"))
    await host.clock.advance(30_000)
    assert Worker.told == ["idle begins", "idle"]
    assert host.runtime.activation_count() == 1, "an actor with a running turn is not idle"
    assert host.holds()
    await open_door("one")
    assert running.result() == "one"
    await host.clock.advance(30_000)
    assert Worker.told == ["idle begins", "idle"] * 2


async def lost_slots_are_drained_and_reported() -> None:
    host = host_of()
    await host.actor(Worker, "b").quick()
    running = await host.begin(host.actor(Worker).work("one"))
    waiting = await host.begin(host.actor(Worker, timeout_ms=150).quick())
    host.take_away()
    await settle()
    assert Worker.told == ["moved begins", "moved"], "of the idle actor"
    assert host.holds(), "a turn still runs"
    await host.clock.advance(160)
    ended_with(waiting, NotServedError, "host-2 is not there")
    await open_door("one")
    assert running.result() == "one"
    assert Worker.told == ["moved begins", "moved"] * 2
    assert not host.holds()
    assert host.runtime.activation_count() == 0


async def a_slot_lost_in_an_idle_actors_last_turn_is_reported() -> None:
    host = host_of()
    await host.actor(Worker).quick()
    Worker.slow_ends = True
    await host.clock.advance(25_000)
    assert Worker.told == ["idle begins"]
    host.take_away()
    await open_door("end")
    assert not host.holds(), "the slot was never reported"


async def a_lost_lease_ends_everything() -> None:
    host = host_of()
    await host.actor(Worker, "b").quick()
    running = await host.begin(host.actor(Worker).work("one"))
    waiting = await host.begin(host.actor(Worker, timeout_ms=LATE_MS + 100).quick())
    host.answers = False
    await host.clock.advance(LATE_MS)
    ended_with(running, OutcomeUnknownError, "was cancelled: its host lost the slot")
    assert Worker.told == [], "on_deactivate ran without a right"
    assert host.runtime.activation_count() == 0
    assert host.runtime.figures.deactivations == {"lease": 2}
    await host.clock.advance(100)
    ended_with(waiting, NotServedError, "is still not granted")


# -- drains and gates ------------------------------------------------------------------------------------


async def draining_cancels_turns() -> None:
    host = host_of()
    running = await host.begin(host.actor(Worker).work("one"))
    host.take_away()
    await host.clock.advance(SETTINGS.drain_ms)
    assert not running.done(), "the turn had not got its drain time"
    await host.clock.advance(1)
    ended_with(running, OutcomeUnknownError, "was cancelled: its host lost the slot")
    assert Worker.told == ["moved begins", "moved"]
    assert not host.holds()
    assert host.stopped == []


async def last_turns_end_before_the_gate() -> None:
    """An `on_deactivate` that begins after the cancellation has half of the margin: the slot is let go in time."""
    host = host_of()
    running = await host.begin(host.actor(Worker).work("one"))
    Worker.slow_ends = True
    host.take_away()
    await host.clock.advance(SETTINGS.drain_ms + SETTINGS.margin_ms + 1)
    assert running.done()
    assert Worker.told == ["moved begins"]
    assert not host.holds(), "the slot is not let go in time"


async def no_reply_passes_a_shut_gate() -> None:
    for fails in (False, True):
        host = host_of()
        running = await host.begin(host.actor(Worker).stubborn(fails=fails))
        # As after SIGCONT: the lease is over, and what is ready runs before any timer fires.
        host.clock.jump(LATE_MS)
        await open_door("late")
        ended_with(running, OutcomeUnknownError, "ran, but its host lost the right to answer")
        assert host.runtime.figures.gate_shut == 1


async def no_effect_passes_a_shut_gate() -> None:
    host = host_of()
    running = await host.begin(host.actor(Worker).stubborn(saves=True))
    host.clock.jump(LATE_MS)
    await open_door("late")
    assert running.done()
    assert (await host.store.load(KEY, 0)).value is None, "an effect passed"


async def a_cancelled_turn_that_goes_on_has_no_effect() -> None:
    host = host_of()
    running = await host.begin(host.actor(Worker).stubborn(saves=True))
    host.answers = False
    await host.clock.advance(LATE_MS)
    assert "cancelled" in Worker.told
    await open_door("late")
    ended_with(running, OutcomeUnknownError)
    assert (await host.store.load(KEY, 0)).value is None, "an effect passed"


# -- timers ----------------------------------------------------------------------------------------------


async def timers_are_turns() -> None:
    host = host_of()
    await host.actor(Worker).tick_every(100)
    await host.clock.advance(250)
    assert Worker.told == ["tick"] * 2
    running = await host.begin(host.actor(Worker).work("one"))
    await host.clock.advance(500)
    assert Worker.told == ["tick"] * 2, "a timer fired within another turn"
    await open_door("one")
    assert running.result() == "one"
    assert Worker.told == ["tick"] * 3, "firings pile up"
    await host.actor(Worker).stop_ticking()
    await host.clock.advance(1000)
    assert Worker.told == ["tick"] * 3
    await host.actor(Worker).tick_every(100)
    host.take_away()
    await host.clock.advance(1000)
    assert Worker.told == [*["tick"] * 3, "moved begins", "moved"]


async def timers_need_a_right() -> None:
    host = host_of()
    await host.actor(Worker).tick_every(SETTINGS.lease_ms - SETTINGS.margin_ms - 1)
    host.answers = False
    await host.clock.advance(LATE_MS)
    assert Worker.told == [], "a timer fired when no turn may begin"


# -- the bugs --------------------------------------------------------------------------------------------


def always_the_turn(patch: pytest.MonkeyPatch) -> None:
    async def turn(_runtime: Runtime, activation: Activation, chain: Chain, _deadline_ms: int) -> bool:
        activation.running = chain
        return False

    patch.setattr(Runtime, "_turn", turn)


def one_turn_of_all(patch: pytest.MonkeyPatch) -> None:
    real = Runtime._turn

    async def turn(runtime: Runtime, activation: Activation, chain: Chain, deadline_ms: int) -> bool:
        if any(each.running is not None for each in runtime._activations.values()):
            raise BusyError("another actor runs")
        return await real(runtime, activation, chain, deadline_ms)

    patch.setattr(Runtime, "_turn", turn)


def no_depth_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Circle, "reentrancy_depth_max", 1000)


def any_chain_reenters(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Activation, "reenters", lambda activation, chain: activation.name in chain.path)


def release_in_the_turn_only(patch: pytest.MonkeyPatch) -> None:
    real = Runtime._turn_ended

    def ended(runtime: Runtime, activation: Activation, reentered: bool, done: asyncio.Task[Any]) -> None:
        real(runtime, activation, reentered or done.cancelled(), done)

    patch.setattr(Runtime, "_turn_ended", ended)


def endless_mailbox(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Worker, "mailbox_max", 1000)


def no_deadline(patch: pytest.MonkeyPatch) -> None:
    real = Runtime.call

    async def call(runtime: Runtime, *arguments: Any, deadline_ms: int, chain: Chain) -> bytes:
        return await real(runtime, *arguments, deadline_ms=deadline_ms + 100_000, chain=chain)

    patch.setattr(Runtime, "call", call)


def nobody_wakes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EarlyCalls, "wake", lambda _early: None)


def endless_early_calls(patch: pytest.MonkeyPatch) -> None:
    real = EarlyCalls.__init__
    patch.setattr(EarlyCalls, "__init__", lambda early, clock, _limit: real(early, clock, 1000))


def endless_patience(patch: pytest.MonkeyPatch) -> None:
    real = EarlyCalls.wait

    async def wait(early: EarlyCalls, actor_type: str, slot: int, _timeout_ms: int) -> None:
        await real(early, actor_type, slot, 100_000)

    patch.setattr(EarlyCalls, "wait", wait)


def never_idle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Runtime, "_close_idle", lambda _runtime: None)


def no_last_turn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Runtime, "_finish", Runtime._forget)


def draining_forgotten(patch: pytest.MonkeyPatch) -> None:
    class Deaf(set[tuple[str, int]]):
        def add(self, _element: tuple[str, int]) -> None:
            pass

    real = Runtime.stop_admitting

    def stop_admitting(runtime: Runtime, effect: Any) -> None:
        runtime._draining = Deaf()
        real(runtime, effect)

    patch.setattr(Runtime, "stop_admitting", stop_admitting)


def last_turn_without_right(patch: pytest.MonkeyPatch) -> None:
    def ended(runtime: Runtime, effect: Any) -> None:
        for activation in runtime._in(effect.spans):
            runtime._begin_closing(activation, DeactivationReason.LEASE)

    patch.setattr(Runtime, "ended", ended)


def turns_are_never_cancelled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Runtime, "cancel", lambda _runtime, _effect: None)


def endless_last_turns(patch: pytest.MonkeyPatch) -> None:
    real = Runtime._finish

    def finish(runtime: Runtime, activation: Activation) -> None:
        activation.last_turn_ends_ms = None
        real(runtime, activation)

    patch.setattr(Runtime, "_finish", finish)


def open_gate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Runtime, "_pass_gate", lambda _runtime, _activation: None)


def gate_by_timer(patch: pytest.MonkeyPatch) -> None:
    """The gate shuts when the machine is told of the time, not when the time is over."""

    def pass_gate(runtime: Runtime, activation: Activation) -> None:
        if activation.closed.is_set():
            raise OutcomeUnknownError("shut")

    patch.setattr(Runtime, "_pass_gate", pass_gate)


def timers_without_turns(patch: pytest.MonkeyPatch) -> None:
    real = Timers.__init__

    async def at_once(activation: Activation, body: Callable[[Actor], Any]) -> None:
        await body(activation.actor)

    patch.setattr(Timers, "__init__", lambda timers, clock, _own_turn, most: real(timers, clock, at_once, most))


SCENARIOS: list[tuple[Scenario, tuple[Callable[[pytest.MonkeyPatch], None], ...]]] = [
    (turns_follow_each_other, (always_the_turn,)),
    (actors_run_in_parallel, (one_turn_of_all,)),
    (chains_come_back_only_to_reentrant_actors, (no_depth_limit,)),
    (a_chain_that_came_too_late_waits, (any_chain_reenters,)),
    (a_turn_cancelled_before_it_began_is_given_back, (release_in_the_turn_only,)),
    (full_mailboxes_refuse, (endless_mailbox,)),
    (calls_end_at_their_deadline, (no_deadline,)),
    (early_calls_wait_for_the_grant, (nobody_wakes,)),
    (early_calls_are_bounded, (endless_early_calls,)),
    (early_callers_look_again, (endless_patience,)),
    (early_calls_go_on_when_the_lease_is_renewed, (nobody_wakes,)),
    (idle_actors_are_deactivated, (never_idle,)),
    (lost_slots_are_drained_and_reported, (no_last_turn, draining_forgotten)),
    (a_slot_lost_in_an_idle_actors_last_turn_is_reported, (draining_forgotten,)),
    (a_lost_lease_ends_everything, (last_turn_without_right,)),
    (draining_cancels_turns, (turns_are_never_cancelled,)),
    (last_turns_end_before_the_gate, (endless_last_turns,)),
    (no_reply_passes_a_shut_gate, (open_gate, gate_by_timer)),
    (no_effect_passes_a_shut_gate, (open_gate, gate_by_timer)),
    (a_cancelled_turn_that_goes_on_has_no_effect, (open_gate,)),
    (timers_are_turns, (timers_without_turns,)),
    (timers_need_a_right, (timers_without_turns,)),
]
BUGS = [(scenario, bug) for scenario, bugs in SCENARIOS for bug in bugs]


async def play(scenario: Scenario) -> None:
    """Run it, and leave no task behind."""
    try:
        await scenario()
    finally:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for door in Worker.doors.values():
            door.set()
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, *Worker.host.calls, return_exceptions=True)


@pytest.mark.parametrize("scenario", [each for each, _ in SCENARIOS], ids=lambda each: each.__name__)
async def test_runtime(scenario: Scenario) -> None:
    await play(scenario)


@pytest.mark.parametrize(("scenario", "bug"), BUGS, ids=lambda each: each.__name__)
async def test_scenarios_catch_bugs(
    scenario: Scenario, bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    with pytest.raises((AssertionError, CallError, asyncio.InvalidStateError)):
        await play(scenario)


def test_reentrancy_errors_are_definite() -> None:
    assert ReentrancyError.definite
    assert not OutcomeUnknownError.definite
