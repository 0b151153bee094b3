"""The replicated state machine: `apply` maps a state, a log position and a request to the next state and an answer.

Which commands raise a namespace's version (`GenerationExact`):

    ============================ =====================================================================
    OpenSession, TakeOffice      never
    CreateNamespace,             never: it starts at (generation, 0), or at the floor of a deleted one
    CreateNativeNamespace
    DeleteNamespace              never: the floor is kept
    CommitBatch                  by one if a table changes, else not at all
    RepeatRound                  by one
    RaiseGeneration              every namespace, to (generation, 1)
    BeginRestore                 never: there are no namespaces yet
    RaiseFeatureLevel            never
    CommitNativeBatch            by one if a member or a slot's owner changes, else not at all
    ConfirmClear, Bury           never
    RaiseFences                  never: fences are no part of the tables that hosts install
    ConfirmEpoch                 never
    ============================ =====================================================================

Apply is total and deterministic: whatever the bytes, every replica gives the same answer. The one exception is a
command or level of a newer callboard: `UnknownCommandError` and `UnknownFeatureLevelError` tell the replica to stop.
"""

from __future__ import annotations

from typing import assert_never

from attrs import evolve

from callboard.core import slot_membership
from callboard.core.commands import (
    NO_SESSION,
    BeginRestore,
    Bury,
    CommitBatch,
    CommitNativeBatch,
    ConfirmClear,
    ConfirmEpoch,
    CreateNamespace,
    CreateNativeNamespace,
    DeleteNamespace,
    OpenSession,
    RaiseFeatureLevel,
    RaiseFences,
    RaiseGeneration,
    RepeatRound,
    Request,
    RequestId,
    TakeOffice,
)
from callboard.core.records import (
    Answer,
    AnswerCode,
    HostRecord,
    Member,
    Namespace,
    OperatorAnswer,
    ReplicatedState,
    Session,
)
from callboard.core.versions import MAX_GENERATION, Policy, Version

KNOWN_FEATURE_LEVEL = 3
"""The newest feature level that this code implements."""

OPERATOR_LEVEL = 3
"""The feature level from which answers to operators' requests are kept."""
OPERATOR_ANSWERS_MAX = 1024
"""Answers to operators' requests that are kept; then the oldest go."""
REQUEST_ID_LENGTH_MAX = 64
REQUEST_DIGEST_BYTES = 16

SESSIONS_MAX = 1024
SESSION_IDLE_ENTRIES = 100_000
"""A session that no command used for this many log entries may be expired."""
ANSWERS_PER_SESSION_MAX = 256
NAMESPACES_MAX = 1024
MEMBERS_PER_NAMESPACE_MAX = 20_000
NAME_LENGTH_MAX = 255
"""In characters; of hosts, namespaces, application ids and actor types."""
ACTOR_TYPES_PER_HOST_MAX = 1000
HOST_RECORD_BYTES_MAX = 32 * 1024
"""Of all strings of one host record in UTF-8: one host always fits one log entry of any engine."""


class UnknownFeatureLevelError(ValueError):
    """The log or snapshot needs a feature level that this replica does not know: it must stop."""


def apply(state: ReplicatedState, index: int, request: Request) -> tuple[ReplicatedState, Answer]:
    """The state after the request at log position `index`, and its answer.

    Positions must rise; an entry at or below `state.applied_index` is skipped (it was applied before).

    Raises:
        UnknownFeatureLevelError: the request raises the level beyond `KNOWN_FEATURE_LEVEL`.
    """
    if index <= state.applied_index:
        return state, Answer(AnswerCode.STALE_REQUEST, detail=f"position {index} was applied before")
    state = state.at(index)
    identity = request.request_id
    if identity.session == NO_SESSION:
        return _execute_asked(state, request)
    repeated = _repetition(state, identity)
    if repeated is not None:
        return state, repeated
    state, answer = _execute_asked(state, request)
    return _remember(state, identity, answer), answer


def operator_answer(state: ReplicatedState, request_id: str) -> OperatorAnswer | None:
    """What the first request with this id was answered, if that is still kept."""
    return next((kept for kept in reversed(state.operator_answers) if kept.request_id == request_id), None)


