"""Seeded bugs: callboard's engine, broken in one place. A checker that never fails proves nothing.

Each mutant names the rules of which at least one must break in random schedules, or a scenario that catches it.
"""

# ruff: noqa: SLF001 - a mutant replaces what is inside the engine

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from callboard.consensus.interface import Applied, NotApplied, OutcomeUnknown
from callboard.consensus.pysyncobj_engine import codec, core, snapshots
from callboard.consensus.pysyncobj_engine.barriers import Barriers
from callboard.consensus.pysyncobj_engine.core import Core
from callboard.consensus.pysyncobj_engine.guards import GuardedRaft
from callboard.consensus.pysyncobj_engine.journal import Journal
from callboard.consensus.pysyncobj_engine.outbox import Outbox
from callboard.consensus.pysyncobj_engine.raft_library import LEADER
from harness.raftsim.disk import SimDisk
from harness.raftsim.hardened import Hardened, core_in_simulation
from harness.raftsim.runner import EngineKind

Patch = tuple[Any, str, Any]


@frozen
class Mutant:
    """One way to break the engine."""

    what: str
    rules: frozenset[str]
    """One of these must break in random schedules. Empty: random schedules meet its moment too rarely."""
    patches: Callable[[], list[Patch]]
    scenario: str | None = None
    """The scripted run that catches it."""


def _votes_are_forgotten() -> list[Patch]:
    def set_term(self: Any, term: int, _voted_for: str | None) -> None:
        self._term, self._voted_for, self._meta_dirty = term, None, True

    original = GuardedRaft._on_request_vote

    def vote_again(self: Any, node: Any, message: codec.RequestVote) -> None:
        self._SyncObj__votedForNodeId = None
        original(self, node, message)

    return [(Journal, "setCurrentTerm", set_term), (GuardedRaft, "_on_request_vote", vote_again)]


def _syncs_do_nothing() -> list[Patch]:
    return [(SimDisk, "sync", lambda _self, _path: None)]


def _answers_leave_before_the_sync() -> list[Patch]:
    def transmit(self: Any, peer_id: str, message: codec.Message, *, durable_first: bool) -> bool:
        del durable_first
        return bool(self._send(peer_id, codec.encode(message)))

    return [(Core, "transmit", transmit)]


def _followers_cut_first() -> list[Patch]:
    original = GuardedRaft._on_append

    def cut(self: Any, node: Any, message: codec.Append) -> None:
        if message.term >= self.term() and self._journal.term_at(message.previous_index) == message.previous_term:
            self._SyncObj__deleteEntriesFrom(message.previous_index + 1)
        original(self, node, message)

    acknowledge = GuardedRaft._on_acknowledge

    def rewind(self: Any, node: Any, message: codec.Acknowledge) -> None:
        acknowledge(self, node, message)
        if message.success and self.role() == LEADER and message.term == self.term():
            self._SyncObj__raftNextIndex[node] = message.next_index

    return [
        (GuardedRaft, "_on_append", cut),
        (GuardedRaft, "_on_acknowledge", rewind),
        (GuardedRaft, "_refuse_divergence", lambda *_arguments: None),
    ]


def _commit_index_is_believed() -> list[Patch]:
    original = GuardedRaft._on_chunk

    def believe(self: Any, node: Any, message: codec.SnapshotChunk) -> None:
        original(self, node, message)
        if message.term == self.term() and self.role() != LEADER:
            self._SyncObj__raftCommitIndex = min(message.index, self._journal.last_index)

    return [(GuardedRaft, "_on_chunk", believe)]


def _old_acknowledgements_count() -> list[Patch]:
    original = GuardedRaft._on_acknowledge

    def count(self: Any, node: Any, message: codec.Acknowledge) -> None:
        last = self._journal.last_index
        original(self, node, _like(message, term=self.term(), next_index=min(message.next_index, last + 1)))

    return [(GuardedRaft, "_on_acknowledge", count)]


def _like(message: codec.Acknowledge, **changes: Any) -> codec.Acknowledge:
    """A copy with some fields changed."""
    values = {name: getattr(message, name) for name in message.__struct_fields__}
    return codec.Acknowledge(**{**values, **changes})


