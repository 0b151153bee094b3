"""Proposing commands at most once: one session, sequence numbers, retries of unknown outcomes under the same id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from attrs import frozen

from callboard.consensus.interface import Engine, NotApplied, NotLeader, OutcomeUnknown, ProposalError
from callboard.core.commands import (
    UNPROTECTED,
    Command,
    OpenSession,
    OperatorRequest,
    Request,
    RequestId,
    encode_request,
)
from callboard.core.records import Answer, AnswerCode

log = structlog.get_logger(__name__)


@frozen
class ProposalLimits:
    """How long one attempt may take, how many attempts are made, and the pause between them."""

    attempt_timeout_ms: int = 3000
    attempts_max: int = 5
    pause_ms: int = 50


class Proposer:
    """The leader's way into the log. One instance lives for one leader epoch of one replica."""

    def __init__(
        self,
        engine: Engine,
        *,
        observe_latency_s: Callable[[float], None],
        limits: ProposalLimits | None = None,
    ) -> None:
        self._engine = engine
        self._observe_latency_s = observe_latency_s
        self._limits = limits or ProposalLimits()
        self._session = 0
        self._next_sequence = 1
        self._unanswered: set[int] = set()

    async def open(self) -> None:
        """Open the session that protects later proposals. Raises ProposalError."""
        answer = await self.unprotected(OpenSession())
        self._session = answer.number
        self._next_sequence = 1
        self._unanswered.clear()

    async def unprotected(self, command: Command) -> Answer:
        """Propose a command that may take effect twice without harm. Raises ProposalError."""
        return (await self._attempts(Request(command, UNPROTECTED)))[0]

    async def propose(self, command: Command) -> Answer:
        """As `propose_at`, for those who do not ask where."""
        return (await self.propose_at(command))[0]

    async def propose_at(self, command: Command, operator: OperatorRequest | None = None) -> tuple[Answer, int]:
        """Propose under the next sequence number: whatever is retried, the command has effect at most once. Returns the
        log position at which it was applied too; 0 if that is not known, because an earlier attempt may have been.

        Raises:
            NotApplied: surely without effect.
            OutcomeUnknown: no attempt was answered; the command may still take effect, until a later one has.
        """
        sequence = self._next_sequence
        self._next_sequence += 1
        self._unanswered.add(sequence)
        identity = RequestId(self._session, sequence, min(self._unanswered))
        try:
            answer, index = await self._attempts(Request(command, identity, operator))
        finally:
            # One that was given up is not asked about again: the next command overtakes it (SessionOrder in tla/), and
            # its answer need not be kept.
            self._unanswered.discard(sequence)
        if answer.code is AnswerCode.EXPIRED_SESSION:
            raise NotApplied(f"session {self._session} expired before its request {sequence}")
        return answer, index

    async def _attempts(self, request: Request) -> tuple[Answer, int]:
        """The answer and its position; 0 for one that may repeat the answer of an earlier position."""
        entry = encode_request(request)
        limits = self._limits
        unknown: OutcomeUnknown | None = None
        for attempt in range(1, limits.attempts_max + 1):
            started = time.monotonic()
            try:
                applied = await self._engine.propose(entry, timeout_ms=limits.attempt_timeout_ms)
            except OutcomeUnknown as error:
                unknown = error
                log.info("outcome of a proposal is unknown", attempt=attempt, reason=str(error))
            except NotLeader:
                break
            except NotApplied as error:
                if attempt == limits.attempts_max and unknown is None:
                    raise
                log.info("a proposal was refused", attempt=attempt, reason=str(error))
            else:
                self._observe_latency_s(time.monotonic() - started)
                if not isinstance(applied.result, Answer):
                    raise ProposalError(f"apply at position {applied.index} returned {applied.result!r}")
                return applied.result, applied.index if unknown is None else 0
            if attempt < limits.attempts_max:
                await asyncio.sleep(limits.pause_ms / 1000)
        if unknown is not None:
            raise unknown
        raise NotLeader(self._engine.leadership().leader)
