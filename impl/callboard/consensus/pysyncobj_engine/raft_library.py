"""The seam to PySyncObj 0.3.17: the only module that knows the library's private names.

`LibraryRaft` is the library's class with its journal, serializer and transport replaced by ours, its clock and random
numbers given from outside, and names for the parts of its state that `guards` reads and corrects. What the library
keeps is elections, replication and the counting of commits. Each override says which defect it closes (the list is
in `guards`).
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any

import pysyncobj.syncobj as library
from pysyncobj import SyncObjConf
from pysyncobj.node import Node as LibraryNode
from pysyncobj.transport import Transport as LibraryTransport
from pysyncobj.version import VERSION

from callboard.consensus.interface import EngineStartError
from callboard.consensus.pysyncobj_engine.journal import Journal
from callboard.consensus.pysyncobj_engine.options import CoreSettings
from callboard.consensus.pysyncobj_engine.snapshots import SnapshotSender

SUPPORTED_VERSION = "0.3.17"

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
ROLES = ("follower", "candidate", "leader")


def require_supported_library() -> None:
    """Refuse any version but the pinned one: private names change without notice.

    Raises:
        EngineStartError: naming both versions.
    """
    if VERSION != SUPPORTED_VERSION:
        raise EngineStartError(f"pysyncobj {VERSION} is installed; this engine is made for {SUPPORTED_VERSION} only")


def bind_clock(clock: Callable[[], float]) -> None:
    """Let the library read this clock (seconds). It keeps one for the whole process, so every entry binds its own."""
    library.monotonicTime = clock


class ReplicaNode(LibraryNode):  # type: ignore[misc]  # the library has no types
    """A replica id as the library wants it, with a hash that is the same in every run."""

    id: str

    def __hash__(self) -> int:
        return zlib.crc32(self.id.encode())


class _Outlet(LibraryTransport):  # type: ignore[misc]
    """Where the library believes its network to be."""

    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.raft: LibraryRaft | None = None

    def send(self, node: ReplicaNode, message: dict[str, Any]) -> bool:
        """Called by the library for everything it wants to say."""
        return self.raft is not None and self.raft.say(node, message)


class LibraryRaft(library.SyncObj):  # type: ignore[misc]
    """One replica's Raft state as the library keeps it. Synchronous, without threads, files, sockets or pickle."""

    _SyncObj__connectedNodes: set[ReplicaNode]
    _SyncObj__lastResponseTime: dict[ReplicaNode, float]
    _SyncObj__newAppendEntriesTime: float
    _SyncObj__raftCommitIndex: int
    _SyncObj__raftCurrentTerm: int
    _SyncObj__raftElectionDeadline: float
    _SyncObj__raftLastApplied: int
    _SyncObj__raftLeader: ReplicaNode | None
    _SyncObj__raftMatchIndex: dict[ReplicaNode, int]
    _SyncObj__raftNextIndex: dict[ReplicaNode, int]
    _SyncObj__raftState: int
    _SyncObj__serializer: SnapshotSender

    def __init__(
        self,
        replica_id: str,
        peer_ids: tuple[str, ...],
        *,
        journal: Journal,
        sender: SnapshotSender,
        settings: CoreSettings,
        generator: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._generator = generator
        self._clock = clock
        self._paused: set[ReplicaNode] = set()
        self._resume_at: dict[ReplicaNode, int] = {}
        self.nodes = {peer_id: ReplicaNode(peer_id) for peer_id in peer_ids}
        outlet = _Outlet()
        bind_clock(clock)
        original = library.createJournal
        library.createJournal = lambda _path: journal
        try:
            super().__init__(
                ReplicaNode(replica_id),
                list(self.nodes.values()),
                _configuration(settings),
                nodeClass=ReplicaNode,
                transport=outlet,
            )
        finally:
            library.createJournal = original
        outlet.raft = self
        self._SyncObj__serializer = sender
        self._SyncObj__raftLastApplied = max(1, journal.base.index)
        self._SyncObj__raftCommitIndex = max(self._SyncObj__raftCommitIndex, journal.base.index)

    # ------------------------------------------------------------------ what the guards fill in

    def say(self, node: ReplicaNode, message: dict[str, Any]) -> bool:
        """Send what the library wants to say."""
        raise NotImplementedError

    def apply_entry(self, index: int, kind: bytes, command: bytes) -> None:
        """Apply a committed entry. Must not raise."""
        raise NotImplementedError

    def take_entries(self) -> list[bytes]:
        """What to append now, as leader."""
        raise NotImplementedError

    def compact(self) -> None:
        """Shorten the log if it is time."""
        raise NotImplementedError

    def leadership_begins(self) -> None:
        """This replica was elected."""
        raise NotImplementedError

    # ------------------------------------------------------------------ reading the state

    def role(self) -> int:
        """FOLLOWER, CANDIDATE or LEADER."""
        return self._SyncObj__raftState

    def term(self) -> int:
        """The current term."""
        return self._SyncObj__raftCurrentTerm

    def leader_id(self) -> str | None:
        """The leader of this term, as far as known."""
        node = self._SyncObj__raftLeader
        return None if node is None or self.role() == CANDIDATE else node.id

    def commit_index(self) -> int:
        """Everything up to here is committed."""
        return self._SyncObj__raftCommitIndex

    def applied_index(self) -> int:
        """Everything up to here is applied."""
        return self._SyncObj__raftLastApplied

    def connected_ids(self) -> tuple[str, ...]:
        """The replicas that there is a link to."""
        return tuple(sorted(node.id for node in self._SyncObj__connectedNodes))

    def next_index(self, node: ReplicaNode) -> int:
        """The next entry that this leader sends to a follower."""
        return self._SyncObj__raftNextIndex[node]

    def match_index(self, node: ReplicaNode) -> int:
        """What a follower has acknowledged to this leader."""
        return self._SyncObj__raftMatchIndex[node]

    # ------------------------------------------------------------------ correcting it

    def hand_over(self, node: ReplicaNode, **message: Any) -> None:
        """Let the library handle a message that the guards have checked."""
        self._SyncObj__onMessageReceived(node, message)

    def node_connected(self, node: ReplicaNode) -> None:
        """Tell the library of a link."""
        self._SyncObj__onNodeConnected(node)

    def node_disconnected(self, node: ReplicaNode) -> None:
        """Tell the library of a broken link."""
        self._SyncObj__onNodeDisconnected(node)
        self._SyncObj__serializer.cancelTransmisstion(node)

    def set_next_index(self, node: ReplicaNode, index: int) -> None:
        """Send from here on."""
        self._SyncObj__raftNextIndex[node] = index

    def set_commit_index(self, index: int) -> None:
        """Everything up to here was verified to be committed."""
        self._SyncObj__raftCommitIndex = index
        self._journal.setRaftCommitIndex(index)

    def set_applied_index(self, index: int) -> None:
        """A snapshot brought the state machine here."""
        self._SyncObj__raftLastApplied = index

    def set_term(self, term: int, voted_for: str | None) -> None:
        """Enter a term; durable before anyone hears of it."""
        self._SyncObj__setCurrentTerm(term, voted_for)

    def become_follower(self) -> None:
        """Stop leading or standing, and know of no leader."""
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    def forget_leader(self) -> None:
        """The leader is not heard any more."""
        self._SyncObj__raftLeader = None

    def election_deadline(self) -> float:
        """When this replica stands for election, on the clock."""
        return self._SyncObj__raftElectionDeadline

    def set_election_deadline(self, at: float) -> None:
        """Stand for election then."""
        self._SyncObj__raftElectionDeadline = at

    def election_timeout(self) -> float:
        """A random time, in seconds."""
        return self._generator.uniform(self._settings.election_min_ms, self._settings.election_max_ms) / 1000

    def heard_at_least(self, at: float) -> None:
        """Count every follower as heard at this time, if it was not heard later."""
        for node, heard in self._SyncObj__lastResponseTime.items():
            self._SyncObj__lastResponseTime[node] = max(heard, at)

    def restart_transmission(self, node: ReplicaNode) -> None:
        """A follower asked for another position: send at once, and a snapshot from its beginning."""
        self._SyncObj__serializer.cancelTransmisstion(node)
        self._SyncObj__newAppendEntriesTime = float("-inf")

    def pause(self, node: ReplicaNode, *, resume_at: int | None = None) -> None:
        """Make the sending loop leave this follower alone until the next round, then go on from `resume_at`."""
        self._SyncObj__connectedNodes.discard(node)
        self._paused.add(node)
        if resume_at is not None:
            self._resume_at[node] = resume_at

    # ------------------------------------------------------------------ the library's methods, overridden

    def _SyncObj__generateRaftTimeout(self) -> float:  # noqa: N802
        """Election timeouts come from the given generator, so that a run can be repeated."""
        return self.election_timeout()

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:  # noqa: N802
        """V6, V7: applying never raises, there are no callbacks of the library, and nothing is unpickled.

        V5: entries that would change membership or code version have no effect (and never arrive: see `codec`).
        """
        self.apply_entry(self._SyncObj__raftLastApplied + 1, command[:1], command[1:])

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        """Tell followers of a new commit index at once; the library waits for the next heartbeat in batch mode."""
        before = self.applied_index()
        super()._SyncObj__applyLogEntries()
        return self.applied_index() > before

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        """Send to every follower; those that were paused meanwhile are on again afterwards."""
        try:
            super()._SyncObj__sendAppendEntries()
        finally:
            self._SyncObj__connectedNodes.update(self._paused)
            self._SyncObj__raftNextIndex.update(self._resume_at)
            self._paused.clear()
            self._resume_at.clear()

    def _checkCommandsToApply(self) -> None:  # noqa: N802
        """Append what the core has collected as one group, instead of the library's queue and its forwarding."""
        if self.role() != LEADER:
            return
        commands = self.take_entries()
        for command in commands:
            self._journal.add(command, self._journal.last_index + 1, self.term())
        if commands and self.nodes:
            self._SyncObj__sendAppendEntries()

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802
        """The core decides, writes the snapshot durably, and only then shortens the journal."""
        self.compact()

    def _SyncObj__onBecomeLeader(self) -> None:  # noqa: N802
        """Begin each leadership with a clean slate, and durably.

        A replica without peers commits its first entry in the same tick, before anyone else would sync it.
        """
        self.leadership_begins()
        super()._SyncObj__onBecomeLeader()
        self._journal.sync()


def _configuration(settings: CoreSettings) -> SyncObjConf:
    return SyncObjConf(
        autoTick=False,
        appendEntriesUseBatch=True,
        appendEntriesPeriod=settings.heartbeat_ms / 1000,
        appendEntriesBatchSizeBytes=settings.batch_bytes,
        raftMinTimeout=settings.election_min_ms / 1000,
        raftMaxTimeout=settings.election_max_ms / 1000,
        connectionTimeout=settings.election_max_ms / 1000,
        leaderFallbackTimeout=settings.fallback_ms / 1000,
        commandsWaitLeader=False,
        dynamicMembershipChange=False,
        logCompactionMinEntries=2**31,
        logCompactionMinTime=2**31,
        useFork=False,
        journalFile=None,
        fullDumpFile=None,
    )
