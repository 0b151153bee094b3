"""What is written to the wire is read back alike, and nonsense is refused with field and value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.core.handoff_messages import Gone, Grants, Held, Hello, Renewal, RenewalAnswer, SlotRun, Welcome
from callboard.core.slot_records import HandoffSettings, NativeHostRecord
from callboard.core.table_delta import HostEntry, SlotRange, TableDelta, TypeChanges
from callboard.core.versions import Policy
from callboard.protos import convert
from callboard.protos.generated import host_pb2

NUMBERS = st.integers(0, 2**64 - 1)
NAMES = st.text(min_size=1, max_size=20)
LABELS = st.dictionaries(NAMES, NAMES, max_size=3).map(lambda labels: tuple(sorted(labels.items())))
HELD = st.builds(Held, NAMES, st.integers(0, 1000), st.integers(1, 1000), NUMBERS, NUMBERS)
RUNS = st.builds(SlotRun, NAMES, st.integers(0, 1000), st.integers(1, 1000))


@given(st.lists(HELD).map(tuple), st.lists(RUNS).map(tuple), NUMBERS, st.booleans())
def test_renewals_answers_and_grants(
    held: tuple[Held, ...], runs: tuple[SlotRun, ...], number: int, flag: bool
) -> None:
    renewal = Renewal(number, 2, 3, 4, 5, 6, held, runs, held[:1], flag)
    assert convert.renewal_record(_over(convert.renewal_message(renewal))) == renewal
    answer = RenewalAnswer(number, 2, 3, 4, flag, held)
    assert convert.answer_record(_over(convert.answer_message(answer))) == answer
    grants = Grants(1, number, held)
    assert convert.grants_record(_over(convert.grants_message(grants))) == grants


def _over(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


@given(NAMES, st.sets(NAMES, max_size=5), LABELS, st.sampled_from([Policy.EVENTUAL, Policy.EXCLUSIVE]), NUMBERS)
def test_hello_and_welcome(
    name: str, types: set[str], labels: tuple[tuple[str, str], ...], policy: Policy, number: int
) -> None:
    host = NativeHostRecord(name, f"{name}:1", tuple(sorted(types)), "token", labels, 7, "store")
    hello = Hello("carts", policy, host, number, 3, number, b"digest")
    assert convert.hello_record(_over(convert.hello_message(hello, "1.0"))) == hello
    welcome = Welcome(number, 2, policy, 12, HandoffSettings(lease_ms=9000))
    assert convert.welcome_record(_over(convert.welcome_message(welcome, "r1"))) == welcome
    gone = Gone(number, name, replaced=True)
    assert convert.gone_record(_over(convert.gone_message(gone))) == gone


@st.composite
def deltas(draw: st.DrawFn) -> TableDelta:
    to_version = draw(st.integers(1, 2**63))
    changes = []
    for _ in range(draw(st.integers(0, 3))):
        ranges, end = [], 0
        for _ in range(draw(st.integers(0, 5))):
            first = end + draw(st.integers(0, 10))
            count = draw(st.integers(1, 20))
            ranges.append(SlotRange(first, count, draw(NUMBERS), draw(st.integers(0, to_version))))
            end = first + count
        changes.append(TypeChanges(tuple(draw(st.lists(NAMES, min_size=1, max_size=3))), tuple(ranges)))
    hosts = draw(st.lists(st.builds(HostEntry, NUMBERS, NAMES, NAMES, LABELS), max_size=3).map(tuple))
    gone = draw(st.lists(NUMBERS, max_size=3).map(tuple))
    return TableDelta(draw(NUMBERS), to_version, 10, hosts, gone, tuple(changes), ("Old",), b"digest")


@given(deltas())
def test_table_deltas(delta: TableDelta) -> None:
    assert convert.delta_record(_over(convert.delta_message(delta))) == delta


def test_a_join_costs_few_bytes_per_moved_slot() -> None:
    """32 scattered slots of ten types that share a table, at 1,000 hosts."""
    ranges = tuple(SlotRange(first * 1000, 1, 1001, 5000) for first in range(32))
    types = tuple(f"ActorTypeNumber{number}" for number in range(10))
    delta = TableDelta(
        4999, 5000, 15, (HostEntry(1001, "host-1001", "10.0.3.233:7301"),), (), (TypeChanges(types, ranges),)
    )
    assert len(convert.delta_message(delta).SerializeToString()) < 450


def test_a_join_costs_few_bytes_even_if_no_two_types_share_a_table() -> None:
    """32 scattered slots of each of ten types, at 1,000 hosts: one gap of two bytes for each slot."""
    groups = tuple(
        TypeChanges(
            (f"ActorTypeNumber{kind}",), tuple(SlotRange(first * 1000 + kind, 1, 1001, 5000) for first in range(32))
        )
        for kind in range(10)
    )
    delta = TableDelta(4999, 5000, 15, (HostEntry(1001, "host-1001", "10.0.3.233:7301"),), (), groups)
    assert len(convert.delta_message(delta).SerializeToString()) < 1200


@pytest.mark.parametrize(
    ("read", "message", "complaint"),
    [
        (convert.hello_record, host_pb2.Hello(protocol_version=9, connection=1), "protocol_version 9 is not known"),
        (convert.hello_record, host_pb2.Hello(protocol_version=1), "connection 0"),
        (
            convert.hello_record,
            host_pb2.Hello(protocol_version=1, connection=1, policy="barrier"),
            "policy 'barrier' is neither eventual nor exclusive",
        ),
        (convert.welcome_record, host_pb2.Welcome(policy="eventual", slot_bits=40), "slot_bits 40"),
        (convert.grants_record, host_pb2.Grants(grants=host_pb2.Spans(types=[0])), "grants: columns differ"),
        (
            convert.grants_record,
            host_pb2.Grants(grants=host_pb2.Spans(types=[1], first=[0], count=[1])),
            "grants: type 1 of 0 actor types",
        ),
        (
            convert.grants_record,
            host_pb2.Grants(grants=host_pb2.Spans(actor_types=["a"], types=[0], first=[0], count=[0])),
            "grants: slots 0 to -1",
        ),
        (
            convert.grants_record,
            host_pb2.Grants(grants=host_pb2.Spans(actor_types=["a"], types=[0], first=[0], count=[1])),
            "grants: 1 spans, but 0 since and 0 fence",
        ),
        (
            convert.delta_record,
            host_pb2.TableDelta(slot_bits=4, changes=[host_pb2.TypeChanges(gap=[16], count=[1], owner=[1], age=[0])]),
            "changes: slots 16 to 16 are not within 0 to 15",
        ),
        (
            convert.delta_record,
            host_pb2.TableDelta(slot_bits=4, changes=[host_pb2.TypeChanges(gap=[0], count=[1], owner=[1], age=[1])]),
            "changes: age 1 is above to_version 0",
        ),
        (
            convert.delta_record,
            host_pb2.TableDelta(
                slot_bits=4, changes=[host_pb2.TypeChanges(actor_types=["a"], gap=[0], count=[1], age=[0])]
            ),
            "changes of a: owner has 0 entries for 1 ranges",
        ),
        (
            convert.delta_record,
            host_pb2.TableDelta(slot_bits=4, changes=[host_pb2.TypeChanges(gap=[0], count=[1], owner=[1], age=[0, 0])]),
            "age has 2 entries for 1 ranges",
        ),
    ],
)
def test_nonsense_is_refused(read: Callable[[Any], Any], message: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(message)
