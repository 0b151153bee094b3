"""The network of tests/core with `spec.model.exclusive` beside it: every party has a shadow that hears what it hears.

The replicated state and the hosts must be what their shadows are, after every event. A leader may do less than its
shadow allows, never more: what it confirms, buries, answers and grants is checked when it does it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from fractions import Fraction

from attrs import define, evolve, field

from callboard.core.commands import Bury, Command, CommitNativeBatch, ConfirmClear, CreateNativeNamespace, RaiseFences
from callboard.core.handoff_messages import Held
from callboard.core.native_host_records import (
    AnswerReceived,
    BecomeNewIncarnation,
    CancelTurns,
    Connected,
    Disconnected,
    Drained,
    GoneReceived,
    GrantsReceived,
    HostEvent,
    LeaveRequested,
    Right,
    SendFarewell,
    SendRenewal,
    TableReceived,
    WelcomeReceived,
)
from callboard.core.native_leader_records import (
    FarewellReceived,
    LeaderEffect,
    LeaderEvent,
    Propose,
    RenewalReceived,
    RequestRound,
    RoundConfirmed,
    SendAnswer,
    SendGrants,
    StateChanged,
)
from callboard.core.native_parting import Phase
from callboard.core.records import Answer
from callboard.core.slot_records import NativeNamespace
from callboard.core.versions import Policy
from spec.model.exclusive import FenceMonotonic, Host, Leader, Member, Server, SingleActivation, SlotName
from spec.model.leases import Times
from tests.core.native_network import NativeNetwork
from tests.core.native_parts import SLOT_BITS, Office, Process
from tests.model.support import Disagreement, agree


def each_slot(spans: Iterable[Held]) -> list[tuple[SlotName, int, int]]:
    """(slot, since, fence) of every slot."""
    return [((h.actor_type, slot), h.since, h.fence) for h in spans for slot in range(h.first, h.first + h.count)]


def _about_admission(host: Host, name: SlotName, now: int) -> str:
    """The property that breaks if a host does otherwise than the model: it begins a turn, or it does not."""
    if host.admits(name, now):
        return "EventuallyServed"
    return "TurnsInsideRights" if host.rights[name].ends_by is not None else "DrainIsGiven"


@define(eq=False)
class HostShadow:
    """The model of one incarnation, and what of its surroundings the model leaves out."""

    host: Host
    connection: int = 0
    cancellable: frozenset[SlotName] = frozenset()
    """Before the event that is being taken in."""


@define(eq=False)
class ShadowedNetwork(NativeNetwork):
    """See the module's description."""

    server: Server = field(init=False)
    views: dict[int, tuple[frozenset[int], dict[SlotName, tuple[int, int]]]] = field(init=False, factory=dict)
    """By version: members and (owner, since)."""
    states: dict[int, tuple[NativeNamespace, Server]] = field(init=False, factory=dict)
    """By identity of the real namespace: it, and the model at that moment."""
    said: dict[tuple[int, int], tuple[int, frozenset[SlotName]]] = field(init=False, factory=dict)
    """What each renewal (incarnation, number) meant, by the host's shadow."""
    host_shadows: dict[int, HostShadow] = field(init=False, factory=dict)
    leader_shadows: dict[int, Leader] = field(init=False, factory=dict)
    fences: dict[SlotName, int] = field(init=False, factory=dict)
    _confirmed_now: bool = field(init=False, default=False)
    _kept: list[object] = field(init=False, factory=list)
    """So that no identity is used twice."""

    # -- the replicated state

    @property
    def times(self) -> Times:
        """As the models know them."""
        s = self.settings
        rho = Fraction(s.rate_error_ppm, 1_000_000)
        return Times(s.lease_ms, s.drain_ms, s.margin_ms, s.tick_ms, rho, s.failure_timeout_ms, s.max_isolation_ms)

    def _apply(self, command: Command) -> Answer:
        answer = super()._apply(command)
        if isinstance(command, CreateNativeNamespace):
            self.server = Server(1 << SLOT_BITS)
            self._compare_state()
        elif hasattr(self, "server"):
            self._apply_to_model(command, answer)
            self._compare_state()
        return answer

    def _apply_to_model(self, command: Command, answer: Answer) -> None:
        match command:
            case CommitNativeBatch(epoch, _, upserts, removals):
                if epoch == self.state.epoch:
                    hosts = [
                        (h.name, Member(0, h.process, h.actor_types, h.weight, (h.address, h.labels))) for h in upserts
                    ]
                    self.server.batch(hosts, [(removal.name, removal.incarnation) for removal in removals])
                    agree("GenerationExact", answer.number, self.server.version)
            case ConfirmClear(_, spans):
                for span in spans:
                    for slot in range(span.first, span.first + span.count):
                        self.server.confirm((span.actor_type, slot), span.since)
            case Bury(_, incarnations):
                for incarnation in incarnations:
                    self.server.bury(incarnation)
            case RaiseFences(_, fence_spans):
                wanted = [
                    ((span.actor_type, slot), span.since, span.fence)
                    for span in fence_spans
                    for slot in range(span.first, span.first + span.count)
                ]
                self.server.raise_fences(wanted)

    def _compare_state(self) -> None:
        namespace, server = self.namespace, self.server
        members = {name: member.incarnation for name, member in namespace.members.items()}
        agree("LinearizableMembership", members, {name: each.incarnation for name, each in server.members.items()})
        agree("LinearizableMembership", set(namespace.tombstones), server.tombstones)
        found = {}
        for kind, table in namespace.tables.items():
            rights = namespace.rights[kind]
            for slot, owner in enumerate(table.owners):
                pending = set(rights.pending.get(slot, ()))
                found[kind, slot] = (owner, table.since[slot], pending, rights.fences[slot])
        expected = {name: (slot.owner, slot.since, slot.pending, slot.fence) for name, slot in server.slots.items()}
        if found != expected:
            wrong = {name: (found.get(name), each) for name, each in expected.items() if found.get(name) != each}
            raise Disagreement("OwnerAgreement", f"(owner, since, pending, fence) in code and model: {wrong}")
        known = (
            frozenset(members.values()),
            {name: (slot.owner, slot.since) for name, slot in server.slots.items()},
        )
        agree("GenerationExact", self.views.setdefault(namespace.version.wire, known), known)
        self.states[id(namespace)] = (namespace, copy.deepcopy(server))

    # -- leaders

    def _shadow_of_office(self, office: Office) -> Leader:
        if id(office) not in self.leader_shadows:
            server = self.states[id(office.machine.namespace)][1]
            self.leader_shadows[id(office)] = Leader(self.times, server, office.machine.started_ms)
            self._kept.append(office)
        return self.leader_shadows[id(office)]

    def _open_office(self) -> None:
        super()._open_office()
        self._shadow_of_office(self.office)

    def _lead(self, office: Office, event: LeaderEvent) -> None:
        shadow = self._shadow_of_office(office)
        match event:
            case StateChanged(namespace, epoch) if epoch == office.epoch:
                shadow.server = self.states[id(namespace)][1]
            case RenewalReceived(_, renewal):
                version, held = self.said[renewal.incarnation, renewal.number]
                shadow.hears_renewal(renewal.incarnation, renewal.number, version, held)
                for name, since, fence in each_slot(renewal.requests):
                    shadow.hears_request(renewal.incarnation, name, since, fence)
            case FarewellReceived(_, farewell):
                shadow.farewells.add(farewell.incarnation)
        self._confirmed_now = isinstance(event, RoundConfirmed)
        super()._lead(office, event)

    def _carry_out_leader(self, office: Office, effect: LeaderEffect) -> None:
        shadow, now_ms = self._shadow_of_office(office), office.clock.read(self.true_ms)
        match effect:
            case RequestRound():
                shadow.begins_round()
            case Propose(_, command):
                self._check_proposal(shadow, command, now_ms)
            case SendAnswer(_, answer):
                may = self._confirmed_now and shadow.may_answer(answer.incarnation, answer.number)
                agree("SingleActivation", may, True)
                shadow.answered[answer.incarnation] = now_ms
                self._check_grants(shadow, answer.incarnation, answer.grants)
            case SendGrants(_, grants):
                self._check_grants(shadow, grants.incarnation, grants.grants)
        super()._carry_out_leader(office, effect)

    def _check_proposal(self, shadow: Leader, command: Command, now_ms: int) -> None:
        match command:
            case ConfirmClear(_, spans):
                for span in spans:
                    for slot in range(span.first, span.first + span.count):
                        if not shadow.may_confirm((span.actor_type, slot), span.since):
                            raise Disagreement("SingleActivation", f"L1: {span.actor_type}/{slot} is not clear")
            case Bury(_, incarnations):
                for incarnation in incarnations:
                    if not shadow.may_bury(incarnation, now_ms):
                        text = (
                            f"L2: {incarnation} is buried at {now_ms}, its wait ends at {shadow.wait_ends(incarnation)}"
                        )
                        raise Disagreement("GoneImpliesGateShut", text)
            case RaiseFences(_, fences):
                for each in fences:
                    for slot in range(each.first, each.first + each.count):
                        name = (each.actor_type, slot)
                        agree("FenceMonotonic", shadow.may_raise_fence(name, each.since, each.fence), True)

    def _check_grants(self, shadow: Leader, incarnation: int, grants: Iterable[Held]) -> None:
        for name, since, fence in each_slot(grants):
            if not shadow.may_grant(incarnation, name, since, fence):
                text = f"L3: {name} is granted to {incarnation}, but it is {shadow.server.slots[name]}"
                raise Disagreement("SingleActivation", text)

    # -- hosts

    def shadow_of(self, process: Process) -> HostShadow:
        """Of its present incarnation."""
        machine = process.machine
        if id(machine) not in self.host_shadows:
            self._kept.append(machine)
            host = Host(self.times, exclusive=self.policy is Policy.EXCLUSIVE)
            self.host_shadows[id(machine)] = HostShadow(host)
        return self.host_shadows[id(machine)]

    def _host(self, process: Process, event: HostEvent) -> None:
        shadow, machine = self.shadow_of(process), process.machine
        if not (process.stopped or shadow.host.over):
            self._tell(shadow, event, process)
        super()._host(process, event)
        if machine is process.machine and not process.stopped:
            self._compare_host(process, shadow)
        self._note_fences(shadow.host)

    def _tell(self, shadow: HostShadow, event: HostEvent, process: Process) -> None:
        host, now = shadow.host, process.clock.read(self.true_ms)
        shadow.cancellable = frozenset(name for name in host.rights if host.may_cancel(name, now))
        host.clock(now)
        if host.over:
            return
        match event:
            case Connected(connection):
                shadow.connection = connection
            case Drained(kind, slots):
                host.drained([(kind, slot) for slot in slots], now)
            case LeaveRequested():
                host.leave(now)
            case Disconnected(connection) if connection == shadow.connection:
                shadow.connection = 0
            case WelcomeReceived(connection, welcome) if connection == shadow.connection:
                host.welcomed(welcome.incarnation, welcome.epoch)
            case AnswerReceived(connection, answer) if connection == shadow.connection:
                if answer.incarnation == host.incarnation:
                    host.answered(answer.number, answer.epoch, each_slot(answer.grants), now)
            case GrantsReceived(connection, grants) if connection == shadow.connection:
                if grants.incarnation == host.incarnation:
                    host.granted(grants.epoch, each_slot(grants.grants), now)
            case GoneReceived(connection, gone) if connection == shadow.connection:
                if gone.incarnation == host.incarnation != 0:
                    host.leave(now)

    def _carry_out_host(self, process: Process, effect: object) -> None:
        shadow = self.shadow_of(process)
        if isinstance(effect, BecomeNewIncarnation):
            self._installed(process, shadow)
            agree("Convergence", shadow.host.over, True)
        elif isinstance(effect, SendRenewal):
            self._installed(process, shadow)
            number, now = effect.renewal.number, process.clock.read(self.true_ms)
            self.said[effect.renewal.incarnation, number] = shadow.host.sends_renewal(number, now)
        elif isinstance(effect, SendFarewell):
            self._installed(process, shadow)
            agree("GoneImpliesGateShut", shadow.host.over, True)
        elif isinstance(effect, CancelTurns):
            for span in effect.spans:
                for slot in range(span.first, span.first + span.count):
                    agree("DrainIsGiven", (span.actor_type, slot) in shadow.cancellable, True)
        super()._carry_out_host(process, effect)  # type: ignore[arg-type]

    def _installed(self, process: Process, shadow: HostShadow) -> None:
        """A host may refuse a table, or install it; then it is the committed one."""
        machine, now = process.machine, process.clock.read(self.true_ms)
        view = machine.view
        if view is not None and view.version != shadow.host.version:
            members, table = self.views[view.version]
            shadow.host.installs(view.version, members, table, now)
        elif machine.phase in {Phase.LEAVING, Phase.OVER} and not shadow.host.leaving:
            shadow.host.leave(now)  # it is not in the table that came

    def _compare_host(self, process: Process, shadow: HostShadow) -> None:
        self._installed(process, shadow)
        machine, host, now = process.machine, shadow.host, process.clock.read(self.true_ms)
        agree("TableMonotonic", machine.epoch, host.epoch)
        agree("Convergence", machine.phase in {Phase.LEAVING, Phase.OVER}, host.leaving)
        live = {
            (kind, slot): (right.since, right.fence)
            for kind, of_kind in machine._rights.live.items()
            for slot, right in of_kind.items()
        }
        agree("SingleActivation", live, {name: (right.since, right.fence) for name, right in host.rights.items()})
        for kind, slot in live:
            right = machine._rights.live[kind][slot]
            admitted = machine.admit(kind, slot, now)
            for at_ms in (now, int(host.gate_shuts())):  # the gate is a comparison with the clock, not a timer
                open_then = host.gate_is_open((kind, slot), right.fence, at_ms)
                agree("SingleActivation", machine.gate_open(right, at_ms), open_then)
            agree(
                _about_admission(host, (kind, slot), now), isinstance(admitted, Right), host.admits((kind, slot), now)
            )
        for turn in process.turns:
            name = (turn.right.actor_type, turn.right.slot)
            agree(
                "TurnsInsideRights", machine.gate_open(turn.right, now), host.gate_is_open(name, turn.right.fence, now)
            )

    def _note_fences(self, host: Host) -> None:
        if self.policy is Policy.EXCLUSIVE:
            after = {name: max(fence, self.fences.get(name, -1)) for name, fence in host.highest.items()}
            agree("FenceMonotonic", FenceMonotonic(self.fences, {**self.fences, **after}), True)
            self.fences.update(after)

    # -- more that may happen

    def damage_a_table(self) -> bool:
        """The first table on its way loses a part of it. Whether there was one."""
        for path in self.paths:
            for at, event in enumerate(path.down):
                if isinstance(event, TableReceived) and event.delta.changes:
                    path.down[at] = evolve(event, delta=evolve(event.delta, changes=event.delta.changes[1:]))
                    return True
        return False

    # -- all together

    def single_activation(self) -> bool:
        """SingleActivation, by the models of all hosts."""
        alive = [process for process in self.processes if not process.crashed]
        shadows = [(self.shadow_of(process).host, process.clock.read(self.true_ms)) for process in alive]
        return self.policy is not Policy.EXCLUSIVE or SingleActivation(shadows)
