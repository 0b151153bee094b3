"""What the state machines of this directory have in common: they count their work, and say what they aim at."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any, ClassVar

from attrs import define
from hypothesis import HealthCheck, Phase, seed, settings, target
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test

from harness.violation import PropertyViolation


@define
class Effort:
    """How much was tried."""

    examples: int = 0
    steps: int = 0


class Disagreement(AssertionError):
    """Implementation and model are not of one mind; `name` is the property that they disagree about."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


def agree(name: str, found: object, expected: object) -> None:
    """Fail unless the implementation has what the model has."""
    if found != expected:
        raise Disagreement(name, f"the implementation has {found}, the model {expected}")


def name_of(failure: BaseException) -> str:
    """The property that a failure is about; empty if it names none."""
    return failure.name if isinstance(failure, (Disagreement, PropertyViolation)) else ""


class SideBySide(RuleBasedStateMachine):
    """Implementation and model, compared after every step."""

    effort: ClassVar[Effort] = Effort()
    search_examples: ClassVar[int] = 300
    """Within as many examples every seeded bug must be found; most are within ten."""

    def __init__(self) -> None:
        super().__init__()
        self._aims: dict[str, float] = {}
        SideBySide.effort.examples += 1

    @invariant()
    def counted(self) -> None:
        SideBySide.effort.steps += 1

    def aim(self, label: str, value: float) -> None:
        """Hypothesis prefers examples in which the highest of these values is higher."""
        self._aims[label] = max(value, self._aims.get(label, value))

    def finish(self) -> None:
        """What must hold at the end of an example that did not fail."""

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # a failure is not to be hidden behind what follows from it
            self.finish()
        for label, value in sorted(self._aims.items()):
            target(value, label=label)


class NotFoundError(Exception):
    """The search ended without a failure."""


def search(
    machine: type[RuleBasedStateMachine], *, examples: int, steps: int, properties: Collection[str]
) -> tuple[Effort, str]:
    """Look for a failure that names one of these properties, without shrinking; failures that name others are passed
    over. Returns what it cost, and the name.

    What Hypothesis draws depends on which modules the process has loaded, and so does what is found first.

    Raises:
        NotFoundError: there is none within so many examples; the message says what there was instead.
    """
    SideBySide.effort = effort = Effort()
    others: set[str] = set()
    attempt = 0
    while effort.examples < examples:
        attempt += 1
        tried = seed(attempt)(type(machine.__name__, (machine,), {}))
        try:
            run_state_machine_as_test(tried, settings=_bounded(examples - effort.examples, steps))
        except AssertionError as failure:
            if name_of(failure) in properties:
                return effort, name_of(failure)
            others.add(name_of(failure) or type(failure).__name__)
    raise NotFoundError(
        f"not found in {effort.examples} examples; other failures: {', '.join(sorted(others)) or 'none'}"
    )


def _bounded(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # aiming knows no bound on how often it tries
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


def steps_of(machine: type[Any]) -> int:
    """How many steps the machine's examples have in its own tests."""
    return int(machine.TestCase.settings.stateful_step_count)