def reused_request_id(request_id: str) -> str:
    """One line for whoever used an id twice."""
    return f"request_id {request_id} was used for another request"


def _execute_asked(state: ReplicatedState, request: Request) -> tuple[ReplicatedState, Answer]:
    """An operator's request with a known id gets the first answer. What was refused may be asked for again."""
    asked = request.operator
    if asked is None:
        return _execute(state, request)
    if state.feature_level < OPERATOR_LEVEL:
        detail = f"operators' requests in the log need feature level {OPERATOR_LEVEL}, not {state.feature_level}"
        return state, Answer(AnswerCode.UNSUPPORTED, detail=detail)
    if not 0 < len(asked.request_id) <= REQUEST_ID_LENGTH_MAX or len(asked.digest) != REQUEST_DIGEST_BYTES:
        detail = (
            f"request_id must have 1 to {REQUEST_ID_LENGTH_MAX} characters, its digest {REQUEST_DIGEST_BYTES} bytes"
        )
        return state, Answer(AnswerCode.INVALID, detail=detail)
    known = operator_answer(state, asked.request_id)
    if known is not None:
        if known.digest != asked.digest:
            return state, Answer(AnswerCode.INVALID, detail=reused_request_id(asked.request_id))
        return state, known.answer
    state, answer = _execute(state, request)
    if not answer.succeeded:
        return state, answer
    kept = OperatorAnswer(asked.request_id, asked.digest, state.applied_index, answer)
    return evolve(state, operator_answers=(*state.operator_answers, kept)[-OPERATOR_ANSWERS_MAX:]), answer


def _repetition(state: ReplicatedState, identity: RequestId) -> Answer | None:
    """The answer for a request that must not be executed (again), or None if it is new."""
    session = state.sessions.get(identity.session)
    if session is None:
        return Answer(AnswerCode.EXPIRED_SESSION, detail=f"session {identity.session} is not open")
    if identity.sequence in session.answers:
        return session.answers[identity.sequence]
    if identity.sequence < session.forgotten_below:
        return Answer(AnswerCode.STALE_REQUEST, detail=f"request {identity.sequence} was answered and forgotten")
    return None


def _remember(state: ReplicatedState, identity: RequestId, answer: Answer) -> ReplicatedState:
    session = state.sessions[identity.session]
    answers = {**session.answers, identity.sequence: answer}
    forgotten_below = max(session.forgotten_below, min(identity.acknowledged_below, identity.sequence))
    answers = {sequence: kept for sequence, kept in sorted(answers.items()) if sequence >= forgotten_below}
    while len(answers) > ANSWERS_PER_SESSION_MAX:
        lowest = next(iter(answers))
        del answers[lowest]
        forgotten_below = lowest + 1
    session = Session(state.entries_applied, forgotten_below, answers)
    return evolve(state, sessions={**state.sessions, identity.session: session})


def _execute(state: ReplicatedState, request: Request) -> tuple[ReplicatedState, Answer]:
    match request.command:
        case OpenSession():
            return _open_session(state)
        case TakeOffice() as command:
            return _take_office(state, command)
        case CreateNamespace() as command:
            return _create_namespace(state, command)
        case CreateNativeNamespace() as command:
            return _create_native_namespace(state, command)
        case DeleteNamespace() as command:
            return _delete_namespace(state, command)
        case CommitBatch() as command:
            return _commit_batch(state, command)
        case RepeatRound() as command:
            return _repeat_round(state, command)
        case RaiseGeneration() as command:
            return _raise_generation(state, command)
        case BeginRestore() as command:
            return _begin_restore(state, command)
        case RaiseFeatureLevel() as command:
            return _raise_feature_level(state, command)
        case CommitNativeBatch() | ConfirmClear() | Bury() | RaiseFences() as command:
            return _of_native_namespace(state, command)
        case ConfirmEpoch() as command:
            return state, _refuse_epoch(state, command.epoch) or Answer(AnswerCode.OK, state.epoch)
        case unreachable:
            assert_never(unreachable)


