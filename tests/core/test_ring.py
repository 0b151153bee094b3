"""Dapr's ring: golden values, an independent naive computation, and rings with one bug each that the checks catch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.core import ring
from callboard.core.ring import Ring, ring_hash, virtual_nodes

RingFactory = Callable[[list[str]], Ring]
ACTOR_IDS = [f"actor-{number}" for number in range(200)]
HOST_NAMES = st.from_regex(r"10\.0\.0\.[1-9]:5000[0-9]{0,2}", fullmatch=True)
HOST_SETS = st.lists(HOST_NAMES, min_size=1, max_size=6, unique=True)


def naive_owners(hosts: list[str], actor_id: str, replication_factor: int = 100) -> set[str]:
    """Who may own the actor: go over all virtual nodes and keep those with the smallest distance, clockwise."""
    place = int.from_bytes(hashlib.blake2b(actor_id.encode()).digest()[:8], "little")
    best: tuple[int, set[str]] = (1 << 64, set())
    for host in hosts:
        for number in range(replication_factor):
            digest = hashlib.blake2b((host + str(number)).encode(), digest_size=64).digest()
            distance = (int.from_bytes(digest[:8], "little") - place) % (1 << 64)
            if distance < best[0]:
                best = (distance, {host})
            elif distance == best[0]:
                best[1].add(host)
    return best[1]


def check_golden_values() -> None:
    assert ring_hash("123") == 13625949068923063526
    assert ring_hash("abc") == 958453735928201402
    assert ring_hash("actor-0") == 8565325387243509141
    assert virtual_nodes("192.168.1.83:60992", 5) == (
        11414427053803968138,
        6110756290993384529,
        13876541546109691082,
        12165331075625862737,
        9528020266818944582,
    )
    assert virtual_nodes("192.168.1.89:62362", 3) == (13384490355354205375, 11281728843146723001, 694935339057032644)


def check_against_naive(make: RingFactory, hosts: list[str], actor_ids: list[str]) -> None:
    built = make(hosts)
    for actor_id in actor_ids:
        possible = naive_owners(hosts, actor_id)
        assert built.candidates(actor_id) == tuple(sorted(possible))
        assert built.lookup(actor_id) == min(possible)


def check_order_of_hosts_is_irrelevant(make: RingFactory, hosts: list[str]) -> None:
    expected = make(sorted(hosts))
    for shuffled in permutations(hosts):
        built = make(list(shuffled))
        assert [built.lookup(actor_id) for actor_id in ACTOR_IDS] == [
            expected.lookup(actor_id) for actor_id in ACTOR_IDS
        ]


def check_minimal_movement(make: RingFactory, hosts: list[str], newcomer: str) -> None:
    """`MinimalMovement`: a join moves actors to the newcomer only, so a leave moves the leaver's actors only.

    Ids on shared virtual nodes are left out: there the smallest name wins, also when it joins late.
    """
    before, after = make(hosts), make([*hosts, newcomer])
    for actor_id in ACTOR_IDS:
        if len(after.candidates(actor_id)) == 1:
            assert after.lookup(actor_id) in {newcomer, before.lookup(actor_id)}


def test_golden_values() -> None:
    check_golden_values()


def test_golden_owners_and_balance() -> None:
    hosts = Ring(["10.0.0.1:50002", "10.0.0.2:50002", "10.0.0.3:50002"])
    expected = {
        "actor-0": "10.0.0.1:50002",
        "actor-1": "10.0.0.1:50002",
        "actor-2": "10.0.0.3:50002",
        "actor-3": "10.0.0.2:50002",
        "123": "10.0.0.2:50002",
        "abc": "10.0.0.1:50002",
    }
    assert {actor_id: hosts.lookup(actor_id) for actor_id in expected} == expected
    shares = dict.fromkeys(hosts.hosts, 0)
    for number in range(20_000):
        owner = hosts.lookup(f"id-{number}")
        assert owner is not None
        shares[owner] += 1
    assert max(shares.values()) < 1.2 * 20_000 / 3


@given(HOST_SETS, st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_agrees_with_the_naive_computation(hosts: list[str], actor_ids: list[str]) -> None:
    check_against_naive(Ring, hosts, actor_ids)


@given(st.lists(HOST_NAMES, min_size=2, max_size=3, unique=True))
def test_order_of_hosts_is_irrelevant(hosts: list[str]) -> None:
    check_order_of_hosts_is_irrelevant(Ring, hosts)


@given(HOST_SETS, HOST_NAMES)
def test_minimal_movement(hosts: list[str], newcomer: str) -> None:
    if newcomer not in hosts:
        check_minimal_movement(Ring, hosts, newcomer)


def test_first_virtual_node_at_or_after_the_hash_owns() -> None:
    """An id that is itself the name of a virtual node falls exactly on it."""
    hosts = ["10.0.0.1:50002", "10.0.0.2:50002"]
    built = Ring(hosts)
    for host in hosts:
        assert all(built.lookup(f"{host}{number}") == host for number in range(100))


def test_past_the_last_virtual_node_the_first_one_owns() -> None:
    built = Ring(["a", "b"], replication_factor=1)
    highest, lowest = max(virtual_nodes("a", 1)[0], virtual_nodes("b", 1)[0]), min(ring_hash("a0"), ring_hash("b0"))
    beyond = next(actor_id for actor_id in map(str, range(10_000)) if ring_hash(actor_id) > highest)
    assert built.lookup(beyond) == ("a" if ring_hash("a0") == lowest else "b")


def test_names_that_continue_each_other_share_virtual_nodes() -> None:
    shorter, longer = "10.0.0.1:5000", "10.0.0.1:50002"
    built = Ring([longer, shorter])
    assert built.shared_virtual_nodes == 10
    shared = f"{shorter}21"
    assert shared == f"{longer}1"
    assert built.candidates(shared) == (shorter, longer)
    assert built.lookup(shared) == shorter
    assert Ring([longer]).lookup(shared) == longer


def test_empty_rings_own_nothing() -> None:
    assert Ring([]).lookup("a") is None
    assert Ring([]).candidates("a") == ()
    assert Ring(["h"], replication_factor=0).lookup("a") is None
    assert Ring(["h", "h"]).hosts == ("h",)
    with pytest.raises(ValueError, match="replication factor -1 is negative"):
        Ring(["h"], replication_factor=-1)


class FirstInsertedWins(Ring):
    """On shared virtual nodes the order of insertion decides, as in a sidecar."""

    def __init__(self, hosts: list[str]) -> None:
        super().__init__(hosts)
        owner_at = {place: host for host in hosts for place in virtual_nodes(host)}
        self._owners = [owner_at[place] for place in self._places]


class OffByOne(Ring):
    """The last virtual node before the hash owns."""

    def _index(self, actor_id: str) -> int:
        return super()._index(actor_id) - 1


class WeighsByCount(Ring):
    """The number of hosts decides how many virtual nodes each has: every join moves actors between old hosts."""

    def __init__(self, hosts: list[str]) -> None:
        super().__init__(hosts, 10 + 7 * len(hosts))


class NoWrapAround(Ring):
    """Past the last virtual node the last one owns."""

    def _index(self, actor_id: str) -> int:
        return min(super()._index(actor_id) or len(self._places), len(self._places) - 1)


def test_seeded_bug_order_of_insertion_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_order_of_hosts_is_irrelevant(FirstInsertedWins, ["10.0.0.1:5000", "10.0.0.1:50002"])


@pytest.mark.parametrize("mutant", [OffByOne, WeighsByCount, NoWrapAround])
def test_seeded_bug_in_lookup_is_caught_by_the_naive_computation(mutant: RingFactory) -> None:
    with pytest.raises(AssertionError):
        check_against_naive(mutant, ["10.0.0.1:50002", "10.0.0.2:50002", "10.0.0.3:50002"], ACTOR_IDS)


def test_seeded_bug_in_balance_is_caught_by_minimal_movement() -> None:
    with pytest.raises(AssertionError):
        check_minimal_movement(WeighsByCount, ["10.0.0.1:50002", "10.0.0.2:50002"], "10.0.0.3:50002")


def test_seeded_bug_short_digest_is_caught_by_golden_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(text: str) -> int:
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    monkeypatch.setattr(ring, "ring_hash", short)
    monkeypatch.setitem(globals(), "ring_hash", short)
    with pytest.raises(AssertionError):
        check_golden_values()


def test_seeded_bug_big_endian_is_caught_by_golden_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def big_endian(text: str) -> int:
        return int.from_bytes(hashlib.blake2b(text.encode()).digest()[:8], "big")

    monkeypatch.setitem(globals(), "ring_hash", big_endian)
    with pytest.raises(AssertionError):
        check_golden_values()
