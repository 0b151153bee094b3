"""Clients that record what they do: each operation with how it ended, by the rules of `history.py` and NOTES.md."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
from attrs import Factory, asdict, define, field, frozen

from callboard.core.handoff_messages import NO_INCARNATION
from callboard.core.native_host_records import HostEffect, SendHello
from callboard.core.slot_records import HandoffSettings, NativeHostRecord
from callboard.core.table_delta import TableDelta, TableView
from callboard.core.versions import Policy
from callboard.host import ActorFailedError, CallError, CallSettings, Router
from callboard.host.client import NEVER_CONNECTED
from callboard.host.session import Reconnecting, Session
from callboard.protos import convert
from callboard.protos.generated import admin_pb2, host_pb2
from harness.faults.cluster import NAMESPACE, REGISTER, FaultCluster
from harness.faults.history import Outcome, Recorder
from harness.faults.workload_host import Journal, Tally
from harness.processes import ADMIN

LOOKUP = "/callboard.host.v1.Placement/Lookup"
CALL_TIMEOUT_MS = 4000
REQUEST_TIMEOUT_S = 4.0
SILENCE_MS = 3000
"""A stand-in tries another replica after that, so that it is soon a member again."""
NOT_DONE = ("only the leader can change this", "nothing was changed")
"""What a replica says that surely did not do what it was asked."""
REFUSED_BY_STORE = frozenset({"StaleFenceError", "VersionConflictError", "StoreUnavailableError"})
"""Errors of actors' methods that surely wrote nothing."""
CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class DidNotHappenError(Exception):
    """The operation surely had no effect."""


@frozen
class Answer:
    """The result of an operation, and the log position at which it took effect, if the service says so."""

    result: Any
    index: int | None = None


@define
class Caller:
    """One process of a history: one operation at a time."""

    recorder: Recorder
    _process: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._process = self.recorder.process()

    async def do(
        self, function: str, key: str, argument: Any, call: Callable[[str], Awaitable[Answer]]
    ) -> tuple[Outcome, Any]:
        """Record one operation around `call`, which is given its token."""
        number = self.recorder.invoke(self._process, function, key, argument)
        try:
            answer = await call(str(number))
        except DidNotHappenError as error:
            self.recorder.complete(number, Outcome.FAIL, error=str(error)[:200])
            return Outcome.FAIL, None
        except (CallError, grpc.aio.AioRpcError, TimeoutError) as error:
            self.recorder.complete(number, Outcome.INFO, error=_text(error))
            self._process = self.recorder.process()
            return Outcome.INFO, None
        self.recorder.complete(number, Outcome.OK, answer.result, index=answer.index)
        return Outcome.OK, answer.result


