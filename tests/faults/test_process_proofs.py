"""What proves that a fault of processes, disks or operators bit: faults that did nothing are not proved."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callboard.consensus.pysyncobj_engine.identity import (
    FORMAT_VERSION,
    PROTOCOL_NAME,
    PROTOCOL_VERSION,
    Directory,
    Hello,
    Identity,
    PeerRefused,
)
from harness.faults import disk_faults, operator_faults, process_faults
from harness.faults.cluster import FaultCluster
from harness.faults.disk_faults import REFUSAL, Empty, WipedDisk
from harness.faults.nemeses import FaultSpec
from harness.faults.operator_faults import Removed
from harness.faults.process_faults import HostRestart, RollingRestart, Storm
from harness.processes import ProcessError

SHORT_S = 0.5


# -- restarts --------------------------------------------------------------------------------------------


class FakeReplica:
    """One that is told to end and to start; at the `fails`th end it does not."""

    def __init__(self, fails: int = 0) -> None:
        self.fails = fails
        self.starts = 0
        self.process = SimpleNamespace(ready=self.ready)

    async def ready(self) -> bool:
        return True

    async def terminate(self) -> None:
        if self.fails == 1:
            raise ProcessError("it still runs")
        self.fails -= 1

    def start(self) -> None:
        self.starts += 1

    async def start_again(self) -> bool:
        self.starts += 1
        return True


def restart(*replicas: FakeReplica) -> tuple[RollingRestart, Any]:
    names = {f"r{number}": replica for number, replica in enumerate(replicas, start=1)}
    world: Any = SimpleNamespace(
        cluster=SimpleNamespace(replicas=names), process=names.get, note_process=lambda *_: None, busy=set(names)
    )
    fault = RollingRestart(FaultSpec("rolling_restart", 0, SHORT_S))
    fault.names = list(names)
    return fault, world


async def test_restarts_are_counted() -> None:
    replicas = [FakeReplica(), FakeReplica()]
    fault, world = restart(*replicas)
    await fault.inject(world)
    assert await fault.bit(world) == "2 of 2 replicas restarted"
    await fault.heal(world)


@pytest.mark.parametrize("place", [0, 1])
async def test_a_restart_that_fails_is_told_and_healed(place: int) -> None:
    replicas = [FakeReplica(), FakeReplica()]
    replicas[place].fails = 1
    fault, world = restart(*replicas)
    await fault.inject(world)
    with pytest.raises(ProcessError, match="it still runs"):
        await fault.bit(world)
    with pytest.raises(ProcessError, match="it still runs"):
        await fault.heal(world)
    assert replicas[place].starts == 1, "it was started again all the same"
    assert not world.busy
    await fault.heal(world)


async def test_restarts_of_nobody_are_no_proof() -> None:
    fault, world = restart()
    await fault.inject(world)
    assert await fault.bit(world) == ""
    await fault.heal(world)


class FakeHost:
    """Tells the incarnations that it is given, one at each start."""

    def __init__(self, trace: Path, *incarnations: int) -> None:
        self.trace_path = trace
        self.incarnations = list(incarnations)
        self.exit_code: int | None = None
        self.start()

    def start(self) -> None:
        with self.trace_path.open("a") as file:
            file.write(json.dumps({"kind": "clock"}) + "\n")
            file.write(json.dumps({"kind": "table", "incarnation": 0}) + "\n")
            file.write(json.dumps({"kind": "table", "incarnation": self.incarnations.pop(0)}) + "\n")

    async def terminate(self) -> None:
        self.exit_code = 0


async def restarted(host: FakeHost) -> str:
    world: Any = SimpleNamespace(cluster=SimpleNamespace(hosts={"h1": host}), note_process=lambda *_: None)
    fault = HostRestart(FaultSpec("host_restart", 0, 1))
    fault.names = ["h1"]
    await fault.inject(world)
    return await fault.bit(world)


async def test_a_host_that_was_restarted_is_another_incarnation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_faults, "BACK_DEADLINE_S", SHORT_S)
    proof = await restarted(FakeHost(tmp_path / "new.jsonl", 4, 9))
    assert proof == "h1 left with exit code 0 and is incarnation 9 now, after 4"
    for name, second in (("same", 4), ("none", 0)):
        with pytest.raises(TimeoutError, match="a new incarnation"):
            await restarted(FakeHost(tmp_path / f"{name}.jsonl", 4, second))


class FakeSpare:
    """A spare host that joins when it is started, if it `joins`."""

    def __init__(self, trace: Path, *, joins: bool) -> None:
        self.name, self.trace_path, self.alive, self.joins = "h4", trace, False, joins
        trace.write_text(json.dumps({"kind": "table", "incarnation": 4}) + "\n")

    def start(self) -> None:
        self.alive = True
        if self.joins:
            with self.trace_path.open("a") as file:
                file.write(json.dumps({"kind": "table", "incarnation": 5}) + "\n")

    async def kill(self) -> None:
        self.alive = False


@pytest.mark.parametrize("joins", [True, False])
async def test_a_storm_in_which_nobody_joins_is_not_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, joins: bool
) -> None:
    monkeypatch.setattr(process_faults, "JOIN_DEADLINE_S", SHORT_S)
    spare = FakeSpare(tmp_path / "h4.jsonl", joins=joins)
    world: Any = SimpleNamespace(
        cluster=SimpleNamespace(spare_hosts=lambda: [spare]), note_process=lambda *_: None, random=random.Random(1)
    )
    fault = Storm(FaultSpec("storm", 0, 1, parameters={"pause_ms": 10_000}))
    await fault.inject(world)
    if joins:
        assert await fault.bit(world) == "1 joins and 1 starts and ends so far"
    else:
        with pytest.raises(TimeoutError, match="a host of the storm joins"):
            await fault.bit(world)
    await fault.heal(world)
    assert not spare.alive


# -- disks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer_set", [1, 2])
def test_what_a_replica_says_of_an_empty_directory(peer_set: int) -> None:
    own = Identity(FORMAT_VERSION, "r1", "d1", ["r1", "r2"], peer_set, "c", {"r1": "d1", "r2": "d2"})
    unused: Any = None
    hello = Hello(PROTOCOL_NAME, PROTOCOL_VERSION, "r2", "d3", ["r1", "r2"], 1, "", "")
    with pytest.raises(PeerRefused) as refused:
        Directory(unused, own).meet(hello)
    assert REFUSAL.findall(f"[warning  ] no link to replica r2: {refused.value}") == ["r2"]
    for reason in ("the connection was closed", "it took too long", "[Errno 111] Connect call failed"):
        assert REFUSAL.findall(f"[warning  ] no link to replica r2: {reason}") == []


REFUSED = (
    "no link to replica r1: replica r1 comes with directory d3, but d1 is remembered: its disk was lost or exchanged"
)


class FakeProcess:
    def __init__(self, log_path: Path, ready: bool) -> None:
        self.log_path = log_path
        self._ready = ready

    async def ready(self) -> bool:
        return self._ready


def with_logs(tmp_path: Path, *, ready: bool = False) -> Any:
    """Three replicas, of which the first has lost its directory, and before a second time already."""
    replicas = {}
    for name in ("r1", "r2", "r3"):
        path = tmp_path / f"{name}.log"
        path.write_text(f"{REFUSED}\n" if name != "r1" else "")
        process = FakeProcess(path, ready)
        replicas[name] = SimpleNamespace(
            name=name, process=process, alive=True, may_end=False, start=lambda: None, kill=None
        )
    return SimpleNamespace(cluster=SimpleNamespace(replicas=replicas))


async def test_an_empty_replica_has_to_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_faults, "REFUSAL_DEADLINE_S", SHORT_S)
    world = with_logs(tmp_path)
    fault = WipedDisk(FaultSpec("wiped_disk", 0, 0.1))
    fault._empty = Empty.start(world, "r1")
    with pytest.raises(TimeoutError, match="a peer refuses r1"):
        await fault.bit(world)
    with (tmp_path / "r3.log").open("a") as log:
        log.write(REFUSED + "\n")
    assert await fault.bit(world) == "refused with its empty directory by r3, and not ready for 0.1 s"


async def test_an_empty_replica_must_not_get_ready(tmp_path: Path) -> None:
    world = with_logs(tmp_path, ready=True)
    fault = WipedDisk(FaultSpec("wiped_disk", 0, 0.1))
    fault._empty = Empty.start(world, "r1")
    with (tmp_path / "r2.log").open("a") as log:
        log.write(REFUSED + "\n")
    with pytest.raises(ProcessError, match="r1 takes part with an empty directory"):
        await fault.bit(world)


async def test_a_replaced_replica_that_nobody_refused_is_no_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_faults, "REFUSAL_DEADLINE_S", SHORT_S)
    monkeypatch.setattr(disk_faults, "EMPTY_S", 0.1)
    world = with_logs(tmp_path)
    replica = world.cluster.replicas["r1"]

    async def kill() -> None:
        replica.killed = True

    replica.kill = kill
    fault = disk_faults.ReplacedDisk(FaultSpec("replaced_disk", 0, 0.1))
    fault.names = ["r1", "r2", "r3"]
    await fault._refused(world, replica)
    assert replica.killed
    assert await fault.bit(world) == ""
    assert fault.problem == "no peer refused r1 when its directory was empty"


# -- operators -------------------------------------------------------------------------------------------


async def test_an_operator_waits_for_a_member_and_gives_up_at_once_without_hosts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [None, TimeoutError("no leader"), SimpleNamespace(incarnation=3, slots=85)]

    async def member(_world: object, _name: str) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(operator_faults, "member", member)
    world: Any = SimpleNamespace(hosts=lambda: ["h1"], pick_hosts=lambda _: ["h1"], busy=set())
    assert await Removed(FaultSpec("host_removed", 0, 1)).resolve(world) == "h1"
    assert answers == []
    monkeypatch.setattr(operator_faults, "MEMBER_DEADLINE_S", SHORT_S)
    world.busy = {"h1"}
    with pytest.raises(TimeoutError, match="a host that is a member"):
        await Removed(FaultSpec("host_removed", 0, 1)).resolve(world)
    world.hosts = list
    assert await Removed(FaultSpec("host_removed", 0, 1)).resolve(world) == ""


# -- the end of a cluster --------------------------------------------------------------------------------


async def test_a_process_that_does_not_die_does_not_keep_the_others_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = []

    class Process:
        def __init__(self, name: str) -> None:
            self.name = name

        async def kill(self) -> None:
            killed.append(self.name)
            if self.name == "stubborn":
                raise TimeoutError("it does not die")

    monkeypatch.setattr(FaultCluster, "processes", lambda _: [Process(name) for name in ("stubborn", "other")])
    with pytest.raises(TimeoutError, match="it does not die"):
        await FaultCluster(tmp_path).__aexit__()
    assert killed == ["stubborn", "other"]
