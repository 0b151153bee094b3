"""The synchronous core: proposals, barriers, snapshots, terms and failures, one step at a time."""

from __future__ import annotations

import errno
import pickle

import pysyncobj.pickle
import pytest

from callboard.consensus.interface import (
    Applied,
    BarrierFailed,
    EngineFailed,
    EngineLimits,
    EngineStartError,
    Leadership,
    NotApplied,
    NotLeader,
    OutcomeUnknown,
    QueueFull,
)
from callboard.consensus.pysyncobj_engine import codec, raft_library
from callboard.consensus.pysyncobj_engine.codec import BadMessage
from callboard.consensus.pysyncobj_engine.disk import Disk
from callboard.consensus.pysyncobj_engine.options import CoreSettings
from tests.consensus.core_group import CoreGroup
from tests.consensus.machine import ListMachine
from tests.consensus.memory_disk import FailingDisk

SMALL = CoreSettings(snapshot_entries=20, keep_entries=3, chunk_bytes=64, batch_bytes=600)


def others(group: CoreGroup, replica: str) -> list[str]:
    return [name for name in group.ids if name != replica]


def log_length(group: CoreGroup, replica: str) -> int:
    return group.cores[replica].journal.last_index


def test_other_versions_of_the_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_library, "VERSION", "0.3.18")
    with pytest.raises(
        EngineStartError, match=r"pysyncobj 0\.3\.18 is installed; this engine is made for 0\.3\.17 only"
    ):
        CoreGroup()


def test_nothing_is_ever_pickled_or_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_args: object, **_kwargs: object) -> object:
        raise AssertionError("pickle was used")

    for module in (pickle, pysyncobj.pickle):
        for name in ("load", "loads", "dump", "dumps"):
            monkeypatch.setattr(module, name, never)
    group = CoreGroup(settings=SMALL)
    leader = group.leader()
    away = others(group, leader)[0]
    group.kill(away)
    for number in range(60):
        group.propose(leader, b"%d" % number)
        group.step(2)
    group.start(away)
    group.step(50)
    assert group.machines[away].entries == group.machines[leader].entries
    assert group.machines[away].restores == 1


def test_many_barriers_share_one_entry_and_none_is_added_to_a_command() -> None:
    group = CoreGroup()
    leader = group.leader()
    group.step(10)
    before = log_length(group, leader)
    waiting = [group.barrier(leader) for _ in range(50)]
    group.step(5)
    assert all(outcome == [before + 1] for outcome in waiting)
    assert log_length(group, leader) == before + 1
    proposal, barrier = group.propose(leader, b"x"), group.barrier(leader)
    group.step(5)
    assert proposal == [Applied(before + 2, 1)]
    assert barrier == [before + 2]
    assert log_length(group, leader) == before + 2


def test_barriers_of_a_follower_share_one_question() -> None:
    group = CoreGroup()
    leader = group.leader()
    follower = others(group, leader)[0]
    group.step(10)
    group.sent.clear()
    waiting = [group.barrier(follower) for _ in range(50)]
    group.step(10)
    assert all(isinstance(outcome[0], int) for outcome in waiting)
    questions = [message for _, _, message in group.sent if isinstance(message, codec.RequestBarrier)]
    assert len(questions) == 1


def test_a_barrier_is_not_confirmed_by_an_entry_from_before_it() -> None:
    """While one barrier is on its way, the next waits for an entry of its own."""
    group = CoreGroup()
    leader = group.leader()
    group.step(10)
    first = group.barrier(leader)
    group.cores[leader].tick()
    second = group.barrier(leader)
    group.step(10)
    assert isinstance(first[0], int)
    assert isinstance(second[0], int)
    assert second[0] > first[0]


def test_a_barrier_survives_a_change_of_leader() -> None:
    group = CoreGroup()
    leader = group.leader()
    follower = others(group, leader)[0]
    waiting = group.barrier(follower)
    group.kill(leader)
    group.leader()
    group.step(20)
    assert len(waiting) == 1
    assert isinstance(waiting[0], int)


def test_a_cut_off_leader_confirms_nothing_and_steps_down_in_time() -> None:
    group = CoreGroup()
    leader = group.leader()
    group.step(10)
    for other in others(group, leader):
        group.split(leader, other)
    proposal, barrier = group.propose(leader, b"lost"), group.barrier(leader)
    cut_at = group.now
    while group.cores[leader].leadership.is_local:
        group.step()
    assert group.now - cut_at <= group.settings.fallback_ms / 1000 + 0.1
    assert isinstance(proposal[0], OutcomeUnknown)
    assert barrier == []
    assert isinstance(group.propose(leader, b"late")[0], NotLeader)
    group.cores[leader].close()
    assert isinstance(barrier[0], BarrierFailed)


