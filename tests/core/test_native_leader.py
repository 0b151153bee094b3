"""A leader of native hosts by itself, at the exact readings of its clock: rules L1 to L5, streams, batches, views."""

from __future__ import annotations

import pytest
from attrs import evolve

from callboard.core.commands import CommitNativeBatch, Removal
from callboard.core.handoff_messages import Gone, Held, Hello, Renewal, SlotRun
from callboard.core.leases import overdue_after_ms
from callboard.core.native_leader_records import (
    CloseStream,
    HelloReceived,
    LeaderLimits,
    Propose,
    RenewalReceived,
    RequestRound,
    RoundConfirmed,
    SendAnswer,
    SendGone,
    SendGrants,
    SendTable,
    SendWelcome,
)
from callboard.core.native_streams import TAKEOVER_AFTER_MS
from callboard.core.versions import Policy
from tests.core.leader_driver import (
    NAME,
    SETTINGS,
    SLOT_BITS,
    START_MS,
    LeaderDriver,
    all_held,
    one_host,
    record,
    two_hosts,
)

TICK_MS = SETTINGS.tick_ms
SLOTS = 1 << SLOT_BITS
WAIT_MS = SETTINGS.wait_ms()
TIMEOUT_MS = SETTINGS.failure_timeout_ms
OVERDUE_MS = overdue_after_ms(SETTINGS)


# ---- streams and joining


def test_hosts_that_come_together_join_in_one_batch() -> None:
    driver = LeaderDriver()
    driver.hello(1, record("a"))
    assert driver.effects == [Propose(1, CommitNativeBatch(1, NAME, (record("a"),)))]
    driver.hello(2, record("b"))
    driver.hello(3, record("c"))
    assert driver.effects == []
    driver.commit()
    assert [each.stream_id for each in driver.of(SendWelcome)] == [1]
    assert not driver.proposals, "batches are a tick apart"
    assert driver.machine.next_deadline_ms() == START_MS + TICK_MS
    driver.at(START_MS + TICK_MS - 1)
    assert not driver.proposals
    driver.at(START_MS + TICK_MS)
    (batch,) = driver.proposed(CommitNativeBatch)
    assert batch.upserts == (record("b"), record("c"))


def test_a_welcome_comes_with_the_newest_table() -> None:
    driver, incarnation = one_host()
    newest = driver.namespace.version.wire
    assert [type(each) for each in driver.effects[:3]] == [SendWelcome, SendTable, SendGrants]
    (welcome,) = driver.of(SendWelcome)
    assert (welcome.stream_id, welcome.welcome.incarnation, welcome.welcome.epoch) == (1, incarnation, 1)
    assert (welcome.welcome.slot_bits, welcome.welcome.settings) == (SLOT_BITS, SETTINGS)
    assert driver.of(SendTable) == [SendTable(1, 0, newest)]
    delta = driver.machine.delta(0, newest)
    assert (delta.is_snapshot, delta.to_version, delta.digest) == (True, newest, driver.machine.view.digest)


def test_a_known_host_gets_what_it_misses() -> None:
    driver, first, _ = two_hosts()
    versions = [1, 2]
    digest = driver.machine.delta(1, 2).digest
    driver.hello(3, record("a"), first, 2, have_version=2, have_digest=digest)
    assert driver.of(SendTable) == []
    assert driver.closed() == [(1, "ABORTED")]
    driver.hello(4, record("a"), first, 3, have_version=1, have_digest=driver.machine.delta(0, 2).digest)
    assert driver.of(SendTable) == [SendTable(4, 0, versions[-1])], "the digest is that of another table"
    assert driver.of(SendWelcome)[0].welcome.incarnation == first


