"""Bugs of the replicated state machine."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from callboard.core import membership, snapshot
from callboard.core.commands import CommitBatch, Removal
from callboard.core.records import Answer, AnswerCode, ReplicatedState, Session
from harness.seeded_bugs.registry import Bug, Registrar

BUGS: list[Bug] = []
bug = Registrar(BUGS)


@bug("ApplyOnce", origin="Akka.NET #3455: a replayed allocation is applied twice")
def answers_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A repeated command is carried out again."""
    patch.setattr(membership, "_repetition", lambda _state, _identity: None)


@bug("ApplyOnce")
def forgotten_requests_run_again(patch: pytest.MonkeyPatch) -> None:
    """A repetition whose answer was forgotten is taken for a new request."""
    original = membership._repetition

    def repetition(state: ReplicatedState, identity: Any) -> Answer | None:
        answer = original(state, identity)
        return None if answer is not None and answer.code is AnswerCode.STALE_REQUEST else answer

    patch.setattr(membership, "_repetition", repetition)


@bug("ApplyOnce")
def expired_sessions_come_back(patch: pytest.MonkeyPatch) -> None:
    """A command of an expired session opens it again instead of being refused."""
    original = membership.apply

    def apply(state: ReplicatedState, index: int, request: Any) -> tuple[ReplicatedState, Answer]:
        number = request.request_id.session
        if 0 < number < state.next_session and number not in state.sessions:
            state = evolve(state, sessions={**state.sessions, number: Session(state.entries_applied)})
        return original(state, index, request)

    patch.setattr(membership, "apply", apply)


@bug("ApplyOnce")
def operators_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """An operator's request that is repeated at another leader is carried out again."""
    patch.setattr(membership, "operator_answer", lambda _state, _request_id: None)


@bug("ApplyOnce")
def any_request_of_an_id_is_the_first(patch: pytest.MonkeyPatch) -> None:
    """Another request under the id of an earlier one gets that one's answer, although nothing was done for it."""
    original = membership._execute_asked

    def execute_asked(state: ReplicatedState, request: Any) -> tuple[ReplicatedState, Answer]:
        known = None if request.operator is None else membership.operator_answer(state, request.operator.request_id)
        return original(state, request) if known is None else (state, known.answer)

    patch.setattr(membership, "_execute_asked", execute_asked)


@bug("GenerationExact")
def version_always_rises(patch: pytest.MonkeyPatch) -> None:
    """The version rises although no table changed."""
    patch.setattr(membership, "_tables_differ", lambda _before, _after: True)


@bug("GenerationExact", "TableAgreement")
def version_never_rises(patch: pytest.MonkeyPatch) -> None:
    """The version stays although a table changed."""
    patch.setattr(membership, "_tables_differ", lambda _before, _after: False)


@bug("GenerationExact")
def floor_is_lost(patch: pytest.MonkeyPatch) -> None:
    """A namespace that is deleted and created again starts with versions that were used before."""
    original = membership._delete_namespace

    def mutant(state: ReplicatedState, command: Any) -> tuple[ReplicatedState, Answer]:
        state, answer = original(state, command)
        return evolve(state, deleted_namespaces={}), answer

    patch.setattr(membership, "_delete_namespace", mutant)


@bug("GenerationExact")
def generation_keeps_counters(patch: pytest.MonkeyPatch) -> None:
    """After a restore, versions go on in the old generation."""

    def mutant(state: ReplicatedState, command: Any) -> tuple[ReplicatedState, Answer]:
        return evolve(state, generation=command.generation), Answer(AnswerCode.OK, command.generation)

    patch.setattr(membership, "_raise_generation", mutant)


@bug("LinearizableMembership", origin="Akka #28093: a deposed coordinator's late write takes effect")
def any_epoch_may_write(patch: pytest.MonkeyPatch) -> None:
    """A deposed leader's batch takes effect."""
    patch.setattr(membership, "_refuse_epoch", lambda _state, _epoch: None)


@bug("LinearizableMembership", origin="Dapr #3023: a late removal hits the restarted host")
def removal_ignores_incarnation(patch: pytest.MonkeyPatch) -> None:
    """A late removal hits a newer incarnation."""
    original = membership._commit_batch

    def mutant(state: ReplicatedState, command: CommitBatch) -> tuple[ReplicatedState, Answer]:
        namespace = state.namespaces.get(command.namespace)
        present = namespace.members if namespace else {}
        removals = tuple(
            Removal(removal.name, present[removal.name].incarnation)
            for removal in command.removals
            if removal.name in present
        )
        return original(state, evolve(command, removals=removals))

    patch.setattr(membership, "_commit_batch", mutant)


@bug("LinearizableMembership")
def incarnations_start_again(patch: pytest.MonkeyPatch) -> None:
    """An incarnation is issued twice."""
    original = membership._commit_batch

    def mutant(state: ReplicatedState, command: CommitBatch) -> tuple[ReplicatedState, Answer]:
        return original(evolve(state, next_incarnation=1), command)

    patch.setattr(membership, "_commit_batch", mutant)


@bug("LinearizableMembership")
def restored_epochs_start_again(patch: pytest.MonkeyPatch) -> None:
    """After a restore, epochs of the former life are used again."""
    original = membership._begin_restore

    def mutant(state: ReplicatedState, command: Any) -> tuple[ReplicatedState, Answer]:
        after, answer = original(state, command)
        return (evolve(after, epoch=state.epoch) if after is not state else after), answer

    patch.setattr(membership, "_begin_restore", mutant)


@bug("DurableMembership", "ReplicaAgreement", "ApplyOnce")
def snapshot_loses_sessions(patch: pytest.MonkeyPatch) -> None:
    """A replica that restarts from a snapshot has forgotten who asked for what."""
    original = snapshot.encode_state
    patch.setattr(snapshot, "encode_state", lambda state: original(evolve(state, sessions={})))


@bug("ReplicaAgreement", origin="Orleans #9855: nodes compute different hash codes")
def state_depends_on_the_replica(patch: pytest.MonkeyPatch) -> None:
    """What a command does depends on when the replica last started from a snapshot."""
    started: list[int] = []
    decode, original = snapshot.decode_state, membership._take_office

    def decode_state(data: bytes) -> ReplicatedState:
        started.append(1)
        return decode(data)

    def take_office(state: ReplicatedState, command: Any) -> tuple[ReplicatedState, Answer]:
        after, answer = original(state, command)
        return (evolve(after, epoch_holder=f"{after.epoch_holder}#{len(started)}") if started else after), answer

    patch.setattr(snapshot, "decode_state", decode_state)
    patch.setattr(membership, "_take_office", take_office)
