"""One run: everything that there is, put together from a plan, and its two phases."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from random import Random

from attrs import define, field

from callboard.core.handoff_messages import NO_INCARNATION, Gone, Hello
from callboard.core.records import Member
from callboard.core.slot_records import HandoffSettings, slot_of
from callboard.core.tracing import Fields, TraceSink
from callboard.core.versions import Policy
from harness.sidecars.events import ShutdownAsked, SidecarSpec, TypesChanged
from harness.sidecars.tables import Tables
from harness.simulation.actors import Store
from harness.simulation.clients import Caller, Operator
from harness.simulation.engine import Group
from harness.simulation.engine_records import Disk
from harness.simulation.faults import Faults
from harness.simulation.history import History
from harness.simulation.hosts import Host
from harness.simulation.kernel import MS, Clock, EventLog, Kernel, Process
from harness.simulation.liveness import Liveness, Problem
from harness.simulation.network import Bites, Network
from harness.simulation.office import Office
from harness.simulation.plan import NamespacePlan, Plan
from harness.simulation.replicas import Replica
from harness.simulation.rights import InstalledTables, Rights, Turns
from harness.simulation.sidecar_faults import SidecarFaults
from harness.simulation.sidecars import Sidecar, SidecarChecks, open_namespace, tables_from
from harness.violation import PropertyViolation

HOSTS_MAX = 9
SIDECARS_MAX = 7
SHUTDOWN_MS = 150
RESTART_MS = 80
HARMLESS = "ABORTED"
"""The status with which a leader may end a stream of a host that did nothing wrong: it may come again."""

ProcessTrace = Callable[[str, str, Fields], None]
"""Takes the name of a process, of an action of the specification, and the action's fields."""


