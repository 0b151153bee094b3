"""Calling actors: finds the owner in the local table, calls it here or by gRPC, and retries what surely did not run."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
from attrs import define, field, frozen

from callboard.core.slot_records import slot_of
from callboard.core.table_delta import HostEntry, TableView
from callboard.host.actors import (
    NO_CHAIN,
    PAYLOAD_BYTES_MAX,
    Actor,
    ActorType,
    Chain,
    current_chain,
    current_deadline_ms,
)
from callboard.host.errors import (
    ActorFailedError,
    BadCallError,
    BusyError,
    CallError,
    NotOwnerError,
    NotServedError,
    OutcomeUnknownError,
    ReentrancyError,
)
from callboard.protos.generated import actors_pb2

INVOKE = "/callboard.actors.v1.Actors/Invoke"
MESSAGE_BYTES_MAX = PAYLOAD_BYTES_MAX + 64 * 1024
HINTS_MAX = 10_000
NEVER_CONNECTED = "failed to connect to all addresses"
"""What gRPC says when the request surely did not leave."""

A = TypeVar("A", bound=Actor)
LocalCall = Callable[..., Awaitable[bytes]]
RemoteCall: TypeAlias = "grpc.aio.UnaryUnaryCall[Any, Any]"


class Tables(Protocol):
    """Where the client looks actors up: a host's session, or a watch."""

    @property
    def view(self) -> TableView | None:
        """The newest table; None before the first."""

    @property
    def trouble(self) -> str:
        """Why there is no table, as far as it is known."""

    async def changed(self, timeout_s: float) -> None:
        """Until another table is installed, or the time is over."""


@frozen
class CallSettings:
    """`timeout_ms`: of a call that does not say otherwise. `pause_ms`: before a definite failure is tried again.
    `gone_ms`: how long an answer of a host that left the table may still take before its outcome counts as unknown.
    `dial`: other addresses to dial hosts at than the tables say (proxies, address translation).
    """

    timeout_ms: int = 10_000
    pause_ms: int = 20
    pause_max_ms: int = 500
    gone_ms: int = 500
    dial: Mapping[str, str] = field(factory=dict)


@define
class CallFigures:
    """Counts of one client since its start. `healed`: calls that went where a NOT_OWNER answer sent them, because the
    table here was older."""

    local: int = 0
    remote: int = 0
    retried: int = 0
    healed: int = 0


@frozen
class _Hint:
    """Where a slot is by a table of `version`, newer than ours."""

    owner: HostEntry
    version: int


