"""Committing a leader's commands: many in one transaction, one transaction at a time, and no wrong outcome.

A transaction compares the leader's candidacy (the fence) and the head's last change, then writes one log entry and
the new head. Because of the second comparison it succeeds at most once however often it is sent, and when it failed
for another reason than its own success, no earlier sending of it can succeed any more: the head never returns to
an earlier revision, nor a candidacy to an earlier term. So after any doubt the same transaction is simply sent again,
and the entry that is then found at its position tells the outcome.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence

from attrs import define, frozen

from callboard.consensus.etcd_engine.client import EtcdClient, compare_modified, put, read
from callboard.consensus.etcd_engine.errors import EtcdRefused, EtcdUnreachable
from callboard.consensus.etcd_engine.layout import Head, Keys, LogEntry, decode, encode
from callboard.consensus.etcd_engine.snapshots import Fence
from callboard.consensus.interface import Applied, EngineLimits, NotApplied, NotLeader, OutcomeUnknown, QueueFull
from callboard.protos.generated import etcd_rpc_pb2 as rpc

logger = logging.getLogger(__name__)

SEND_TIMEOUT_MS = 2000
SEND_PAUSE_S = 0.1
COMMANDS_PER_ENTRY = 4096


@frozen
class Office:
    """A term of this replica as leader: its fence, and the head as it is now."""

    fence: Fence
    head: Head
    head_revision: int


@define(eq=False)
class _Proposal:
    command: bytes
    done: asyncio.Future[Applied]


@define(eq=False)
class _Batch:
    """Proposals that share a log entry. What is known of its outcome is told to all of them."""

    entry: LogEntry
    proposals: list[_Proposal]
    office: Office

    def refuse(self, error: NotApplied | OutcomeUnknown) -> None:
        for proposal in self.proposals:
            if not proposal.done.done():
                proposal.done.set_exception(error)

    def accept(self, results: Sequence[object]) -> None:
        for index, (proposal, result) in enumerate(zip(self.proposals, results, strict=True), self.entry.first_index):
            if not proposal.done.done():
                proposal.done.set_result(Applied(index=index, result=result))


@define
class _Verdict:
    """What a transaction's answer says: was the entry committed, and what the head is if so."""

    committed: bool
    head_revision: int = 0
    refusal: OutcomeUnknown | None = None
    """Why the outcome cannot be known; None with `committed` False means that the entry surely never commits."""