@define(eq=False)
class World:
    """See the module's description. `trace`: told of every action of the machines (callboard.core.tracing)."""

    plan: Plan
    digest: bool = False
    keep_log: bool = False
    trace: ProcessTrace | None = None
    kernel: Kernel = field(init=False, factory=Kernel)
    log: EventLog = field(init=False)
    network: Network = field(init=False)
    group: Group = field(init=False)
    store: Store = field(init=False, factory=Store)
    history: History = field(init=False)
    rights: Rights = field(init=False)
    tables: InstalledTables = field(init=False)
    turns: Turns = field(init=False)
    faults: Faults = field(init=False)
    sidecar_faults: SidecarFaults = field(init=False)
    sidecar_checks: SidecarChecks = field(init=False)
    sidecars: list[Sidecar] = field(init=False, factory=list)
    disks: dict[str, Disk] = field(init=False, factory=dict)
    replicas: dict[str, Replica] = field(init=False, factory=dict)
    hosts: list[Host] = field(init=False, factory=list)
    broken: list[Process] = field(init=False, factory=list)
    cut_nodes: set[str] = field(init=False, factory=set)
    lossy_fronts: dict[str, Bites] = field(init=False, factory=dict)
    """Nodes of hosts of which fronts lose words, and the fault that makes them."""
    callers: list[Caller] = field(init=False, factory=list)
    operator: Operator = field(init=False)
    rare: Counter[str] = field(init=False, factory=Counter)
    offices: dict[int, str] = field(init=False, factory=dict)
    fenced_operations: set[int] = field(init=False, factory=set)
    liveness: Liveness = field(init=False)
    _numbers: itertools.count[int] = field(init=False, factory=lambda: itertools.count(1))
    _names: itertools.count[int] = field(init=False, factory=lambda: itertools.count(1))
    _unserved: dict[str, str] = field(init=False, factory=dict)
    _sidecar_tables: dict[tuple[str, int, int], tuple[Mapping[str, Member], Tables]] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        plan = self.plan
        self.log = EventLog(self.kernel, digest=self.digest, keep=self.keep_log)
        self.network = Network(self.kernel, self.random("network"), plan.network)
        names = tuple(f"r{number}" for number in range(1, plan.replicas + 1))
        self.group = Group(names, self.random("group"), self.network, self)
        self.rights = Rights(self)
        self.history = History(self.rights.removed, self.rights.buried, self.saw)
        self.tables = InstalledTables(self, self.history)
        self.turns = Turns(self)
        self.faults = Faults(self)
        self.sidecar_faults, self.sidecar_checks = SidecarFaults(self), SidecarChecks(self)
        self.liveness = Liveness(self)
        for name in names:
            self.disks[name] = Disk()
            self._start_replica(name)
        self.operator = Operator(
            self.kernel, "operator", "operator", self._clock("operator"), world=self, random=self.random("operator")
        )
        self.operator.start()
        for namespace in plan.native_namespaces:
            for at in range(namespace.hosts):
                self.kernel.at((100 + 40 * at) * MS, self.start_in, namespace, self.free_name())
        for namespace in plan.barrier_namespaces:
            for at in range(namespace.hosts):
                self.kernel.at((120 + 50 * at) * MS, self._first_sidecar, at)
        for number in range(plan.callers):
            name = f"caller{number + 1}"
            caller = Caller(self.kernel, name, name, self._clock(name), world=self, random=self.random(name))
            self.callers.append(caller)
            caller.start()
        self.faults.schedule(plan.faults)

    # ---- what everything else asks for

    def random(self, of: str) -> Random:
        """A generator of its own for each part, so that leaving one thing out changes as little as can be elsewhere."""
        return Random(f"{self.plan.seed} {of}")

    def _clock(self, of: str) -> Clock:
        random, limit = self.random(f"clock of {of}"), self.plan.rate_error_ppm
        return Clock(random.randrange(10_000), random.choice([-limit, 0, limit, random.randrange(-limit, limit + 1)]))

    def next_number(self) -> int:
        """Used once in a run."""
        return next(self._numbers)

    def free_name(self) -> str:
        """Of a host."""
        return f"h{next(self._names)}"

    def sink(self, process: str) -> TraceSink | None:
        """For the machines of a process."""
        return None if self.trace is None else partial(self.trace, process)

    def settings_of(self, namespace: str) -> HandoffSettings:
        """The times of a native namespace."""
        return next(each.settings for each in self.plan.namespaces if each.name == namespace)

    def nodes(self) -> list[str]:
        """Everything that messages go to and from."""
        hosts = dict.fromkeys(host.node for host in self.hosts if host.alive)
        sidecars = dict.fromkeys(sidecar.node for sidecar in self.sidecars if sidecar.alive)
        return [*self.group.names, *hosts, *sidecars, *(caller.node for caller in self.callers)]

    def process_at(self, address: str, incarnation: int = NO_INCARNATION) -> Host | None:
        """Who answers there: the process of that node that is this incarnation, else the newest that lives, else the
        newest."""
        there = [host for host in reversed(self.hosts) if host.node == address]
        itself = [host for host in there if incarnation and host.alive and host.machine.incarnation == incarnation]
        living = [host for host in there if host.alive]
        return next(iter([*itself, *living, *there]), None)

    # ---- rare things, and things that must not be

    def saw(self, what: str) -> None:
        """Something rare happened."""
        self.rare[what] += 1

    def saw_office(self, epoch: int, replica: str) -> None:
        """A replica took office."""
        self.offices[epoch] = replica
        old = [name for name, other in self.replicas.items() if other.office is not None and name != replica]
        if old:
            self.saw("two replicas think that they are in office")

    def saw_pause(self, process: Process, for_ms: int) -> None:
        """A pause that was felt is over."""
        if isinstance(process, Host):
            lease_ms = self.settings_of(process.namespace).lease_ms
            self.saw(
                "a host pauses for longer than its lease" if for_ms > lease_ms else "a host pauses within its lease"
            )

    def calls_off(self, status: str, text: str) -> None:
        """A leader ends a stream."""
        if status != HARMLESS:
            raise PropertyViolation("Convergence", f"a host that did nothing wrong is refused: {status}: {text}")

    def says_gone(self, namespace: str, gone: Gone, hello: Hello) -> None:
        """A leader, deposed or not, tells who said `hello` that it is no member."""
        present = self.history.state.native[namespace]
        member = present.members.get(hello.host.name)
        is_member = member is not None and member.host.process == hello.host.process
        if present.member_of(gone.incarnation) is not None or (gone.incarnation == NO_INCARNATION and is_member):
            raise PropertyViolation("Convergence", f"a member is told that {gone.text}")

    def duplicate(self, host: Host, other: Host, actor: tuple[str, str, str]) -> None:
        """Two hosts run an actor at once."""
        if host.policy is Policy.EXCLUSIVE:
            raise PropertyViolation("SingleActivation", f"{host.name} and {other.name} both run {actor}")
        self.liveness.duplicate(host.namespace, f"{host.name} and {other.name} both run {actor}")

    def not_served(self, actor: tuple[str, str, str], text: str) -> None:
        """A call of the calm time at the end did not succeed, though somebody there could serve it."""
        namespace, kind, actor_id = actor
        if self.liveness.may_be_served(namespace, kind, slot_of(kind, actor_id, self.plan.slot_bits)):
            self._unserved.setdefault(namespace, text)

    def begin_calm(self) -> None:
        """Everything is right: from here on calls have to be served."""
        self._unserved.clear()
        for caller in self.callers:
            caller.calm_from = self.next_number()

    def take_unserved(self) -> list[Problem]:
        """Calls that were not served since `begin_calm`."""
        unserved, self._unserved = self._unserved, {}
        return [Problem(namespace, "EventuallyServed", text) for namespace, text in unserved.items()]

    # ---- processes

    def _start_replica(self, name: str) -> None:
        number = self.next_number()
        replica = Replica(
            self.kernel, name, name, self._clock(f"{name} {number}"), world=self, disk=self.disks[name],
            random=self.random(f"{name} {number}"),
        )  # fmt: skip
        self.replicas[name] = replica

    def crash_replica(self, replica: Replica, *, power: bool) -> None:
        """It dies; with the power goes what its disk had not synced."""
        if not replica.alive:
            return
        self.crash(replica)
        disk = self.disks[replica.name]
        if power and disk.last > disk.synced:
            self.saw("a tail that was not synced is lost")
            disk.cut(max(disk.synced, disk.base))

    def restart_replica(self, name: str) -> None:
        """It starts again with what its disk has."""
        if not self.replicas[name].alive:
            self.saw("a replica restarts from its disk")
            self._start_replica(name)

    def start_host(self, name: str, draw: int) -> bool:
        """A new host in some native namespace, if there are not too many."""
        if sum(host.alive and not host.stopped for host in self.hosts) >= HOSTS_MAX:
            return False
        namespaces = self.plan.native_namespaces
        self.start_in(namespaces[draw % len(namespaces)], name)
        return True

    def start_in(self, namespace: NamespacePlan, name: str) -> None:
        """A new host in this native namespace."""
        random = self.random(f"host {name}")
        kinds = namespace.kinds if random.random() < 0.8 else namespace.kinds[:1]
        weight = random.choice([100, 100, 100, 100, 60, 150])
        self._run_host(namespace.name, namespace.policy, name, kinds, weight, node=name)

    def _run_host(
        self, namespace: str, policy: Policy, name: str, kinds: tuple[str, ...], weight: int, *, node: str
    ) -> None:
        number = self.next_number()
        host = Host(
            self.kernel, name, node, self._clock(f"{name} {number}"), world=self, namespace=namespace, policy=policy,
            kinds=kinds, weight=weight, random=self.random(f"{name} {number}"),
        )  # fmt: skip
        self.hosts.append(host)
        host.connect()

    def start_again(self, host: Host) -> bool:
        """A new process under the name of one that was, on the same node, unless one of those after it runs there."""
        newer = self.process_at(host.node)
        if newer is not None and newer is not host and newer.alive and not newer.stopped:
            return False
        self._run_host(host.namespace, host.policy, host.name, host.kinds, host.weight, node=host.node)
        return True

    def start_elsewhere(self, host: Host) -> None:
        """A new process under the name of one that may still run, on another node."""
        node = f"{host.name}-{self.next_number()}"
        self._run_host(host.namespace, host.policy, host.name, host.kinds, host.weight, node=node)

    def crash(self, process: Process) -> None:
        """A process dies; the system closes its streams."""
        process.crash()
        for stream in list(self.network.streams.values()):
            for side, end in enumerate(stream.ends):
                if end.process is process and end.open:
                    stream.process_died(side)

    def host_stopped(self, host: Host, *, overdue: bool) -> None:
        """A host's machine is over. What its stream still carries arrives; then the process exits."""
        self.kernel.after(0, self._exit, host, overdue)

    def _exit(self, host: Host, overdue: bool) -> None:
        self.crash(host)
        if overdue and not host.leaving:
            self.saw("a host exits since its turns did not end")
            self.kernel.after(RESTART_MS * MS, self.start_again, host)

    def is_broken(self, process: Process) -> bool:
        """Whether it is broken for ever, so that nothing can be demanded of it."""
        return process in self.broken or process.node in self.cut_nodes

    def staying(self, leaving: Host) -> bool:
        """Whether others of its namespace stay."""
        return any(
            host is not leaving and host.namespace == leaving.namespace and host.alive and not host.stopped
            and not host.leaving and set(host.kinds) >= set(leaving.kinds)
            for host in self.hosts
        )  # fmt: skip

    # ---- sidecars

    def open_sidecar_namespaces(self, office: Office) -> None:
        """Barrier namespaces of a new office."""
        for namespace in self.plan.barrier_namespaces:
            open_namespace(office, namespace.name, namespace.barrier)

    def _first_sidecar(self, at: int) -> None:
        self.start_sidecar((("T1",), ("T1", "T2"))[at % 2], heartbeats=at % 3 == 2)

    def start_sidecar(self, types: tuple[str, ...], *, heartbeats: bool) -> bool:
        """A new sidecar, if there are not too many."""
        if sum(sidecar.alive for sidecar in self.sidecars) >= SIDECARS_MAX:
            return False
        self.run_sidecar(f"s{next(self._names)}", types, heartbeats=heartbeats)
        return True

    def run_sidecar(self, name: str, types: tuple[str, ...], *, heartbeats: bool) -> None:
        """A process of that name."""
        number = self.next_number()
        spec = SidecarSpec(name, f"app-{name}", types, self.plan.barrier_namespaces[0].name)
        sidecar = Sidecar(
            self.kernel, name, name, self._clock(f"{name} {number}"), world=self, spec=spec, heartbeats=heartbeats,
            random=self.random(f"{name} {number}"),
        )  # fmt: skip
        self.sidecars.append(sidecar)
        sidecar.start()

    def stop_sidecar(self, sidecar: Sidecar) -> None:
        """Politely."""
        sidecar.leaving = True
        sidecar.handle(ShutdownAsked())
        self.kernel.after(SHUTDOWN_MS * MS, self.crash_sidecar, sidecar)

    def crash_sidecar(self, sidecar: Sidecar) -> None:
        """Its process is gone."""
        if sidecar.alive:
            self.crash(sidecar)
            self.sidecar_checks.forget(sidecar)

    def change_types(self, sidecar: Sidecar, types: tuple[str, ...]) -> None:
        """Its application hosts others."""
        sidecar.handle(TypesChanged(types))

    def sidecar_tables(self, namespace: str, version: int, members: Mapping[str, Member]) -> Tables:
        """What an update carries. Equal members are one object for all sidecars."""
        key = (namespace, version, id(members))
        if key not in self._sidecar_tables:
            self._sidecar_tables[key] = (members, tables_from(members))
        return self._sidecar_tables[key][1]

    # ---- the run

    def run(self) -> None:
        """Safety under faults, then the heal, then liveness. Raises PropertyViolation."""
        self.kernel.run_until(self.plan.duration_ms * MS)
        self.log.note("heal", "no faults from here on") if self.log.on else None
        self.faults.end_all()
        for scar in self.plan.scars:
            self.faults.scar(scar)
        self.liveness.demand()
        self.turns.check_outcomes()
        self.history.compare_all({name: each.state for name, each in self.replicas.items() if each.alive})
        self.faults.count()
