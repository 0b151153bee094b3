"""Linearizable reads: learn how far the log reaches, by a read that etcd confirms with a quorum, and wait for it.

Calls that overlap share one read, which starts after all of them: `wait` always joins the *next* read.
"""

from __future__ import annotations

import asyncio

from callboard.consensus.etcd_engine.client import EtcdClient, read
from callboard.consensus.etcd_engine.election import Election
from callboard.consensus.etcd_engine.errors import EtcdRefused, EtcdUnreachable, WrongEtcd
from callboard.consensus.etcd_engine.follower import LogFollower
from callboard.consensus.etcd_engine.layout import CorruptRecord, Head, Keys, decode, end_of
from callboard.consensus.interface import BarrierFailed

READ_TIMEOUT_MS = 2000
RETRY_PAUSE_S = 0.05


class Barriers:
    """The barriers of one replica."""

    def __init__(self, client: EtcdClient, keys: Keys, election: Election, follower: LogFollower) -> None:
        self._client = client
        self._keys = keys
        self._election = election
        self._follower = follower
        self._next: asyncio.Future[int] | None = None
        self._wanted = asyncio.Event()
        self._closed: str | None = None

    async def wait(self, *, timeout_ms: int) -> int:
        """See `Engine.barrier`."""
        failure = "no read of the log's head was answered"
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while True:
                    if self._closed is not None:
                        raise BarrierFailed(self._closed)
                    try:
                        await self._follower.catch_up(await asyncio.shield(self._join_next()))
                    except (EtcdUnreachable, EtcdRefused) as error:
                        failure = str(error)
                        await asyncio.sleep(RETRY_PAUSE_S)
                        continue
                    return self._follower.applied_index
        except TimeoutError:
            raise BarrierFailed(f"not confirmed within {timeout_ms} ms: {failure}") from None

    def close(self, why: str) -> None:
        """Fail what waits and what comes."""
        self._closed = why
        waiting, self._next = self._next, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(EtcdUnreachable(why))

    async def run(self) -> None:
        """Read the head whenever somebody waits, for ever.

        Raises:
            CorruptRecord, WrongEtcd: going on would break the engine's promises.
        """
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            waiting, self._next = self._next, None
            if waiting is None:
                continue
            try:
                waiting.set_result(await self._read_head())
            except (EtcdUnreachable, EtcdRefused) as error:
                waiting.set_exception(error)
            finally:
                if not waiting.done():
                    waiting.set_exception(EtcdUnreachable("the engine stops"))

    def _join_next(self) -> asyncio.Future[int]:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            # A barrier whose time is over leaves nobody to look at the outcome; that is no mistake.
            self._next.add_done_callback(lambda done: done.exception())
            self._wanted.set()
        return self._next

    async def _read_head(self) -> int:
        start, applied_before = self._keys.election, self._follower.applied_index
        steps = [read(start, end_of(start)), read(self._keys.head)]
        answer = await self._client.txn([], steps, timeout_ms=READ_TIMEOUT_MS)
        self._election.hear(answer)
        kvs = answer.responses[1].response_range.kvs
        if not kvs:
            raise WrongEtcd(
                f"etcd has no head under prefix {self._keys.prefix} any more: its data went back or is gone"
            )
        index = decode(Head, kvs[0].key, kvs[0].value).index
        if index < applied_before:
            raise CorruptRecord(
                f"etcd's log ends at position {index}, but {applied_before} was applied here: "
                "its data went back, perhaps to a backup"
            )
        return index