def test_a_changed_record_is_committed_and_an_unchanged_one_is_not() -> None:
    driver, incarnation = one_host()
    driver.now_ms += 10 * TICK_MS
    driver.hello(2, record("a"), incarnation, 2)
    assert not driver.proposals
    heavier = record("a", weight=300)
    driver.hello(3, heavier, incarnation, 3)
    assert driver.proposed(CommitNativeBatch)[0].upserts == (heavier,)
    assert driver.of(SendWelcome)
    driver.commit()
    assert driver.namespace.members["a"].host.weight == 300
    driver.now_ms += 10 * TICK_MS
    driver.hello(4, record("a"), incarnation, 4, by_front=True)
    assert not driver.proposals, "a front's word may be old"


def test_a_front_makes_nobody_a_member() -> None:
    driver = LeaderDriver()
    driver.hello(1, record("a"), by_front=True)
    assert driver.effects == []
    assert driver.machine.stream_count == 1
    member, incarnation = one_host()
    member.now_ms += 10 * TICK_MS
    member.hello(2, record("a", process="p2"), by_front=True)
    assert member.effects == []
    member.hello(3, record("a"), by_front=True, connection=2)
    assert member.of(SendWelcome)[0].welcome.incarnation == incarnation, "the same process missed its welcome"


def test_another_process_takes_the_name_over() -> None:
    driver, first = one_host()
    driver.take_over(2, record("a", process="p2"))
    driver.commit()
    (gone,) = driver.of(SendGone)
    assert (gone.stream_id, gone.gone.incarnation, gone.gone.replaced) == (1, first, True)
    second = driver.namespace.members["a"].incarnation
    assert driver.of(SendWelcome)[0].welcome.incarnation == second > first
    driver.hello(3, record("a"), first, 2)
    assert driver.of(SendGone)[0].gone.replaced


def test_the_late_word_of_a_former_process_throws_nobody_out() -> None:
    driver, _first = one_host()
    driver.take_over(2, record("a", process="p2"))
    driver.commit()
    driver.now_ms += TICK_MS
    for by_front in (False, True):
        driver.hello(3, record("a"), by_front=by_front)
        driver.round()
        assert driver.of(SendGone) == [SendGone(3, Gone(0, "process p1 of a was removed", replaced=True))]
        assert not driver.proposals
    driver.take_over(4, record("a", process="p3"))
    assert driver.proposals, "any other process takes the name over"


def test_what_piled_up_on_its_way_takes_no_name_from_a_member_that_is_connected() -> None:
    driver, incarnation = one_host()
    driver.now_ms += TICK_MS
    other = record("a", process="p2")
    driver.hello(2, other)
    driver.now_ms += TAKEOVER_AFTER_MS - 1
    driver.hello(2, other)
    driver.end(2)
    driver.now_ms += 1
    driver.hello(3, other)
    assert not driver.proposals, "another stream begins anew"
    driver.end(3)
    driver.now_ms += TAKEOVER_AFTER_MS
    driver.hello(1, record("a"), incarnation, 2)
    driver.hello(3, other)
    assert not driver.proposals, "as does another one of the same number"
    by_front, _ = one_host()
    by_front.hello(4, other, by_front=True)
    by_front.now_ms += TAKEOVER_AFTER_MS
    by_front.hello(4, other, by_front=True)
    assert not by_front.proposals, "a front's word may be old"
    by_front.hello(4, other)
    assert not by_front.proposals, "and nothing is counted from it"


def test_the_name_of_a_member_that_is_not_connected_is_free() -> None:
    driver, incarnation = one_host()
    driver.now_ms += TICK_MS
    driver.end(1)
    driver.hello(2, record("a", process="p2"))
    driver.commit()
    assert driver.namespace.members["a"].incarnation > incarnation


def test_a_process_that_was_removed_before_it_was_welcomed_has_to_come_as_another() -> None:
    driver, first = one_host()
    driver.now_ms += TICK_MS
    driver.remove(first)
    driver.hello(2, record("a"))
    driver.round()
    assert driver.of(SendGone) == [SendGone(2, Gone(0, "process p1 of a was removed", replaced=False))]
    assert not driver.proposals
    driver.hello(2, record("a", process="p2"))
    driver.commit()
    assert driver.namespace.members["a"].incarnation > first
    assert driver.of(SendWelcome)


