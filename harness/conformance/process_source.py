"""Records of a real cluster: three replicas and hosts as processes on this machine, each with its own trace file.

What happens: hosts join, one leaves in order, one is killed, one is frozen past its lease, the leader is killed, a host
comes back; actors are called all the time. The tracer of the environment writes down whom it killed.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from attrs import Factory, define

from callboard.host import CallError, CallSettings, Router
from callboard.trace_file import VARIABLE, TraceFile
from harness.demo_host import Counter
from harness.hosts import HostProcess
from harness.processes import Cluster, PortLease, find_leader, wait_until

NAMESPACE = "shop"
ACTORS = 16
FLAGS = ("--lease=2500ms", "--drain=500ms", "--margin=300ms", "--tick=200ms", "--failure-timeout=2700ms")
SLOT_BITS = 4
DEADLINE_S = 60.0
PACE_S = 0.05


@define(eq=False)
class _Tour:
    cluster: Cluster
    router: Router
    hosts: dict[str, HostProcess]
    environment: TraceFile
    answers: int = 0
    done: bool = False
    callers: list[asyncio.Future[None]] = Factory(list)

    async def call(self, actor: str) -> None:
        """One caller, one call at a time; what fails is the business of other tests."""
        number = 0
        while not self.done:
            number += 1
            try:
                await self.router.client.actor(Counter, actor).add(f"{actor}-{number}")
                self.answers += 1
            except CallError:
                pass
            await asyncio.sleep(PACE_S)

    async def members_are(self, *names: str) -> None:
        """The router's table has just these hosts."""

        async def there() -> bool:
            view = self.router.view
            return view is not None and {entry.name for entry in view.hosts.values()} == set(names)

        await wait_until(there, deadline_s=DEADLINE_S, what=f"members {', '.join(names)}")

    async def settled(self, *names: str) -> None:
        """... and calls are answered."""
        await self.members_are(*names)
        wanted = self.answers + ACTORS

        async def answered() -> bool:
            return self.answers >= wanted

        await wait_until(answered, deadline_s=DEADLINE_S, what="calls are answered")

    def kill(self, name: str) -> None:
        """SIGKILL, written down once the process is gone: what it wrote before is its own."""
        self.hosts[name].kill()
        self.environment("Crash", {"process": f"host {name}"})

    async def freeze(self, name: str) -> None:
        """Longer than its lease. It may hold the lock of the state file, so the others need not answer meanwhile."""
        self.hosts[name].send(signal.SIGSTOP)
        others = [other for other, host in self.hosts.items() if host.alive and other != name]
        await self.members_are(*others)
        self.hosts[name].send(signal.SIGCONT)
        await self.settled(*others, name)

    async def happen(self, *, freezing: bool) -> None:
        """All of it, or all but the freeze, which takes long."""
        for name in ("h1", "h2", "h3"):
            self.hosts[name].start()
        await self.settled("h1", "h2", "h3")
        self.hosts["h4"].start()
        await self.settled("h1", "h2", "h3", "h4")
        self.hosts["h2"].send(signal.SIGTERM)
        await self.settled("h1", "h3", "h4")
        leader = await find_leader(self.cluster.servers)
        assert leader is not None
        await leader.kill()
        await self.cluster.leader()
        self.kill("h3")
        await self.settled("h1", "h4")
        leader.start()
        if freezing:
            await self.freeze("h1")
        self.hosts["h3"].start()
        await self.settled("h1", "h3", "h4")


def record_cluster(directory: Path, *, freezing: bool = True) -> list[Path]:
    """Run it, in about half a minute. Returns the trace files of all processes, in `directory`."""
    asyncio.run(_run(directory, freezing))
    return sorted(directory.glob("trace-*.jsonl"))


async def _run(directory: Path, freezing: bool) -> None:
    traced = {VARIABLE: str(directory / "trace-{pid}.jsonl")}
    flags = (*FLAGS, f"--slot-bits={SLOT_BITS}")
    ports = PortLease(4)
    try:
        async with Cluster(3, directory=directory / "replicas", flags=flags, environment=traced) as cluster:
            addresses = ",".join(cluster.addresses)
            hosts = {
                f"h{at + 1}": HostProcess(
                    f"h{at + 1}", port, addresses, directory, namespace=NAMESPACE, environment=traced
                )
                for at, port in enumerate(ports.ports)
            }
            environment = TraceFile(directory / "trace-environment.jsonl", "environment")
            settings = CallSettings(timeout_ms=10_000)
            try:
                async with Router(cluster=addresses, namespace=NAMESPACE, calls=settings) as router:
                    run = _Tour(cluster, router, hosts, environment)
                    run.callers = [asyncio.ensure_future(run.call(f"actor-{at}")) for at in range(ACTORS)]
                    try:
                        await run.happen(freezing=freezing)
                    finally:
                        run.done = True
                        await asyncio.gather(*run.callers)
            finally:
                for host in hosts.values():
                    host.kill()
    finally:
        ports.release()
