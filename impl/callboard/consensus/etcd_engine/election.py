"""Who leads: each replica binds a key to its lease, and the oldest of these keys is the leader's.

The key's create revision is the leader's term: it rises from leader to leader, and every write of a leader compares
it, so that a deposed leader writes nothing. Leadership that is *reported* (`elected_term`) ends earlier still: by this
replica's own clock, counted from the sending of the last renewal that etcd answered, less a tenth of the lease.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import aclosing

from attrs import frozen

from callboard.consensus.etcd_engine.client import EtcdClient, compare_create, put, read
from callboard.consensus.etcd_engine.errors import EtcdRefused, EtcdUnreachable, HistoryCompacted
from callboard.consensus.etcd_engine.layout import Candidate, Head, Keys, decode, encode, end_of
from callboard.consensus.etcd_engine.snapshots import Fence
from callboard.protos.generated import etcd_kv_pb2, etcd_rpc_pb2

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
CLOCK_MARGIN = 0.1
"""Share of the lease by which we stop before etcd would: for clocks that run at different rates."""
DUPLICATE_PATIENCE_LEASES = 4
"""A key under our own id that outlives so many leases belongs to a living process, not to our predecessor."""
WATCH_PAUSE_S = 0.2
RETRY_PAUSE_S = 0.05


class DuplicateReplica(Exception):
    """Another living process uses this replica's id."""


