"""A simulated disk of one replica: what was not synced may be lost, and any write may be the last.

The rules are those of POSIX read strictly. Bytes of a file are durable after a sync of that file; the creation,
renaming or removal of a name is durable after a sync of its directory. When the power fails, of the unsynced writes to
a file either a prefix survives, its last write torn, or an arbitrary subset (the page cache writes in any order); of
the unsynced changes of names a prefix survives. When only the process is killed, everything written survives.
"""

from __future__ import annotations

import random

from attrs import define, field

SECTOR_BYTES = 512


class SimulatedCrash(BaseException):
    """The process ends here. Not an Exception, because code under test must not be able to survive it."""


@define(eq=False)
class _File:
    content: bytearray = field(factory=bytearray)
    durable: bytes = b""
    unsynced: list[tuple[int, bytes | None]] = field(factory=list)
    """(offset, bytes written there), or (new length, None) for a truncation."""

    def change(self, offset: int, data: bytes | None) -> None:
        _patch(self.content, offset, data)
        self.unsynced.append((offset, data))

    def sync(self) -> None:
        if self.unsynced:
            self.durable = bytes(self.content)
            self.unsynced.clear()

    def lose_power(self, choice: random.Random) -> None:
        if not self.unsynced:
            return
        content = bytearray(self.durable)
        if choice.random() < 0.5:
            kept = self.unsynced[: choice.randint(0, len(self.unsynced))]
            if kept and kept[-1][1]:
                offset, data = kept.pop()
                assert data is not None
                kept.append((offset, _torn(offset, data, choice)))
        else:
            kept = [change for change in self.unsynced if choice.random() < 0.5]
        for offset, data in kept:
            _patch(content, offset, data)
        self.content = content
        self.durable = bytes(content)
        self.unsynced.clear()


