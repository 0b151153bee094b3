"""Everything that the library hears and says is looked at here first.

PySyncObj 0.3.17 keeps elections, replication and the counting of commits (`library`). Each method says which of its
defects it closes:

    V1  a follower cuts entries that it has acknowledged; a leader re-sends what was acknowledged
    V2  the commit index moves past entries that no message has verified
    V3  an acknowledgement of an earlier term counts in a later one
    V4  an old snapshot replaces newer entries and newer state
    V5  two changes of membership at a time split the group
    V6  an exception in a client's callback applies the command again
    V7  an exception in a command stops every replica for ever
    V8  a long conflicting tail is never repaired
    V9  a leader that sends a snapshot hears no answers meanwhile, and steps down
    V10 a replica that was cut off disturbs the leader when it returns (no pre-vote)
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any, Protocol

from attrs import define, field

from callboard.consensus.interface import EngineFailed
from callboard.consensus.pysyncobj_engine import codec
from callboard.consensus.pysyncobj_engine.journal import Base, Journal
from callboard.consensus.pysyncobj_engine.options import CoreSettings
from callboard.consensus.pysyncobj_engine.raft_library import CANDIDATE, FOLLOWER, LEADER, LibraryRaft, ReplicaNode
from callboard.consensus.pysyncobj_engine.snapshots import OutgoingChunk, SnapshotSender

logger = logging.getLogger(__name__)

SIGN_OF_LIFE = 2
"""Next index in an acknowledgement that says nothing about the log."""


class Owner(Protocol):
    """What the guarded library asks of the core around it."""

    def apply_entry(self, index: int, kind: bytes, command: bytes) -> None:
        """Apply one committed entry. Must not raise."""

    def take_entries(self) -> list[bytes]:
        """Entries to append now. Called only while this replica leads."""

    def compact(self, applied_index: int) -> None:
        """Replace the log by a snapshot, if it is time."""

    def install(self, data: bytes, base: Base) -> None:
        """Take a leader's snapshot over: state, files and journal."""

    def transmit(self, peer_id: str, message: codec.Message, *, durable_first: bool) -> bool:
        """Send a message, after the next sync if `durable_first`."""

    def collect_chunk(self, peer_id: str, message: codec.SnapshotChunk) -> bytes | None:
        """Keep a chunk of a snapshot; the whole when it was the last."""


@define
class _Follower:
    """What a leader keeps per follower beside the library's own."""

    rewound_at: int = 0
    """Resets that answer messages before this sequence number are old news (V8)."""


@define
class _PreVote:
    """A question to the others whether an election would succeed (V10)."""

    term: int
    granted: set[str] = field(factory=set)
    won: bool = False