def _open_session(state: ReplicatedState) -> tuple[ReplicatedState, Answer]:
    number = state.next_session
    oldest_use_kept = state.entries_applied - SESSION_IDLE_ENTRIES
    kept = sorted((s.last_used_entry, k) for k, s in state.sessions.items() if s.last_used_entry >= oldest_use_kept)
    sessions = {key: state.sessions[key] for _, key in sorted(kept[-(SESSIONS_MAX - 1) :], key=lambda pair: pair[1])}
    sessions[number] = Session(state.entries_applied)
    return evolve(state, sessions=sessions, next_session=number + 1), Answer(AnswerCode.OK, number)


def _take_office(state: ReplicatedState, command: TakeOffice) -> tuple[ReplicatedState, Answer]:
    holder = f"{command.replica_id}/{command.nonce}"
    if state.epoch_holder == holder:
        return state, Answer(AnswerCode.UNCHANGED, state.epoch)
    epoch = state.epoch + 1
    return evolve(state, epoch=epoch, epoch_holder=holder), Answer(AnswerCode.OK, epoch)


def _create_namespace(state: ReplicatedState, command: CreateNamespace) -> tuple[ReplicatedState, Answer]:
    if not 0 < len(command.namespace) <= NAME_LENGTH_MAX:
        return state, Answer(AnswerCode.INVALID, detail=f"namespace name must have 1 to {NAME_LENGTH_MAX} characters")
    if command.policy is not Policy.BARRIER:
        detail = f"policy {command.policy.value} needs a later feature level than {state.feature_level}"
        return state, Answer(AnswerCode.UNSUPPORTED, detail=detail)
    taken = _name_taken(state, command.namespace, command.policy)
    if taken is not None:
        return state, taken
    floors = dict(state.deleted_namespaces)
    version = max(floors.pop(command.namespace, Version()), Version(state.generation, 0))
    if command.namespace in state.deleted_native:
        version = max(version, state.deleted_native[command.namespace].version)
    namespaces = {**state.namespaces, command.namespace: Namespace(command.policy, version)}
    state = evolve(state, namespaces=namespaces, deleted_namespaces=floors)
    return state, Answer(AnswerCode.OK, version.wire)


def _create_native_namespace(state: ReplicatedState, command: CreateNativeNamespace) -> tuple[ReplicatedState, Answer]:
    if state.feature_level < slot_membership.NATIVE_LEVEL:
        detail = f"native namespaces need feature level {slot_membership.NATIVE_LEVEL}, not {state.feature_level}"
        return state, Answer(AnswerCode.UNSUPPORTED, detail=detail)
    if not 0 < len(command.namespace) <= NAME_LENGTH_MAX:
        return state, Answer(AnswerCode.INVALID, detail=f"namespace name must have 1 to {NAME_LENGTH_MAX} characters")
    if command.policy is Policy.BARRIER:
        return state, Answer(AnswerCode.INVALID, detail="native namespaces have policy eventual or exclusive")
    taken = _name_taken(state, command.namespace, command.policy)
    return (state, taken) if taken is not None else slot_membership.create(state, command)


def _name_taken(state: ReplicatedState, name: str, policy: Policy) -> Answer | None:
    """The answer if the namespace exists already, or if there are too many."""
    existing = state.namespaces.get(name) or state.native.get(name)
    if existing is not None:
        if existing.policy is policy:
            return Answer(AnswerCode.UNCHANGED, existing.version.wire)
        return Answer(AnswerCode.CONFLICT, detail=f"namespace {name} exists with policy {existing.policy.value}")
    native_names = len(state.native) + len(state.deleted_native)
    if len(state.namespaces) + len(state.deleted_namespaces) + native_names >= NAMESPACES_MAX:
        return Answer(AnswerCode.LIMIT, detail=f"more than {NAMESPACES_MAX} namespaces")
    return None


def _delete_namespace(state: ReplicatedState, command: DeleteNamespace) -> tuple[ReplicatedState, Answer]:
    if command.namespace in state.native:
        return slot_membership.delete(state, command.namespace)
    existing = state.namespaces.get(command.namespace)
    if existing is None:
        return state, Answer(AnswerCode.NOT_FOUND, detail=f"no namespace {command.namespace}")
    if existing.members:
        detail = f"namespace {command.namespace} still has {len(existing.members)} members"
        return state, Answer(AnswerCode.CONFLICT, detail=detail)
    namespaces = {name: kept for name, kept in state.namespaces.items() if name != command.namespace}
    floors = {**state.deleted_namespaces, command.namespace: existing.version}
    state = evolve(state, namespaces=namespaces, deleted_namespaces=floors)
    return state, Answer(AnswerCode.OK, existing.version.wire)


