"""`make demo-sidecars`: what callboard promises to Dapr sidecars, shown on real processes in about a minute.

Three replicas and 50 simulated sidecars, half of them daprd 1.16 and half 1.18. The leader is killed with -9, then
all three replicas are; every table, owner and member is compared with what was there before and with an independent
computation. Exit code 0 only if every comparison held.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Mapping

from attrs import define, frozen
from rich.console import Console
from rich.table import Table

from harness.processes import Cluster, ProcessError, ServerProcess, find_leader
from harness.sidecars import Fleet, Generation, SidecarSettings, SidecarSpec, naive_owners
from harness.sidecars.tables import REPLICATION_FACTOR

NAMESPACE = "default"
ACTOR_TYPES = ("account", "basket", "customer", "device", "elevator")
SIDECARS = 50
ACTOR_IDS = 10_000
LOOKUPS = 25
JOIN_DEADLINE_S = 90.0
RECOVERY_DEADLINE_S = 90.0


def sidecar_spec(number: int) -> SidecarSpec:
    """The sidecar with this number: hosts two or three of the five actor types."""
    types = {ACTOR_TYPES[(number + step) % 5] for step in (0, 1, *([3] if number % 2 else []))}
    return SidecarSpec(f"10.0.{number // 25}.{number % 25 + 1}:50002", f"app-{number}", tuple(sorted(types)), NAMESPACE)


@frozen
class Picture:
    """What there is at one moment: members with their incarnations, version, and the sidecars' tables."""

    members: Mapping[str, int]
    version: int
    digests: frozenset[str]
    versions: frozenset[int]
    locks: int


@define
class Result:
    """One line of the final table."""

    what: str
    held: bool
    detail: str
    seconds: float | None = None


