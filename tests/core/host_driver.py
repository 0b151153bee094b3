"""One native host's machine, driven by hand: what a leader would send, as single calls."""

from __future__ import annotations

from typing import TypeVar

from callboard.core.handoff_messages import (
    Gone,
    Grants,
    Held,
    Renewal,
    RenewalAnswer,
    Tick,
    Welcome,
)
from callboard.core.native_host import NativeHost
from callboard.core.native_host_records import (
    AnswerReceived,
    Connected,
    Disconnected,
    GoneReceived,
    GrantsReceived,
    HostEffect,
    HostEvent,
    Right,
    SendRenewal,
    TableReceived,
    WelcomeReceived,
)
from callboard.core.native_parting import Phase
from callboard.core.slot_records import HandoffSettings, NativeHostRecord, SlotTable
from callboard.core.table_delta import HostEntry, TableView, diff, make_view
from callboard.core.versions import Policy

SETTINGS = HandoffSettings(lease_ms=1000, drain_ms=200, margin_ms=100, tick_ms=40, failure_timeout_ms=1100)
ME, OTHER = 7, 8
EPOCH = 3
SLOT_BITS = 2
START_MS = 10_000
GATE_MS = START_MS + SETTINGS.lease_ms
CANCEL_MS = GATE_MS - SETTINGS.margin_ms
ADMIT_MS = CANCEL_MS - SETTINGS.drain_ms
"""Deadlines of a lease that counts from START_MS."""
Effect = TypeVar("Effect")


BySlot = dict[str, tuple[int, ...]]


def view(version: int, owners: BySlot, since: BySlot | None = None) -> TableView:
    """A table: owners by actor type; `since` is the version unless given."""
    present = {owner for of_type in owners.values() for owner in of_type if owner} | {ME}
    hosts = {each: HostEntry(each, f"host{each}", f"10.0.0.{each}:80") for each in sorted(present)}
    changed = since or {}
    tables = {kind: SlotTable(slots, changed.get(kind, (version,) * len(slots))) for kind, slots in owners.items()}
    return make_view(version, SLOT_BITS, hosts, tables)


class Driver:
    """A host, its clock, and the effects of the last event."""

    def __init__(self, policy: Policy = Policy.EXCLUSIVE, settings: HandoffSettings = SETTINGS) -> None:
        record = NativeHostRecord("host7", "10.0.0.7:80", ("cart", "user"), "token", store_id="store")
        self.machine = NativeHost("shop", policy, record)
        self.settings = settings
        self.now_ms = START_MS
        self.connection = 0
        self.effects: list[HostEffect] = []
        self.renewals: list[Renewal] = []
        self.table = view(1, {})

    def event(self, event: HostEvent) -> list[HostEffect]:
        self.effects = self.machine.handle(event, self.now_ms)
        self.renewals += [each.renewal for each in self.effects if isinstance(each, SendRenewal)]
        return self.effects

    def at(self, now_ms: int) -> list[HostEffect]:
        """A tick at this time."""
        self.now_ms = now_ms
        return self.event(Tick())

    @property
    def phase(self) -> Phase:
        """Of the machine."""
        return self.machine.phase

    def of(self, kind: type[Effect]) -> list[Effect]:
        """The effects of this kind that the last event had."""
        return [each for each in self.effects if isinstance(each, kind)]

    def connect(self) -> None:
        self.connection += 1
        self.event(Connected(self.connection))

    def welcome(self, incarnation: int = ME, epoch: int = EPOCH) -> None:
        self.event(
            WelcomeReceived(self.connection, Welcome(incarnation, epoch, self.machine.policy, SLOT_BITS, self.settings))
        )

    def install(self, after: TableView) -> None:
        before = self.machine.view
        self.event(TableReceived(self.connection, diff(before, after)))
        self.table = after

    def answer(
        self,
        number: int,
        *,
        grants: tuple[Held, ...] = (),
        epoch: int = EPOCH,
        incarnation: int = ME,
        holding_known: bool = True,
        version: int = 0,
    ) -> None:
        answer = RenewalAnswer(
            number=number,
            incarnation=incarnation,
            epoch=epoch,
            version=version,
            holding_known=holding_known,
            grants=grants,
        )
        self.event(AnswerReceived(self.connection, answer))

    def grant(self, *grants: Held, epoch: int = EPOCH, incarnation: int = ME) -> None:
        self.event(GrantsReceived(self.connection, Grants(incarnation, epoch, grants)))

    def gone(self, incarnation: int = ME, *, replaced: bool = False) -> None:
        self.event(GoneReceived(self.connection, Gone(incarnation, "not a member", replaced)))

    def right(self, slot: int, kind: str = "cart") -> Right:
        admitted = self.machine.admit(kind, slot, self.now_ms)
        assert isinstance(admitted, Right), admitted
        return admitted


def serving(policy: Policy = Policy.EXCLUSIVE, settings: HandoffSettings = SETTINGS) -> Driver:
    """A host that serves slots 0 and 1 of cart (fence 5) since version 4; the other two are another's. Its newest
    answered renewal was sent at START_MS."""
    driver = Driver(policy, settings)
    driver.connect()
    driver.welcome()
    driver.install(view(4, {"cart": (ME, ME, OTHER, OTHER)}))
    driver.answer(driver.renewals[-1].number, grants=(Held("cart", 0, 2, 4, 5),) if policy is Policy.EXCLUSIVE else ())
    assert driver.machine.admit("cart", 0, driver.now_ms), "not serving"
    return driver


def joined(owners: tuple[int, ...] = (ME, ME, OTHER, OTHER), policy: Policy = Policy.EXCLUSIVE) -> Driver:
    """Welcomed, with a table of version 4 and a lease from START_MS on, but without grants."""
    driver = Driver(policy)
    driver.connect()
    driver.welcome()
    driver.install(view(4, {"cart": owners}))
    driver.answer(driver.renewals[-1].number)
    return driver


def lapsed() -> Driver:
    """Its lease ran out while it was not connected; it is again, and welcomed."""
    driver = serving()
    driver.event(Disconnected(1))
    driver.at(GATE_MS)
    driver.connect()
    driver.welcome()
    return driver


def lose_slot_0(driver: Driver) -> None:
    """A table of version 5 takes slot 0 away."""
    driver.install(view(5, {"cart": (OTHER, ME, OTHER, OTHER)}, {"cart": (5, 4, 4, 4)}))