def _everything_counts_as_majority() -> list[Patch]:
    original = GuardedRaft.tick

    def tick(self: Any) -> None:
        if self.role() == LEADER:
            for node in self.nodes.values():
                self._SyncObj__raftMatchIndex[node] = self._journal.last_index
        original(self)

    return [(GuardedRaft, "tick", tick)]


def _leaders_rewrite_their_log() -> list[Patch]:
    original = GuardedRaft.tick

    def tick(self: Any) -> None:
        original(self)
        journal = self._journal
        if self.role() == LEADER and journal.last_index > self.commit_index() + 2:
            command, index, term = journal[-1]
            journal.deleteEntriesFrom(len(journal) - 1)
            journal.add(command + b"?", index, term)

    return [(GuardedRaft, "tick", tick)]


def _entries_change_on_the_way() -> list[Patch]:
    original = Journal.add

    def add(self: Any, command: bytes, idx: int, term: int) -> None:
        if idx % 17 == 0 and self._directory_id and command.startswith(codec.KIND_COMMAND) and self._voted_for is None:
            command += b"?"
        original(self, command, idx, term)

    return [(Journal, "add", add)]


def _entries_are_applied_twice() -> list[Patch]:
    original = Core.apply_entry

    def apply(self: Any, index: int, kind: bytes, command: bytes) -> None:
        if index % 23 == 0:
            original(self, index, kind, command)
        original(self, index, kind, command)

    return [(Core, "apply_entry", apply)]


def _success_is_reported_early() -> list[Patch]:
    original = Core.take_entries

    def take(self: Any) -> list[bytes]:
        entries: list[bytes] = original(self)
        for index, proposal in list(self._pending.items()):
            del self._pending[index]
            proposal.done(Applied(index, None))
        return entries

    return [(Core, "take_entries", take)]


def _unknown_is_reported_as_refused() -> list[Patch]:
    def end(self: Any, error: OutcomeUnknown) -> None:
        pending, self._pending = self._pending, {}
        for proposal in pending.values():
            proposal.done(NotApplied(str(error)))

    return [(Core, "_end_pending", end)]


def _barriers_confirm_nothing() -> list[Patch]:
    def barrier(self: Any, done: Callable[[Any], None]) -> None:
        done(self.applied_index)

    return [(Core, "barrier", barrier)]


def _waiting_proposals_are_forgotten() -> list[Patch]:
    def end(self: Any, _error: OutcomeUnknown) -> None:
        self._pending.clear()

    return [(Core, "_end_pending", end)]


def _followers_never_answer() -> list[Patch]:
    original = Outbox.add

    def add(self: Any, peer_id: str, message: codec.Message) -> None:
        if not (isinstance(message, codec.Acknowledge) and message.next_index % 5 == 0):
            original(self, peer_id, message)

    return [(Outbox, "add", add)]


def _remote_barriers_are_answered_at_once() -> list[Patch]:
    def add_remote(self: Any, peer_id: str, number: int, answer: Callable[[str, codec.Message], None]) -> None:
        del self
        answer(peer_id, codec.Barrier(number, 1))

    return [(Barriers, "add_remote", add_remote)]


def _exceptions_of_commands_pass() -> list[Patch]:
    return [(core, "apply_safely", lambda machine, index, command: machine.apply(index, command))]


def _conflicts_go_back_one_entry_at_a_time() -> list[Patch]:
    return [(GuardedRaft, "_back_off", lambda _self, conflict: conflict), *_every_reset_counts()]


def _chunks_are_not_answered() -> list[Patch]:
    original = GuardedRaft._answer

    def answer(self: Any, node: Any, next_index: int, *, reset: bool, success: bool) -> None:
        if success:
            original(self, node, next_index, reset=reset, success=success)

    return [(GuardedRaft, "_answer", answer)]


def _nobody_is_asked_before_an_election() -> list[Patch]:
    def campaign(self: Any) -> None:
        if self.role() != LEADER and self.election_deadline() < self._clock():
            self._voters.clear()

    return [(GuardedRaft, "_guard_campaign", campaign)]


def _snapshots_are_not_checked() -> list[Patch]:
    class Unchecked:
        @staticmethod
        def sha256(_data: Any) -> Any:
            return Unchecked()

        @staticmethod
        def digest() -> bytes:
            return b"\0" * 32

    return [(snapshots, "hashlib", Unchecked)]


