"""The `etcd` engine: the replicated log lives in etcd, every replica applies it in the order of its positions."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine

from callboard.consensus.etcd_engine.barriers import Barriers
from callboard.consensus.etcd_engine.client import EtcdClient, read
from callboard.consensus.etcd_engine.directory import ENGINE, DirectoryIdentity, ReplicaDirectory
from callboard.consensus.etcd_engine.election import DuplicateReplica, Election, boot_clock
from callboard.consensus.etcd_engine.errors import EtcdError, EtcdRefused, EtcdUnreachable, WrongEtcd
from callboard.consensus.etcd_engine.follower import LogFollower
from callboard.consensus.etcd_engine.joining import check_directory, join_cluster
from callboard.consensus.etcd_engine.layout import CorruptRecord, Head, Keys, LogEntry, decode
from callboard.consensus.etcd_engine.managed import EtcdChild
from callboard.consensus.etcd_engine.options import EtcdOptions
from callboard.consensus.etcd_engine.proposer import Office, Proposer
from callboard.consensus.etcd_engine.snapshots import SnapshotWriter
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
    StateMachine,
)

logger = logging.getLogger(__name__)

CALL_TIMEOUT_MS = 5000
RETRY_PAUSE_S = 0.2
FAREWELL_MS = 1000
SNAPSHOT_PAUSE_S = 1.0
ASK_ETCD_EVERY_S = 10.0
COMMAND_BYTES_MAX = 1024 * 1024
FATAL = (CorruptRecord, WrongEtcd, DuplicateReplica, EngineFailed)


class EtcdEngine:
    """A replica whose log is in etcd. It keeps nothing of its own but an identity; see layout.py for the keys.

    `clock` (seconds) judges the lease; tests pass their own.
    """

    def __init__(
        self,
        machine: StateMachine,
        *,
        replica_id: str,
        options: EtcdOptions,
        limits: EngineLimits | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """Raises ValueError for a replica id or limits that etcd cannot hold."""
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", replica_id):
            raise ValueError(f"replica id {replica_id!r} must be 1 to 100 letters, digits, dots, hyphens, underscores")
        self._limits = limits or EngineLimits()
        if self._limits.command_bytes > COMMAND_BYTES_MAX:
            raise ValueError(f"command_bytes {self._limits.command_bytes} exceeds the engine's {COMMAND_BYTES_MAX}")
        self._machine = machine
        self._replica_id = replica_id
        self._options = options
        self._keys = Keys(options.prefix)
        self._directory = ReplicaDirectory(options.directory)
        self._feed = LeadershipFeed()
        self._child = EtcdChild(options.managed, replica_id, options) if options.managed else None
        self._client = EtcdClient(
            self._child.endpoints if self._child else options.endpoints,
            tls=options.tls,
            user=options.user,
            password=options.password,
            attempt_timeout_ms=min(options.attempt_timeout_ms, options.lease_ttl_s * 250),
        )
        self._election = Election(
            self._client,
            self._keys,
            replica_id,
            ttl_s=options.lease_ttl_s,
            on_lease=self._directory.write_lease,
            on_change=self._refresh,
            on_head=self._check_lag,
            clock=clock,
        )
        self._proposer = Proposer(
            self._client,
            self._keys,
            self._limits,
            batch_bytes=options.batch_bytes,
            deliver=self._deliver,
            leader=lambda: self.leadership().leader,
        )
        self._follower = LogFollower(self._client, self._keys, machine, self._proposer.on_entry)
        self._barriers = Barriers(self._client, self._keys, self._election, self._follower)
        self._snapshots = SnapshotWriter(
            self._client,
            self._keys,
            chunk_bytes=options.snapshot_chunk_bytes,
            compact=options.compact_history,
            timeout_ms=CALL_TIMEOUT_MS,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._office_task: asyncio.Task[None] | None = None
        self._office_term: int | None = None
        self._lagging_at: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failure: asyncio.Future[EngineFailed] | None = None
        self._state = "new"
        self._cluster_id = ""
        self._about_etcd: tuple[tuple[str, str], ...] = ()

    @property
    def replica_id(self) -> str:
        """The stable identity of this replica."""
        return self._replica_id

    @property
    def limits(self) -> EngineLimits:
        """Bounds in force."""
        return self._limits

    def leadership(self) -> Leadership:
        """The newest view; a local leadership ends here by the clock, not by a timer that may be late."""
        if self._feed.current.is_local and self._election.elected_term() is None:
            self._refresh()
        return self._feed.current

    def observe_leadership(self, observer: LeadershipObserver) -> None:
        """See `Engine.observe_leadership`."""
        self._feed.observe(observer)

    def status(self) -> EngineStatus:
        """Figures for people and metrics."""
        leadership = self.leadership()
        return EngineStatus(
            engine=ENGINE,
            replica_id=self._replica_id,
            leadership=leadership,
            applied_index=self._follower.applied_index,
            commit_index=self._follower.commit_index,
            durable=True,
            peers_connected=tuple(name for name in self._election.candidates() if name != self._replica_id),
            details=(
                ("cluster id", self._cluster_id or "not joined yet"),
                ("prefix", self._options.prefix),
                ("endpoint", self._client.endpoint),
                ("in contact with etcd", "yes" if self._election.in_contact else "no"),
                ("snapshot at", str(self._follower.snapshot_index)),
                *self._about_etcd,
                *(self._child.details() if self._child else ()),
            ),
        )

    async def start(self) -> None:
        """Join the cluster under the prefix, or found it. In managed mode etcd may have to wait for its peers first:
        then the joining goes on in the background, and `wait_failed` tells if it is refused.

        Raises:
            EngineStartError: etcd refuses or cannot be reached, or directory and etcd belong to different clusters.
        """
        if self._state != "new":
            raise EngineStartError("an etcd engine starts only once: build a new one")
        self._state = "started"
        self._failure = asyncio.get_running_loop().create_future()
        self._directory.lock()
        try:
            known = self._directory.read_identity()
            check_directory(known, self._directory, self._replica_id, self._options.prefix)
            await self._client.open()
            if self._child is not None:
                await self._child.start()
                self._spawn("etcd child", self._child.supervise())
                self._spawn("join", self._join_when_possible(known))
                return
            await self._join(known, timeout_ms=self._options.start_timeout_ms)
        except (EtcdError, CorruptRecord, OSError, EngineFailed) as error:
            await self._shut_down(farewell=False)
            raise EngineStartError(str(error)) from None
        except BaseException:
            await self._shut_down(farewell=False)
            raise

    async def stop(self) -> None:
        """Resign, stop, and let go of the directory. Idempotent."""
        await self._shut_down(farewell=True)

    async def wait_failed(self) -> EngineFailed:
        """Return when the engine has stopped itself."""
        assert self._failure is not None, "start the engine first"
        return await asyncio.shield(self._failure)

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """See `Engine.propose`."""
        if self._state != "started":
            raise NotApplied(f"the engine is {'not started' if self._state == 'new' else self._state}")
        if self._election.elected_term() is None or not self._proposer.is_open:
            self._refresh()
        return await self._proposer.propose(command, timeout_ms=timeout_ms)

    async def barrier(self, *, timeout_ms: int) -> int:
        """A linearizable read of the log's head, then waiting until it is applied here; no leader is needed."""
        if self._state != "started":
            raise BarrierFailed(f"the engine is {'not started' if self._state == 'new' else self._state}")
        return await self._barriers.wait(timeout_ms=timeout_ms)

    async def write_snapshot(self) -> bool:
        """Write a snapshot of what is applied here, if this replica leads; else False.

        Raises:
            EtcdError: etcd refuses or cannot be reached.
        """
        term = self._office_term
        if term is None or not self.leadership().is_local:
            return False
        index = self._follower.applied_index
        if index <= self._follower.snapshot_index:
            return True
        written = await self._snapshots.write(self._election.fence(term), index, self._machine.snapshot())
        if written:
            self._follower.snapshot_index = max(self._follower.snapshot_index, index)
        return written

    # Joining

    async def _join_when_possible(self, known: DirectoryIdentity | None) -> None:
        """Managed mode: etcd answers once a majority of its members runs."""
        while True:
            try:
                await self._join(known, timeout_ms=self._options.start_timeout_ms)
                return
            except EtcdUnreachable as error:
                logger.info("waiting for etcd: %s", error)
            except (EtcdRefused, EngineStartError) as error:
                raise EngineFailed(str(error)) from None

    async def _join(self, known: DirectoryIdentity | None, *, timeout_ms: int) -> None:
        """Check or found the cluster, restore the state, and begin to take part."""
        self._cluster_id = await join_cluster(
            self._client,
            self._keys,
            self._directory,
            self._replica_id,
            known=known,
            wanted=self._options.cluster_id,
            timeout_ms=timeout_ms,
        )
        previous_lease = self._directory.read_lease()
        if previous_lease:
            # We hold the directory's lock, so its owner is gone; ending its lease spares us waiting for it.
            await self._client.revoke_lease(previous_lease, timeout_ms=timeout_ms)
        await self._follower.load()
        self._spawn("log follower", self._follower.run())
        self._spawn("proposer", self._proposer.run())
        self._spawn("candidacy", self._election.stand())
        self._spawn("election watch", self._election.watch())
        self._spawn("barriers", self._barriers.run())
        self._spawn("snapshots", self._write_snapshots())
        self._spawn("figures of etcd", self._ask_etcd())

    # Leading

    def _refresh(self) -> None:
        """Compare what the election says with what we published and do, and act on the difference."""
        if self._state != "started":
            return
        elected, leader = self._election.elected_term(), self._election.leader()
        if self._office_term is not None and (elected != self._office_term or not self._proposer.is_open):
            self._office_term = None
            self._proposer.close()
        if elected is not None and self._office_term is None and self._office_task is None:
            self._office_task = self._spawn("taking office", self._take_office(elected))
        if self._timer is not None:
            self._timer.cancel()
        due_s = self._election.change_due_s
        if due_s is not None:
            self._timer = asyncio.get_running_loop().call_later(due_s + 0.01, self._refresh)
        term = max(self._feed.current.term, leader[1] if leader else 0)
        known = leader[0] if leader is not None and self._election.is_fresh and leader[1] == term else None
        if known == self._replica_id and elected is None:
            known = None  # our own leadership has run out, and who follows is not known yet
        self._feed.publish(Leadership(leader=known, term=term, is_local=self._office_term is not None))

    async def _take_office(self, term: int) -> None:
        """Learn the head that the predecessor left, apply everything up to it, then accept proposals."""
        try:
            fence = self._election.fence(term)
            while self._election.elected_term() == term and self._office_term is None:
                await self._proposer.settled.wait()
                try:
                    head_key = self._keys.head
                    answer = await self._client.txn([fence.compare()], [read(head_key)], timeout_ms=CALL_TIMEOUT_MS)
                    if answer.succeeded:
                        found = answer.responses[0].response_range.kvs
                        if not found:
                            raise WrongEtcd(f"etcd key {head_key.decode()} is gone")
                        head, record = found[0], decode(Head, head_key, found[0].value)
                        await self._follower.catch_up(record.index)
                        if self._election.elected_term() == term:
                            self._proposer.open(Office(fence, record, head.mod_revision))
                            self._office_term = term
                        break
                except (EtcdUnreachable, EtcdRefused) as error:
                    logger.info("taking office: %s", error)
                await asyncio.sleep(RETRY_PAUSE_S)
        finally:
            self._office_task = None
            asyncio.get_running_loop().call_soon(self._refresh)

    async def _deliver(self, entry: LogEntry) -> None:
        """A committed entry of our own: apply it now, not when the watch brings it."""
        if self._follower.offer(entry):
            return
        while True:
            try:
                await self._follower.catch_up(entry.last_index)
                return
            except (EtcdUnreachable, EtcdRefused) as error:
                logger.info("reading what precedes our own entry: %s", error)
            await asyncio.sleep(RETRY_PAUSE_S)

    def _check_lag(self, index: int) -> None:
        """At every look at the head: if nothing was applied since the last look though something is missing, read
        the log, whatever the watch is doing."""
        self._follower.hear_of(index)
        applied = self._follower.applied_index
        if index > applied and self._lagging_at == applied:
            self._spawn("catching up", self._follower.catch_up(index), tolerate=(EtcdUnreachable, EtcdRefused))
        self._lagging_at = applied

    async def _write_snapshots(self) -> None:
        """While we lead: a snapshot after every `snapshot_commands` commands."""
        while True:
            await self._follower.wait_for(self._follower.snapshot_index + self._options.snapshot_commands)
            try:
                if not await self.write_snapshot():
                    await self._follower.learn_snapshot()
            except (EtcdUnreachable, EtcdRefused) as error:
                logger.warning("no snapshot written, will try again: %s", error)
            await asyncio.sleep(SNAPSHOT_PAUSE_S)

    async def _ask_etcd(self) -> None:
        """What `status` says of etcd itself, for ever; it may be some seconds old."""
        while True:
            try:
                answer = await self._client.status(timeout_ms=CALL_TIMEOUT_MS)
                self._about_etcd = (
                    ("etcd version", answer.version),
                    ("etcd database bytes", f"{answer.dbSize}, in use {answer.dbSizeInUse}"),
                    ("etcd alarms", ", ".join(answer.errors) or "none"),
                )
            except (EtcdUnreachable, EtcdRefused) as error:
                self._about_etcd = (("etcd version", f"unknown: {error}"),)
            await asyncio.sleep(ASK_ETCD_EVERY_S)

    # Ending

    def _spawn(
        self, name: str, work: Coroutine[None, None, None], tolerate: tuple[type[Exception], ...] = ()
    ) -> asyncio.Task[None]:
        """Run `work`; if it raises, the engine stops itself, unless the error is of a tolerated type."""
        task = asyncio.get_running_loop().create_task(work, name=f"etcd engine {self._replica_id}: {name}")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is None or isinstance(error, tolerate):
                return
            if not isinstance(error, FATAL):
                logger.error("%s ended unexpectedly", task.get_name(), exc_info=error)
            self._fail(f"{name}: {error}")

        task.add_done_callback(ended)
        return task

    def _fail(self, reason: str) -> None:
        """Stop at once: nothing more is confirmed. `stop` is still due."""
        if self._state != "started" or self._failure is None:
            return
        logger.critical("the etcd engine of replica %s stops itself: %s", self._replica_id, reason)
        self._end(f"failed: {reason}")
        self._failure.set_result(EngineFailed(reason))

    def _end(self, state: str) -> None:
        """Stop leading and answering; what was under way stays unknown."""
        self._state = state
        self._office_term = None
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._proposer.abandon(f"the engine {state}")
        self._barriers.close(f"the engine {state}")
        self._feed.publish(Leadership(leader=None, term=self._feed.current.term, is_local=False))

    async def _shut_down(self, *, farewell: bool) -> None:
        """Stop whatever runs. Without `farewell` the lease stays behind, as after a crash."""
        if self._state == "stopped":
            return
        if self._state == "started":
            if farewell and self._proposer.is_open:
                self._proposer.close()
                try:
                    async with asyncio.timeout(FAREWELL_MS / 1000):
                        await self._proposer.settled.wait()
                except TimeoutError:
                    logger.warning("a transaction is still in doubt at shutdown; its callers are told so")
            self._end("stopped")
        joined, self._state = bool(self._cluster_id), "stopped"
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if farewell and joined:
            await self._election.resign(timeout_ms=FAREWELL_MS)
        await self._client.close()
        if self._child is not None:
            await self._child.stop()
        self._directory.unlock()
