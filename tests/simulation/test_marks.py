"""What operators were told of hosts' marks has to be so at the end of a run."""

from __future__ import annotations

import pytest
from attrs import evolve

from callboard.core.records import Answer, AnswerCode, ReplicatedState
from callboard.core.slot_records import HostMark, NativeNamespace
from callboard.core.versions import Policy, Version
from harness.simulation.marks import Marks
from harness.simulation.plan import Fault, draw
from harness.simulation.world import World
from harness.violation import PropertyViolation


def test_a_mark_that_was_acknowledged_and_is_lost_is_noticed() -> None:
    plan = evolve(draw(1), faults=(Fault(1000, "mark", other=1),), scars=())
    world = World(plan)
    world.run()
    assert world.faults.bitten == {"mark": 1}
    states = {name: replica.state for name, replica in world.replicas.items()}
    world.history.compare_all(states)
    earlier = dict.fromkeys(states, world.history.entries[1].state)
    with pytest.raises(PropertyViolation, match="was acknowledged, but replicas end at 1"):
        world.history.compare_all(earlier)
    state = world.history.state
    namespace = state.native["shop"]
    assert namespace.marks
    lost = evolve(state, native={"shop": evolve(namespace, marks={})})
    with pytest.raises(PropertyViolation, match="but operators were told"):
        world.history.compare_all(dict.fromkeys(states, lost))


def test_marks_of_which_no_order_is_known() -> None:
    """What was never answered, or was said at the same time, may be in force; what was overtaken for sure may not."""
    marks, ok = Marks(), Answer(AnswerCode.OK)
    said = [HostMark("h", weight=weight) for weight in range(1, 6)]
    first = marks.begins("shop", said[0])
    marks.check(with_mark(None))
    marks.check(with_mark(said[0]))
    marks.ends(first, ok)
    with pytest.raises(PropertyViolation):
        marks.check(with_mark(None))
    second, third = marks.begins("shop", said[1]), marks.begins("shop", said[2])
    marks.ends(second, ok)
    marks.check(with_mark(said[2]))
    with pytest.raises(PropertyViolation):
        marks.check(with_mark(said[0]))
    marks.ends(third, ok)
    marks.check(with_mark(said[1]))
    marks.ends(marks.begins("shop", said[3]), Answer(AnswerCode.STALE_EPOCH))
    with pytest.raises(PropertyViolation):
        marks.check(with_mark(said[3]))
    marks.ends(marks.begins("shop", said[4]), Answer(AnswerCode.STALE_REQUEST))
    marks.check(with_mark(said[4]))


def with_mark(mark: HostMark | None) -> ReplicatedState:
    marks = {} if mark is None else {mark.name: mark}
    return ReplicatedState(native={"shop": NativeNamespace(Policy.EXCLUSIVE, Version(0, 1), marks=marks)})