def test_of_two_processes_that_ask_for_a_name_the_later_one_counts() -> None:
    driver = LeaderDriver()
    driver.hello(9, record("z"))
    driver.hello(1, record("a"))
    driver.hello(2, record("a", process="p2"))
    assert driver.closed() == [(1, "ABORTED")]
    driver.hello(2, record("a", process="p3"))
    assert driver.closed() == []


def test_a_member_keeps_its_stream_until_another_process_has_its_name() -> None:
    driver, first = one_host()
    driver.hello(9, record("z"))
    driver.hello(1, record("a", weight=50), first)
    driver.take_over(2, record("a", process="p2"))
    assert driver.closed() == []
    driver.now_ms += TICK_MS
    driver.commit_all()
    assert [(each.stream_id, each.gone.replaced) for each in driver.of(SendGone)] == [(1, True)]


def test_a_stream_that_ended_asks_for_nothing() -> None:
    driver = LeaderDriver()
    driver.hello(9, record("z"))
    driver.hello(1, record("a"))
    driver.end(1)
    assert driver.machine.stream_count == 1
    driver.commit()
    driver.at(driver.now_ms + TICK_MS)
    assert not driver.proposals


def test_a_leader_of_which_a_host_has_heard_the_next_one_says_nothing() -> None:
    """It may not know the host's incarnation, nor its table, and take it for gone or for out of its mind."""
    for incarnation, version in ((1, 1 << 40), (7, 1)):
        driver, _ = one_host()
        driver.event(RenewalReceived(1, Renewal(1, incarnation, 1, driver.machine.epoch + 1, version)))
        assert driver.effects == [CloseStream(1, "ABORTED", "a leader of epoch 2 has followed the one of epoch 1")]
        assert driver.machine.stream_count == 0


def test_what_a_removed_process_waits_for_is_forgotten() -> None:
    driver, incarnation = one_host()
    driver.hello(9, record("z"))
    driver.hello(1, record("a", weight=50), incarnation)
    driver.remove(incarnation)
    driver.commit_all()
    driver.at(driver.now_ms + TICK_MS)
    assert not driver.proposals
    assert list(driver.namespace.members) == ["z"]


def test_a_process_is_known_by_its_name_and_its_token() -> None:
    driver, incarnation = one_host()
    driver.remove(incarnation)
    driver.now_ms += TICK_MS
    driver.hello(2, record("c"))
    assert driver.proposals, "the token is that of a host of another name"


def test_a_process_that_goes_on_as_another_on_its_stream_need_not_insist() -> None:
    driver, _ = one_host()
    driver.now_ms += TICK_MS
    driver.hello(1, record("a", process="p2"))
    assert driver.proposals


def test_a_deposed_leader_does_not_say_that_a_host_of_the_next_one_is_gone() -> None:
    """Its number is above all that this one knows: only a round can tell whether that one leads."""
    driver, incarnation = one_host()
    for stream_id, host, unknown in ((2, record("a", process="p2"), 1), (3, record("b"), 2)):
        driver.hello(stream_id, host, incarnation + unknown)
        assert not driver.of(SendGone)
    driver.at(driver.now_ms + TICK_MS)
    driver.fail_round()
    assert not driver.of(SendGone)
    driver.at(driver.now_ms + TICK_MS)
    driver.confirm_round()
    assert driver.of(SendGone) == [
        SendGone(2, Gone(incarnation + 1, f"incarnation {incarnation + 1} of a was removed", replaced=True)),
        SendGone(3, Gone(incarnation + 2, f"incarnation {incarnation + 2} of b was removed", replaced=False)),
    ]
    assert not driver.of(SendAnswer)


