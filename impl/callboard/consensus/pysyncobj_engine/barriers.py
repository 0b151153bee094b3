"""Barriers that wait: here for an entry of this leader, or for the leader's word and then for applying up to it.

A barrier is safe when the entry that confirms it was proposed after the barrier was asked for. Those that come
while one is on its way wait for the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from attrs import define, field

from callboard.consensus.interface import BarrierFailed
from callboard.consensus.pysyncobj_engine import codec

logger = logging.getLogger(__name__)

REMOTE_LIMIT = 16
"""Requests of one follower that may wait at a leader. A well-behaved one has one, and repeats it rarely."""


@define(eq=False)
class BarrierTicket:
    """One caller who waits. `done` is called at most once."""

    done: Callable[[int | BarrierFailed], None]
    over: bool = False

    def finish(self, outcome: int | BarrierFailed) -> None:
        """Tell the caller; nothing happens the second time, or after `cancel`."""
        if self.over:
            return
        self.over = True
        try:
            self.done(outcome)
        except Exception:
            logger.exception("the receiver of a barrier's outcome raised")

    def cancel(self) -> None:
        """Nobody waits any more."""
        self.over = True


@define(eq=False)
class _Remote:
    """A follower's request."""

    peer_id: str
    number: int
    answer: Callable[[str, codec.Message], None]


@define
class _Asked:
    number: int
    at: float
    tickets: list[BarrierTicket]


@define
class Barriers:
    """All barriers of one replica."""

    retry_s: float
    """A question to the leader that stays unanswered for this long is asked again."""
    _waiting: list[BarrierTicket] = field(factory=list)
    _remote: list[_Remote] = field(factory=list)
    _at_entry: dict[int, tuple[list[BarrierTicket], list[_Remote]]] = field(factory=dict)
    _empty_entry: int | None = None
    _asked: _Asked | None = None
    _confirmed: list[tuple[int, BarrierTicket]] = field(factory=list)
    _numbers: int = 0

    @property
    def waiting_count(self) -> int:
        """How many callers wait (those that gave up included, until their turn comes)."""
        asked = len(self._asked.tickets) if self._asked is not None else 0
        return len(self._waiting) + asked + len(self._confirmed) + sum(len(t) for t, _ in self._at_entry.values())

    def add(self, ticket: BarrierTicket) -> None:
        """A caller on this replica."""
        self._waiting.append(ticket)

    def add_remote(self, peer_id: str, number: int, answer: Callable[[str, codec.Message], None]) -> None:
        """A follower asks. Dropped if it asks too often: it will repeat."""
        if sum(1 for remote in self._remote if remote.peer_id == peer_id) < REMOTE_LIMIT:
            self._remote.append(_Remote(peer_id, number, answer))

    # As leader.

    def attach(self, last_new_entry: int | None, next_entry: int) -> bool:
        """Let waiting barriers be confirmed by an entry that is being appended; True if an empty one is needed."""
        self._waiting = [ticket for ticket in self._waiting if not ticket.over]
        if not self._waiting and not self._remote:
            return False
        if last_new_entry is None and self._empty_entry is not None:
            return False
        index = next_entry if last_new_entry is None else last_new_entry
        self._at_entry[index] = (self._waiting, self._remote)
        self._waiting, self._remote = [], []
        if last_new_entry is None:
            self._empty_entry = index
            return True
        return False

    def committed(self, index: int) -> None:
        """The entry at `index` was committed and applied by this leader, in the term in which it was appended."""
        if index == self._empty_entry:
            self._empty_entry = None
        tickets, remotes = self._at_entry.pop(index, ([], []))
        for ticket in tickets:
            ticket.finish(index)
        for remote in remotes:
            remote.answer(remote.peer_id, codec.Barrier(remote.number, index))

    # As follower.

    def ask_leader(self, now: float) -> codec.RequestBarrier | None:
        """The question to send, if there is one and none is on its way."""
        if self._asked is not None and now - self._asked.at > self.retry_s:
            self._requeue_asked()
        if self._asked is not None:
            return None
        self._waiting = [ticket for ticket in self._waiting if not ticket.over]
        if not self._waiting:
            return None
        self._numbers += 1
        self._asked = _Asked(self._numbers, now, self._waiting)
        self._waiting = []
        return codec.RequestBarrier(self._numbers)

    def confirmed(self, number: int, index: int) -> None:
        """The leader's answer: everything acknowledged before the question is at or below `index`."""
        if self._asked is not None and self._asked.number == number:
            self._confirmed.extend((index, ticket) for ticket in self._asked.tickets)
            self._asked = None

    # Both.

    def applied(self, applied_index: int) -> None:
        """This replica has applied everything up to here."""
        if not self._confirmed:
            return
        waiting = [(index, ticket) for index, ticket in self._confirmed if index > applied_index]
        for index, ticket in self._confirmed:
            if index <= applied_index:
                ticket.finish(applied_index)
        self._confirmed = waiting

    def leader_changed(self) -> None:
        """Whatever was on its way may never be answered: begin again. The followers ask the new leader."""
        self._requeue_asked()
        for tickets, _ in self._at_entry.values():
            self._waiting.extend(tickets)
        self._at_entry.clear()
        self._empty_entry = None
        self._remote.clear()

    def fail(self, error: BarrierFailed) -> None:
        """Nothing will ever be confirmed."""
        self.leader_changed()
        for ticket in [*self._waiting, *(ticket for _, ticket in self._confirmed)]:
            ticket.finish(error)
        self._waiting = []
        self._confirmed = []

    def _requeue_asked(self) -> None:
        if self._asked is not None:
            self._waiting = [*self._asked.tickets, *self._waiting]
            self._asked = None
