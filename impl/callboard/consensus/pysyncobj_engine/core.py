"""One replica without time, network or event loop of its own: the part that a simulation can run.

The core owns the guarded Raft state, the journal, the snapshots and the state machine. Its caller owns the rest: it
delivers messages (`receive`), lets time pass (`tick`), and ends each batch of messages with `flush`, which makes
everything durable that the answers speak of, and then sends them. Nothing here starts threads or reads a clock
that was not given.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from attrs import define, frozen

from callboard.consensus.feeding import apply_safely
from callboard.consensus.interface import (
    Applied,
    BarrierFailed,
    EngineFailed,
    EngineLimits,
    EngineStartError,
    Leadership,
    NotApplied,
    NotLeader,
    OutcomeUnknown,
    ProposalError,
    QueueFull,
    StateMachine,
)
from callboard.consensus.pysyncobj_engine import codec, raft_library, snapshots
from callboard.consensus.pysyncobj_engine.barriers import Barriers, BarrierTicket
from callboard.consensus.pysyncobj_engine.disk import Disk, remove_leftovers
from callboard.consensus.pysyncobj_engine.guards import GuardedRaft
from callboard.consensus.pysyncobj_engine.journal import Base, Journal, LogEntry
from callboard.consensus.pysyncobj_engine.options import CoreSettings
from callboard.consensus.pysyncobj_engine.outbox import Outbox

logger = logging.getLogger(__name__)

BARRIERS_PER_PROPOSAL = 16
"""Waiting barriers share entries, so there may be this many times more of them than waiting proposals."""

ENTRIES_BETWEEN_SNAPSHOTS = 1000
"""A log that is too large because of entries that are not applied yet does not get shorter by another snapshot."""

ProposalDone: TypeAlias = Callable[[Applied | ProposalError], None]


@define(eq=False)
class Proposal:
    """One waiting proposal. `index` is 0 until it is in the log."""

    command: bytes
    done: ProposalDone
    index: int = 0


@frozen
class CoreView:
    """What tests and status pages see of a core."""

    role: str
    term: int
    voted_for: str | None
    log: tuple[LogEntry, ...]
    commit_index: int
    applied_index: int
    snapshot_index: int
    leader: str | None


@frozen
class Joining:
    """A replacement takes part without a vote until it holds what its predecessor may have helped to commit."""

    floor_index: int
    finished: Callable[[], None]
    """Called once, when everything that makes it a full member is durable."""


class Core:
    """See the module's docstring. After a failure every call raises the same `EngineFailed`."""

    def __init__(
        self,
        replica_id: str,
        peer_ids: tuple[str, ...],
        *,
        disk: Disk,
        machine: StateMachine,
        send: Callable[[str, bytes], bool],
        clock: Callable[[], float],
        generator: random.Random,
        directory_id: str = "",
        settings: CoreSettings | None = None,
        limits: EngineLimits | None = None,
        congested: Callable[[str], bool] | None = None,
        leadership_changed: Callable[[Leadership], None] | None = None,
        joining: Joining | None = None,
    ) -> None:
        """Open the directory, restore the state, and be a follower.

        Args:
            send: hands one payload to the network; False if it was not taken.
            clock: seconds, never going back.
            congested: whether so much waits to be sent to a peer that the leader should pause.

        Raises:
            EngineStartError: the directory must not be used.
        """
        raft_library.require_supported_library()
        self.replica_id = replica_id
        self.failed: EngineFailed | None = None
        self._settings = settings or CoreSettings()
        self._limits = limits or EngineLimits()
        self._machine = machine
        self._send = send
        self._clock = clock
        self._leadership_changed = leadership_changed
        self._leadership = Leadership(leader=None, term=0, is_local=False)
        self._joining = joining
        self._compact_wanted = False
        self._closed = False
        self._outbox = Outbox()
        self._queue: deque[Proposal] = deque()
        self._pending: dict[int, Proposal] = {}
        self._led_term: int | None = None
        self._barriers = Barriers(retry_s=self._settings.fallback_ms / 1000)
        self._receiver = snapshots.SnapshotReceiver(self._settings.snapshot_limit_bytes)
        is_congested = congested or (lambda _peer_id: False)
        try:
            remove_leftovers(disk)
            self._journal = Journal.open(disk, directory_id)
            self._store = snapshots.SnapshotStore(disk)
            self._restore(self._journal.base)
        except OSError as error:
            raise EngineStartError(f"the data directory cannot be read: {error}") from error
        sender = snapshots.SnapshotSender(
            self._store, self._settings.chunk_bytes, lambda node: is_congested(getattr(node, "id", ""))
        )
        sender.use(self._journal.base)
        self._sender = sender
        self._raft = GuardedRaft(
            replica_id,
            peer_ids,
            owner=self,
            journal=self._journal,
            sender=sender,
            settings=self._settings,
            generator=generator,
            clock=clock,
            joining=joining is not None,
        )
        if not peer_ids:
            self._raft.campaign_now()

    def _restore(self, base: Base) -> None:
        if base.index == 0:
            return
        snapshot = self._store.load(base)
        try:
            self._machine.restore(snapshot.state)
        except ValueError as error:
            raise EngineStartError(f"{snapshots.file_name(base)} cannot be restored: {error}") from error
        self._store.remove_others(base)

    # ------------------------------------------------------------------ what the caller drives

    def receive(self, peer_id: str, payload: bytes) -> None:
        """Take one payload from a member. Answers wait for `flush`.

        Raises:
            codec.BadMessage: not a message; the link should be dropped.
            EngineFailed: going on could break a promise.
        """
        with self._entry():
            message = codec.decode(payload)
            if isinstance(message, codec.RequestBarrier):
                self._barriers.add_remote(peer_id, message.number, self._transmit_barrier)
            elif isinstance(message, codec.Barrier):
                self._barriers.confirmed(message.number, message.index)
            else:
                self._raft.receive(peer_id, message)
            self._settle()

    def connected(self, peer_id: str) -> None:
        """There is a link to `peer_id` now."""
        with self._entry():
            self._raft.link_up(peer_id)

    def disconnected(self, peer_id: str) -> None:
        """The link to `peer_id` broke."""
        with self._entry():
            self._raft.link_down(peer_id)
            self._settle()

    def tick(self) -> None:
        """Let time pass. What this replica wrote becomes durable before it counts towards a commit.

        Raises:
            EngineFailed: going on could break a promise.
        """
        with self._entry():
            self._journal.sync()
            self._raft.tick()
            self._settle()
            self._finish_joining()
            self._flush()

    def flush(self) -> None:
        """Make everything durable that waiting messages speak of, and send them."""
        with self._entry():
            self._flush()

    @property
    def busy(self) -> bool:
        """Whether another `tick` has something to do at once."""
        return self.failed is None and (self._journal.dirty or bool(self._outbox.held))

    def compact_now(self) -> None:
        """Write a snapshot at the next tick."""
        self._compact_wanted = True

    def campaign_now(self) -> None:
        """Let the election timeout expire."""
        with self._entry():
            self._raft.campaign_now()

    def close(self) -> None:
        """Let go of the files. Waiting proposals end as unknown or surely not applied. Idempotent."""
        if not self._closed:
            self._closed = True
            self._abandon("the engine stopped")
            self._journal.close()

    # ------------------------------------------------------------------ proposals and barriers

    def propose(self, command: bytes, done: ProposalDone) -> Proposal:
        """Queue a command for the next tick. `done` is called once, perhaps at once."""
        proposal = Proposal(command, done)
        refusal = self._refusal(command)
        if refusal is None:
            self._queue.append(proposal)
        else:
            done(refusal)
        return proposal

    def withdraw(self, proposal: Proposal) -> bool:
        """Take a proposal back; True if it never reached the log, so that it surely has no effect."""
        if proposal.index == 0 and proposal in self._queue:
            self._queue.remove(proposal)
            return True
        return False

    def barrier(self, done: Callable[[int | BarrierFailed], None]) -> BarrierTicket:
        """Confirm leadership, here or at the leader, by an entry that is proposed from now on."""
        ticket = BarrierTicket(done)
        if self.failed is not None or self._closed:
            ticket.finish(BarrierFailed("the engine is not running"))
        elif self._barriers.waiting_count >= BARRIERS_PER_PROPOSAL * self._limits.pending_proposals:
            ticket.finish(BarrierFailed(f"{self._barriers.waiting_count} barriers wait already"))
        else:
            self._barriers.add(ticket)
        return ticket

    def _refusal(self, command: bytes) -> NotApplied | None:
        if self.failed is not None or self._closed:
            return NotApplied("the engine is not running")
        if len(command) > self._limits.command_bytes:
            return NotApplied(f"the command has {len(command)} bytes, the limit is {self._limits.command_bytes}")
        if not self._leadership.is_local:
            return NotLeader(self._leadership.leader)
        if len(self._queue) + len(self._pending) >= self._limits.pending_proposals:
            return QueueFull(f"{self._limits.pending_proposals} proposals wait already")
        return None

    # ------------------------------------------------------------------ looking inside

    @property
    def leadership(self) -> Leadership:
        """The newest view of who leads."""
        return self._leadership

    @property
    def connected_ids(self) -> tuple[str, ...]:
        """The replicas that there is a link to."""
        return self._raft.connected_ids()

    @property
    def applied_index(self) -> int:
        """Everything up to here is in the state machine."""
        return self._raft.applied_index()

    @property
    def commit_index(self) -> int:
        """Everything up to here is known to be committed."""
        return self._raft.commit_index()

    @property
    def joining(self) -> bool:
        """Whether this is a replacement that has no vote yet."""
        return self._raft.joining

    @property
    def journal(self) -> Journal:
        """For figures."""
        return self._journal

    def inspect(self) -> CoreView:
        """Everything that Raft's properties speak of."""
        return CoreView(
            role=raft_library.ROLES[self._raft.role()],
            term=self._raft.term(),
            voted_for=self._journal.getVotedForNodeId(),
            log=tuple(self._journal[:]),
            commit_index=self._raft.commit_index(),
            applied_index=self._raft.applied_index(),
            snapshot_index=self._journal.base.index,
            leader=self._raft.leader_id(),
        )

    # ------------------------------------------------------------------ what the guarded library asks for

    def apply_entry(self, index: int, kind: bytes, command: bytes) -> None:
        """Apply a committed entry and answer who waits for it. Never raises."""
        result = apply_safely(self._machine, index, command) if kind == codec.KIND_COMMAND else None
        proposal = self._pending.pop(index, None)
        # An entry that commits in another term than it was proposed in proves nothing about leadership.
        leads = self._raft.role() == raft_library.LEADER and self._raft.term() == self._led_term
        if proposal is not None:
            _tell(proposal, Applied(index, result) if leads else OutcomeUnknown("leadership was lost meanwhile"))
        if leads:
            self._barriers.committed(index)

    def take_entries(self) -> list[bytes]:
        """Everything queued, as the entries behind the present end of the log. Called only while leading."""
        self._led_term = self._raft.term()
        index = self._journal.last_index
        entries: list[bytes] = []
        while self._queue:
            proposal = self._queue.popleft()
            index += 1
            proposal.index = index
            self._pending[index] = proposal
            entries.append(codec.KIND_COMMAND + proposal.command)
        if self._barriers.attach(index if entries else None, index + 1):
            entries.append(codec.KIND_NOTHING)
        return entries

    def compact(self, applied_index: int) -> None:
        """Write a snapshot of the applied state and shorten the journal, in this order, if it is time."""
        journal, settings = self._journal, self._settings
        if applied_index - 1 <= max(journal.first_index, journal.base.index):
            return
        too_large = (
            journal.entry_bytes > settings.snapshot_bytes
            and applied_index > journal.base.index + ENTRIES_BETWEEN_SNAPSHOTS
        )
        if not (self._compact_wanted or too_large or applied_index - journal.first_index > settings.snapshot_entries):
            return
        self._compact_wanted = False
        previous, last = journal.entry_at(applied_index - 1), journal.entry_at(applied_index)
        snapshot = snapshots.Snapshot(previous, last, self._machine.snapshot())
        self._store.save(snapshot.base, snapshots.encode(snapshot))
        keep = 0 if too_large else settings.keep_entries
        journal.rebase(snapshot.base, keep_from=max(journal.first_index, applied_index - 1 - keep))
        self._sender.use(snapshot.base)
        self._store.remove_others(snapshot.base)

    def collect_chunk(self, peer_id: str, message: codec.SnapshotChunk) -> bytes | None:
        """Keep a chunk of a leader's snapshot; the whole when this was the last."""
        if not message.data and not message.last:
            return None
        base = Base(message.index, message.index_term)
        if not self._receiver.add(peer_id, base, message.offset, message.data):
            return None
        return self._receiver.finish() if message.last else None

    def install(self, data: bytes, base: Base) -> None:
        """Replace state and log by a leader's snapshot, durably. On a crash the old ones are still whole."""
        try:
            snapshot = snapshots.decode(data)
            if snapshot.base != base:
                raise snapshots.SnapshotCorrupt(f"it is that of entry {snapshot.base.index}")
            self._machine.restore(snapshot.state)
        except ValueError as error:
            raise EngineFailed(f"the leader's snapshot of entry {base.index} cannot be restored: {error}") from error
        self._store.save(base, data)
        self._journal.install(base, [snapshot.previous, snapshot.last])
        self._sender.use(base)
        self._store.remove_others(base)
        logger.info("installed the leader's snapshot of entry %d", base.index)

    def transmit(self, peer_id: str, message: codec.Message, *, durable_first: bool) -> bool:
        """Send, or hold until the next flush."""
        if durable_first:
            self._outbox.add(peer_id, message)
            return True
        return self._send(peer_id, codec.encode(message))

    # ------------------------------------------------------------------ inside

    def _transmit_barrier(self, peer_id: str, message: codec.Message) -> None:
        self.transmit(peer_id, message, durable_first=False)

    def _flush(self) -> None:
        if not self._outbox.held:
            return
        self._journal.sync()
        for peer_id, message in self._outbox.take():
            self._send(peer_id, codec.encode(message))

    def _settle(self) -> None:
        """After every event: notice changes of leadership, and move barriers along."""
        is_local = self._raft.role() == raft_library.LEADER
        term = self._raft.term()
        if self._led_term is not None and not (is_local and term == self._led_term):
            self._led_term = None
            self._end_pending(OutcomeUnknown("leadership was lost before the command was known to be committed"))
        leadership = Leadership(self._raft.leader_id(), term, is_local)
        if leadership != self._leadership:
            self._leadership = leadership
            self._barriers.leader_changed()
            if self._leadership_changed is not None:
                self._leadership_changed(leadership)
        if not is_local:
            while self._queue:
                _tell(self._queue.popleft(), NotLeader(leadership.leader))
            leader = leadership.leader
            if leader in self._raft.connected_ids():
                request = self._barriers.ask_leader(self._clock())
                if request is not None:
                    self.transmit(leader, request, durable_first=False)
        self._barriers.applied(self._raft.applied_index())

    def _finish_joining(self) -> None:
        """A replacement votes once it holds a committed entry of a leader that was elected without its vote."""
        joining = self._joining
        if joining is None or self._raft.leader_id() is None:
            return
        commit = self._raft.commit_index()
        if commit < joining.floor_index or self._journal.term_at(commit) != self._raft.term():
            return
        self._raft.end_joining()
        self._journal.sync()
        self._joining = None
        joining.finished()

    def _end_pending(self, error: OutcomeUnknown) -> None:
        pending, self._pending = self._pending, {}
        for proposal in pending.values():
            _tell(proposal, error)

    def _abandon(self, reason: str) -> None:
        self._end_pending(OutcomeUnknown(reason))
        while self._queue:
            _tell(self._queue.popleft(), NotApplied(reason))
        self._barriers.fail(BarrierFailed(reason))

    @contextmanager
    def _entry(self) -> Iterator[None]:
        if self.failed is not None:
            raise self.failed
        if self._closed:
            raise EngineFailed("the engine is closed")
        raft_library.bind_clock(self._clock)
        try:
            yield
        except codec.BadMessage:
            raise
        except EngineFailed as failure:
            self._fail(failure)
            raise
        except OSError as error:
            raise self._fail(EngineFailed(f"the disk failed: {error}")) from error
        except Exception as error:
            raise self._fail(EngineFailed(f"unexpected {type(error).__name__}: {error}")) from error

    def _fail(self, failure: EngineFailed) -> EngineFailed:
        logger.critical("the engine stops: %s", failure)
        self.failed = failure
        self._abandon(str(failure))
        self._journal.close()
        return failure


def _tell(proposal: Proposal, outcome: Applied | ProposalError) -> None:
    """V6: what the proposer does with the outcome cannot harm the log."""
    try:
        proposal.done(outcome)
    except Exception:
        logger.exception("the receiver of a proposal's outcome raised")
