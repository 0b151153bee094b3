"""The real runtime over the real host machine on a manual clock, with the test in the leader's place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from callboard.core.handoff_messages import Held, Renewal, RenewalAnswer, Tick, Welcome
from callboard.core.native_host import NativeHost
from callboard.core.native_host_records import (
    AnswerReceived,
    CancelTurns,
    Connected,
    Ended,
    Granted,
    HostEvent,
    SendRenewal,
    StopAdmitting,
    Stopped,
    TableInstalled,
    TableReceived,
    WelcomeReceived,
)
from callboard.core.native_host_records import Drained as DrainedEvent
from callboard.core.slot_records import HandoffSettings, NativeHostRecord, SlotTable
from callboard.core.table_delta import HostEntry, TableView, diff, make_view
from callboard.core.versions import Policy
from callboard.host import Actor, CallSettings, Client, MemoryStore, NotServedError, StateStore
from callboard.host.actors import ActorType
from callboard.host.clock import Timer
from callboard.host.limits import RuntimeLimits
from callboard.host.runtime import Runtime
from callboard.testing.clock import ManualClock, settle

NAMESPACE = "default"
ME, OTHER = 1, 2
SLOT_BITS = 4
SETTINGS = HandoffSettings(lease_ms=1000, drain_ms=200, margin_ms=100, tick_ms=50, failure_timeout_ms=1500)

A = TypeVar("A", bound=Actor)
Result = TypeVar("Result")


class LocalClient(Client):
    """The other host of the tables does not answer."""

    async def _attempt(self, owner: HostEntry, **call: Any) -> bytes:
        if owner.incarnation != ME:
            raise NotServedError(f"{owner.name} is not there")
        return await super()._attempt(owner, **call)


class LoneHost:
    """See the module's description. `answers`: whether renewals are answered, at once."""

    def __init__(
        self,
        *actors: type[Actor],
        store: StateStore | None = None,
        limits: RuntimeLimits | None = None,
        fence: int = 0,
        clock: ManualClock | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.store = store or MemoryStore()
        self.answers = True
        self.version, self.fence = 0, fence
        self.renewals: list[Renewal] = []
        self.stopped: list[Stopped] = []
        self.calls: list[asyncio.Task[Any]] = []
        self._timer: Timer | None = None
        self._kinds = {kind.name: kind for kind in map(ActorType.of, actors)}
        record = NativeHostRecord("me", "me:1", tuple(sorted(self._kinds)), "p")
        self.machine = NativeHost(NAMESPACE, Policy.EXCLUSIVE, record)
        self.runtime = Runtime(
            namespace=NAMESPACE,
            kinds=self._kinds,
            admission=lambda: self.machine,
            drained=lambda kind, slots: self.tell(DrainedEvent(kind, slots)),
            clock=self.clock,
            store=self.store,
            version=lambda: self.version,
            limits=limits,
        )
        self.runtime.slot_bits = SLOT_BITS
        self.client = LocalClient(
            NAMESPACE,
            self,
            self.clock.now_ms,
            CallSettings(timeout_ms=5000),
            local_incarnation=lambda: ME,
            local_call=self.runtime.call,
        )
        self.tell(Connected(1))
        self.tell(WelcomeReceived(1, Welcome(ME, 1, Policy.EXCLUSIVE, SLOT_BITS, SETTINGS)))

    # -- the leader's words

    def give(self, *, granted: bool = True) -> None:
        """Make this host the owner of every slot, and grant them."""
        self._install(ME)
        if granted:
            self.grant()

    def take_away(self) -> None:
        """Make another host the owner of every slot."""
        self._install(OTHER)

    def grant(self) -> None:
        """The earlier owners let go."""
        self.fence += 1
        grants = tuple(Held(kind, 0, 1 << SLOT_BITS, self.version, self.fence) for kind in self._kinds)
        self._answer(grants)

    def renew(self) -> None:
        """Answer the newest renewal."""
        self._answer(())

    def _answer(self, grants: tuple[Held, ...]) -> None:
        answer = RenewalAnswer(self.renewals[-1].number, ME, 1, self.version, True, grants)
        self.tell(AnswerReceived(1, answer))

    def _install(self, owner: int) -> None:
        self.version += 1
        hosts = {number: HostEntry(number, f"host-{number}", f"host-{number}:1") for number in (ME, OTHER)}
        table = SlotTable((owner,) * (1 << SLOT_BITS), (self.version,) * (1 << SLOT_BITS))
        view = make_view(self.version, SLOT_BITS, hosts, dict.fromkeys(self._kinds, table))
        before = self.machine.view
        self.tell(TableReceived(1, diff(before, view) if before is not None else diff(None, view)))

    # -- the machine

    def tell(self, event: HostEvent) -> None:
        """What `Session` does, without a stream."""
        for effect in self.machine.handle(event, self.clock.now_ms()):
            match effect:
                case Granted():
                    self.runtime.granted(effect)
                case StopAdmitting():
                    self.runtime.stop_admitting(effect)
                case CancelTurns():
                    self.runtime.cancel(effect)
                case Ended():
                    self.runtime.ended(effect)
                case TableInstalled():
                    self.runtime.wake_early_calls()
                case SendRenewal(_, renewal):
                    self.renewals.append(renewal)
                    if self.answers:
                        self._answer(())
                case Stopped():
                    self.stopped.append(effect)
        if isinstance(event, AnswerReceived):
            self.runtime.wake_early_calls()
        if self._timer is not None:
            self._timer.cancel()
        deadline_ms = self.machine.next_deadline_ms()
        if deadline_ms is not None:
            delay_ms = max(1, deadline_ms - self.clock.now_ms())
            self._timer = self.clock.call_later(delay_ms, lambda: self.tell(Tick()))

    def holds(self) -> bool:
        """Whether some slot still has a right here."""
        return self.machine._rights.any_live()

    # -- calls

    @property
    def view(self) -> TableView | None:
        """See `Tables`."""
        return self.machine.view

    @property
    def trouble(self) -> str:
        return ""

    async def changed(self, timeout_s: float) -> None:
        """See `Tables`."""
        woken = asyncio.Event()
        self.clock.call_later(int(timeout_s * 1000) + 1, woken.set)
        await woken.wait()

    def actor(self, actor_class: type[A], actor_id: str = "a", *, timeout_ms: int | None = None) -> A:
        """A reference."""
        return self.client.actor(actor_class, actor_id, timeout_ms=timeout_ms)

    async def begin(self, call: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Start a call, and let it come as far as it can."""
        task = asyncio.ensure_future(call)
        self.calls.append(task)
        await settle()
        return task


def ended_with(task: asyncio.Task[Any], error: type[BaseException], text: str = "") -> None:
    """Fail unless the task is done with this error."""
    assert task.done(), f"still waits; expected {error.__name__}"
    found = task.exception()
    assert isinstance(found, error), f"ended with {found!r}, not {error.__name__}"
    assert text in str(found), str(found)


Scenario = Callable[[], Coroutine[Any, Any, None]]
