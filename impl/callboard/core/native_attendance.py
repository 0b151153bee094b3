"""Who is there, as a leader of native hosts knows it: when each was heard, what it reported, when its wait is over.

Members are heard of or removed after the failure timeout; removed incarnations are buried after their own farewell, or
once their last possible lease has surely run out (rule L2 of ExclusiveHandoff, and Leases, in tla/).
"""

from __future__ import annotations

from attrs import define, field

from callboard.core.handoff_messages import Held, Renewal
from callboard.core.slot_index import Holding
from callboard.core.slot_records import NativeNamespace

BURIALS_MAX = 1000
"""Tombstones buried by one command."""


@define(eq=False)
class KnownHost:
    """What this leader knows of one member or tombstone, in this epoch.

    `heard_ms`: its last own word, or when the office began; `answered_ms`: the last answer to a renewal. `version`,
    `holding`: its newest report. `holding_number`: the renewal that completed `holding` on `connection`, 0 for none.
    `owing`: by `since`, when it first reported that version or a later one and still held a slot that moved with it.
    `behind`: a version that it was told and has not reported, and since when.
    """

    incarnation: int
    name: str
    actor_types: tuple[str, ...]
    heard_ms: int
    stream_id: int | None = None
    connection: int = 0
    answered_ms: int | None = None
    last_number: int = 0
    version: int = 0
    holding: Holding = field(factory=Holding)
    holding_number: int = 0
    sent_version: int = 0
    behind: tuple[int, int] | None = None
    owing: dict[int, int] = field(factory=dict)
    farewell: bool = False
    grants: tuple[Held, ...] | None = None

    @property
    def holding_known(self) -> bool:
        """Whether its newest report could be understood. If not, not even its version is known to be what it said."""
        return self.holding_number != 0

    def connected(self, stream_id: int, connection: int) -> None:
        """A newer connection counts from here on."""
        self.stream_id, self.connection, self.holding_number = stream_id, connection, 0

    def take_in(self, renewal: Renewal) -> bool:
        """Note what a renewal reports. Returns whether anything changed; a report on a base that is not at hand says
        nothing."""
        self.last_number = renewal.number
        if renewal.base_number == 0:
            self.holding = Holding()
        elif renewal.base_number != self.holding_number:
            self.holding_number = 0
            return False
        changed = bool(renewal.base_number == 0 or renewal.taken or renewal.dropped or renewal.version != self.version)
        self.holding.change(renewal.taken, renewal.dropped)
        self.holding_number = renewal.number
        self.version = max(self.version, renewal.version)
        if changed:
            self.grants = None
        return changed

    def has_released(self, kind: str, slot: int, since: int) -> bool:
        """Whether it holds no right to the slot from before version `since`, and never will again."""
        return self.version >= since and not self.holding.has(kind, slot)


