"""Server processes under the harness's control, and simulated sidecars against a real server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import grpc
import grpc.aio
import psutil
import pytest

from harness.processes import LEASH, Cluster, PortLease, ProcessError, wait_until
from harness.sidecars import Fleet, Generation, SidecarSettings, SidecarSpec, naive_owners
from harness.sidecars.events import Report
from harness.sidecars.shell import Connector, encode

DEADLINE_S = 60.0


def test_leases_never_share_a_port() -> None:
    first, second = PortLease(20), PortLease(20)
    try:
        assert len({*first.ports, *second.ports}) == 40
    finally:
        first.release()
        second.release()


async def test_process_dies_with_its_parent() -> None:
    """The parent starts a child under the leash, tells its process id, and is killed."""
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    parent = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, {str(LEASH)!r}, str(os.getpid()), sys.executable, '-c', {child!r}])\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)  # noqa: ASYNC220
    with process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()

    async def gone() -> bool:
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    await wait_until(gone, deadline_s=DEADLINE_S, what="death of the child")


def test_leash_refuses_when_its_parent_is_another() -> None:
    command = [sys.executable, "-I", "-S", str(LEASH), "1", sys.executable, "-c", "print('ran')"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "ran" not in result.stdout
    assert "the parent 1 died before" in result.stderr


async def test_process_that_does_not_run_says_so_with_its_log(tmp_path: Path) -> None:
    cluster = Cluster(1, "memory", directory=tmp_path, flags=("--no-such-flag",))
    server = cluster.servers[0]
    with pytest.raises(ProcessError, match="replica-1 does not run"):
        await server.stop()
    with pytest.raises(ProcessError, match="replica-1 does not run") as caught:
        async with cluster:
            pass
    assert any("--no-such-flag" in note for note in caught.value.__notes__)
    assert not server.alive
    assert await server.wait_exit() == 2


def hosts(count: int) -> list[SidecarSpec]:
    kinds = ("cat", "dog", "owl")
    return [SidecarSpec(f"10.0.0.{n}:50002", f"app-{n}", (kinds[n % 3], kinds[(n + 1) % 3])) for n in range(count)]


@pytest.mark.process
async def test_sidecars_of_both_generations_agree_on_a_real_server(tmp_path: Path) -> None:
    cluster = Cluster(1, "memory", directory=tmp_path, flags=("--disseminate-timeout", "60s"))
    async with cluster, Fleet(cluster.addresses) as fleet:
        leader = await cluster.leader()
        specs = hosts(12)
        quick = SidecarSettings(heartbeat_s=0.1)
        for number, spec in enumerate(specs):
            fleet.add(spec, Generation.V1_16 if number % 4 == 0 else Generation.V1_18, quick)
        await fleet.wait_converged(deadline_s=DEADLINE_S)
        assert {member.name for member in await leader.members("default")} == {spec.name for spec in specs}
        for actor_type in ("cat", "dog", "owl"):
            names = [spec.name for spec in specs if actor_type in spec.actor_types]
            expected = naive_owners([f"{actor_type}-{n}" for n in range(20)], names, 100)
            assert {n: fleet.sidecars[0].machine.owner(actor_type, n) for n in expected} == expected
            assert await leader.owner("default", actor_type, f"{actor_type}-7") == expected[f"{actor_type}-7"]
        await fleet.stop(*fleet.sidecars[:2])
        await fleet.kill(*fleet.sidecars[:2])
        await fleet.wait_converged(deadline_s=DEADLINE_S)
        assert len(await leader.members("default")) == 8
        assert fleet.total("closed") == 0
        assert not any(sidecar.machine.wedged for sidecar in fleet.sidecars)


@pytest.mark.process
async def test_server_can_be_stopped_started_and_killed(tmp_path: Path) -> None:
    async with Cluster(1, "memory", directory=tmp_path) as cluster:
        server = cluster.servers[0]
        first = server.pid
        assert await server.stop() == 0
        assert await server.metrics() == {}, "nobody answers"
        server.start()
        await cluster.wait_ready()
        assert server.pid != first
        assert server.memory_bytes() > 0
        assert server.cpu_seconds() > 0
        await server.kill()
        assert await server.wait_exit() == -signal.SIGKILL
        assert not psutil.pid_exists(first)
        assert server.log_path.exists()
    assert os.listdir(tmp_path), "a directory that was given is kept"  # noqa: PTH208


@pytest.mark.process
async def test_half_close_ends_the_stream_whatever_is_being_written(tmp_path: Path) -> None:
    """Sidecars that half-close with their first message race the server's first orders; none may be left waiting."""
    async with Cluster(1, "memory", directory=tmp_path) as cluster:
        connector = Connector(cluster.addresses, share_channels=True)

        async def report_and_leave(number: int) -> str:
            stream, _ = connector.open(0)
            spec = SidecarSpec(f"10.0.0.{number}:50002", f"app-{number}", ("cat",) if number % 2 else ())
            await stream.write(encode(Report("REPORT", spec.namespace, spec.app_id, host=spec)))
            await stream.done_writing()
            while not stream.done():
                with suppress(grpc.aio.AioRpcError):
                    await stream.read()
            return f"{(await stream.code()).name} {await stream.details()}"

        async with asyncio.timeout(DEADLINE_S):
            endings = await asyncio.gather(*(report_and_leave(number) for number in range(100)))
        assert set(endings) == {"UNKNOWN EOF"}
        await connector.close()
        assert "TOO_MANY_OPERATIONS" not in cluster.servers[0].log_path.read_text()
