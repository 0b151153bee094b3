"""Bugs of the actor runtime. (These are in callboard.host, not in core.)"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from callboard.host.activation import Activation
from callboard.host.actors import Chain
from callboard.host.errors import NotServedError, OutcomeUnknownError
from callboard.host.runtime import Runtime
from harness.seeded_bugs.registry import Bug, Registrar

BUGS: list[Bug] = []
bug = Registrar(BUGS)


@bug("TurnBased", origin="GoAkt #573: one name is spawned twice at once")
def always_the_turn(patched: pytest.MonkeyPatch) -> None:
    """A call does not wait for the turn that runs."""

    async def turn(_runtime: Runtime, activation: Activation, chain: Chain, _deadline_ms: int) -> bool:
        activation.running = chain
        return False

    patched.setattr(Runtime, "_turn", turn)


@bug("TurnBased")
def any_chain_reenters(patched: pytest.MonkeyPatch) -> None:
    """A chain that comes back runs inside whatever turn runs, and in actors that are not reentrant."""
    patched.setattr(Activation, "reenters", lambda activation, chain: activation.name in chain.path)


@bug("TurnBased", "DefiniteOrUnknown")
def mailbox_is_a_stack(patched: pytest.MonkeyPatch) -> None:
    """Who came last gets the turn first."""
    original = Activation.pass_on

    def pass_on(self: Activation) -> bool:
        self.waiting.rotate(1)
        return original(self)

    patched.setattr(Activation, "pass_on", pass_on)


@bug("DefiniteOrUnknown")
def late_turns_are_said_not_to_have_run(patched: pytest.MonkeyPatch) -> None:
    """A call whose turn still runs at its deadline is told that it did not run."""
    original = Runtime.call

    async def call(self: Runtime, *arguments: Any, **named: Any) -> bytes:
        try:
            return await original(self, *arguments, **named)
        except OutcomeUnknownError as error:
            raise NotServedError(str(error)) from None

    patched.setattr(Runtime, "call", call)


@bug("TurnBased", "DefiniteOrUnknown", origin="Dapr #9514: a busy actor goes on although it moved away")
def turns_begin_after_the_slot_is_lost(patched: pytest.MonkeyPatch) -> None:
    """Calls that wait are run although their slot has another owner."""
    patched.setattr(Runtime, "_may_begin", lambda _runtime, _activation: True)
    patched.setattr(Runtime, "_refuse_waiting", lambda _runtime, _activation: None)
    original = Runtime._release

    def release(self: Runtime, activation: Activation) -> None:
        if not activation.pass_on():
            original(self, activation)

    patched.setattr(Runtime, "_release", release)


@bug("TurnBased", "DefiniteOrUnknown", "EventuallyServed")
def cancelled_turns_are_not_given_back(patched: pytest.MonkeyPatch) -> None:
    """After a turn that was cancelled nobody gets the turn."""
    original = Runtime._turn_ended

    def ended(runtime: Runtime, activation: Activation, reentered: bool, done: asyncio.Task[Any]) -> None:
        original(runtime, activation, reentered or done.cancelled(), done)

    patched.setattr(Runtime, "_turn_ended", ended)


@bug("TurnBased", "DefiniteOrUnknown")
def early_calls_are_not_woken(patched: pytest.MonkeyPatch) -> None:
    """Calls that came before their slot was granted wait until their time is over."""
    patched.setattr(Runtime, "wake_early_calls", lambda _runtime: None)
