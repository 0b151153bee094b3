"""Hosts that want to become members: who is in the next batch, and who is to blame if it is refused."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from callboard.core import native_joins
from callboard.core.native_joins import Joins
from callboard.core.slot_records import NativeHostRecord, NativeMember

HOST = NativeHostRecord("h", "h:1", ("T",), "p")
texts = st.text(st.sampled_from("aé€😀"), max_size=12)
records = st.builds(
    NativeHostRecord,
    name=texts,
    address=texts,
    actor_types=st.lists(texts, max_size=12).map(tuple),
    process=texts,
    labels=st.lists(st.tuples(texts, texts), max_size=12).map(tuple),
)


def host(name: str) -> NativeHostRecord:
    return evolve(HOST, name=name)


def joins(*names: str, items: int = 100) -> Joins:
    made = Joins(items, 1 << 20)
    for stream_id, name in enumerate(names, start=1):
        assert made.add(host(name), stream_id) is None
    return made


def names(batch: tuple[NativeHostRecord, ...]) -> str:
    return "".join(each.name for each in batch)


@given(st.lists(records, min_size=2, max_size=5, unique_by=lambda each: each.name))
def test_a_batch_of_several_hosts_fits_its_bytes(several: list[NativeHostRecord]) -> None:
    bytes_max = sum(len(msgspec.msgpack.encode(each)) for each in several) - 1
    made = Joins(100, bytes_max)
    for stream_id, each in enumerate(several, start=1):
        made.add(each, stream_id)
    batch = made.next_batch()
    assert 1 <= len(batch) < len(several)
    assert len(batch) == 1 or sum(len(msgspec.msgpack.encode(each)) for each in batch) <= bytes_max


@given(st.lists(records, min_size=2, max_size=5, unique_by=lambda each: each.name))
def test_bytes_are_not_wasted(several: list[NativeHostRecord]) -> None:
    """Four bytes for each character are the most that there can be."""
    made = Joins(100, sum(100 + 4 * len(str(each)) for each in several))
    for stream_id, each in enumerate(several, start=1):
        made.add(each, stream_id)
    assert made.next_batch() == tuple(several)


def test_the_later_of_two_streams_asks_for_the_name() -> None:
    made = joins("a", "b")
    assert made.add(host("a"), 9) == 1
    assert made.add(host("a"), 9) is None
    assert len(made) == 2
    made.forget_stream(1)
    assert names(made.next_batch()) == "ab", "the displaced stream took the name along"
    made.forget_stream(9)
    made.forget_stream(77)
    assert names(made.next_batch()) == "b"


def test_only_what_is_committed_as_asked_is_settled() -> None:
    made = joins("a", "b", "c")
    members = {
        "a": NativeMember(host("a"), 1),
        "b": NativeMember(evolve(host("b"), process="another"), 2),
    }
    assert made.settle(members) == [1]
    assert names(made.next_batch()) == "bc"


def test_of_a_refused_batch_each_host_is_tried_alone_and_then_batches_are_whole_again() -> None:
    made = joins("a", "b", "c")
    assert names(made.next_batch()) == "abc"
    assert made.refused() is None
    assert names(made.next_batch()) == "a"
    made.settle({"a": NativeMember(host("a"), 1)})
    made.done()
    assert names(made.next_batch()) == "b"
    assert made.refused() == 2
    made.forget_stream(2)
    assert names(made.next_batch()) == "c"
    made.settle({"c": NativeMember(host("c"), 3)})
    made.done()
    for stream_id, name in enumerate("xyz", start=10):
        made.add(host(name), stream_id)
    assert names(made.next_batch()) == "xyz"
    assert made.refused() is None
    assert names(made.next_batch()) == "x"


def test_after_one_culprit_the_others_of_the_batch_are_still_tried_alone() -> None:
    made = joins("a", "b", "c")
    made.next_batch()
    made.refused()
    for stream_id, name in enumerate("ab", start=1):
        assert names(made.next_batch()) == name
        assert made.refused() == stream_id
        made.forget_stream(stream_id)
    made.add(host("d"), 4)
    assert names(made.next_batch()) == "c"


def test_a_host_that_is_refused_alone_is_to_blame_at_once() -> None:
    made = joins("a")
    assert names(made.next_batch()) == "a"
    assert made.refused() == 1
    made.add(host("b"), 2)
    assert names(made.next_batch()) == "ab"
    assert Joins(2, 1).next_batch() == ()
    assert names(joins("a", "b", "c", items=2).next_batch()) == "ab"


def test_processes_that_were_members_are_remembered_but_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_joins, "FORMER_PROCESSES_MAX", 2)
    made, process = Joins(9, 99), [evolve(HOST, process=f"p{number}") for number in range(5)]
    lives = [{}, *({"h": NativeMember(each, number)} for number, each in enumerate(process[:4], start=1)), {}]
    former = []
    for before, after in pairwise(lives):
        made.follow(before, after)
        made.follow(after, after)
        former.append([number for number, each in enumerate(process) if made.was_member(each)])
    assert former == [[], [0], [0, 1], [1, 2], [2, 3]]
    made.follow({"h": NativeMember(process[4], 5)}, {"h": NativeMember(evolve(process[4], weight=7), 5)})
    assert not made.was_member(process[4]), "the same process says something else of itself"
    made.follow(lives[3], {})
    made.follow(lives[2], {})
    assert made.was_member(process[2]), "remembered again, it is among the newest"


@pytest.mark.parametrize(
    "host",
    [
        evolve(HOST, address="\U0001f600" * 200),
        evolve(HOST, labels=(("\U0001f600" * 100, "\U0001f600" * 100),)),
        evolve(HOST, labels=tuple((f"{number:02}", "") for number in range(40))),
        evolve(HOST, actor_types=tuple(chr(0x1F600 + number) * 64 for number in range(100))),
    ],
    ids=["characters of four bytes", "labels of such", "many short labels", "many long types of such"],
)
def test_what_takes_more_bytes_than_a_glance_says_fits_too(host: NativeHostRecord) -> None:
    one = len(msgspec.msgpack.encode(host))
    made = Joins(100, 2 * one - 1)
    for stream_id, name in enumerate("ab", start=1):
        made.add(evolve(host, name=name), stream_id)
    assert len(made.next_batch()) == 1
