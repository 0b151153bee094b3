"""Sequential specifications of one object each, for the linearizability checkers. `LinearizableMembership` is a history
of changes and reads of members that `MemberRegister` accepts."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from harness.faults.history import Operation, Outcome


class _Illegal:
    """The state after an operation that cannot have happened."""


ILLEGAL = _Illegal()
State = Hashable


class Model(Protocol):
    """States are hashable values; `step` gives the state after an operation, or ILLEGAL."""

    initial: State

    def step(self, state: State, operation: Operation) -> State:
        """The state after `operation` in `state`. An operation of unknown outcome fits whatever it would have seen."""

    def is_read(self, operation: Operation) -> bool:
        """Whether the operation changes nothing: of unknown outcome it says nothing and is left out."""


class Register:
    """Functions `write(value)`, `read() -> value`, `compare_and_set([expected, value]) -> bool`. Begins as None."""

    initial: State = None

    def step(self, state: State, operation: Operation) -> State:
        """See `Model.step`."""
        match operation.function:
            case "write":
                return _hashable(operation.argument)
            case "read":
                return state if _hashable(operation.result) == state else ILLEGAL
            case "compare_and_set":
                expected, value = operation.argument
                swapped = _hashable(expected) == state
                if operation.outcome is Outcome.OK and operation.result is not swapped:
                    return ILLEGAL
                return _hashable(value) if swapped else state
        raise ValueError(f"a register has no function {operation.function!r}")

    def is_read(self, operation: Operation) -> bool:
        """See `Model.is_read`."""
        return operation.function == "read"


class AppendList:
    """Functions `append(value)`, which may return the list after it, and `read() -> list`. Begins empty."""

    initial: State = ()

    def step(self, state: State, operation: Operation) -> State:
        """See `Model.step`."""
        assert isinstance(state, tuple)
        match operation.function:
            case "append":
                after = (*state, _hashable(operation.argument))
                seen = operation.result
                return ILLEGAL if seen is not None and _hashable(seen) != after else after
            case "read":
                return state if _hashable(operation.result) == state else ILLEGAL
        raise ValueError(f"a list has no function {operation.function!r}")

    def is_read(self, operation: Operation) -> bool:
        """See `Model.is_read`."""
        return operation.function == "read"


class Counter:
    """Functions `add(amount) -> sum after it` and `read() -> sum`. Begins as 0."""

    initial: State = 0

    def step(self, state: State, operation: Operation) -> State:
        """See `Model.step`."""
        assert isinstance(state, int)
        match operation.function:
            case "add":
                after = state + operation.argument
                return ILLEGAL if operation.result not in {None, after} else after
            case "read":
                return state if operation.result == state else ILLEGAL
        raise ValueError(f"a counter has no function {operation.function!r}")

    def is_read(self, operation: Operation) -> bool:
        """See `Model.is_read`."""
        return operation.function == "read"


class MemberRegister:
    """One name in the membership: `join()`, `upsert(weight)`, `remove()`, `read() -> weight`, None if it is none. A
    weight is kept for the name, whether or not it is a member. Begins as a member without a weight."""

    initial: State = (True, None)

    def step(self, state: State, operation: Operation) -> State:
        """See `Model.step`."""
        assert isinstance(state, tuple)
        present, weight = state
        match operation.function:
            case "join":
                return (True, weight)
            case "upsert":
                return (present, _hashable(operation.argument))
            case "remove":
                return (False, weight)
            case "read":
                return state if _hashable(operation.result) == (weight if present else None) else ILLEGAL
        raise ValueError(f"a member has no function {operation.function!r}")

    def is_read(self, operation: Operation) -> bool:
        """See `Model.is_read`."""
        return operation.function == "read"


def _hashable(value: object) -> State:
    if isinstance(value, list | tuple):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, dict):
        return tuple(sorted((key, _hashable(item)) for key, item in value.items()))
    assert isinstance(value, Hashable)
    return value
