"""What operators change through the admin service. Only the leader does it, through the log.

From feature level 3 on the log also has the request's id, so that a repetition gets the first answer from whichever
leader. What this replica remembers by itself, for one office: answers to requests for which nothing went into the log,
because there was nothing to change; and below that level all.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog
from attrs import evolve

from callboard.consensus.interface import BarrierFailed, Engine, NotApplied, ProposalError
from callboard.core.commands import (
    Command,
    CommitNativeBatch,
    CreateNamespace,
    CreateNativeNamespace,
    DeleteNamespace,
    OperatorRequest,
    Removal,
)
from callboard.core.membership import (
    OPERATOR_LEVEL,
    REQUEST_DIGEST_BYTES,
    REQUEST_ID_LENGTH_MAX,
    operator_answer,
    reused_request_id,
)
from callboard.core.records import Answer, AnswerCode, ReplicatedState
from callboard.core.slot_records import SLOT_BITS_DEFAULT, HandoffSettings, HostMark, NativeNamespace
from callboard.core.versions import Policy
from callboard.protos.generated import admin_pb2
from callboard.server.native_views import settings_of
from callboard.server.settings import BARRIER_TIMEOUT_MS

log = structlog.get_logger(__name__)

ANSWERS_KEPT = 1024
"""In this replica's memory."""

Context = grpc.aio.ServicerContext[Any, Any]

STATUS_OF = {
    AnswerCode.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    AnswerCode.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    AnswerCode.UNSUPPORTED: grpc.StatusCode.FAILED_PRECONDITION,
    AnswerCode.LIMIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    AnswerCode.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    AnswerCode.STALE_EPOCH: grpc.StatusCode.UNAVAILABLE,
}


class OfficeView(Protocol):
    """The part of an office that changes need."""

    @property
    def epoch(self) -> int:
        """The leader epoch."""

    async def propose_at(self, command: Command, operator: OperatorRequest | None = None) -> tuple[Answer, int]:
        """Put a command into the log; its position is 0 if it is not known. Raises ProposalError."""


class ChangedReplica(Protocol):
    """What the handlers need of the replica."""

    @property
    def engine(self) -> Engine:
        """Its engine."""

    @property
    def office(self) -> OfficeView | None:
        """None while this replica is not in office."""

    @property
    def state(self) -> ReplicatedState:
        """The replicated state as applied here."""

    def leader_id(self) -> str | None:
        """Id of the replica that this one takes for the leader."""


