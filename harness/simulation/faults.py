"""Carries out the faults of a plan, and knows of each whether it bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING

from attrs import define, field

from callboard.core.slot_records import HostMark
from harness.simulation.kernel import MS, Process
from harness.simulation.network import Bites
from harness.simulation.plan import Fault, Scar

if TYPE_CHECKING:
    from harness.simulation.hosts import Host
    from harness.simulation.replicas import Replica
    from harness.simulation.world import World

Undo = Callable[[], object]
SLOW_US = 60 * MS
SLOW_STORE_US = 250 * MS
SLOW_DISK_US = 80 * MS


@define(eq=False)
class Running:
    """A fault that has begun. `bites`: how often it had an effect."""

    fault: Fault
    bites: int = 0
    undo: Undo | None = None


@define(eq=False)
class Faults:
    """See the module's description. Every kind of a plan is a method of this class, or of `sidecars.SidecarFaults`."""

    world: World
    begun: list[Running] = field(init=False, factory=list)
    kinds: Counter[str] = field(init=False, factory=Counter)
    bitten: Counter[str] = field(init=False, factory=Counter)

    def schedule(self, faults: Iterable[Fault]) -> None:
        """Have them happen."""
        for fault in faults:
            self.world.kernel.at(fault.at_ms * MS, self._begin, fault)

    def _begin(self, fault: Fault) -> None:
        running = Running(fault)
        self.begun.append(running)
        if self.world.log.on:
            self.world.log.note(
                "fault", f"{fault.kind} target={fault.target} other={fault.other} for {fault.for_ms} ms"
            )
        begin: Callable[[Running], Undo | None] = getattr(self, fault.kind, None) or getattr(
            self.world.sidecar_faults, fault.kind
        )
        running.undo = begin(running)
        if running.undo is not None:
            self.world.kernel.after(fault.for_ms * MS, self._end, running)

    def _end(self, running: Running) -> None:
        undo, running.undo = running.undo, None
        if undo is not None:
            if self.world.log.on:
                self.world.log.note("fault", f"{running.fault.kind} ends")
            undo()

    def end_all(self) -> None:
        """The heal."""
        for running in self.begun:
            self._end(running)

    def count(self) -> None:
        """At the end of a run: which kinds there were, and which bit."""
        for running in self.begun:
            self.kinds[running.fault.kind] += 1
            self.bitten[running.fault.kind] += running.bites > 0

    # ---- whom it concerns

    def _replica(self, fault: Fault) -> Replica:
        names = self.world.group.names
        return self.world.replicas[names[fault.target % len(names)]]

    def _leader(self) -> Replica | None:
        engine = self.world.group.newest_leader()
        return None if engine is None else self.world.replicas[engine.name]

    def _host(self, fault: Fault) -> Host | None:
        hosts = [host for host in self.world.hosts if host.alive and not host.stopped]
        return hosts[fault.target % len(hosts)] if hosts else None

    # ---- the network

    def _block(self, running: Running, pairs: Iterable[tuple[str, str]]) -> Undo:
        for source, target in pairs:
            if source != target:
                self.world.network.block(source, target, running)
        return lambda: self.world.network.unblock(running)

    def _around(self, node: str, others: Iterable[str]) -> list[tuple[str, str]]:
        return [pair for other in others for pair in ((node, other), (other, node))]

    def isolate_replica(self, running: Running) -> Undo | None:
        """One replica is cut off from everybody."""
        return self._block(running, self._around(self._replica(running.fault).node, self.world.nodes()))

    def isolate_leader(self, running: Running) -> Undo | None:
        """The leader is."""
        leader = self._leader()
        return None if leader is None else self._block(running, self._around(leader.node, self.world.nodes()))

    def cut_peers(self, running: Running) -> Undo | None:
        """The leader is cut off from the other replicas, but hosts reach it."""
        leader = self._leader() or self._replica(running.fault)
        return self._block(running, self._around(leader.node, self.world.group.names))

    def halves(self, running: Running) -> Undo | None:
        """Two halves of everything."""
        one, other = self._halves(running.fault)
        return self._block(running, [pair for node in one for pair in self._around(node, other)])

    def _halves(self, fault: Fault) -> tuple[list[str], list[str]]:
        nodes = self.world.nodes()
        chosen = {node for at, node in enumerate(nodes) if fault.other >> (at % 16) & 1}
        return [node for node in nodes if node in chosen], [node for node in nodes if node not in chosen]

    def bridge(self, running: Running) -> Undo | None:
        """Two halves, and one replica that sees both."""
        bridge = self._replica(running.fault).node
        one, other = self._halves(running.fault)
        one, other = [node for node in one if node != bridge], [node for node in other if node != bridge]
        return self._block(running, [pair for node in one for pair in self._around(node, other)])

    def ring(self, running: Running) -> Undo | None:
        """Two replicas do not see each other, though both see the third."""
        names = self.world.group.names
        first = running.fault.target % len(names)
        return self._block(running, self._around(names[first], [names[(first + 1) % len(names)]]))

    def one_way(self, running: Running) -> Undo | None:
        """Nothing gets from one half to the other."""
        one, other = self._halves(running.fault)
        return self._block(running, [(source, target) for source in one for target in other])

    def deaf_leader(self, running: Running) -> Undo | None:
        """The leader hears nobody, but is heard."""
        leader = self._leader()
        return None if leader is None else self._block(running, [(node, leader.node) for node in self.world.nodes()])

    def cut_host(self, running: Running) -> Undo | None:
        """A host reaches no replica; callers reach it."""
        host = self._host(running.fault)
        return None if host is None else self._block(running, self._around(host.node, self.world.group.names))

    def one_replica(self, running: Running) -> Undo | None:
        """A host reaches one replica only."""
        host, kept = self._host(running.fault), running.fault.other % len(self.world.group.names)
        if host is None:
            return None
        others = [name for at, name in enumerate(self.world.group.names) if at != kept]
        return self._block(running, self._around(host.node, others))

    def unreachable_host(self, running: Running) -> Undo | None:
        """Callers do not reach a host."""
        host = self._host(running.fault)
        callers = [caller.node for caller in self.world.callers]
        return None if host is None else self._block(running, self._around(host.node, callers))

    def cut_store(self, running: Running) -> Undo | None:
        """A host does not reach the store."""
        host = self._host(running.fault)
        return None if host is None else self._block(running, self._around(host.node, [self.world.store.node]))

    def slow_node(self, running: Running) -> Undo | None:
        """Messages of one node take long."""
        nodes = self.world.nodes()
        return self.slow(running, nodes[running.fault.target % len(nodes)], SLOW_US)

    def slow_store(self, running: Running) -> Undo | None:
        """Accesses to the store take longer than a drain."""
        return self.slow(running, self.world.store.node, SLOW_STORE_US)

    def slow_access(self, running: Running) -> Undo | None:
        """A host's accesses to the store are on their way for longer than its drain time."""
        host = self._host(running.fault)
        if host is None:
            return None
        host.slow_store = ((200 + running.fault.other % 700) * MS, running)

        def mend() -> None:
            host.slow_store = None

        return mend

    def damage_tables(self, running: Running) -> Undo | None:
        """Tables reach a host damaged."""
        host = self._host(running.fault)
        if host is None:
            return None
        host.damages = running

        def mend() -> None:
            host.damages = None

        return mend

    def lose_words(self, running: Running) -> Undo | None:
        """A front loses what a host says, and its stream to the leader stays as it is; hellos get through."""
        host, fronts = self._host(running.fault), self.world.lossy_fronts
        if host is None:
            return None
        fronts[host.node] = running

        def mend() -> None:
            if fronts.get(host.node) is running:
                del fronts[host.node]

        return mend

    def slow(self, running: Bites, node: str, more_us: int) -> Undo:
        """Messages of a node take so much longer."""
        slow = self.world.network.slow
        slow[node] = (more_us, running)

        def mend() -> None:
            if node in slow and slow[node][1] is running:
                del slow[node]

        return mend

    def break_streams(self, running: Running) -> None:
        """The streams of one node break; what is on its way is lost."""
        nodes = self.world.nodes()
        self._break(running, {nodes[running.fault.target % len(nodes)]})

    def break_all_streams(self, running: Running) -> None:
        """All streams break."""
        self._break(running, set(self.world.nodes()))

    def _break(self, running: Running, nodes: set[str]) -> None:
        for stream in list(self.world.network.streams.values()):
            if any(end.process.node in nodes for end in stream.ends):
                stream.cut()
                running.bites += 1

    # ---- processes

    def _pause(self, running: Running, process: Process | None) -> Undo | None:
        if process is None or not process.alive or process.paused:
            return None
        process.pause()

        def resume() -> None:
            running.bites += process.deferred
            if process.deferred and process.alive:
                self.world.saw_pause(process, running.fault.for_ms)
            process.resume()

        return resume

    def pause_host(self, running: Running) -> Undo | None:
        """A host's process stands still, for less or more than its lease."""
        return self._pause(running, self._host(running.fault))

    def pause_replica(self, running: Running) -> Undo | None:
        """A replica's process stands still."""
        return self._pause(running, self._replica(running.fault))

    def pause_leader(self, running: Running) -> Undo | None:
        """The leader's process stands still."""
        return self._pause(running, self._leader())

    def crash_host(self, running: Running) -> Undo | None:
        """A host dies; a new process takes its name later."""
        host = self._host(running.fault)
        if host is None:
            return None
        running.bites += 1
        self.world.crash(host)
        return lambda: self.world.start_again(host)

    def restart_host_at_once(self, running: Running) -> Undo | None:
        """A host dies and its successor is there before anybody has noticed."""
        return self.crash_host(running)

    def twin(self, running: Running) -> None:
        """A second process under the name of one that still runs."""
        host = self._host(running.fault)
        if host is not None and not host.leaving and self.world.start_again(host):
            running.bites += 1
            self.world.saw("a restart under the same name while the former life still runs")

    def replace_host(self, running: Running) -> Undo | None:
        """A host is cut off from the replicas, and its name is given to a process on another node meanwhile."""
        host = self._host(running.fault)
        if host is None or host.leaving:
            return None
        self.world.start_elsewhere(host)
        return self._block(running, self._around(host.node, self.world.group.names))

    def _crash_replica(self, running: Running, replica: Replica | None, *, power: bool) -> Undo | None:
        if replica is None or not replica.alive:
            return None
        running.bites += 1
        self.world.crash_replica(replica, power=power)
        return lambda: self.world.restart_replica(replica.name)

    def crash_replica(self, running: Running) -> Undo | None:
        """A replica is killed; what it wrote is still there."""
        return self._crash_replica(running, self._replica(running.fault), power=False)

    def crash_leader(self, running: Running) -> Undo | None:
        """The leader is killed."""
        return self._crash_replica(running, self._leader(), power=False)

    def power_replica(self, running: Running) -> Undo | None:
        """A replica loses power, and what it had not synced."""
        return self._crash_replica(running, self._replica(running.fault), power=True)

    def power_leader(self, running: Running) -> Undo | None:
        """The leader does."""
        return self._crash_replica(running, self._leader(), power=True)

    def power_all(self, running: Running) -> Undo | None:
        """All replicas lose power."""
        undos = [self._crash_replica(running, replica, power=True) for replica in list(self.world.replicas.values())]
        if all(undo is not None for undo in undos):
            self.world.saw("all replicas lose power")

        def restart() -> None:
            for undo in undos:
                if undo is not None:
                    undo()

        return restart

    def slow_disk(self, running: Running) -> Undo | None:
        """A replica's disk takes long to sync."""
        engine = self._replica(running.fault).engine
        engine.slow_disk = (SLOW_DISK_US, running)

        def mend() -> None:
            engine.slow_disk = None

        return mend

    def elect(self, running: Running) -> Undo | None:
        """A follower stands for election at once."""
        leader = self._leader()
        followers = [
            replica
            for replica in self.world.replicas.values()
            if replica.alive and not replica.paused and replica is not leader
        ]
        if leader is None or not followers:
            return None
        before = leader.engine.term
        followers[running.fault.target % len(followers)].engine.stand()

        def look() -> None:
            after = self.world.group.newest_leader()
            running.bites += after is not None and after.term > before

        return look

    # ---- members

    def join(self, running: Running) -> None:
        """A new host."""
        running.bites += self.world.start_host(self.world.free_name(), running.fault.target)

    def leave(self, running: Running) -> None:
        """A host stops in good order."""
        host = self._host(running.fault)
        if host is not None and not host.paused and not host.leaving and self.world.staying(host):
            running.bites += 1
            host.leave()

    def storm(self, running: Running) -> None:
        """Many come and go at once."""
        random = Random(running.fault.other)
        joins = leaves = 0
        for at in range(random.randrange(2, 5)):
            joins += self.world.start_host(self.world.free_name(), running.fault.target + at)
        for host in list(self.world.hosts):
            if random.random() < 0.4 and host.alive and not host.stopped and self.world.staying(host):
                self.world.crash(host)
                leaves += 1
        running.bites += joins + leaves
        if joins and leaves:
            self.world.saw("a storm of joins and leaves")

    def mark(self, running: Running) -> None:
        """An operator cordons, drains, weighs, or takes that back."""
        host, fault = self._host(running.fault), running.fault
        if host is None:
            return
        marks = [
            HostMark(host.name, cordoned=True),
            HostMark(host.name, draining=True),
            HostMark(host.name, weight=40 + fault.other % 200),
            HostMark(host.name),
        ]

        def done() -> None:
            running.bites += 1

        self.world.operator.mark(host.namespace, marks[fault.other % len(marks)], done)

    # ---- what stays

    def scar(self, scar: Scar) -> None:
        """Break something for ever."""
        fault = Fault(0, scar.what, scar.target)
        running = Running(fault)
        host = self._host(fault)
        match scar.what:
            case "replica_dead":
                self.world.crash_replica(self._replica(fault), power=True)
            case "replica_cut":
                self._block(running, self._around(self._replica(fault).node, self.world.nodes()))
            case "host_paused" if host is not None:
                host.pause()
                self.world.broken.append(host)
            case "host_cut" if host is not None:
                self._block(running, self._around(host.node, self.world.group.names))
                self.world.cut_nodes.add(host.node)
            case "host_dead" if host is not None:
                self.world.crash(host)
            case _:
                pass
