"""Simulated Dapr sidecars: what daprd 1.16 and 1.18 do at the placement protocol, without their applications.

* `tables`, `naive`: reading tables and computing owners, independent of callboard's own code.
* `events`, `machine`, `modern`, `heartbeat`: the sidecar as a pure state machine, handle(event, now) -> effects.
* `checks`: what every sidecar checks of the orders that it gets.
* `shell`, `fleet`: the same on real gRPC streams, hundreds in one process.

What is not simulated: calls between actors, reminders, mTLS, app health. A paused sidecar keeps its connection
alive, since gRPC's own threads go on answering pings, as the kernel and grpc-go's transport would not under SIGSTOP.
"""

from __future__ import annotations

from harness.sidecars.events import SidecarSettings, SidecarSpec
from harness.sidecars.fleet import Fleet, Generation, expected_tables
from harness.sidecars.machine import Connection
from harness.sidecars.naive import naive_owners
from harness.sidecars.shell import Sidecar
from harness.sidecars.tables import NoOwner, Tables

__all__ = [
    "Connection",
    "Fleet",
    "Generation",
    "NoOwner",
    "Sidecar",
    "SidecarSettings",
    "SidecarSpec",
    "Tables",
    "expected_tables",
    "naive_owners",
]
