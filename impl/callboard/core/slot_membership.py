"""Apply for native namespaces: members, marks, slots, rights, tombstones (rules S1 to S6 of ExclusiveHandoff).

Every function takes a namespace, or a state, and returns the next one with an answer, like `membership.apply`, which
calls them. A command that is refused changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from attrs import evolve

from callboard.core.commands import (
    Bury,
    CommitNativeBatch,
    ConfirmClear,
    CreateNativeNamespace,
    FenceSpan,
    RaiseFences,
    SlotSpan,
)
from callboard.core.records import Answer, AnswerCode, ReplicatedState
from callboard.core.slot_assignment import Candidate, assign, empty_table
from callboard.core.slot_records import (
    NOBODY,
    SLOT_BITS_MAX,
    SLOT_BITS_MIN,
    WEIGHT_MAX,
    HostMark,
    NativeFloor,
    NativeHostRecord,
    NativeMember,
    NativeNamespace,
    SlotRights,
    SlotTable,
    Tombstone,
)
from callboard.core.table_delta import changed_slots
from callboard.core.versions import COUNTER_BITS, Policy, Version

_Span = TypeVar("_Span", SlotSpan, FenceSpan)

NATIVE_LEVEL = 2
"""The feature level from which native namespaces exist."""
STORE_LEVEL = 3
"""The feature level from which members have store ids, and batches are refused for them."""
SUCCESSION_LEVEL = 3
"""The feature level from which a host gets its slots back also if its removal and its return are in one batch."""

NATIVE_MEMBERS_MAX = 5_000
TOMBSTONES_MAX = 5_000
ACTOR_TYPES_PER_NAMESPACE_MAX = 1_000
MARKS_MAX = 5_000
SPANS_MAX = 20_000
"""Of one command."""
NAME_LENGTH_MAX = 255
ACTOR_TYPES_PER_HOST_MAX = 1_000
LABELS_MAX = 32
NATIVE_RECORD_BYTES_MAX = 32 * 1024
REASON_LENGTH_MAX = 200

FORMER_LIFE = "(before this generation)"
"""Name of the tombstone that stands for all hosts of a former life of this namespace (a restored backup, or a memory
engine that was started again): they may still hold leases, so every slot waits for them once."""


def create(state: ReplicatedState, command: CreateNativeNamespace) -> tuple[ReplicatedState, Answer]:
    """A native namespace under a name that no namespace has. Limits of names and numbers were checked before."""
    problem = command.settings.problem(command.policy)
    if problem is None and not SLOT_BITS_MIN <= command.slot_bits <= SLOT_BITS_MAX:
        problem = f"slot bits {command.slot_bits} are not between {SLOT_BITS_MIN} and {SLOT_BITS_MAX}"
    if problem is not None:
        return state, Answer(AnswerCode.INVALID, detail=f"namespace {command.namespace}: {problem}")
    first = Version(state.generation, 0)
    floors = dict(state.deleted_native)
    floor = floors.pop(command.namespace, NativeFloor(first, first.wire))
    of_sidecars = state.deleted_namespaces.get(command.namespace, first)
    namespace = NativeNamespace(
        policy=command.policy,
        version=max(floor.version, first, of_sidecars),
        slot_bits=command.slot_bits,
        settings=command.settings,
        fence=max(floor.fence, first.wire),
    )
    incarnation = state.next_incarnation
    if state.generation > 0 and command.policy is Policy.EXCLUSIVE:
        namespace = evolve(namespace, tombstones={incarnation: Tombstone(FORMER_LIFE, namespace.version.wire)})
        incarnation += 1
    native = dict(sorted({**state.native, command.namespace: namespace}.items()))
    state = evolve(state, native=native, deleted_native=floors, next_incarnation=incarnation)
    return state, Answer(AnswerCode.OK, namespace.version.wire)


def delete(state: ReplicatedState, name: str) -> tuple[ReplicatedState, Answer]:
    """Delete a native namespace that nobody is in any more; version and fence floors are kept."""
    namespace = state.native[name]
    for what, count in (("members", len(namespace.members)), ("tombstones", len(namespace.tombstones))):
        if count:
            return state, Answer(AnswerCode.CONFLICT, detail=f"namespace {name} still has {count} {what}")
    native = {key: kept for key, kept in state.native.items() if key != name}
    floor = NativeFloor(namespace.version, namespace.fence)
    floors = dict(sorted({**state.deleted_native, name: floor}.items()))
    return evolve(state, native=native, deleted_native=floors), Answer(AnswerCode.OK, namespace.version.wire)


def raise_generation(namespace: NativeNamespace, first: Version) -> NativeNamespace:
    """Versions and fences from here on lie above all of earlier generations."""
    return evolve(namespace, version=first, fence=max(namespace.fence, first.wire))


# -- batches ---------------------------------------------------------------------------------------------


def commit_batch(state: ReplicatedState, command: CommitNativeBatch) -> tuple[ReplicatedState, Answer]:
    """Marks, removals, upserts; then every table that is concerned (rules S2 and S3)."""
    namespace = state.native[command.namespace]
    if state.feature_level < STORE_LEVEL:
        command = evolve(command, upserts=tuple(evolve(host, store_id="") for host in command.upserts))
    problem = _batch_problem(command)
    if problem is not None:
        return state, Answer(AnswerCode.INVALID, detail=problem)
    marks = _marked(namespace.marks, command.marks)
    members = dict(namespace.members)
    left: dict[int, str] = {}
    for removal in command.removals:
        member = members.get(removal.name)
        if member is not None and member.incarnation == removal.incarnation:
            left[member.incarnation] = member.name
            del members[removal.name]
    replaced: dict[int, str] = {}
    incarnation = state.next_incarnation
    for host in command.upserts:
        problem = store_problem(namespace.policy, members, host)
        if problem is not None:
            return state, Answer(AnswerCode.CONFLICT, detail=problem)
        present = members.get(host.name)
        if present is not None and present.host.process == host.process:
            members[host.name] = evolve(present, host=host)
            continue
        if present is not None:
            replaced[present.incarnation] = present.name
        members[host.name] = NativeMember(host, incarnation)
        incarnation += 1
    removed = left | replaced
    succeeded = removed if state.feature_level >= SUCCESSION_LEVEL else replaced
    successors = {gone: members[name].incarnation for gone, name in succeeded.items() if name in members}
    next_version = namespace.version.next()
    tombstones = _buried_later(namespace, removed, next_version.wire, command.reason)
    after = evolve(namespace, members=dict(sorted(members.items())), marks=marks, tombstones=tombstones)
    problem = _limit(after)
    if problem is not None:
        return state, Answer(AnswerCode.LIMIT, detail=problem)
    if after == namespace:
        return state, Answer(AnswerCode.UNCHANGED, namespace.version.wire)
    after = _with_tables(namespace, after, next_version.wire, successors)
    changed = after.members != namespace.members or _tables_differ(namespace.tables, after.tables)
    if changed:
        after = evolve(after, version=next_version)
    native = {**state.native, command.namespace: after}
    state = evolve(state, native=native, next_incarnation=incarnation)
    return state, Answer(AnswerCode.OK if changed else AnswerCode.UNCHANGED, after.version.wire)


def store_problem(policy: Policy, members: Mapping[str, NativeMember], host: NativeHostRecord) -> str | None:
    """Why `host` may not be a member beside these for its store, or None. Fences protect state only if all hosts keep
    it in one store: the first that a member committed counts, as long as somebody with it is a member."""
    if policy is not Policy.EXCLUSIVE or not host.store_id:
        return None
    others = (each.host for each in members.values() if each.host.store_id and each.name != host.name)
    other = next(others, None)  # all have the same
    if other is None or other.store_id == host.store_id:
        return None
    return store_conflict(host.name, host.store_id, other.name, other.store_id)


def store_conflict(name: str, store_id: str, other_name: str, other_store_id: str) -> str:
    """One line for whoever runs the first of these hosts."""
    return (
        f"host {name} keeps state in store {store_id}, but host {other_name} in store {other_store_id}: "
        "fences need one store"
    )


def _buried_later(
    namespace: NativeNamespace, removed: Mapping[int, str], version: int, reason: str
) -> dict[int, Tombstone]:
    """Only the exclusive policy has to wait for those who are gone."""
    if namespace.policy is not Policy.EXCLUSIVE or not removed:
        return namespace.tombstones
    added = {incarnation: Tombstone(name, version, reason) for incarnation, name in removed.items()}
    return dict(sorted({**namespace.tombstones, **added}.items()))


def _marked(marks: Mapping[str, HostMark], changes: Iterable[HostMark]) -> dict[str, HostMark]:
    merged = {**marks, **{mark.name: mark for mark in changes}}
    return {name: mark for name, mark in sorted(merged.items()) if not mark.is_default}


def _tables_differ(before: Mapping[str, SlotTable], after: Mapping[str, SlotTable]) -> bool:
    return before.keys() != after.keys() or any(after[kind] is not before[kind] for kind in after)


def _with_tables(
    before: NativeNamespace, after: NativeNamespace, version: int, successors: Mapping[int, int]
) -> NativeNamespace:
    """`after` with the tables that its members and marks call for.

    Types that share a table and its rights, and are hosted alike before and after, are worked out once and go on
    sharing. Types are never joined because they became equal by chance.
    """
    candidates, earlier = _candidates(after), _candidates(before)
    nothing = empty_table(after.slots)
    no_rights = SlotRights((0,) * after.slots)
    fence = _next_fence(after, version)
    # Equal candidates of one side are one object, so that identities do for comparing them.
    alike: dict[tuple[int, int], bool] = {}
    done: dict[tuple[int, ...], tuple[SlotTable, SlotRights]] = {}
    tables: dict[str, SlotTable] = {}
    rights: dict[str, SlotRights] = {}
    for kind in sorted(before.tables.keys() | candidates.keys()):
        old_table = before.tables.get(kind, nothing)
        old_rights = before.rights.get(kind, no_rights)
        now, then = candidates.get(kind, ()), earlier.get(kind, ())
        hosts = (id(now), id(then))
        if hosts not in alike:
            alike[hosts] = now == then
        if alike[hosts] and kind in before.tables:
            tables[kind], rights[kind] = old_table, old_rights
            continue
        key = (id(old_table), id(old_rights), *hosts)
        if key not in done:
            joined = _grew(then, now)
            new_table = assign(old_table, now, version, successors, joined=joined)
            done[key] = (new_table, _moved(after, old_table, new_table, old_rights, fence))
        tables[kind], rights[kind] = done[key]
    if after.policy is not Policy.EXCLUSIVE:
        return evolve(after, tables=tables)
    raised = any(rights[kind] is not before.rights.get(kind) for kind in rights)
    return evolve(after, tables=tables, rights=rights, fence=fence if raised else after.fence)


def _candidates(namespace: NativeNamespace) -> dict[str, tuple[Candidate, ...]]:
    """Hosts of each actor type, ascending by incarnation."""
    found: dict[str, list[Candidate]] = {}
    for member in sorted(namespace.members.values(), key=lambda member: member.incarnation):
        mark = namespace.marks.get(member.name, HostMark(member.name))
        weight = member.host.weight if mark.weight is None else mark.weight
        candidate = Candidate(member.incarnation, weight, mark.cordoned, mark.draining)
        for kind in member.host.actor_types:
            found.setdefault(kind, []).append(candidate)
    shared: dict[tuple[Candidate, ...], tuple[Candidate, ...]] = {}
    return {kind: shared.setdefault(tuple(hosts), tuple(hosts)) for kind, hosts in found.items()}


def _grew(then: Iterable[Candidate], now: Iterable[Candidate]) -> bool:
    """Whether somebody came, has another weight (which makes somebody relatively stronger), or may receive again."""
    earlier = {candidate.incarnation: candidate for candidate in then}
    for candidate in now:
        old = earlier.get(candidate.incarnation)
        if old is None or old.weight != candidate.weight or (candidate.receives and not old.receives):
            return True
    return False


def _moved(
    namespace: NativeNamespace, before: SlotTable, after: SlotTable, rights: SlotRights, fence: int
) -> SlotRights:
    """Rule S2: where the owner changes, the old one is added to `pending` and the fence rises."""
    if namespace.policy is not Policy.EXCLUSIVE or after is before:
        return rights
    former_lives = tuple(key for key, tombstone in namespace.tombstones.items() if tombstone.name == FORMER_LIFE)
    fences, pending = list(rights.fences), dict(rights.pending)
    for slot in changed_slots(before.owners, after.owners):
        old = before.owners[slot]
        fences[slot] = fence
        waits_for = set(pending.get(slot, ()))
        waits_for |= {old} if old != NOBODY else set()
        if before.since[slot] == 0:
            waits_for |= set(former_lives)
        if waits_for:
            pending[slot] = tuple(sorted(waits_for))
    return SlotRights(tuple(fences), dict(sorted(pending.items())))


def _next_fence(namespace: NativeNamespace, version: int) -> int:
    """Above every fence given so far, and in the generation of the version."""
    return max(namespace.fence + 1, (version >> COUNTER_BITS << COUNTER_BITS) + 1)


# -- handoff ---------------------------------------------------------------------------------------------


def confirm_clear(namespace: NativeNamespace, command: ConfirmClear) -> tuple[NativeNamespace, Answer]:
    """Rule S4: `pending` of these slots becomes empty where `since` is still the one that was meant."""

    def cleared(table: SlotTable, rights: SlotRights, spans: tuple[SlotSpan, ...]) -> SlotRights:
        slots = {
            slot
            for span in spans
            for slot in range(span.first, span.first + span.count)
            if table.since[slot] == span.since
        }
        if slots.isdisjoint(rights.pending):
            return rights
        return evolve(rights, pending={slot: kept for slot, kept in rights.pending.items() if slot not in slots})

    problem = _spans_problem(namespace, command.spans)
    if problem is not None:
        return namespace, Answer(AnswerCode.INVALID, detail=problem)
    return _answered(namespace, _each_type(namespace, command.spans, cleared))


def bury(namespace: NativeNamespace, command: Bury) -> tuple[NativeNamespace, Answer]:
    """Rule S5: these tombstones go, and no slot waits for them any more. Members and strangers are left alone."""
    gone = namespace.tombstones.keys() & set(command.incarnations)
    if not gone:
        return _answered(namespace, namespace)
    tombstones = {key: kept for key, kept in namespace.tombstones.items() if key not in gone}
    changed: dict[int, SlotRights] = {}
    rights: dict[str, SlotRights] = {}
    for kind, old in namespace.rights.items():
        if id(old) not in changed:
            pending: dict[int, tuple[int, ...]] = {}
            for slot, waits_for in old.pending.items():
                kept = tuple(incarnation for incarnation in waits_for if incarnation not in gone)
                if kept:
                    pending[slot] = kept
            changed[id(old)] = old if pending == old.pending else evolve(old, pending=pending)
        rights[kind] = changed[id(old)]
    return _answered(namespace, evolve(namespace, tombstones=tombstones, rights=rights))


def raise_fences(namespace: NativeNamespace, command: RaiseFences) -> tuple[NativeNamespace, Answer]:
    """Rule S6: a new fence for slots whose `since` and fence are still the ones that were named."""
    fence = _next_fence(namespace, namespace.version.wire)

    def raised(table: SlotTable, rights: SlotRights, spans: tuple[FenceSpan, ...]) -> SlotRights:
        fences = list(rights.fences)
        for span in spans:
            for slot in range(span.first, span.first + span.count):
                if table.since[slot] == span.since and rights.fences[slot] == span.fence:
                    fences[slot] = fence
        return rights if tuple(fences) == rights.fences else evolve(rights, fences=tuple(fences))

    problem = _spans_problem(namespace, command.spans)
    if problem is not None:
        return namespace, Answer(AnswerCode.INVALID, detail=problem)
    after = _each_type(namespace, command.spans, raised)
    if after is not namespace:
        after = evolve(after, fence=fence)
    return _answered(namespace, after)


def _each_type(
    namespace: NativeNamespace,
    spans: Iterable[_Span],
    change: Callable[[SlotTable, SlotRights, tuple[_Span, ...]], SlotRights],
) -> NativeNamespace:
    """Apply `change` to the rights of each type that `spans` name; types that shared and change alike go on sharing."""
    by_type: dict[str, list[_Span]] = {}
    for span in spans:
        by_type.setdefault(span.actor_type, []).append(span)
    done: dict[tuple[object, ...], SlotRights] = {}
    rights = dict(namespace.rights)
    for kind, named in by_type.items():
        table, old = namespace.tables[kind], namespace.rights[kind]
        key = (id(table), id(old), tuple(evolve(span, actor_type="") for span in named))
        if key not in done:
            done[key] = change(table, old, tuple(named))
        rights[kind] = done[key]
    if all(rights[kind] is namespace.rights[kind] for kind in by_type):
        return namespace
    return evolve(namespace, rights=rights)


def _answered(before: NativeNamespace, after: NativeNamespace) -> tuple[NativeNamespace, Answer]:
    code = AnswerCode.UNCHANGED if after == before else AnswerCode.OK
    return (before if code is AnswerCode.UNCHANGED else after), Answer(code, after.version.wire)


# -- limits ----------------------------------------------------------------------------------------------


def _spans_problem(namespace: NativeNamespace, spans: tuple[SlotSpan, ...] | tuple[FenceSpan, ...]) -> str | None:
    if namespace.policy is not Policy.EXCLUSIVE:
        return f"a namespace of policy {namespace.policy.value} has no handoff"
    if len(spans) > SPANS_MAX:
        return f"{len(spans)} spans; the limit is {SPANS_MAX}"
    for span in spans:
        if span.actor_type not in namespace.rights:
            return f"no actor type {span.actor_type[:NAME_LENGTH_MAX]}"
        if span.first < 0 or span.count < 1 or span.first + span.count > namespace.slots:
            return f"slots {span.first} to {span.first + span.count - 1} are not within 0 to {namespace.slots - 1}"
    return None


def _batch_problem(command: CommitNativeBatch) -> str | None:
    if len(command.reason) > REASON_LENGTH_MAX:
        return f"reason has {len(command.reason)} characters; the limit is {REASON_LENGTH_MAX}"
    for mark in command.marks:
        if not 0 < len(mark.name) <= NAME_LENGTH_MAX:
            return f"host name of a mark must have 1 to {NAME_LENGTH_MAX} characters, not {len(mark.name)}"
        if mark.weight is not None and not 1 <= mark.weight <= WEIGHT_MAX:
            return f"weight {mark.weight} of host {mark.name} is not between 1 and {WEIGHT_MAX}"
    for host in command.upserts:
        problem = native_host_problem(host)
        if problem is not None:
            return problem
    return None


def native_host_problem(host: NativeHostRecord) -> str | None:
    """Why `host` cannot be a member, as one line naming field and value, or None if it can."""
    for what, text in (("name", host.name), ("address", host.address), ("process token", host.process)):
        if not 0 < len(text) <= NAME_LENGTH_MAX:
            return f"host {what} must have 1 to {NAME_LENGTH_MAX} characters, not {len(text)}"
    if len(host.store_id) > NAME_LENGTH_MAX:
        return f"store id of host {host.name} has {len(host.store_id)} characters; the limit is {NAME_LENGTH_MAX}"
    if host.name == FORMER_LIFE:
        return f"host name {host.name} is reserved"
    if not host.actor_types:
        return f"host {host.name} has no actor types; a program that hosts nothing is no member"
    if len(host.actor_types) > ACTOR_TYPES_PER_HOST_MAX:
        return f"host {host.name} has {len(host.actor_types)} actor types; the limit is {ACTOR_TYPES_PER_HOST_MAX}"
    for kind in host.actor_types:
        if not 0 < len(kind) <= NAME_LENGTH_MAX:
            return f"an actor type of host {host.name} has {len(kind)} characters; the limit is {NAME_LENGTH_MAX}"
    if list(host.actor_types) != sorted(set(host.actor_types)):
        return f"actor types of host {host.name} are not sorted and distinct"
    if len(host.labels) > LABELS_MAX or list(host.labels) != sorted(dict(host.labels).items()):
        return f"labels of host {host.name} must be sorted, distinct, and at most {LABELS_MAX}"
    if not 1 <= host.weight <= WEIGHT_MAX:
        return f"weight {host.weight} of host {host.name} is not between 1 and {WEIGHT_MAX}"
    labels = (text for pair in host.labels for text in pair)
    strings = (host.name, host.address, host.process, *host.actor_types, *labels, *filter(None, (host.store_id,)))
    size = 64 + sum(len(text.encode("utf-8", "surrogatepass")) + 3 for text in strings)
    if size > NATIVE_RECORD_BYTES_MAX:
        return f"host {host.name}, its actor types and labels take {size} bytes; the limit is {NATIVE_RECORD_BYTES_MAX}"
    return None


def _limit(namespace: NativeNamespace) -> str | None:
    kinds = {kind for member in namespace.members.values() for kind in member.host.actor_types}
    for what, count, limit in (
        ("members", len(namespace.members), NATIVE_MEMBERS_MAX),
        ("tombstones", len(namespace.tombstones), TOMBSTONES_MAX),
        ("marks", len(namespace.marks), MARKS_MAX),
        ("actor types", len(kinds | namespace.tables.keys()), ACTOR_TYPES_PER_NAMESPACE_MAX),
    ):
        if count > limit:
            return f"more than {limit} {what}"
    return None