@define(eq=False)
class Client:
    """Calls actors of one namespace. `local_name`: the host that `local_call` runs actors of, if any."""

    namespace: str
    tables: Tables
    clock: Callable[[], int]
    settings: CallSettings = field(factory=CallSettings)
    credentials: grpc.ChannelCredentials | None = None
    local_incarnation: Callable[[], int] = lambda: 0
    local_call: LocalCall | None = None
    figures: CallFigures = field(factory=CallFigures)
    _channels: dict[str, grpc.aio.Channel] = field(factory=dict)
    _outstanding: dict[HostEntry, set[RemoteCall]] = field(factory=dict)
    _gone: dict[HostEntry, asyncio.TimerHandle] = field(factory=dict)
    _closing: set[asyncio.Task[None]] = field(factory=set)
    _types: dict[type[Actor], ActorType] = field(factory=dict)
    _hints: dict[tuple[str, int], _Hint] = field(factory=dict)

    def actor(self, actor_class: type[A], actor_id: str, *, timeout_ms: int | None = None) -> A:
        """A reference to one actor, to be used like the actor itself: its methods are calls.

        Raises:
            BadCallError: an empty id.
        """
        if not actor_id:
            raise BadCallError(f"an actor of type {actor_class.__name__} needs an id that is not empty")
        if actor_class not in self._types:
            self._types[actor_class] = ActorType.of(actor_class)
        return cast("A", _Reference(self, self._types[actor_class], actor_id, timeout_ms))

    def owner(self, actor_type: str, actor_id: str) -> HostEntry | None:
        """Who owns the actor by the local table; None if nobody does."""
        view = self.tables.view
        if view is None:
            return None
        table = view.tables.get(actor_type)
        return None if table is None else view.hosts.get(table.owners[slot_of(actor_type, actor_id, view.slot_bits)])

    async def call(
        self, actor_type: str, actor_id: str, method: str, arguments: bytes, *, timeout_ms: int | None = None
    ) -> bytes:
        """One call with encoded arguments; returns the encoded result.

        Definite failures are tried again until the deadline, others never (`DefiniteOrUnknown`). The deadline of a call
        that an actor makes in its turn is at most that of the call that the turn is for.

        Raises:
            CallError: of the kind that says whether it may have run.
        """
        chain = current_chain.get()
        deadline_ms = self.clock() + (self.settings.timeout_ms if timeout_ms is None else timeout_ms)
        outer_ms = current_deadline_ms.get()
        if outer_ms is not None:
            deadline_ms = min(deadline_ms, outer_ms)
        pause_ms, last = self.settings.pause_ms, NotServedError("")
        while True:
            view = self.tables.view
            owner = self._hinted(actor_type, actor_id) or self.owner(actor_type, actor_id)
            try:
                if owner is not None:
                    return await self._attempt(
                        owner,
                        actor_type=actor_type,
                        actor_id=actor_id,
                        method=method,
                        arguments=arguments,
                        deadline_ms=deadline_ms,
                        chain=chain,
                    )
            except (NotOwnerError, NotServedError) as error:
                last = NotServedError(str(error))
                self.figures.retried += 1
                if isinstance(error, NotOwnerError) and self._heeds(error, owner, actor_type, actor_id):
                    continue
            left_ms = deadline_ms - self.clock()
            if left_ms <= 0:
                raise last if str(last) else self._nobody(actor_type)
            if self.tables.view is view:
                await self.tables.changed(min(pause_ms, left_ms) / 1000)
            pause_ms = min(2 * pause_ms, self.settings.pause_max_ms)

    def _nobody(self, actor_type: str) -> NotServedError:
        if self.tables.view is None:
            return NotServedError(f"no table of namespace {self.namespace} yet: {self.tables.trouble}")
        return NotServedError(f"nobody hosts actor type {actor_type}")

    def _hinted(self, actor_type: str, actor_id: str) -> HostEntry | None:
        """Who has the actor by a newer table than ours, if a host told us."""
        view = self.tables.view
        if not self._hints or view is None:
            return None
        hint = self._hints.get((actor_type, slot_of(actor_type, actor_id, view.slot_bits)))
        return None if hint is None or hint.version <= view.version else hint.owner

    def _heeds(self, error: NotOwnerError, asked: HostEntry | None, actor_type: str, actor_id: str) -> bool:
        """Whether the answer names another owner, by a table newer than what we know of the slot: go there at once."""
        view = self.tables.view
        if error.owner is None or view is None or error.version <= view.version:
            return False
        if asked is not None and asked.incarnation == error.owner.incarnation:
            return False
        key = (actor_type, slot_of(actor_type, actor_id, view.slot_bits))
        known = self._hints.get(key)
        if known is not None and error.version <= known.version:
            return False
        if len(self._hints) >= HINTS_MAX:
            self._hints.clear()
        self._hints[key] = _Hint(error.owner, error.version)
        self.figures.healed += 1
        return True

    async def _attempt(
        self,
        owner: HostEntry,
        *,
        actor_type: str,
        actor_id: str,
        method: str,
        arguments: bytes,
        deadline_ms: int,
        chain: Chain,
    ) -> bytes:
        if self.local_call is not None and owner.incarnation == self.local_incarnation():
            self.figures.local += 1
            return await self.local_call(actor_type, actor_id, method, arguments, deadline_ms=deadline_ms, chain=chain)
        self.figures.remote += 1
        request = actors_pb2.InvokeRequest(
            namespace=self.namespace,
            actor_type=actor_type,
            actor_id=actor_id,
            method=method,
            arguments=arguments,
            chain_id=chain.chain_id,
            depth=chain.depth,
            path=chain.path,
            version=self.tables.view.version if self.tables.view is not None else 0,
        )
        call: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = self._channel(owner.address).unary_unary(
            INVOKE,
            request_serializer=actors_pb2.InvokeRequest.SerializeToString,
            response_deserializer=actors_pb2.InvokeReply.FromString,
        )
        reply = await self._answer(owner, call(request, timeout=max(0.001, (deadline_ms - self.clock()) / 1000)))
        if reply.HasField("result"):
            return cast("bytes", reply.result)
        raise failure_error(reply.failure)

    async def _answer(self, owner: HostEntry, call: RemoteCall) -> Any:
        outstanding = self._outstanding.setdefault(owner, set())
        outstanding.add(call)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise _failed(error, owner) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not the caller gave up, but `follow`.
            raise OutcomeUnknownError(f"host {owner.name} at {owner.address} left while it ran the call") from None
        finally:
            outstanding.discard(call)
            if not outstanding and self._outstanding.get(owner) is outstanding:
                del self._outstanding[owner]

    def follow(self, view: TableView) -> None:
        """Another table is installed: soon give up what is left of hosts that are not in it.

        A host that leaves in order has sent its answers by then; one that was given up may be frozen, and its callers
        would wait for their deadline.
        """
        self._hints = {key: hint for key, hint in self._hints.items() if hint.version > view.version}
        here = [*view.hosts.values(), *(hint.owner for hint in self._hints.values())]
        stay, addresses = {entry.incarnation for entry in here}, {entry.address for entry in here}
        for owner in [each for each in self._outstanding if each.incarnation not in stay and each not in self._gone]:
            timer = asyncio.get_running_loop().call_later(self.settings.gone_ms / 1000, self._give_up, owner)
            self._gone[owner] = timer
        for address in self._channels.keys() - addresses:
            channel = self._channels.pop(address)
            task = asyncio.ensure_future(channel.close(grace=2 * self.settings.gone_ms / 1000))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _give_up(self, owner: HostEntry) -> None:
        self._gone.pop(owner, None)
        for call in tuple(self._outstanding.get(owner, ())):
            call.cancel()

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            options = [
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ]
            dialled = self.settings.dial.get(address, address)
            self._channels[address] = (
                grpc.aio.insecure_channel(dialled, options)
                if self.credentials is None
                else grpc.aio.secure_channel(dialled, self.credentials, options)
            )
        return self._channels[address]

    async def close(self) -> None:
        """Idempotent."""
        for timer in self._gone.values():
            timer.cancel()
        self._gone.clear()
        while self._channels:
            await self._channels.popitem()[1].close()
        await asyncio.gather(*self._closing)


