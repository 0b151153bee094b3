"""The conformance suite can fail: engines that break one promise each are caught by the test that guards it."""

from __future__ import annotations

import asyncio

import pytest

from callboard.consensus.interface import Applied, BarrierFailed, Engine, Leadership, NotApplied, OutcomeUnknown
from callboard.consensus.memory import MemoryEngine
from tests.consensus import conformance
from tests.consensus.conformance import LIMITS, Cluster, EngineConformance
from tests.consensus.machine import ListMachine


class Forgetful(MemoryEngine):
    """Acknowledges what it does not apply."""

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """Every third command is lost."""
        if self._applied_index % 3 == 2:
            self._applied_index += 1
            return Applied(self._applied_index, self._applied_index)
        return await super().propose(command, timeout_ms=timeout_ms)


class Stuttering(MemoryEngine):
    """Applies commands twice."""

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """The second time under the next position."""
        await super().propose(command, timeout_ms=timeout_ms)
        return await super().propose(command, timeout_ms=timeout_ms)


class Repeating(MemoryEngine):
    """Applies one position twice."""

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """As after a restart that forgot how far it had come."""
        answer = await super().propose(command, timeout_ms=timeout_ms)
        self._machine.apply(answer.index, command)
        return answer


class Swapping(MemoryEngine):
    """Gives one proposal the result of another."""

    last: Applied | None = None

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """The previous one's."""
        answer = await super().propose(command, timeout_ms=timeout_ms)
        await asyncio.sleep(0)
        before, self.last = self.last, answer
        return before or answer


class Fragile(MemoryEngine):
    """Lets exceptions of the state machine through."""

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """And stops."""
        answer = await super().propose(command, timeout_ms=timeout_ms)
        if isinstance(answer.result, Exception):
            await self.stop()
            raise answer.result
        return answer


class Boundless(MemoryEngine):
    """Takes commands of any size."""

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """Cuts them to the limit."""
        return await super().propose(command[: self.limits.command_bytes], timeout_ms=timeout_ms)


class Mute(MemoryEngine):
    """Tells nobody who leads."""

    def leadership(self) -> Leadership:
        """Knows it itself."""
        return Leadership(self.replica_id, 1, is_local=not self._stopped)

    async def start(self) -> None:
        """Silently."""
        self._started = True


class Undead(MemoryEngine):
    """Goes on after it was stopped."""

    async def stop(self) -> None:
        """Does nothing."""


class Impatient(MemoryEngine):
    """Fails barriers that overlap."""

    waiting = 0

    async def barrier(self, *, timeout_ms: int) -> int:
        """One at a time."""
        self.waiting += 1
        try:
            await asyncio.sleep(0)
            if self.waiting > 100:
                raise BarrierFailed("too many")
            return await super().barrier(timeout_ms=timeout_ms)
        finally:
            self.waiting -= 1


class OneCluster(Cluster):
    """One replica of a given class."""

    engine_class: type[MemoryEngine] = MemoryEngine

    def build(self, replica_id: str, machine: ListMachine) -> Engine:
        """A broken one."""
        return self.engine_class(machine, replica_id=replica_id, limits=LIMITS)


CAUGHT_BY = [
    (Forgetful, "test_barrier_shows_every_acknowledged_command_on_every_replica"),
    (Forgetful, "test_concurrent_proposals_get_their_own_results"),
    (Stuttering, "test_propose_returns_its_position_and_result"),
    (Repeating, "test_concurrent_proposals_get_their_own_results"),
    (Swapping, "test_concurrent_proposals_get_their_own_results"),
    (Fragile, "test_a_raising_command_counts_as_applied_and_stops_nobody"),
    (Boundless, "test_too_large_a_command_is_refused_and_the_largest_is_not"),
    (Mute, "test_observers_hear_changes_and_may_raise"),
    (Undead, "test_stop_is_idempotent_and_final"),
    (Impatient, "test_overlapping_barriers_all_return"),
]


@pytest.mark.parametrize(("broken", "test"), CAUGHT_BY)
async def test_broken_engines_are_caught(
    broken: type[MemoryEngine], test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "PATIENCE_S", 0.2)
    for engine_class, fails in ((MemoryEngine, False), (broken, True)):
        cluster = OneCluster(["m1"])
        cluster.engine_class = engine_class
        await cluster.start_all()
        try:
            await getattr(EngineConformance(), test)(cluster)
            failed = False
        except (AssertionError, RuntimeError, BarrierFailed, pytest.fail.Exception):
            failed = True
        assert failed == fails


@pytest.mark.parametrize(
    ("log", "end"),
    [
        ([], Applied(2, 1)),
        ([b"x", b"x"], Applied(2, 1)),
        ([b"y", b"x"], Applied(2, 1)),
        ([b"x"], NotApplied("refused")),
        ([b"x", b"x"], OutcomeUnknown("lost")),
        ([b"x", b"z"], OutcomeUnknown("lost")),
    ],
)
def test_outcomes_that_lie_are_caught(log: list[bytes], end: Applied | NotApplied | OutcomeUnknown) -> None:
    with pytest.raises(AssertionError):
        conformance._assert_outcomes(log, [b"x"], [end], others=[b"y"])


def test_outcomes_that_are_true_pass() -> None:
    lost = OutcomeUnknown("lost")
    ends: list[Applied | NotApplied | OutcomeUnknown] = [Applied(2, 1), NotApplied("refused"), lost, lost]
    conformance._assert_outcomes([b"a", b"c", b"y"], [b"a", b"b", b"c", b"d"], ends, others=[b"y"])
