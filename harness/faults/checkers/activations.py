"""Checkers of what hosts ran: `SingleActivation`, `TurnBased`, `DuplicateWindow`, and exactly one activation after the
heal (`ExactlyOneAfterHeal`; under policy `exclusive` this is `EventuallyServed`).

Turns are recorded by the actors themselves with two readings of the machine's clock that lie inside the turn, so the
interval between them is surely part of it: two that overlap are a proof, not a suspicion. (The whole turn is longer;
what a bound is compared with is therefore the least that can have happened, never more.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from attrs import frozen

from callboard.core.slot_records import slot_of
from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.history import History

GRANTED = "granted"
"""Note of slots that a host took over: host, incarnation, actor_type, first, count, since, fence."""
TURN = "turn"
"""Note of one turn: host, incarnation, actor, fence, begun_ns, ended_ns, chain (of calls, if reentrant)."""


@frozen
class Turn:
    """One turn of one actor in one incarnation of a host. `fence` is 0 where the policy has none."""

    actor: str
    host: str
    incarnation: int
    fence: int
    begun_ns: int
    ended_ns: int
    chain: str = ""

    @property
    def place(self) -> tuple[str, int]:
        """Host and incarnation."""
        return (self.host, self.incarnation)

    def __str__(self) -> str:
        return (
            f"{self.actor} in {self.host}/{self.incarnation} under fence {self.fence}: "
            f"[{self.begun_ns / 1e6:.3f}, {self.ended_ns / 1e6:.3f}] ms"
        )


@frozen
class _Duplicate:
    """At `at_ns` the second turn ran beside, or instead of, the place of the first."""

    at_ns: int
    first: Turn
    second: Turn


def turns_of(history: History) -> dict[str, list[Turn]]:
    """Turns by actor, in the order in which they began."""
    by_actor: dict[str, list[Turn]] = {}
    for note in history.notes_of(TURN):
        fields = note.fields
        turn = Turn(
            fields["actor"],
            fields["host"],
            fields["incarnation"],
            fields.get("fence", 0),
            fields["begun_ns"],
            fields["ended_ns"],
            fields.get("chain", ""),
        )
        by_actor.setdefault(turn.actor, []).append(turn)
    for turns in by_actor.values():
        turns.sort(key=lambda turn: (turn.begun_ns, turn.ended_ns))
    return by_actor


def check_single_activation(history: History) -> CheckResult:
    """No two incarnations run turns of one actor at once. Exposure: how often an actor changed its place."""
    by_actor = turns_of(history)
    overlaps = list(_overlaps(by_actor, same_place=False))
    figures = _figures(by_actor) | {"duplicates": len(overlaps)}
    if overlaps:
        first, second = overlaps[0]
        lines = ("two incarnations run one actor at once", f"  {first}", f"  {second}")
        return CheckResult("single_activation", Verdict.INVALID, lines, figures)
    return _nothing_found("single_activation", figures)


def check_turn_based(history: History) -> CheckResult:
    """Within one incarnation turns of one actor follow each other, except along one chain of calls."""
    by_actor = turns_of(history)
    figures = _figures(by_actor)
    for first, second in _overlaps(by_actor, same_place=True):
        if not first.chain or first.chain != second.chain:
            lines = ("two turns of one actor at once in one host", f"  {first}", f"  {second}")
            return CheckResult("turn_based", Verdict.INVALID, lines, figures)
    return _nothing_found("turn_based", figures)


def check_stale_turns(history: History) -> CheckResult:
    """No turn begins under a fence after a turn under a higher fence of the same actor began: a zombie acting late,
    which intervals that do not overlap cannot show."""
    by_actor = turns_of(history)
    stale: list[tuple[Turn, Turn]] = []
    for turns in by_actor.values():
        highest: Turn | None = None
        for turn in turns:
            if highest is not None and turn.fence < highest.fence and turn.begun_ns > highest.begun_ns:
                stale.append((highest, turn))
            if highest is None or turn.fence > highest.fence:
                highest = turn
    figures = _figures(by_actor) | {"duplicates": len(stale)}
    if stale:
        lines = ("a turn under an older fence after one under a newer", f"  {stale[0][0]}", f"  {stale[0][1]}")
        return CheckResult("stale_turns", Verdict.INVALID, lines, figures)
    return _nothing_found("stale_turns", figures)


def check_duplicate_window(history: History, *, bound_ms: int, healed_ns: int) -> CheckResult:
    """`DuplicateWindow`: turns of one actor in two places overlap or alternate until `bound_ms` after the heal at most.
    The place of an actor is the one that the newest version of the table gave it, of those whose hosts ran it.

    Args:
        bound_ms: computed from the settings of the run (spec/README.md has the formula).
        healed_ns: the later of the heal and of the moment from which the hosts were able to run.
    """
    by_actor = turns_of(history)
    figures = _figures(by_actor) | {"actors_with_duplicates": 0, "longest_after_heal_ms": 0}
    worst: _Duplicate | None = None
    since_of = _sinces(history)
    for turns in by_actor.values():
        last = _last_duplicate(turns, since_of)
        if last is None:
            continue
        figures["actors_with_duplicates"] += 1
        if worst is None or last.at_ns > worst.at_ns:
            worst = last
    if worst is None:
        return _nothing_found("duplicate_window", figures)
    after_ms = figures["longest_after_heal_ms"] = max(0, worst.at_ns - healed_ns) // 1_000_000
    if after_ms <= bound_ms:
        return _nothing_found("duplicate_window", figures)
    lines = (
        f"an actor runs in two places {after_ms} ms after the heal; the bound is {bound_ms} ms",
        f"  {worst.first}",
        f"  {worst.second}",
    )
    return CheckResult("duplicate_window", Verdict.INVALID, lines, figures)


def check_exactly_one(history: History, *, settled_ns: int, actors: Iterable[str]) -> CheckResult:
    """After `settled_ns` each of `actors` runs, and in one place only."""
    by_actor = turns_of(history)
    wanted = sorted(actors)
    figures = {"actors": len(wanted)}
    for actor in wanted:
        late = [turn for turn in by_actor.get(actor, ()) if turn.begun_ns >= settled_ns]
        places = {turn.place: turn for turn in late}
        if len(places) != 1:
            what = "nowhere" if not places else f"in {len(places)} places"
            lines = (
                f"actor {actor} runs {what} after everything had settled",
                *(f"  {turn}" for turn in places.values()),
            )
            return CheckResult("exactly_one", Verdict.INVALID, lines, figures)
    verdict = Verdict.VALID if wanted else Verdict.UNKNOWN
    return CheckResult("exactly_one", verdict, () if wanted else ("no actors to look at",), figures)


def _last_duplicate(turns: Sequence[Turn], since_of: Callable[[Turn], int]) -> _Duplicate | None:
    """The last instant at which one of these turns of one actor ran in a second place."""
    overlaps = [
        _Duplicate(min(first.ended_ns, second.ended_ns), first, second)
        for first, second in _overlaps({"": turns}, same_place=False)
    ]
    found = [*overlaps, *_strays(turns, since_of)]
    return max(found, key=lambda each: each.at_ns, default=None)


def _strays(turns: Sequence[Turn], since_of: Callable[[Turn], int]) -> Iterable[_Duplicate]:
    """Turns elsewhere than the newest table says. Where tables say nothing, returns to a place that another had taken
    over from: which of the two is the right one is not known, so they count each time."""
    newest: Turn | None = None
    left: set[tuple[str, int]] = set()
    """Places from which others took over, by the version that counts now."""
    for turn in turns:
        if newest is None or since_of(turn) > since_of(newest):
            newest, left = turn, set()
        elif since_of(turn) < since_of(newest):
            yield _Duplicate(turn.begun_ns, newest, turn)
        elif turn.place != newest.place:
            if turn.place in left:
                yield _Duplicate(turn.begun_ns, newest, turn)
            left.add(newest.place)
            newest = turn


def _sinces(history: History) -> Callable[[Turn], int]:
    """For a turn: the version of the table since which its host has had the slot; 0 if nothing was written of that."""
    settings = history.settings.get("namespaces", {}).get("actors", {})
    granted: dict[tuple[str, int, str, int], list[tuple[int, int]]] = {}
    for note in history.notes_of(GRANTED):
        fields = note.fields
        for slot in range(fields["first"], fields["first"] + fields["count"]):
            key = (fields["host"], fields["incarnation"], fields["actor_type"], slot)
            granted.setdefault(key, []).append((note.at_ns, fields["since"]))

    def since_of(turn: Turn) -> int:
        kind, _, actor_id = turn.actor.partition("/")
        slot = slot_of(kind, actor_id, settings["slot_bits"]) if granted else 0
        of_slot = granted.get((turn.host, turn.incarnation, kind, slot), ())
        return max((since for at_ns, since in of_slot if at_ns <= turn.begun_ns), default=0)

    return since_of


def _overlaps(by_actor: Mapping[str, Sequence[Turn]], *, same_place: bool) -> Iterable[tuple[Turn, Turn]]:
    """Sweep along time: each turn against those that are still open."""
    for turns in by_actor.values():
        still_open: list[Turn] = []
        for turn in turns:
            still_open = [other for other in still_open if other.ended_ns > turn.begun_ns]
            for other in still_open:
                if (other.place == turn.place) is same_place:
                    yield other, turn
            still_open.append(turn)


def _figures(by_actor: Mapping[str, Sequence[Turn]]) -> dict[str, int]:
    moves = sum(before.place != after.place for turns in by_actor.values() for before, after in pairwise(turns))
    return {"actors": len(by_actor), "turns": sum(map(len, by_actor.values())), "moves": moves}


def _nothing_found(checker: str, figures: Mapping[str, int]) -> CheckResult:
    if figures["turns"]:
        return CheckResult(checker, Verdict.VALID, (), figures)
    return CheckResult(checker, Verdict.UNKNOWN, ("no actor had a turn",), figures)
