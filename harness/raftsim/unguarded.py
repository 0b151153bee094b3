"""PySyncObj 0.3.17 as it comes, in the simulated environment.

The library's classes run unmodified. What they take from outside is replaced for the time of a simulation: the clock,
the random numbers, the poller, and the file functions that its journal and serializer modules use.
"""

from __future__ import annotations

import functools
import gzip
import io
import logging
import pickle
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pysyncobj
import pysyncobj.journal
import pysyncobj.serializer
import pysyncobj.syncobj
from attrs import define, field
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from harness.raftsim.disk import SimDisk
from harness.raftsim.replica import (
    Acknowledged,
    LogEntry,
    Outcome,
    RecordingMachine,
    Refused,
    Replica,
    Seat,
    StartRefused,
    Unknown,
    View,
)

_REFUSALS = {1: "queue full", 2: "no leader", 3: "discarded", 4: "not the leader", 6: "request denied"}
"""Error codes of the library that say that the command was not executed. LEADER_CHANGED and UNKNOWN_OUTCOME do not."""


@define(eq=False)
class _Environment:
    """What the library's modules see instead of the operating system."""

    clock: Callable[[], float] = field(default=lambda: 0.0)
    choice: Any = None
    disks: dict[str, SimDisk] = field(factory=dict)

    def read_clock(self) -> float:
        return self.clock()

    def random(self) -> float:
        return float(self.choice.random())

    def disk(self, path: str) -> SimDisk:
        return self.disks[path.split("/", 1)[0]]


_environment = _Environment()


class _FileHandle(io.RawIOBase):
    """An open simulated file, as `open` returns it; its descriptor stands for its path."""

    _descriptors: dict[int, str] = {}  # noqa: RUF012 - shared by all handles on purpose

    def __init__(self, path: str, mode: str) -> None:
        super().__init__()
        self._disk = _environment.disk(path)
        self._path = path
        if mode == "wb" or (mode == "ab" and not self._disk.exists(path)):
            self._disk.create(path)
        self._offset = self._disk.size(path) if mode == "ab" else 0

    def write(self, data: Any) -> int:
        self._disk.write(self._path, self._offset, bytes(data))
        self._offset += len(data)
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        data = self._disk.read(self._path, self._offset, None if size is None or size < 0 else size)
        self._offset += len(data)
        return data

    def fileno(self) -> int:
        number = 1000 + len(self._descriptors) % 4096
        self._descriptors[number] = self._path
        return number

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True


class _MappedFile:
    """A memory-mapped simulated file: a write is a change of the page cache, nothing is synced until `flush`."""

    def __init__(self, descriptor: int, _length: int) -> None:
        self._path = _FileHandle._descriptors.pop(descriptor)  # noqa: SLF001
        self._disk = _environment.disk(self._path)

    def size(self) -> int:
        return self._disk.size(self._path)

    def resize(self, length: int) -> None:
        self._disk.truncate(self._path, length)

    def __getitem__(self, part: slice) -> bytes:
        return self._disk.read(self._path)[part]

    def __setitem__(self, part: slice, data: bytes) -> None:
        self._disk.write(self._path, part.start, data)

    def flush(self) -> None:
        self._disk.sync(self._path)

    def close(self) -> None:
        pass


class _NoPoller:
    def poll(self, _seconds: float) -> None:
        pass


def _rename(old: str, new: str) -> None:
    _environment.disk(old).rename(old, new)


def _exists(path: str) -> bool:
    return _environment.disk(path).exists(path)


@contextmanager
def library_in_simulation() -> Iterator[None]:
    """Replace what the library takes from outside; undone on leaving."""
    paths = types.SimpleNamespace(path=types.SimpleNamespace(exists=_exists, isfile=_exists))
    replaced: list[tuple[Any, str, Any]] = [
        (pysyncobj.syncobj, "monotonicTime", _environment.read_clock),
        (pysyncobj.syncobj, "random", types.SimpleNamespace(random=_environment.random)),
        (pysyncobj.syncobj, "createPoller", lambda _kind: _NoPoller()),
        (pysyncobj.syncobj, "PIPE_NOTIFIER_ENABLED", False),
        (pysyncobj.syncobj, "os", paths),
        (pysyncobj.journal, "os", paths),
        (pysyncobj.journal, "open", _FileHandle),
        (pysyncobj.journal, "mmap", types.SimpleNamespace(mmap=_MappedFile)),
        (pysyncobj.journal, "shutil", types.SimpleNamespace(move=_rename)),
        (pysyncobj.serializer, "open", _FileHandle),
        (pysyncobj.serializer, "atomicReplace", _rename),
        (pysyncobj.serializer, "gzip", types.SimpleNamespace(
            GzipFile=functools.partial(gzip.GzipFile, mtime=0, compresslevel=1))),
    ]  # fmt: skip
    missing = object()
    before = [(module, name, module.__dict__.get(name, missing)) for module, name, _ in replaced]
    logger = logging.getLogger("pysyncobj")
    level, logger.level = logger.level, logging.CRITICAL + 1
    for module, name, value in replaced:
        setattr(module, name, value)
    try:
        yield
    finally:
        logger.setLevel(level)
        for module, name, value in before:
            if value is missing:
                delattr(module, name)
            else:
                setattr(module, name, value)