@define(eq=False)
class Attendance:
    """Members and tombstones of `namespace`, by incarnation, since an office began at `started_ms`."""

    namespace: NativeNamespace
    started_ms: int
    hosts: dict[int, KnownHost] = field(init=False, factory=dict)
    burial_due_ms: int | None = field(init=False, default=None)
    """When the next tombstone may be buried."""
    removals: dict[int, str] = field(init=False, factory=dict)
    """Members that are to be removed, and why, beside those that are silent."""
    newest: int = field(init=False, default=0)
    """The newest incarnation that was ever followed."""
    _heard: dict[int, int] = field(init=False, factory=dict)
    """When each member was last heard, the longest silent first."""
    _behind: dict[int, int] = field(init=False, factory=dict)

    def is_member(self, incarnation: int) -> bool:
        """Whether it was in the last table that was followed."""
        return incarnation in self._heard

    def follow(self, namespace: NativeNamespace, now_ms: int) -> list[KnownHost]:
        """Members or tombstones changed. Returns those that are no members any more."""
        self.namespace = namespace
        present = {member.incarnation: member for member in namespace.members.values()}
        for incarnation, member in present.items():
            known = self.hosts.get(incarnation)
            if known is None:
                kinds = member.host.actor_types
                self.hosts[incarnation] = KnownHost(incarnation, member.name, kinds, now_ms)
                self._heard[incarnation] = now_ms
            elif known.actor_types != member.host.actor_types:
                known.actor_types, known.grants = member.host.actor_types, None
        removed = [self.hosts[incarnation] for incarnation in self._heard if incarnation not in present]
        for known in removed:
            self._heard.pop(known.incarnation)
            self.removals.pop(known.incarnation, None)
            self._behind.pop(known.incarnation, None)
        for incarnation, tombstone in namespace.tombstones.items():
            if incarnation not in self.hosts:
                self.hosts[incarnation] = KnownHost(incarnation, tombstone.name, (), now_ms)
        for incarnation in [each for each in self.hosts if each not in present and each not in namespace.tombstones]:
            del self.hosts[incarnation]
        self.newest = max((self.newest, *self.hosts))
        self.schedule_burials(now_ms)
        return removed

    def note_heard(self, known: KnownHost, now_ms: int) -> None:
        """A member's own word came."""
        known.heard_ms = now_ms
        self._heard.pop(known.incarnation, None)
        self._heard[known.incarnation] = now_ms

    def note_told(self, known: KnownHost, now_ms: int) -> None:
        """Tables up to `sent_version` were sent to it."""
        if known.behind is None:
            known.behind = (known.sent_version, now_ms)
            self._behind[known.incarnation] = now_ms

    def note_installed(self, known: KnownHost, now_ms: int) -> None:
        """Reported versions settle what the host was told; what it was told later is counted from now."""
        if known.behind is not None and known.version >= known.behind[0]:
            known.behind = None
            self._behind.pop(known.incarnation, None)
            if known.version < known.sent_version:
                self.note_told(known, now_ms)

    def silent(self, now_ms: int) -> list[int]:
        """Members not heard of for the failure timeout, the longest silent first."""
        return self._longer_than_timeout(self._heard, now_ms)

    def to_remove(self, now_ms: int, items_max: int) -> dict[int, str]:
        """Members to be removed, with the reason, as many as one command takes; those that are silent first."""
        timeout_ms = self.namespace.settings.failure_timeout_ms
        silent = {each: f"{self.hosts[each].name} was not heard of for {timeout_ms} ms" for each in self.silent(now_ms)}
        return dict(list({**silent, **self.removals}.items())[:items_max])

    def lagging(self, now_ms: int) -> list[int]:
        """Members that have not installed for the failure timeout what they were told."""
        return self._longer_than_timeout(self._behind, now_ms)

    def _longer_than_timeout(self, from_ms: dict[int, int], now_ms: int) -> list[int]:
        limit_ms = now_ms - self.namespace.settings.failure_timeout_ms
        found = []
        for incarnation, at_ms in from_ms.items():
            if at_ms > limit_ms:
                break
            found.append(incarnation)
        return found

    def timeouts_ms(self) -> list[int]:
        """When the longest silent member, and the one that lags longest, reach the failure timeout."""
        timeout_ms = self.namespace.settings.failure_timeout_ms
        oldest = (next(iter(from_ms.values()), None) for from_ms in (self._heard, self._behind))
        return [at_ms + timeout_ms for at_ms in oldest if at_ms is not None]

    def wait_over_ms(self, incarnation: int) -> int:
        """When the last possible lease of a removed incarnation has surely run out (rule L2)."""
        answered_ms = self.hosts[incarnation].answered_ms
        from_ms = self.started_ms if answered_ms is None else max(self.started_ms, answered_ms)
        return from_ms + self.namespace.settings.wait_ms()

    def schedule_burials(self, now_ms: int) -> None:
        """Tombstones, or what is known of them, changed."""
        due = [self._burial_at_ms(incarnation, now_ms) for incarnation in self.namespace.tombstones]
        self.burial_due_ms = min(due, default=None)

    def to_bury(self, now_ms: int) -> tuple[int, ...]:
        """Tombstones that surely hold nothing any more (rule L2), as many as one command takes."""
        if self.burial_due_ms is None or now_ms < self.burial_due_ms:
            return ()
        gone = [each for each in self.namespace.tombstones if self._burial_at_ms(each, now_ms) <= now_ms]
        return tuple(gone[:BURIALS_MAX])

    def _burial_at_ms(self, incarnation: int, now_ms: int) -> int:
        return now_ms if self.hosts[incarnation].farewell else self.wait_over_ms(incarnation)
