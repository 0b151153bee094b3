"""Replacing a lost directory by ticket, step by step and with real replicas."""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from callboard.consensus.interface import Applied, EngineStartError, ProposalError
from callboard.consensus.pysyncobj_engine import codec, replace
from callboard.consensus.pysyncobj_engine.core import Core, Joining
from callboard.consensus.pysyncobj_engine.identity import IDENTITY_FILE
from callboard.consensus.pysyncobj_engine.journal import JOURNAL_FILE, Journal
from callboard.consensus.pysyncobj_engine.options import CoreSettings
from callboard.consensus.pysyncobj_engine.replace import ReplaceError
from tests.consensus.conformance import eventually, retry_barrier, settled
from tests.consensus.core_group import CoreGroup
from tests.consensus.machine import ListMachine
from tests.consensus.memory_disk import MemoryDisk
from tests.consensus.pysyncobj_cluster import PysyncobjCluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[PysyncobjCluster]:
    """Three started replicas."""
    cluster = PysyncobjCluster(tmp_path, ["r1", "r2", "r3"])
    await cluster.open()
    await cluster.start_all()
    yield cluster
    await cluster.close()


def details(cluster: PysyncobjCluster, replica: str) -> dict[str, str]:
    return dict(cluster.engine(replica).status().details)


async def test_a_lost_directory_is_replaced_and_nothing_is_lost(cluster: PysyncobjCluster) -> None:
    before = [b"%d" % number for number in range(20)]
    for command in before:
        await cluster.append(command)
    lost = await cluster.leader()
    await cluster.kill(lost)
    shutil.rmtree(cluster.directory / lost)
    survivors = [name for name in cluster.replica_ids if name != lost]
    await cluster.append(b"without it")

    # An empty directory under the old id is no way back.
    await cluster.start(lost)
    highest = max(name for name in cluster.replica_ids)
    watcher = lost if lost == highest else highest
    await eventually(
        lambda: any("lost or exchanged" in text for text in details(cluster, watcher).values()), "it is refused"
    )
    assert not cluster.engines[lost].status().peers_connected
    await cluster.stop(lost)
    shutil.rmtree(cluster.directory / lost)

    ticket_line = ""
    for name in survivors:
        await cluster.stop(name)
        if not ticket_line:
            ticket_line = replace.encode_ticket(replace.make_ticket(cluster.directory / name, lost))
        assert replace.accept(cluster.directory / name, replace.decode_ticket(ticket_line))
        assert not replace.accept(cluster.directory / name, replace.decode_ticket(ticket_line))
    replace.create_directory(cluster.directory / lost, replace.decode_ticket(ticket_line))
    await cluster.start_all()
    await eventually(lambda: details(cluster, lost)["role_in_group"] == "full member", "it has become a full member")
    assert details(cluster, lost)["peer_set"] == "2"
    assert list(dict.fromkeys(await settled(cluster))) == [*before, b"without it"]

    # It counts now: with one survivor and the replacement there is a majority.
    await cluster.kill(survivors[0])
    await cluster.append(b"with it")
    assert replace.report(cluster.directory / survivors[0]).identity.peer_set == 2


async def test_a_survivor_that_did_not_accept_is_left_out(cluster: PysyncobjCluster) -> None:
    await cluster.append(b"x")
    for name in cluster.replica_ids:
        await cluster.stop(name)
    ticket = replace.make_ticket(cluster.directory / "r1", "r3")
    replace.accept(cluster.directory / "r1", ticket)
    shutil.rmtree(cluster.directory / "r3")
    replace.create_directory(cluster.directory / "r3", ticket)
    await cluster.start_all()
    await eventually(
        lambda: any("has peer set" in text for text in details(cluster, "r2").values()), "r2 is refused, or refuses"
    )
    # r1 and the replacement are two of three, but the replacement has no vote yet: nobody may lead.
    assert cluster.engine("r3").status().peers_connected == ("r1",)
    assert not any(engine.leadership().is_local for engine in cluster.engines.values())
    await cluster.stop("r2")
    assert replace.accept(cluster.directory / "r2", ticket)
    await cluster.start("r2")
    assert (await settled(cluster))[0] == b"x"
    for engine in cluster.engines.values():
        await retry_barrier(engine)


