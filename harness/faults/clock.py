"""The machine's own clock, also in a process whose clock is falsified: libfaketime replaces the functions of the C
library, and not the kernel's."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Callable

CLOCK_GETTIME = {"x86_64": 228, "aarch64": 113}
FALSIFIED = "LD_PRELOAD"


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


def _by_kernel() -> int:
    answer = _Timespec()
    number = CLOCK_GETTIME[platform.machine()]
    if _LIBC.syscall(number, time.CLOCK_MONOTONIC, ctypes.byref(answer)) != 0:
        raise OSError(ctypes.get_errno(), "clock_gettime failed")
    return int(answer.seconds) * 1_000_000_000 + int(answer.nanoseconds)


_LIBC = ctypes.CDLL(None, use_errno=True)
real_ns: Callable[[], int] = _by_kernel if os.environ.get(FALSIFIED) else time.monotonic_ns
"""Nanoseconds of CLOCK_MONOTONIC, true ones."""