def _torn(offset: int, data: bytes, choice: random.Random) -> bytes:
    """What is left of a write when the power fails: a beginning, or all but one sector, which reads as zeros."""
    if choice.random() < 0.7:
        return data[: choice.randint(0, len(data))]
    end = offset + len(data)
    start = min(max(offset, choice.randrange(offset, end) // SECTOR_BYTES * SECTOR_BYTES), end - 1)
    stop = min(end, start // SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES)
    return data[: start - offset] + bytes(stop - start) + data[stop - offset :]


def _patch(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        if offset < len(content):
            del content[offset:]
        else:
            content.extend(bytes(offset - len(content)))
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class SimDisk:
    """The files of one replica. Paths are plain strings; directories exist when something is in them.

    Attributes:
        writes: number of changes so far (writes, truncations, changes of names, syncs).
        lying_sync: when set, a sync does nothing: the seeded bug that the durability checker must catch.
    """

    def __init__(self) -> None:
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._unsynced_names: list[tuple[str, _File | None]] = []
        self._crash_at: int | None = None
        self.dead = False
        self.writes = 0
        self.syncs = 0
        self.lying_sync = False
        self.fail_next_sync = False
        self.fail_next_write = False
        self.failed = False
        """Whether a write or sync failed since the process started."""

    # -- faults

    def crash_after(self, writes: int) -> None:
        """End the process at the change number `writes` from now (0: the next one), in the middle of it."""
        self._crash_at = self.writes + writes

    def disarm(self) -> None:
        """Forget `crash_after`."""
        self._crash_at = None

    def kill(self) -> None:
        """Refuse everything until `revive`, as for a process that is gone."""
        self.dead = True
        self._crash_at = None

    def revive(self, *, power_lost: bool, choice: random.Random) -> None:
        """Make the disk usable for the next incarnation of the process."""
        if power_lost:
            names = dict(self._durable_names)
            for path, file in self._unsynced_names[: choice.randint(0, len(self._unsynced_names))]:
                if file is None:
                    names.pop(path, None)
                else:
                    names[path] = file
            self._names = names
            self._durable_names = dict(names)
            self._unsynced_names.clear()
            seen: set[int] = set()
            for path in sorted(names):
                if id(names[path]) not in seen:
                    seen.add(id(names[path]))
                    names[path].lose_power(choice)
        self.dead = False
        self.failed = False
        self._crash_at = None

    def damage(self, path: str, offset: int) -> None:
        """Change one byte of a file, as a failing medium does. Raises FileNotFoundError."""
        file = self._names[path]
        file.content[offset] ^= 0x55
        file.durable = bytes(file.content)

    def size_while_down(self, path: str) -> int:
        """Length of a file of a replica that does not run."""
        return len(self._names[path].content)

    def _change(self) -> bool:
        """Count one change; True when the process dies in the middle of it."""
        if self.dead:
            raise SimulatedCrash
        self.writes += 1
        return self._crash_at is not None and self.writes > self._crash_at

    def _die(self) -> None:
        self.dead = True
        raise SimulatedCrash

    # -- names

    def exists(self, path: str) -> bool:
        """Whether a file has this name."""
        if self.dead:
            raise SimulatedCrash
        return path in self._names

    def names(self) -> list[str]:
        """All paths, sorted."""
        return sorted(self._names)

    def rename(self, old: str, new: str) -> None:
        """Give the file another name, replacing what had it. Raises FileNotFoundError."""
        if old not in self._names:
            raise FileNotFoundError(old)
        if self._change():
            self._die()
        file = self._names.pop(old)
        self._names[new] = file
        # One entry for the new name first: a rename never loses both names.
        self._unsynced_names.append((new, file))
        self._unsynced_names.append((old, None))

    def remove(self, path: str) -> None:
        """Remove the name. Raises FileNotFoundError."""
        if path not in self._names:
            raise FileNotFoundError(path)
        if self._change():
            self._die()
        del self._names[path]
        self._unsynced_names.append((path, None))

    def sync_names(self) -> None:
        """What fsync of the directory does."""
        if self._change():
            self._die()
        self._sync_fault()
        if not self.lying_sync:
            self._durable_names = dict(self._names)
            self._unsynced_names.clear()

    # -- contents

    def create(self, path: str) -> None:
        """Make an empty file of this name, replacing its content if there is one."""
        if self._change():
            self._die()
        file = self._names.get(path)
        if file is None:
            file = self._names[path] = _File()
            self._unsynced_names.append((path, file))
        elif file.content:
            file.change(0, None)

    def size(self, path: str) -> int:
        """Length in bytes. Raises FileNotFoundError."""
        return len(self._file(path).content)

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Bytes of the file. Raises FileNotFoundError."""
        content = self._file(path).content
        return bytes(content[offset:] if size is None else content[offset : offset + size])

    def write(self, path: str, offset: int, data: bytes) -> None:
        """Write at an offset, growing the file where needed. Raises FileNotFoundError; OSError when told to fail."""
        file = self._file(path)
        if self.fail_next_write:
            self.fail_next_write = False
            self.failed = True
            file.change(offset, bytes(data[: len(data) // 3]))
            raise OSError(28, "No space left on device (simulated)")
        if self._change():
            # Half of it reaches the page cache, as when a process dies between two pages of one write.
            file.change(offset, bytes(data[: len(data) // 2]))
            self._die()
        file.change(offset, bytes(data))

    def truncate(self, path: str, length: int) -> None:
        """Set the length. Raises FileNotFoundError."""
        file = self._file(path)
        if self._change():
            self._die()
        file.change(length, None)

    def sync(self, path: str) -> None:
        """What fdatasync of the file does. Raises OSError when told to fail, FileNotFoundError."""
        file = self._file(path)
        if self._change():
            self._die()
        self._sync_fault()
        if not self.lying_sync:
            file.sync()

    def _sync_fault(self) -> None:
        self.syncs += 1
        if self.fail_next_sync:
            self.fail_next_sync = False
            self.failed = True
            raise OSError(5, "Input/output error (simulated)")

    def _file(self, path: str) -> _File:
        if self.dead:
            raise SimulatedCrash
        file = self._names.get(path)
        if file is None:
            raise FileNotFoundError(path)
        return file
