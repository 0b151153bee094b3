"""Orders of the sidecar protocol as bytes: tables are serialised once per version and shared by all streams."""

from __future__ import annotations

from callboard.core.records import Namespace
from callboard.protos.generated import placement_pb2

KEPT_VERSIONS = 2
"""Serialised updates kept per namespace: the one of the running round and the one before."""


def update_order(namespace: Namespace, replication_factor: int) -> bytes:
    """The "update" order for the namespace's current version.

    Table entries hold what sidecars read and nothing else (name, application id, port if reported): a full Host
    would repeat each host's list of types under each of its types.
    """
    version = namespace.version.wire
    tables = placement_pb2.PlacementTables(version=str(version), replication_factor=replication_factor)
    for member in namespace.members.values():
        host = member.host
        entry = placement_pb2.Host(name=host.name, id=host.app_id, port=host.port)
        for actor_type in host.actor_types:
            tables.entries[actor_type].load_map[host.name].CopyFrom(entry)
    order = placement_pb2.PlacementOrder(operation="update", version=version, tables=tables)
    return order.SerializeToString(deterministic=True)


def bare_order(operation: str, version: int) -> bytes:
    """A "lock" or "unlock" order."""
    return placement_pb2.PlacementOrder(operation=operation, version=version).SerializeToString()


class TableCache:
    """Serialised updates by (namespace, version)."""

    def __init__(self, replication_factor: int) -> None:
        self.replication_factor = replication_factor
        self._updates: dict[str, dict[int, bytes]] = {}

    def remember(self, name: str, namespace: Namespace) -> int:
        """Serialise the namespace's current version unless that is done; returns its size in bytes."""
        kept = self._updates.setdefault(name, {})
        version = namespace.version.wire
        if version not in kept:
            kept[version] = update_order(namespace, self.replication_factor)
            for old in sorted(kept)[:-KEPT_VERSIONS]:
                del kept[old]
        return len(kept[version])

    def update(self, name: str, version: int) -> bytes:
        """The update order of a remembered version. Raises KeyError for one that was never remembered."""
        return self._updates[name][version]

    def size_bytes(self, name: str) -> int:
        """Size of the newest update of the namespace, 0 if it has none."""
        kept = self._updates.get(name)
        return len(kept[max(kept)]) if kept else 0