class Demo:
    """The run: steps in order, results collected."""

    def __init__(
        self,
        cluster: Cluster,
        fleet: Fleet,
        say: Callable[[str], None],
        *,
        sidecars: int = SIDECARS,
        actor_ids: int = ACTOR_IDS,
        settings: SidecarSettings | None = None,
    ) -> None:
        self.cluster = cluster
        self.fleet = fleet
        self.sidecars = sidecars
        self.actor_ids = actor_ids
        self.settings = settings
        self.results: list[Result] = []
        self._say = say

    def check(self, what: str, held: bool, detail: str, seconds: float | None = None) -> None:
        """Note whether something held."""
        self.results.append(Result(what, held, detail, seconds))
        took = f" ({seconds:.1f} s)" if seconds is not None else ""
        self._say(f"  {'held' if held else 'DID NOT HOLD'}: {what}: {detail}{took}")

    async def run(self) -> None:
        """All steps. Raises TimeoutError or ProcessError if one cannot be finished."""
        await self.join()
        await self.compare_owners()
        await self.kill_leader()
        await self.kill_all()
        await self.join_one_more()
        self.check_patience()

    async def picture(self, server: ServerProcess) -> Picture:
        """Ask the cluster (after a quorum confirmed the answer) and every sidecar."""
        members = {member.name: member.incarnation for member in await server.members(NAMESPACE)}
        status = await server.status(linearizable=True)
        version = next((space.version for space in status.namespaces if space.name == NAMESPACE), 0)
        return Picture(
            members,
            version,
            frozenset(self.fleet.digests()),
            frozenset(self.fleet.versions()),
            self.fleet.total("lock"),
        )

    async def join(self) -> None:
        """All sidecars join at once."""
        self._say(f"{self.sidecars} sidecars join, half of them daprd 1.16 and half 1.18")
        for number in range(self.sidecars):
            generation = Generation.V1_16 if number % 2 else Generation.V1_18
            self.fleet.add(sidecar_spec(number), generation, self.settings)
        seconds = await self.fleet.wait_converged(deadline_s=JOIN_DEADLINE_S)
        now = await self.picture(await self.cluster.leader())
        detail = f"{len(self.fleet.sidecars)} sidecars, {len(now.digests)} table, version {now.version}"
        self.check("all sidecars hold one table", now.versions == {now.version}, detail, seconds)
        named = {sidecar.name for sidecar in self.fleet.sidecars}
        self.check("members are the sidecars", set(now.members) == named, f"{len(now.members)} members")

    async def compare_owners(self) -> None:
        """Owners by every sidecar's own ring, and by the server, against the naive computation."""
        self._say(f"owners of {self.actor_ids:,} actor ids, from the list of sidecars alone, the plain way")
        start = time.monotonic()
        wrong = 0
        expected: dict[tuple[str, str], str] = {}
        for actor_type in ACTOR_TYPES:
            ids = [f"{actor_type}-{number}" for number in range(self.actor_ids // len(ACTOR_TYPES))]
            hosts = [s.name for s in self.fleet.sidecars if actor_type in s.machine.spec.actor_types]
            owners = await asyncio.to_thread(naive_owners, ids, hosts, REPLICATION_FACTOR)
            expected |= {(actor_type, actor_id): owner for actor_id, owner in owners.items()}
        for tables in {id(s.machine.tables): s.machine.tables for s in self.fleet.sidecars}.values():
            if tables is None:
                wrong += len(expected)
            else:
                wrong += sum(tables.owner(*actor) != owner for actor, owner in expected.items())
        detail = f"{len(expected) - wrong:,} of {len(expected):,} equal, in every sidecar's table"
        self.check("owners equal the naive computation", wrong == 0, detail, time.monotonic() - start)
        leader = await self.cluster.leader()
        sample = list(expected)[:: len(expected) // LOOKUPS]
        told = [await leader.owner(NAMESPACE, *actor) == expected[actor] for actor in sample]
        self.check("the server's lookup agrees", all(told), f"{sum(told)} of {len(told)} lookups equal")

    async def kill_leader(self) -> None:
        """The leader dies; the others elect one, and nothing changes for the members."""
        leader = await self.cluster.leader()
        before = await self.picture(leader)
        self._say(f"kill -9 of the leader, {leader.replica_id}")
        start = time.monotonic()
        await leader.kill()
        successor = await self.cluster.leader(deadline_s=RECOVERY_DEADLINE_S)
        elected = time.monotonic() - start
        self._say(f"  {successor.replica_id} is in office after {elected:.1f} s; sidecars come back")
        await self.fleet.wait_converged(deadline_s=RECOVERY_DEADLINE_S)
        detail = f"{leader.replica_id} then {successor.replica_id}; in office after {elected:.1f} s"
        seconds = time.monotonic() - start
        self.check("a new leader, and all sidecars back", successor is not leader, detail, seconds)
        await self.same_as("after the leader's death", before, successor)
        self._say(f"{leader.replica_id} starts again")
        leader.start()
        await self.cluster.wait_ready()

    async def kill_all(self) -> None:
        """All replicas die at once and start again from their disks."""
        before = await self.picture(await self.cluster.leader())
        self._say("kill -9 of all three replicas")
        start = time.monotonic()
        await self.cluster.kill_all()
        nobody = await find_leader(self.cluster.servers) is None
        self._say("  all three start again")
        self.cluster.start()
        leader = await self.cluster.leader(deadline_s=RECOVERY_DEADLINE_S)
        elected = time.monotonic() - start
        self._say(f"  {leader.replica_id} is in office after {elected:.1f} s; sidecars come back")
        await self.fleet.wait_converged(deadline_s=RECOVERY_DEADLINE_S)
        detail = f"{leader.replica_id} in office after {elected:.1f} s"
        self.check("all replicas back, and all sidecars", nobody, detail, time.monotonic() - start)
        await self.same_as("after the death of all", before, leader)

    async def same_as(self, when: str, before: Picture, leader: ServerProcess) -> None:
        """Members, version and tables are those of `before`; every sidecar got its own push and no round ran."""
        after = await self.picture(leader)
        lost = set(before.members.items()) - set(after.members.items())
        new = set(after.members.items()) - set(before.members.items())
        detail = f"{len(after.members)} members, {len(lost)} lost, {len(new)} replaced"
        self.check(f"members the same {when}", not lost and not new, detail)
        same = (after.version, after.versions) == (before.version, before.versions)
        self.check(f"version the same {when}", same, f"{before.version} before, {after.version} after")
        detail = f"{len(after.digests)} table in {len(self.fleet.sidecars)} sidecars"
        self.check(f"tables the same {when}", after.digests == before.digests, detail)
        rounds = (await leader.metrics()).get(("callboard_rounds_total", NAMESPACE), 0.0)
        pushes = after.locks - before.locks
        detail = f"{rounds:.0f} rounds; {pushes} tables pushed to {len(self.fleet.sidecars)} sidecars that came back"
        self.check(f"no needless round {when}", rounds == 0 and pushes <= len(self.fleet.sidecars), detail)

    def check_patience(self) -> None:
        """Whether any sidecar is locked for good, or gave a round or a stream up by itself."""
        broken = [sidecar.name for sidecar in self.fleet.sidecars if sidecar.machine.wedged]
        gave_up = self.fleet.total("closed") + self.fleet.total("fail_safe")
        detail = f"{len(broken)} wedged, {gave_up} rounds given up by a sidecar"
        self.check("no sidecar wedged or out of patience", not broken and not gave_up, detail)
        checks = self.fleet.checks
        detail = f"BarrierOrder, TableMonotonic, TableAgreement over {checks.orders:,} orders"
        self.check("every order in order", not checks.violations, "; ".join([detail, *checks.violations[:3]]))

    async def join_one_more(self) -> None:
        """The restarted cluster still does its work: one more sidecar, one more version."""
        before = await self.picture(await self.cluster.leader())
        self._say("one more sidecar joins")
        self.fleet.add(sidecar_spec(self.sidecars), settings=self.settings)
        seconds = await self.fleet.wait_converged(deadline_s=JOIN_DEADLINE_S)
        after = await self.picture(await self.cluster.leader())
        detail = f"{len(after.members)} members, version {before.version} to {after.version}"
        held = after.version == before.version + 1 and len(after.members) == len(before.members) + 1
        self.check("one more sidecar is one more version", held, detail, seconds)


def table_of(results: list[Result], seconds: float) -> Table:
    """What happened, for people."""
    table = Table(title=f"callboard demo: {sum(r.held for r in results)} of {len(results)} held, {seconds:.0f} s")
    for heading in ("", "what", "how", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for result in results:
        mark = "[green]held[/]" if result.held else "[bold red]NO[/]"
        table.add_row(mark, result.what, result.detail, "" if result.seconds is None else f"{result.seconds:.1f}")
    return table


async def show(engine: str, console: Console) -> int:
    """Run the demo; returns the exit code. A step that cannot be finished is a line of the table too."""
    start = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - start:5.1f} s[/]  {line}", highlight=False, soft_wrap=True)

    say(f"three replicas start, engine {engine}")
    async with Cluster(3, engine) as cluster, Fleet(cluster.addresses) as fleet:
        leader = await cluster.leader()
        say(f"  {leader.replica_id} leads; logs are in {cluster.directory} while this runs")
        demo = Demo(cluster, fleet, say)
        try:
            await demo.run()
        except (TimeoutError, ProcessError) as error:
            demo.check("the run could be finished", False, str(error))
            print(*getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
        cluster.keep = not all(result.held for result in demo.results)
        if cluster.keep:
            say(f"something did not hold: logs and data stay in {cluster.directory}")
    console.print(table_of(demo.results, time.monotonic() - start))
    return 0 if all(result.held for result in demo.results) else 1


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.demo_sidecars", description="promises to sidecars")
    parser.add_argument("--engine", default="pysyncobj", help="consensus engine of the replicas (default: pysyncobj)")
    arguments = parser.parse_args()
    try:
        return asyncio.run(show(arguments.engine, Console()))
    except (TimeoutError, ProcessError) as error:
        print(f"demo: {error}", *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
