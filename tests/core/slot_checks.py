"""What must hold between a native namespace before and after one command: rules S2 to S6, `Balance`, `MinimalMovement`.

`check_step` raises PropertyViolation under the name of what broke. The bounds are those that slot_assignment states.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil, floor

from attrs import frozen

from callboard.core.commands import Bury, Command, CommitNativeBatch, ConfirmClear, RaiseFences
from callboard.core.slot_records import NOBODY, HostMark, NativeNamespace, SlotTable
from callboard.core.versions import Policy
from harness.violation import PropertyViolation

BALANCE_FROM = 32
"""Slots per host from which on `BALANCE_MAX` is promised for hosts of one weight."""
BALANCE_MAX = Fraction(110, 100)


@frozen
class Share:
    """A host of one actor type."""

    incarnation: int
    weight: int
    cordoned: bool
    draining: bool

    @property
    def receives(self) -> bool:
        return not self.cordoned and not self.draining


def shares(namespace: NativeNamespace, kind: str) -> dict[int, Share]:
    """Hosts of a type by incarnation."""
    found = {}
    for member in namespace.members.values():
        if kind in member.host.actor_types:
            mark = namespace.marks.get(member.name, HostMark(member.name))
            weight = member.host.weight if mark.weight is None else mark.weight
            found[member.incarnation] = Share(member.incarnation, weight, mark.cordoned, mark.draining)
    return found


def check_step(before: NativeNamespace, after: NativeNamespace, command: Command) -> None:
    """Everything that must hold for one command that was carried out."""
    check_version(before, after)
    check_rights(before, after)
    if isinstance(command, CommitNativeBatch):
        check_members(before, after, command)
        for kind, table in after.tables.items():
            check_owners(after, kind, table)
            check_moves(before, after, kind)
    else:
        check_handoff(before, after, command)


def check_version(before: NativeNamespace, after: NativeNamespace) -> None:
    changed = before.members != after.members or before.tables != after.tables
    expected = before.version.next() if changed else before.version
    if after.version != expected:
        raise PropertyViolation("GenerationExact", f"version {after.version} instead of {expected}")


def check_rights(before: NativeNamespace, after: NativeNamespace) -> None:
    """S2: what a change of owner does to a slot, and that nothing else does it."""
    for kind, table in after.tables.items():
        old = before.tables.get(kind) or SlotTable((NOBODY,) * after.slots, (0,) * after.slots)
        rights, old_rights = after.rights.get(kind), before.rights.get(kind)
        for slot, owner in enumerate(table.owners):
            moved = owner != old.owners[slot]
            since = after.version.wire if moved else old.since[slot]
            if table.since[slot] != since:
                raise PropertyViolation("S2", f"since {table.since[slot]} of {kind}/{slot} instead of {since}")
            if rights is None:
                continue
            fence = rights.fences[slot]
            if fence > after.fence or (moved and fence <= before.fence):
                raise PropertyViolation("FenceMonotonic", f"fence {fence} of {kind}/{slot} after {before.fence}")
            if old_rights is not None and fence < old_rights.fences[slot]:
                raise PropertyViolation("FenceMonotonic", f"fence {fence} of {kind}/{slot} fell")
            pending = set(rights.pending.get(slot, ()))
            kept = set() if old_rights is None else set(old_rights.pending.get(slot, ()))
            if moved and not pending >= kept | ({old.owners[slot]} - {NOBODY}):
                raise PropertyViolation("S2", f"{kind}/{slot} waits for {pending}, its owner was {old.owners[slot]}")
            if not moved and not pending <= kept:
                raise PropertyViolation("S2", f"{kind}/{slot} waits for {pending} although it did not move")
    if after.policy is Policy.EVENTUAL and (after.rights or after.tombstones):
        raise PropertyViolation("S2", "policy eventual has rights or tombstones")


def check_members(before: NativeNamespace, after: NativeNamespace, command: CommitNativeBatch) -> None:
    """S3: numbers of incarnations, and what becomes of those that go."""
    earlier = {member.incarnation: member.name for member in before.members.values()}
    present = {member.incarnation: member.name for member in after.members.values()}
    for incarnation in present.keys() - earlier.keys():
        if incarnation <= max([0, *earlier, *before.tombstones]):
            raise PropertyViolation("S3", f"incarnation {incarnation} is not new")
    gone = earlier.keys() - present.keys()
    if after.policy is Policy.EXCLUSIVE and after.tombstones.keys() != before.tombstones.keys() | gone:
        raise PropertyViolation("S3", f"{sorted(gone)} went, tombstones are {sorted(after.tombstones)}")
    for host in command.upserts:
        if after.members[host.name].host != host:
            raise PropertyViolation("S3", f"{host.name} is not what it said")


def check_owners(namespace: NativeNamespace, kind: str, table: SlotTable) -> None:
    """`Balance`, and that every slot has an owner if anybody may have it."""
    hosts, owned = shares(namespace, kind), Counter(table.owners)
    receivers = [host for host in hosts.values() if host.receives]
    if strangers := owned.keys() - hosts.keys() - {NOBODY}:
        raise PropertyViolation("S2", f"slots of {kind} belong to {sorted(strangers)}, who are no hosts of it")
    if owned[NOBODY] and receivers:
        raise PropertyViolation("EverySlotHasAnOwner", f"{owned[NOBODY]} slots of {kind} belong to nobody")
    if not receivers:
        return
    left = namespace.slots - sum(owned[host.incarnation] for host in hosts.values() if not host.receives)
    weights = sum(host.weight for host in receivers)
    for host in receivers:
        if owned[host.incarnation] > ceil(Fraction(left * host.weight, weights)):
            raise PropertyViolation("Balance", f"{owned[host.incarnation]} slots of {left}, weight {host.weight}")
    mean = Fraction(left, len(receivers))
    if len({host.weight for host in receivers}) == 1 and mean >= BALANCE_FROM:
        most = max(owned[host.incarnation] for host in receivers)
        if most > BALANCE_MAX * mean:
            raise PropertyViolation("Balance", f"{most} slots, the mean is {mean}")
    if any(owned[host.incarnation] for host in hosts.values() if host.draining):
        raise PropertyViolation("Marks", f"a draining host keeps slots of {kind} that others could take")


def check_moves(before: NativeNamespace, after: NativeNamespace, kind: str) -> None:
    """`MinimalMovement`; a host that restarts under its name takes its slots over."""
    names = {member.name: member.incarnation for member in after.members.values()}
    heirs = {member.incarnation: names[member.name] for member in before.members.values() if member.name in names}
    then = {heirs.get(key, key): share for key, share in shares(before, kind).items()}
    now = shares(after, kind)
    old = before.tables.get(kind)
    owners = (NOBODY,) * after.slots if old is None else tuple(heirs.get(owner, owner) for owner in old.owners)
    moved = [slot for slot, owner in enumerate(after.tables[kind].owners) if owner != owners[slot]]
    gained = Counter(after.tables[kind].owners[slot] for slot in moved)
    for host in now.values():
        if not host.receives and gained[host.incarnation]:
            raise PropertyViolation("Marks", f"{host} got {gained[host.incarnation]} slots of {kind}")
    receivers = [host for host in now.values() if host.receives]
    homeless = [slot for slot, owner in enumerate(owners) if owner not in now]
    came = {key for key in now if key not in then}
    changed = {key for key in now if key in then and _other(then[key], now[key])}
    if changed or not receivers:
        return
    if not came and set(moved) != set(homeless):
        raise PropertyViolation("MinimalMovement", f"{len(moved)} slots of {kind} moved, {len(homeless)} had to")
    if came and not homeless and all(host.receives for host in now.values()):
        _check_join(after.slots, now, came, gained)


def _other(then: Share, now: Share) -> bool:
    return (then.weight, then.cordoned, then.draining) != (now.weight, now.cordoned, now.draining)


def _check_join(slots: int, now: dict[int, Share], came: set[int], gained: Counter[int]) -> None:
    """Nobody left: newcomers get their shares, and nobody else more than rounding asks for."""
    whole = sum(host.weight for host in now.values())
    for key in came:
        fair = Fraction(now[key].weight * slots, whole)
        if not floor(fair) <= gained[key] <= ceil(fair):
            raise PropertyViolation("MinimalMovement", f"a newcomer got {gained[key]} slots, its share is {fair}")
    rounding = 0 if len({host.weight for host in now.values()}) == 1 else len(now) - len(came)
    others = sum(count for key, count in gained.items() if key not in came)
    if others > rounding:
        raise PropertyViolation("MinimalMovement", f"{others} slots moved between hosts that were there")


def check_handoff(before: NativeNamespace, after: NativeNamespace, command: Command) -> None:
    """S4 to S6: which pending owners and fences may change."""
    for kind, rights in before.rights.items():
        now = after.rights[kind]
        for slot in range(before.slots):
            since, fence = before.tables[kind].since[slot], rights.fences[slot]
            pending = rights.pending.get(slot, ())
            left, raised = pending, False
            match command:
                case ConfirmClear(_, spans) if any(_names(span, kind, slot) and span.since == since for span in spans):
                    left = ()
                case Bury(_, incarnations):
                    gone = set(incarnations) & before.tombstones.keys()
                    left = tuple(each for each in pending if each not in gone)
                case RaiseFences(_, spans):
                    raised = any(
                        _names(span, kind, slot) and (span.since, span.fence) == (since, fence) for span in spans
                    )
            if now.pending.get(slot, ()) != left:
                rule = "S5" if isinstance(command, Bury) else "S4"
                raise PropertyViolation(rule, f"{kind}/{slot} waits for {now.pending.get(slot, ())}, not {left}")
            if (now.fences[slot] != fence) is not raised:
                raise PropertyViolation("S6", f"fence of {kind}/{slot} from {fence} to {now.fences[slot]}")
    if isinstance(command, Bury) and after.tombstones.keys() != before.tombstones.keys() - set(command.incarnations):
        raise PropertyViolation("S5", f"tombstones {sorted(after.tombstones)} after {command}")


def _names(span: object, kind: str, slot: int) -> bool:
    first, count = getattr(span, "first", 0), getattr(span, "count", 0)
    return getattr(span, "actor_type", None) == kind and first <= slot < first + count
