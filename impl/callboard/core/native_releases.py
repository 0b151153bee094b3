"""What a leader knows of native hosts, and which slots are clear by it: rules L1 and L4, and who is overdue.

Reports of hosts are facts that do not age: "at version v I held exactly this, everything else is released". So the
newest report of each incarnation is kept until the incarnation is buried, whatever becomes of its connection.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from attrs import define, field

from callboard.core.commands import ConfirmClear, FenceSpan, RaiseFences, SlotSpan
from callboard.core.handoff_messages import Held, Renewal, SlotRun
from callboard.core.leases import overdue_after_ms
from callboard.core.native_attendance import KnownHost
from callboard.core.slot_index import SlotIndex, held_runs
from callboard.core.slot_records import NativeNamespace

COMMAND_SPANS_MAX = 4000
COMMAND_BYTES_MAX = 128 * 1024
"""Of the spans of one command, so that it fits one log entry of any engine."""


@define(eq=False)
class Releases:
    """Which slots of `index` may be confirmed clear, which fences are asked for, who owes a release."""

    index: SlotIndex
    hosts: dict[int, KnownHost]
    _ready: dict[tuple[str, int], int] = field(init=False, factory=dict)
    _fence_wishes: dict[tuple[str, int], tuple[int, int]] = field(init=False, factory=dict)
    owing: set[int] = field(init=False, factory=set)

    @property
    def namespace(self) -> NativeNamespace:
        """As of the last update."""
        return self.index.namespace

    def update(self, namespace: NativeNamespace, now_ms: int) -> set[int]:
        """Follow a change of the namespace. Returns the incarnations to which other things may be granted."""
        rights_before = self.namespace.rights
        affected = self.index.update(namespace)
        if namespace.rights is not rights_before:
            self._ready, self.owing = {}, set()
            self._fence_wishes = {key: wish for key, wish in self._fence_wishes.items() if self._present(*key) == wish}
            for incarnation in self.index.waiting:
                if incarnation in self.hosts:
                    self.examine(self.hosts[incarnation], now_ms)
            for host in self.hosts.values():
                if host.incarnation not in self.index.waiting:
                    host.owing = {}
        return affected

    def examine(self, host: KnownHost, now_ms: int) -> None:
        """The host reported something, or slots that wait for it changed: find those that are clear now (rule L1)."""
        owed: set[int] = set()
        for kind, slots in self.index.waiting.get(host.incarnation, {}).items():
            since, pending = self.namespace.tables[kind].since, self.namespace.rights[kind].pending
            for slot in slots:
                if host.has_released(kind, slot, since[slot]):
                    if self._is_clear(pending[slot], kind, slot, since[slot]):
                        self._ready[kind, slot] = since[slot]
                elif host.version >= since[slot]:
                    owed.add(since[slot])
        host.owing = {since: host.owing.get(since, now_ms) for since in sorted(owed)}
        if owed:
            self.owing.add(host.incarnation)
        else:
            self.owing.discard(host.incarnation)

    def _is_clear(self, givers: Iterable[int], kind: str, slot: int, since: int) -> bool:
        """Whether each of the givers has released the slot."""
        return all(giver in self.hosts and self.hosts[giver].has_released(kind, slot, since) for giver in givers)

    def pending_sinces(self) -> set[int]:
        """The `since` of all slots that wait for earlier owners."""
        tables = self.namespace.tables
        return {tables[kind].since[slot] for kind, rights in self.namespace.rights.items() for slot in rights.pending}

    def overdue_ms(self, host: KnownHost, now_ms: int) -> int | None:
        """For how long the host has been overdue, or None if it is not.

        It holds what a table took away that it said it installed, for longer than `overdue_after_ms`; or it renews,
        but has not installed for the failure timeout what it was told.
        """
        late = [now_ms - at_ms - overdue_after_ms(self.namespace.settings) for at_ms in host.owing.values()]
        if host.behind is not None and host.heard_ms > host.behind[1]:
            late.append(now_ms - host.behind[1] - self.namespace.settings.failure_timeout_ms)
        worst = max(late, default=-1)
        return worst if worst >= 0 else None

    def overdue_times_ms(self, removals: Container[int]) -> list[int]:
        """When hosts that owe slots become overdue with them if nothing changes, but for those that are to be
        removed anyway."""
        after_ms = overdue_after_ms(self.namespace.settings)
        return [min(self.hosts[each].owing.values()) + after_ms for each in self.owing if each not in removals]

    def request(self, host: KnownHost, requests: Iterable[Held]) -> None:
        """Rule L4: only the owner may ask, and only for the present `since` and fence. A lower fence needs nothing: the
        present grant is repeated until the host holds it."""
        for held in requests:
            for slot in range(held.first, held.first + held.count):
                wish = (held.since, held.fence)
                if self._present(held.actor_type, slot) == wish and self._owns(host, held.actor_type, slot):
                    self._fence_wishes[held.actor_type, slot] = wish

    def _owns(self, host: KnownHost, kind: str, slot: int) -> bool:
        return self.namespace.tables[kind].owners[slot] == host.incarnation

    def _present(self, kind: str, slot: int) -> tuple[int, int] | None:
        """`since` and fence of a slot now."""
        rights = self.namespace.rights.get(kind)
        return None if rights is None else (self.namespace.tables[kind].since[slot], rights.fences[slot])

    def confirmation(self, name: str) -> ConfirmClear | None:
        """The command for slots that are clear, as many as fit, or None."""
        if not self._ready:
            return None
        slots = ((kind, slot, since, 0) for (kind, slot), since in sorted(self._ready.items()))
        spans = tuple(SlotSpan(each.actor_type, each.first, each.count, each.since) for each in _fitting(slots))
        return ConfirmClear(name, spans) if spans else None

    def raised_fences(self, name: str) -> RaiseFences | None:
        """The command for fences that owners asked for, as many as fit, or None."""
        if not self._fence_wishes:
            return None
        slots = ((kind, slot, since, fence) for (kind, slot), (since, fence) in sorted(self._fence_wishes.items()))
        spans = tuple(
            FenceSpan(each.actor_type, each.first, each.count, each.since, each.fence) for each in _fitting(slots)
        )
        return RaiseFences(name, spans) if spans else None

    def grants(self, host: KnownHost) -> tuple[Held, ...]:
        """What is granted to the host and it does not show to hold (rule L3)."""
        if host.grants is None:
            host.grants = held_runs(self.index.granted(host.incarnation, host.actor_types, host.holding))
        return host.grants


def _fitting(slots: Iterable[tuple[str, int, int, int]]) -> list[Held]:
    found = list(held_runs(slots)[:COMMAND_SPANS_MAX])
    size = 0
    for at, each in enumerate(found):
        size += 40 + len(each.actor_type.encode("utf-8", "surrogatepass"))
        if size > COMMAND_BYTES_MAX:
            return found[:at]
    return found


def renewal_problem(renewal: Renewal, namespace: NativeNamespace) -> str | None:
    """Why no correct host sends this, as one line naming field and value, or None."""
    if renewal.version > namespace.version.wire:
        return f"table version {renewal.version} is above the newest, {namespace.version.wire}"
    named: tuple[Held | SlotRun, ...] = (*renewal.taken, *renewal.dropped, *renewal.requests)
    for each in named:
        if each.first < 0 or each.count < 1 or each.first + each.count > namespace.slots:
            last = each.first + each.count - 1
            return f"slots {each.first} to {last} are not within 0 to {namespace.slots - 1}"
        if each.actor_type not in namespace.tables:
            return f"no actor type {each.actor_type[:255]}"
    return None
