"""Records of native namespaces (policies `eventual` and `exclusive`): hosts, slots, rights, tombstones, settings.

Rules S1 to S6 of the module ExclusiveHandoff in tla/ say what happens to them; `slot_membership` implements those.
All records are immutable values. Equal tables of several actor types are one object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from attrs import Factory, field, fields, frozen
from attrs.validators import ge, le

from callboard.core.versions import Policy, Version

NOBODY = 0
"""Owner of a slot that no host may have: incarnation numbers begin at 1."""

SLOT_BITS_MIN = 4
SLOT_BITS_MAX = 16
SLOT_BITS_DEFAULT = 10

WEIGHT_DEFAULT = 100
WEIGHT_MAX = 10_000

PARTS_PER_MILLION = 1_000_000
_HASH_BYTES = 8
_KEPT_TYPES_MAX = 4096
_number: Final = int.from_bytes
"""Big-endian by default; looked up once."""


def slot_of(actor_type: str, actor_id: str, slot_bits: int) -> int:
    """The slot of an actor among 2^slot_bits: the same everywhere, for ever (BLAKE2b, keyed by the type)."""
    hashed = _KEYED[actor_type]()
    try:
        hashed.update(actor_id.encode())
    except UnicodeEncodeError:  # half a surrogate pair: no text, but an id like any other
        hashed.update(actor_id.encode("utf-8", "surrogatepass"))
    return _number(hashed.digest()) >> (8 * _HASH_BYTES - slot_bits)


class _KeyedHashes(dict[str, Callable[[], "hashlib.blake2b"]]):
    """What the hashes of a type's actors begin with. Kept, because to set it up takes longer than the rest."""

    def __missing__(self, actor_type: str) -> Callable[[], hashlib.blake2b]:
        if len(self) >= _KEPT_TYPES_MAX:
            self.clear()
        key = hashlib.blake2b(actor_type.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self[actor_type] = hashlib.blake2b(digest_size=_HASH_BYTES, key=key).copy
        return self[actor_type]


_KEYED = _KeyedHashes()


@frozen
class NativeHostRecord:
    """What a native host says of itself.

    `address` is "host:port" where it answers calls. `actor_types` and `labels` are sorted and distinct. `weight` is
    its share relative to other hosts. `process` is a random token that the process draws for each incarnation: another
    one under the same name is another incarnation. `store_id` is the identity of the store that keeps its actors'
    state, empty if it has none; it is in the replicated state from feature level 3 on.
    """

    name: str
    address: str
    actor_types: tuple[str, ...]
    process: str
    labels: tuple[tuple[str, str], ...] = ()
    weight: int = WEIGHT_DEFAULT
    store_id: str = ""

    def to_store(self) -> dict[str, object]:
        """As it stands in log entries and snapshots, sorted by key. Without `store_id` while that is empty: those of
        feature level 2 keep their bytes."""
        names = sorted(each.name for each in fields(NativeHostRecord))
        return {name: getattr(self, name) for name in names if name != "store_id" or self.store_id}


@frozen
class NativeMember:
    """A native host in the replicated state. `incarnation` is issued by the state machine and never used twice."""

    host: NativeHostRecord
    incarnation: int

    @property
    def name(self) -> str:
        return self.host.name


@frozen
class HostMark:
    """What operators said of a host name; it outlives the host's incarnations.

    `cordoned`: gets no slots that it does not have. `draining`: gives up all slots that others can take. `weight`
    replaces the host's own.
    """

    name: str
    cordoned: bool = False
    draining: bool = False
    weight: int | None = None

    @property
    def is_default(self) -> bool:
        """Whether the mark says nothing, so that it need not be kept."""
        return not self.cordoned and not self.draining and self.weight is None


@frozen
class Tombstone:
    """A removed incarnation that is not yet known to be gone. `removed_at` is the wire version of its removal."""

    name: str
    removed_at: int
    reason: str = ""


@frozen
class SlotTable:
    """Owners of the slots of one actor type: incarnations, and the wire version of each slot's last change of owner."""

    owners: tuple[int, ...]
    since: tuple[int, ...]


@frozen
class SlotRights:
    """Only under policy `exclusive`: what the handoff of one actor type's slots needs.

    `fences`: of the right that the present owner may get. `pending`: by slot, earlier owners not yet confirmed clear,
    ascending; slots without any are left out.
    """

    fences: tuple[int, ...]
    pending: dict[int, tuple[int, ...]] = Factory(dict)


@frozen
class HandoffSettings:
    """Times of one namespace, in milliseconds of a host's or a leader's clock. They are fixed when it is created.

    They are part of the replicated state, because a leader must wait for leases that its predecessor gave.

    `lease_ms`: how long after sending a renewal that was answered a host may serve.
    `drain_ms`: how long running turns of lost slots, or before the end of a lease, may take before they are cancelled.
    `margin_ms`: from the cancellation to the shut gate; also added to the drain time before a host counts as overdue.
    `tick_ms`: how often renewals are sent, and how long the leader collects them before it confirms its leadership.
    `rate_error_ppm`: bound of each clock's rate error against real time (rho), in parts per million.
    `failure_timeout_ms`: a member not heard of for so long is removed.
    `max_isolation_ms`: under policy `eventual`, a host without contact for so long stops serving; 0 for never.
    """

    lease_ms: int = field(default=6000, validator=ge(1))
    drain_ms: int = field(default=1500, validator=ge(0))
    margin_ms: int = field(default=500, validator=ge(0))
    tick_ms: int = field(default=500, validator=ge(1))
    rate_error_ppm: int = field(default=10_000, validator=[ge(0), le(500_000)])
    failure_timeout_ms: int = field(default=7000, validator=ge(1))
    max_isolation_ms: int = field(default=0, validator=ge(0))

    def wait_ms(self) -> int:
        """How long a leader waits until the last lease of a silent incarnation has surely run out, on its own clock.

        The rule of module Leases: lease x (1 + rho) / (1 - rho), rounded up, and one unit of the clock reading.
        """
        fast, slow = PARTS_PER_MILLION + self.rate_error_ppm, PARTS_PER_MILLION - self.rate_error_ppm
        return -(-self.lease_ms * fast // slow) + 1

    def creation_problem(self, policy: Policy) -> str | None:
        """Why no namespace should be created with these times, with the arithmetic, or None.

        To be asked before a command is proposed: what apply itself refuses is `problem`, the same at a feature level
        for ever.
        """
        if policy is Policy.EVENTUAL and self.max_isolation_ms:
            needed = self.drain_ms + self.margin_ms + 2 * self.tick_ms
            if self.max_isolation_ms <= needed:
                return (
                    f"max isolation {self.max_isolation_ms} ms is not above drain {self.drain_ms} + margin "
                    f"{self.margin_ms} + 2 x tick {self.tick_ms} = {needed} ms: hosts would stop admitting between two "
                    "heartbeats"
                )
        return self.problem(policy)

    def problem(self, policy: Policy = Policy.EXCLUSIVE) -> str | None:
        """Why these times cannot work together, with the arithmetic, or None."""
        if policy is not Policy.EXCLUSIVE:
            if self.failure_timeout_ms <= 2 * self.tick_ms:
                return (
                    f"failure timeout {self.failure_timeout_ms} ms is not above two ticks of {self.tick_ms} ms: "
                    "one late heartbeat would remove a host"
                )
            return None
        needed = self.drain_ms + self.margin_ms + 2 * self.tick_ms
        if self.lease_ms <= needed:
            return (
                f"lease {self.lease_ms} ms is not above drain {self.drain_ms} + margin {self.margin_ms} "
                f"+ 2 x tick {self.tick_ms} = {needed} ms: hosts would stop admitting between two renewals"
            )
        if self.failure_timeout_ms < self.wait_ms():
            return (
                f"failure timeout {self.failure_timeout_ms} ms is below the lease wait of {self.wait_ms()} ms "
                f"(lease {self.lease_ms} ms, clock rate error {self.rate_error_ppm} ppm)"
            )
        return None


@frozen
class NativeNamespace:
    """One namespace of native hosts.

    `fence` is the newest fence given: every command that raises fences takes the next number for all slots that it
    raises, in the same form as versions (generation in the high 32 bits). `members` and `marks` are by host name,
    `tombstones` by incarnation, `tables` and `rights` by actor type; all sorted by key. A type's table stays when
    its last host leaves, because its fences must go on rising.
    """

    policy: Policy
    version: Version
    slot_bits: int = SLOT_BITS_DEFAULT
    settings: HandoffSettings = Factory(HandoffSettings)
    fence: int = 0
    members: dict[str, NativeMember] = Factory(dict)
    marks: dict[str, HostMark] = Factory(dict)
    tombstones: dict[int, Tombstone] = Factory(dict)
    tables: dict[str, SlotTable] = Factory(dict)
    rights: dict[str, SlotRights] = Factory(dict)

    @property
    def slots(self) -> int:
        """Slots of each actor type."""
        return 1 << self.slot_bits

    def member_of(self, incarnation: int) -> NativeMember | None:
        """The member that is this incarnation, if it is one."""
        for member in self.members.values():
            if member.incarnation == incarnation:
                return member
        return None


@frozen
class NativeFloor:
    """What is kept of a deleted native namespace, so that one created again under the name starts above it."""

    version: Version
    fence: int
