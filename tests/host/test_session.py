"""What a session tells the runtime, without a stream."""

from __future__ import annotations

from callboard.core.handoff_messages import RenewalAnswer, Welcome
from callboard.core.native_host_records import AnswerReceived, Connected, WelcomeReceived
from callboard.core.slot_records import HandoffSettings
from callboard.core.versions import Policy
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
