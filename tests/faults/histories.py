"""Small histories for the tests of checkers: written by hand, or drawn from a simulated object."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

from harness.faults.checkers.models import ILLEGAL, Model
from harness.faults.history import Operation, Outcome, Phase

_numbers = itertools.count(1)


def operation(
    function: str,
    called: int,
    returned: int | None,
    argument: Any = None,
    result: Any = None,
    *,
    outcome: Outcome | None = None,
    process: int = 0,
    index: int | None = None,
    key: str = "k",
) -> Operation:
    """One operation; without a return it is of unknown outcome."""
    known = outcome or (Outcome.INFO if returned is None else Outcome.OK)
    return Operation(
        next(_numbers), process, function, key, argument, known, result, called, returned, Phase.DURING, index
    )


def linearizable_by_brute_force(operations: Sequence[Operation], model: Model) -> bool:
    """Try every order of every choice of the operations of unknown outcome. For a handful of operations only."""
    known = [entry for entry in operations if entry.outcome is Outcome.OK]
    unknown = [entry for entry in operations if entry.outcome is Outcome.INFO and not model.is_read(entry)]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            if any(_fits(order, model) for order in itertools.permutations([*known, *chosen])):
                return True
    return False


def _fits(order: Sequence[Operation], model: Model) -> bool:
    state = model.initial
    for position, entry in enumerate(order):
        state = model.step(state, entry)
        if state is ILLEGAL:
            return False
        for later in order[position + 1 :]:
            if later.returned_ns is not None and later.returned_ns < entry.called_ns:
                return False
    return True


def drawn_register_history(
    seed: int, *, operations: int, processes: int, stale_reads: bool = False, lost_writes: bool = False
) -> list[Operation]:
    """What clients of a register see that takes each operation at one drawn instant of its interval.

    Seeded bugs: `stale_reads` answers one read from the value before the newest; `lost_writes` acknowledges a write
    without doing it.
    """
    drawn = random.Random(seed)
    free_at = dict.fromkeys(range(processes), 0)
    plans = []
    for number in range(operations):
        process = drawn.choice(sorted(free_at))
        called = free_at[process] + drawn.randint(0, 5)
        instant, returned = called + drawn.randint(0, 8), 0
        returned = instant + drawn.randint(0, 8)
        unknown = drawn.random() < 0.1
        free_at[process] = returned + 1
        kind = drawn.choice(["read", "write", "compare_and_set"])
        plans.append((instant, number, process, called, None if unknown else returned, kind))
    history, values = [], [None, None]
    for instant, number, process, called, answered, kind in sorted(plans):
        happens = answered is not None or drawn.random() < 0.5
        argument: Any = None
        result: Any = None
        if kind == "read":
            result = values[-2] if stale_reads and drawn.random() < 0.3 else values[-1]
        elif kind == "write":
            argument = number
            if happens and not (lost_writes and drawn.random() < 0.3):
                values.append(argument)
        else:
            argument = [drawn.choice(values[-2:]), number]
            result = values[-1] == argument[0]
            if happens and result:
                values.append(argument[1])
        seen = None if answered is None else result
        history.append(
            operation(kind, called, answered, argument, seen, process=process, index=instant * 1000 + number)
        )
    return sorted(history, key=lambda entry: entry.called_ns)