def test_who_names_the_number_of_another_is_gone() -> None:
    """Of a cluster that was made anew: numbers are given again."""
    driver, incarnation = one_host()
    driver.hello(2, record("x"), incarnation + 1)
    driver.at(driver.now_ms + TICK_MS)
    assert driver.join(3, record("b")) == incarnation + 1
    driver.confirm_round()
    assert not driver.of(SendAnswer)
    assert [(each.stream_id, each.gone.incarnation) for each in driver.of(SendGone)] == [(2, incarnation + 1)]
    driver.hello(2, record("x"), incarnation + 1)
    assert [each.gone.incarnation for each in driver.of(SendGone)] == [incarnation + 1]


def test_a_process_that_the_next_leader_took_in_again_does_not_hear_from_the_deposed_one_that_it_is_gone() -> None:
    driver, incarnation = one_host()
    driver.end(1)
    driver.now_ms += TICK_MS
    driver.remove(incarnation)
    deposed = driver.machine
    driver.new_office()
    driver.join(7, record("a"))
    assert driver.namespace.members["a"].host.process == "p1"
    driver.machine, driver.effects = deposed, []
    driver.hello(2, record("a"))
    assert not driver.of(SendGone)
    driver.at(driver.now_ms + TICK_MS)
    driver.fail_round()
    assert not driver.of(SendGone)


def test_a_deposed_leader_does_not_refuse_whom_the_next_one_took_in() -> None:
    """Members use another store by now."""
    driver = LeaderDriver()
    first = driver.join(1, evolve(record("a"), store_id="s1"))
    deposed = driver.machine
    driver.new_office()
    driver.remove(first)
    other = driver.join(7, evolve(record("b"), store_id="s2"))
    driver.machine = deposed
    for stream_id, incarnation in ((2, 0), (3, other), (4, first)):
        driver.hello(stream_id, evolve(record("b"), store_id="s2"), incarnation)
        assert driver.closed() == []
    driver.at(driver.now_ms + TICK_MS)
    driver.fail_round()
    assert driver.closed() == []
    driver.at(driver.now_ms + TICK_MS)
    driver.confirm_round()
    assert driver.closed() == [(each, "FAILED_PRECONDITION") for each in (2, 3, 4)], "it leads"


def test_what_a_host_says_of_itself_changes_nothing_before_it_knows_its_number() -> None:
    driver, incarnation = one_host()
    driver.now_ms += TICK_MS
    driver.hello(2, record("a", weight=50), connection=2)
    assert [each.welcome.incarnation for each in driver.of(SendWelcome)] == [incarnation]
    assert not driver.proposals


def test_what_was_in_doubt_is_forgotten_with_a_later_hello_and_with_the_stream() -> None:
    driver, incarnation = one_host()
    driver.hello(2, record("b"), incarnation + 1)
    driver.hello(3, record("c"), incarnation + 2)
    driver.hello(2, record("b"), incarnation)
    assert [each.gone.incarnation for each in driver.of(SendGone)] == [incarnation], "that is certain"
    driver.end(3)
    driver.round()
    assert not driver.of(SendGone), "it is said once"


def test_a_round_that_began_before_the_hello_removes_no_doubt() -> None:
    driver, incarnation = one_host()
    driver.now_ms += TICK_MS
    driver.renew(1, incarnation, 1)
    driver.hello(2, record("b"), incarnation + 1)
    driver.confirm_round()
    assert driver.answers()
    assert not driver.of(SendGone)
    driver.round()
    assert [each.gone.incarnation for each in driver.of(SendGone)] == [incarnation + 1]


def test_of_two_that_are_in_doubt_one_may_end_the_other() -> None:
    driver, incarnation = one_host()
    driver.hello(2, record("b", process="p2"), incarnation + 1, 2)
    driver.fail_round()
    assert driver.join(3, record("b", process="p2")) == incarnation + 1
    driver.hello(3, record("b", process="p2"), incarnation + 50)
    driver.fail_round()
    driver.round()
    assert [each.stream_id for each in driver.of(SendWelcome)] == [2]
    assert driver.closed() == [(3, "ABORTED")], "a newer connection took over"
    assert not driver.of(SendGone)


