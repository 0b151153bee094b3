"""DurableMembership in one process: the embedded engine and the replicated state, dying between every two writes.

A replica commits membership changes on a disk that forgets what was not synced. It is killed at its first write, then
at its second, and so on; each time it starts again from the disk, and the caller repeats what was not acknowledged,
under the same request ids. Whatever was acknowledged must be there, and nothing may take effect twice.
"""

from __future__ import annotations

import random

import pytest
from attrs import define, field

from callboard.consensus.interface import Applied, EngineStartError, ProposalError
from callboard.consensus.pysyncobj_engine.core import Core
from callboard.consensus.pysyncobj_engine.identity import Directory
from callboard.consensus.pysyncobj_engine.options import CoreSettings
from callboard.core.commands import (
    CommitBatch,
    CreateNamespace,
    OpenSession,
    Removal,
    Request,
    RequestId,
    TakeOffice,
    encode_request,
)
from callboard.core.records import Answer, HostRecord
from callboard.core.versions import Policy
from callboard.server.machine import ReplicatedMachine
from harness.raftsim.disk import SimDisk, SimulatedCrash
from harness.raftsim.hardened import SimulatedDirectory, core_in_simulation

SETTINGS = CoreSettings(snapshot_entries=8, keep_entries=2, chunk_bytes=4096)
TICKS_MAX = 400


def protected_requests() -> list[Request]:
    """Membership changes under session 1; every third removes what the first added."""
    requests = [Request(CreateNamespace("default", Policy.BARRIER), RequestId(1, 1, 1))]
    for number in range(2, 14):
        name = f"10.0.0.{number}:50002"
        upserts = (HostRecord(name, "shop", ("Cart",)),)
        removals = (Removal(f"10.0.0.{number - 1}:50002", number - 2),) if number % 3 == 0 else ()
        requests.append(Request(CommitBatch(1, "default", upserts, removals), RequestId(1, number, number)))
    return requests


@define(eq=False)
class Caller:
    """The client of one replica over all its lives: remembers what was acknowledged."""

    disk: SimDisk
    now_s: float = 0.0
    acknowledged: list[Answer] = field(factory=list)
    machine: ReplicatedMachine = field(factory=ReplicatedMachine)

    def live(self, requests: list[Request]) -> None:
        """One life of the replica: propose what is not acknowledged yet. SimulatedCrash may end it anywhere."""
        directory = SimulatedDirectory(self.disk)
        identity = Directory.open(directory, "only", ()).identity
        self.machine = ReplicatedMachine()
        core = Core(
            "only",
            (),
            disk=directory,
            machine=self.machine,
            send=lambda _peer, _payload: False,
            clock=lambda: self.now_s,
            generator=random.Random(1),
            directory_id=identity.directory_id,
            settings=SETTINGS,
        )
        while not core.leadership.is_local:
            self._tick(core)
        if not self.machine.state.sessions:
            self._propose(core, Request(OpenSession()))
        self._propose(core, Request(TakeOffice("only", "nonce")))
        for request in requests[len(self.acknowledged) :]:
            self.acknowledged.append(self._propose(core, request))
        core.close()

    def _propose(self, core: Core, request: Request) -> Answer:
        done: list[Applied | ProposalError] = []
        core.propose(encode_request(request), done.append)
        for _ in range(TICKS_MAX):
            if done:
                break
            self._tick(core)
        (outcome,) = done
        assert isinstance(outcome, Applied), outcome
        assert isinstance(outcome.result, Answer)
        return outcome.result

    def _tick(self, core: Core) -> None:
        self.now_s += 0.01
        core.tick()


def crash_at_every_write(*, lying_sync: bool = False) -> int:
    """Run the whole story once per write; returns how many crash points there were."""
    requests = protected_requests()
    undisturbed = Caller(SimDisk())
    with core_in_simulation():
        undisturbed.live(requests)
        writes = undisturbed.disk.writes
        for point in range(writes):
            caller = Caller(SimDisk())
            caller.disk.lying_sync = lying_sync
            caller.disk.crash_after(point)
            with pytest.raises(SimulatedCrash):
                caller.live(requests)
            caller.disk.kill()
            caller.disk.revive(power_lost=True, choice=random.Random(point))
            acknowledged = list(caller.acknowledged)
            caller.live(requests)
            assert caller.acknowledged[: len(acknowledged)] == acknowledged
            assert caller.acknowledged == undisturbed.acknowledged, f"crash at write {point}: other answers (ApplyOnce)"
            assert caller.machine.state.namespaces == undisturbed.machine.state.namespaces, (
                f"crash at write {point}: an acknowledged change was lost, or one took effect twice"
            )
    return writes


def test_acknowledged_changes_survive_a_crash_between_any_two_writes() -> None:
    points = crash_at_every_write()
    assert points > 30, "too few crash points: does the engine still write at every change?"


def test_seeded_bug_a_disk_that_only_pretends_to_sync_is_caught() -> None:
    with pytest.raises((AssertionError, EngineStartError)):
        crash_at_every_write(lying_sync=True)
