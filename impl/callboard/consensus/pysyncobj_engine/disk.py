"""Every touch of the data directory goes through a `Disk`, so that a simulated disk can lose what was not synced.

The rules are POSIX's strict ones: bytes of a file are durable only after `Handle.sync`, and a name that was
created, renamed or removed only after `Disk.sync_directory`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class Handle(Protocol):
    """A file that is only ever appended to."""

    def write(self, data: bytes) -> None:
        """Append all of `data`. Raises OSError."""

    def sync(self) -> None:
        """Make everything written durable (fdatasync). Raises OSError; the file is unusable afterwards."""

    def close(self) -> None:
        """Close without syncing. Idempotent."""


class Disk(Protocol):
    """One flat directory. Names are relative to it. Everything raises OSError on failure."""

    def names(self) -> list[str]:
        """The files that exist, in any order."""

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""

    def create(self, name: str) -> Handle:
        """A new empty file; an old one of that name is emptied."""

    def append(self, name: str) -> Handle:
        """An existing file, to be continued at its end."""

    def rename(self, old: str, new: str) -> None:
        """Rename atomically; `new` is replaced."""

    def remove(self, name: str) -> None:
        """Remove a file. Raises FileNotFoundError."""

    def sync_directory(self) -> None:
        """Make creations, renames and removals durable."""


class _RealHandle:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RealDisk:
    """A directory of the file system. It must exist."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def names(self) -> list[str]:
        """The files that exist."""
        return [path.name for path in self._directory.iterdir()]

    def read(self, name: str) -> bytes:
        """The whole file."""
        return (self._directory / name).read_bytes()

    def create(self, name: str) -> Handle:
        """A new empty file, readable by its owner only."""
        return self._open(name, os.O_CREAT | os.O_TRUNC)

    def append(self, name: str) -> Handle:
        """An existing file."""
        return self._open(name, 0)

    def rename(self, old: str, new: str) -> None:
        """Rename atomically."""
        (self._directory / old).rename(self._directory / new)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._directory / name).unlink()

    def sync_directory(self) -> None:
        """fsync of the directory itself."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _open(self, name: str, flags: int) -> Handle:
        path = self._directory / name
        return _RealHandle(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600))


def write_atomically(disk: Disk, name: str, data: bytes) -> None:
    """Put a whole file in place so that after a crash either the old or the new one is there, complete."""
    temporary = name + TEMPORARY_SUFFIX
    handle = disk.create(temporary)
    try:
        handle.write(data)
        handle.sync()
    finally:
        handle.close()
    disk.rename(temporary, name)
    disk.sync_directory()


def remove_leftovers(disk: Disk) -> None:
    """Remove the temporary files of writes that a crash cut short."""
    leftovers = [name for name in disk.names() if name.endswith(TEMPORARY_SUFFIX)]
    for name in leftovers:
        disk.remove(name)
    if leftovers:
        disk.sync_directory()


TEMPORARY_SUFFIX = ".tmp"