class GuardedRaft(LibraryRaft):
    """One replica's Raft state. Synchronous: whoever calls it owns time, network and disk."""

    def __init__(
        self,
        replica_id: str,
        peer_ids: tuple[str, ...],
        *,
        owner: Owner,
        journal: Journal,
        sender: SnapshotSender,
        settings: CoreSettings,
        generator: random.Random,
        clock: Callable[[], float],
        joining: bool,
    ) -> None:
        self._owner = owner
        self.joining = joining
        self._sequence = 0
        self._answering = 0
        self._verified: int | None = None
        self._followers: dict[str, _Follower] = {}
        self._voters: set[str] = set()
        self._pre_vote: _PreVote | None = None
        self._leader_heard = float("-inf")
        self._ticked_at = clock()
        self._stall_forgiven = False
        super().__init__(
            replica_id,
            peer_ids,
            journal=journal,
            sender=sender,
            settings=settings,
            generator=generator,
            clock=clock,
        )
        # Pre-votes make it harmless to ask early: after a start there is usually no leader, or one that is heard soon.
        self._stand_soon()

    # ------------------------------------------------------------------ driving it

    def tick(self) -> None:
        """Let time pass: elections, commits, applying, sending."""
        self._forgive_stall()
        self._guard_campaign()
        was_leader = self.role() == LEADER
        self.doTick(0)
        if was_leader and self.role() != LEADER:
            # The library keeps the deadline from before it led, and would campaign at once.
            self._postpone_election()
        self._ticked_at = self._clock()

    def _forgive_stall(self) -> None:
        """Whoever was held up itself (a slow sync, a busy machine) first listens for two heartbeats, once.

        Answers and heartbeats may wait in its sockets; without this, one slow disk costs an election.
        """
        now = self._clock()
        heartbeat_s = self._settings.heartbeat_ms / 1000
        if now - self._ticked_at <= heartbeat_s or self._stall_forgiven:
            return
        self._stall_forgiven = True
        if self.role() == LEADER:
            self.heard_at_least(now - self._settings.fallback_ms / 1000 + 2 * heartbeat_s)
        elif self.leader_id() is not None:
            self.set_election_deadline(max(self.election_deadline(), now + 2 * heartbeat_s))

    def campaign_now(self) -> None:
        """Let the election timeout expire."""
        self.set_election_deadline(float("-inf"))

    def end_joining(self) -> None:
        """Become a full member: vote from the next term on, and not in this one, where a predecessor may have voted."""
        self.joining = False
        self.set_term(self.term(), self.selfNode.id)

    def link_up(self, peer_id: str) -> None:
        """Messages can be exchanged with `peer_id` from now on."""
        self.node_connected(self.nodes[peer_id])

    def link_down(self, peer_id: str) -> None:
        """The link broke; what was on it may be lost. Losing the leader this way shortens the wait for an election."""
        self.node_disconnected(self.nodes[peer_id])
        if self.leader_id() == peer_id and self.role() == FOLLOWER:
            self._leader_heard = float("-inf")
            self._stand_soon()

    def receive(self, peer_id: str, message: codec.Message) -> None:
        """Take one message of a member."""
        node = self.nodes[peer_id]
        match message:
            case codec.Append():
                self._on_append(node, message)
            case codec.Acknowledge():
                self._on_acknowledge(node, message)
            case codec.SnapshotChunk():
                self._on_chunk(node, message)
            case codec.RequestVote():
                self._on_request_vote(node, message)
            case codec.Vote():
                self._on_vote(node, message)
            case codec.RequestPreVote():
                self._on_request_pre_vote(node, message)
            case codec.PreVote():
                self._on_pre_vote(node, message)
            case _:
                raise AssertionError(f"{type(message).__name__} is not for the library")

    # ------------------------------------------------------------------ what the library says

    def say(self, node: ReplicaNode, message: dict[str, Any]) -> bool:
        """Turn what the library wants to send into a message; called through `_Outlet`."""
        kind = message["type"]
        if kind == "append_entries":
            return self._say_append(node, message)
        if kind == "next_node_idx":
            return self._say_acknowledge(node, message)
        if kind == "request_vote":
            ask = codec.RequestVote(message["term"], message["last_log_index"], message["last_log_term"])
            return self._owner.transmit(node.id, ask, durable_first=True)
        if kind == "response_vote":
            return self._owner.transmit(node.id, codec.Vote(message["term"]), durable_first=True)
        raise AssertionError(f"the library wants to send {kind}, which this engine never asks for")

    def _say_append(self, node: ReplicaNode, message: dict[str, Any]) -> bool:
        self._sequence += 1
        term = message["term"]
        if "serialized" in message:
            chunk: OutgoingChunk = message["serialized"][0]
            if chunk.is_last:
                self.pause(node, resume_at=chunk.base.index + 1)
            elif not chunk.data:
                self.pause(node)
            wire: codec.Message = codec.SnapshotChunk(
                self._sequence, term, chunk.base.index, chunk.base.term, chunk.offset, chunk.is_last, chunk.data
            )
            return self._owner.transmit(node.id, wire, durable_first=False)
        previous = message["prevLogIdx"]
        if message.get("transmission", "start") != "start":
            return True
        # The library cuts an entry that is larger than a batch into pickled pieces. It goes out whole, with the first.
        entries = [self._journal.entry_at(previous + 1)] if "transmission" in message else message["entries"]
        wire = codec.Append(self._sequence, term, message["commit_index"], previous, message["prevLogTerm"], entries)
        sent = self._owner.transmit(node.id, wire, durable_first=False)
        if not sent and entries:
            # The library believes that these entries are on their way: correct it, and pause this follower.
            self.pause(node, resume_at=previous + 1)
        return sent

    def _say_acknowledge(self, node: ReplicaNode, message: dict[str, Any]) -> bool:
        next_index = message["next_node_idx"]
        if message["success"] and self._verified is not None:
            # V1: the guard trimmed the message, so the library counts from another place.
            next_index = self._verified + 1
        elif message["reset"] and not message["success"]:
            next_index = self._back_off(next_index)
        # V3: an acknowledgement belongs to a term. It leaves only when the entries are durable.
        answer = codec.Acknowledge(self._answering, self.term(), next_index, message["reset"], message["success"])
        return self._owner.transmit(node.id, answer, durable_first=True)

    def _back_off(self, conflict: int) -> int:
        """V8: skip a whole conflicting term at once instead of one entry per message, never below what is committed."""
        term = self._journal.term_at(conflict)
        while term is not None and conflict > 2 and self._journal.term_at(conflict - 1) == term:
            conflict -= 1
        return max(conflict, min(self.commit_index(), self._journal.last_index) + 1)

    # ------------------------------------------------------------------ what arrives for a follower

    def _on_append(self, node: ReplicaNode, message: codec.Append) -> None:
        if message.term < self.term():
            self._answer_stale_leader(node, message.sequence)
            return
        self._heard_leader(node, message.term)
        self._answering = message.sequence
        self._verified = None
        entries = message.entries
        previous, commit = message.previous_index, message.commit_index
        if self._journal.term_at(previous) == message.previous_term:
            # V1: keep every entry that is held already; only a real conflict may cut the log.
            self._verified = previous + len(entries)
            # V2: nothing beyond what this message has verified is known to be committed.
            commit = min(commit, self._verified)
            held = 0
            while held < len(entries) and self._journal.term_at(entries[held][1]) == entries[held][2]:
                held += 1
            entries = entries[held:]
            previous = entries[0][1] - 1 if entries else self._journal.last_index
        self._refuse_divergence(previous, message, entries)
        self.hand_over(
            node,
            type="append_entries",
            term=message.term,
            commit_index=commit,
            entries=entries,
            prevLogIdx=previous,
            prevLogTerm=message.previous_term if self._verified is None else self._journal.term_at(previous),
        )
        self._verified = None

    def _refuse_divergence(self, previous: int, message: codec.Append, entries: list[codec.Entry]) -> None:
        """A leader that contradicts what is committed here means that a promise was broken somewhere: stop."""
        committed = self.commit_index()
        if self._verified is None:
            held = self._journal.term_at(previous)
            diverges = held is not None and held != message.previous_term and previous <= committed
        else:
            diverges = bool(entries) and entries[0][1] <= committed
        if diverges:
            raise EngineFailed(
                f"the leader of term {message.term} contradicts entry {previous} or its successor, "
                f"and everything up to {committed} is committed here: some replica lost what it had acknowledged"
            )

    def _on_chunk(self, node: ReplicaNode, message: codec.SnapshotChunk) -> None:
        if message.term < self.term():
            self._answer_stale_leader(node, message.sequence)
            return
        self._heard_leader(node, message.term)
        self._answering = message.sequence
        # V2: the library would move the commit index for every chunk. It sees only a heartbeat without one.
        self.hand_over(node, type="append_entries", term=message.term, commit_index=0, serialized=None)
        base = Base(message.index, message.index_term)
        if base.index <= self.commit_index():
            # V4: all of it is committed here. What is committed here is what any leader has.
            self._answer(node, self.commit_index() + 1, reset=True, success=True)
        elif self._journal.term_at(base.index) == base.term:
            # V4: the log reaches beyond the snapshot and agrees with it: it has verified everything up to there.
            self.set_commit_index(base.index)
            self._answer(node, base.index + 1, reset=True, success=True)
        else:
            data = self._owner.collect_chunk(node.id, message)
            if data is None:
                # V9: an answer to every chunk shows the leader that this follower is there.
                self._answer(node, SIGN_OF_LIFE, reset=False, success=False)
                return
            self._owner.install(data, base)
            self.set_applied_index(base.index)
            self.set_commit_index(base.index)
            self._answer(node, base.index + 1, reset=False, success=True)

    def _answer(self, node: ReplicaNode, next_index: int, *, reset: bool, success: bool) -> None:
        answer = codec.Acknowledge(self._answering, self.term(), next_index, reset, success)
        self._owner.transmit(node.id, answer, durable_first=True)

    def _answer_stale_leader(self, node: ReplicaNode, sequence: int) -> None:
        """V10: the library says nothing to a leader of an old term, and with pre-votes nobody else would tell it."""
        answer = codec.Acknowledge(sequence, self.term(), SIGN_OF_LIFE, reset=False, success=False)
        self._owner.transmit(node.id, answer, durable_first=True)

    def _heard_leader(self, node: ReplicaNode, term: int) -> None:
        if self.role() == LEADER and term == self.term():
            raise EngineFailed(f"two leaders in term {term}: this replica and {node.id}")
        self._leader_heard = self._clock()
        self._stall_forgiven = False
        self._pre_vote = None

    # ------------------------------------------------------------------ what arrives for a leader

    def _on_acknowledge(self, node: ReplicaNode, message: codec.Acknowledge) -> None:
        if self.role() != LEADER or message.term < self.term():
            return  # V3
        if message.term > self.term():
            self._adopt_term(message.term)
            self._postpone_election()
            return
        if not 2 <= message.next_index <= self._journal.last_index + 1:
            logger.error("%s acknowledges entry %d, which does not exist", node.id, message.next_index - 1)
            return
        self._stall_forgiven = False
        follower = self._followers.setdefault(node.id, _Follower())
        # V8: one reset at a time. Those that answer what was sent before the last rewind would undo it.
        reset = message.reset and message.sequence >= follower.rewound_at
        sent_up_to = self.next_index(node)
        if reset and not message.success and message.next_index <= self.match_index(node):
            logger.error("%s lost entries that it had acknowledged: it asks for %d", node.id, message.next_index)
        self.hand_over(
            node,
            type="next_node_idx",
            next_node_idx=message.next_index,
            reset=reset,
            success=message.success,
        )
        if reset:
            follower.rewound_at = self._sequence + 1
            self.restart_transmission(node)
        else:
            # V1: an acknowledgement never moves the sending position back.
            self.set_next_index(node, max(sent_up_to, self.next_index(node)))

    # ------------------------------------------------------------------ elections

    def _on_request_vote(self, node: ReplicaNode, message: codec.RequestVote) -> None:
        if self.joining:
            return  # a replacement does not know what its predecessor voted (see replace)
        self.hand_over(
            node,
            type="request_vote",
            term=message.term,
            last_log_index=message.last_index,
            last_log_term=message.last_term,
        )

    def _on_vote(self, node: ReplicaNode, message: codec.Vote) -> None:
        if self.role() != CANDIDATE or message.term != self.term() or node.id in self._voters:
            return
        self._voters.add(node.id)
        self.hand_over(node, type="response_vote", term=message.term)

    def _guard_campaign(self) -> None:
        """V10: when the election timeout expires, ask whether an election would succeed before raising the term."""
        now = self._clock()
        if self.role() == LEADER or self.election_deadline() >= now:
            return
        if self.joining:
            self._postpone_election()
            return
        if not self.nodes or (self._pre_vote is not None and self._pre_vote.won):
            self._pre_vote = None
            self._voters.clear()
            return  # the library campaigns in this tick
        self.set_election_deadline(float("inf"))
        self._stand_soon()
        self.forget_leader()
        self._pre_vote = _PreVote(self.term() + 1)
        ask = codec.RequestPreVote(self._pre_vote.term, self._journal.last_index, self._journal.last_term)
        for peer_id in self.connected_ids():
            self._owner.transmit(peer_id, ask, durable_first=False)

    def _on_request_pre_vote(self, node: ReplicaNode, message: codec.RequestPreVote) -> None:
        quiet_s = self._clock() - self._leader_heard
        granted = (
            not self.joining
            and self.role() != LEADER
            and message.term > self.term()
            and quiet_s >= self._settings.election_min_ms / 1000
            and (message.last_term, message.last_index) >= (self._journal.last_term, self._journal.last_index)
        )
        answer = codec.PreVote(message.term, self.term(), granted)
        # Durable first: the answer shows a term.
        self._owner.transmit(node.id, answer, durable_first=True)

    def _on_pre_vote(self, node: ReplicaNode, message: codec.PreVote) -> None:
        if message.term > self.term() and self.role() != LEADER:
            self._adopt_term(message.term)  # nobody would vote in an old one
        question = self._pre_vote
        if question is None or not message.granted or message.asked != question.term or self.role() == LEADER:
            return
        question.granted.add(node.id)
        if 2 * (len(question.granted) + 1) > len(self.nodes) + 1 and question.term == self.term() + 1:
            question.won = True
            self.campaign_now()

    def _adopt_term(self, term: int) -> None:
        """Take a newer term over as a follower. Without a vote that is always safe."""
        self.set_term(term, None)
        self.become_follower()
        self._pre_vote = None

    def _postpone_election(self) -> None:
        self.set_election_deadline(self._clock() + self.election_timeout())

    def _stand_soon(self) -> None:
        """Ask for pre-votes within a few heartbeats, unless it would be sooner anyway."""
        wait_s = self._generator.uniform(0.5, 3) * self._settings.heartbeat_ms / 1000
        self.set_election_deadline(min(self.election_deadline(), self._clock() + wait_s))

    # ------------------------------------------------------------------ what the library asks for

    def apply_entry(self, index: int, kind: bytes, command: bytes) -> None:
        """Hand a committed entry on."""
        self._owner.apply_entry(index, kind, command)

    def take_entries(self) -> list[bytes]:
        """Hand the question on."""
        return self._owner.take_entries()

    def compact(self) -> None:
        """Hand the question on."""
        self._owner.compact(self.applied_index())

    def leadership_begins(self) -> None:
        """Nothing that was known of followers in an earlier term is left."""
        self._followers.clear()
