"""The leader's way into the log: what is given up is overtaken by what comes after it."""

from __future__ import annotations

import pytest

from callboard.consensus.interface import Applied, OutcomeUnknown
from callboard.consensus.memory import MemoryEngine
from callboard.core.commands import CreateNamespace, TakeOffice
from callboard.core.records import Answer, AnswerCode
from callboard.core.versions import Policy
from callboard.server.machine import ReplicatedMachine
from callboard.server.proposer import ProposalLimits, Proposer


class SlowEngine(MemoryEngine):
    """While `swallowing` it says of an entry that nobody knows; it can commit later."""

    swallowing = False

    def __init__(self, machine: ReplicatedMachine) -> None:
        super().__init__(machine)
        self.swallowed: list[bytes] = []

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        if self.swallowing:
            self.swallowed.append(command)
            raise OutcomeUnknown("no answer")
        return await super().propose(command, timeout_ms=timeout_ms)


async def test_a_command_that_was_given_up_has_no_effect_after_a_later_one() -> None:
    machine = ReplicatedMachine()
    engine = SlowEngine(machine)
    await engine.start()
    limits = ProposalLimits(attempt_timeout_ms=1000, attempts_max=2, pause_ms=1)
    proposer = Proposer(engine, observe_latency_s=lambda _: None, limits=limits)
    await proposer.unprotected(TakeOffice("only", "nonce"))
    await proposer.open()
    engine.swallowing = True
    with pytest.raises(OutcomeUnknown):
        await proposer.propose(CreateNamespace("late", Policy.BARRIER))
    engine.swallowing = False
    await proposer.propose(CreateNamespace("next", Policy.BARRIER))
    late = await engine.propose(engine.swallowed[0], timeout_ms=1000)
    assert isinstance(late.result, Answer)
    assert late.result.code is AnswerCode.STALE_REQUEST
    assert set(machine.state.namespaces) == {"next"}
    await proposer.propose(CreateNamespace("third", Policy.BARRIER))
    (session,) = machine.state.sessions.values()
    assert len(session.answers) == 1, "answers that nobody will ask for again are kept"
    await engine.stop()
