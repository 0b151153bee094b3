"""Messages between native hosts and the leader.

Rules L1 to L5 and H1 to H8 of the module ExclusiveHandoff in tla/, and the lease rules of Leases, say what is done with
them. `NativeLeader` (native_leader.py) and `NativeHost` (native_host.py) are pure: `handle(event, now_ms)` returns
effects, to be carried out in order; `next_deadline_ms()` says when the next `Tick` is due. Their events and effects are
in native_leader_records.py and native_host_records.py.

    leader = NativeLeader(name, epoch, namespace, now_ms)   one term of office in one namespace
    host = NativeHost(namespace_name, policy, record)       one incarnation of one host process

A connection is what a host counts: 1, 2, 3 ... over the life of its process, one more for each session stream that it
opens. Messages of one connection arrive in order or not at all; those of different connections may overtake each other,
and only the newest connection of an incarnation counts. A stream id names the path from this leader to a connection.

Under policy `eventual` the messages are the same, but there are no grants, fences or leases: renewals are heartbeats,
and their answers end isolation.
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge

from callboard.core.slot_records import HandoffSettings, NativeHostRecord
from callboard.core.versions import Policy

NO_INCARNATION = 0
"""In a hello: the process has not got an incarnation yet."""


@frozen
class Tick:
    """Time has passed. Due when `next_deadline_ms` says so; harmless at any other time. For both machines."""


@frozen
class SlotRun:
    """Consecutive slots of one actor type."""

    actor_type: str
    first: int
    count: int


@frozen
class Held:
    """Consecutive slots of one actor type with the same `since` and fence: held, granted or asked for again."""

    actor_type: str
    first: int
    count: int
    since: int
    fence: int


# -- messages of hosts -----------------------------------------------------------------------------------


@frozen
class Hello:
    """First message of a connection; repeated by the host until it is welcomed.

    `incarnation`: NO_INCARNATION, or the one that the process has. `have_version`, `have_digest`: of the installed
    table (0 and empty for none). `by_front`: a front repeats it to a new leader; such a hello never creates a member.
    """

    namespace: str
    policy: Policy
    host: NativeHostRecord
    incarnation: int = NO_INCARNATION
    connection: int = field(default=1, validator=ge(1))
    have_version: int = 0
    have_digest: bytes = b""
    by_front: bool = False


@frozen
class Renewal:
    """Asks for the lease to be renewed, and says what the host holds.

    `number` rises over the life of the incarnation; the answer echoes it. `epoch`: newest heard. `version`: of the
    installed table. What is held: with `base_number` 0 exactly `taken`; else what the renewal of that number on this
    connection said, without `dropped`, with `taken` (which replaces). Every slot that is not held is hereby released
    up to `version`. `requests`: slots whose right ended with its lease, with the last fence. `leaving`: an orderly
    stop.
    """

    number: int
    incarnation: int
    connection: int
    epoch: int
    version: int
    base_number: int = 0
    taken: tuple[Held, ...] = ()
    dropped: tuple[SlotRun, ...] = ()
    requests: tuple[Held, ...] = ()
    leaving: bool = False


@frozen
class Farewell:
    """The last word of an incarnation: it admits nothing for ever and holds nothing."""

    incarnation: int


@frozen
class TableRequest:
    """The installed table is not the one that a delta started from, or its digest was wrong: send a snapshot."""

    incarnation: int
    have_version: int


# -- messages of leaders ---------------------------------------------------------------------------------


@frozen
class Welcome:
    """The host is a member as `incarnation`. Tables follow."""

    incarnation: int
    epoch: int
    policy: Policy
    slot_bits: int
    settings: HandoffSettings


@frozen
class RenewalAnswer:
    """The lease runs from when renewal `number` was sent. `version` is the newest of the tables.

    `holding_known`: the leader knows what the host holds, as said up to that renewal; else it asks to hear it in full.
    """

    number: int
    incarnation: int
    epoch: int
    version: int
    holding_known: bool
    grants: tuple[Held, ...] = ()


@frozen
class Grants:
    """Earlier owners of these slots let go; the owner `incarnation` may serve them."""

    incarnation: int
    epoch: int
    grants: tuple[Held, ...]


@frozen
class Gone:
    """The incarnation is no member any more and never will be. `replaced`: by another process under its name."""

    incarnation: int
    text: str
    replaced: bool = False
