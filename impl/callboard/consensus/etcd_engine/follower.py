"""Feeding the state machine: snapshot, then log entries, then a watch, always in the order of log positions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing

from callboard.consensus.etcd_engine.client import EtcdClient
from callboard.consensus.etcd_engine.errors import EtcdRefused, EtcdUnreachable, HistoryCompacted
from callboard.consensus.etcd_engine.layout import CorruptRecord, Keys, LogEntry, decode, end_of
from callboard.consensus.etcd_engine.snapshots import read_manifest, read_snapshot
from callboard.consensus.feeding import apply_safely
from callboard.consensus.interface import StateMachine

logger = logging.getLogger(__name__)

PAGE_ENTRIES = 32
"""Log entries per read. With the largest batch (1 MiB) a page stays within the client's message limit."""
LOAD_TIMEOUT_MS = 10_000
RESUME_PAUSE_S = 0.2
REFUSED_PAUSE_S = 2.0
LAG_PATIENCE_S = 0.3
"""How long a reader waits for the watch to bring an entry that exists, before it reads the log itself."""

EntryObserver = Callable[[LogEntry, Sequence[object]], None]


class LogFollower:
    """Applies every committed command once, in order, whoever brings it: the watch, a read, or our own proposal."""

    def __init__(self, client: EtcdClient, keys: Keys, machine: StateMachine, on_entry: EntryObserver) -> None:
        self._client = client
        self._keys = keys
        self._machine = machine
        self._on_entry = on_entry
        self._applied_index = 0
        self._commit_index = 0
        self._revision = 0
        self._loading = asyncio.Lock()
        self._progress = asyncio.Event()
        self.snapshot_index = 0
        """Position of the newest snapshot that this replica read or wrote."""

    @property
    def applied_index(self) -> int:
        """Position of the last command that the machine has applied."""
        return self._applied_index

    @property
    def commit_index(self) -> int:
        """The newest position that this replica has heard of."""
        return max(self._commit_index, self._applied_index)

    def hear_of(self, index: int) -> None:
        """The log reaches at least to `index`."""
        self._commit_index = max(self._commit_index, index)

    def offer(self, entry: LogEntry) -> bool:
        """Apply `entry` if it is the next one. False if entries before it are missing; old ones are ignored."""
        if entry.last_index <= self._applied_index:
            return True
        if entry.first_index != self._applied_index + 1:
            return False
        results = []
        for index, command in enumerate(entry.commands, start=entry.first_index):
            self._applied_index = index
            results.append(apply_safely(self._machine, index, command))
        self._on_entry(entry, results)
        self._announce_progress()
        return True

    async def load(self) -> None:
        """Read from etcd whatever is missing here: the snapshot, if the log does not reach back, then the log.

        Raises:
            EtcdError: etcd cannot be read.
            CorruptRecord: a key holds what this engine never wrote, or log entries are missing.
        """
        async with self._loading:
            for _ in range(3):
                await self._load_snapshot()
                if await self._load_log():
                    return
        raise CorruptRecord(
            f"the log under {self._keys.prefix} lacks position {self._applied_index + 1}, and no snapshot covers it"
        )

    async def catch_up(self, index: int) -> None:
        """Wait until position `index` is applied here; read the log if the watch is slow to bring it.

        Raises:
            EtcdError, CorruptRecord: as `load`.
        """
        self.hear_of(index)
        while self._applied_index < index:
            progress = self._progress
            try:
                async with asyncio.timeout(LAG_PATIENCE_S):
                    await progress.wait()
            except TimeoutError:
                if not self._loading.locked():
                    await self.load()

    async def wait_for(self, index: int) -> None:
        """Wait until position `index` is applied here, without asking for it."""
        while self._applied_index < index:
            await self._progress.wait()

    async def run(self) -> None:
        """Follow the log for ever: watch, resume after disconnects, reload when etcd has compacted its history.

        Raises:
            CorruptRecord, WrongEtcd: going on would break the engine's promises.
        """
        while True:
            try:
                await self._watch()
            except HistoryCompacted as error:
                logger.info("%s; reading the log instead", error)
                await self._reload()
            except EtcdUnreachable as error:
                logger.info("the watch of the log broke, will resume after revision %d: %s", self._revision, error)
            except EtcdRefused as error:
                logger.warning("etcd refuses the watch of the log, will ask again: %s", error)
                await asyncio.sleep(REFUSED_PAUSE_S)
            await asyncio.sleep(RESUME_PAUSE_S)

    async def learn_snapshot(self) -> None:
        """Find out up to where another replica has written a snapshot.

        Raises:
            EtcdError, CorruptRecord: see there.
        """
        found = await read_manifest(self._client, self._keys, timeout_ms=LOAD_TIMEOUT_MS)
        if found is not None:
            self.snapshot_index = max(self.snapshot_index, found[0].index)

    async def _watch(self) -> None:
        """One watch, from the first revision that was not seen yet, until it breaks."""
        start, end = self._keys.log, end_of(self._keys.log)
        async with aclosing(self._client.watch(start, end, self._revision + 1, deletions=False)) as answers:
            async for answer in answers:
                for event in answer.events:
                    entry = decode(LogEntry, event.kv.key, event.kv.value)
                    self.hear_of(entry.last_index)
                    if not self.offer(entry):
                        await self.load()
                    self._revision = max(self._revision, event.kv.mod_revision)

    async def _reload(self) -> None:
        try:
            await self.load()
        except (EtcdUnreachable, EtcdRefused) as error:
            logger.warning("the log cannot be read, will try again: %s", error)

    async def _load_snapshot(self) -> None:
        """Restore the newest snapshot if the log entries before it may be gone."""
        found = await read_snapshot(
            self._client, self._keys, newer_than=self._applied_index, timeout_ms=LOAD_TIMEOUT_MS
        )
        if found is None or found.manifest.index <= self._applied_index:
            return
        try:
            self._machine.restore(found.content)
        except ValueError as error:
            raise CorruptRecord(f"the snapshot at position {found.manifest.index} is refused: {error}") from None
        self._applied_index = self.snapshot_index = found.manifest.index
        self._announce_progress()

    async def _load_log(self) -> bool:
        """Read and apply all later entries, page by page. False if a position is missing.

        Keys rise with positions and entries are never changed, so that everything committed up to the revision of
        the last page has been read when there is no further page.
        """
        while True:
            start = self._keys.entry(self._applied_index + 1)
            page = await self._client.range(
                start, end_of(self._keys.log), limit=PAGE_ENTRIES, timeout_ms=LOAD_TIMEOUT_MS
            )
            for kv in page.kvs:
                if not self.offer(decode(LogEntry, kv.key, kv.value)):
                    return False
            if not page.more:
                self._revision = max(self._revision, page.header.revision)
                return True

    def _announce_progress(self) -> None:
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()