def boot_clock() -> float:
    """Seconds that also count while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@frozen
class _Seen:
    """A candidate and the revision at which its key came to exist."""

    candidate: Candidate
    create_revision: int


class Election:
    """This replica's candidacy and its view of all candidates."""

    def __init__(
        self,
        client: EtcdClient,
        keys: Keys,
        replica_id: str,
        *,
        ttl_s: int,
        on_lease: Callable[[int], None],
        on_change: Callable[[], None],
        on_head: Callable[[int], None],
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._client = client
        self._keys = keys
        self._key = keys.candidate(replica_id)
        self._replica_id = replica_id
        self._ttl_s = ttl_s
        self._on_lease = on_lease
        self._on_change = on_change
        self._on_head = on_head
        self._clock = clock
        self._candidates: dict[bytes, _Seen] = {}
        self._view_revision = 0
        self._viewed = asyncio.Event()
        self._wake = asyncio.Event()
        self._valid_until = float("-inf")
        self._fresh_until = float("-inf")
        self.lease_id = 0

    @property
    def in_contact(self) -> bool:
        """Whether our lease runs, by our own clock."""
        return self._clock() < self._valid_until

    @property
    def is_fresh(self) -> bool:
        """Whether etcd told us within the last lease who leads."""
        return self._clock() < self._fresh_until

    @property
    def change_due_s(self) -> float | None:
        """Seconds until `in_contact` or else `is_fresh` ends if etcd answers nothing more; None if both have ended."""
        ends = self._valid_until if self.in_contact else self._fresh_until
        return ends - self._clock() if self.in_contact or self.is_fresh else None

    def leader(self) -> tuple[str, int] | None:
        """Replica id and term of the oldest candidate, as last heard."""
        if not self._candidates:
            return None
        oldest = min(self._candidates.values(), key=lambda seen: seen.create_revision)
        return oldest.candidate.replica_id, oldest.create_revision

    def elected_term(self) -> int | None:
        """Our term if we lead and our lease runs by our own clock, else None."""
        mine = self._candidates.get(self._key)
        leader = self.leader()
        if mine is None or leader is None or not self.in_contact:
            return None
        is_ours = mine.candidate.lease_id == self.lease_id and leader[1] == mine.create_revision
        return mine.create_revision if is_ours else None

    def candidates(self) -> tuple[str, ...]:
        """Ids of all replicas that stand for election, which every living replica in reach of etcd does."""
        return tuple(sorted(seen.candidate.replica_id for seen in self._candidates.values()))

    def fence(self, term: int) -> Fence:
        """What to compare in every write made in `term`."""
        return Fence(key=self._key, term=term)

    def see(self, kvs: list[etcd_kv_pb2.KeyValue], revision: int) -> None:
        """Take over the whole list of candidates as it was at `revision`."""
        if revision < self._view_revision:
            return
        self._candidates = {kv.key: _Seen(decode(Candidate, kv.key, kv.value), kv.create_revision) for kv in kvs}
        self._view_revision = revision
        self._viewed.set()
        self._on_change()

    async def resign(self, *, timeout_ms: int) -> None:
        """End our lease, so that the next candidate leads at once. Errors are left to the lease's end."""
        self._valid_until = float("-inf")
        if not self.lease_id:
            return
        try:
            await self._client.revoke_lease(self.lease_id, timeout_ms=timeout_ms)
        except (EtcdUnreachable, EtcdRefused) as error:
            logger.info("the lease could not be ended and will run out by itself: %s", error)

    async def stand(self) -> None:
        """Stand for election for ever.

        Raises:
            DuplicateReplica: our id is used by another living process.
            CorruptRecord, WrongEtcd: see there.
        """
        while True:
            try:
                await self._grant()
                await self._hold()
            except (EtcdUnreachable, EtcdRefused) as error:
                logger.warning("no lease from etcd: %s", error)
            await asyncio.sleep(self._ttl_s / RENEWALS_PER_LEASE / 2)

    async def _grant(self) -> None:
        """Get a lease under an id of our own choice, remembered first: after a crash we end it ourselves."""
        self._valid_until = float("-inf")
        self.lease_id = secrets.randbits(62) + 1
        self._on_lease(self.lease_id)
        try:
            await self._client.grant_lease(self.lease_id, self._ttl_s, timeout_ms=self._ttl_s * 1000)
        except EtcdRefused as error:
            if not error.may_have_run or "lease already exists" not in str(error):
                raise

    async def _hold(self) -> None:
        """Renew the lease and keep our key, until the lease is gone."""
        blocked_since: float | None = None
        while True:
            sent, pause_s = self._clock(), self._ttl_s / RENEWALS_PER_LEASE
            try:
                ttl_s = await self._client.keep_alive(self.lease_id, timeout_ms=self._ttl_s * 500)
                if ttl_s <= 0:
                    logger.warning("the lease of replica %s has ended", self._replica_id)
                    self._valid_until = float("-inf")
                    self._on_change()
                    return
                self._valid_until = max(self._valid_until, sent + ttl_s * (1 - CLOCK_MARGIN))
                entered = await self._enter()
                await self._look()
                blocked_since = None if entered else (blocked_since or sent)
            except EtcdUnreachable as error:
                logger.info("the lease is not renewed, will try again: %s", error)
                pause_s = RETRY_PAUSE_S  # that took its time already
                blocked_since = None  # while etcd is away no lease ends
            except EtcdRefused as error:
                logger.warning("etcd refuses to renew the lease: %s", error)
            if blocked_since is not None and self._clock() - blocked_since > DUPLICATE_PATIENCE_LEASES * self._ttl_s:
                raise DuplicateReplica(f"another process runs as replica {self._replica_id} under {self._keys.prefix}")
            self._on_change()
            self._wake.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _enter(self) -> bool:
        """Make sure that our key exists with our lease. False while an older lease of our id holds it."""
        mine = self._candidates.get(self._key)
        if mine is not None and mine.candidate.lease_id == self.lease_id:
            return True
        value = encode(Candidate(replica_id=self._replica_id, lease_id=self.lease_id))
        answer = await self._client.txn(
            [compare_create(self._key, 0)],
            [put(self._key, value, lease_id=self.lease_id)],
            [read(self._key)],
            timeout_ms=self._ttl_s * 500,
        )
        if answer.succeeded:
            return True
        kvs = answer.responses[0].response_range.kvs
        return bool(kvs) and kvs[0].lease == self.lease_id

    async def _look(self) -> None:
        """Read all candidates and the log's head: the watch is quicker, this is sure."""
        start = self._keys.election
        steps = [read(start, end_of(start)), read(self._keys.head)]
        answer = await self._client.txn([], steps, timeout_ms=self._ttl_s * 500)
        self.hear(answer)

    def hear(self, answer: etcd_rpc_pb2.TxnResponse) -> None:
        """Take over an answer to "all candidates, and the head"."""
        self._fresh_until = self._clock() + self._ttl_s
        candidates, head = (response.response_range.kvs for response in answer.responses)
        self.see(list(candidates), answer.header.revision)
        if head:
            self._on_head(decode(Head, head[0].key, head[0].value).index)

    async def watch(self) -> None:
        """Follow the candidates between two looks, for ever, so that a failover waits for no look.

        Raises:
            CorruptRecord, WrongEtcd: see there.
        """
        start = self._keys.election
        while True:
            await self._viewed.wait()
            try:
                async with aclosing(
                    self._client.watch(start, end_of(start), self._view_revision + 1, deletions=True)
                ) as answers:
                    async for answer in answers:
                        for event in answer.events:
                            self._see_event(event)
                        self._on_change()
            except HistoryCompacted:
                self._viewed.clear()  # the next look brings a revision that is not forgotten
            except EtcdUnreachable as error:
                logger.info("the watch of the election broke, will resume: %s", error)
            except EtcdRefused as error:
                logger.warning("etcd refuses the watch of the election, will ask again: %s", error)
                await asyncio.sleep(self._ttl_s)
            await asyncio.sleep(WATCH_PAUSE_S)

    def _see_event(self, event: etcd_kv_pb2.Event) -> None:
        key, revision = event.kv.key, event.kv.mod_revision
        if revision <= self._view_revision:
            return
        self._view_revision = revision
        if event.type == etcd_kv_pb2.Event.PUT:
            self._candidates[key] = _Seen(decode(Candidate, key, event.kv.value), event.kv.create_revision)
            return
        self._candidates.pop(key, None)
        if key == self._key:
            self._wake.set()