async def test_refusals_change_nothing(cluster: PysyncobjCluster) -> None:
    root = cluster.directory
    with pytest.raises(ReplaceError, match="used by another process"):
        replace.make_ticket(root / "r1", "r2")
    await cluster.leader()
    for name in cluster.replica_ids:
        await cluster.stop(name)
    with pytest.raises(ReplaceError, match="itself"):
        replace.make_ticket(root / "r1", "r1")
    with pytest.raises(ReplaceError, match="not one of"):
        replace.make_ticket(root / "r1", "r9")
    with pytest.raises(ReplaceError, match="not the data directory"):
        replace.make_ticket(root / "nowhere", "r1")
    ticket = replace.make_ticket(root / "r1", "r2")
    before = {name: (root / name / IDENTITY_FILE).read_bytes() for name in cluster.replica_ids}
    changed = msgspec.structs.replace
    for wrong, reason in (
        (changed(ticket, cluster_id="0" * 32), "for cluster"),
        (changed(ticket, peer_set=5), "leads to peer set 5"),
        (changed(ticket, directories={**ticket.directories, "r3": "0" * 32}), "other directories"),
        (changed(ticket, replica_id="r1"), "which the ticket replaces"),
    ):
        with pytest.raises(ReplaceError, match=reason):
            replace.accept(root / "r1", wrong)
    with pytest.raises(ReplaceError, match="is not empty"):
        replace.create_directory(root / "r2", ticket)
    (root / "r3" / JOURNAL_FILE).write_bytes(b"damaged")
    with pytest.raises(ReplaceError, match="damaged"):
        replace.accept(root / "r3", ticket)
    assert before == {name: (root / name / IDENTITY_FILE).read_bytes() for name in cluster.replica_ids}


def test_a_ticket_that_was_cut_or_changed_is_refused() -> None:
    ticket = replace.Ticket(1, "c" * 32, 2, "r2", {"r1": "a", "r2": "b", "r3": "c"}, 17)
    line = replace.encode_ticket(ticket)
    assert replace.decode_ticket(f"  {line}\n") == ticket
    for end in range(len(line)):
        with pytest.raises(ReplaceError):
            replace.decode_ticket(line[:end])
    with pytest.raises(ReplaceError, match="version 2"):
        replace.decode_ticket(replace.encode_ticket(msgspec.structs.replace(ticket, version=2)))


class Joiner:
    """A replacement in a test's hands."""

    def __init__(self, floor_index: int = 0) -> None:
        self.now = 0.0
        self.sent: list[tuple[str, codec.Message]] = []
        self.finished = 0
        disk = MemoryDisk()
        Journal.create(disk, "d").close()
        self.core = Core(
            "r2",
            ("r1", "r3"),
            disk=disk,
            machine=ListMachine(),
            send=self.send,
            clock=lambda: self.now,
            generator=random.Random(1),
            directory_id="d",
            joining=Joining(floor_index, self.finish),
        )
        for peer in ("r1", "r3"):
            self.core.connected(peer)

    def send(self, peer_id: str, payload: bytes) -> bool:
        self.sent.append((peer_id, codec.decode(payload)))
        return True

    def finish(self) -> None:
        self.finished += 1

    def is_member(self) -> bool:
        """Whether it may vote."""
        return not self.core.joining

    def hear(self, message: codec.Message, peer_id: str = "r1") -> list[codec.Message]:
        """What it answers, a tick included."""
        self.sent.clear()
        self.core.receive(peer_id, codec.encode(message))
        self.core.tick()
        return [answer for _, answer in self.sent]


def test_a_replacement_neither_votes_nor_stands() -> None:
    joiner = Joiner()
    assert joiner.hear(codec.RequestVote(5, 10, 4)) == []
    assert joiner.hear(codec.RequestPreVote(5, 10, 4)) == [codec.PreVote(5, 0, granted=False)]
    for _ in range(100):
        joiner.now += 1
        joiner.core.tick()
    assert all(isinstance(message, codec.PreVote) for _, message in joiner.sent)
    assert joiner.core.inspect().term == 0


def test_it_becomes_a_member_by_a_committed_entry_of_the_present_leader_and_not_before() -> None:
    joiner = Joiner(floor_index=3)
    entries = [(b"\x00a", 2, 3), (b"\x00b", 3, 3)]
    joiner.hear(codec.Append(1, 7, 1, 1, 0, entries))
    joiner.hear(codec.Append(2, 7, 3, 3, 3, []))
    assert not joiner.is_member(), "what is committed so far is of an earlier term"
    joiner.hear(codec.Append(3, 7, 3, 3, 3, [(b"\x01", 4, 7)]))
    assert not joiner.is_member(), "the entry of this term is not known to be committed"
    answers = joiner.hear(codec.Append(4, 7, 4, 4, 7, []))
    assert joiner.is_member()
    assert joiner.finished == 1
    assert isinstance(answers[0], codec.Acknowledge)
    # Its predecessor may have voted in term 7.
    assert joiner.core.inspect().voted_for == "r2"
    joiner.now += 100
    assert not any(isinstance(answer, codec.Vote) for answer in joiner.hear(codec.RequestVote(7, 9, 7), "r3"))
    assert any(isinstance(answer, codec.Vote) for answer in joiner.hear(codec.RequestVote(8, 9, 7), "r3"))


