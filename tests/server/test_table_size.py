"""Tables stay below gRPC's default limit of 4 MiB, which sidecars do not raise."""

from __future__ import annotations

from callboard.core.records import HostRecord, Member
from callboard.protos.generated import placement_pb2
from callboard.server.sidecar_tables import TableCache, update_order

SIDECAR_LIMIT_BYTES = 4 * 1024 * 1024
TYPES = tuple(f"OrderActor{number:02}" for number in range(20))


def fleet(hosts: int) -> dict[str, Member]:
    names = (f"10.1.{number // 250}.{number % 250}:50002" for number in range(hosts))
    return {name: Member(HostRecord(name, f"shop-{i:04}", TYPES), i + 1) for i, name in enumerate(names)}


def test_a_thousand_hosts_with_twenty_types_fit_one_message() -> None:
    payload = update_order(7, fleet(1000), 100)
    assert len(payload) < SIDECAR_LIMIT_BYTES
    order = placement_pb2.PlacementOrder.FromString(payload)
    assert all(len(table.load_map) == 1000 for table in order.tables.entries.values())
    assert len(order.tables.entries) == 20


def test_entries_with_each_hosts_list_of_types_would_not_fit() -> None:
    """What upstream sends: the check above would notice."""
    order = placement_pb2.PlacementOrder.FromString(update_order(7, fleet(1000), 100))
    for table in order.tables.entries.values():
        for entry in table.load_map.values():
            entry.entities.extend(TYPES)
            entry.namespace = "default"
    assert order.ByteSize() > SIDECAR_LIMIT_BYTES


def test_each_version_is_serialised_once_and_old_ones_are_dropped() -> None:
    cache, members = TableCache(100), fleet(3)
    first = cache.update(1, members)
    assert cache.update(1, {}) is first, "serialised again"
    cache.update(2, members)
    cache.update(3, members)
    assert cache.update(1, {}) is not first, "kept for ever"
