"""Tables, rings and owners as the simulated sidecars read them, against golden values and the naive computation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.protos.generated.placement_pb2 import PlacementOrder
from harness.sidecars import naive, tables
from harness.sidecars.events import SidecarSpec
from harness.sidecars.fleet import expected_tables
from harness.sidecars.tables import BadOrder, NoOwner, OrderDecoder, Ring, read_order, ring_hash
from tests.harness.fake_placement import order_bytes

HOSTS = ("10.0.0.1:50002", "10.0.0.2:50002", "10.0.0.3:50002")
GOLDEN_OWNERS = {"actor-0": 0, "actor-1": 0, "actor-2": 2, "actor-3": 1, "123": 1, "abc": 0}

names = st.sampled_from([f"10.0.{a}.{b}:{port}" for a in (0, 1) for b in (1, 2, 11) for port in (5000, 50002, 50021)])


@pytest.mark.parametrize("hash_function", [ring_hash, naive.place])
def test_hashes_are_those_of_the_protocol(hash_function) -> None:  # type: ignore[no-untyped-def]
    assert hash_function("123") == 13625949068923063526
    assert hash_function("abc") == 958453735928201402
    assert hash_function("192.168.1.83:609920") == 11414427053803968138
    assert hash_function("192.168.1.89:623622") == 694935339057032644


def test_owners_are_those_of_the_protocol() -> None:
    expected = {actor_id: HOSTS[index] for actor_id, index in GOLDEN_OWNERS.items()}
    ring = Ring(HOSTS, 100)
    assert {actor_id: ring.owner(actor_id) for actor_id in expected} == expected
    assert naive.naive_owners(expected, HOSTS, 100) == expected


@given(
    hosts=st.lists(names, min_size=1, max_size=6, unique=True),
    factor=st.integers(1, 40),
    actor_ids=st.lists(st.text(max_size=8), min_size=1, max_size=12, unique=True),
)
def test_ring_and_naive_computation_agree(hosts: list[str], factor: int, actor_ids: list[str]) -> None:
    """Host names are drawn so that some share places: one address, and ports of which one begins the other."""
    ring = Ring(hosts, factor)
    assert {actor_id: ring.owner(actor_id) for actor_id in actor_ids} == naive.naive_owners(actor_ids, hosts, factor)


def test_hosts_that_share_places_are_told_apart_by_name() -> None:
    low, high = "10.0.0.1:5000", "10.0.0.1:50002"
    shared = next(
        actor_id
        for actor_id in (f"id-{number}" for number in range(100_000))
        if Ring([low], 100).owner(actor_id) != Ring([low, high], 100).owner(actor_id) or ring_hash(actor_id) == 0
    )
    for order in ([low, high], [high, low]):
        assert Ring(order, 100).owner(shared) == naive.naive_owners([shared], order, 100)[shared]
    assert set(tables.virtual_nodes(low, 100)) & set(tables.virtual_nodes(high, 100))


def test_no_owner_without_hosts() -> None:
    with pytest.raises(NoOwner):
        Ring([], 100).owner("a")
    with pytest.raises(NoOwner, match="no host runs actor type 'cat'"):
        tables.NO_TABLES.owner("cat", "a")
    with pytest.raises(ValueError, match="no host"):
        naive.naive_owners(["a"], [], 100)


def test_digest_names_content_and_not_version_or_order() -> None:
    one = read_order(order_bytes("update", 7, {"a:1": ["cat", "dog"], "b:1": ["cat"]})).tables
    same = read_order(order_bytes("update", 8, {"b:1": ["cat"], "a:1": ["dog", "cat"]})).tables
    other = read_order(order_bytes("update", 7, {"a:1": ["cat", "dog"], "b:1": ["dog"]})).tables
    assert one is not None
    assert same is not None
    assert other is not None
    assert one.digest == same.digest != other.digest
    assert (one.version, same.version) == ("7", "8")
    assert other.changed_types(one) == {"cat", "dog"}
    assert same.changed_types(one) == frozenset()
    specs = [SidecarSpec("a:1", "app-a:1", ("cat", "dog")), SidecarSpec("b:1", "app-b:1", ("cat",))]
    assert expected_tables(specs).digest == one.digest
    assert expected_tables(specs[:1]).changed_types(one) == {"cat"}
    assert tables.tables_of([], 99).digest != tables.tables_of([], 100).digest


def test_version_falls_back_to_the_one_in_the_tables() -> None:
    order = PlacementOrder(operation="update")
    order.tables.version = "41"
    assert read_order(order.SerializeToString()).version == 41
    order.version = 42
    assert read_order(order.SerializeToString()).version == 42
    assert read_order(PlacementOrder(operation="lock").SerializeToString()).version == 0


@pytest.mark.parametrize("version", ["x", "-1", "1.5"])
def test_bad_orders_are_named(version: str) -> None:
    order = PlacementOrder(operation="update")
    order.tables.version = version
    with pytest.raises(BadOrder, match=version):
        read_order(order.SerializeToString())
    with pytest.raises(BadOrder, match="PlacementOrder"):
        read_order(b"\xff\xff\xff")


def test_equal_messages_are_parsed_once() -> None:
    decoder = OrderDecoder(capacity=2)
    first = order_bytes("update", 1, {"a:1": ["cat"]})
    assert decoder(first) is decoder(bytes(bytearray(first)))
    assert decoder.parsed == 1
    decoder(order_bytes("lock", 2))
    decoder(order_bytes("lock", 3))
    decoder(first)
    assert decoder.parsed == 4, "the oldest message was forgotten"


def test_simulated_sidecars_share_nothing_with_the_server() -> None:
    """They are its independent check: of callboard they may know the wire contract only."""
    modules = sorted((Path(tables.__file__).parent).glob("*.py"))
    assert len(modules) > 5
    for module in modules:
        imported = set(re.findall(r"^\s*(?:from|import) (callboard[\w.]*)", module.read_text(), re.MULTILINE))
        assert imported <= {"callboard.protos.generated.placement_pb2"}, module.name
