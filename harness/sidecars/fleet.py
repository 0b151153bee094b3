"""Many simulated sidecars in one process and one event loop, and conditions to wait for."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from random import Random
from typing import Self

from harness.sidecars.checks import WireChecks
from harness.sidecars.events import SidecarSettings, SidecarSpec
from harness.sidecars.heartbeat import HeartbeatSidecar
from harness.sidecars.machine import SidecarMachine
from harness.sidecars.modern import ModernSidecar
from harness.sidecars.shell import Connector, Sidecar
from harness.sidecars.tables import REPLICATION_FACTOR, OrderDecoder, TableHost, Tables, tables_of

POLL_S = 0.01


class Generation(StrEnum):
    """Which daprd a simulated sidecar behaves as."""

    V1_16 = "1.16"
    V1_18 = "1.18"


_MACHINES: dict[Generation, type[SidecarMachine]] = {
    Generation.V1_16: HeartbeatSidecar,
    Generation.V1_18: ModernSidecar,
}


class Fleet:
    """Simulated sidecars that know the same placement addresses. Use as an async context manager.

    All draws come from `seed`. With `share_channels` the fleet uses one connection per address, not per sidecar.
    """

    def __init__(self, addresses: Sequence[str], *, share_channels: bool = False, seed: int = 0) -> None:
        self.sidecars: list[Sidecar] = []
        self.decoder = OrderDecoder()
        self.checks = WireChecks()
        self._connector = Connector(addresses, share_channels=share_channels)
        self._random = Random(seed)
        self._changed = asyncio.Event()
        _allow_many_sockets()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill(*self.sidecars)
        await self._connector.close()

    def add(
        self,
        spec: SidecarSpec,
        generation: Generation = Generation.V1_18,
        settings: SidecarSettings | None = None,
    ) -> Sidecar:
        """A new sidecar, started."""
        settings = settings or SidecarSettings()
        random = Random(self._random.random())
        machine = _MACHINES[generation](spec, len(self._connector.addresses), settings, random)
        self.checks.forget(spec)
        sidecar = Sidecar(machine, self._connector, self.decoder, self.checks, self._changed.set)
        self.sidecars.append(sidecar)
        sidecar.start()
        return sidecar

    async def kill(self, *sidecars: Sidecar) -> None:
        """Break the connections of these sidecars without a word, and forget them."""
        await asyncio.gather(*(sidecar.kill() for sidecar in sidecars))
        self.sidecars = [sidecar for sidecar in self.sidecars if sidecar not in sidecars]

    async def stop(self, *sidecars: Sidecar) -> None:
        """Shut these sidecars down politely, and forget them. Raises TimeoutError if a stream stays open."""
        await asyncio.gather(*(sidecar.stop() for sidecar in sidecars))
        self.sidecars = [sidecar for sidecar in self.sidecars if sidecar not in sidecars]

    def expected_tables(self, replication_factor: int = REPLICATION_FACTOR) -> Tables:
        """The tables that all of them must have in the end: those of exactly these sidecars."""
        return expected_tables((sidecar.machine.spec for sidecar in self.sidecars), replication_factor)

    def digests(self) -> Counter[str]:
        """How many sidecars hold which tables."""
        return Counter(sidecar.machine.digest for sidecar in self.sidecars)

    def versions(self) -> Counter[int]:
        """How many sidecars hold which version."""
        return Counter(sidecar.machine.table_version for sidecar in self.sidecars)

    def total(self, what: str) -> int:
        """Sum of one of the counts over all sidecars."""
        return sum(sidecar.machine.counts[what] for sidecar in self.sidecars)

    def converged(self, digest: str | None = None) -> bool:
        """Whether every sidecar is settled, at one version, with one table (that of `digest`, if given)."""
        machines = [sidecar.machine for sidecar in self.sidecars]
        if not machines or not all(machine.settled for machine in machines):
            return False
        wanted = (machines[0].digest if digest is None else digest, machines[0].table_version)
        return all((machine.digest, machine.table_version) == wanted for machine in machines)

    async def wait_converged(self, *, deadline_s: float) -> float:
        """Wait until all hold the table of exactly these sidecars. Returns seconds; raises TimeoutError."""
        digest = self.expected_tables().digest
        return await self.wait_until(lambda: self.converged(digest), deadline_s=deadline_s, what="one table everywhere")

    async def wait_until(self, condition: Callable[[], bool], *, deadline_s: float, what: str) -> float:
        """Wait until `condition` holds; it is looked at after changes only. Returns the seconds that it took.

        Raises TimeoutError that names `what` and the state of the fleet.
        """
        start = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    self._changed.clear()
                    self._raise_errors()
                    if condition():
                        return asyncio.get_running_loop().time() - start
                    await self._changed.wait()
                    await asyncio.sleep(POLL_S)  # let changes of many sidecars gather
        except TimeoutError:
            raise TimeoutError(f"{what}: not within {deadline_s} s; {self.summary()}") from None

    def _raise_errors(self) -> None:
        for sidecar in self.sidecars:
            if sidecar.error is not None:
                raise RuntimeError(f"the simulation of {sidecar.name} failed") from sidecar.error

    def summary(self) -> str:
        """One line on where the sidecars stand, for errors and progress lines."""
        machines = [sidecar.machine for sidecar in self.sidecars]
        connections = Counter(str(machine.connection) for machine in machines)
        ends = Counter(machine.last_end for machine in machines if machine.last_end and not machine.served)
        text = (
            f"{len(machines)} sidecars {dict(connections)}, {sum(m.settled for m in machines)} settled, "
            f"{len(self.digests())} tables, versions {dict(self.versions().most_common(3))}"
        )
        return text + (f", streams ended with {dict(ends.most_common(3))}" if ends else "")


def expected_tables(specs: Iterable[SidecarSpec], replication_factor: int = REPLICATION_FACTOR) -> Tables:
    """The tables that a namespace of exactly these sidecars must have."""
    members = ((TableHost(spec.name, spec.app_id), spec.actor_types) for spec in specs)
    return tables_of(members, replication_factor)


def _allow_many_sockets() -> None:
    """Raise the soft limit of open files to the hard one: each sidecar has a connection of its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
