"""What applications embed: hosts that run actors, and routers that only call them.

class Cart(Actor):
    @method
    async def add(self, sku: str, quantity: int = 1) -> int: ...

async with Host(listen="127.0.0.1:7301", cluster="127.0.0.1:50005", actors=[Cart]) as host:
    count = await host.client.actor(Cart, "alice").add("sku-1", quantity=2)
"""

from callboard.core.versions import Policy
from callboard.host.actors import Actor, ActorContext, DeactivationReason, method
from callboard.host.app import Host, HostSettings, HostTls, Router, Watched
from callboard.host.client import CallSettings, Client
from callboard.host.errors import (
    ActorFailedError,
    BadCallError,
    BusyError,
    CallError,
    NotServedError,
    OutcomeUnknownError,
    ReentrancyError,
)
from callboard.host.limits import RuntimeLimits
from callboard.host.postgres import PostgresStore
from callboard.host.reminders import ReminderSettings
from callboard.host.session import HostRefusedError
from callboard.host.sqlite import SqliteStore
from callboard.host.stores import (
    ActorKey,
    MemoryStore,
    Reminder,
    ReminderQuery,
    StaleFenceError,
    StateStore,
    Stored,
    StoreError,
    StoreUnavailableError,
    VersionConflictError,
)

__all__ = [
    "Actor",
    "ActorContext",
    "ActorFailedError",
    "ActorKey",
    "BadCallError",
    "BusyError",
    "CallError",
    "CallSettings",
    "Client",
    "DeactivationReason",
    "Host",
    "HostRefusedError",
    "HostSettings",
    "HostTls",
    "MemoryStore",
    "NotServedError",
    "OutcomeUnknownError",
    "Policy",
    "PostgresStore",
    "ReentrancyError",
    "Reminder",
    "ReminderQuery",
    "ReminderSettings",
    "Router",
    "RuntimeLimits",
    "SqliteStore",
    "StaleFenceError",
    "StateStore",
    "StoreError",
    "StoreUnavailableError",
    "Stored",
    "VersionConflictError",
    "Watched",
    "method",
]
