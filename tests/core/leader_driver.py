"""One leader of native hosts, driven by hand over the real replicated state: what hosts and the log would send."""

from __future__ import annotations

from typing import TypeVar

from callboard.core.commands import (
    Command,
    CommitNativeBatch,
    CreateNativeNamespace,
    RaiseFeatureLevel,
    Request,
    TakeOffice,
)
from callboard.core.commands import Removal as RemovalOf
from callboard.core.handoff_messages import Farewell, Held, Hello, Renewal, RenewalAnswer, SlotRun, TableRequest, Tick
from callboard.core.membership import KNOWN_FEATURE_LEVEL, apply
from callboard.core.native_leader import NativeLeader
from callboard.core.native_leader_records import (
    CloseStream,
    FarewellReceived,
    HelloReceived,
    LeaderEffect,
    LeaderEvent,
    LeaderLimits,
    ProposalDone,
    ProposalFailed,
    Propose,
    RenewalReceived,
    RequestRound,
    RoundConfirmed,
    RoundFailed,
    SendAnswer,
    SendGrants,
    StateChanged,
    StreamEnded,
    TableRequested,
)
from callboard.core.native_streams import TAKEOVER_AFTER_MS
from callboard.core.records import Answer, ReplicatedState
from callboard.core.slot_records import HandoffSettings, NativeHostRecord, NativeNamespace
from callboard.core.versions import Policy

NAME = "shop"
SETTINGS = HandoffSettings(
    lease_ms=1000, drain_ms=200, margin_ms=100, tick_ms=40, rate_error_ppm=10_000, failure_timeout_ms=1500
)
START_MS = 50_000
SLOT_BITS = 4
Effect = TypeVar("Effect")


def record(name: str, *kinds: str, process: str = "p1", weight: int = 100) -> NativeHostRecord:
    return NativeHostRecord(name, f"{name}:80", kinds or ("cart",), process, weight=weight)


