"""The checks on orders: silent on what the protocol allows, and each rule has seeded faults that it names."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from harness.sidecars.checks import WireChecks
from harness.sidecars.events import SidecarSpec
from harness.sidecars.tables import Order, read_order
from tests.harness.fake_placement import order_bytes

A = SidecarSpec("a:1", "a", ("cat",))
B = SidecarSpec("b:1", "b", ("cat",))
ELSEWHERE = SidecarSpec("a:1", "a", ("cat",), "other")

Told = tuple[SidecarSpec, int, str, int]


def told(spec: SidecarSpec, attempt: int, *orders: str) -> list[Told]:
    """Orders written as "lock 5"."""
    return [(spec, attempt, operation, int(version)) for operation, version in map(str.split, orders)]


def violations(story: Iterable[Told], tables: dict[int, str] | None = None) -> list[str]:
    """What the checks say of a story; `tables` gives the only host of some versions' tables, else it is a:1."""
    checks = WireChecks()
    for spec, attempt, operation, version in story:
        host = (tables or {}).get(version, "a:1")
        order: Order = read_order(order_bytes(operation, version, {host: ["cat"]} if operation == "update" else None))
        checks.saw(spec, attempt, order)
    return checks.violations


def test_rounds_pushes_and_reconnects_are_in_order() -> None:
    first = told(A, 1, "lock 5", "update 5", "unlock 5", "lock 5", "update 5", "unlock 5", "lock 6", "update 6")
    again = told(A, 2, "lock 6", "update 6", "unlock 6")
    others = told(B, 1, "lock 6", "update 6", "unlock 6") + told(ELSEWHERE, 1, "lock 1", "update 1", "unlock 1")
    assert violations(first + again + others) == []


@pytest.mark.parametrize(
    ("orders", "fault"),
    [
        (("update 5",), "update 5 after unlock 0"),
        (("unlock 5",), "unlock 5 after unlock 0"),
        (("lock 5", "lock 6"), "lock 6 after lock 5"),
        (("lock 5", "unlock 5"), "unlock 5 after lock 5"),
        (("lock 5", "update 6"), "update 6 after lock 5"),
        (("lock 5", "update 5", "unlock 6"), "unlock 6 after update 5"),
        (("lock 5", "update 5", "update 5"), "update 5 after update 5"),
        (("lock 5", "update 5", "lock 6"), "lock 6 after update 5"),
        (("lock 5", "update 5", "unlock 5", "lock 4"), "lock 4 after unlock 5"),
        (("dance 5",), "dance 5 after unlock 0"),
    ],
)
def test_barrier_order(orders: tuple[str, ...], fault: str) -> None:
    assert violations(told(A, 1, *orders))[0] == f"BarrierOrder: default/a:1: {fault}"


def test_table_monotonic_also_over_streams() -> None:
    story = told(A, 1, "lock 5", "update 5", "unlock 5") + told(A, 2, "lock 4", "update 4", "unlock 4")
    assert violations(story) == ["TableMonotonic: default/a:1: version 4 after 5"]


def test_a_new_process_may_be_told_anything() -> None:
    checks = WireChecks()
    for version in (5, 4):
        checks.forget(A)
        for operation in ("lock", "update", "unlock"):
            checks.saw(A, 1, read_order(order_bytes(operation, version, {} if operation == "update" else None)))
    assert checks.violations == []
    assert checks.orders == 6


def test_table_agreement_over_sidecars_and_time() -> None:
    checks = WireChecks()
    for spec, host in ((A, "a:1"), (B, "b:1"), (ELSEWHERE, "b:1")):
        checks.saw(spec, 1, read_order(order_bytes("lock", 5)))
        checks.saw(spec, 1, read_order(order_bytes("update", 5, {host: ["cat"]})))
    assert len(checks.violations) == 1
    assert checks.violations[0].startswith("TableAgreement: default/b:1: version 5 is table ")


def test_violations_are_bounded() -> None:
    assert len(violations(told(A, 1, *(["unlock 5"] * 1000)))) == 100
