"""A native host by itself, at the exact readings of its clock: rules H1 to H8, one case each."""

from __future__ import annotations

import pytest

from callboard.core.handoff_messages import NO_INCARNATION, Farewell, Held, SlotRun, TableRequest
from callboard.core.native_host import HELLO_REPEAT_MS
from callboard.core.native_host_records import (
    BecomeNewIncarnation,
    CancelTurns,
    Connected,
    Disconnected,
    Drained,
    Ended,
    EndReason,
    Granted,
    LeaveRequested,
    Refusal,
    Right,
    SendFarewell,
    SendHello,
    SendRenewal,
    SendTableRequest,
    StopAdmitting,
    Stopped,
    TableInstalled,
    TableReceived,
)
from callboard.core.native_parting import Phase
from callboard.core.table_delta import diff, make_view
from callboard.core.versions import Policy
from tests.core.host_driver import (
    ADMIT_MS,
    CANCEL_MS,
    EPOCH,
    GATE_MS,
    ME,
    OTHER,
    SETTINGS,
    SLOT_BITS,
    START_MS,
    BySlot,
    Driver,
    joined,
    lose_slot_0,
    serving,
    view,
)

GAP_MS = SETTINGS.tick_ms // 8


# ---- joining (H1)


def test_a_hello_says_who_asks_and_is_repeated_until_it_is_answered() -> None:
    driver = Driver()
    assert driver.machine.next_deadline_ms() is None
    driver.connect()
    (first,) = driver.of(SendHello)
    assert (first.connection, first.hello.connection, first.hello.incarnation) == (1, 1, NO_INCARNATION)
    assert (first.hello.have_version, first.hello.have_digest, first.hello.host.store_id) == (0, b"", "store")
    assert (first.hello.namespace, first.hello.host) == ("shop", driver.machine.record)
    assert first.hello.by_front is False
    assert driver.machine.next_deadline_ms() == START_MS + HELLO_REPEAT_MS
    assert driver.at(START_MS + HELLO_REPEAT_MS - 1) == []
    assert driver.at(START_MS + HELLO_REPEAT_MS) == [first]
    assert driver.at(START_MS + HELLO_REPEAT_MS + 1) == []
    driver.welcome()
    assert driver.machine.incarnation == ME
    driver.at(START_MS + 5 * HELLO_REPEAT_MS)
    assert not driver.of(SendHello)


def test_a_later_hello_tells_the_incarnation_and_the_installed_table() -> None:
    driver = serving()
    driver.connect()
    (hello,) = driver.of(SendHello)
    view_now = driver.machine.view
    assert view_now is not None
    assert (hello.hello.incarnation, hello.hello.connection) == (ME, 2)
    assert (hello.hello.have_version, hello.hello.have_digest) == (4, view_now.digest)


def test_connections_are_never_used_twice() -> None:
    driver = serving()
    for connection in (1, 0):
        with pytest.raises(ValueError, match=f"connection {connection} is not newer than 1"):
            driver.machine.handle(Connected(connection), driver.now_ms)