def test_an_entry_that_commits_in_a_later_term_is_not_acknowledged() -> None:
    """It is applied, but proves nothing about the leadership in which it was proposed."""
    group = CoreGroup()
    leader = group.leader()
    follower, third = others(group, leader)
    group.step(10)
    proposal = group.propose(leader, b"x")
    group.cores[leader].tick()  # on its way to both
    group.queues[leader, third].clear()
    group.cores[follower].receive(leader, group.queues[leader, follower].popleft())
    group.cores[follower].flush()
    group.queues[follower, leader].clear()  # stored by two, and the leader does not know
    group.split(leader, follower)
    group.split(leader, third)
    group.step(300)
    group.join(leader, follower)
    group.join(leader, third)
    group.leader()
    group.step(50)
    assert all(machine.commands == [b"x"] for machine in group.machines.values())
    assert isinstance(proposal[0], OutcomeUnknown)


def test_a_replica_that_was_cut_off_does_not_disturb() -> None:
    """V10: with pre-votes nobody's term rises while it is away or when it returns."""
    group = CoreGroup()
    leader = group.leader()
    away = others(group, leader)[0]
    for other in others(group, away):
        group.split(away, other)
    group.step(1000)
    term = group.cores[leader].leadership.term
    assert group.cores[away].inspect().term == term
    for other in others(group, away):
        group.join(away, other)
    group.step(300)
    assert group.cores[leader].leadership.is_local
    assert group.cores[leader].leadership.term == term


def test_a_replica_with_a_higher_term_gets_back_in() -> None:
    """Its vote requests were lost, so it alone has the new term: the leader of the old one must learn of it."""
    group = CoreGroup()
    leader = group.leader()
    away = others(group, leader)[0]
    group.kill(away)
    journal = group.start(away).journal
    journal.setCurrentTerm(50, away)
    journal.sync()
    group.kill(away)
    group.start(away)
    group.step(300)
    assert group.cores[group.leader()].leadership.term > 50
    assert group.propose(group.leader(), b"x") == []
    group.step(20)
    assert all(machine.commands == [b"x"] for machine in group.machines.values())


def test_a_long_conflicting_tail_is_repaired_quickly() -> None:
    """V8: a deposed leader's tail longer than a batch."""
    group = CoreGroup(settings=CoreSettings(batch_bytes=600))
    old = group.leader()
    group.step(10)
    for other in others(group, old):
        group.split(old, other)
    for number in range(120):
        group.propose(old, b"lost%d" % number)
    group.cores[old].tick()
    group.step(300)
    survivors = [group.cores[name] for name in others(group, old)]
    leader = next(core.replica_id for core in survivors if core.leadership.is_local)
    for number in range(130):
        group.propose(leader, b"%d" % number)
    group.step(10)
    for other in others(group, old):
        group.join(old, other)
    group.step(40)
    assert group.machines[old].entries == group.machines[leader].entries
    assert len(group.machines[old].entries) == 130


def test_a_lagging_follower_gets_a_snapshot_while_the_third_is_down() -> None:
    """V9: the answers to chunks keep the leader in office."""
    group = CoreGroup(settings=SMALL)
    leader = group.leader()
    lagging, third = others(group, leader)
    group.kill(lagging)
    for number in range(100):
        group.propose(leader, b"%d" % number)
        group.step(2)
    group.kill(third)
    group.start(lagging)
    term = group.cores[leader].leadership.term
    group.step(200)
    assert group.machines[lagging].entries == group.machines[leader].entries
    assert group.machines[lagging].restores == 1
    assert group.cores[leader].leadership.term == term


def test_congested_followers_pause_the_leader_and_nothing_is_lost() -> None:
    group = CoreGroup(settings=SMALL)
    leader = group.leader()
    follower = others(group, leader)[0]
    congested = {follower}
    send = group.cores[leader]._send
    group.cores[leader]._send = lambda peer, payload: peer not in congested and send(peer, payload)
    for number in range(100):
        group.propose(leader, b"%d" % number)
        group.step(1)
    congested.clear()
    group.step(100)
    assert group.machines[follower].entries == group.machines[leader].entries


def test_commands_larger_than_a_batch_arrive_whole() -> None:
    group = CoreGroup(settings=SMALL)
    leader = group.leader()
    for size in (598, 599, 600, 601, 5000):
        outcome = group.propose(leader, b"x" * size)
        group.step(10)
        assert isinstance(outcome[0], Applied)
    assert all([len(command) for command in m.commands] == [598, 599, 600, 601, 5000] for m in group.machines.values())


