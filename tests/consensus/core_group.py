"""Cores without an event loop: a virtual clock, links in memory, disks in memory."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

from callboard.consensus.interface import Applied, BarrierFailed, EngineLimits, ProposalError
from callboard.consensus.pysyncobj_engine import codec
from callboard.consensus.pysyncobj_engine.core import Core, Joining
from callboard.consensus.pysyncobj_engine.disk import Disk
from callboard.consensus.pysyncobj_engine.journal import JOURNAL_FILE, Journal
from callboard.consensus.pysyncobj_engine.options import CoreSettings
from tests.consensus.machine import ListMachine
from tests.consensus.memory_disk import MemoryDisk

STEP_S = 0.01


class CoreGroup:
    """Started cores; nothing happens but in `step`."""

    def __init__(
        self,
        replica_ids: Sequence[str] = ("a", "b", "c"),
        settings: CoreSettings | None = None,
        limits: EngineLimits | None = None,
        wrap: Callable[[str, Disk], Disk] = lambda _replica, disk: disk,
    ) -> None:
        self.ids = tuple(replica_ids)
        self.settings = settings or CoreSettings()
        self.limits = limits
        self.wrap = wrap
        self.now = 0.0
        self.disks = {replica: MemoryDisk() for replica in self.ids}
        self.machines: dict[str, ListMachine] = {}
        self.cores: dict[str, Core] = {}
        self.queues: dict[tuple[str, str], deque[bytes]] = {}
        self.cut: set[frozenset[str]] = set()
        self.leaders: dict[int, set[str]] = {}
        """Term -> who led in it."""
        self.sent: list[tuple[str, str, codec.Message]] = []
        for replica in self.ids:
            self.start(replica)

    def start(self, replica: str, joining: Joining | None = None) -> Core:
        """Start on the files that are there."""
        disk = self.disks[replica]
        if JOURNAL_FILE not in disk.files:
            Journal.create(disk, replica).close()
        machine = ListMachine()
        core = Core(
            replica,
            tuple(other for other in self.ids if other != replica),
            disk=self.wrap(replica, disk),
            machine=machine,
            send=lambda peer, payload: self._send(replica, peer, payload),
            clock=lambda: self.now,
            generator=random.Random(replica),
            directory_id=replica,
            settings=self.settings,
            limits=self.limits,
            joining=joining,
        )
        self.machines[replica], self.cores[replica] = machine, core
        for other in self.ids:
            if other != replica and other in self.cores:
                self.join(replica, other)
        return core

    def kill(self, replica: str) -> None:
        """The process is gone."""
        del self.cores[replica]
        for other in list(self.cores):
            self.split(replica, other)

    def join(self, one: str, other: str) -> None:
        """Connect two replicas."""
        self.cut.discard(frozenset((one, other)))
        for here, there in ((one, other), (other, one)):
            self.queues[here, there] = deque()
            self.cores[here].connected(there)

    def split(self, one: str, other: str) -> None:
        """Disconnect two replicas; what was on the way is lost."""
        self.cut.add(frozenset((one, other)))
        for here, there in ((one, other), (other, one)):
            self.queues[here, there] = deque()
            if here in self.cores:
                self.cores[here].disconnected(there)

    def step(self, count: int = 1) -> None:
        """Let time pass and deliver everything."""
        for _ in range(count):
            self.now += STEP_S
            for core in list(self.cores.values()):
                if core.failed is None:
                    core.tick()
            for (sender, receiver), queue in list(self.queues.items()):
                while queue:
                    payload = queue.popleft()
                    if receiver in self.cores and self.cores[receiver].failed is None:
                        self.cores[receiver].receive(sender, payload)
                if receiver in self.cores and self.cores[receiver].failed is None:
                    self.cores[receiver].flush()
            for name, core in self.cores.items():
                if core.leadership.is_local:
                    self.leaders.setdefault(core.leadership.term, set()).add(name)

    def leader(self) -> str:
        """Step until exactly one replica leads, and everyone who runs knows."""
        for _ in range(1000):
            leaders = [name for name, core in self.cores.items() if core.leadership.is_local]
            if len(leaders) == 1 and all(core.leadership.leader == leaders[0] for core in self.cores.values()):
                return leaders[0]
            self.step()
        raise AssertionError({name: core.leadership for name, core in self.cores.items()})

    def propose(self, replica: str, command: bytes) -> list[Applied | ProposalError]:
        """The list gets the outcome when there is one."""
        outcomes: list[Applied | ProposalError] = []
        self.cores[replica].propose(command, outcomes.append)
        return outcomes

    def barrier(self, replica: str) -> list[int | BarrierFailed]:
        """The list gets the outcome when there is one."""
        outcomes: list[int | BarrierFailed] = []
        self.cores[replica].barrier(outcomes.append)
        return outcomes

    def _send(self, sender: str, receiver: str, payload: bytes) -> bool:
        if frozenset((sender, receiver)) in self.cut:
            return False
        self.sent.append((sender, receiver, codec.decode(payload)))
        self.queues.setdefault((sender, receiver), deque()).append(payload)
        return True