def test_nothing_counts_that_comes_over_another_connection() -> None:
    driver = serving()
    driver.connect()
    driver.welcome()
    old = Disconnected(1)
    driver.event(old)
    driver.now_ms += SETTINGS.tick_ms
    driver.event(old)
    assert driver.machine.next_deadline_ms() is not None
    driver.at(START_MS + SETTINGS.lease_ms // 2)
    assert driver.of(SendRenewal), "the end of an older connection ended the newest"


def test_without_a_connection_nothing_is_sent() -> None:
    driver = serving()
    driver.event(Disconnected(1))
    assert driver.machine.next_deadline_ms() == CANCEL_MS
    assert driver.at(CANCEL_MS - 1) == []
    driver.at(GATE_MS)
    assert [type(each) for each in driver.effects] == [Ended]
    driver.event(LeaveRequested("stop"))
    assert driver.effects == [Stopped("stop")]


def test_a_disconnected_host_does_not_repeat_hellos() -> None:
    driver = Driver()
    driver.connect()
    driver.event(Disconnected(1))
    assert driver.machine.next_deadline_ms() is None
    assert driver.at(START_MS + 10 * HELLO_REPEAT_MS) == []


def test_a_welcome_of_another_incarnation_is_no_welcome() -> None:
    driver = serving()
    driver.connect()
    driver.welcome(incarnation=ME + 5)
    assert driver.machine.incarnation == ME
    driver.at(START_MS + HELLO_REPEAT_MS)
    assert driver.of(SendHello)
    assert not driver.renewals[1:], "renewed on a connection that was not welcomed"


def test_the_word_of_a_deposed_leader_is_not_heard() -> None:
    driver = serving()
    driver.now_ms = START_MS + 100
    driver.at(START_MS + 300)
    number = driver.renewals[-1].number
    driver.answer(number, epoch=EPOCH - 1)
    assert driver.machine.lease_remaining_ms(START_MS) == SETTINGS.lease_ms
    driver.connect()
    driver.now_ms += SETTINGS.tick_ms
    driver.welcome(epoch=EPOCH - 1)
    assert not driver.of(SendRenewal)
    driver.welcome(epoch=EPOCH + 1)
    assert driver.of(SendRenewal)[0].renewal.epoch == driver.machine.epoch == EPOCH + 1


def test_grants_of_a_deposed_leader_are_not_accepted() -> None:
    driver = joined()
    driver.grant(Held("cart", 0, 2, 4, 5), epoch=EPOCH - 1)
    assert not driver.of(Granted)
    driver.grant(Held("cart", 0, 2, 4, 5), epoch=EPOCH)
    assert driver.of(Granted)


# ---- admission and the gate (H4, H5)


def test_each_deadline_is_exact() -> None:
    driver = serving()
    driver.event(Disconnected(1))
    right = driver.right(0)
    driver.now_ms = ADMIT_MS - 1
    assert driver.right(0) is right
    driver.now_ms = ADMIT_MS
    assert driver.machine.admit("cart", 0, ADMIT_MS) is Refusal.NO_LEASE
    assert driver.at(CANCEL_MS - 1) == []
    assert driver.machine.next_deadline_ms() == CANCEL_MS
    assert driver.at(CANCEL_MS) == [CancelTurns((SlotRun("cart", 0, 2),), GATE_MS)]
    assert driver.machine.next_deadline_ms() == GATE_MS
    assert driver.at(CANCEL_MS + 1) == []
    assert driver.machine.gate_open(right, GATE_MS - 1) is True
    assert driver.machine.gate_open(right, GATE_MS) is False
    assert driver.at(GATE_MS - 1) == []
    assert driver.at(GATE_MS) == [Ended((SlotRun("cart", 0, 2),), EndReason.LEASE)]
    assert driver.machine.next_deadline_ms() is None
    assert driver.at(GATE_MS + 1) == []


def test_why_a_call_is_refused() -> None:
    driver = Driver()
    driver.connect()
    assert driver.machine.admit("cart", 0, driver.now_ms) is Refusal.UNKNOWN_TYPE
    driver.welcome()
    driver.install(view(4, {"cart": (ME, ME, OTHER, OTHER)}))
    assert driver.machine.admit("cart", 2, driver.now_ms) is Refusal.NOT_OWNER
    assert driver.machine.admit("cart", 0, driver.now_ms) is Refusal.NOT_GRANTED
    assert driver.machine.admit("user", 0, driver.now_ms) is Refusal.UNKNOWN_TYPE
    driver.answer(driver.renewals[-1].number, grants=(Held("cart", 0, 1, 4, 5),))
    assert isinstance(driver.machine.admit("cart", 0, driver.now_ms), Right)
    assert driver.machine.admit("cart", 1, driver.now_ms) is Refusal.NOT_GRANTED
    assert driver.machine.admit("cart", 0, ADMIT_MS) is Refusal.NO_LEASE
    assert driver.machine.admit("cart", 1, ADMIT_MS) is Refusal.NOT_GRANTED
    driver.event(LeaveRequested("stop"))
    assert driver.machine.admit("cart", 0, driver.now_ms) is Refusal.LEAVING
    driver.event(Drained("cart", (0,)))
    assert driver.phase is Phase.OVER
    assert driver.machine.admit("cart", 0, driver.now_ms) is Refusal.LEAVING


def test_what_drained_is_told_before_the_next_renewal_is_due() -> None:
    driver = serving()
    lose_slot_0(driver)
    driver.at(driver.machine.next_deadline_ms() or 0)
    sent = len(driver.renewals)
    driver.now_ms += SETTINGS.tick_ms // 8
    driver.event(Drained("cart", (0,)))
    assert len(driver.renewals) == sent + 1
    assert driver.renewals[-1].dropped == (SlotRun("cart", 0, 1),)


def test_only_the_very_right_of_the_admission_passes_the_gate() -> None:
    driver = serving()
    right = driver.right(0)
    assert driver.machine.gate_open(right, driver.now_ms)
    assert not driver.machine.gate_open(Right("cart", 0, 4, 5), driver.now_ms)
    assert not driver.machine.gate_open(Right("user", 0, 4, 5), driver.now_ms)


def test_owners_are_looked_up_in_the_installed_table() -> None:
    driver = Driver()
    driver.connect()
    assert driver.machine.owner_of("cart", 0) is None
    driver.welcome()
    driver.install(view(4, {"cart": (ME, 0, OTHER, OTHER)}))
    mine, others = driver.machine.owner_of("cart", 0), driver.machine.owner_of("cart", 2)
    assert mine is not None
    assert others is not None
    assert (mine.incarnation, others.incarnation) == (ME, OTHER)
    assert driver.machine.owner_of("cart", 1) is None
    assert driver.machine.owner_of("user", 0) is None


def test_lease_remaining() -> None:
    driver = serving()
    assert driver.machine.lease_remaining_ms(START_MS + 1) == SETTINGS.lease_ms - 1
    assert driver.machine.lease_remaining_ms(GATE_MS - 1) == 1
    assert driver.machine.lease_remaining_ms(GATE_MS + 1) == 0
    assert serving(Policy.EVENTUAL).machine.lease_remaining_ms(START_MS) is None


# ---- grants (H3)


def granted_slots(driver: Driver) -> set[tuple[int, int]]:
    return {(slot, each.fence) for effect in driver.of(Granted) for each in effect.spans for slot in _slots(each)}


def _slots(held: Held) -> range:
    return range(held.first, held.first + held.count)


def test_grants_count_slot_by_slot() -> None:
    driver = joined((ME, OTHER, ME, ME))
    driver.grant(Held("cart", 0, 4, 4, 5))
    assert granted_slots(driver) == {(0, 5), (2, 5), (3, 5)}
    assert driver.effects[0] == Granted((Held("cart", 0, 1, 4, 5), Held("cart", 2, 2, 4, 5)))


@pytest.mark.parametrize(
    "held",
    [
        Held("cart", 0, 1, 3, 5),
        Held("cart", 0, 1, 5, 5),
        Held("cart", 2, 2, 4, 5),
        Held("user", 0, 1, 4, 5),
        Held("cart", -1, 2, 4, 5),
        Held("cart", 1, 4, 4, 5),
    ],
    ids=["older since", "newer since", "not mine", "unknown type", "before the table", "beyond the table"],
)
def test_grants_that_do_not_fit_the_table_are_not_accepted(held: Held) -> None:
    driver = joined()
    driver.grant(held)
    assert driver.effects == []
    assert driver.machine.admit("cart", 0, driver.now_ms) is Refusal.NOT_GRANTED


def test_one_grant_that_does_not_fit_does_not_spoil_the_next() -> None:
    driver = joined()
    driver.grant(Held("user", 0, 1, 4, 5), Held("cart", 0, 2, 4, 5))
    assert granted_slots(driver) == {(0, 5), (1, 5)}


def test_grants_of_another_incarnation_are_not_accepted() -> None:
    driver = joined()
    driver.grant(Held("cart", 0, 2, 4, 5), incarnation=ME - 1)
    driver.answer(1, grants=(Held("cart", 0, 2, 4, 5),), incarnation=ME - 1)
    assert driver.machine.admit("cart", 0, driver.now_ms) is Refusal.NOT_GRANTED


def test_a_grant_needs_a_lease() -> None:
    driver = joined()
    driver.now_ms = GATE_MS
    driver.grant(Held("cart", 0, 2, 4, 5))
    assert not driver.of(Granted)
    other = joined()
    other.now_ms = GATE_MS - 1
    other.grant(Held("cart", 0, 2, 4, 5))
    assert other.of(Granted)


def test_a_repeated_grant_keeps_the_right_and_an_older_fence_never_counts() -> None:
    driver = serving()
    right = driver.right(0)
    driver.grant(Held("cart", 0, 1, 4, 5), Held("cart", 0, 1, 4, 6))
    assert driver.right(0) is right
    driver.at(GATE_MS)
    driver.answer(driver.renewals[-1].number)
    assert driver.machine.lease_remaining_ms(driver.now_ms)
    driver.grant(Held("cart", 0, 1, 4, 5))
    assert not driver.of(Granted)
    driver.grant(Held("cart", 0, 1, 4, 6))
    assert driver.right(0).fence == 6
    assert not driver.machine.gate_open(right, driver.now_ms)


def test_grants_are_told_at_once() -> None:
    driver = joined()
    driver.now_ms += SETTINGS.tick_ms
    driver.grant(Held("cart", 0, 2, 4, 5))
    (sent,) = driver.of(SendRenewal)
    assert sent.renewal.taken == (Held("cart", 0, 2, 4, 5),)


# ---- tables (H2)


def test_a_newer_table_stops_admission_to_lost_slots_only() -> None:
    driver = serving()
    kept, lost = driver.right(1), driver.right(0)
    driver.now_ms += 50
    lose_slot_0(driver)
    cancel_ms = driver.now_ms + SETTINGS.drain_ms + 1
    assert driver.effects[:2] == [StopAdmitting((SlotRun("cart", 0, 1),), cancel_ms), TableInstalled(5, ("cart",))]
    assert driver.machine.admit("cart", 0, driver.now_ms) is Refusal.NOT_OWNER
    assert driver.right(1) is kept
    assert driver.machine.gate_open(lost, driver.now_ms)
    driver.event(Drained("cart", (0, 1, 3)))
    assert driver.effects[0] == Ended((SlotRun("cart", 0, 1),), EndReason.RELEASED)
    assert not driver.machine.gate_open(lost, driver.now_ms)
    assert driver.machine.gate_open(kept, driver.now_ms)


def test_a_slot_that_left_and_came_back_is_lost_all_the_same() -> None:
    driver = serving()
    driver.install(view(6, {"cart": (ME, ME, OTHER, OTHER)}, {"cart": (6, 4, 4, 4)}))
    assert driver.of(StopAdmitting)[0].spans == (SlotRun("cart", 0, 1),)
    driver.grant(Held("cart", 0, 1, 6, 9))
    assert not driver.of(Granted), "granted while the older right drains"
    driver.event(Drained("cart", (0,)))
    driver.grant(Held("cart", 0, 1, 6, 9))
    assert granted_slots(driver) == {(0, 9)}


def test_installed_tables_name_the_types_that_changed() -> None:
    driver = serving()
    both: BySlot = {"cart": (ME, ME, OTHER, OTHER), "user": (ME, ME, ME, ME)}
    driver.install(view(5, both, {"cart": (4, 4, 4, 4), "user": (5, 5, 5, 5)}))
    assert driver.of(TableInstalled) == [TableInstalled(5, ("user",))]
    driver.install(view(6, {**both, "user": (ME, ME, ME, 9)}, {"cart": (4, 4, 4, 4), "user": (5, 5, 5, 6)}))
    assert driver.of(TableInstalled) == [TableInstalled(6, ("cart", "user"))], "a host joined: addresses may be new"


def test_older_and_equal_tables_are_ignored() -> None:
    driver = serving()
    lose_slot_0(driver)
    before = driver.machine.view
    for version in (4, 5):
        driver.event(TableReceived(driver.connection, diff(None, view(version, {"cart": (ME, ME, ME, ME)}))))
        assert driver.machine.view is before
        assert driver.effects == []


def test_a_table_that_does_not_fit_is_asked_for_once_in_a_tick() -> None:
    driver = serving()
    lost = diff(view(8, {}), view(9, {"cart": (ME, ME, ME, ME)}))
    driver.event(TableReceived(1, lost))
    assert driver.effects == [SendTableRequest(1, TableRequest(ME, 4))]
    driver.now_ms += SETTINGS.tick_ms - 1
    driver.event(TableReceived(1, lost))
    assert not driver.of(SendTableRequest)
    driver.now_ms += 1
    driver.event(TableReceived(1, lost))
    assert driver.of(SendTableRequest) == [SendTableRequest(1, TableRequest(ME, 4))]
    lose_slot_0(driver)
    driver.event(TableReceived(1, lost))
    assert driver.of(SendTableRequest) == [SendTableRequest(1, TableRequest(ME, 5))]


def test_an_answer_that_knows_a_newer_table_shows_a_gap() -> None:
    driver = serving()
    driver.answer(1, version=4)
    assert not driver.of(SendTableRequest)
    driver.answer(1, version=5)
    assert driver.of(SendTableRequest) == [SendTableRequest(1, TableRequest(ME, 4))]
    fresh = Driver()
    fresh.connect()
    fresh.welcome()
    fresh.answer(1, version=1)
    assert fresh.of(SendTableRequest) == [SendTableRequest(1, TableRequest(ME, 0))]


def test_a_table_without_this_incarnation_means_that_it_is_removed() -> None:
    driver = serving()
    newer = view(5, {"cart": (OTHER,) * 4})
    driver.install(make_view(5, SLOT_BITS, {OTHER: newer.hosts[OTHER]}, dict(newer.tables)))
    assert driver.of(StopAdmitting)[0].spans == (SlotRun("cart", 0, 2),)
    assert not driver.of(TableInstalled)
    driver.event(Drained("cart", (0, 1)))
    text = "table of version 5 does not have incarnation 7"
    assert driver.effects[-2:] == [SendFarewell(1, Farewell(ME)), BecomeNewIncarnation(text, replaced=False)]
