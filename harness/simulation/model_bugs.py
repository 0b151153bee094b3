"""Bugs for properties that rest on what surrounds the core's machines: the log below, actors and callers above.

Where the code under test is asyncio or a library (engines, the runtime, clients), the simulator has a model of it, and
the bug is seeded into the model: it shows that the checker works, not that the real thing is right. Those are tested
where they are. The others are seeded into core.
"""

# ruff: noqa: SLF001 - a bug replaces what is inside

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from callboard.core import native_host, slot_membership
from callboard.core.leases import UNLIMITED, Deadlines, deadlines
from callboard.core.slot_index import Holding, SlotIndex
from callboard.core.slot_records import HandoffSettings, NativeNamespace
from callboard.core.versions import Policy
from harness.seeded_bugs.registry import Bug, Registrar
from harness.simulation.actors import Activation, Result, Runtime
from harness.simulation.clients import Caller
from harness.simulation.engine import Engine

BUGS: list[Bug] = []
bug = Registrar(BUGS)


@bug("DurableMembership", origin="etcd #14370: acknowledged before it is on disk")
def the_disk_only_pretends(patched: pytest.MonkeyPatch) -> None:
    """Replicas count entries as stored that their disks have not synced (in the model of the engine)."""

    def synced(self: Engine, _last: int, leader: str, term: int, upto: int, asked: int) -> None:
        if term != self.disk.term:
            return
        if leader:
            self._send(leader, "appended", self.name, term, upto, asked)
        elif self.leads:
            self._advance()

    patched.setattr(Engine, "_synced", synced)
    patched.setattr(Engine, "acknowledged_upto", lambda self: self.disk.last)


@bug("LinearizableMembership", origin="etcd #20418: a paused leader answers reads by itself")
def reads_without_a_quorum(patched: pytest.MonkeyPatch) -> None:
    """A leader answers linearizable reads without asking whether it still leads (in the model of the engine)."""

    def read(self: Engine, answered: Callable[[int], None]) -> None:
        answered(self.commit)

    patched.setattr(Engine, "_read", read)


@bug("TurnBased", origin="GoAkt #573: concurrent spawns in one node")
def turns_do_not_wait(patched: pytest.MonkeyPatch) -> None:
    """A call begins its turn although another turn of the actor runs (in the model of the runtime)."""

    def following(self: Runtime, activation: Activation) -> None:
        activation.turn = None
        original(self, activation)

    original = Runtime._next
    patched.setattr(Runtime, "_next", following)


@bug("DefiniteOrUnknown")
def unknown_outcomes_are_retried(patched: pytest.MonkeyPatch) -> None:
    """A caller tries again although its call may have run (in the model of the caller)."""

    def replied(self: Caller, operation: Any, attempt: int, result: Result, number: int) -> None:
        again = result is Result.UNKNOWN and self.calm_from is None
        original(self, operation, attempt, Result.NOT_SERVED if again else result, number)

    original = Caller._replied
    patched.setattr(Caller, "_replied", replied)


@bug("DefiniteOrUnknown")
def a_shut_gate_counts_as_not_run(patched: pytest.MonkeyPatch) -> None:
    """A turn whose reply finds the gate shut is reported as not run (in the model of the runtime)."""

    def reply(self: Runtime, turn: Any, result: Result, count: int) -> None:
        original(self, turn, Result.NOT_SERVED if result is Result.UNKNOWN else result, count)

    original = Runtime._reply
    patched.setattr(Runtime, "_reply", reply)


@bug("FenceMonotonic")
def fences_stay(patched: pytest.MonkeyPatch) -> None:
    """A slot that changes its owner keeps its fence."""

    def next_fence(namespace: NativeNamespace, _version: int) -> int:
        return max(namespace.fence, 1)

    patched.setattr(slot_membership, "_next_fence", next_fence)


@bug("SlowHostIsolation", origin="Dapr #9770: one slow host holds up all others")
def one_slow_giver_delays_all(patched: pytest.MonkeyPatch) -> None:
    """Nothing is granted as long as any slot of the actor type waits for an earlier owner."""

    def granted(
        self: SlotIndex, incarnation: int, kinds: Iterable[str], holding: Holding
    ) -> Iterator[tuple[str, int, int, int]]:
        calm = [kind for kind in kinds if not self.namespace.rights[kind].pending]
        return original(self, incarnation, calm, holding)

    original = SlotIndex.granted
    patched.setattr(SlotIndex, "granted", granted)


@bug("DuplicateWindow")
def isolation_has_no_end(patched: pytest.MonkeyPatch) -> None:
    """A host of policy eventual goes on after its longest isolation."""

    def endless(policy: Policy, settings: HandoffSettings, base_ms: int | None) -> Deadlines:
        return UNLIMITED if policy is Policy.EVENTUAL else deadlines(policy, settings, base_ms)

    patched.setattr(native_host, "deadlines", endless)
