"""Quorum rounds: does this leader still lead? One entry in the log answers for everybody who asked before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from callboard.consensus.interface import ProposalError
from callboard.core.commands import ConfirmEpoch
from callboard.core.records import AnswerCode
from callboard.server.proposer import Proposer

log = structlog.get_logger(__name__)


class Rounds:
    """Of one office. Who asks while an entry is on its way waits for the next one: an entry that was proposed before
    the question says nothing about the time after it."""

    def __init__(self, proposer: Proposer, epoch: int, on_deposed: Callable[[str], None]) -> None:
        self._proposer = proposer
        self._epoch = epoch
        self._on_deposed = on_deposed
        self._waiting: list[Callable[[bool], None]] = []
        self._running: asyncio.Task[None] | None = None

    def request(self, answer: Callable[[bool], None]) -> None:
        """Call `answer` with whether an entry proposed from now on committed in this epoch."""
        self._waiting.append(answer)
        if self._running is None:
            self._running = asyncio.ensure_future(self._run())

    def close(self) -> None:
        """Answer nobody any more."""
        self._waiting.clear()
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, []
                confirmed = await self._confirm()
                for answer in asked:
                    answer(confirmed)
        finally:
            self._running = None

    async def _confirm(self) -> bool:
        try:
            answer = await self._proposer.unprotected(ConfirmEpoch(self._epoch))
        except ProposalError as error:
            log.info("leadership was not confirmed", reason=str(error))
            return False
        if answer.code is AnswerCode.STALE_EPOCH:
            self._on_deposed(answer.detail)
        return answer.code is AnswerCode.OK
