"""A small asyncio client of etcd's v3 gRPC API: several endpoints with failover, TLS, user and password.

Every call is bounded in time. A call that fails on one endpoint for reasons of transport is repeated on the next,
until the caller's time is over; so every request that goes through here must be safe to repeat (reads, leases with
chosen ids, and transactions that compare what they change).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from callboard.consensus.etcd_engine.errors import (
    EtcdError,
    EtcdRefused,
    EtcdUnreachable,
    HistoryCompacted,
    WrongEtcd,
)
from callboard.consensus.etcd_engine.options import TlsFiles
from callboard.protos.generated import etcd_rpc_pb2 as rpc

logger = logging.getLogger(__name__)

REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""Status codes with which etcd says, before or while applying, that a request has no effect."""

NO_SPACE = "etcdserver: mvcc: database space exceeded"
STALE_TOKEN = ("etcdserver: invalid auth token", "etcdserver: revision of auth store is old", "user name is empty")
AUTH_IS_OFF = "authentication is not enabled"

RECEIVE_BYTES_MAX = 64 * 1024 * 1024
LOGIN_TIMEOUT_S = 5.0
PAUSE_FIRST_S = 0.02
PAUSE_MAX_S = 0.5


MessageT = TypeVar("MessageT", bound=Message)
AnswerT = TypeVar(
    "AnswerT",
    rpc.RangeResponse,
    rpc.TxnResponse,
    rpc.CompactionResponse,
    rpc.LeaseGrantResponse,
    rpc.LeaseRevokeResponse,
    rpc.LeaseKeepAliveResponse,
    rpc.StatusResponse,
    rpc.MemberListResponse,
    rpc.MemberAddResponse,
    rpc.MemberRemoveResponse,
)


def compare_create(key: bytes, create_revision: int) -> rpc.Compare:
    """True if `key` came to exist at that revision; 0 means that it does not exist."""
    return rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=create_revision)


def compare_modified(key: bytes, mod_revision: int) -> rpc.Compare:
    """True if the last change of `key` was at that revision."""
    return rpc.Compare(key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=mod_revision)


def read(key: bytes, range_end: bytes = b"", *, limit: int = 0) -> rpc.RequestOp:
    """A step of a transaction that reads a key or a range."""
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key, range_end=range_end, limit=limit))


def put(key: bytes, value: bytes, *, lease_id: int = 0) -> rpc.RequestOp:
    """A step of a transaction that writes a key."""
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease_id))


def delete(key: bytes, range_end: bytes = b"") -> rpc.RequestOp:
    """A step of a transaction that deletes a key or a range."""
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=range_end))


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