def _every_reset_counts() -> list[Patch]:
    original = GuardedRaft._on_acknowledge

    def count(self: Any, node: Any, message: codec.Acknowledge) -> None:
        original(self, node, _like(message, sequence=codec.LARGEST))

    return [(GuardedRaft, "_on_acknowledge", count)]


_RAFT = frozenset({"LeaderCompleteness", "StateMachineSafety", "LogMatching", "EngineFailed", "DurableMembership"})
_NONE: frozenset[str] = frozenset()
_CLIENT = frozenset({"Linearizability"})

MUTANTS: dict[str, Mutant] = {
    "votes_are_forgotten": Mutant(
        "a replica votes more than once in a term", frozenset({"ElectionSafety"}), _votes_are_forgotten
    ),
    "syncs_do_nothing": Mutant(
        "fdatasync returns without doing anything", _RAFT | {"Convergence"}, _syncs_do_nothing, "power_loss"
    ),
    "answers_leave_before_the_sync": Mutant(
        "acknowledgements and votes are sent before the sync", _NONE, _answers_leave_before_the_sync, "forgotten_vote"
    ),
    "followers_cut_first": Mutant(
        "V1: a leader sends again, a follower cuts", _NONE, _followers_cut_first, "pipelined_loss"
    ),
    "commit_index_is_believed": Mutant(
        "V2: a chunk of a snapshot commits the own tail", _RAFT, _commit_index_is_believed, "snapshot_commit"
    ),
    "old_acknowledgements_count": Mutant(
        "V3: the term of an acknowledgement is ignored", _NONE, _old_acknowledgements_count, "stale_ack"
    ),
    "exceptions_of_commands_pass": Mutant("V7: a command that raises", _NONE, _exceptions_of_commands_pass, "poison"),
    "conflicts_go_back_one_entry_at_a_time": Mutant(
        "V8: one entry per message", _NONE, _conflicts_go_back_one_entry_at_a_time, "conflict_livelock"
    ),
    "chunks_are_not_answered": Mutant("V9: silence", _NONE, _chunks_are_not_answered, "snapshot_silence"),
    "nobody_is_asked_before_an_election": Mutant(
        "V10: no pre-vote", _NONE, _nobody_is_asked_before_an_election, "disturbance"
    ),
    "snapshots_are_not_checked": Mutant(
        "D4: a snapshot's checksum is ignored", _NONE, _snapshots_are_not_checked, "damaged_snapshot"
    ),
    "everything_counts_as_majority": Mutant("a leader commits alone", _RAFT, _everything_counts_as_majority),
    "leaders_rewrite_their_log": Mutant(
        "a leader changes its last entry", frozenset({"LeaderAppendOnly"}), _leaders_rewrite_their_log
    ),
    "entries_change_on_the_way": Mutant(
        "a follower stores another command", frozenset({"LogMatching"}), _entries_change_on_the_way
    ),
    "entries_are_applied_twice": Mutant(
        "some entries are applied twice", frozenset({"StateMachineSafety"}), _entries_are_applied_twice
    ),
    "success_is_reported_early": Mutant("success is reported before the commit", _CLIENT, _success_is_reported_early),
    "unknown_is_reported_as_refused": Mutant(
        "an unknown outcome is reported as refused", _CLIENT, _unknown_is_reported_as_refused
    ),
    "waiting_proposals_are_forgotten": Mutant(
        "proposals that wait when leadership is lost get no outcome",
        frozenset({"EveryProposalEnds"}),
        _waiting_proposals_are_forgotten,
    ),
    "barriers_confirm_nothing": Mutant("a barrier does not ask anybody", _CLIENT, _barriers_confirm_nothing),
    "remote_barriers_are_answered_at_once": Mutant(
        "a leader confirms a follower's barrier without an entry", _CLIENT, _remote_barriers_are_answered_at_once
    ),
    "followers_never_answer": Mutant(
        "some acknowledgements are never sent", frozenset({"Convergence"}), _followers_never_answer
    ),
}


@contextmanager
def _patched(patches: list[Patch]) -> Iterator[None]:
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in patches]
    for owner, name, value in patches:
        setattr(owner, name, value)
    try:
        with core_in_simulation():
            yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def mutant_kind(name: str) -> EngineKind:
    """The engine with this bug."""
    return EngineKind(Hardened(), lambda: _patched(MUTANTS[name].patches()))
