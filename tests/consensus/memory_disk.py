"""A disk in memory for unit tests, which can be told to fail."""

from __future__ import annotations

import errno
from collections.abc import Callable

from callboard.consensus.pysyncobj_engine.disk import Disk, Handle


class MemoryDisk:
    """Everything written is there at once. `files` may be changed by tests."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = dict(files or {})

    def names(self) -> list[str]:
        """The files that exist."""
        return list(self.files)

    def read(self, name: str) -> bytes:
        """The whole file."""
        try:
            return self.files[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def create(self, name: str) -> Handle:
        """A new empty file."""
        self.files[name] = b""
        return _MemoryHandle(self, name)

    def append(self, name: str) -> Handle:
        """An existing file."""
        self.read(name)
        return _MemoryHandle(self, name)

    def rename(self, old: str, new: str) -> None:
        """Rename."""
        self.files[new] = self.files.pop(old)

    def remove(self, name: str) -> None:
        """Remove."""
        del self.files[name]

    def sync_directory(self) -> None:
        """Nothing to do."""


class _MemoryHandle:
    def __init__(self, disk: MemoryDisk, name: str) -> None:
        self._disk, self._name = disk, name

    def write(self, data: bytes) -> None:
        self._disk.files[self._name] += data

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class FailingDisk:
    """Passes everything on until `fail` says otherwise: it is asked with (operation, file name) before each step."""

    def __init__(self, disk: Disk, fail: Callable[[str, str], int | None]) -> None:
        self._disk = disk
        self._fail = fail

    def check(self, operation: str, name: str) -> None:
        """Raise OSError if this step is to fail."""
        number = self._fail(operation, name)
        if number is not None:
            raise OSError(number, errno.errorcode[number], name)

    def names(self) -> list[str]:
        """The files that exist."""
        return self._disk.names()

    def read(self, name: str) -> bytes:
        """The whole file."""
        self.check("read", name)
        return self._disk.read(name)

    def create(self, name: str) -> Handle:
        """A new file."""
        self.check("create", name)
        return _FailingHandle(self, self._disk.create(name), name)

    def append(self, name: str) -> Handle:
        """An existing file."""
        self.check("append", name)
        return _FailingHandle(self, self._disk.append(name), name)

    def rename(self, old: str, new: str) -> None:
        """Rename."""
        self.check("rename", new)
        self._disk.rename(old, new)

    def remove(self, name: str) -> None:
        """Remove."""
        self.check("remove", name)
        self._disk.remove(name)

    def sync_directory(self) -> None:
        """Sync the names."""
        self.check("sync_directory", "")
        self._disk.sync_directory()


class _FailingHandle:
    def __init__(self, disk: FailingDisk, handle: Handle, name: str) -> None:
        self._disk, self._handle, self._name = disk, handle, name

    def write(self, data: bytes) -> None:
        self._disk.check("write", self._name)
        self._handle.write(data)

    def sync(self) -> None:
        self._disk.check("sync", self._name)
        self._handle.sync()

    def close(self) -> None:
        self._handle.close()