def test_a_stream_that_has_insisted_once_insists_anew_for_the_next_process() -> None:
    driver, _ = one_host()
    for stream_id, process in ((2, "p2"), (3, "p3")):
        driver.now_ms += TICK_MS
        driver.take_over(stream_id, record("a", process=process))
        driver.commit()
    driver.now_ms += 1000
    driver.hello(2, record("a", process="p4"))
    assert not driver.proposed(CommitNativeBatch)


def test_an_incarnation_that_was_known_is_gone_without_a_round() -> None:
    driver = LeaderDriver(policy=Policy.EVENTUAL)
    incarnation = driver.join(1, record("a"))
    driver.remove(incarnation)
    driver.hello(2, record("a"), incarnation)
    assert [each.gone.incarnation for each in driver.of(SendGone)] == [incarnation]


def test_an_unknown_incarnation_is_gone() -> None:
    driver, incarnation = one_host()
    for stream_id, name, unknown in ((2, "a", incarnation + 7), (3, "x", 99)):
        driver.hello(stream_id, record(name), unknown)
        driver.at(driver.now_ms + TICK_MS)
        driver.confirm_round()
        assert [(each.stream_id, each.gone.incarnation) for each in driver.of(SendGone)] == [(stream_id, unknown)]
        assert not driver.of(SendWelcome)


@pytest.mark.parametrize(("reason", "why"), [("", ""), ("too old", ": too old")])
def test_the_last_word_names_the_host_and_why_it_was_removed_if_known(reason: str, why: str) -> None:
    driver, incarnation = one_host()
    removals = (Removal("a", incarnation),)
    driver.log(CommitNativeBatch(driver.state.epoch, NAME, (), removals, reason=reason))
    text = f"incarnation {incarnation} of a was removed{why}"
    assert driver.of(SendGone) == [SendGone(1, Gone(incarnation, text, replaced=False))]


def test_who_is_refused() -> None:
    driver = LeaderDriver(limits=LeaderLimits(streams_max=2))
    driver.hello(1, record("a"), policy=Policy.EVENTUAL)
    assert driver.closed() == [], "if this leader leads"
    driver.confirm_round()
    assert driver.closed() == [(1, "FAILED_PRECONDITION")]
    driver.hello(2, evolve(record("a"), actor_types=()))
    assert driver.closed() == [(2, "INVALID_ARGUMENT")]
    driver.hello(3, record("a"))
    driver.hello(4, record("b"))
    assert driver.closed() == []
    driver.hello(5, record("c"))
    assert driver.closed() == [(5, "RESOURCE_EXHAUSTED")]
    assert driver.machine.stream_count == 2
    driver.hello(4, record("b"))
    assert driver.closed() == [], "who is there already may say so again"
    driver.event(HelloReceived(4, Hello("elsewhere", Policy.EXCLUSIVE, record("b"), 0, 1, 0, b"")))
    assert driver.closed() == [(4, "INVALID_ARGUMENT")]


@pytest.mark.parametrize("ends", [False, True])
def test_a_stream_of_one_host_does_not_speak_for_another(*, ends: bool) -> None:
    """Neither while it waits to join, nor when it has: its host would be looked for under the other name for ever."""
    driver = LeaderDriver()
    driver.hello(1, record("a"))
    driver.hello(2, record("b"))
    driver.hello(2, record("c"))
    assert driver.closed() == [(2, "INVALID_ARGUMENT")]
    driver.hello(1, record("c"))
    assert driver.closed() == [(1, "INVALID_ARGUMENT")]
    if ends:
        driver.end(1)
        driver.end(2)
    driver.commit()
    driver.at(driver.now_ms + TICK_MS)
    assert not driver.proposals
    assert list(driver.namespace.members) == ["a"]
    assert driver.machine.stream_count == 0


