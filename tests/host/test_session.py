"""What a session tells the runtime, without a stream."""

from __future__ import annotations

import asyncio

import pytest

from callboard.core.handoff_messages import NO_INCARNATION, Gone, RenewalAnswer, Welcome
from callboard.core.native_host_records import AnswerReceived, Connected, GoneReceived, WelcomeReceived
from callboard.core.slot_records import HandoffSettings
from callboard.core.versions import Policy
from callboard.host.session import HostRefusedError
from tests.host.slots import session_of


async def test_every_answer_lets_early_calls_look_again() -> None:
    """A renewed lease alone has no effect of the machine, but calls may wait for it."""
    session, slots = session_of("h1", ["127.0.0.1:1"])
    session._dispatch(Connected(1))
    session._dispatch(WelcomeReceived(1, Welcome(7, 1, Policy.EXCLUSIVE, 4, HandoffSettings())))
    assert slots.renewed == 0
    session._dispatch(AnswerReceived(1, RenewalAnswer(1, 7, 1, 0, True)))
    assert slots.renewed == 1
    await session.stop()


async def test_a_host_whose_name_another_took_before_it_was_welcomed_does_not_start() -> None:
    session, _ = session_of("h1", ["127.0.0.1:1"])
    starting = asyncio.ensure_future(session.start())
    await asyncio.sleep(0)
    session._dispatch(Connected(1))
    session._dispatch(GoneReceived(1, Gone(NO_INCARNATION, "process p of h1 was removed", replaced=True)))
    async with asyncio.timeout(20):
        with pytest.raises(HostRefusedError, match="another process took the name h1: process p of h1 was removed"):
            await starting
    assert not session.connected
