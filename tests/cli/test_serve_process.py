"""Real `callboard serve` processes: signals, and starts that must fail with one line and exit code 1."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.processes import PortLease
from tests.certificates import Authority

pytestmark = pytest.mark.process
DEADLINE_S = 60.0


@pytest.fixture
def ports() -> Iterator[list[int]]:
    lease = PortLease(4)
    yield lease.ports
    lease.release()


def command(ports: list[int], data_dir: Path, *more: str, replica: str = "a") -> list[str]:
    grpc_port, raft_port, healthz_port, metrics_port = ports
    flags = [f"--id={replica}", f"--initial-cluster={replica}=127.0.0.1:{raft_port}", f"--data-dir={data_dir}"]
    flags += [f"--port={grpc_port}", f"--healthz-port={healthz_port}", f"--metrics-port={metrics_port}", *more]
    return [sys.executable, "-m", "callboard.cli.main", "serve", *flags]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key not in {"PATH", "HOME"}}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_ready(process: subprocess.Popen[str], port: int) -> None:
    """Until the replica answers on its admin port; callboard's own command asks."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port}")


def expect_refusal(arguments: list[str]) -> str:
    """Run a server that must not start; returns its one line."""
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert result.returncode == 1, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("callboard: error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_with_exit_code_0(number: signal.Signals, ports: list[int], tmp_path: Path) -> None:
    process = start(command(ports, tmp_path / "data"))
    try:
        wait_ready(process, ports[0])
        process.send_signal(number)
        _, log = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, log
        assert "Traceback" not in log
    finally:
        process.kill()


def test_a_second_signal_stops_at_once(ports: list[int], tmp_path: Path) -> None:
    """Both signals wait for a stopped process, which then takes them one right after the other."""
    process = start(command(ports, tmp_path / "data"))
    try:
        wait_ready(process, ports[0])
        for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
            process.send_signal(number)
        _, log = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 1, log
        assert "second signal: stopping at once" in log
    finally:
        process.kill()


def test_status_members_and_lookup_talk_to_a_running_server(ports: list[int], tmp_path: Path) -> None:
    process = start(command(ports, tmp_path / "data"))
    try:
        wait_ready(process, ports[0])
        ask = [sys.executable, "-m", "callboard.cli.main"]
        address = [f"--address=127.0.0.1:{ports[0]}"]

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([*ask, *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False)

        status = run("status", *address, "-o", "json", "--linearizable")
        assert status.returncode == 0, status.stderr
        assert json.loads(status.stdout)["engine"] == "pysyncobj"
        table = run("status", *address)
        assert "replica" in table.stdout
        assert json.loads(run("members", *address, "-o", "json").stdout)["members"] == []
        missing = run("lookup", "Cart", "alice", *address)
        assert missing.returncode == 1
        assert missing.stderr == f"Error: 127.0.0.1:{ports[0]}: NOT_FOUND: no namespace default\n"
    finally:
        process.kill()
        process.communicate()


def test_no_replica_answers(ports: list[int]) -> None:
    arguments = [sys.executable, "-m", "callboard.cli.main", "status", f"--address=127.0.0.1:{ports[0]}"]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert result.returncode == 3
    assert result.stderr.startswith("Error: no replica answered: 127.0.0.1:")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(("which", "flag"), [(0, "--port"), (2, "--healthz-port"), (3, "--metrics-port")])
def test_a_port_in_use_is_named(which: int, flag: str, ports: list[int], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[which]))
        taken.listen()
        line = expect_refusal(command(ports, tmp_path / "data"))
    assert line == f"callboard: error: {flag}: cannot listen on 127.0.0.1:{ports[which]}: Address already in use"


def test_the_consensus_port_in_use_is_named(ports: list[int], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[1]))
        taken.listen()
        arguments = command(ports, tmp_path / "data")
        cluster = f"--initial-cluster=a=127.0.0.1:{ports[1]},b=127.0.0.1:1,c=127.0.0.1:2"
        assert str(ports[1]) in expect_refusal([*arguments, cluster])


def test_a_data_directory_of_another_replica_is_refused(ports: list[int], tmp_path: Path) -> None:
    process = start(command(ports, tmp_path / "data", replica="a"))
    try:
        wait_ready(process, ports[0])
        in_use = expect_refusal(command(ports, tmp_path / "data", "--port=0", "--healthz-port=0", "--metrics-port=0"))
        assert str(tmp_path / "data") in in_use
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
    line = expect_refusal(command(ports, tmp_path / "data", replica="b"))
    assert str(tmp_path / "data") in line
    assert "'a'" in line or " a" in line


def test_a_corrupt_log_is_refused(ports: list[int], tmp_path: Path) -> None:
    data = tmp_path / "data"
    process = start(command(ports, data))
    try:
        wait_ready(process, ports[0])
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
    journal = max((path for path in data.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(journal.read_bytes())
    content[: min(16, len(content))] = b"\x00" * min(16, len(content))
    journal.write_bytes(content)
    assert journal.name in expect_refusal(command(ports, data))


def test_a_data_directory_that_cannot_be_written_says_how_to_set_another(ports: list[int], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    line = expect_refusal(command(ports, tmp_path / "file" / "data"))
    assert "--data-dir" in line


def test_an_unreadable_certificate_is_named(ports: list[int], tmp_path: Path) -> None:
    ca, certificate, key = Authority().write(tmp_path, "a", "localhost")
    flags = ["--tls-enabled", f"--tls-ca-file={ca}", f"--tls-cert-file={certificate}", f"--tls-key-file={key}"]
    key.write_text("scrambled")
    line = expect_refusal(command(ports, tmp_path / "data", *flags))
    assert str(key) in line