class Proposer:
    """The queue of one replica's proposals. It accepts them only between `open` and `close`."""

    def __init__(
        self,
        client: EtcdClient,
        keys: Keys,
        limits: EngineLimits,
        *,
        batch_bytes: int,
        deliver: Callable[[LogEntry], Awaitable[None]],
        leader: Callable[[], str | None],
    ) -> None:
        self._client = client
        self._keys = keys
        self._limits = limits
        self._batch_bytes = batch_bytes
        self._deliver = deliver
        self._leader = leader
        self._queue: dict[int, _Proposal] = {}
        self._number = 0
        self._batch: _Batch | None = None
        self._office: Office | None = None
        self._work = asyncio.Event()
        self.settled = asyncio.Event()
        self.settled.set()

    @property
    def is_open(self) -> bool:
        """Whether proposals are accepted."""
        return self._office is not None

    def open(self, office: Office) -> None:
        """Accept proposals in this office. Only when `settled`: no earlier transaction is in doubt."""
        assert self.settled.is_set(), "an earlier transaction is still in doubt"
        self._office = office

    def close(self) -> None:
        """Refuse all that is not sent yet. A transaction under way goes on until its outcome is known."""
        self._office = None
        waiting, self._queue = self._queue, {}
        for proposal in waiting.values():
            if not proposal.done.done():
                proposal.done.set_exception(NotLeader(self._leader()))

    def abandon(self, why: str) -> None:
        """At the engine's end: what is under way stays unknown."""
        self.close()
        if self._batch is not None:
            self._batch.refuse(OutcomeUnknown(f"{why} while the command was under way"))

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """See `Engine.propose`."""
        if self._office is None:
            raise NotLeader(self._leader())
        if len(command) > self._limits.command_bytes:
            raise NotApplied(f"the command has {len(command)} bytes, the limit is {self._limits.command_bytes}")
        under_way = len(self._batch.proposals) if self._batch else 0
        if len(self._queue) + under_way >= self._limits.pending_proposals:
            raise QueueFull(f"{self._limits.pending_proposals} proposals wait already")
        self._number += 1
        number, proposal = self._number, _Proposal(command, asyncio.get_running_loop().create_future())
        self._queue[number] = proposal
        self._work.set()
        try:
            await asyncio.wait([proposal.done], timeout=timeout_ms / 1000)
            if proposal.done.done():
                return proposal.done.result()
        finally:
            was_sent = self._queue.pop(number, None) is None
            proposal.done.cancel()
        if was_sent:
            raise OutcomeUnknown(f"no outcome within {timeout_ms} ms; the command was sent to etcd")
        raise NotApplied(f"not sent within {timeout_ms} ms: etcd is slow or out of reach")

    def on_entry(self, entry: LogEntry, results: Sequence[object]) -> None:
        """The follower applied `entry`: if it is ours, its proposals have their answers."""
        if self._batch is not None and self._batch.entry.token == entry.token:
            self._batch.accept(results)

    async def run(self) -> None:
        """Commit batch after batch, for ever."""
        while True:
            await self._work.wait()
            self._batch = self._take()
            if self._batch is None:
                self._work.clear()
                continue
            self.settled.clear()
            await self._settle(self._batch)
            self._batch = None
            self.settled.set()

    def _take(self) -> _Batch | None:
        """The next proposals that fit into one entry."""
        if self._office is None or not self._queue:
            return None
        chosen: list[_Proposal] = []
        size = 0
        for number, proposal in list(self._queue.items()):
            size += len(proposal.command)
            if chosen and (size > self._batch_bytes or len(chosen) == COMMANDS_PER_ENTRY):
                break
            chosen.append(self._queue.pop(number))
        entry = LogEntry(
            first_index=self._office.head.index + 1,
            token=secrets.token_bytes(16),
            commands=tuple(proposal.command for proposal in chosen),
        )
        return _Batch(entry, chosen, self._office)

    async def _settle(self, batch: _Batch) -> None:
        """Send the batch until it is known for certain whether it was committed."""
        doubt = False
        while True:
            try:
                verdict = self._judge(batch, await self._send(batch))
                break
            except EtcdRefused as error:
                if not (doubt or error.may_have_run):
                    batch.refuse(NotApplied(f"etcd refused: {error}"))
                    return
                doubt = True
                logger.warning("a transaction in doubt cannot be settled yet: %s", error)
            except EtcdUnreachable as error:
                doubt = True
                logger.info("a transaction is in doubt, will send it again: %s", error)
            await asyncio.sleep(SEND_PAUSE_S)
        if not verdict.committed:
            # Whatever made it fail, this office's idea of the head is out of date: take office anew, if elected.
            batch.refuse(verdict.refusal or NotLeader(self._leader()))
            self.close()
            return
        if self._office is batch.office:
            head = Head(index=batch.entry.last_index, token=batch.entry.token)
            self._office = Office(batch.office.fence, head, verdict.head_revision)
        await self._deliver(batch.entry)
        batch.refuse(OutcomeUnknown("committed, but a snapshot took the place of its result"))

    async def _send(self, batch: _Batch) -> rpc.TxnResponse:
        entry, office = batch.entry, batch.office
        entry_key, head = self._keys.entry(entry.first_index), Head(index=entry.last_index, token=entry.token)
        return await self._client.txn(
            [office.fence.compare(), compare_modified(self._keys.head, office.head_revision)],
            [put(entry_key, encode(entry)), put(self._keys.head, encode(head))],
            [read(entry_key), read(self._keys.head)],
            timeout_ms=SEND_TIMEOUT_MS,
        )

    def _judge(self, batch: _Batch, answer: rpc.TxnResponse) -> _Verdict:
        """What became of the batch, by the answer to the newest sending of it."""
        if answer.succeeded:
            return _Verdict(committed=True, head_revision=answer.header.revision)
        at_position, at_head = (response.response_range.kvs for response in answer.responses)
        if at_position:
            found = decode(LogEntry, at_position[0].key, at_position[0].value)
            if found.token == batch.entry.token:
                return _Verdict(committed=True, head_revision=at_position[0].mod_revision)
            return _Verdict(committed=False)
        head = decode(Head, at_head[0].key, at_head[0].value) if at_head else None
        if head is not None and head.index >= batch.entry.first_index:
            refusal = OutcomeUnknown("the log position was replaced by a snapshot before the outcome could be read")
            return _Verdict(committed=False, refusal=refusal)
        return _Verdict(committed=False)
