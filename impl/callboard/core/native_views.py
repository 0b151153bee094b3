"""What operators want to see of a leader: which slots wait, for whom, since when, and why; leases; overdue hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import define, field

from callboard.core.leases import overdue_after_ms
from callboard.core.native_attendance import Attendance, KnownHost
from callboard.core.native_leader_records import Giver, LeaseState, Overdue, Waiting
from callboard.core.native_releases import Releases

GiverOf = Callable[[int, str, int, int], Giver]


@define(eq=False)
class OperatorViews:
    """Of one office. Times are readings of the leader's clock."""

    _releases: Releases
    _attendance: Attendance
    _waits_from_ms: dict[int, int] = field(init=False, factory=dict)
    """Since when slots have waited, by their `since`."""

    def note_waits(self, now_ms: int) -> None:
        """Which slots wait may have changed."""
        sinces = self._releases.pending_sinces()
        self._waits_from_ms = {since: self._waits_from_ms.get(since, now_ms) for since in sinces}

    def handoffs(self, now_ms: int) -> list[Waiting]:
        """Slots that are not granted to their owner yet: the answer to "why is my actor not served?". As runs with the
        same owner, `since` and givers; by actor type and slot."""
        found: list[Waiting] = []
        for kind, slot, owner, since, givers in _pending(self._releases, self._giver_at(now_ms)):
            last = found[-1] if found else None
            if (
                last is not None
                and (last.actor_type, last.first + last.count, last.owner, last.since) == (kind, slot, owner, since)
                and last.givers == givers
            ):
                found[-1] = Waiting(kind, last.first, last.count + 1, owner, since, last.waited_ms, givers)
            else:
                waited_ms = max(0, now_ms - self._waits_from_ms.get(since, now_ms))
                found.append(Waiting(kind, slot, 1, owner, since, waited_ms, givers))
        return found

    def _giver_at(self, now_ms: int) -> GiverOf:
        releases = self._releases

        def giver(incarnation: int, kind: str, slot: int, since: int) -> Giver:
            known = releases.hosts.get(incarnation)
            tombstone = releases.namespace.tombstones.get(incarnation)
            if tombstone is not None:
                remaining_ms = max(0, self._attendance.wait_over_ms(incarnation) - now_ms)
                return Giver(incarnation, tombstone.name, "removed", remaining_ms)
            if known is None:
                return Giver(incarnation, "", "not heard", None)
            return Giver(incarnation, known.name, *_why(releases, known, (kind, slot, since), now_ms))

        return giver

    def leases(self, now_ms: int) -> list[LeaseState]:
        """Every member as the leader sees it, by incarnation."""
        timeout_ms = self._releases.namespace.settings.failure_timeout_ms
        return [
            LeaseState(
                incarnation=known.incarnation,
                name=known.name,
                connected=known.stream_id is not None,
                installed_version=known.version,
                heard_ms=now_ms - known.heard_ms,
                answered_ms=None if known.answered_ms is None else now_ms - known.answered_ms,
                margin_ms=max(0, known.heard_ms + timeout_ms - now_ms),
            )
            for known in _members(self._releases)
        ]

    def overdue(self, now_ms: int) -> list[Overdue]:
        """Members that have not released slots in time, by incarnation."""
        late = ((known, self._releases.overdue_ms(known, now_ms)) for known in _members(self._releases))
        return [
            Overdue(known.incarnation, known.name, min(known.owing, default=known.sent_version), late_ms)
            for known, late_ms in late
            if late_ms is not None
        ]


def _pending(releases: Releases, giver: GiverOf) -> Iterator[tuple[str, int, int, int, tuple[Giver, ...]]]:
    for kind, rights in releases.namespace.rights.items():
        table = releases.namespace.tables[kind]
        for slot, incarnations in sorted(rights.pending.items()):
            since = table.since[slot]
            yield kind, slot, table.owners[slot], since, tuple(giver(each, kind, slot, since) for each in incarnations)


def _why(releases: Releases, known: KnownHost, of: tuple[str, int, int], now_ms: int) -> tuple[str, int | None]:
    kind, slot, since = of
    settings = releases.namespace.settings
    if known.has_released(kind, slot, since):
        return "released", 0
    if releases.overdue_ms(known, now_ms) is not None:
        return "overdue", None
    if known.version >= since:
        from_ms = known.owing.get(since, now_ms)
        return "draining", from_ms + overdue_after_ms(settings) - now_ms
    return "not heard", max(0, known.heard_ms + settings.failure_timeout_ms - now_ms)


def _members(releases: Releases) -> list[KnownHost]:
    incarnations = sorted(member.incarnation for member in releases.namespace.members.values())
    return [releases.hosts[incarnation] for incarnation in incarnations]
