"""Whether a replica's directory, its settings and the keys in etcd belong together; founding a cluster."""

from __future__ import annotations

import uuid

from callboard.consensus.etcd_engine.client import EtcdClient, compare_create, put, read
from callboard.consensus.etcd_engine.directory import ENGINE, DirectoryIdentity, ReplicaDirectory
from callboard.consensus.etcd_engine.layout import FORMAT, Head, Identity, Keys, decode, encode, end_of
from callboard.consensus.interface import EngineStartError


def check_directory(known: DirectoryIdentity | None, directory: ReplicaDirectory, replica_id: str, prefix: str) -> None:
    """Refuse a directory of another replica or prefix.

    Raises:
        EngineStartError: naming both.
    """
    if known is None:
        return
    if known.replica_id != replica_id:
        raise EngineStartError(f"directory {directory.path} belongs to replica {known.replica_id}, not {replica_id}")
    if known.prefix != prefix:
        raise EngineStartError(f"directory {directory.path} belongs to etcd prefix {known.prefix}, not {prefix}")


async def join_cluster(
    client: EtcdClient,
    keys: Keys,
    directory: ReplicaDirectory,
    replica_id: str,
    *,
    known: DirectoryIdentity | None,
    wanted: str | None,
    timeout_ms: int,
) -> str:
    """Found the cluster if there is nothing under the prefix, check that it is ours, and leave our name in it.

    `known` is what the directory says, `wanted` what the settings say. Returns the cluster id.

    Raises:
        EngineStartError: they do not fit together.
        EtcdError, CorruptRecord: as told there.
    """
    answer = await client.range(keys.identity, timeout_ms=timeout_ms)
    if not answer.kvs:
        if known is not None:
            raise EngineStartError(
                f"etcd has no cluster under prefix {keys.prefix}, but directory {directory.path} belongs to cluster "
                f"{known.cluster_id}: wrong endpoints, or etcd lost its data (then restore a backup)"
            )
        await found_cluster(client, keys, wanted or str(uuid.uuid4()), timeout_ms=timeout_ms)
        answer = await client.range(keys.identity, timeout_ms=timeout_ms)
    identity = decode(Identity, keys.identity, answer.kvs[0].value)
    if identity.format != FORMAT:
        raise EngineStartError(f"etcd prefix {keys.prefix} has layout {identity.format}, this version reads {FORMAT}")
    for source, cluster_id in (("directory", known.cluster_id if known else None), ("setting", wanted)):
        if cluster_id is not None and cluster_id != identity.cluster_id:
            raise EngineStartError(
                f"cluster id: {source} says {cluster_id}, etcd prefix {keys.prefix} says {identity.cluster_id}"
            )
    if known is None:
        directory.write_identity(DirectoryIdentity(ENGINE, identity.cluster_id, replica_id, keys.prefix))
    name = keys.replica(replica_id)
    await client.txn([compare_create(name, 0)], [put(name, b"")], timeout_ms=timeout_ms)
    return identity.cluster_id


async def found_cluster(client: EtcdClient, keys: Keys, cluster_id: str, *, timeout_ms: int) -> None:
    """Write the cluster's identity and the head of an empty log, unless another replica was quicker.

    Raises:
        EngineStartError: there are keys under the prefix that do not belong to a cluster.
        EtcdError: as told there.
    """
    everything = read(keys.everything, end_of(keys.everything), limit=1)
    seen = await client.txn([compare_create(keys.identity, 0)], [everything], timeout_ms=timeout_ms)
    if not seen.succeeded:
        return
    strangers = seen.responses[0].response_range.kvs
    if strangers:
        name = strangers[0].key.decode(errors="replace")
        raise EngineStartError(f"etcd prefix {keys.prefix} holds {name}, but no cluster id: choose an unused prefix")
    await client.txn(
        [compare_create(keys.identity, 0)],
        [
            put(keys.identity, encode(Identity(format=FORMAT, cluster_id=cluster_id))),
            put(keys.head, encode(Head(index=0, token=b""))),
        ],
        timeout_ms=timeout_ms,
    )
