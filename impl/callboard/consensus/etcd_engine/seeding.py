"""Restoring a backup into an etcd prefix that nobody uses: the `Seeder` of the etcd engine."""

from __future__ import annotations

import uuid

from callboard.consensus.etcd_engine.client import EtcdClient, compare_create, delete, put
from callboard.consensus.etcd_engine.errors import EtcdError
from callboard.consensus.etcd_engine.layout import (
    FORMAT,
    CorruptRecord,
    Head,
    Identity,
    Keys,
    Manifest,
    checksum,
    decode,
    encode,
    end_of,
)
from callboard.consensus.etcd_engine.options import EtcdOptions
from callboard.consensus.interface import EngineStartError

CALL_TIMEOUT_MS = 5000
SEED_NAME = "seed"


class EtcdSeeder:
    """Makes a state the beginning of a new cluster under the options' prefix. Not for managed mode: start the
    replicas' etcd members first, and seed through their client addresses."""

    def __init__(self, options: EtcdOptions) -> None:
        if not options.endpoints:
            raise ValueError("endpoints: seeding needs the addresses of a running etcd")
        self._options = options
        self._keys = Keys(options.prefix)

    async def seed(self, index: int, state: bytes) -> str:
        """See `Seeder.seed`. If it breaks off, nothing exists yet and it may be repeated."""
        options = self._options
        client = EtcdClient(options.endpoints, tls=options.tls, user=options.user, password=options.password)
        try:
            await client.open()
            return await self._seed(client, index, state)
        except (EtcdError, CorruptRecord, OSError) as error:
            raise EngineStartError(f"cannot seed etcd prefix {options.prefix}: {error}") from None
        finally:
            await client.close()

    async def _seed(self, client: EtcdClient, index: int, state: bytes) -> str:
        keys, timeout_ms = self._keys, CALL_TIMEOUT_MS
        await self._clear_leftovers(client)
        size = self._options.snapshot_chunk_bytes
        parts = [state[offset : offset + size] for offset in range(0, len(state), size)]
        for number, part in enumerate(parts):
            await client.txn(
                [compare_create(keys.identity, 0)], [put(keys.chunk(SEED_NAME, number), part)], timeout_ms=timeout_ms
            )
        identity = Identity(format=FORMAT, cluster_id=self._options.cluster_id or str(uuid.uuid4()))
        manifest = Manifest(index, SEED_NAME, chunks=len(parts), size=len(state), sha256=checksum(state))
        await client.txn(
            [compare_create(key, 0) for key in (keys.identity, keys.head, keys.manifest)],
            [
                put(keys.identity, encode(identity)),
                put(keys.head, encode(Head(index=index, token=b""))),
                put(keys.manifest, encode(manifest)),
            ],
            timeout_ms=timeout_ms,
        )
        # Read back instead of asking whether it succeeded: the transaction may have been sent more than once.
        found = await client.range(keys.manifest, timeout_ms=timeout_ms)
        present = await client.range(keys.identity, timeout_ms=timeout_ms)
        if not (found.kvs and present.kvs) or decode(Identity, keys.identity, present.kvs[0].value) != identity:
            raise EngineStartError(f"somebody else founded a cluster under etcd prefix {keys.prefix} meanwhile")
        return identity.cluster_id

    async def _clear_leftovers(self, client: EtcdClient) -> None:
        """Refuse a prefix in use. Parts of an earlier attempt that broke off are no use and are deleted."""
        keys, chunks = self._keys, self._keys.chunks
        await client.txn(
            [compare_create(keys.identity, 0)], [delete(chunks, end_of(chunks))], timeout_ms=CALL_TIMEOUT_MS
        )
        start = keys.everything
        present = await client.range(start, end_of(start), limit=1, timeout_ms=CALL_TIMEOUT_MS)
        if present.kvs:
            name = present.kvs[0].key.decode(errors="replace")
            raise EngineStartError(f"etcd prefix {keys.prefix} is in use (it holds {name}): choose an unused prefix")