def test_proposals_are_bounded_and_can_be_withdrawn() -> None:
    group = CoreGroup(limits=EngineLimits(pending_proposals=2, command_bytes=1024))
    leader = group.leader()
    core = group.cores[leader]
    outcomes: list[object] = []
    first = core.propose(b"1", outcomes.append)
    core.propose(b"2", outcomes.append)
    core.propose(b"3", outcomes.append)
    assert [type(outcome) for outcome in outcomes] == [QueueFull]
    assert core.withdraw(first)
    core.propose(b"x" * 1025, outcomes.append)
    assert type(outcomes[-1]) is NotApplied
    group.step(5)
    assert not core.withdraw(first)
    assert group.machines[leader].commands == [b"2"]


def test_receivers_of_outcomes_may_raise() -> None:
    """V6: the command is applied once all the same."""
    group = CoreGroup()
    leader = group.leader()

    def broken(_outcome: object) -> None:
        raise RuntimeError("on purpose")

    group.cores[leader].propose(b"x", broken)
    group.cores[leader].barrier(broken)
    group.step(20)
    assert all(machine.commands == [b"x"] for machine in group.machines.values())


def test_a_bad_message_changes_nothing() -> None:
    group = CoreGroup()
    leader = group.leader()
    before = group.cores[leader].inspect()
    with pytest.raises(BadMessage):
        group.cores[leader].receive(others(group, leader)[0], b"garbage")
    assert group.cores[leader].failed is None
    assert group.cores[leader].inspect() == before


def test_acknowledgements_of_what_does_not_exist_are_ignored() -> None:
    group = CoreGroup()
    leader = group.leader()
    group.step(10)
    term = group.cores[leader].leadership.term
    lie = codec.Acknowledge(10**6, term, 10**6, reset=False, success=True)
    for other in others(group, leader):
        group.split(leader, other)
    for other in others(group, leader):
        group.cores[leader].receive(other, codec.encode(lie))
    proposal = group.propose(leader, b"x")
    group.step(2)
    assert proposal == []


def test_an_acknowledgement_of_an_earlier_term_does_not_count() -> None:
    """V3."""
    group = CoreGroup()
    leader = group.leader()
    group.step(10)
    core = group.cores[leader]
    for other in others(group, leader):
        group.split(leader, other)
    proposal = group.propose(leader, b"x")
    core.tick()
    old = codec.Acknowledge(
        10**6, core.leadership.term - 1 or 1, core.journal.last_index + 1, reset=False, success=True
    )
    new = codec.Acknowledge(10**6, core.leadership.term, core.journal.last_index + 1, reset=False, success=True)
    if old.term < core.leadership.term:
        core.receive(others(group, leader)[0], codec.encode(old))
        core.tick()
        assert proposal == []
    core.receive(others(group, leader)[0], codec.encode(new))
    core.tick()
    assert isinstance(proposal[0], Applied)


def test_two_votes_of_one_replica_count_once() -> None:
    group = CoreGroup(("a", "b", "c", "d", "e"))
    for one in group.ids:
        for other in group.ids:
            if one < other:
                group.split(one, other)
    candidate = group.cores["a"]
    for other in ("b", "c", "d", "e"):
        candidate.connected(other)
    group.now += 10
    candidate.tick()
    for other in ("b", "c"):
        candidate.receive(other, codec.encode(codec.PreVote(1, 0, granted=True)))
    candidate.tick()
    assert candidate.inspect().role == "candidate"
    for _ in range(3):
        candidate.receive("b", codec.encode(codec.Vote(1)))
    assert candidate.inspect().role == "candidate"
    candidate.receive("c", codec.encode(codec.Vote(1)))
    assert candidate.inspect().role == "leader"


def test_a_leader_that_contradicts_what_is_committed_stops_the_replica() -> None:
    group = CoreGroup()
    leader = group.leader()
    group.propose(leader, b"x")
    group.step(20)
    follower = others(group, leader)[0]
    index = group.cores[follower].commit_index
    term = group.cores[follower].leadership.term + 1
    lie = codec.Append(1, term, index, index - 1, 1, [(b"\x00other", index, term)])
    with pytest.raises(EngineFailed, match="lost what it had acknowledged"):
        group.cores[follower].receive(leader, codec.encode(lie))
    assert group.machines[follower].commands == [b"x"]


def test_a_snapshot_that_cannot_be_restored_stops_the_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    group = CoreGroup(settings=SMALL)
    leader = group.leader()
    lagging = others(group, leader)[0]
    group.kill(lagging)
    for number in range(60):
        group.propose(leader, b"%d" % number)
        group.step(2)
    core = group.start(lagging)

    def refuse(_machine: ListMachine, _snapshot: bytes) -> None:
        raise ValueError("a feature level from the future")

    monkeypatch.setattr(ListMachine, "restore", refuse)
    with pytest.raises(EngineFailed, match="a feature level from the future"):
        group.step(50)
    assert core.failed is not None
    assert isinstance(group.propose(lagging, b"x")[0], NotApplied)


