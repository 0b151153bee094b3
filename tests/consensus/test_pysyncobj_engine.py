"""The embedded engine as a whole, beyond the conformance suite: TLS, forming, failing, starting."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from attrs import evolve

from callboard.consensus.interface import EngineStartError, NotApplied, OutcomeUnknown, Peer
from callboard.consensus.pysyncobj_engine import raft_library
from callboard.consensus.pysyncobj_engine.disk import Disk
from callboard.consensus.pysyncobj_engine.engine import PysyncobjEngine
from callboard.consensus.pysyncobj_engine.journal import JOURNAL_FILE
from callboard.consensus.pysyncobj_engine.options import CoreSettings, PysyncobjOptions, TlsFiles
from tests.certificates import Authority
from tests.consensus.conformance import TIMEOUT_MS, eventually, outcome, settled
from tests.consensus.machine import ListMachine
from tests.consensus.memory_disk import FailingDisk
from tests.consensus.pysyncobj_cluster import PysyncobjCluster


class TlsCluster(PysyncobjCluster):
    """Every link with mutual TLS."""

    authority = Authority()

    def options(self, replica_id: str) -> PysyncobjOptions:
        """With a certificate for the replica's id."""
        folder = self.directory / f"{replica_id}-tls"
        folder.mkdir(exist_ok=True)
        return evolve(super().options(replica_id), tls=TlsFiles(*self.authority.write(folder, replica_id)))


class NarrowCluster(PysyncobjCluster):
    """Little may wait on a link."""

    def options(self, replica_id: str) -> PysyncobjOptions:
        """64 KiB, and two batches above it at the worst."""
        settings = evolve(self.settings, batch_bytes=16 * 1024)
        return evolve(super().options(replica_id), link_buffer_bytes=64 * 1024, silence_ms=30_000, settings=settings)


class FragileCluster(PysyncobjCluster):
    """Replicas in `broken` cannot sync their journal."""

    broken: frozenset[str] = frozenset()

    def wrap_disk(self, replica_id: str, disk: Disk) -> Disk:
        """Fail on demand."""

        def fail(step: str, name: str) -> int | None:
            return errno.EIO if replica_id in self.broken and (step, name) == ("sync", JOURNAL_FILE) else None

        return FailingDisk(disk, fail)


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[PysyncobjCluster]:
    """Three replicas that are not started yet."""
    cluster = PysyncobjCluster(tmp_path, ["r1", "r2", "r3"])
    await cluster.open()
    yield cluster
    await cluster.close()


async def test_a_group_with_tls_works_and_survives_its_leader(tmp_path: Path) -> None:
    cluster = TlsCluster(tmp_path, ["r1", "r2", "r3"])
    await cluster.open()
    try:
        await cluster.start_all()
        await cluster.append(b"one")
        leader = await cluster.leader()
        await cluster.kill(leader)
        await cluster.append(b"two")
        await cluster.start(leader)
        assert list(dict.fromkeys(await settled(cluster))) == [b"one", b"two"]
    finally:
        await cluster.close()


async def test_a_new_group_waits_for_all_and_an_old_one_for_a_majority(plain: PysyncobjCluster) -> None:
    await plain.start("r1")
    await plain.start("r2")
    await eventually(
        lambda: dict(plain.engine("r1").status().details).get("never_met") == "r3", "r1 has met r2 and misses r3"
    )
    with pytest.raises(NotApplied, match="has not met yet"):
        await plain.engines["r1"].propose(b"x", timeout_ms=TIMEOUT_MS)
    await plain.start("r3")
    await plain.append(b"x")
    for name in plain.replica_ids:
        await plain.stop(name)
    await plain.start("r1")
    await plain.start("r3")
    await plain.append(b"y")
    assert await settled(plain) == [b"x", b"y"]


async def test_a_failing_disk_stops_the_engine_and_is_reported(tmp_path: Path) -> None:
    cluster = FragileCluster(tmp_path, ["r1", "r2", "r3"])
    await cluster.open()
    try:
        await cluster.start_all()
        victim = await cluster.leader()
        engine = cluster.engine(victim)
        failed = asyncio.ensure_future(engine.wait_failed())
        await cluster.append(b"before")
        assert not failed.done()
        cluster.broken = frozenset({victim})
        assert isinstance(await outcome(engine.propose(b"lost", timeout_ms=TIMEOUT_MS)), OutcomeUnknown)
        assert "the disk failed" in str(await failed)
        assert not engine.leadership().is_local
        with pytest.raises(NotApplied):
            await engine.propose(b"later", timeout_ms=TIMEOUT_MS)
        del cluster.engines[victim]
        await engine.stop()
        await cluster.append(b"without it")
        cluster.broken = frozenset()
        await cluster.start(victim)
        commands = await settled(cluster)
        assert (commands[0], commands[-1]) == (b"before", b"without it")
        assert commands.count(b"lost") <= 1
    finally:
        await cluster.close()


