"""Filling an empty cluster from a backup, through the log: the same on every engine.

The steps are ordinary commands, so an interrupted restore of the same file can simply be repeated.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from attrs import frozen

from callboard.consensus.interface import ProposalError
from callboard.core.commands import (
    BeginRestore,
    Command,
    CommitBatch,
    CommitNativeBatch,
    CreateNamespace,
    CreateNativeNamespace,
)
from callboard.core.membership import host_record_bytes
from callboard.core.records import Answer, HostRecord, Namespace, ReplicatedState
from callboard.core.slot_records import NativeNamespace
from callboard.core.snapshot import decode_state, digest
from callboard.core.versions import MAX_GENERATION
from callboard.server.office import Office

BATCH_BYTES_MAX = 32 * 1024
OFFICE_TIMEOUT_S = 10.0


class RestoreRefusedError(Exception):
    """The cluster or the file cannot be restored; the message is one line."""


@frozen
class Restored:
    """What a restore put in place."""

    generation: int
    namespaces: int
    members: int


class RestorableReplica(Protocol):
    """What a restore needs of the replica."""

    @property
    def state(self) -> ReplicatedState:
        """The replicated state as applied here."""

    async def wait_in_office(self) -> Office:
        """Return the office as soon as there is one. Cancel-safe."""

    def renew_office(self, reason: str) -> None:
        """Begin a new epoch."""


async def restore(replica: RestorableReplica, content: bytes, at_least_generation: int) -> Restored:
    """Restore `content`, as `Backup` wrote it, into this empty cluster. Leader only.

    The new generation lies above the backup's and this cluster's, is at least `at_least_generation`, and at least the
    time in seconds: so restoring the same file twice gives two generations.

    Raises:
        RestoreRefusedError: damaged file, a cluster that is not empty, or no leadership.
        ProposalError: interrupted; repeat the restore of the same file.
    """
    try:
        backup = decode_state(content)
    except ValueError as error:
        raise RestoreRefusedError(f"the backup cannot be read: {error}") from None
    generation = max(replica.state.generation + 1, backup.generation + 1, at_least_generation, int(time.time()))
    if generation > MAX_GENERATION:
        raise RestoreRefusedError(f"generation {generation} is above the largest, {MAX_GENERATION}")
    source = digest(backup)
    if replica.state.restored_from == source:  # an interrupted restore goes on in its generation
        generation = replica.state.generation
    begin = BeginRestore(source, generation, backup.epoch, backup.next_incarnation)
    answer = await _propose(replica, begin)
    await _wait_for_office(replica)  # the restored epoch has ended the old office
    for name, namespace in backup.namespaces.items():
        await _propose(replica, CreateNamespace(name, namespace.policy))
        for batch in _batches(namespace):
            office = await _wait_for_office(replica)
            await _propose(replica, CommitBatch(office.epoch, name, batch))
    for name, native in backup.native.items():
        await _restore_native(replica, name, native)
    replica.renew_office("a backup was restored")
    await _wait_for_office(replica)
    return Restored(answer.number, len(backup.namespaces) + len(backup.native), _member_count(backup))


async def _restore_native(replica: RestorableReplica, name: str, native: NativeNamespace) -> None:
    """Policy, times and operators' marks. Native hosts come back by themselves, as new incarnations; nothing is
    granted before every lease of the former life has surely run out (a namespace of a later generation sees to it)."""
    create = CreateNativeNamespace(name, native.policy, native.slot_bits, native.settings)
    await _propose(replica, create)
    marks = tuple(native.marks.values())
    if marks:
        office = await _wait_for_office(replica)
        await _propose(replica, CommitNativeBatch(office.epoch, name, marks=marks))


def _member_count(state: ReplicatedState) -> int:
    return sum(len(namespace.members) for namespace in state.namespaces.values())


def _batches(namespace: Namespace) -> list[tuple[HostRecord, ...]]:
    """The members in pieces that fit one log entry each."""
    batches: list[tuple[HostRecord, ...]] = []
    batch: list[HostRecord] = []
    size = 0
    for member in namespace.members.values():
        needed = host_record_bytes(member.host)
        if batch and size + needed > BATCH_BYTES_MAX:
            batches.append(tuple(batch))
            batch, size = [], 0
        batch.append(member.host)
        size += needed
    return [*batches, tuple(batch)] if batch else batches


async def _propose(replica: RestorableReplica, command: Command) -> Answer:
    office = await _wait_for_office(replica)
    answer = await office.propose(command)
    if not answer.succeeded:
        raise RestoreRefusedError(answer.detail)
    return answer


async def _wait_for_office(replica: RestorableReplica) -> Office:
    try:
        async with asyncio.timeout(OFFICE_TIMEOUT_S):
            return await replica.wait_in_office()
    except TimeoutError:
        raise ProposalError(f"this replica was not in office for {OFFICE_TIMEOUT_S:g} s") from None
