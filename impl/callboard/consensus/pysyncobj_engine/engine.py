"""The embedded engine: the synchronous core in an event loop, between a directory and the links to the peers."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from callboard.consensus.feeding import LeadershipFeed
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
    OutcomeUnknown,
    ProposalError,
    StateMachine,
)
from callboard.consensus.pysyncobj_engine.core import Core, Joining
from callboard.consensus.pysyncobj_engine.disk import Disk
from callboard.consensus.pysyncobj_engine.identity import Directory, DirectoryLock, open_real_directory
from callboard.consensus.pysyncobj_engine.options import PysyncobjOptions
from callboard.consensus.pysyncobj_engine.raft_library import require_supported_library
from callboard.consensus.pysyncobj_engine.transport import Links

logger = logging.getLogger(__name__)

DiskWrapper = Callable[[Disk], Disk]
"""Puts something between the engine and its disk, for tests that make it fail."""


class PysyncobjEngine:
    """`callboard.consensus.interface.Engine` over PySyncObj, guarded. Everything happens in one event loop.

    The disk is synced in the loop: a sync blocks it for as long as the disk takes (about a millisecond on an SSD).
    """

    def __init__(
        self, options: PysyncobjOptions, machine: StateMachine, *, wrap_disk: DiskWrapper | None = None
    ) -> None:
        self._options = options
        self._machine = machine
        self._wrap_disk = wrap_disk or (lambda disk: disk)
        self._feed = LeadershipFeed()
        self._wake = asyncio.Event()
        self._lock: DirectoryLock | None = None
        self._disk: Disk | None = None
        self._directory: Directory | None = None
        self._links: Links | None = None
        self._core: Core | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[EngineFailed] | None = None
        self._started = False
        self._stopped = False

    # ------------------------------------------------------------------ the contract

    @property
    def replica_id(self) -> str:
        """The stable identity of this replica."""
        return self._options.replica_id

    @property
    def limits(self) -> EngineLimits:
        """Bounds in force."""
        return self._options.limits

    @property
    def port(self) -> int:
        """The port on which replicas are listened for; 0 without peers or before start."""
        return self._links.port if self._links is not None else 0

    def leadership(self) -> Leadership:
        """The newest view of who leads."""
        return self._feed.current

    def observe_leadership(self, observer: LeadershipObserver) -> None:
        """Call `observer` on every change."""
        self._feed.observe(observer)

    def status(self) -> EngineStatus:
        """A snapshot of figures."""
        core = self._core
        return EngineStatus(
            engine="pysyncobj",
            replica_id=self.replica_id,
            leadership=self._feed.current,
            applied_index=core.applied_index if core is not None else 0,
            commit_index=core.commit_index if core is not None else 0,
            durable=True,
            peers_connected=core.connected_ids if core is not None and not self._stopped else (),
            details=tuple(self._details()),
        )

    async def start(self) -> None:
        """Open the directory, listen, dial.

        Raises:
            EngineStartError: with a one-line reason.
        """
        if self._started:
            raise EngineStartError("this engine was started before: build a new one")
        self._started = True
        require_supported_library()
        options = self._options
        options.check()
        self._failed = asyncio.get_running_loop().create_future()
        peer_ids = tuple(peer.replica_id for peer in options.peers)
        self._directory, disk, self._lock = open_real_directory(
            options.data_dir, options.replica_id, peer_ids, wrap=self._wrap_disk
        )
        self._disk = disk
        self._links = Links(options, self._directory, self)
        try:
            self._build_core_if_formed()
            await self._links.start()
        except EngineStartError:
            await self._release()
            raise
        self._ticker = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Stop cleanly. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        await self._release()

    def abort(self) -> None:
        """Stop at once: close every link and file as they are. What `stop` does, without waiting for anything."""
        self._stopped = True
        if self._ticker is not None:
            self._ticker.cancel()
        if self._links is not None:
            self._links.abort()
        if self._core is not None:
            self._core.close()
        if self._lock is not None:
            self._lock.release()
        self._feed.publish(Leadership(leader=None, term=self._feed.current.term, is_local=False))

    async def wait_failed(self) -> EngineFailed:
        """Return only when the engine has stopped itself, with the reason."""
        if self._failed is None:
            self._failed = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._failed)

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """Append `command` and wait until it is committed and applied here.

        Raises:
            NotApplied, NotLeader, QueueFull: surely without effect.
            OutcomeUnknown: timeout, lost leadership, or shutdown.
        """
        core = self._core
        if core is None or self._stopped:
            raise NotApplied("the engine is not running, or its group has not met yet")
        future: asyncio.Future[Applied | ProposalError] = asyncio.get_running_loop().create_future()
        proposal = core.propose(command, lambda outcome: _resolve(future, outcome))
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                outcome = await future
        except TimeoutError:
            if core.withdraw(proposal):
                raise NotApplied(f"not proposed within {timeout_ms} ms") from None
            raise OutcomeUnknown(f"not committed within {timeout_ms} ms") from None
        except asyncio.CancelledError:
            core.withdraw(proposal)
            raise
        if isinstance(outcome, ProposalError):
            raise outcome
        return outcome

    async def barrier(self, *, timeout_ms: int) -> int:
        """Confirm that the local state has everything acknowledged before this call.

        Raises:
            BarrierFailed: no quorum, no leader, or timeout.
        """
        core = self._core
        if core is None or self._stopped:
            raise BarrierFailed("the engine is not running, or its group has not met yet")
        future: asyncio.Future[int | BarrierFailed] = asyncio.get_running_loop().create_future()
        ticket = core.barrier(lambda outcome: _resolve(future, outcome))
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                outcome = await future
        except TimeoutError:
            raise BarrierFailed(f"not confirmed within {timeout_ms} ms") from None
        finally:
            ticket.cancel()
        if isinstance(outcome, BarrierFailed):
            raise outcome
        return outcome

    # ------------------------------------------------------------------ what the links tell

    def link_up(self, peer_id: str) -> None:
        """A peer can be reached, and has accepted this replica."""
        self._form()
        self._guarded(lambda core: core.connected(peer_id))

    def link_down(self, peer_id: str) -> None:
        """A peer cannot be reached any more."""
        self._guarded(lambda core: core.disconnected(peer_id))

    def received(self, peer_id: str, payload: bytes) -> None:
        """A payload of a peer."""
        self._guarded(lambda core: core.receive(peer_id, payload))
        self._wake.set()

    # ------------------------------------------------------------------ inside

    def compact_now(self) -> None:
        """Write a snapshot soon, whatever the size of the log."""
        if self._core is not None:
            self._core.compact_now()
            self._wake.set()

    def _form(self) -> None:
        try:
            self._build_core_if_formed()
        except EngineStartError as error:
            self._fail(EngineFailed(str(error)))

    def _build_core_if_formed(self) -> None:
        """The core exists from the moment when every replica of the group has met every other."""
        if self._core is not None or self._stopped:
            return
        directory, options = self._directory, self._options
        assert directory is not None
        assert self._disk is not None
        assert self._links is not None
        identity = directory.identity
        if not identity.formed:
            return
        try:
            self._core = Core(
                options.replica_id,
                tuple(peer.replica_id for peer in options.peers),
                disk=self._disk,
                machine=self._machine,
                send=self._links.send,
                clock=time.monotonic,
                generator=random.SystemRandom(),
                directory_id=identity.directory_id,
                settings=options.settings,
                limits=options.limits,
                congested=self._links.congested,
                leadership_changed=self._feed.publish,
                joining=Joining(identity.floor_index, directory.end_joining) if identity.joining else None,
            )
        except EngineStartError as error:
            raise EngineStartError(f"{error} [{options.data_dir}]") from error

    async def _run(self) -> None:
        try:
            await self._tick_for_ever()
        except Exception as error:
            # Without ticks the replica would look alive and do nothing.
            logger.exception("the engine's task ended")
            self._fail(EngineFailed(f"unexpected {type(error).__name__}: {error}"))

    async def _tick_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopped:
            self._wake.clear()
            self._form()
            self._guarded(_tick)
            if self._core is not None and self._core.busy:
                self._wake.set()
            timer = loop.call_later(self._options.tick_ms / 1000, self._wake.set)
            await self._wake.wait()
            timer.cancel()
            # Let everything that is ready deliver its messages and proposals first: they share one sync.
            await asyncio.sleep(0)

    def _guarded(self, action: Callable[[Core], None]) -> None:
        core = self._core
        if core is None or self._stopped:
            return
        try:
            action(core)
        except EngineFailed as failure:
            self._fail(failure)

    def _fail(self, failure: EngineFailed) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(failure)
        self.abort()

    async def _release(self) -> None:
        self.abort()
        if self._links is not None:
            await self._links.close()
        if self._ticker is not None:
            await asyncio.gather(self._ticker, return_exceptions=True)

    def _details(self) -> list[tuple[str, str]]:
        details: list[tuple[str, str]] = []
        if self._directory is not None:
            identity = self._directory.identity
            details += [
                ("cluster_id", identity.cluster_id or "not formed yet"),
                ("peer_set", str(identity.peer_set)),
                ("directory_id", identity.directory_id),
                ("role_in_group", "joining without a vote" if identity.joining else "full member"),
            ]
            if not identity.formed:
                missing = sorted(set(identity.replicas) - set(identity.directories))
                details.append(("never_met", ", ".join(missing)))
        if self._core is not None:
            journal = self._core.journal
            details += [
                ("log_entries", str(len(journal))),
                ("log_bytes", str(journal.entry_bytes)),
                ("snapshot_index", str(journal.base.index)),
                ("journal_syncs", str(journal.figures.syncs)),
                ("journal_rewrites", str(journal.figures.rewrites)),
            ]
            if journal.durable_vote is not None:
                term, voted_for = journal.durable_vote
                details += [("vote_term", str(term)), ("voted_for", voted_for or "nobody")]
        if self._links is not None:
            details += [(f"no_link_to_{peer_id}", reason) for peer_id, reason in sorted(self._links.troubles.items())]
        return details


def _tick(core: Core) -> None:
    core.tick()


def _resolve(future: asyncio.Future[Any], outcome: object) -> None:
    if not future.done():
        future.set_result(outcome)