class LeaderDriver:
    """A leader, its clock, the log, and the effects of the last event."""

    def __init__(
        self,
        policy: Policy = Policy.EXCLUSIVE,
        settings: HandoffSettings = SETTINGS,
        limits: LeaderLimits | None = None,
    ) -> None:
        self.state = ReplicatedState()
        for command in (TakeOffice("r", "0"), RaiseFeatureLevel(1, KNOWN_FEATURE_LEVEL)):
            self.apply(command)
        assert self.apply(CreateNativeNamespace(NAME, policy, SLOT_BITS, settings)).succeeded
        self.limits = limits or LeaderLimits()
        self.now_ms = START_MS
        self.effects: list[LeaderEffect] = []
        self.proposals: dict[int, Command] = {}
        self.rounds: list[int] = []
        self.machine = NativeLeader(NAME, self.state.epoch, self.namespace, self.now_ms, self.limits)

    @property
    def namespace(self) -> NativeNamespace:
        return self.state.native[NAME]

    def apply(self, command: Command) -> Answer:
        self.state, answer = apply(self.state, self.state.applied_index + 1, Request(command))
        return answer

    def new_office(self) -> None:
        """Another leader takes over: nothing that was only heard is left."""
        self.apply(TakeOffice("r", str(self.state.epoch)))
        self.proposals, self.rounds = {}, []
        self.machine = NativeLeader(NAME, self.state.epoch, self.namespace, self.now_ms, self.limits)

    # ---- events

    def event(self, event: LeaderEvent) -> list[LeaderEffect]:
        self.effects = self.machine.handle(event, self.now_ms)
        for effect in self.effects:
            if isinstance(effect, Propose):
                self.proposals[effect.proposal_id] = effect.command
            if isinstance(effect, RequestRound):
                self.rounds.append(effect.round_id)
        return self.effects

    def at(self, now_ms: int) -> list[LeaderEffect]:
        self.now_ms = now_ms
        return self.event(Tick())

    def of(self, kind: type[Effect]) -> list[Effect]:
        return [each for each in self.effects if isinstance(each, kind)]

    def proposed(self, kind: type[Effect]) -> list[Effect]:
        """Commands of this kind that wait for the log."""
        return [each for each in self.proposals.values() if isinstance(each, kind)]

    def log(self, command: Command) -> list[LeaderEffect]:
        """A command of somebody else commits."""
        self.apply(command)
        return self.event(StateChanged(self.namespace, self.state.epoch))

    def commit(self) -> Answer:
        """The oldest proposal commits and its answer comes. The effects of both events are kept."""
        number = min(self.proposals)
        answer = self.apply(self.proposals.pop(number))
        first = self.event(StateChanged(self.namespace, self.state.epoch))
        self.effects = [*first, *self.event(ProposalDone(number, answer))]
        return answer

    def commit_all(self) -> None:
        """Whatever is proposed commits, also what is proposed after it within a tick."""
        effects: list[LeaderEffect] = []
        while self.proposals:
            self.commit()
            effects += self.effects
        self.effects = effects

    def fail(self) -> list[LeaderEffect]:
        """The oldest proposal is lost."""
        number = min(self.proposals)
        del self.proposals[number]
        return self.event(ProposalFailed(number))

    def confirm_round(self) -> list[LeaderEffect]:
        return self.event(RoundConfirmed(self.rounds[-1]))

    def round(self) -> list[LeaderEffect]:
        """A tick passes, and a round confirms that this leader leads: what was said before gets its last word."""
        self.at(self.now_ms + self.namespace.settings.tick_ms)
        return self.confirm_round()

    def fail_round(self) -> list[LeaderEffect]:
        return self.event(RoundFailed(self.rounds[-1]))

    def hello(
        self,
        stream_id: int,
        host: NativeHostRecord,
        incarnation: int = 0,
        connection: int = 1,
        *,
        have_version: int = 0,
        have_digest: bytes = b"",
        by_front: bool = False,
        policy: Policy | None = None,
    ) -> list[LeaderEffect]:
        spoken = policy or self.namespace.policy
        hello = Hello(NAME, spoken, host, incarnation, connection, have_version, have_digest, by_front)
        return self.event(HelloReceived(stream_id, hello))

    def take_over(self, stream_id: int, host: NativeHostRecord) -> None:
        """A process asks for the name of a member that is connected, and asks again."""
        self.hello(stream_id, host)
        self.now_ms += TAKEOVER_AFTER_MS
        self.hello(stream_id, host)

    def renew(
        self,
        stream_id: int,
        incarnation: int,
        number: int,
        *,
        connection: int = 1,
        version: int | None = None,
        base: int = 0,
        taken: tuple[Held, ...] = (),
        dropped: tuple[SlotRun, ...] = (),
        requests: tuple[Held, ...] = (),
        leaving: bool = False,
    ) -> list[LeaderEffect]:
        installed = self.namespace.version.wire if version is None else version
        renewal = Renewal(
            number=number,
            incarnation=incarnation,
            connection=connection,
            epoch=self.state.epoch,
            version=installed,
            base_number=base,
            taken=taken,
            dropped=dropped,
            requests=requests,
            leaving=leaving,
        )
        return self.event(RenewalReceived(stream_id, renewal))

    def farewell(self, stream_id: int, incarnation: int) -> list[LeaderEffect]:
        return self.event(FarewellReceived(stream_id, Farewell(incarnation)))

    def request_table(self, stream_id: int, incarnation: int) -> list[LeaderEffect]:
        return self.event(TableRequested(stream_id, TableRequest(incarnation, 0)))

    def end(self, stream_id: int) -> list[LeaderEffect]:
        return self.event(StreamEnded(stream_id))

    # ---- short cuts

    def join(self, stream_id: int, host: NativeHostRecord) -> int:
        """The host says hello and becomes a member. Returns its incarnation."""
        self.hello(stream_id, host)
        self.now_ms += self.namespace.settings.tick_ms
        self.event(Tick())
        self.commit_all()
        return self.namespace.members[host.name].incarnation

    def remove(self, *incarnations: int) -> list[LeaderEffect]:
        """An operator, or another leader, removed members."""
        names = {member.incarnation: name for name, member in self.namespace.members.items()}
        removals = tuple(RemovalOf(names[each], each) for each in incarnations)
        return self.log(CommitNativeBatch(self.state.epoch, NAME, (), removals, reason="operator"))

    def answers(self) -> list[RenewalAnswer]:
        return [each.answer for each in self.of(SendAnswer)]

    def granted(self) -> list[tuple[int, Held]]:
        """Grants that were pushed, with the incarnation."""
        return [(each.grants.incarnation, held) for each in self.of(SendGrants) for held in each.grants.grants]

    def closed(self) -> list[tuple[int, str]]:
        return [(each.stream_id, each.status) for each in self.of(CloseStream)]


def one_host() -> tuple[LeaderDriver, int]:
    """Host a (stream 1) has all slots of cart, and they are granted."""
    driver = LeaderDriver()
    return driver, driver.join(1, record("a"))


def all_held(driver: LeaderDriver, incarnation: int) -> tuple[Held, ...]:
    """What the host holds once it took all that it is granted."""
    table, rights = driver.namespace.tables["cart"], driver.namespace.rights["cart"]
    return tuple(
        Held("cart", slot, 1, table.since[slot], rights.fences[slot])
        for slot, owner in enumerate(table.owners)
        if owner == incarnation and slot not in rights.pending
    )


def two_hosts() -> tuple[LeaderDriver, int, int]:
    """Host a held all slots and renewed; b joined: half of the slots wait for a."""
    driver, first = one_host()
    driver.renew(1, first, 1, taken=all_held(driver, first))
    driver.now_ms += SETTINGS.tick_ms
    driver.confirm_round()
    second = driver.join(2, record("b"))
    assert len(driver.namespace.rights["cart"].pending) == (1 << SLOT_BITS) // 2
    return driver, first, second


def moved(driver: LeaderDriver) -> list[int]:
    """Slots that wait for earlier owners."""
    return sorted(driver.namespace.rights["cart"].pending)


def kept(driver: LeaderDriver, incarnation: int) -> tuple[Held, ...]:
    """All that the incarnation still owns and held from the beginning."""
    return all_held(driver, incarnation)