def _commit_batch(state: ReplicatedState, command: CommitBatch) -> tuple[ReplicatedState, Answer]:
    refused = _refuse_epoch(state, command.epoch)
    if refused is not None:
        return state, refused
    namespace = state.namespaces.get(command.namespace)
    if namespace is None:
        return state, Answer(AnswerCode.NOT_FOUND, detail=f"no namespace {command.namespace}")
    for host in command.upserts:
        problem = host_problem(host)
        if problem is not None:
            return state, Answer(AnswerCode.INVALID, detail=problem)
    members = dict(namespace.members)
    for removal in command.removals:
        member = members.get(removal.name)
        if member is not None and member.incarnation == removal.incarnation:
            del members[removal.name]
    incarnation = state.next_incarnation
    for host in command.upserts:
        present = members.get(host.name)
        if present is None or present.host != host:
            members[host.name] = Member(host, incarnation)
            incarnation += 1
    if len(members) > MEMBERS_PER_NAMESPACE_MAX:
        return state, Answer(AnswerCode.LIMIT, detail=f"more than {MEMBERS_PER_NAMESPACE_MAX} members")
    if members == namespace.members:
        return state, Answer(AnswerCode.UNCHANGED, namespace.version.wire)
    changed = _tables_differ(namespace.members, members)
    version = namespace.version.next() if changed else namespace.version
    namespace = evolve(namespace, version=version, members=dict(sorted(members.items())))
    state = evolve(state, next_incarnation=incarnation, namespaces={**state.namespaces, command.namespace: namespace})
    return state, Answer(AnswerCode.OK if changed else AnswerCode.UNCHANGED, version.wire)


def _tables_differ(before: dict[str, Member], after: dict[str, Member]) -> bool:
    """Whether sidecars would compute other rings: who left and came back alike within a batch changes nothing."""
    return {name: member.host for name, member in before.items()} != {
        name: member.host for name, member in after.items()
    }


def _repeat_round(state: ReplicatedState, command: RepeatRound) -> tuple[ReplicatedState, Answer]:
    refused = _refuse_epoch(state, command.epoch)
    if refused is not None:
        return state, refused
    namespace = state.namespaces.get(command.namespace)
    if namespace is None:
        return state, Answer(AnswerCode.NOT_FOUND, detail=f"no namespace {command.namespace}")
    namespace = evolve(namespace, version=namespace.version.next())
    namespaces = {**state.namespaces, command.namespace: namespace}
    return evolve(state, namespaces=namespaces), Answer(AnswerCode.OK, namespace.version.wire)


def _raise_generation(state: ReplicatedState, command: RaiseGeneration) -> tuple[ReplicatedState, Answer]:
    if not state.generation < command.generation <= MAX_GENERATION:
        detail = f"generation {command.generation} is not above {state.generation} and at most {MAX_GENERATION}"
        return state, Answer(AnswerCode.INVALID, detail=detail)
    first = Version(command.generation, 1)
    namespaces = {name: evolve(namespace, version=first) for name, namespace in state.namespaces.items()}
    native = {name: slot_membership.raise_generation(kept, first) for name, kept in state.native.items()}
    state = evolve(state, generation=command.generation, namespaces=namespaces, native=native)
    return state, Answer(AnswerCode.OK, command.generation)


def _begin_restore(state: ReplicatedState, command: BeginRestore) -> tuple[ReplicatedState, Answer]:
    if state.restored_from == command.source:
        return state, Answer(AnswerCode.UNCHANGED, state.generation)
    if state.namespaces or state.native or state.restored_from:
        count = len(state.namespaces) + len(state.native)
        holds = f"{count} namespaces" if count else f"backup {state.restored_from}"
        return state, Answer(AnswerCode.CONFLICT, detail=f"only an empty cluster can be restored; this one has {holds}")
    if not state.generation < command.generation <= MAX_GENERATION:
        detail = f"generation {command.generation} is not above {state.generation} and at most {MAX_GENERATION}"
        return state, Answer(AnswerCode.INVALID, detail=detail)
    state = evolve(
        state,
        restored_from=command.source,
        generation=command.generation,
        epoch=max(state.epoch, command.epoch) + 1,
        epoch_holder="",
        next_incarnation=max(state.next_incarnation, command.next_incarnation),
    )
    return state, Answer(AnswerCode.OK, command.generation)