def test_it_waits_for_what_the_survivor_knew_to_be_committed() -> None:
    joiner = Joiner(floor_index=9)
    joiner.hear(codec.Append(1, 7, 2, 1, 0, [(b"\x01", 2, 7)]))
    joiner.hear(codec.Append(2, 7, 2, 2, 7, []))
    assert not joiner.is_member()


def replace_in_group(group: CoreGroup, lost: str, *, votes_at_once: bool = False) -> None:
    """The procedure: the survivors stop, accept and start again; the successor starts empty."""
    survivors = [name for name in group.cores if name != lost]
    floor = max(group.cores[name].commit_index for name in survivors)
    for name in [*group.cores]:
        group.kill(name)
    group.disks[lost] = MemoryDisk()
    for name in survivors:
        group.start(name)
    group.start(lost, None if votes_at_once else Joining(floor, lambda: None))


def committed_without(group: CoreGroup, absent: str) -> bytes:
    """One command that is acknowledged while `absent` is away."""
    group.kill(absent)
    leader = group.leader()
    outcome = group.propose(leader, b"acknowledged")
    group.step(20)
    assert isinstance(outcome[0], Applied)
    return b"acknowledged"


@pytest.mark.parametrize("votes_at_once", [False, True])
def test_the_entry_that_only_the_lost_and_one_survivor_had(votes_at_once: bool) -> None:
    """A successor that voted at once would elect the survivor that was away, and the entry would be gone."""
    group = CoreGroup()
    leader = group.leader()
    lost, away = (name for name in group.ids if name != leader)
    command = committed_without(group, away)
    group.kill(leader)
    group.kill(lost)
    group.start(away)
    group.start(leader)
    group.kill(leader)  # the only survivor that has the entry is down while the successor starts
    replace_in_group(group, lost, votes_at_once=votes_at_once)
    group.step(1000)
    elected = [name for name, core in group.cores.items() if core.leadership.is_local]
    if votes_at_once:
        assert elected, "without the rule a leader is elected that lacks the entry"
        assert command not in group.machines[elected[0]].commands
        return
    assert elected == []
    group.start(leader)
    group.leader()
    group.step(200)
    assert all(machine.commands == [command] for machine in group.machines.values())
    assert not any(core.joining for core in group.cores.values())


@pytest.mark.parametrize("seed", range(8))
def test_replacing_at_random_moments_loses_nothing(seed: int) -> None:
    generator = random.Random(seed)
    group = CoreGroup(settings=CoreSettings(snapshot_entries=15, keep_entries=2))
    outcomes: dict[bytes, list[Applied | ProposalError]] = {}

    def disturb(steps: int) -> None:
        for _ in range(steps):
            command = b"%d" % len(outcomes)
            outcomes[command] = group.propose(generator.choice(list(group.cores)), command)
            one, other = generator.sample(group.ids, 2)
            if frozenset((one, other)) in group.cut:
                group.join(one, other)
            elif generator.random() < 0.1:
                group.split(one, other)
            group.step(generator.randrange(1, 30))

    for _ in range(2):
        disturb(60)
        replace_in_group(group, generator.choice(group.ids))
        disturb(40)
        for one in group.ids:
            for other in group.ids:
                if one < other:
                    group.join(one, other)
        group.leader()
        group.step(100)
        assert not any(core.joining for core in group.cores.values())
    commands = group.machines["a"].commands
    assert all(machine.entries == group.machines["a"].entries for machine in group.machines.values())
    acknowledged = [command for command, ends in outcomes.items() if ends and isinstance(ends[0], Applied)]
    assert len(acknowledged) > 20
    assert all(commands.count(command) == 1 for command in acknowledged)
    assert all(len(names) == 1 for names in group.leaders.values())


def test_a_directory_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ticket = replace.Ticket(1, "c" * 32, 2, "r2", {"r1": "a", "r2": "b", "r3": "c"}, 17)
    with pytest.raises(EngineStartError, match="cannot be created"):
        replace.create_directory(tmp_path / "file" / "r2", ticket)
