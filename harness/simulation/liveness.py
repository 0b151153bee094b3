"""After the heal: everything that is not broken for ever has to come right within bounds, and stay so.

Checked here: Convergence, EventuallyServed (exactly one, not at most one), SlowHostIsolation, DuplicateWindow. Bounds
are formulas of the settings of the run; spec/README.md has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from callboard.core.native_host import HELLO_REPEAT_MS
from callboard.core.native_host_records import Right
from callboard.core.slot_records import PARTS_PER_MILLION, HandoffSettings
from callboard.core.versions import Policy
from harness.simulation.clients import CALL_MS
from harness.simulation.hosts import RECONNECT_MAX_MS, Host
from harness.simulation.kernel import MS, PropertyViolation
from harness.simulation.plan import NamespacePlan
from harness.simulation.replicas import ATTACH_PAUSE_MAX_MS, LEADER_TIMEOUT_MS

if TYPE_CHECKING:
    from harness.simulation.world import World

STEP_MS = 50
CALM_MS = CALL_MS + 300
"""So long everything has to be right at a stretch, and every call that begins in it has to succeed."""


@define(eq=False)
class Liveness:
    """See the module's description."""

    world: World
    healed_ms: int = field(init=False, default=0)
    took_ms: int = field(init=False, default=0)
    bound_ms: int = field(init=False, default=0)

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

    def others_ms(self, settings: HandoffSettings) -> int:
        """SlowHostIsolation: slots that no broken host has to give up do not wait for its failure timeout or lease."""
        return self.served_ms(settings)

    def _slow(self, clock_ms: int) -> int:
        """So much on the slowest clock."""
        return -(-clock_ms * PARTS_PER_MILLION // (PARTS_PER_MILLION - self.world.plan.rate_error_ppm))

    # ---- demands

    def demand(self) -> None:
        """Let time go on until everything was right for a while, with every call of that while served.

        Raises:
            PropertyViolation: that did not begin within the bound.
        """
        world, kernel = self.world, self.world.kernel
        self.healed_ms = kernel.now_us // MS
        self.bound_ms = max(self.served_ms(each.settings) for each in world.plan.native_namespaces)
        right_since_ms: int | None = None
        while True:
            kernel.run_until(kernel.now_us + STEP_MS * MS)
            passed_ms = kernel.now_us // MS - self.healed_ms
            problem = self.problem() or world.take_unserved()
            if problem is not None:
                right_since_ms = None
                if passed_ms > self.bound_ms:
                    name, text = problem
                    raise PropertyViolation(name, f"{text}, {passed_ms} ms after the heal (bound {self.bound_ms} ms)")
            elif right_since_ms is None:
                right_since_ms = passed_ms
                world.begin_calm()
            elif passed_ms - right_since_ms >= CALM_MS:
                self.took_ms = right_since_ms
                return

    def problem(self) -> tuple[str, str] | None:
        """Property and text of something that is not right yet."""
        if self._in_office() is None:
            return "EventuallyServed", "nobody is in office"
        for namespace in self.world.plan.native_namespaces:
            found = self._members(namespace) or self._served(namespace)
            if found is not None:
                return found
        return None

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
            if host.namespace == namespace.name and host.alive and not host.stopped and host not in self.world.broken
        ]

    def _members(self, plan: NamespacePlan) -> tuple[str, str] | None:
        namespace = self.world.history.state.native[plan.name]
        hosts = self._expected(plan)
        members = {member.incarnation for member in namespace.members.values()}
        for host in hosts:
            if host.machine.incarnation not in members:
                return "Convergence", f"{host.name} is no member of {plan.name}"
            if host.version != namespace.version.wire:
                return "Convergence", f"{host.name} has version {host.version} of {namespace.version.wire}"
        ghosts = members - {host.machine.incarnation for host in hosts}
        if ghosts:
            return "Convergence", f"members {sorted(ghosts)} of {plan.name} are nobody who lives"
        return None

    def _served(self, plan: NamespacePlan) -> tuple[str, str] | None:
        namespace = self.world.history.state.native[plan.name]
        by_incarnation = {host.machine.incarnation: host for host in self._expected(plan)}
        marks = namespace.marks
        for kind, table in namespace.tables.items():
            able = [
                host
                for host in by_incarnation.values()
                if kind in host.kinds
                and not (host.name in marks and (marks[host.name].cordoned or marks[host.name].draining))
            ]
            for slot, owner in enumerate(table.owners):
                host = by_incarnation.get(owner)
                if owner == 0 and not able:
                    continue
                if host is None:
                    return "EventuallyServed", f"{kind}/{slot} of {plan.name} belongs to {owner}, who does not live"
                if not isinstance(host.machine.admit(kind, slot, host.now_ms()), Right):
                    return "EventuallyServed", f"{kind}/{slot} of {plan.name} is not served by its owner {host.name}"
                if plan.policy is not Policy.EXCLUSIVE:
                    for other in by_incarnation.values():
                        if other is not host and isinstance(other.machine.admit(kind, slot, other.now_ms()), Right):
                            text = f"{kind}/{slot} of {plan.name} is served by {other.name} besides {host.name}"
                            return "DuplicateWindow", text
        return None

    def duplicate_ends(self) -> None:
        """Two activations overlap now. After the heal that is only right within the bound."""
