"""After the heal: everything that is not broken for ever has to come right within bounds, and stay so, also when others
join.

Checked here: Convergence, EventuallyServed (exactly one, not at most one), SlowHostIsolation, DuplicateWindow. Bounds
are formulas of the settings of the run; spec/README.md has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field, frozen

from callboard.core.barrier_records import BarrierSettings
from callboard.core.native_host import HELLO_REPEAT_MS
from callboard.core.native_host_records import Right
from callboard.core.slot_records import PARTS_PER_MILLION, HandoffSettings
from callboard.core.versions import Policy
from harness.sidecars.heartbeat import HeartbeatSidecar
from harness.simulation.clients import CALL_MS
from harness.simulation.hosts import RECONNECT_MAX_MS, Host
from harness.simulation.kernel import MS
from harness.simulation.plan import NamespacePlan
from harness.simulation.replicas import ATTACH_PAUSE_MAX_MS, LEADER_TIMEOUT_MS
from harness.simulation.sidecars import SETTINGS
from harness.violation import PropertyViolation

if TYPE_CHECKING:
    from harness.simulation.world import World

STEP_MS = 50
SETTLED_MS = 200
"""So long everything has to be right at a stretch before others join."""
CALM_MS = CALL_MS + 300
"""So long at least everything has to be right at a stretch after that, and every call that begins in it has to
succeed."""


@frozen
class Problem:
    """Something of a namespace that is not right yet, and which property breaks if it stays so."""

    namespace: str
    name: str
    text: str


@define(eq=False)
class Liveness:
    """See the module's description."""

    world: World
    healed_ms: int = field(init=False, default=0)
    bounds_ms: dict[str, int] = field(init=False, factory=dict)
    """Of each namespace, since the heal; none before it."""
    took_ms: dict[str, int] = field(init=False, factory=dict)
    """When each namespace came right for good."""
    _office_ms: int = field(init=False, default=0)
    """When somebody was last in office, since the heal."""
    _well: list[tuple[Host, int]] = field(init=False, factory=list)
    """Hosts, and their incarnations, that were there when others joined."""
    _joined_ms: dict[str, int] = field(init=False, factory=dict)
    """By when what a join changed has to be right in each namespace."""
    _waiting: dict[tuple[object, ...], int] = field(init=False, factory=dict)
    """Slots that have been ready to be served, and were not, since so long after the heal."""

    # ---- bounds, in true milliseconds

    def office_ms(self) -> int:
        """Until somebody is in office: five elections, and what a proposal and its repetitions may take."""
        plan = self.world.plan
        proposing = plan.proposals.attempts_max * (plan.proposals.attempt_ms + plan.proposals.pause_ms)
        return self._slow(5 * plan.engine.election_max_ms + proposing)

    def connect_ms(self) -> int:
        """Until a host has a stream to the leader and was heard there: broken streams are noticed, then pauses."""
        plan = self.world.plan
        noticing = max(plan.silence_ms, self.world.network.times.keepalive_ms)
        return self._slow(noticing + RECONNECT_MAX_MS + LEADER_TIMEOUT_MS + ATTACH_PAUSE_MAX_MS + HELLO_REPEAT_MS)

    def served_ms(self, settings: HandoffSettings) -> int:
        """EventuallyServed, Convergence: office, then twice what a silent host costs (those who return as new
        incarnations are removed and waited for once more), then the rounds of one handoff."""
        silent = max(settings.failure_timeout_ms, self.connect_ms()) + settings.wait_ms()
        handoff = settings.drain_ms + settings.margin_ms + 10 * settings.tick_ms
        return self.office_ms() + self._slow(2 * (silent + handoff))

    def join_ms(self, settings: HandoffSettings) -> int:
        """Convergence, EventuallyServed once a host joins a namespace in which everything is right. Somebody may have
        to take office meanwhile."""
        return self.office_ms() + self._slow(settings.drain_ms + settings.margin_ms + 10 * settings.tick_ms)

    def rounds_ms(self, settings: BarrierSettings) -> int:
        """Convergence of sidecars: office, a new stream, the grace of members that do not come back, then at most three
        rounds with silent streams (batches, a round that was running, a repetition for old sidecars)."""
        phase_ms = min(settings.phase_ms_min, settings.round_timeout_ms)
        rounds = 3 * (3 * (settings.round_timeout_ms + 2 * phase_ms) + settings.coalesce_ms + settings.retry_ms)
        repeats = 2 * settings.repeat_push_ms + round(1000 * SETTINGS.fail_safe_s)
        silent = round(1000 * SETTINGS.dissemination_timeout_s)
        return self.office_ms() + self._slow(self.connect_ms() + silent + settings.member_grace_ms + rounds + repeats)

    def others_ms(self, settings: HandoffSettings) -> int:
        """SlowHostIsolation: until a slot is served that only hosts have to give up which are up to date, from when its
        owner is up to date and has a lease. Neither failure timeout nor lease of anybody is in it."""
        commits = 3 * (self.world.plan.proposals.pause_ms + settings.tick_ms)
        return self._slow(settings.drain_ms + 2 * settings.margin_ms + 10 * settings.tick_ms + commits)

    def _slow(self, clock_ms: int) -> int:
        """So much on the slowest clock."""
        return -(-clock_ms * PARTS_PER_MILLION // (PARTS_PER_MILLION - self.world.plan.rate_error_ppm))

    # ---- demands

    def demand(self) -> None:
        """Let time go on until everything was right for a while; then another host joins each native namespace, and
        everything has to come right again, and stay so for longer than the failure timeout, with every call of that
        while served, and with every host that was there.

        Raises:
            PropertyViolation: that was not so within its bound.
        """
        self._begin()
        self._stay_right(SETTLED_MS)
        self._others_join()
        self._stay_right(self._calm_ms())

    def _stay_right(self, for_ms: int) -> None:
        """Until everything was right, and every call served that began meanwhile, for so long at a stretch."""
        right_since_ms: int | None = None
        while right_since_ms is None or self._passed_ms - right_since_ms < for_ms:
            self._step()
            self._nobody_went()
            problems = self._problems()
            if not problems:
                self._waiting.clear()
                problems = self.world.take_unserved()
            else:
                self._others_are_served(self._passed_ms)
            self._judge(problems)
            if problems:
                right_since_ms = None
            elif right_since_ms is None:
                right_since_ms = self._passed_ms
                self.world.begin_calm()

    def _others_join(self) -> None:
        """A change of every table, which shows whom the leader does not know well: who does not say that it has the new
        one is removed after the failure timeout, and who is well never is."""
        plan = self.world.plan
        there = [host for each in plan.native_namespaces for host in self._expected(each)]
        self._well = [(host, host.machine.incarnation) for host in there if not host.leaving]
        for namespace in plan.native_namespaces:
            self.world.start_in(namespace, self.world.free_name())
            self._joined_ms[namespace.name] = self._passed_ms + self.join_ms(namespace.settings)

    def _calm_ms(self) -> int:
        """Long enough for calls, and for removals of those who did not say what they have."""
        timeouts = [
            each.settings.failure_timeout_ms + 4 * each.settings.tick_ms for each in self.world.plan.native_namespaces
        ]
        return max(CALM_MS, self._slow(max(timeouts)))

    def _begin(self) -> None:
        plan = self.world.plan
        self.healed_ms = self.world.kernel.now_us // MS
        self.bounds_ms = {each.name: self.served_ms(each.settings) for each in plan.native_namespaces}
        self.bounds_ms |= {each.name: self.rounds_ms(each.barrier) for each in plan.barrier_namespaces}

    def _step(self) -> None:
        kernel = self.world.kernel
        kernel.run_until(kernel.now_us + STEP_MS * MS)

    @property
    def _passed_ms(self) -> int:
        return self.world.kernel.now_us // MS - self.healed_ms

    def _nobody_went(self) -> None:
        for host, incarnation in self._well:
            members = self.world.history.state.native[host.namespace].members
            stays = host.name in members and members[host.name].incarnation == incarnation
            if not stays and not host.overdue:
                text = f"{host.name} ({incarnation}) had not done anything wrong, but is a member no more"
                raise PropertyViolation("Convergence", text)

    def _judge(self, problems: list[Problem]) -> None:
        """Each namespace has a bound of its own; another one's longer bound is no excuse."""
        passed_ms, wrong = self._passed_ms, {problem.namespace for problem in problems}
        for namespace in self.bounds_ms:
            if namespace not in wrong:
                self.took_ms.setdefault(namespace, passed_ms)
            elif passed_ms > self._joined_ms.get(namespace, 0):
                self.took_ms.pop(namespace, None)
        for problem in problems:
            bound_ms = max(self.bounds_ms[problem.namespace], self._joined_ms.get(problem.namespace, 0))
            if passed_ms > bound_ms:
                text = f"{problem.text}, {passed_ms} ms after the heal (bound {bound_ms} ms)"
                raise PropertyViolation(problem.name, text)

    def shares(self) -> dict[str, float]:
        """What part of its bound each policy needed, at most."""
        found: dict[str, float] = {}
        for plan in self.world.plan.namespaces:
            if plan.name in self.took_ms:
                share = self.took_ms[plan.name] / self.bounds_ms[plan.name]
                found[plan.policy.value] = max(share, found.get(plan.policy.value, 0.0))
        return found

    def _problems(self) -> list[Problem]:
        """What is not right yet: at most one problem of each namespace."""
        plan = self.world.plan
        if not self._somebody_is_in_office():
            return [Problem(each.name, "EventuallyServed", "nobody is in office") for each in plan.namespaces]
        native = [self._members(each) or self._served(each) for each in plan.native_namespaces]
        sidecars = [self._sidecars(each) for each in plan.barrier_namespaces]
        return [problem for problem in (*native, *sidecars) if problem is not None]

    def _somebody_is_in_office(self) -> bool:
        """Also demands it within its own bound, since the heal or since the last one lost office."""
        if self._in_office() is not None:
            self._office_ms = self._passed_ms
            return True
        if self._passed_ms - self._office_ms > self.office_ms():
            text = f"nobody is in office for {self._passed_ms - self._office_ms} ms (bound {self.office_ms()} ms)"
            raise PropertyViolation("EventuallyServed", text)
        return False

    def _sidecars(self, plan: NamespacePlan) -> Problem | None:
        text = self._not_up_to_date(plan)
        return None if text is None else Problem(plan.name, "Convergence", text)

    def _not_up_to_date(self, plan: NamespacePlan) -> str | None:
        """Every sidecar that lives is connected, not locked, and has the newest tables, in which all of them are."""
        world = self.world
        namespace = world.history.state.namespaces[plan.name]
        expected = [each for each in world.sidecars if each.alive and not each.leaving and not world.is_broken(each)]
        types = {each.name: each.machine.spec.actor_types for each in expected if each.machine.spec.actor_types}
        members = {name: member.host.actor_types for name, member in namespace.members.items()}
        if members != types:
            return f"members of {plan.name} are {members}, not {types}"
        digest = world.sidecar_tables(plan.name, namespace.version.wire, namespace.members).digest
        for sidecar in expected:
            machine = sidecar.machine
            if isinstance(machine, HeartbeatSidecar) and machine.wedged:
                continue  # a fault of 1.16 that no server can mend: its fail-safe came before a late unlock
            if not machine.settled:
                return f"{sidecar.name} is not connected, or is locked"
            if machine.digest != digest or machine.table_version != namespace.version.wire:
                return f"{sidecar.name} has table {machine.table_version} of {namespace.version.wire}"
        return None

    def _others_are_served(self, passed_ms: int) -> None:
        epoch = self._in_office()
        waiting: dict[tuple[object, ...], int] = {}
        for plan in self.world.plan.native_namespaces:
            if epoch is None or plan.policy is not Policy.EXCLUSIVE:
                continue
            namespace = self.world.history.state.native[plan.name]
            newest = namespace.version.wire
            ready = {
                host.machine.incarnation: host
                for host in self._expected(plan)
                if host.version == newest and host.machine.epoch == epoch and self._has_lease(host, plan.settings)
            }
            for kind, table in namespace.tables.items():
                pending = namespace.rights[kind].pending
                for slot, owner in enumerate(table.owners):
                    if owner not in ready or not ready.keys() >= set(pending.get(slot, ())):
                        continue
                    host = ready[owner]
                    if isinstance(host.machine.admit(kind, slot, host.now_ms()), Right):
                        continue
                    key = (plan.name, kind, slot, newest, epoch, owner)
                    waiting[key] = self._waiting.get(key, passed_ms)
                    if passed_ms - waiting[key] > self.others_ms(plan.settings):
                        text = (
                            f"{kind}/{slot} of {host.name} waits for {passed_ms - waiting[key]} ms, for nobody in need"
                        )
                        raise PropertyViolation("SlowHostIsolation", text)
        self._waiting = waiting

    def _has_lease(self, host: Host, settings: HandoffSettings) -> bool:
        left_ms = host.machine.lease_remaining_ms(host.now_ms())
        return left_ms is None or left_ms > settings.drain_ms + settings.margin_ms

    def _in_office(self) -> int | None:
        engine = self.world.group.newest_leader()
        if engine is None:
            return None
        office = self.world.replicas[engine.name].office
        return None if office is None or office.epoch != self.world.history.state.epoch else office.epoch

    def _expected(self, namespace: NamespacePlan) -> list[Host]:
        return [
            host
            for host in self.world.hosts
            if host.namespace == namespace.name and host.alive and not host.stopped and not self.world.is_broken(host)
        ]

    def _members(self, plan: NamespacePlan) -> Problem | None:
        namespace = self.world.history.state.native[plan.name]
        hosts = self._expected(plan)
        members = {member.incarnation for member in namespace.members.values()}
        for host in hosts:
            if host.machine.incarnation not in members:
                return Problem(plan.name, "Convergence", f"{host.name} is no member of {plan.name}")
            if not self.world.rights.heard_since(host, self.healed_ms, self.world.history.state.epoch):
                return Problem(plan.name, "Convergence", f"{host.name} has no answer of the leader since the heal")
            if host.version != namespace.version.wire:
                text = f"{host.name} has version {host.version} of {namespace.version.wire}"
                return Problem(plan.name, "Convergence", text)
        ghosts = members - {host.machine.incarnation for host in hosts}
        if ghosts:
            return Problem(plan.name, "Convergence", f"members {sorted(ghosts)} of {plan.name} are nobody who lives")
        return None

    def may_be_served(self, namespace: str, kind: str, slot: int) -> bool:
        """Whether some host that is not broken has the slot, or may get it."""
        plan = next(each for each in self.world.plan.namespaces if each.name == namespace)
        table = self.world.history.state.native[namespace].tables.get(kind)
        incarnations = {host.machine.incarnation for host in self._expected(plan)}
        return bool(self._able(plan, kind)) or (table is not None and table.owners[slot] in incarnations)

    def _able(self, plan: NamespacePlan, kind: str) -> list[Host]:
        """Hosts that may get slots that they do not have: neither cordoned nor to be drained."""
        marks = self.world.history.state.native[plan.name].marks
        return [
            host
            for host in self._expected(plan)
            if kind in host.kinds
            and not (host.name in marks and (marks[host.name].cordoned or marks[host.name].draining))
        ]

    def _served(self, plan: NamespacePlan) -> Problem | None:
        namespace = self.world.history.state.native[plan.name]
        by_incarnation = {host.machine.incarnation: host for host in self._expected(plan)}
        for kind, table in namespace.tables.items():
            able = self._able(plan, kind)
            for slot, owner in enumerate(table.owners):
                host = by_incarnation.get(owner)
                if owner == 0 and not able:
                    continue
                if host is None:
                    text = f"{kind}/{slot} of {plan.name} belongs to {owner}, who does not live"
                    return Problem(plan.name, "EventuallyServed", text)
                if not isinstance(host.machine.admit(kind, slot, host.now_ms()), Right):
                    text = f"{kind}/{slot} of {plan.name} is not served by its owner {host.name}"
                    return Problem(plan.name, "EventuallyServed", text)
                if plan.policy is not Policy.EXCLUSIVE:
                    for other in by_incarnation.values():
                        if other is not host and isinstance(other.machine.admit(kind, slot, other.now_ms()), Right):
                            text = f"{kind}/{slot} of {plan.name} is served by {other.name} besides {host.name}"
                            return Problem(plan.name, "DuplicateWindow", text)
        return None

    def duplicate(self, namespace: str, text: str) -> None:
        """Two activations overlap now, under policy `eventual`. After the heal that may be within the bound only."""
        bound_ms = self.bounds_ms.get(namespace)
        if bound_ms is not None and self._passed_ms > bound_ms:
            text = f"{text}, {self._passed_ms} ms after the heal (bound {bound_ms} ms)"
            raise PropertyViolation("DuplicateWindow", text)