class _Links(Transport):  # type: ignore[misc]
    """The library's transport interface over the simulated links."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(None, None, [])
        self._seat = seat

    def send(self, node: Any, message: Any) -> bool:
        return self._seat.send(node.id, pickle.dumps(message, 2))


class _Application(SyncObj):  # type: ignore[misc]
    """The smallest replicated object: one method; its state is the two attributes set last."""

    def __init__(self, seat: Seat, conf: Any, links: _Links, machine: RecordingMachine) -> None:
        self._machine = machine
        super().__init__(Node(seat.name), [Node(peer) for peer in seat.peers], conf, nodeClass=Node, transport=links)
        self.items = machine.items
        self.digest = 0

    @replicated  # type: ignore[untyped-decorator]
    def apply(self, command: bytes) -> int:
        self.watch_restore()
        try:
            return self._machine.apply(self.raftLastApplied + 1, command)
        finally:
            self.digest = self._machine.digest

    @replicated  # type: ignore[untyped-decorator]
    def read(self) -> int:
        return int(self.raftLastApplied) + 1

    def watch_restore(self) -> None:
        """A loaded snapshot replaces the attributes: hand that on to the recording machine."""
        if self.items is not self._machine.items:
            self._machine.replace(self.items, self.digest)
            self.items = self._machine.items


@define(eq=False)
class _UnguardedReplica:
    _application: Any
    _links: _Links

    def tick(self) -> None:
        try:
            self._application.doTick(0)
        finally:
            self._application.watch_restore()

    def receive(self, source: str, message: bytes) -> None:
        try:
            self._links._onMessageReceived(Node(source), pickle.loads(message))  # noqa: S301, SLF001
        finally:
            self._application.watch_restore()

    def connected(self, peer: str) -> None:
        self._links._onNodeConnected(Node(peer))  # noqa: SLF001

    def disconnected(self, peer: str) -> None:
        self._links._onNodeDisconnected(Node(peer))  # noqa: SLF001

    def propose(self, command: bytes, done: Callable[[Outcome], None]) -> None:
        self._application.apply(command, callback=functools.partial(_report, done))

    def barrier(self, done: Callable[[Outcome], None]) -> None:
        self._application.read(callback=functools.partial(_report, done))

    def compact_soon(self) -> None:
        self._application.forceLogCompaction()

    def end_election_timeout(self) -> None:
        self._application._SyncObj__raftElectionDeadline = 0  # noqa: SLF001

    def view(self) -> View:
        application = self._application
        log = application._SyncObj__raftLog  # noqa: SLF001
        entries: list[LogEntry] = log[0:]
        return View(application._isLeader(), application.raftCurrentTerm, entries, application.raftCommitIndex)  # noqa: SLF001

    def add_member(self, peer: str) -> None:
        """Add a replica to the group, as the library offers it."""
        self._application.addNodeToCluster(Node(peer))


def _report(done: Callable[[Outcome], None], result: Any, error: int) -> None:
    if error == 0:
        done(Acknowledged(result))
    elif error in _REFUSALS:
        done(Refused(_REFUSALS[error]))
    else:
        done(Unknown(f"error {error}"))


class Unguarded:
    """The library with journal and dump file, and the settings that suit it best otherwise."""

    name = "unguarded"
    errors_are_violations = False

    def __init__(self, *, dynamic_membership: bool = False) -> None:
        self._dynamic_membership = dynamic_membership

    def boot(self, seat: Seat) -> Replica:
        """Start an instance. Use inside `library_in_simulation`."""
        _environment.clock, _environment.choice = seat.clock, seat.choice
        _environment.disks[seat.name] = seat.disk
        settings = seat.settings
        shortest_ms, longest_ms = settings.election_timeout_ms
        conf = SyncObjConf(
            autoTick=False,
            useFork=False,
            appendEntriesUseBatch=False,
            appendEntriesPeriod=0.1,
            appendEntriesBatchSizeBytes=settings.batch_bytes,
            raftMinTimeout=shortest_ms / 1000,
            raftMaxTimeout=longest_ms / 1000,
            connectionTimeout=longest_ms / 1000,
            leaderFallbackTimeout=1.0 if settings.natural_elections else longest_ms / 1000,
            logCompactionMinEntries=settings.compact_entries,
            logCompactionMinTime=10**9,
            logCompactionBatchSize=settings.chunk_bytes,
            commandsWaitLeader=False,
            dynamicMembershipChange=self._dynamic_membership,
            journalFile=f"{seat.name}/journal",
            fullDumpFile=f"{seat.name}/dump",
        )
        links = _Links(seat)
        try:
            return _UnguardedReplica(_Application(seat, conf, links, seat.machine), links)
        except Exception as error:
            raise StartRefused(repr(error)) from error
