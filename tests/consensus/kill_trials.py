"""kill -9 of real replicas under load, and the question whether anything acknowledged is missing afterwards.

    python -m tests.consensus.kill_trials --moment compaction --trials 40

Each trial starts three processes with empty directories, loads them, kills at the wanted moment, starts what was
killed, and compares the logs of all replicas with what had been acknowledged. Exit code 1 if anything is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from attrs import define, field, frozen

IDS = ("r1", "r2", "r3")
PATIENCE_S = 60.0
MOMENTS = ("compaction", "append", "one", "rolling")
PORTS = range(15_000, 30_000)
ROOT = Path(__file__).parents[2]


@frozen
class Verdict:
    """What one trial showed."""

    acknowledged: int
    missing: list[str]
    twice: list[str]
    agree: bool
    caught: str
    """What the killer saw at the moment of the kill."""

    @property
    def clean(self) -> bool:
        """Nothing is missing, nothing is there twice, and all replicas agree."""
        return not self.missing and not self.twice and self.agree


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that outgoing connections get: a replica that is down keeps its own."""
    ports: list[int] = []
    while len(ports) < count:
        port = secrets.choice(PORTS)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        if port not in ports:
            ports.append(port)
    return ports


@define
class Trial:
    """Three replica processes under one directory."""

    directory: Path
    ids: tuple[str, ...] = IDS
    in_flight: int = 32
    ports: dict[str, int] = field(init=False)
    processes: dict[str, subprocess.Popen[bytes]] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        """Choose the ports once: a replica keeps its own."""
        self.ports = dict(zip(self.ids, free_ports(len(self.ids)), strict=True))

    def start(self, *replica_ids: str, file_limit: int = 0) -> None:
        """Start replicas on the directories that are there."""
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'impl'}:{ROOT}"}
        for replica_id in replica_ids:
            with (self.directory / f"{replica_id}.log").open("ab") as log:
                self.processes[replica_id] = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "tests.consensus.replica_process"),
                        *(str(self.directory), replica_id),
                        ",".join(f"{name}={port}" for name, port in self.ports.items()),
                        *("--in-flight", str(self.in_flight), "--file-limit", str(file_limit)),
                    ],
                    stderr=log,
                    env=environment,
                    cwd=ROOT,
                )

    def kill(self, *replica_ids: str) -> None:
        """kill -9, all before waiting for any."""
        for replica_id in replica_ids:
            self.processes[replica_id].kill()
        for replica_id in replica_ids:
            self.processes.pop(replica_id).wait()

    def acknowledged(self) -> list[str]:
        """What was acknowledged so far."""
        try:
            return (self.directory / "acknowledged").read_text().split()
        except FileNotFoundError:
            return []

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"never came true: {what}\n{self.logs()}")
            time.sleep(0.002)

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(path.read_text()[-1500:] for path in sorted(self.directory.glob("*.log")))

    def wait_for_more(self, count: int) -> None:
        """Wait until `count` more commands are acknowledged."""
        target = len(self.acknowledged()) + count
        self.wait_for(lambda: len(self.acknowledged()) >= target, f"{target} acknowledged commands")

    def leader(self) -> str:
        """Who acknowledged last."""
        return self.acknowledged()[-1].split("-")[0]

    def verdict(self, caught: str) -> Verdict:
        """Let all replicas report, and end them."""
        (self.directory / "finish").touch()
        (self.directory / "report").touch()
        reports = [self.directory / f"{replica_id}.report" for replica_id in self.ids]
        self.wait_for(lambda: all(report.exists() for report in reports), "all replicas report")
        (self.directory / "end").touch()
        for process in self.processes.values():
            process.wait(PATIENCE_S)
        logs = [json.loads(report.read_text()) for report in reports]
        counts = Counter(logs[0])
        acknowledged = self.acknowledged()
        return Verdict(
            acknowledged=len(acknowledged),
            missing=[command for command in acknowledged if counts[command] == 0],
            twice=[command for command, count in counts.items() if count > 1],
            agree=all(log == logs[0] for log in logs),
            caught=caught,
        )

    def close(self) -> None:
        """Leave nothing running."""
        self.kill(*list(self.processes))


def compaction_seen(trial: Trial) -> str:
    """Names of files that exist only while a snapshot is written and the journal shortened."""
    found = []
    for replica_id in trial.ids:
        try:
            names = [path.name for path in (trial.directory / replica_id).iterdir()]
        except FileNotFoundError:
            continue
        found += [f"{replica_id}/{name}" for name in names if name.endswith(".tmp")]
        snapshots = [name for name in names if name.startswith("snapshot-") and not name.endswith(".tmp")]
        if len(snapshots) > 1:
            found.append(f"{replica_id}/two snapshots")
    return ", ".join(found)


def run_trial(directory: Path, moment: str, generator: random.Random) -> Verdict:
    """One trial with a fresh group."""
    trial = Trial(directory)
    try:
        trial.start(*trial.ids)
        trial.wait_for_more(100)
        caught = _strike(trial, moment, generator)
        trial.wait_for_more(100)
        return trial.verdict(caught)
    finally:
        trial.close()


def _strike(trial: Trial, moment: str, generator: random.Random) -> str:
    if moment == "compaction":
        trial.wait_for_more(generator.randrange(50, 300))
        deadline = time.monotonic() + PATIENCE_S
        while not (caught := compaction_seen(trial)):
            if time.monotonic() > deadline:
                raise AssertionError("no compaction was seen")
        trial.kill(*trial.ids)
        trial.start(*trial.ids)
        return caught
    if moment == "append":
        trial.wait_for_more(generator.randrange(1, 300))
        trial.kill(*trial.ids)
        trial.start(*trial.ids)
        return "all"
    if moment == "one":
        trial.wait_for_more(generator.randrange(1, 300))
        leader = trial.leader()
        trial.kill(leader)
        trial.wait_for_more(100)
        trial.start(leader)
        return f"the leader {leader}"
    for replica_id in trial.ids:
        trial.kill(replica_id)
        trial.wait_for_more(200)  # more than a log holds: the replica comes back to a snapshot
        trial.start(replica_id)
        time.sleep(generator.random() * 0.3)
        trial.kill(replica_id)
        trial.start(replica_id)
        trial.wait_for_more(50)
    return "each in turn, twice"


def main() -> int:
    """Run trials and say what they showed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moment", choices=MOMENTS, default="compaction")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the trial under way ends its replicas
    generator = random.Random(arguments.seed)
    bad = 0
    total = 0
    for number in range(1, arguments.trials + 1):
        with tempfile.TemporaryDirectory(prefix="callboard-kill-", dir="/var/tmp") as directory:
            verdict = run_trial(Path(directory), arguments.moment, generator)
        total += verdict.acknowledged
        bad += not verdict.clean
        print(
            f"{number}: {verdict.acknowledged} acknowledged, {len(verdict.missing)} missing, "
            f"{len(verdict.twice)} twice, logs {'equal' if verdict.agree else 'DIFFERENT'}, at: {verdict.caught}",
            flush=True,
        )
    print(f"{arguments.trials} trials, {total} acknowledged commands, {bad} trials with losses")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
