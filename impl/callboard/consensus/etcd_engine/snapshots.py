"""Snapshots in etcd: in parts that fit its request limit, complete only when the manifest names them."""

from __future__ import annotations

import logging

from attrs import frozen

from callboard.consensus.etcd_engine.client import (
    EtcdClient,
    compare_create,
    compare_modified,
    delete,
    put,
)
from callboard.consensus.etcd_engine.errors import EtcdRefused
from callboard.consensus.etcd_engine.layout import CorruptRecord, Keys, Manifest, checksum, decode, encode, end_of
from callboard.protos.generated import etcd_rpc_pb2 as rpc

logger = logging.getLogger(__name__)

READ_ATTEMPTS = 5
DELETE_POSITIONS = 2000
"""Log positions per deleting transaction, so that none holds etcd up for long."""


@frozen
class Snapshot:
    """A manifest and the bytes that belong to it. `revision` is where the manifest was written."""

    manifest: Manifest
    content: bytes
    revision: int


async def read_manifest(client: EtcdClient, keys: Keys, *, timeout_ms: int) -> tuple[Manifest, int] | None:
    """The manifest of the newest complete snapshot and the revision of its writing, or None.

    Raises:
        EtcdError: etcd cannot be read.
        CorruptRecord: it is no manifest.
    """
    answer = await client.range(keys.manifest, timeout_ms=timeout_ms)
    if not answer.kvs:
        return None
    return decode(Manifest, keys.manifest, answer.kvs[0].value), answer.kvs[0].mod_revision


async def read_snapshot(client: EtcdClient, keys: Keys, *, newer_than: int, timeout_ms: int) -> Snapshot | None:
    """The newest complete snapshot if its position is above `newer_than`, else None.

    Raises:
        EtcdError: etcd cannot be read.
        CorruptRecord: parts are missing or changed.
    """
    for _ in range(READ_ATTEMPTS):
        found = await read_manifest(client, keys, timeout_ms=timeout_ms)
        if found is None or found[0].index <= newer_than:
            return None
        manifest, revision = found
        parts = []
        for number in range(manifest.chunks):
            answer = await client.range(keys.chunk(manifest.name, number), timeout_ms=timeout_ms)
            parts += [kv.value for kv in answer.kvs]
        content = b"".join(parts)
        if len(content) == manifest.size and checksum(content) == manifest.sha256:
            return Snapshot(manifest, content, revision)
        # A newer snapshot replaced it while we read: look again. If not, it is damaged.
    raise CorruptRecord(f"the snapshot {manifest.name} under {keys.prefix} is incomplete or damaged")


@frozen
class Fence:
    """A leader's proof: the key of its candidacy and the revision at which that key came to exist."""

    key: bytes
    term: int

    def compare(self) -> rpc.Compare:
        """True in a transaction as long as this leader leads."""
        return compare_create(self.key, self.term)


class SnapshotWriter:
    """Writes snapshots for a leader, every transaction fenced, and clears away what they replace."""

    def __init__(self, client: EtcdClient, keys: Keys, *, chunk_bytes: int, compact: bool, timeout_ms: int) -> None:
        self._client = client
        self._keys = keys
        self._chunk_bytes = chunk_bytes
        self._compact = compact
        self._timeout_ms = timeout_ms

    async def write(self, fence: Fence, index: int, content: bytes) -> bool:
        """Make `content` the snapshot at position `index`. False if the fence failed: somebody else leads.

        Raises:
            EtcdError: etcd cannot be reached or refuses; the older snapshot is still in force.
        """
        previous = await read_manifest(self._client, self._keys, timeout_ms=self._timeout_ms)
        if previous is not None and previous[0].index >= index:
            return True
        name = f"{index:020d}-{fence.term:x}"
        size = self._chunk_bytes
        parts = [content[offset : offset + size] for offset in range(0, len(content), size)]
        for number, part in enumerate(parts):
            if not await self._fenced(fence, put(self._keys.chunk(name, number), part)):
                return False
        manifest = Manifest(index=index, name=name, chunks=len(parts), size=len(content), sha256=checksum(content))
        unchanged = compare_modified(self._keys.manifest, previous[1] if previous else 0)
        if not await self._fenced(fence, put(self._keys.manifest, encode(manifest)), unchanged):
            # Either not ours to write, or our own first attempt succeeded and its answer was lost.
            present = await read_manifest(self._client, self._keys, timeout_ms=self._timeout_ms)
            if present is None or present[0] != manifest:
                return False
        return await self._clear(fence, manifest, previous)

    async def _clear(self, fence: Fence, manifest: Manifest, previous: tuple[Manifest, int] | None) -> bool:
        """Delete log entries and parts of snapshots that nobody needs any more, then compact.

        History is compacted up to the previous snapshot only: a follower that lags less than one snapshot
        keeps its watch.
        """
        first = previous[0].index if previous else 0
        for start in range(first, manifest.index, DELETE_POSITIONS):
            stop = min(start + DELETE_POSITIONS, manifest.index)
            if not await self._fenced(fence, delete(self._keys.entry(0), self._keys.entry(stop + 1))):
                return False
        kept = self._keys.snapshot_chunks(manifest.name)
        older = delete(self._keys.chunks, kept)
        younger = delete(end_of(kept), end_of(self._keys.chunks))
        if not (await self._fenced(fence, older) and await self._fenced(fence, younger)):
            return False
        if self._compact and previous is not None:
            try:
                await self._client.compact(previous[1], timeout_ms=self._timeout_ms)
            except EtcdRefused as error:
                logger.warning("etcd refuses to compact its history; let it compact by itself: %s", error)
        return True

    async def _fenced(self, fence: Fence, operation: rpc.RequestOp, *conditions: rpc.Compare) -> bool:
        answer = await self._client.txn([fence.compare(), *conditions], [operation], timeout_ms=self._timeout_ms)
        return answer.succeeded