class _Endpoint:
    """One channel and its callables."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None, options: list[tuple[str, Any]]):
        self.address = address
        self.channel = (
            grpc.aio.insecure_channel(address, options=options)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options=options)
        )
        self._unary: dict[str, grpc.aio.UnaryUnaryMultiCallable[Any, Any]] = {}
        self._streams: dict[str, grpc.aio.StreamStreamMultiCallable[Any, Any]] = {}

    def unary(self, path: str, answer: type[MessageT]) -> grpc.aio.UnaryUnaryMultiCallable[Any, MessageT]:
        if path not in self._unary:
            self._unary[path] = self.channel.unary_unary(path, _serialize, answer.FromString)
        return self._unary[path]

    def stream(self, path: str, answer: type[MessageT]) -> grpc.aio.StreamStreamMultiCallable[Any, MessageT]:
        if path not in self._streams:
            self._streams[path] = self.channel.stream_stream(path, _serialize, answer.FromString)
        return self._streams[path]


def _load_credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=tls.ca.read_bytes(),
        private_key=tls.key.read_bytes() if tls.key else None,
        certificate_chain=tls.certificate.read_bytes() if tls.certificate else None,
    )


def _channel_options(tls: TlsFiles | None) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # etcd's default policy closes connections that ping more often than every five seconds.
        ("grpc.keepalive_time_ms", 7000),
        ("grpc.keepalive_timeout_ms", 3000),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


class EtcdClient:
    """One connection to each endpoint; calls go to the one that answered last."""

    def __init__(
        self,
        endpoints: Iterable[str],
        *,
        tls: TlsFiles | None = None,
        user: str | None = None,
        password: str | None = None,
        attempt_timeout_ms: int = 1000,
    ) -> None:
        self._addresses = tuple(endpoints)
        self._tls = tls
        self._user = user
        self._password = password
        self._attempt_timeout_s = attempt_timeout_ms / 1000
        self._endpoints: list[_Endpoint] = []
        self._current = 0
        self._token: str | None = None
        self._login: asyncio.Task[None] | None = None
        self._etcd_cluster: int | None = None
        self._revision_seen = 0

    @property
    def endpoint(self) -> str:
        """The address that calls go to now."""
        return self._addresses[self._current]

    async def open(self) -> None:
        """Make the channels. They connect when first used.

        Raises:
            OSError: a TLS file cannot be read.
        """
        credentials = None if self._tls is None else _load_credentials(self._tls)
        options = _channel_options(self._tls)
        self._endpoints = [_Endpoint(address, credentials, options) for address in self._addresses]

    async def close(self) -> None:
        """Close all channels. Calls under way end with an error. Idempotent."""
        endpoints, self._endpoints = self._endpoints, []
        if self._login is not None:
            self._login.cancel()
        for endpoint in endpoints:
            await endpoint.channel.close()

    async def range(self, key: bytes, range_end: bytes = b"", *, limit: int = 0, timeout_ms: int) -> rpc.RangeResponse:
        """Read a key or a range, linearizably."""
        request = rpc.RangeRequest(key=key, range_end=range_end, limit=limit)
        return await self._unary("/etcdserverpb.KV/Range", request, rpc.RangeResponse, timeout_ms)

    async def txn(
        self,
        compare: Iterable[rpc.Compare],
        success: Iterable[rpc.RequestOp],
        failure: Iterable[rpc.RequestOp] = (),
        *,
        timeout_ms: int,
    ) -> rpc.TxnResponse:
        """Run a transaction. It may be sent more than once: what it writes must be guarded by what it compares."""
        request = rpc.TxnRequest(compare=compare, success=success, failure=failure)
        return await self._unary("/etcdserverpb.KV/Txn", request, rpc.TxnResponse, timeout_ms)

    async def compact(self, revision: int, *, timeout_ms: int) -> None:
        """Forget the history before `revision`. Fine if somebody compacted further already."""
        try:
            request = rpc.CompactionRequest(revision=revision)
            await self._unary("/etcdserverpb.KV/Compact", request, rpc.CompactionResponse, timeout_ms)
        except EtcdRefused as error:
            if "has been compacted" not in str(error):
                raise

    async def grant_lease(self, lease_id: int, ttl_s: int, *, timeout_ms: int) -> int:
        """Create the lease under an id chosen by the caller; returns the granted seconds."""
        request = rpc.LeaseGrantRequest(ID=lease_id, TTL=ttl_s)
        answer = await self._unary("/etcdserverpb.Lease/LeaseGrant", request, rpc.LeaseGrantResponse, timeout_ms)
        return answer.TTL

    async def revoke_lease(self, lease_id: int, *, timeout_ms: int) -> None:
        """End the lease and delete its keys. Fine if it is gone already."""
        try:
            request = rpc.LeaseRevokeRequest(ID=lease_id)
            await self._unary("/etcdserverpb.Lease/LeaseRevoke", request, rpc.LeaseRevokeResponse, timeout_ms)
        except EtcdRefused as error:
            if "lease not found" not in str(error):
                raise

    async def keep_alive(self, lease_id: int, *, timeout_ms: int) -> int:
        """Renew the lease once; returns the seconds that it has from now on, 0 if it is gone."""

        async def attempt(endpoint: _Endpoint, timeout_s: float) -> rpc.LeaseKeepAliveResponse:
            stub = endpoint.stream("/etcdserverpb.Lease/LeaseKeepAlive", rpc.LeaseKeepAliveResponse)
            call = stub(timeout=timeout_s, metadata=self._metadata())
            try:
                await call.write(rpc.LeaseKeepAliveRequest(ID=lease_id))
                answer = await call.read()
                if isinstance(answer, rpc.LeaseKeepAliveResponse):
                    return answer
                raise EtcdUnreachable(f"{endpoint.address} ended the keep-alive stream without an answer")
            except asyncio.InvalidStateError as error:  # grpc's word for writing to a stream that ended
                raise EtcdUnreachable(f"{endpoint.address} ended the keep-alive stream: {error}") from None
            finally:
                call.cancel()

        answer = await self._repeat("LeaseKeepAlive", attempt, timeout_ms, linearizable=False)
        return answer.TTL

    async def members(self, *, timeout_ms: int) -> list[rpc.Member]:
        """The members of the etcd cluster."""
        path = "/etcdserverpb.Cluster/MemberList"
        answer = await self._unary(path, rpc.MemberListRequest(), rpc.MemberListResponse, timeout_ms)
        return list(answer.members)

    async def remove_member(self, member_id: int, *, timeout_ms: int) -> None:
        """Take a member out of the etcd cluster. Fine if it is out already."""
        try:
            request = rpc.MemberRemoveRequest(ID=member_id)
            await self._unary("/etcdserverpb.Cluster/MemberRemove", request, rpc.MemberRemoveResponse, timeout_ms)
        except EtcdRefused as error:
            if "member not found" not in str(error):
                raise

    async def add_member(self, peer_url: str, *, timeout_ms: int) -> None:
        """Let a new member at `peer_url` into the etcd cluster. Fine if it was let in already."""
        try:
            request = rpc.MemberAddRequest(peerURLs=[peer_url])
            await self._unary("/etcdserverpb.Cluster/MemberAdd", request, rpc.MemberAddResponse, timeout_ms)
        except EtcdRefused as error:
            if not error.may_have_run or "Peer URLs already exists" not in str(error):
                raise

    async def status(self, *, timeout_ms: int) -> rpc.StatusResponse:
        """What the current endpoint's member says of itself."""
        path = "/etcdserverpb.Maintenance/Status"
        return await self._unary(path, rpc.StatusRequest(), rpc.StatusResponse, timeout_ms)

    async def watch(
        self, key: bytes, range_end: bytes, start_revision: int, *, deletions: bool
    ) -> AsyncGenerator[rpc.WatchResponse, None]:
        """Answers of one watch on the current endpoint, until the stream breaks; then an EtcdError is raised.

        Close the iterator (`contextlib.aclosing`) to end the watch.

        Raises:
            HistoryCompacted: etcd has forgotten `start_revision`.
            EtcdUnreachable, EtcdRefused: the stream could not be opened, or broke.
            WrongEtcd: the endpoint belongs to another etcd cluster.
        """
        endpoint = self._endpoint()
        # With "hasleader" a member ends its streams when it is cut off from the other members.
        metadata = (*self._metadata(), ("hasleader", "true"))
        call = endpoint.stream("/etcdserverpb.Watch/Watch", rpc.WatchResponse)(metadata=metadata)
        request = rpc.WatchCreateRequest(
            key=key,
            range_end=range_end,
            start_revision=start_revision,
            filters=[] if deletions else [rpc.WatchCreateRequest.NODELETE],
            fragment=True,
        )
        try:
            async with asyncio.timeout(self._attempt_timeout_s):
                await call.write(rpc.WatchRequest(create_request=request))
                answer = await call.read()
            while isinstance(answer, rpc.WatchResponse):
                yield await self._checked_watch_answer(endpoint, answer)
                answer = await call.read()
            raise EtcdUnreachable(f"{endpoint.address} ended the watch stream")
        except (TimeoutError, asyncio.InvalidStateError) as error:
            self._turn_from(endpoint)
            raise EtcdUnreachable(f"{endpoint.address} did not start the watch: {error or 'timeout'}") from None
        except grpc.aio.AioRpcError as error:
            self._turn_from(endpoint)
            raise EtcdUnreachable(f"watch on {endpoint.address}: {_words(error)}") from None
        finally:
            call.cancel()

    async def _checked_watch_answer(self, endpoint: _Endpoint, answer: rpc.WatchResponse) -> rpc.WatchResponse:
        if answer.header.cluster_id:
            self._check_cluster(endpoint, answer.header.cluster_id)
        if answer.compact_revision:
            raise HistoryCompacted(f"etcd's history before revision {answer.compact_revision} is compacted")
        if answer.canceled:
            self._turn_from(endpoint)
            if self._user is not None:
                await self._log_in(self._token, endpoint, self._attempt_timeout_s)
            raise EtcdRefused(f"{endpoint.address} cancelled the watch: {answer.cancel_reason or 'no reason given'}")
        return answer

    async def _unary(self, path: str, request: Message, answer: type[AnswerT], timeout_ms: int) -> AnswerT:
        async def attempt(endpoint: _Endpoint, timeout_s: float) -> AnswerT:
            return await endpoint.unary(path, answer)(request, timeout=timeout_s, metadata=self._metadata())

        linearizable = path.startswith("/etcdserverpb.KV/")
        return await self._repeat(path.rpartition("/")[2], attempt, timeout_ms, linearizable=linearizable)

    async def _repeat(
        self,
        name: str,
        attempt: Callable[[_Endpoint, float], Awaitable[AnswerT]],
        timeout_ms: int,
        *,
        linearizable: bool,
    ) -> AnswerT:
        """Attempt on one endpoint after the other until one answers, one refuses, or the time is over."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_ms / 1000
        may_have_run, failure, logins, pause_s = False, "no attempt was made", 0, PAUSE_FIRST_S
        while (remaining_s := deadline - clock()) > 0:
            endpoint, token = self._endpoint(), self._token
            floor = self._revision_seen if linearizable else 0
            # Large reads and writes, which have more time as a whole, need more for each attempt too.
            timeout_s = min(remaining_s, max(self._attempt_timeout_s, timeout_ms / 4000))
            try:
                if self._user is not None and token is None:
                    await self._log_in(None, endpoint, remaining_s)
                answer = await attempt(endpoint, timeout_s)
                self._check_header(endpoint, answer.header, floor)
                return answer
            except grpc.aio.AioRpcError as error:
                failure = f"{endpoint.address}: {_words(error)}"
                if self._user is not None and _is_stale_token(error) and logins < 3:
                    logins += 1
                    self._forget_token(token)
                    continue
                if _is_refusal(error):
                    raise EtcdRefused(f"{name} at {failure}", may_have_run=may_have_run) from None
            except EtcdUnreachable as error:
                failure = str(error)
            may_have_run = True
            self._turn_from(endpoint)
            await asyncio.sleep(min(pause_s, max(0.0, deadline - clock())))
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
        raise EtcdUnreachable(
            f"no answer to {name} from etcd within {timeout_ms} ms; last: {failure}", may_have_run=may_have_run
        )

    def _endpoint(self) -> _Endpoint:
        if not self._endpoints:
            raise EtcdError("the etcd client is closed")
        return self._endpoints[self._current]

    def _turn_from(self, endpoint: _Endpoint) -> None:
        """Use the next endpoint, unless another call has moved on already."""
        if self._endpoints and self._endpoints[self._current] is endpoint:
            self._current = (self._current + 1) % len(self._endpoints)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self._token is None else (("token", self._token),)

    def _forget_token(self, token: str | None) -> None:
        if self._token == token:
            self._token = None

    async def _log_in(self, stale: str | None, endpoint: _Endpoint, wait_s: float) -> None:
        """Get a new token, together with other calls that need one. etcd checks passwords slowly on purpose, so the
        login may outlast the call that began it."""
        if self._token != stale:
            return
        if self._login is None:
            self._login = asyncio.get_running_loop().create_task(self._authenticate(endpoint))
            self._login.add_done_callback(self._login_ended)
        login = self._login
        await asyncio.wait([login], timeout=wait_s)
        if not login.done():
            raise EtcdUnreachable(f"{endpoint.address}: the login of user {self._user} was not answered in time")
        login.result()

    def _login_ended(self, task: asyncio.Task[None]) -> None:
        self._login = None
        if not task.cancelled():
            task.exception()  # seen by those who wait, if anybody is left

    async def _authenticate(self, endpoint: _Endpoint) -> None:
        request = rpc.AuthenticateRequest(name=self._user or "", password=self._password or "")
        stub = endpoint.unary("/etcdserverpb.Auth/Authenticate", rpc.AuthenticateResponse)
        try:
            answer: rpc.AuthenticateResponse = await stub(request, timeout=LOGIN_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if AUTH_IS_OFF not in (error.details() or ""):
                raise
            logger.warning("etcd does not ask for users; going on without %s's password", self._user)
            self._user = None
            return
        self._token = answer.token

    def _check_header(self, endpoint: _Endpoint, header: rpc.ResponseHeader, floor: int) -> None:
        self._check_cluster(endpoint, header.cluster_id)
        if header.revision and header.revision < floor:
            raise WrongEtcd(
                f"etcd at {endpoint.address} answers with revision {header.revision} after revision {floor} was seen: "
                "its data went back, perhaps to a backup"
            )
        self._revision_seen = max(self._revision_seen, header.revision)

    def _check_cluster(self, endpoint: _Endpoint, cluster_id: int) -> None:
        if self._etcd_cluster is None:
            self._etcd_cluster = cluster_id
        elif cluster_id != self._etcd_cluster:
            raise WrongEtcd(
                f"etcd at {endpoint.address} is a member of cluster {cluster_id:x}, other endpoints are of "
                f"{self._etcd_cluster:x}: the endpoints must belong to one etcd cluster"
            )


def _words(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"


def _is_stale_token(error: grpc.aio.AioRpcError) -> bool:
    return any(words in (error.details() or "") for words in STALE_TOKEN)


def _is_refusal(error: grpc.aio.AioRpcError) -> bool:
    details = error.details() or ""
    return details == NO_SPACE or (error.code() in REFUSALS and details.startswith("etcdserver: "))
