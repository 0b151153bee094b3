"""Backups: written by one engine, restored into another, always above every number that hosts may have seen."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from attrs import evolve
from click.testing import CliRunner, Result

from callboard.cli.main import main
from callboard.core.commands import CommitBatch, CommitNativeBatch, CreateNamespace, CreateNativeNamespace
from callboard.core.records import HostRecord
from callboard.core.slot_records import HandoffSettings, HostMark, NativeHostRecord
from callboard.core.snapshot import encode_state
from callboard.core.versions import Policy, Version
from callboard.server.replica import Replica
from callboard.server.restore import RestoreRefusedError, restore
from callboard.server.settings import EngineName, EngineSettings, ServerSettings
from tests.server.support import memory_settings, report_of, serving, sidecar

HOSTS = tuple(HostRecord(f"10.0.{n // 250}.{n % 250}:50002", "shop", ("Cart", "Lamp")) for n in range(600))


async def fill(replica: Replica) -> None:
    """Two namespaces; one with more members than one log entry takes."""
    assert replica.office is not None
    await replica.office.propose(CreateNamespace("default", Policy.BARRIER))
    await replica.office.propose(CreateNamespace("empty", Policy.BARRIER))
    for start in range(0, len(HOSTS), 200):
        await replica.office.propose(CommitBatch(replica.office.epoch, "default", HOSTS[start : start + 200]))


def on_disk(folder: Path) -> ServerSettings:
    """A single durable replica."""
    engine = EngineSettings(name=EngineName.PYSYNCOBJ, data_dir=folder, listen_port=0)
    return evolve(memory_settings(), engine=engine)


async def test_a_backup_moves_from_engine_to_engine_into_a_new_generation(tmp_path: Path) -> None:
    async with serving(on_disk(tmp_path / "one")) as source:
        await fill(source)
        before = source.state
        content = encode_state(before)
    async with serving(memory_settings(member_grace_ms=60_000)) as target:
        restored = await restore(target, content, 0)
        assert (restored.namespaces, restored.members) == (2, 600)
        namespace = target.state.namespaces["default"]
        assert {member.host for member in namespace.members.values()} == set(HOSTS)
        assert namespace.version > before.namespaces["default"].version
        assert namespace.version.generation >= int(time.time()) - 60
        assert target.state.epoch > before.epoch
        numbers = [member.incarnation for member in namespace.members.values()]
        assert min(numbers) >= before.next_incarnation, "an incarnation was issued twice"
        report = report_of(HOSTS[0].name, *HOSTS[0].actor_types)
        async with sidecar(target.grpc_port, report) as hand:
            pushed = await hand.complete_round(report)
            assert pushed.version == namespace.version.wire, "an unchanged host caused a round after the restore"


async def test_the_same_restore_can_be_repeated_and_another_is_refused(tmp_path: Path) -> None:
    async with serving() as source:
        await fill(source)
        content = encode_state(source.state)
    async with serving(on_disk(tmp_path / "two")) as target:
        first = await restore(target, content, 0)
        again = await restore(target, content, 0)
        assert again == first
        other = encode_state(evolve(source.state, next_session=99))
        with pytest.raises(
            RestoreRefusedError, match="only an empty cluster can be restored; this one has 2 namespaces"
        ):
            await restore(target, other, 0)


async def test_the_generation_is_at_least_what_the_operator_says() -> None:
    async with serving() as source:
        content = encode_state(source.state)
    async with serving() as target:
        wanted = int(time.time()) + 1000
        assert (await restore(target, content, wanted)).generation == wanted
        with pytest.raises(RestoreRefusedError, match="above the largest"):
            await restore(target, content, 1 << 32)


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
async def test_a_damaged_file_is_refused_and_changes_nothing(damage: bytes | None) -> None:
    async with serving() as target:
        content = damage if damage is not None else encode_state(target.state)[:-1]
        before = target.state
        with pytest.raises(RestoreRefusedError, match="the backup cannot be read"):
            await restore(target, content, 0)
        assert target.state == before


async def test_backup_and_restore_by_command(tmp_path: Path) -> None:
    file = tmp_path / "state.backup"
    async with serving(on_disk(tmp_path / "three")) as source:
        await fill(source)
        address = f"--address=127.0.0.1:{source.grpc_port}"
        written = await run("backup", str(file), address, "-o", "json")
        assert written.exit_code == 0, written.output
        assert last_json(written)["members"] == 600
        refused = await run("restore", str(file), address)
        assert refused.exit_code == 1
        assert "only an empty cluster can be restored" in refused.output
    async with serving() as target:
        address = f"--address=127.0.0.1:{target.grpc_port}"
        result = await run("restore", str(file), address, "-o", "json")
        assert result.exit_code == 0, result.output
        assert last_json(result)["members"] == 600
        assert Version(last_json(result)["generation"], 0) > Version(0, 10)
    (tmp_path / "bad").write_bytes(file.read_bytes()[:-5])
    damaged = await run("restore", str(tmp_path / "bad"))
    assert damaged.exit_code == 2
    assert "damaged" in damaged.output


def last_json(result: Result) -> dict[str, int]:
    """The command's answer; the server of this process logs to the same output."""
    answer: dict[str, int] = json.loads(result.stdout.splitlines()[-1])
    return answer


async def run(*arguments: str) -> Result:
    """A command in a thread of its own, while the server of the test goes on."""
    return await asyncio.to_thread(CliRunner().invoke, main, list(arguments))


async def test_native_namespaces_are_restored_and_wait_for_the_leases_of_the_former_life(tmp_path: Path) -> None:
    settings = HandoffSettings(lease_ms=4000, failure_timeout_ms=5000)
    async with serving(on_disk(tmp_path / "one")) as source:
        office = await source.wait_in_office()
        await office.propose(CreateNativeNamespace("carts", Policy.EXCLUSIVE, 5, settings))
        host = NativeHostRecord("h1", "h1:7301", ("Cart",), "p")
        marks = (HostMark("h2", cordoned=True),)
        await office.propose(CommitNativeBatch(office.epoch, "carts", (host,), marks=marks))
        before = source.state.native["carts"]
        content = encode_state(source.state)
    async with serving(on_disk(tmp_path / "two")) as target:
        restored = await restore(target, content, 0)
        assert (restored.namespaces, restored.members) == (1, 0), "native hosts come back by themselves"
        namespace = target.state.native["carts"]
        assert (namespace.settings, namespace.slot_bits, namespace.marks) == (settings, 5, before.marks)
        office = await target.wait_in_office()
        await office.propose(CommitNativeBatch(office.epoch, "carts", (host,)))
        namespace = target.state.native["carts"]
        assert namespace.version > before.version
        assert min(namespace.rights["Cart"].fences) > max(before.rights["Cart"].fences)
        [former_life] = namespace.tombstones
        assert set(namespace.rights["Cart"].pending.values()) == {(former_life,)}, "a slot may be granted at once"