class _Reference:
    """Stands for an actor: attributes that are its methods make calls."""

    def __init__(self, client: Client, kind: ActorType, actor_id: str, timeout_ms: int | None) -> None:
        self._client = client
        self._kind = kind
        self._actor_id = actor_id
        self._timeout_ms = timeout_ms

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        called = self._kind.methods.get(name)
        if called is None:
            raise AttributeError(f"actor type {self._kind.name} has no method {name!r}")

        @functools.wraps(called.function)
        async def call(*arguments: Any, **keywords: Any) -> Any:
            payload = called.encode_arguments(arguments, keywords)
            result = await self._client.call(
                self._kind.name, self._actor_id, name, payload, timeout_ms=self._timeout_ms
            )
            return called.decode_result(result)

        return call

    def __repr__(self) -> str:
        return f"<reference to actor {self._kind.name}/{self._actor_id}>"


def _failed(error: grpc.aio.AioRpcError, owner: HostEntry) -> CallError:
    """What gRPC's own failures mean."""
    text = f"host {owner.name} at {owner.address}: {error.code().name}: {error.details()}"
    if error.code() is grpc.StatusCode.UNAVAILABLE and NEVER_CONNECTED in (error.details() or ""):
        return NotServedError(text)
    if error.code() in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}:
        return BadCallError(text)
    return OutcomeUnknownError(text)


_ERRORS: dict[int, type[CallError]] = {
    actors_pb2.Failure.NOT_SERVED: NotServedError,
    actors_pb2.Failure.BUSY: BusyError,
    actors_pb2.Failure.BAD_CALL: BadCallError,
    actors_pb2.Failure.REENTRANCY: ReentrancyError,
}


def failure_error(failure: actors_pb2.Failure) -> CallError:
    """The error that a failure on the wire stands for."""
    if failure.kind == actors_pb2.Failure.NOT_OWNER:
        owner = HostEntry(failure.owner, failure.owner_name, failure.owner_address) if failure.owner else None
        return NotOwnerError(failure.text, failure.version, owner)
    if failure.kind == actors_pb2.Failure.ACTOR_FAILED:
        return ActorFailedError(failure.error_type, failure.text)
    return _ERRORS.get(failure.kind, OutcomeUnknownError)(failure.text)


def failure_message(error: CallError) -> actors_pb2.Failure:
    """The inverse of `failure_error`."""
    if isinstance(error, NotOwnerError):
        failure = actors_pb2.Failure(kind=actors_pb2.Failure.NOT_OWNER, text=str(error), version=error.version)
        if error.owner is not None:
            failure.owner, failure.owner_name = error.owner.incarnation, error.owner.name
            failure.owner_address = error.owner.address
        return failure
    if isinstance(error, ActorFailedError):
        kind = actors_pb2.Failure.ACTOR_FAILED
        return actors_pb2.Failure(kind=kind, text=error.text, error_type=error.error_type)
    for number, error_class in _ERRORS.items():
        if isinstance(error, error_class):
            return actors_pb2.Failure(kind=cast("Any", number), text=str(error))
    return actors_pb2.Failure(kind=actors_pb2.Failure.UNKNOWN_OUTCOME, text=str(error))


def chain_of(request: actors_pb2.InvokeRequest) -> Chain:
    """The chain that a request continues."""
    return Chain(request.chain_id, request.depth, tuple(request.path)) if request.chain_id else NO_CHAIN


class Changes:
    """Something that changes, and those who wait for it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all who wait."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Until the next `notify`, or the time is over."""
        event = self._event
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass
