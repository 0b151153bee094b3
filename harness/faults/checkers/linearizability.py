"""Linearizability (Herlihy and Wing): is there an order of the operations, true to real time, that the model accepts?

`check` searches it without any help of the service: the algorithm of Wing and Gong with Lowe's cache of
configurations, key by key (P-compositionality, Horn and Kroening 2015). The search is exponential at worst, so it has
a limit of steps, after which the verdict is unknown. All keys get their turns with growing budgets: one illegal key is
found although another one is costly.

`check_by_index` trusts the log positions that the service returned and is then cheap enough for whole histories: the
operations in the order of their positions must satisfy the model and real time. A service that lies about positions is
what `check` is for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from attrs import define, field

from harness.faults.checkers.models import ILLEGAL, Model, State
from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.history import Operation, Outcome

STEPS_PER_TURN = 20_000
EXCERPT_MAX = 12
SHOWN_MAX = 6
STATES_MAX = 64
"""Possible states of one key that `check_by_index` follows."""


@define
class _Entry:
    """A call or a return in a doubly linked list in the order of time."""

    operation: int
    is_call: bool
    previous: _Entry | None = None
    next: _Entry | None = None
    match: _Entry | None = None
    """Of a call: its return; None if the operation may be ordered after everything or never happen."""


@define
class Search:
    """The search for one key; `run` can be called again and again until it decides."""

    operations: Sequence[Operation]
    model: Model
    steps: int = 0
    verdict: Verdict | None = None
    longest: tuple[int, ...] = ()
    _head: _Entry = field(init=False)
    _entry: _Entry | None = field(init=False)
    _state: State = field(init=False)
    _done: int = 0
    _open: int = field(init=False)
    _seen: set[tuple[int, State]] = field(init=False, factory=set)
    _path: list[tuple[_Entry, State]] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.operations = relevant(self.operations, self.model)
        self._head = _linked(self.operations)
        self._entry = self._head.next
        self._state = self.model.initial
        self._open = sum(operation.returned_ns is not None for operation in self.operations)

    def run(self, steps_max: int) -> Verdict | None:
        """Go on for at most `steps_max` steps. None: not decided yet."""
        limit = self.steps + steps_max
        while self.verdict is None and self.steps < limit:
            self.steps += 1
            self._step()
        return self.verdict

    def _step(self) -> None:
        if self._open == 0:
            self._note_longest()
            self.verdict = Verdict.VALID
            return
        entry = self._entry
        assert entry is not None, "an operation that returned is still open, so its return is in the list"
        if not entry.is_call:
            self._backtrack()
            return
        state = self.model.step(self._state, self.operations[entry.operation])
        configuration = (self._done | 1 << entry.operation, state)
        if state is ILLEGAL or configuration in self._seen:
            self._entry = entry.next
            return
        self._seen.add(configuration)
        self._path.append((entry, self._state))
        self._done, self._state = configuration
        self._open -= entry.match is not None
        _lift(entry)
        self._entry = self._head.next

    def _backtrack(self) -> None:
        """This operation has returned, so it comes before all that could be tried next: the last choice was wrong."""
        self._note_longest()
        if not self._path:
            self.verdict = Verdict.INVALID
            return
        entry, self._state = self._path.pop()
        self._done &= ~(1 << entry.operation)
        self._open += entry.match is not None
        _unlift(entry)
        self._entry = entry.next

    def _note_longest(self) -> None:
        if len(self._path) > len(self.longest):
            self.longest = tuple(entry.operation for entry, _ in self._path)

    def explanation(self) -> tuple[str, ...]:
        """Where the longest order that was found ends, and what could not follow it."""
        ordered = set(self.longest)
        after = [self.operations[number] for number in self.longest][-EXCERPT_MAX // 2 :]
        rest = [operation for number, operation in enumerate(self.operations) if number not in ordered]
        state = self.model.initial
        for number in self.longest:
            state = self.model.step(state, self.operations[number])
        return (
            f"the longest order that fits has {len(self.longest)} of {len(self.operations)} operations; it ends with",
            *(f"  {describe(operation)}" for operation in after),
            f"and leaves the state {shortened(state)}; none of these can follow:",
            *(f"  {describe(operation)}" for operation in rest[: EXCERPT_MAX // 2]),
        )


def relevant(operations: Sequence[Operation], model: Model) -> list[Operation]:
    """Without those that surely had no effect, and without reads that nobody saw the answer of."""
    return [
        operation
        for operation in operations
        if operation.outcome is Outcome.OK or (operation.outcome is Outcome.INFO and not model.is_read(operation))
    ]


def describe(operation: Operation) -> str:
    """One line for people."""
    returned = "no answer" if operation.returned_ns is None else f"{operation.returned_ns / 1e6:.3f}"
    argument = "" if operation.argument is None else f"{operation.argument!r}"
    ended = f"{operation.outcome.value} {shortened(operation.result)}"
    return (
        f"[{operation.called_ns / 1e6:.3f}, {returned}] ms process {operation.process}: "
        f"{operation.function}({argument}) on {operation.key} -> {ended}"
    )


def shortened(value: object) -> str:
    """Of long lists the length and the end, where histories differ."""
    if isinstance(value, list | tuple) and len(value) > SHOWN_MAX:
        end = ", ".join(map(repr, value[-SHOWN_MAX:]))
        return f"[{len(value) - SHOWN_MAX} values, {end}]"
    return repr(value)


def check(
    by_key: Mapping[str, Sequence[Operation]], model: Model, *, time_limit_s: float, checker: str = "linearizability"
) -> CheckResult:
    """Search an order for each key. `time_limit_s` is for all keys together; beyond it the verdict is unknown."""
    searches = {key: Search(operations, model) for key, operations in by_key.items()}
    figures = {"keys": len(searches), "operations": sum(len(search.operations) for search in searches.values())}
    deadline = time.monotonic() + time_limit_s
    undecided, budget = sorted(searches.items(), key=lambda item: len(item[1].operations)), STEPS_PER_TURN
    while undecided:
        left = []
        for key, search in undecided:
            verdict = search.run(budget)
            if verdict is Verdict.INVALID:
                lines = (f"key {key} is not linearizable", *search.explanation())
                return CheckResult(checker, verdict, lines, figures)
            if verdict is None:
                left.append((key, search))
                if time.monotonic() > deadline:
                    text = f"not decided within {time_limit_s} s: {len(left)} keys at least, {key} among them"
                    return CheckResult(checker, Verdict.UNKNOWN, (text,), figures)
        undecided, budget = left, budget * 2
    return CheckResult(checker, Verdict.VALID, (), figures)


def check_by_index(
    by_key: Mapping[str, Sequence[Operation]], model: Model, *, checker: str = "linearizability_by_index"
) -> CheckResult:
    """Take the order that the service's log positions give, and check it against the model and real time.

    Writes of unknown outcome have no position: each may have taken effect, once or again, anywhere after its call. A
    key that has an answer without a position, or too many states that are possible, is left to `check`.
    """
    figures = {"keys": 0, "operations": 0, "keys_left_out": 0}
    for key, operations in by_key.items():
        known = relevant(operations, model)
        placed = [operation for operation in known if operation.outcome is Outcome.OK]
        if not placed or any(operation.index is None for operation in placed):
            figures["keys_left_out"] += 1
            continue
        unknown = [operation for operation in known if operation.outcome is not Outcome.OK]
        try:
            problem = _problem_of_order(placed, unknown, model)
        except _TooManyStatesError:
            figures["keys_left_out"] += 1
            continue
        figures["keys"] += 1
        figures["operations"] += len(placed)
        if problem is not None:
            return CheckResult(checker, Verdict.INVALID, (f"key {key}: {problem[0]}", *problem[1:]), figures)
    if not figures["keys"]:
        return CheckResult(checker, Verdict.UNKNOWN, ("no key has positions that could be followed",), figures)
    return CheckResult(checker, Verdict.VALID, (), figures)


class _TooManyStatesError(Exception):
    pass


def _problem_of_order(
    placed: Sequence[Operation], unknown: Sequence[Operation], model: Model
) -> tuple[str, ...] | None:
    """Writes come at their positions; a read of position i comes after the write at i, before the next one."""

    def place(operation: Operation) -> tuple[int, bool, int]:
        assert operation.index is not None
        return (operation.index, model.is_read(operation), operation.called_ns)

    states: set[State] = {model.initial}
    latest_call: Operation | None = None
    positions: dict[int, Operation] = {}
    for operation in sorted(placed, key=place):
        assert operation.index is not None
        if not model.is_read(operation):
            if operation.index in positions:
                return (f"two writes at position {operation.index}", *_lines(positions[operation.index], operation))
            positions[operation.index] = operation
        returned = operation.returned_ns
        assert returned is not None
        if latest_call is not None and returned < latest_call.called_ns:
            return ("positions contradict real time", *_lines(latest_call, operation))
        before = _may_have_become(states, [each for each in unknown if each.called_ns <= returned], model)
        states = {after for state in before if (after := model.step(state, operation)) is not ILLEGAL}
        if not states:
            shown = " or ".join(sorted(map(shortened, before)))
            return (f"in the state {shown} this cannot happen", *_lines(operation))
        if latest_call is None or operation.called_ns > latest_call.called_ns:
            latest_call = operation
    return None


def _may_have_become(states: set[State], unknown: Sequence[Operation], model: Model) -> set[State]:
    """The states, and all that writes of unknown outcome can have made of them."""
    found, fresh = set(states), set(states)
    while fresh:
        fresh = {after for state in fresh for each in unknown if (after := model.step(state, each)) is not ILLEGAL}
        fresh -= found
        found |= fresh
        if len(found) > STATES_MAX:
            raise _TooManyStatesError
    return found


def _lines(*operations: Operation) -> tuple[str, ...]:
    return tuple(f"  position {operation.index}: {describe(operation)}" for operation in operations)


def _linked(operations: Sequence[Operation]) -> _Entry:
    """Calls before returns at the same instant: intervals are closed, which only makes more orders possible."""
    entries: list[tuple[int, int, _Entry]] = []
    for number, operation in enumerate(operations):
        call = _Entry(number, is_call=True)
        entries.append((operation.called_ns, 0, call))
        if operation.returned_ns is not None:
            call.match = _Entry(number, is_call=False)
            entries.append((operation.returned_ns, 1, call.match))
    entries.sort(key=lambda entry: entry[:2])
    head = last = _Entry(-1, is_call=True)
    for _, _, entry in entries:
        last.next, entry.previous = entry, last
        last = entry
    return head


def _lift(call: _Entry) -> None:
    for entry in (call, call.match):
        if entry is not None:
            assert entry.previous is not None
            entry.previous.next = entry.next
            if entry.next is not None:
                entry.next.previous = entry.previous


def _unlift(call: _Entry) -> None:
    for entry in (call.match, call):
        if entry is not None:
            assert entry.previous is not None
            entry.previous.next = entry
            if entry.next is not None:
                entry.next.previous = entry