def test_older_connections_do_not_count() -> None:
    driver, incarnation = one_host()
    driver.hello(2, record("a"), incarnation, 5)
    assert driver.closed() == [(1, "ABORTED")]
    driver.hello(3, record("a"), incarnation, 4)
    assert driver.closed() == [(3, "ABORTED")]
    driver.renew(2, incarnation, 1, connection=4)
    assert not driver.rounds
    driver.renew(3, incarnation, 1, connection=5)
    assert driver.closed() == [(3, "FAILED_PRECONDITION")]
    driver.renew(2, incarnation, 1, connection=5)
    assert driver.rounds


def test_a_table_is_sent_again_to_whoever_asks() -> None:
    driver, incarnation = one_host()
    driver.request_table(1, incarnation)
    assert driver.effects == [SendTable(1, 0, driver.namespace.version.wire)]
    driver.request_table(2, incarnation)
    assert driver.effects == []
    driver.hello(2, record("a"), incarnation, 2)
    driver.request_table(1, incarnation)
    assert driver.effects == []


# ---- renewals and rounds (L5)


def test_renewals_are_collected_for_a_tick_then_confirmed_then_answered() -> None:
    driver, first = one_host()
    second = driver.join(2, record("b"))
    began_ms = driver.now_ms
    driver.renew(1, first, 1)
    assert driver.of(RequestRound) == [RequestRound(1)], "the first need not wait"
    driver.now_ms += 1
    driver.renew(2, second, 1)
    assert not driver.of(RequestRound)
    driver.confirm_round()
    assert [each.stream_id for each in driver.of(SendAnswer)] == [1], "the second came after the round was proposed"
    assert driver.answers()[0].number == 1
    assert driver.machine.next_deadline_ms() == began_ms + TICK_MS
    assert not driver.of(RequestRound)
    driver.renew(1, first, 2, base=1)
    driver.at(began_ms + TICK_MS - 1)
    assert not driver.of(RequestRound)
    driver.at(began_ms + TICK_MS)
    assert driver.of(RequestRound) == [RequestRound(2)]
    driver.confirm_round()
    assert [(each.stream_id, each.answer.number) for each in driver.of(SendAnswer)] == [(2, 1), (1, 2)]
    assert all(each.version == driver.namespace.version.wire for each in driver.answers())


def test_only_the_confirmation_of_the_running_round_counts() -> None:
    driver, incarnation = one_host()
    driver.event(RoundConfirmed(0))
    driver.renew(1, incarnation, 1)
    driver.event(RoundConfirmed(driver.rounds[-1] - 1))
    assert driver.effects == []
    driver.event(RoundConfirmed(driver.rounds[-1] + 1))
    assert driver.effects == []
    driver.confirm_round()
    assert len(driver.answers()) == 1
    driver.confirm_round()
    assert driver.effects == []


def test_a_failed_round_confirms_nothing_and_the_next_one_does() -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1)
    old = driver.rounds[-1]
    driver.fail_round()
    assert not driver.answers()
    assert driver.machine.next_deadline_ms() == driver.now_ms + TICK_MS
    driver.event(RoundConfirmed(old))
    assert driver.effects == []
    driver.renew(1, incarnation, 2, base=1)
    driver.at(driver.now_ms + TICK_MS)
    driver.confirm_round()
    assert [each.number for each in driver.answers()] == [2], "the newest renewal is answered"


def test_old_and_repeated_renewals_are_ignored() -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 5)
    driver.confirm_round()
    driver.now_ms += TICK_MS
    for number in (5, 4):
        driver.renew(1, incarnation, number)
        assert driver.effects == []
    driver.renew(1, incarnation, 6)
    assert driver.of(RequestRound)


def test_a_renewal_before_the_hello_ends_the_stream_and_says_nothing() -> None:
    driver, incarnation = one_host()
    for renewed in (incarnation, incarnation + 7):
        driver.renew(2, renewed, 1)
        assert [type(each) for each in driver.effects] == [CloseStream]
        assert driver.closed() == [(2, "FAILED_PRECONDITION")]


