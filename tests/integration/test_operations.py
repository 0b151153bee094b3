"""What operators do, on real processes: a lost disk replaced by commands, and who is refused meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from harness.processes import Cluster, ServerProcess, wait_until
from harness.sidecars import Fleet, SidecarSpec
from tests.host.slots import session_of

pytestmark = pytest.mark.process
DEADLINE_S = 90.0


def specs(count: int) -> list[SidecarSpec]:
    return [SidecarSpec(f"10.0.0.{number}:50002", f"shop-{number}", ("Cart", "Lamp")) for number in range(count)]


async def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "callboard.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


async def members(server: ServerProcess) -> set[tuple[str, int]]:
    return {(member.name, member.incarnation) for member in await server.members()}


async def test_a_lost_disk_is_replaced_by_commands(tmp_path: Path) -> None:
    flags = ("--member-grace-period", "1m")
    async with Cluster(directory=tmp_path, flags=flags) as cluster, Fleet(cluster.addresses) as fleet:
        for spec in specs(4):
            fleet.add(spec)
        await fleet.wait_converged(deadline_s=DEADLINE_S)
        before = await members(await cluster.leader())
        survivor, other, lost = cluster.servers
        await cluster.kill_all()

        # An empty directory under a known id does not get back in: that would be forgetting votes.
        shutil.rmtree(lost.data_dir)
        cluster.start()
        leader = await cluster.leader(deadline_s=DEADLINE_S)
        assert leader is not lost

        async def left_out() -> bool:
            with suppress(aiohttp.ClientError, TimeoutError):
                return await lost.http("/readyz") == (503, "no leader is known\n") and lost.data_dir.exists()
            return False

        await wait_until(left_out, deadline_s=DEADLINE_S, what="the replica without its disk runs and is not let in")
        await cluster.kill_all()

        shutil.rmtree(lost.data_dir)
        ticket = tmp_path / "ticket"
        made = await command("replica", "ticket", "--data-dir", str(survivor.data_dir), "--id", lost.replica_id)
        assert made.returncode == 0, made.stderr
        ticket.write_text(made.stdout)
        for server in (survivor, other):
            accepted = await command("replica", "accept", "--data-dir", str(server.data_dir), str(ticket))
            assert accepted.returncode == 0, accepted.stderr
        created = await command("replica", "create", "--data-dir", str(lost.data_dir), str(ticket))
        assert created.returncode == 0, created.stderr
        cluster.start()
        await cluster.wait_ready(deadline_s=DEADLINE_S)
        await fleet.wait_converged(deadline_s=DEADLINE_S)

        # The new directory counts: with another replica gone, it makes the majority.
        await survivor.kill()
        leader = await cluster.leader(deadline_s=DEADLINE_S)
        assert await members(leader) == before


async def test_a_change_that_is_asked_for_again_at_the_next_leader_is_made_once(tmp_path: Path) -> None:
    flags = ("--lease=3s", "--drain=500ms", "--margin=200ms", "--tick=200ms", "--failure-timeout=60s")
    async with Cluster(directory=tmp_path, flags=flags) as cluster:
        leader = await cluster.leader()
        addresses = f"--address={','.join(cluster.addresses)}"
        session, slots = session_of("h1", [s.address for s in cluster.servers if s is not leader])
        try:
            async with asyncio.timeout(DEADLINE_S):
                await session.start()
            before = session.machine.incarnation
            remove = ("remove", "h1", "--namespace=carts", "--request-id=one", "-o", "json", addresses)
            first = await command(*remove)
            assert first.returncode == 0, first.stderr

            async def is_back() -> bool:
                return session.machine.incarnation > before and bool(slots.serving)

            await wait_until(is_back, deadline_s=DEADLINE_S, what="the removed host is back as another incarnation")
            after = session.machine.incarnation
            await leader.kill()
            successor = await cluster.leader(deadline_s=DEADLINE_S)
            again = await command(*remove)
            assert again.returncode == 0, again.stderr
            assert again.stdout == first.stdout
            assert ("h1", after) in await members(successor)
            assert session.machine.incarnation == after
        finally:
            await session.stop()


async def test_tickets_for_other_groups_or_damaged_ones_change_nothing(tmp_path: Path) -> None:
    async with Cluster(replicas=1, directory=tmp_path) as cluster:
        (server,) = cluster.servers
        running = await command("replica", "show", "--data-dir", str(server.data_dir))
        assert running.returncode == 1, "a running replica's directory was opened"
        assert await server.stop() == 0
        shown = await command("replica", "show", "--data-dir", str(server.data_dir))
        assert shown.returncode == 0, shown.stderr
        assert "full member" in shown.stdout
        itself = await command("replica", "ticket", "--data-dir", str(server.data_dir), "--id", server.replica_id)
        assert (itself.returncode, len(itself.stderr.splitlines())) == (1, 1)
        (tmp_path / "bad").write_text("no ticket at all")
        damaged = await command("replica", "accept", "--data-dir", str(server.data_dir), str(tmp_path / "bad"))
        assert damaged.returncode == 1
        assert damaged.stderr == "Error: the ticket is damaged: copy the whole line\n"
        missing = await command("replica", "show", "--data-dir", str(tmp_path / "nowhere"))
        assert missing.returncode == 1
        assert str(tmp_path / "nowhere") in missing.stderr