async def test_a_follower_that_reads_nothing_costs_a_bounded_buffer_and_catches_up(tmp_path: Path) -> None:
    cluster = NarrowCluster(tmp_path, ["r1", "r2", "r3"])
    await cluster.open()
    try:
        await cluster.start_all()
        leader = await cluster.leader()
        slow = next(name for name in cluster.replica_ids if name != leader)
        await cluster.isolate(slow)
        links = cluster.engine(leader)._links
        assert links is not None
        for number in range(200):
            await cluster.append(b"%d" % number + b"x" * 4000, [name for name in cluster.replica_ids if name != slow])
            link = links._links.get(slow)
            assert link is None or link.writer.transport.get_write_buffer_size() < 300_000
        await cluster.heal()
        assert len(set(await settled(cluster))) == 200
    finally:
        await cluster.close()


async def test_many_proposals_share_few_syncs(plain: PysyncobjCluster) -> None:
    await plain.start_all()
    engine = plain.engine(await plain.leader())
    before = int(dict(engine.status().details)["journal_syncs"])
    for _ in range(5):
        await asyncio.gather(*(engine.propose(b"x", timeout_ms=TIMEOUT_MS) for _ in range(60)))
    assert int(dict(engine.status().details)["journal_syncs"]) - before <= 60


def options(tmp_path: Path, *peer_ids: str) -> PysyncobjOptions:
    return PysyncobjOptions(
        data_dir=tmp_path / "r1",
        replica_id="r1",
        peers=tuple(Peer(peer_id, "127.0.0.1", 1) for peer_id in peer_ids),
    )


@pytest.mark.parametrize(
    ("peer_ids", "reason"),
    [
        (("r2",), "a group has 1, 3 or 5 replicas, not 2"),
        (("r2", "r3", "r4"), "not 4"),
        (("r2", "r1"), "occurs twice"),
        (("r2", "r 3"), "'r 3' must be"),
        (("r2", ""), "'' must be"),
    ],
)
async def test_impossible_groups_are_refused(tmp_path: Path, peer_ids: tuple[str, ...], reason: str) -> None:
    with pytest.raises(EngineStartError, match=reason):
        await PysyncobjEngine(options(tmp_path, *peer_ids), ListMachine()).start()
    assert not (tmp_path / "r1").exists()


async def test_a_wrong_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_library, "VERSION", "0.4.0")
    with pytest.raises(EngineStartError, match=r"0\.4\.0 is installed"):
        await PysyncobjEngine(options(tmp_path), ListMachine()).start()


async def test_damage_is_named_with_its_directory_and_frees_the_lock(tmp_path: Path) -> None:
    engine = PysyncobjEngine(options(tmp_path), ListMachine())
    await engine.start()
    await engine.stop()
    journal = tmp_path / "r1" / JOURNAL_FILE
    good = journal.read_bytes()
    journal.write_bytes(good[:30] + b"!" + good[31:])
    for _ in range(2):
        with pytest.raises(EngineStartError, match=r"the journal is damaged at byte 0: .*/r1\]$"):
            await PysyncobjEngine(options(tmp_path), ListMachine()).start()
    journal.unlink()
    with pytest.raises(EngineStartError, match="the journal is missing"):
        await PysyncobjEngine(options(tmp_path), ListMachine()).start()
    journal.write_bytes(good)
    engine = PysyncobjEngine(options(tmp_path), ListMachine())
    await engine.start()
    await engine.stop()


async def test_an_engine_whose_task_dies_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PysyncobjEngine(options(tmp_path), ListMachine())
    await engine.start()
    failed = asyncio.ensure_future(engine.wait_failed())

    def broken() -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(engine, "_form", broken)
    assert "on purpose" in str(await failed)
    with pytest.raises(NotApplied):
        await engine.propose(b"x", timeout_ms=TIMEOUT_MS)
    await engine.stop()


async def test_an_engine_starts_only_once(tmp_path: Path) -> None:
    engine = PysyncobjEngine(options(tmp_path), ListMachine())
    await engine.start()
    with pytest.raises(EngineStartError, match="started before"):
        await engine.start()
    await engine.stop()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"election_min_ms": 300, "heartbeat_ms": 100}, "election_min_ms=300 must exceed 3 x heartbeat_ms=100"),
        ({"election_min_ms": 3000, "election_max_ms": 3000}, "election_max_ms=3000"),
        ({"fallback_ms": 150}, "fallback_ms=150"),
        ({"keep_entries": 50, "snapshot_entries": 50}, "keep_entries=50"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, int], reason: str) -> None:
    with pytest.raises(EngineStartError, match=reason):
        CoreSettings(**change)
