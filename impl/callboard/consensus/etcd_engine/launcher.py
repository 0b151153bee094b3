"""Start etcd so that it dies with its parent, however that dies. A script of its own, run by managed.py.

A fork with a Python hook in a process that has gRPC's threads can deadlock; this separate small process has none.
Arguments: the parent's process id, the binary, its arguments.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, binary = int(sys.argv[1]), sys.argv[2]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise SystemExit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before we asked to be told
        raise SystemExit("the parent is gone")
    os.execv(binary, sys.argv[2:])  # noqa: S606 - the operator named it