FAULTS: list[tuple[str, str, int]] = [
    ("write", "journal", errno.ENOSPC),
    ("write", "journal", errno.EIO),
    ("sync", "journal", errno.EIO),
    ("create", "journal.tmp", errno.ENOSPC),
    ("write", "journal.tmp", errno.ENOSPC),
    ("sync", "journal.tmp", errno.EIO),
    ("rename", "journal", errno.EIO),
    ("create", "snapshot", errno.ENOSPC),
    ("write", "snapshot", errno.ENOSPC),
    ("sync", "snapshot", errno.EIO),
    ("rename", "snapshot", errno.EIO),
    ("sync_directory", "", errno.EIO),
]


@pytest.mark.parametrize(("operation", "prefix", "number"), FAULTS)
@pytest.mark.parametrize("victim_leads", [True, False], ids=["leader", "follower"])
def test_a_disk_that_fails_stops_the_replica_and_loses_nothing(
    operation: str, prefix: str, number: int, victim_leads: bool
) -> None:
    armed: set[str] = set()

    def wrap(replica: str, disk: Disk) -> Disk:
        def fail(step: str, name: str) -> int | None:
            matches = step == operation and (name == prefix or (prefix == "snapshot" and name.startswith(prefix)))
            return number if replica in armed and matches else None

        return FailingDisk(disk, fail)

    group = CoreGroup(settings=SMALL, wrap=wrap)
    leader = group.leader()
    victim = leader if victim_leads else others(group, leader)[0]
    armed.add(victim)
    acknowledged: list[bytes] = []
    unknown: list[bytes] = []
    failed = _load(group, victim, acknowledged, unknown)
    assert "the disk failed" in str(failed)
    with pytest.raises(EngineFailed):
        group.cores[victim].tick()
    group.kill(victim)
    armed.clear()
    group.leader()
    group.start(victim)
    group.step(300)
    commands = group.machines[victim].commands
    assert all(machine.entries == group.machines[victim].entries for machine in group.machines.values())
    assert all(commands.count(command) == 1 for command in acknowledged)
    assert set(commands) <= {*acknowledged, *unknown}


def _load(group: CoreGroup, victim: str, acknowledged: list[bytes], unknown: list[bytes]) -> EngineFailed:
    """Propose until the victim fails."""
    for number in range(200):
        leader = next((name for name, core in group.cores.items() if core.leadership.is_local), None)
        if leader is None:
            group.step()
            continue
        command = b"%d" % number
        outcomes: list[object] = []
        group.cores[leader].propose(command, outcomes.append)
        failure: EngineFailed | None = None
        try:
            group.step(2)
        except EngineFailed as error:
            failure = error
        (acknowledged if outcomes and isinstance(outcomes[0], Applied) else unknown).append(command)
        if failure is not None:
            assert group.cores[victim].failed is failure
            return failure
    raise AssertionError("the disk never failed")


def test_an_error_while_reading_at_start_is_one_line() -> None:
    def wrap(_replica: str, disk: Disk) -> Disk:
        return FailingDisk(disk, lambda step, _name: errno.EIO if step == "read" else None)

    with pytest.raises(EngineStartError, match="cannot be read"):
        CoreGroup(wrap=wrap)


def test_a_leader_that_was_held_up_listens_before_it_steps_down() -> None:
    group = CoreGroup()
    leader = group.leader()
    group.step(10)
    term = group.cores[leader].leadership.term
    group.now += 5  # a sync took that long; answers wait meanwhile
    group.step(100)
    assert group.cores[leader].leadership.is_local
    assert group.cores[leader].leadership.term == term


def test_a_leader_that_is_held_up_again_and_again_and_hears_nobody_steps_down() -> None:
    group = CoreGroup()
    leader = group.leader()
    group.step(10)
    for other in others(group, leader):
        group.split(leader, other)
    for _ in range(5):
        group.now += 0.5
        group.cores[leader].tick()
    assert not group.cores[leader].leadership.is_local


def test_a_single_replica_leads_durably_before_anyone_hears_of_it() -> None:
    """Killed right after its election, it does not lead in the same term again."""
    group = CoreGroup(("a",))
    group.cores["a"].tick()
    assert group.cores["a"].leadership == Leadership("a", 1, is_local=True)
    first = group.cores["a"].inspect()
    group.kill("a")
    group.start("a")
    assert group.cores["a"].inspect().log == first.log
    group.cores["a"].tick()
    assert group.cores["a"].leadership.term == 2
