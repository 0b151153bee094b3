"""Sees what a replica synced: the size that each file had when its last fsync or fdatasync returned.

A process that is killed loses nothing: what it wrote is in the kernel's page cache. A machine that loses power keeps
what was synced only. So that a run can cut what was not (see `disk_faults`), a replica that is started by `launched`
keeps these sizes in a small file that is mapped into memory. The same file says how long a sync takes at least: a slow
disk. Production knows nothing of this.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SLOTS = 64
_SLOW = struct.Struct("<Q")
_ENTRY = struct.Struct("<QQ")
SIZE = _SLOW.size + SLOTS * _ENTRY.size


def prepare(path: Path) -> None:
    """An empty one; sizes of earlier processes are kept if there is one."""
    if not path.exists():
        path.write_bytes(bytes(SIZE))


def synced_bytes(path: Path, file: Path) -> int:
    """How much of `file` is surely on the disk: 0 if nobody synced it. Never more than it has."""
    found, data = file.stat(), path.read_bytes()
    for place in range(SLOTS):
        inode, size = _ENTRY.unpack_from(data, _SLOW.size + place * _ENTRY.size)
        if inode == found.st_ino:
            return min(int(size), found.st_size)
    return 0


def slow_down(path: Path, milliseconds: int) -> None:
    """From now on each sync takes so long at least; 0 for as long as the disk needs."""
    with path.open("r+b") as file:
        file.write(_SLOW.pack(milliseconds))


def install(path: Path) -> None:
    """Watch this process's syncs from now on."""
    prepare(path)
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), SIZE)
    # Names that other modules look up when they sync.
    for name in ("fsync", "fdatasync"):
        setattr(os, name, _witnessed(getattr(os, name), memory))


def _witnessed(real: Callable[[Any], None], memory: mmap.mmap) -> Callable[[Any], None]:
    def sync(descriptor: Any) -> None:
        (slow_ms,) = _SLOW.unpack_from(memory, 0)
        if slow_ms:
            time.sleep(slow_ms / 1000)
        size = os.fstat(descriptor).st_size
        real(descriptor)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            _note(memory, found.st_ino, size)

    return sync


def _note(memory: mmap.mmap, inode: int, size: int) -> None:
    """The newest file is in front; the oldest falls out."""
    known = [_ENTRY.unpack_from(memory, _SLOW.size + place * _ENTRY.size) for place in range(SLOTS)]
    entries = [(inode, size), *(entry for entry in known if entry[0] != inode)][:SLOTS]
    # One copy of all, so that a kill cannot leave half of them.
    memory[_SLOW.size :] = b"".join(_ENTRY.pack(*entry) for entry in entries)