class AdminChanges:
    """Handlers of the changing calls of callboard.admin.v1.Admin. `require_operator` aborts calls of others."""

    def __init__(
        self,
        replica: ChangedReplica,
        defaults: HandoffSettings,
        require_operator: Callable[[Context], Awaitable[None]],
    ) -> None:
        self._replica = replica
        self._defaults = defaults
        self._require_operator = require_operator
        self._answers: OrderedDict[tuple[int, str], tuple[OperatorRequest, admin_pb2.ChangeReply]] = OrderedDict()
        self._turn = asyncio.Lock()

    async def create_namespace(
        self, request: admin_pb2.CreateNamespaceRequest, context: Context
    ) -> admin_pb2.ChangeReply:
        """Create a namespace with its policy and times, for good."""

        def command(_: OfficeView) -> Command:
            try:
                policy = Policy(request.policy)
            except ValueError:
                choices = ", ".join(policy.value for policy in Policy)
                raise ValueError(f"policy {request.policy!r} is none of {choices}") from None
            if policy is Policy.BARRIER:
                return CreateNamespace(request.name, policy)
            settings = settings_of(request.times, self._defaults)
            problem = settings.creation_problem(policy)
            if problem is not None:
                raise ValueError(f"namespace {request.name}: {problem}")
            return CreateNativeNamespace(request.name, policy, request.slot_bits or SLOT_BITS_DEFAULT, settings)

        return await self._change(request, context, command)

    async def delete_namespace(
        self, request: admin_pb2.DeleteNamespaceRequest, context: Context
    ) -> admin_pb2.ChangeReply:
        """Delete a namespace in which nobody is."""

        def command(_: OfficeView) -> Command | admin_pb2.ChangeReply:
            state = self._replica.state
            known = request.name in state.namespaces or request.name in state.native
            if not known and (request.name in state.deleted_namespaces or request.name in state.deleted_native):
                return admin_pb2.ChangeReply(text=f"namespace {request.name} was deleted before")
            return DeleteNamespace(request.name)

        return await self._change(request, context, command)

    async def mark_host(self, request: admin_pb2.MarkHostRequest, context: Context) -> admin_pb2.ChangeReply:
        """Cordon, drain or weigh a host, whether or not it is a member now; or all members with certain labels, in one
        change of the tables, so that nothing moves from one of them to another."""

        def command(office: OfficeView) -> Command:
            namespace = self._namespace(request.namespace)
            names = _labelled(namespace, request) if request.labels else (request.host,)
            marks = tuple(_marked(namespace.marks.get(name, HostMark(name)), request) for name in names)
            return CommitNativeBatch(office.epoch, request.namespace, marks=marks)

        return await self._change(request, context, command)

    async def remove_host(self, request: admin_pb2.RemoveHostRequest, context: Context) -> admin_pb2.ChangeReply:
        """Remove the present incarnation of a host."""

        def command(office: OfficeView) -> Command | admin_pb2.ChangeReply:
            member = self._namespace(request.namespace).members.get(request.host)
            if member is None:
                return admin_pb2.ChangeReply(text=f"host {request.host} is no member")
            removal = Removal(request.host, member.incarnation)
            return CommitNativeBatch(office.epoch, request.namespace, removals=(removal,), reason="operator")

        return await self._change(request, context, command)

    def _namespace(self, name: str) -> NativeNamespace:
        namespace = self._replica.state.native.get(name)
        if namespace is None:
            what = "is for sidecars" if name in self._replica.state.namespaces else "does not exist"
            raise LookupError(f"namespace {name} {what}")
        return namespace

    async def _change(
        self, request: Any, context: Context, command_of: Callable[[OfficeView], Command | admin_pb2.ChangeReply]
    ) -> admin_pb2.ChangeReply:
        await self._require_operator(context)
        office = self._replica.office
        if office is None:
            leader = self._replica.leader_id() or "not known"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"only the leader can change this; it is {leader}")
        if len(request.request_id) > REQUEST_ID_LENGTH_MAX:
            text = f"request_id has {len(request.request_id)} characters; the limit is {REQUEST_ID_LENGTH_MAX}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        # One at a time: marks are read, changed and put into the log, and an answer is looked for before it is made.
        async with self._turn:
            return await self._change_in_turn(request, context, office, command_of)

    async def _change_in_turn(
        self,
        request: Any,
        context: Context,
        office: OfficeView,
        command_of: Callable[[OfficeView], Command | admin_pb2.ChangeReply],
    ) -> admin_pb2.ChangeReply:
        asked = _asked(request)
        if asked is not None:
            known = self._known(office, asked.request_id)
            if known is not None:
                if known[0] != asked:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, reused_request_id(asked.request_id))
                return known[1]
        reply = await self._carry_out(office, context, command_of, asked)
        log.info("operator's change", request=type(request).__name__, request_id=request.request_id, text=reply.text)
        if asked is not None and self._of_log(asked.request_id) is None:
            self._answers[office.epoch, asked.request_id] = (asked, reply)
            while len(self._answers) > ANSWERS_KEPT:
                self._answers.popitem(last=False)
        return reply

    def _known(self, office: OfficeView, request_id: str) -> tuple[OperatorRequest, admin_pb2.ChangeReply] | None:
        """Who asked first under this id, and the answer."""
        return self._of_log(request_id) or self._answers.get((office.epoch, request_id))

    def _of_log(self, request_id: str) -> tuple[OperatorRequest, admin_pb2.ChangeReply] | None:
        kept = operator_answer(self._replica.state, request_id)
        return None if kept is None else (OperatorRequest(request_id, kept.digest), _reply(kept.answer, kept.index))

    async def _carry_out(
        self,
        office: OfficeView,
        context: Context,
        command_of: Callable[[OfficeView], Command | admin_pb2.ChangeReply],
        asked: OperatorRequest | None,
    ) -> admin_pb2.ChangeReply:
        in_log = asked if self._replica.state.feature_level >= OPERATOR_LEVEL else None
        try:
            command = await self._command(office, command_of)
            if isinstance(command, admin_pb2.ChangeReply):
                return command
            answer, index = await office.propose_at(command, in_log)
        except LookupError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error.args[0]))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except (NotApplied, BarrierFailed) as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"nothing was changed: {error}")
        except ProposalError as error:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, f"whether it was changed is not known: {error}; it can be asked for again"
            )
        if not answer.succeeded:
            await context.abort(STATUS_OF.get(answer.code, grpc.StatusCode.UNKNOWN), answer.detail)
        known = self._of_log(in_log.request_id) if in_log is not None else None
        return known[1] if known is not None else _reply(answer, index)

    async def _command(
        self, office: OfficeView, command_of: Callable[[OfficeView], Command | admin_pb2.ChangeReply]
    ) -> Command | admin_pb2.ChangeReply:
        """What to put into the log; or the answer if nothing has to be, by a state that is surely not old: this replica
        may be deposed without knowing it.

        Raises:
            LookupError, ValueError: as `command_of` does.
            BarrierFailed: without a quorum nobody can say that nothing has to be done.
        """
        with suppress(LookupError):
            command = command_of(office)
            if not isinstance(command, admin_pb2.ChangeReply):
                return command
        await self._replica.engine.barrier(timeout_ms=BARRIER_TIMEOUT_MS)
        return command_of(office)


def _asked(request: Any) -> OperatorRequest | None:
    """The request as it is remembered, if it has an id."""
    if not request.request_id:
        return None
    content = type(request).__name__.encode() + b"\0" + request.SerializeToString(deterministic=True)
    return OperatorRequest(request.request_id, hashlib.blake2b(content, digest_size=REQUEST_DIGEST_BYTES).digest())


def _reply(answer: Answer, index: int) -> admin_pb2.ChangeReply:
    return admin_pb2.ChangeReply(
        changed=answer.code is AnswerCode.OK or bool(answer.detail),
        version=answer.number,
        text=answer.detail,
        applied_index=index,
    )


def _labelled(namespace: NativeNamespace, request: admin_pb2.MarkHostRequest) -> tuple[str, ...]:
    """Members with all labels that the request names. Raises ValueError, LookupError."""
    if request.host:
        raise ValueError(f"host {request.host} and labels are both given; one of them is needed")
    wanted = set(request.labels.items())
    names = tuple(name for name, member in namespace.members.items() if wanted <= set(member.host.labels))
    if not names:
        text = ", ".join(f"{key}={value}" for key, value in sorted(wanted))
        raise LookupError(f"no member of namespace {request.namespace} has labels {text}")
    return names


def _marked(mark: HostMark, request: admin_pb2.MarkHostRequest) -> HostMark:
    """The mark with what the request gives."""
    if request.HasField("cordoned"):
        mark = evolve(mark, cordoned=request.cordoned)
    if request.HasField("draining"):
        mark = evolve(mark, draining=request.draining)
    if request.HasField("weight"):
        mark = evolve(mark, weight=request.weight or None)
    return mark
