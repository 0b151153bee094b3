"""A test run that is killed with SIGKILL leaves no server behind: proxies, replicas, hosts, members of etcd."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.etcd import find_or_install_etcd
from harness.processes import REPOSITORY, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

RUN = """
import asyncio, sys
from pathlib import Path
from harness.faults.cluster import ClusterSettings, FaultCluster

async def main() -> None:
    settings = ClusterSettings(engine=sys.argv[1], replicas=1, hosts=1, spare_hosts=0, clients=1)
    async with FaultCluster(Path(sys.argv[2]), settings) as cluster:
        cluster.hosts["h1"].start()
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def command_line(process: psutil.Process) -> str:
    """Empty for one that is just being started, or is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.parametrize(
    ("engine", "programs"),
    [
        ("pysyncobj", {"toxiproxy", "callboard.cli.main", "harness.faults.workload_host"}),
        ("etcd", {"toxiproxy", "callboard.cli.main", "harness.faults.workload_host", "etcd"}),
    ],
)
async def test_a_killed_run_leaves_nothing(engine: str, programs: set[str], tmp_path: Path) -> None:
    if engine == "etcd":
        find_or_install_etcd()
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'impl'}{os.pathsep}{REPOSITORY}"}
    command = [sys.executable, "-c", RUN, engine, str(tmp_path / "run")]
    with subprocess.Popen(  # noqa: ASYNC220 - the run that is killed
        command, env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as run:
        assert run.stdout is not None
        started: list[psutil.Process] = []

        async def everything_runs() -> bool:
            started[:] = psutil.Process(run.pid).children(recursive=True)
            lines = [command_line(process) for process in started]
            return all(any(name in line for line in lines) for name in programs)

        try:
            assert run.stdout.readline() == b"up\n"
            await wait_until(everything_runs, deadline_s=20, what=f"processes of {', '.join(sorted(programs))}")
        finally:
            os.kill(run.pid, signal.SIGKILL)

    async def gone() -> bool:
        return not [process for process in started if process.is_running() and process.status() != "zombie"]

    await wait_until(gone, deadline_s=20, what="the end of everything that the run had started")
