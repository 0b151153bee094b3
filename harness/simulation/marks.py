"""What operators said of hosts and were told: DurableMembership as they see it, without the log."""

from __future__ import annotations

from attrs import define, field

from callboard.core.records import Answer, AnswerCode, ReplicatedState
from callboard.core.slot_records import HostMark
from harness.violation import PropertyViolation

MAYBE = {AnswerCode.EXPIRED_SESSION, AnswerCode.STALE_REQUEST}
"""Answers after which the request may have had its effect, at an earlier attempt."""


@define(eq=False)
class Marking:
    """An operator's call that says something of a host name. `began` and `answered` are numbers of one order."""

    namespace: str
    mark: HostMark
    began: int
    answered: int | None = None


@define(eq=False)
class Marks:
    """What operators said of host names, as they know it themselves."""

    _last: int = field(init=False, default=0)
    _said: dict[tuple[str, str], list[Marking]] = field(init=False, factory=dict)
    """Whatever a host's mark may be, by namespace and name: calls after which no other began that was answered."""

    def begins(self, namespace: str, mark: HostMark) -> Marking:
        """An operator begins to say something. It may take effect from now on."""
        self._last += 1
        marking = Marking(namespace, mark, self._last)
        self._said.setdefault((namespace, mark.name), []).append(marking)
        return marking

    def ends(self, marking: Marking, answer: Answer) -> None:
        """It is answered. Nothing that was answered before it began is in force any more."""
        said = self._said[marking.namespace, marking.mark.name]
        if answer.succeeded:
            self._last += 1
            marking.answered = self._last
            said[:] = [other for other in said if other.answered is None or other.answered > marking.began]
        elif answer.code not in MAYBE:
            said.remove(marking)

    def check(self, state: ReplicatedState) -> None:
        """DurableMembership: each host has a mark that it may have."""
        for (namespace, name), said in self._said.items():
            possible = [marking.mark for marking in said]
            if all(marking.answered is None for marking in said):
                possible.append(HostMark(name))
            mark = state.native[namespace].marks.get(name, HostMark(name))
            if mark not in possible:
                text = f"{name} of {namespace} has the mark {mark}, but operators were told {possible}"
                raise PropertyViolation("DurableMembership", text)