def _text(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"[:200]
    return f"{type(error).__name__}: {error}"[:200]


@define(eq=False)
class Channels:
    """One client end's connections to replicas."""

    cluster: FaultCluster
    source: str
    _open: dict[str, grpc.aio.Channel] = Factory(dict)

    def to(self, replica: str) -> grpc.aio.Channel:
        """The connection to a replica, made when it is first needed."""
        if replica not in self._open:
            address = self.cluster.dialled(self.source, replica)
            self._open[replica] = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        return self._open[replica]

    async def close(self) -> None:
        """Idempotent."""
        while self._open:
            await self._open.popitem()[1].close()


# -- actors ----------------------------------------------------------------------------------------------


async def called(call: Awaitable[Any]) -> Answer:
    """The answer of a call to an actor. Raises DidNotHappenError, or the CallError if its effect is not known."""
    try:
        return Answer(await call)
    except ActorFailedError as error:
        if error.error_type in REFUSED_BY_STORE:
            raise DidNotHappenError(str(error)) from None
        raise
    except CallError as error:
        if error.definite:
            raise DidNotHappenError(f"{type(error).__name__}: {error}") from None
        raise


class RecordingRouter(Router):
    """Says which tables it takes."""

    installed: Callable[[TableView], None]

    def _install(self, delta: TableDelta) -> None:
        super()._install(delta)
        if self.view is not None:
            self.installed(self.view)


@define(eq=False)
class ActorClient:
    """Calls actors from one client end."""

    cluster: FaultCluster
    source: str
    recorder: Recorder
    router: RecordingRouter = field(init=False)

    def __attrs_post_init__(self) -> None:
        calls = CallSettings(timeout_ms=CALL_TIMEOUT_MS, dial=self.cluster.host_addresses(self.source))
        addresses = ",".join(self.cluster.addresses(self.source))
        self.router = RecordingRouter(cluster=addresses, namespace=NAMESPACE, calls=calls)
        self.router.installed = self._installed

    def _installed(self, view: TableView) -> None:
        """What the caller itself goes by, over all its watches."""
        self.recorder.note(
            "table",
            namespace=NAMESPACE,
            host=f"caller-{self.source}",
            incarnation=1,
            version=view.version,
            digest=view.digest.hex(),
        )

    async def add(self, caller: Caller, actor_id: str, amount: int) -> Outcome:
        """Operation `add`."""
        actor = self.router.client.actor(Tally, actor_id)
        outcome, _ = await caller.do(
            "add", f"counter/{actor_id}", amount, lambda token: called(actor.add(amount, token))
        )
        return outcome

    async def append(
        self, caller: Caller, actor_id: str, value: int, *, hold_ms: int = 0, block_ms: int = 0
    ) -> Outcome:
        """Operation `append`, in a turn that takes `hold_ms` and computes for `block_ms`."""
        actor = self.router.client.actor(Journal, actor_id)
        outcome, _ = await caller.do(
            "append", f"list/{actor_id}", value, lambda token: called(actor.append(value, token, hold_ms, block_ms))
        )
        return outcome

    async def read(self, caller: Caller, key: str) -> tuple[Outcome, Any]:
        """Operation `read` of an actor's key."""
        kind, _, actor_id = key.partition("/")
        client = self.router.client

        async def call(token: str) -> Answer:
            try:
                if kind == "counter":
                    return await called(client.actor(Tally, actor_id).read(token))
                return await called(client.actor(Journal, actor_id).read(token))
            except CallError as error:  # reading has no effect
                raise DidNotHappenError(f"{type(error).__name__}: {error}") from None

        return await caller.do("read", key, None, call)


# -- members and lookups ---------------------------------------------------------------------------------


@define(eq=False)
class OperatorClient:
    """Changes and reads members through the admin service, and looks owners up."""

    channels: Channels
    replicas: list[str]
    _first: int = 0

    async def upsert(self, caller: Caller, name: str, weight: int) -> Outcome:
        """Operation `upsert`: at each replica, until one does it or may have done it."""
        request = admin_pb2.MarkHostRequest(namespace=REGISTER, host=name, weight=weight)

        async def call(_token: str) -> Answer:
            reply = await self._change("MarkHost", request)
            return Answer(None, reply.applied_index or None)

        outcome, _ = await caller.do("upsert", f"member/{name}", weight, call)
        return outcome

    async def remove(self, caller: Caller, name: str) -> Outcome:
        """Operation `remove`, at each replica as well."""
        request = admin_pb2.RemoveHostRequest(namespace=REGISTER, host=name)

        async def call(_token: str) -> Answer:
            reply = await self._change("RemoveHost", request)
            if not reply.changed:
                raise DidNotHappenError(reply.text or "it was no member")
            return Answer(None, reply.applied_index or None)

        outcome, _ = await caller.do("remove", f"member/{name}", None, call)
        return outcome

    async def _change(self, method: str, request: Any) -> admin_pb2.ChangeReply:
        """Ask one replica after the other, until one does it or may have done it. Raises DidNotHappenError, and
        AioRpcError if nobody knows."""
        last = ""
        for step in range(len(self.replicas)):
            number = (self._first + step) % len(self.replicas)
            try:
                answered = await self._ask(self.replicas[number], ADMIN + method, request)
            except grpc.aio.AioRpcError as error:
                last = _text(error)
                if not surely_not_done(error):
                    raise
                continue
            self._first = number
            return admin_pb2.ChangeReply.FromString(answered)
        raise DidNotHappenError(last)

    async def read(self, caller: Caller, name: str, replica: str) -> Outcome:
        """Operation `read` of a member: its weight, or None if it is no member."""
        request = admin_pb2.ListMembersRequest(namespace=REGISTER, linearizable=True)

        async def call(_token: str) -> Answer:
            try:
                reply = admin_pb2.ListMembersReply.FromString(await self._ask(replica, ADMIN + "ListMembers", request))
            except grpc.aio.AioRpcError as error:
                raise DidNotHappenError(_text(error)) from None
            found = [member.weight for member in reply.members if member.name == name]
            return Answer(found[0] if found else None, reply.applied_index)

        outcome, _ = await caller.do("read", f"member/{name}", None, call)
        return outcome

    async def lookup(
        self, caller: Caller, actor_type: str, actor_id: str, replica: str, *, linearizable: bool
    ) -> Outcome:
        """Operation `lookup`."""
        request = host_pb2.LookupRequest(
            namespace=NAMESPACE, actor_type=actor_type, actor_id=actor_id, linearizable=linearizable
        )

        async def call(_token: str) -> Answer:
            try:
                reply = host_pb2.LookupReply.FromString(await self._ask(replica, LOOKUP, request))
            except grpc.aio.AioRpcError as error:
                raise DidNotHappenError(_text(error)) from None
            result = {
                "version": reply.version,
                "incarnation": reply.incarnation,
                "name": reply.name,
                "granted": reply.granted,
                "slot": reply.slot,
            }
            return Answer(result, reply.applied_index)

        argument = {"linearizable": linearizable, "replica": replica}
        outcome, _ = await caller.do("lookup", f"lookup/{actor_type}/{actor_id}", argument, call)
        return outcome

    async def create_namespace(self, name: str, policy: Policy, slot_bits: int, times: HandoffSettings) -> None:
        """Make a native namespace. Raises grpc.aio.AioRpcError if no replica could."""
        wanted = {field: value for field, value in asdict(times).items() if isinstance(value, int)}
        request = admin_pb2.CreateNamespaceRequest(
            name=name, policy=policy.value, slot_bits=slot_bits, times=admin_pb2.HandoffTimes(**wanted)
        )
        for attempt in range(10 * len(self.replicas)):
            try:
                await self._ask(self.replicas[attempt % len(self.replicas)], ADMIN + "CreateNamespace", request)
                return
            except grpc.aio.AioRpcError as error:
                last = error
            await asyncio.sleep(0.2)
        raise last

    async def _ask(self, replica: str, method: str, request: Any) -> bytes:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channels.to(replica).unary_unary(method)
        return await call(request.SerializeToString(), timeout=REQUEST_TIMEOUT_S)


def surely_not_done(error: grpc.aio.AioRpcError) -> bool:
    """Whether a replica that answered so, or did not answer, has changed nothing."""
    text = error.details() or ""
    return any(said in text for said in (*NOT_DONE, NEVER_CONNECTED))


# -- hosts that only stand in the tables -----------------------------------------------------------------


class NoSlots:
    """A runtime without actors: what it is asked to drain is drained."""

    session: Session

    def granted(self, _effect: object) -> None:
        """See `Slots`."""

    def stop_admitting(self, effect: Any) -> None:
        """See `Slots`."""
        for span in effect.spans:
            self.session.drained(span.actor_type, tuple(range(span.first, span.first + span.count)))

    def cancel(self, _effect: object) -> None:
        """See `Slots`."""

    def ended(self, _effect: object) -> None:
        """See `Slots`."""

    def table_installed(self, _effect: object) -> None:
        """See `Slots`."""

    def lease_renewed(self) -> None:
        """See `Slots`."""


class StandIn(Session):
    """A host in the namespace of the registers, without actors. `asked`: how often it asked to become a member."""

    def __init__(self, name: str, cluster: list[str]) -> None:
        slots = NoSlots()
        record = NativeHostRecord(name, f"{name}:7301", ("Nothing",), process="-")
        super().__init__(
            cluster=cluster,
            namespace=REGISTER,
            policy=Policy.EVENTUAL,
            record=record,
            slots=slots,
            reconnecting=Reconnecting(silence_ms=SILENCE_MS),
        )
        slots.session = self
        self.key = f"member/{name}"
        self.asked = 0

    def _carry_out(self, effect: HostEffect) -> None:
        if isinstance(effect, SendHello) and effect.hello.incarnation == NO_INCARNATION:
            self.asked += 1
        super()._carry_out(effect)

    async def join(self, caller: Caller) -> Outcome:
        """Operation `join`, which ends once it is a member."""

        async def call(_token: str) -> Answer:
            await self.start()
            return Answer(None)

        return (await caller.do("join", self.key, None, call))[0]

    async def may_join_late(self, caller: Caller) -> Outcome:
        """Operation `join` of unknown outcome: that of a request that was repeated before it was answered. It may still
        be under way, and makes the host a member whenever it arrives."""

        async def call(_token: str) -> Answer:
            raise TimeoutError("asked again before there was an answer")

        return (await caller.do("join", self.key, None, call))[0]


def watch_request(namespace: str) -> host_pb2.WatchRequest:
    """For a watch that knows nothing yet."""
    return host_pb2.WatchRequest(namespace=namespace, protocol_version=convert.PROTOCOL_VERSION)
