"""PySyncObj as it comes, behind the few methods of an engine that the node program uses. For comparison only.

It promises less than `callboard.consensus.interface.Engine`: that is what the comparison is about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated

from callboard.consensus.interface import Applied, Leadership, NotApplied, NotLeader, OutcomeUnknown, Peer

_REFUSALS = {1: "queue full", 2: "no leader", 3: "discarded", 4: "not the leader", 6: "request denied"}


class _Application(SyncObj):  # type: ignore[misc]
    """The commands themselves are the state; the library snapshots the attribute that is set last."""

    def __init__(self, address: str, peers: list[str], conf: Any) -> None:
        super().__init__(address, peers, conf)
        self.items: list[bytes] = []

    @replicated  # type: ignore[untyped-decorator]
    def apply(self, command: bytes) -> int:
        self.items.append(command)
        return int(self.raftLastApplied) + 1


class UnguardedEngine:
    """The library with its journal, its dump file, its TCP transport and its own thread."""

    def __init__(
        self, *, replica_id: str, directory: Path, listen: str, peers: tuple[Peer, ...], snapshot_entries: int
    ) -> None:
        self._replica_id = replica_id
        self._listen = listen
        self._names = {f"{peer.host}:{peer.port}": peer.replica_id for peer in peers} | {listen: replica_id}
        self._conf = SyncObjConf(
            appendEntriesUseBatch=False,
            appendEntriesPeriod=0.1,
            raftMinTimeout=0.5,
            raftMaxTimeout=1.0,
            connectionRetryTime=0.2,
            leaderFallbackTimeout=1.0,
            commandsWaitLeader=False,
            logCompactionMinEntries=snapshot_entries,
            logCompactionMinTime=10**9,
            journalFile=str(directory / "journal"),
            fullDumpFile=str(directory / "dump"),
        )
        self._application: Any = None

    async def start(self) -> None:
        """Listen, and join the group."""
        peers = [address for address in self._names if address != self._listen]
        self._application = await asyncio.to_thread(_Application, self._listen, peers, self._conf)

    async def stop(self) -> None:
        """End the library's thread."""
        self._application.destroy()

    def leadership(self) -> Leadership:
        """What the library takes for true."""
        node = self._application._getLeader()  # noqa: SLF001
        leader = None if node is None else self._names[node.id]
        return Leadership(leader, self._application.raftCurrentTerm, leader == self._replica_id)

    def items(self) -> list[bytes]:
        """The commands applied here, in order."""
        return list(self._application.items)

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """Propose, and wait for the library's callback. Raises as an engine does."""
        leadership = self.leadership()
        if not leadership.is_local:
            raise NotLeader(leadership.leader)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Any, int]] = loop.create_future()
        self._application.apply(command, callback=_hand_over(loop, future))
        try:
            index, error = await asyncio.wait_for(future, timeout_ms / 1000)
        except TimeoutError:
            raise OutcomeUnknown(f"no answer within {timeout_ms} ms") from None
        if error == 0:
            return Applied(index, index)
        if error in _REFUSALS:
            raise NotApplied(_REFUSALS[error])
        raise OutcomeUnknown(f"error {error}")

    async def barrier(self, *, timeout_ms: int) -> int:
        """A command without meaning."""
        return (await self.propose(b"barrier", timeout_ms=timeout_ms)).index


def _hand_over(loop: asyncio.AbstractEventLoop, future: asyncio.Future[tuple[Any, int]]) -> Callable[[Any, int], None]:
    def resolve(answer: tuple[Any, int]) -> None:
        if not future.done():
            future.set_result(answer)

    def callback(result: Any, error: int) -> None:
        loop.call_soon_threadsafe(resolve, (result, error))

    return callback
