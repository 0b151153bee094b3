"""Orders of the sidecar protocol as bytes: tables are serialised once per version and shared by all streams."""

from __future__ import annotations

from collections.abc import Mapping

from callboard.core.records import Member
from callboard.protos.generated import placement_pb2

KEPT_VERSIONS = 2
"""Serialised updates kept per namespace: the one of the running round and the one before."""


def update_order(version: int, members: Mapping[str, Member], replication_factor: int) -> bytes:
    """The "update" order that carries the tables of `members` at `version` (wire form).

    Table entries hold what sidecars read and nothing else (name, application id, port if reported): a full Host
    would repeat each host's list of types under each of its types.
    """
    tables = placement_pb2.PlacementTables(version=str(version), replication_factor=replication_factor)
    for member in members.values():
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
    """Serialised updates of one namespace by version."""

    def __init__(self, replication_factor: int) -> None:
        self._replication_factor = replication_factor
        self._updates: dict[int, bytes] = {}

    def update(self, version: int, members: Mapping[str, Member]) -> bytes:
        """The update order of a version, serialised at most once while the version is among the newest."""
        payload = self._updates.get(version)
        if payload is None:
            payload = update_order(version, members, self._replication_factor)
            self._updates[version] = payload
            for old in sorted(self._updates)[:-KEPT_VERSIONS]:
                del self._updates[old]
        return payload

    @property
    def newest_bytes(self) -> int:
        """Size of the newest update, 0 if there is none."""
        return len(self._updates[max(self._updates)]) if self._updates else 0
