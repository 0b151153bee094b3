"""Each checker sees what it is for, and nothing in a run that is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.raftsim.checkers import Checkers, Violation, check_durability
from harness.raftsim.replica import Acknowledged, LogEntry, Refused, Unknown, View, next_digest


def _log(*terms: int) -> list[LogEntry]:
    """Entries 1, 2, ... with these terms; the command says both."""
    return [(b"%d/%d" % (index, term), index, term) for index, term in enumerate(terms, 1)]


def _view(term: int, log: list[LogEntry], commit: int = 1, *, leads: bool = False) -> View:
    return View(leads, term, log, commit)


def test_a_run_that_is_right_is_accepted() -> None:
    checkers = Checkers()
    for name in "ABC":
        checkers.started(name)
        checkers.observe(name, _view(0, _log(0)))
    command = checkers.clients.begin("A", b"x")
    log = [*_log(0, 1), (b"x", 3, 1)]
    checkers.observe("A", _view(1, _log(0, 1), leads=True))
    checkers.observe("A", _view(1, log, leads=True))
    checkers.observe("B", _view(1, log))
    checkers.observe("A", _view(1, log, 3, leads=True))
    checkers.applied("A", 3, b"x", 0)
    checkers.clients.end(command, Acknowledged(3), checkers.safety)
    checkers.observe("B", _view(2, [*log, (b"noop", 4, 2)], 3, leads=True))
    checkers.applied("B", 3, b"x", 0)
    check_durability(checkers.clients.acknowledged, "B", [(3, b"x")])


def _two_leaders(checkers: Checkers) -> None:
    checkers.observe("A", _view(2, _log(0, 2), leads=True))
    checkers.observe("B", _view(2, _log(0, 2), leads=True))


def _leader_cuts(checkers: Checkers) -> None:
    checkers.observe("A", _view(2, _log(0, 1, 2, 2), leads=True))
    checkers.observe("A", _view(2, _log(0, 1, 2), leads=True))


def _leader_replaces(checkers: Checkers) -> None:
    checkers.observe("A", _view(2, _log(0, 1, 2), leads=True))
    checkers.observe("A", _view(2, [*_log(0, 1), (b"other", 3, 2), (b"more", 4, 2)], leads=True))


def _other_command(checkers: Checkers) -> None:
    checkers.observe("A", _view(1, _log(0, 1)))
    checkers.observe("B", _view(1, [*_log(0), (b"other", 2, 1)]))


def _other_prefix(checkers: Checkers) -> None:
    checkers.observe("A", _view(3, _log(0, 1, 3)))
    checkers.observe("B", _view(3, _log(0, 2, 3)))


def _gap(checkers: Checkers) -> None:
    checkers.observe("A", _view(1, [*_log(0), (b"5/1", 5, 1)]))


def _nothing_left(checkers: Checkers) -> None:
    checkers.observe("A", _view(1, []))


def _leader_lacks_committed(checkers: Checkers) -> None:
    checkers.observe("A", _view(1, _log(0, 1, 1), 3, leads=True))
    checkers.observe("B", _view(2, _log(0, 1), leads=True))


def _other_entry_committed(checkers: Checkers) -> None:
    checkers.observe("A", _view(1, _log(0, 1, 1), 3, leads=True))
    checkers.observe("B", _view(2, _log(0, 1, 2), 3))


def _apply_another(checkers: Checkers) -> None:
    checkers.applied("A", 2, b"x", 0)
    checkers.applied("B", 2, b"y", 0)


def _apply_again(checkers: Checkers) -> None:
    checkers.applied("A", 2, b"x", 0)
    checkers.applied("A", 2, b"x", next_digest(0, 2, b"x"))


def _apply_backwards(checkers: Checkers) -> None:
    checkers.applied("A", 3, b"x", 0)
    checkers.applied("A", 2, b"y", next_digest(0, 3, b"x"))


def _same_command_at_two_positions(checkers: Checkers) -> None:
    checkers.applied("A", 2, b"x", 0)
    checkers.applied("A", 3, b"x", next_digest(0, 2, b"x"))


def _skip_a_position(checkers: Checkers) -> None:
    checkers.applied("A", 2, b"x", 0)
    checkers.applied("A", 3, b"y", next_digest(0, 2, b"x"))
    checkers.applied("B", 3, b"y", 0)


def _state_goes_back(checkers: Checkers) -> None:
    checkers.applied("A", 2, b"x", 0)
    checkers.applied("A", 3, b"y", next_digest(0, 2, b"x"))
    checkers.safety.restored("A", [(2, b"x")], next_digest(0, 2, b"x"))


def _snapshot_of_nothing(checkers: Checkers) -> None:
    checkers.safety.restored("A", [(2, b"x")], next_digest(0, 2, b"x"))


def _acknowledged_but_not_applied(checkers: Checkers) -> None:
    checkers.clients.end(checkers.clients.begin("A", b"x"), Acknowledged(2), checkers.safety)


def _acknowledged_at_anothers_position(checkers: Checkers) -> None:
    checkers.applied("A", 2, b"y", 0)
    checkers.clients.end(checkers.clients.begin("A", b"x"), Acknowledged(2), checkers.safety)


def _refused_before_applied(checkers: Checkers) -> None:
    checkers.clients.end(checkers.clients.begin("A", b"x"), Refused("no"), checkers.safety)
    checkers.applied("A", 2, b"x", 0)


def _refused_after_applied(checkers: Checkers) -> None:
    checkers.applied("A", 2, b"x", 0)
    checkers.clients.end(checkers.clients.begin("A", b"x"), Refused("no"), checkers.safety)


def _order_against_real_time(checkers: Checkers) -> None:
    first = checkers.clients.begin("A", b"x")
    checkers.applied("A", 2, b"y", 0)
    checkers.applied("A", 3, b"x", next_digest(0, 2, b"y"))
    checkers.clients.end(first, Acknowledged(3), checkers.safety)
    checkers.clients.end(checkers.clients.begin("B", b"y"), Acknowledged(2), checkers.safety)


def _stale_barrier(checkers: Checkers) -> None:
    checkers.applied("A", 5, b"x", 0)
    checkers.clients.end(checkers.clients.begin("A", b"x"), Acknowledged(5), checkers.safety)
    checkers.clients.end(checkers.clients.begin("B", None), Acknowledged(4), checkers.safety)


def _barrier_ahead_of_the_state(checkers: Checkers) -> None:
    checkers.applied("A", 5, b"x", 0)
    checkers.clients.end(checkers.clients.begin("A", b"x"), Acknowledged(5), checkers.safety)
    checkers.clients.end(checkers.clients.begin("B", None), Acknowledged(6), checkers.safety)


def _two_outcomes(checkers: Checkers) -> None:
    proposal = checkers.clients.begin("A", b"x")
    checkers.clients.end(proposal, Unknown("?"), checkers.safety)
    checkers.clients.end(proposal, Refused("no"), checkers.safety)


def _lost(checkers: Checkers) -> None:
    checkers.applied("A", 2, b"x", 0)
    checkers.clients.end(checkers.clients.begin("A", b"x"), Acknowledged(2), checkers.safety)
    check_durability(checkers.clients.acknowledged, "B", [(2, b"y")])


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("ElectionSafety", _two_leaders),
        ("LeaderAppendOnly", _leader_cuts),
        ("LeaderAppendOnly", _leader_replaces),
        ("LogMatching", _other_command),
        ("LogMatching", _other_prefix),
        ("LogMatching", _gap),
        ("LogMatching", _nothing_left),
        ("LeaderCompleteness", _leader_lacks_committed),
        ("StateMachineSafety", _other_entry_committed),
        ("StateMachineSafety", _apply_another),
        ("StateMachineSafety", _apply_again),
        ("StateMachineSafety", _apply_backwards),
        ("StateMachineSafety", _same_command_at_two_positions),
        ("StateMachineSafety", _skip_a_position),
        ("StateMachineSafety", _state_goes_back),
        ("StateMachineSafety", _snapshot_of_nothing),
        ("Linearizability", _acknowledged_but_not_applied),
        ("Linearizability", _acknowledged_at_anothers_position),
        ("Linearizability", _refused_before_applied),
        ("Linearizability", _refused_after_applied),
        ("Linearizability", _order_against_real_time),
        ("Linearizability", _stale_barrier),
        ("Linearizability", _barrier_ahead_of_the_state),
        ("Linearizability", _two_outcomes),
        ("DurableMembership", _lost),
    ],
)
def test_a_run_that_is_wrong_is_refused(rule: str, wrong: Callable[[Checkers], None]) -> None:
    checkers = Checkers()
    for name in "AB":
        checkers.started(name)
    with pytest.raises(Violation) as found:
        wrong(checkers)
    assert found.value.rule == rule