def test_nobody_renews_for_another_host() -> None:
    driver, first = one_host()
    driver.join(2, record("b"))
    driver.renew(2, first, 1)
    assert not driver.of(RequestRound)
    driver.renew(1, first, 1)
    assert driver.of(RequestRound), "its own first renewal still counts"


def test_a_removed_member_is_not_answered_though_its_renewal_was_collected() -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1)
    driver.remove(incarnation)
    (gone,) = driver.of(SendGone)
    assert (gone.stream_id, gone.gone.incarnation) == (1, incarnation)
    assert gone.gone.text.endswith("was removed: operator")
    driver.confirm_round()
    assert not driver.answers()
    driver.renew(1, incarnation, 2)
    assert driver.of(SendGone)[0].gone.incarnation == incarnation


def test_after_a_farewell_nothing_is_answered() -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1)
    driver.farewell(1, incarnation)
    driver.confirm_round()
    assert not driver.answers()
    assert driver.proposed(CommitNativeBatch)[0].removals == (Removal("a", incarnation),)
    driver.commit_all()
    assert not driver.namespace.members
    assert not driver.namespace.tombstones, "its own word is enough: nobody waits for its lease"


def test_a_leaving_host_is_answered_until_it_is_removed() -> None:
    driver, incarnation = one_host()
    driver.now_ms += TICK_MS
    driver.renew(1, incarnation, 1, leaving=True)
    (batch,) = driver.proposed(CommitNativeBatch)
    assert (batch.removals, batch.reason) == ((Removal("a", incarnation),), "a left")
    driver.confirm_round()
    assert driver.answers()


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (Held("cart", -1, 1, 1, 1), "slots -1 to -1"),
        (Held("cart", 0, 0, 1, 1), "slots 0 to -1"),
        (Held("cart", SLOTS - 1, 2, 1, 1), f"slots {SLOTS - 1} to {SLOTS}"),
        (Held("nothing", 0, 1, 1, 1), "no actor type nothing"),
    ],
)
def test_impossible_renewals_end_the_stream(held: Held, why: str) -> None:
    for field in ("taken", "requests"):
        driver, incarnation = one_host()
        driver.renew(1, incarnation, 1, taken=(held,) if field == "taken" else (), requests=(held,))
        assert driver.closed() == [(1, "INVALID_ARGUMENT")]
        assert not driver.rounds
        text = str(driver.effects[0])
        assert why in text
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1, dropped=(SlotRun(held.actor_type, held.first, held.count),))
    assert driver.closed() == [(1, "INVALID_ARGUMENT")]


def test_the_last_slot_may_be_named_but_no_version_that_does_not_exist() -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1, taken=(Held("cart", SLOTS - 1, 1, 1, 1),))
    assert driver.rounds
    driver.renew(1, incarnation, 2, version=driver.namespace.version.wire + 1)
    assert driver.closed() == [(1, "INVALID_ARGUMENT")]


def test_reports_on_a_base_that_is_not_at_hand_are_asked_for_in_full() -> None:
    driver, incarnation = one_host()
    driver.renew(1, incarnation, 1, taken=all_held(driver, incarnation))
    driver.confirm_round()
    assert driver.answers()[0].holding_known
    driver.now_ms += TICK_MS
    driver.renew(1, incarnation, 3, base=2)
    driver.confirm_round()
    assert not driver.answers()[0].holding_known
    driver.now_ms += TICK_MS
    driver.renew(1, incarnation, 4, base=3)
    driver.confirm_round()
    assert not driver.answers()[0].holding_known, "the base was not known either"
    driver.now_ms += TICK_MS
    driver.renew(1, incarnation, 5, taken=all_held(driver, incarnation))
    driver.confirm_round()
    assert driver.answers()[0].holding_known
    driver.hello(2, record("a"), incarnation, 2)
    driver.now_ms += TICK_MS
    driver.renew(2, incarnation, 6, base=5, connection=2)
    driver.confirm_round()
    assert not driver.answers()[0].holding_known, "bases do not outlive their connection"
