"""Positions of proposals: named only where the command surely took effect there."""

from __future__ import annotations

from typing import Any, cast

import pytest

from callboard.consensus.interface import Applied, Engine, NotApplied, OutcomeUnknown
from callboard.core.commands import OpenSession
from callboard.core.records import Answer, AnswerCode
from callboard.server.proposer import ProposalLimits, Proposer

DONE = Answer(AnswerCode.OK, number=7)


class ScriptedEngine:
    """Answers proposals from a list."""

    def __init__(self, *answers: Applied | Exception) -> None:
        self.answers = list(answers)

    async def propose(self, _entry: bytes, *, timeout_ms: int) -> Applied:
        assert timeout_ms > 0
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("answers", "position"),
    [
        ([Applied(5, DONE)], 5),
        ([NotApplied("the queue is full"), Applied(6, DONE)], 6),
        ([OutcomeUnknown("no answer"), Applied(9, DONE)], 0),
        ([NotApplied("full"), OutcomeUnknown("no answer"), NotApplied("full"), Applied(9, DONE)], 0),
    ],
)
async def test_a_position_is_named_unless_an_earlier_attempt_may_have_taken_effect(
    answers: list[Any], position: int
) -> None:
    engine = cast("Engine", ScriptedEngine(*answers))
    proposer = Proposer(engine, observe_latency_s=lambda _: None, limits=ProposalLimits(pause_ms=0))
    assert await proposer.propose_at(OpenSession()) == (DONE, position)


async def test_a_proposal_that_was_never_answered_says_so() -> None:
    engine = cast("Engine", ScriptedEngine(*[OutcomeUnknown("no answer")] * 5))
    proposer = Proposer(engine, observe_latency_s=lambda _: None, limits=ProposalLimits(pause_ms=0))
    with pytest.raises(OutcomeUnknown):
        await proposer.propose_at(OpenSession())
