"""The `memory` engine: one process, one replica, nothing on disk. For tests and development.

It keeps the contract of `callboard.consensus.interface` but for durability: a stopped engine has forgotten
everything, and a new one starts an empty log.
"""

from __future__ import annotations

import asyncio

from callboard.consensus.feeding import LeadershipFeed, apply_safely
from callboard.consensus.interface import (
    Applied,
    BarrierFailed,
    EngineFailed,
    EngineLimits,
    EngineStartError,
    EngineStatus,
    Leadership,
    LeadershipObserver,
    NotApplied,
    StateMachine,
)


class MemoryEngine:
    """A log of one replica that is always the leader. Commands are applied before `propose` first waits."""

    def __init__(
        self, machine: StateMachine, *, replica_id: str = "memory", limits: EngineLimits | None = None
    ) -> None:
        self._machine = machine
        self._replica_id = replica_id
        self._limits = limits or EngineLimits()
        self._feed = LeadershipFeed()
        self._applied_index = 0
        self._started = False
        self._stopped = False

    @property
    def replica_id(self) -> str:
        """The stable identity of this replica."""
        return self._replica_id

    @property
    def limits(self) -> EngineLimits:
        """Bounds in force."""
        return self._limits

    def leadership(self) -> Leadership:
        """This replica leads from start to stop."""
        return self._feed.current

    def observe_leadership(self, observer: LeadershipObserver) -> None:
        """Call `observer` on every change: once at start and once at stop."""
        self._feed.observe(observer)

    def status(self) -> EngineStatus:
        """A snapshot of figures."""
        return EngineStatus(
            engine="memory",
            replica_id=self._replica_id,
            leadership=self._feed.current,
            applied_index=self._applied_index,
            commit_index=self._applied_index,
            durable=False,
            peers_connected=(),
        )

    async def start(self) -> None:
        """Take office. An engine that was stopped does not start again: its log is gone.

        Raises:
            EngineStartError: it was started before.
        """
        if self._started:
            raise EngineStartError("a memory engine starts only once: build a new one")
        self._started = True
        self._feed.publish(Leadership(leader=self._replica_id, term=1, is_local=True))

    async def stop(self) -> None:
        """Leave office. Nothing can be waiting. Idempotent."""
        self._stopped = True
        self._feed.publish(Leadership(leader=None, term=1, is_local=False))

    async def wait_failed(self) -> EngineFailed:
        """Wait until cancelled: there is nothing that could fail."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable: nobody resolves that future")

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:  # noqa: ARG002 - never waits
        """Apply `command` now.

        Raises:
            NotApplied: not running, or the command is too large.
        """
        if not self._running:
            raise NotApplied("the engine is not running")
        if len(command) > self._limits.command_bytes:
            raise NotApplied(f"the command has {len(command)} bytes, the limit is {self._limits.command_bytes}")
        self._applied_index += 1
        return Applied(index=self._applied_index, result=apply_safely(self._machine, self._applied_index, command))

    async def barrier(self, *, timeout_ms: int) -> int:  # noqa: ARG002 - never waits
        """Everything proposed is applied already.

        Raises:
            BarrierFailed: not running.
        """
        if not self._running:
            raise BarrierFailed("the engine is not running")
        return self._applied_index

    @property
    def _running(self) -> bool:
        return self._started and not self._stopped