def _of_native_namespace(
    state: ReplicatedState, command: CommitNativeBatch | ConfirmClear | Bury | RaiseFences
) -> tuple[ReplicatedState, Answer]:
    namespace = state.native.get(command.namespace)
    if isinstance(command, CommitNativeBatch):
        refused = _refuse_epoch(state, command.epoch)
        if refused is not None:
            return state, refused
    if namespace is None:
        return state, Answer(AnswerCode.NOT_FOUND, detail=f"no native namespace {command.namespace}")
    match command:
        case CommitNativeBatch():
            return slot_membership.commit_batch(state, command)
        case ConfirmClear():
            after, answer = slot_membership.confirm_clear(namespace, command)
        case Bury():
            after, answer = slot_membership.bury(namespace, command)
        case RaiseFences():
            after, answer = slot_membership.raise_fences(namespace, command)
    if after is namespace:
        return state, answer
    return evolve(state, native={**state.native, command.namespace: after}), answer


def _raise_feature_level(state: ReplicatedState, command: RaiseFeatureLevel) -> tuple[ReplicatedState, Answer]:
    refused = _refuse_epoch(state, command.epoch)
    if refused is not None:
        return state, refused
    if command.level <= state.feature_level:
        return state, Answer(AnswerCode.UNCHANGED, state.feature_level)
    require_known_level(command.level)
    return evolve(state, feature_level=command.level), Answer(AnswerCode.OK, command.level)


def _refuse_epoch(state: ReplicatedState, epoch: int) -> Answer | None:
    """Commands of a deposed leader have no effect, however late they commit."""
    if epoch == state.epoch:
        return None
    return Answer(AnswerCode.STALE_EPOCH, state.epoch, f"epoch {epoch} is over; the current one is {state.epoch}")


def require_known_level(level: int) -> None:
    """Raise UnknownFeatureLevelError unless this code implements `level`."""
    if level > KNOWN_FEATURE_LEVEL:
        raise UnknownFeatureLevelError(
            f"the replicated state needs feature level {level}, but this callboard knows only up to "
            f"{KNOWN_FEATURE_LEVEL}: install a newer version on this replica"
        )


def host_problem(host: HostRecord) -> str | None:
    """Why `host` cannot be a member, as one line naming field and value, or None if it can."""
    if not 0 < len(host.name) <= NAME_LENGTH_MAX:
        return f"host name must have 1 to {NAME_LENGTH_MAX} characters, not {len(host.name)}"
    if len(host.app_id) > NAME_LENGTH_MAX:
        return f"application id of host {host.name} has {len(host.app_id)} characters; the limit is {NAME_LENGTH_MAX}"
    if not host.actor_types:
        return f"host {host.name} has no actor types; only hosts with actor types are members"
    if len(host.actor_types) > ACTOR_TYPES_PER_HOST_MAX:
        return f"host {host.name} has {len(host.actor_types)} actor types; the limit is {ACTOR_TYPES_PER_HOST_MAX}"
    for actor_type in host.actor_types:
        if not 0 < len(actor_type) <= NAME_LENGTH_MAX:
            return f"an actor type of host {host.name} has {len(actor_type)} characters; the limit is {NAME_LENGTH_MAX}"
    size = host_record_bytes(host)
    if size > HOST_RECORD_BYTES_MAX:
        return f"host {host.name} and its actor types take {size} bytes; the limit is {HOST_RECORD_BYTES_MAX}"
    if list(host.actor_types) != sorted(set(host.actor_types)):
        return f"actor types of host {host.name} are not sorted and distinct"
    return None


def host_record_bytes(host: HostRecord) -> int:
    """An upper bound of what `host` takes in a log entry."""
    strings = (host.name, host.app_id, host.process, *host.actor_types)
    return 64 + sum(len(text.encode("utf-8", "surrogatepass")) + 3 for text in strings)
