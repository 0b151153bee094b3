"""The parts of leases: rounds, streams, proposals in flight, and what a host remembers of its renewals."""

from __future__ import annotations

from attrs import evolve

from callboard.core.handoff_messages import NO_INCARNATION, Hello
from callboard.core.native_proposals import Proposals
from callboard.core.native_renewals import UNANSWERED_MAX, SentRenewals
from callboard.core.native_rounds import RenewalRounds
from callboard.core.native_streams import Streams
from callboard.core.versions import Policy
from tests.core.leader_driver import record


def test_a_round_answers_what_was_collected_before_it_began() -> None:
    rounds = RenewalRounds(due_ms=100)
    assert rounds.begin(100, 40) is None, "nobody asks"
    rounds.collect(7, 1)
    rounds.collect(7, 2)
    assert rounds.begin(99, 40) is None
    assert rounds.begin(100, 40) == {7: 2}
    rounds.collect(8, 1)
    assert rounds.begin(1000, 40) is None, "one at a time"
    assert rounds.confirmed(rounds.round_id) == {7: 2}
    assert rounds.confirmed(rounds.round_id) is None, "each is answered once"
    assert rounds.begin_at_ms() == 140
    assert rounds.begin(140, 40) == {8: 1}


def test_a_round_may_be_asked_for_without_a_renewal() -> None:
    rounds = RenewalRounds(due_ms=100)
    assert rounds.begin_at_ms(asked=True) == 100
    assert rounds.begin(99, 40, asked=True) is None
    assert rounds.begin(100, 40, asked=True) == {}
    assert rounds.begin(140, 40, asked=True) is None, "one at a time"
    assert rounds.confirmed(rounds.round_id) == {}


def test_who_is_forgotten_is_in_no_later_round() -> None:
    rounds = RenewalRounds(due_ms=0)
    rounds.collect(7, 1)
    rounds.forget(7)
    rounds.forget(8)
    assert rounds.begin_at_ms() is None
    assert rounds.begin(0, 40) is None


def test_what_a_failed_round_was_for_is_in_the_next() -> None:
    rounds = RenewalRounds(due_ms=0)
    rounds.collect(7, 1)
    rounds.collect(8, 1)
    rounds.begin(0, 40)
    first = rounds.round_id
    rounds.collect(8, 2)
    assert rounds.failed(first) is True
    assert rounds.failed(first) is False, "it is over"
    assert rounds.confirmed(first) is None
    assert rounds.begin(40, 40) == {7: 1, 8: 2}


def test_a_round_does_not_end_with_an_earlier_one() -> None:
    rounds = RenewalRounds(due_ms=0)
    rounds.collect(7, 1)
    rounds.begin(0, 40)
    assert rounds.failed(rounds.round_id)
    rounds.begin(40, 40)
    assert rounds.failed(rounds.round_id - 1) is False
    assert rounds.confirmed(rounds.round_id - 1) is None
    assert rounds.running
    assert rounds.confirmed(rounds.round_id) == {7: 1}


def test_streams_are_a_mapping_to_what_each_said_last() -> None:
    streams = Streams()
    hello = Hello("shop", Policy.EXCLUSIVE, record("a"), NO_INCARNATION, 1, 0, b"")
    for stream_id, connection in ((1, 1), (2, 2), (1, 3)):
        streams.opened(stream_id, evolve(hello, connection=connection))
    assert dict(streams) == {1: evolve(hello, connection=3), 2: evolve(hello, connection=2)}
    streams.forget(1)
    assert list(streams) == [2]


def test_proposals_of_one_kind_wait_for_each_other() -> None:
    proposals = Proposals()
    assert proposals.is_in_flight("bury") is False
    number = proposals.begin("bury")
    assert proposals.is_in_flight("bury") is True
    assert not proposals.may_begin("bury", 0)
    assert proposals.may_begin("batch", 0)
    assert proposals.end(number + 1) is None
    assert proposals.end(number) == "bury"
    assert proposals.end(number) is None
    assert proposals.may_begin("bury", 0)


def test_a_kind_that_pauses_begins_when_the_pause_is_over() -> None:
    proposals = Proposals()
    proposals.pause("bury", 40)
    assert not proposals.may_begin("bury", 39)
    assert proposals.may_begin("bury", 40)
    assert list(proposals.pauses_ms()) == [40]
    proposals.begin("bury")
    assert list(proposals.pauses_ms()) == []


def test_renewals_are_counted_from_one_and_build_on_the_one_before() -> None:
    renewals = SentRenewals()
    assert (renewals.begin(10), renewals.number) == (0, 1)
    assert (renewals.begin(20), renewals.number) == (1, 2)


def test_an_answer_says_when_its_renewal_was_sent_and_only_once() -> None:
    renewals = SentRenewals()
    for now_ms in (10, 20, 30):
        renewals.begin(now_ms)
    assert renewals.answered(2) == 20
    assert renewals.answered(2) is None
    assert renewals.answered(1) is None, "it was sent before one that is answered"
    assert renewals.answered(3) == 30
    assert renewals.answered(4) is None


def test_of_very_many_renewals_the_newest_are_remembered() -> None:
    renewals = SentRenewals()
    for now_ms in range(1, UNANSWERED_MAX + 2):
        renewals.begin(now_ms)
    assert sorted(renewals.sent_ms) == list(range(2, UNANSWERED_MAX + 2))


def test_a_host_says_everything_once_for_all_renewals_that_were_not_understood() -> None:
    renewals = SentRenewals()
    for now_ms in (10, 20, 30):
        renewals.begin(now_ms)
    assert renewals.start_over(2) is True
    assert renewals.begin(40) == 0
    assert renewals.start_over(3) is False, "one that says everything is under way"
    assert renewals.begin(50) == 4
    assert renewals.start_over(4) is True
