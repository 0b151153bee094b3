"""The actor runtime over the real host machine, on a manual clock, beside `spec.model.actors`.

The test is the leader (`tests.host.lone_host`) and the callers; turns begin and end as drawn. After every step each
call has the outcome that it has in the model, and the same calls run inside the same actors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fractions import Fraction
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from callboard.core.handoff_messages import Held
from callboard.core.native_host_records import HostEvent
from callboard.host import Actor, CallError, method
from callboard.host.actors import Chain
from callboard.host.limits import RuntimeLimits
from callboard.testing.clock import settle
from spec.model import leases
from spec.model.actors import DONE, NOT_RUN, UNKNOWN, Call, DefiniteOrUnknown, Host, TurnBased
from spec.model.leases import Times
from tests.host.lone_host import SETTINGS, LoneHost
from tests.model.support import SideBySide, agree

MAILBOX, EARLY, EARLY_WAIT_MS = 2, 3, 400
STEP_MS = 25
REENTRANT = frozenset({"Circle/a", "Circle/b"})
TIMES = Times(SETTINGS.lease_ms, SETTINGS.drain_ms, SETTINGS.margin_ms, SETTINGS.tick_ms, Fraction(1, 100), 1500)


class Straight(Actor):
    """Its turns last until their door opens."""

    mailbox_max = MAILBOX
    machine: ClassVar[ActorMachine]

    @method
    async def work(self, number: int) -> int:
        """Note that the turn runs, and wait."""
        machine = Straight.machine
        machine.ran.add(number)
        inside = machine.inside.setdefault(f"{type(self).__name__}/{self.context.actor_id}", [])
        inside.append(number)
        try:
            await machine.doors.setdefault(number, asyncio.Event()).wait()
        finally:
            inside.remove(number)
        return number


class Circle(Straight):
    """Calls of the chain that runs may run inside its turn."""

    reentrant = True


class WatchedHost(LoneHost):
    """Knows from when on the lease counts."""

    def __init__(self, *actors: type[Actor], limits: RuntimeLimits) -> None:
        self.sent_ms: dict[int, int] = {}
        self.base_ms: int | None = None
        super().__init__(*actors, limits=limits)

    def tell(self, event: HostEvent) -> None:
        self._note()
        super().tell(event)
        self._note()

    def _note(self) -> None:
        for renewal in self.renewals:
            self.sent_ms.setdefault(renewal.number, self.clock.now_ms())

    def _answer(self, grants: tuple[Held, ...]) -> None:
        self._note()
        self.base_ms = max(self.base_ms or 0, self.sent_ms[self.renewals[-1].number])
        super()._answer(grants)


class ActorMachine(SideBySide):
    """Rules are what callers, turns, the leader and the clock may do."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.ran: set[int] = set()
        self.inside: dict[str, list[int]] = {}
        self.doors: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[bytes]] = {}
        Straight.machine = self
        self.host = self.loop.run_until_complete(self._host())
        self.model = Host(MAILBOX, EARLY, EARLY_WAIT_MS, SETTINGS.drain_ms, reentrant=REENTRANT)
        self.model.now = self.host.clock.now_ms()
        self._follow_lease()
        self.gives()

    async def _host(self) -> WatchedHost:
        host = WatchedHost(Straight, Circle, limits=RuntimeLimits(early_calls_max=EARLY, early_wait_ms=EARLY_WAIT_MS))
        await settle()
        return host

    def _do(self, action: Callable[[], object]) -> None:
        """Do it, and let every task come as far as it can."""

        async def act() -> None:
            action()
            await settle()

        self.loop.run_until_complete(act())
        self._follow_lease()

    def _follow_lease(self) -> None:
        """The lease of the model is that of the arithmetic in spec.model.leases."""
        base = self.host.base_ms
        if base is not None:
            self.model.admits_until = int(leases.admission_ends_at(TIMES, base))
            self.model.cancels_at = int(leases.turns_are_cancelled_at(TIMES, base))
            self.model.gate_shuts_at = int(leases.gate_shuts_at(TIMES, base))

    def _call(self, actor: str, timeout_ms: int, chain: Chain) -> None:
        number = len(self.tasks)
        kind, _, actor_id = actor.partition("/")
        payload = self.host._kinds[kind].methods["work"].encode_arguments((number,), {})
        deadline = self.host.clock.now_ms() + timeout_ms

        def begin() -> None:
            call = self.host.runtime.call(kind, actor_id, "work", payload, deadline_ms=deadline, chain=chain)
            self.tasks[number] = self.loop.create_task(call)

        self._do(begin)
        self.model.call(Call(number, actor, deadline, chain.chain_id))

    # -- rules -------------------------------------------------------------------------------------------

    def gives(self) -> None:
        """Own everything, and serve it."""
        self._do(self.host.give)
        self.model.gets()
        self.model.is_granted()

    @rule(
        actors=st.lists(st.sampled_from(("Straight/a", "Circle/a", "Circle/b")), min_size=1, max_size=4),
        timeout_ms=st.sampled_from((90, 450, 3000)),
    )
    def calls(self, actors: list[str], timeout_ms: int) -> None:
        for actor in actors:
            self._call(actor, timeout_ms, Chain(f"chain {len(self.tasks)}"))

    @precondition(lambda self: any(self.inside.values()))
    @rule(data=st.data())
    def call_back(self, data: st.DataObject) -> None:
        """A chain of calls comes back to an actor whose turn it has."""
        actor = data.draw(st.sampled_from(sorted(name for name, inside in self.inside.items() if inside)))
        running = self.model.actors[actor].turn if actor in self.model.actors else None
        if running is not None:
            self._call(actor, 3000, Chain(running.chain, 1, (actor,)))

    @precondition(lambda self: any(self.inside.values()))
    @rule(data=st.data())
    def turn_ends(self, data: st.DataObject) -> None:
        """The innermost one of an actor."""
        actor = data.draw(st.sampled_from(sorted(name for name, inside in self.inside.items() if inside)))
        number = self.inside[actor][-1]
        self._do(self.doors[number].set)
        self.model.finishes(self.model.calls[number])

    @rule(what=st.sampled_from(("moved", "silent", "nothing")))
    def trouble(self, what: str) -> None:
        """The slots move to another host, or the leader falls silent so that the lease runs out."""
        if what == "moved" and self.model.owner:
            self._do(self.host.take_away)
            self.model.loses()
        elif what == "silent":
            self.host.answers = False

    @rule(granted=st.booleans())
    def recovery(self, granted: bool) -> None:
        """The leader answers again, or the slots come back; who calls before they are granted comes early."""
        if not self.host.answers:
            self.host.answers = True
            self._do(self.host.renew)
            self.model.look_again()
        elif not self.model.owner and not self.model.granted and not self.host.holds():
            self._do(lambda: self.host.give(granted=False))
            self.model.gets()
            self._call("Straight/a", 3000, Chain(f"chain {len(self.tasks)}"))
        if granted and self.model.owner and not self.model.granted:
            self._do(self.host.grant)
            self.model.is_granted()

    @rule(duration_ms=st.sampled_from((10, 100, 225, 500, 900)))
    def time_passes(self, duration_ms: int) -> None:
        until = self.host.clock.now_ms() + duration_ms
        while (left := until - self.host.clock.now_ms()) > 0:
            self.loop.run_until_complete(self.host.clock.advance(min(STEP_MS, left)))
            if self.host.answers:
                self._follow_lease()
            self.model.advances(self.host.clock.now_ms())

    # -- invariants --------------------------------------------------------------------------------------

    def outcome(self, number: int) -> str | None:
        """How a call ended, as its caller sees it."""
        task = self.tasks[number]
        if not task.done():
            return None
        error = task.exception()
        if error is None:
            return DONE
        assert isinstance(error, CallError), repr(error)
        return NOT_RUN if error.definite else UNKNOWN

    @invariant()
    def as_in_the_model(self) -> None:
        """TurnBased first: what callers are told, and when a slot is let go, follows from who runs."""
        self._turn_based()
        self._definite_or_unknown()
        agree("EventuallyServed", self.host.holds(), self.model.granted)  # a slot that was lost is let go in time

    def _turn_based(self) -> None:
        """Who runs inside which actor, and the model's rule itself."""
        found = {actor: sorted(inside) for actor, inside in self.inside.items() if inside}
        expected = {
            name: sorted(call.number for call in actor.inside)
            for name, actor in self.model.actors.items()
            if actor.inside
        }
        agree("TurnBased", found, expected)
        agree("TurnBased", TurnBased(self.model), True)
        self.aim("calls that wait", sum(len(actor.waiting) for actor in self.model.actors.values()))
        self.aim("early calls", len(self.model.early))
        self.aim("calls of unknown outcome", sum(call.outcome == UNKNOWN for call in self.model.calls))

    def _definite_or_unknown(self) -> None:
        """Every caller was told what the model tells it, and it is true of what ran."""
        found = {number: self.outcome(number) for number in self.tasks}
        agree("DefiniteOrUnknown", found, {call.number: call.outcome for call in self.model.calls})
        for call in self.model.calls:
            agree("DefiniteOrUnknown", DefiniteOrUnknown(call, call.number in self.ran), True)

    def finish(self) -> None:
        """No call is left hanging once all deadlines are over."""
        self.time_passes(3100)
        agree("DefiniteOrUnknown", [number for number in self.tasks if self.outcome(number) is None], [])

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.loop.run_until_complete(self._end())
            self.loop.close()

    async def _end(self) -> None:
        await self.host.runtime.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, *self.tasks.values(), return_exceptions=True)


TestActors = ActorMachine.TestCase
TestActors.settings = settings(stateful_step_count=30)
