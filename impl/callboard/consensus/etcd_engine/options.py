"""Settings of the etcd engine, checked when they are made: a bad one raises ValueError with one line that names it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

from attrs import Attribute, field, frozen
from attrs.validators import and_, ge, le


def _check_endpoints(_instance: Any, _attribute: Attribute[tuple[str, ...]], endpoints: tuple[str, ...]) -> None:
    for endpoint in endpoints:
        split_endpoint(endpoint)
    if len(set(endpoints)) != len(endpoints):
        raise ValueError(f"endpoints: {','.join(endpoints)} names an endpoint twice")


def _check_prefix(_instance: Any, _attribute: Attribute[str], prefix: str) -> None:
    if not prefix.startswith("/") or prefix.endswith("/") or len(prefix) > 200:
        raise ValueError(f"prefix: {prefix!r} must start with '/', not end with it, and have at most 200 characters")


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of `host:port`; IPv6 hosts stand in brackets.

    Raises:
        ValueError: one line that names the endpoint.
    """
    host, separator, port = endpoint.rpartition(":")
    if not separator or not host or "/" in endpoint or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"endpoint {endpoint!r} is not host:port")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether connections to `host` stay in this machine. Names other than localhost count as remote."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@frozen
class TlsFiles:
    """PEM files for TLS. `certificate` and `key` are needed where the other side asks who we are."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    """The name to expect in etcd's certificate, where endpoints are dialled by other names or through proxies."""

    def __attrs_post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS certificate and key: give both or neither")


@frozen
class ManagedPeer:
    """One member of a managed etcd cluster. Its name is the replica id.

    `host` and `peer_port` are how the *other* members dial it, `client_port` is where replicas dial it.
    """

    name: str
    host: str
    peer_port: int
    client_port: int


@frozen
class ManagedEtcd:
    """How callboard runs etcd as its own supervised child; see managed.py. `peers` includes this replica."""

    peers: tuple[ManagedPeer, ...]
    cluster_name: str = "callboard"
    """etcd refuses peers that were started under another name."""
    binary: Path | None = None
    """Where etcd is; None looks in PATH."""
    listen_host: str | None = None
    """The address to bind both ports to; None binds this member's `host`."""
    listen_peer_port: int | None = None
    """The peer port to bind if it differs from the one that others dial (behind a proxy or NAT)."""
    heartbeat_ms: int = field(default=100, validator=and_(ge(10), le(5000)))
    election_ms: int = field(default=1000, validator=and_(ge(50), le(50_000)))
    quota_bytes: int = field(default=2 * 1024**3, validator=ge(16 * 1024**2))
    restarts_max: int = field(default=5, validator=ge(0))
    """Restarts of the child within `restarts_window_s` seconds, after which the engine gives up."""
    restarts_window_s: float = 60.0
    log_bytes_max: int = field(default=10 * 1024**2, validator=ge(64 * 1024))


@frozen
class EtcdOptions:
    """Where etcd is, how to speak to it, and the engine's bounds."""

    directory: Path
    """This replica's own directory: its identity, and in managed mode etcd's data. The log itself is in etcd."""
    endpoints: tuple[str, ...] = field(default=(), validator=_check_endpoints)
    """host:port of etcd members, tried in this order. Managed mode needs none: the peers tell."""
    prefix: str = field(default="/callboard", validator=_check_prefix)
    """All keys start with it. Replica groups that share an etcd cluster need different prefixes."""
    cluster_id: str | None = None
    """If given, start only in this callboard cluster."""
    tls: TlsFiles | None = None
    allow_plaintext: bool = False
    """Speak without TLS to endpoints that are not on this machine."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    lease_ttl_s: int = field(default=2, validator=and_(ge(1), le(60)))
    """A leader that cannot reach etcd stops leading after this time at the latest; failover takes a little longer."""
    attempt_timeout_ms: int = field(default=500, validator=ge(50))
    """How long one endpoint has to answer before the next one is tried."""
    start_timeout_ms: int = field(default=10_000, validator=ge(100))
    batch_bytes: int = field(default=256 * 1024, validator=and_(ge(64 * 1024), le(1024 * 1024)))
    """Commands per transaction, by size; etcd's default request limit is 1.5 MiB."""
    snapshot_commands: int = field(default=10_000, validator=ge(1))
    """The leader writes a snapshot after so many commands, then deletes the log before it."""
    snapshot_chunk_bytes: int = field(default=512 * 1024, validator=and_(ge(1024), le(1024 * 1024)))
    compact_history: bool = True
    """Compact etcd's history after snapshots. Turn off where etcd is shared and compacts by itself: compaction
    concerns all users of one etcd."""
    managed: ManagedEtcd | None = None

    def __attrs_post_init__(self) -> None:
        if bool(self.endpoints) == (self.managed is not None):
            raise ValueError("endpoints: give etcd's endpoints, or choose managed mode, not both and not neither")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password: give both or neither")
        if self.managed is not None and self.user is not None:
            raise ValueError("user: managed mode protects etcd by TLS, not by users")
        if self.managed is not None and self.tls is not None and self.tls.certificate is None:
            raise ValueError("TLS certificate and key: managed mode needs them")
        if self.tls is None and not self.allow_plaintext:
            for host in self._hosts():
                if not is_loopback(host):
                    raise ValueError(f"etcd host {host} is not this machine alone: give TLS files or allow plain text")

    def _hosts(self) -> list[str]:
        """Every address that is dialled or listened on."""
        hosts = [split_endpoint(endpoint)[0] for endpoint in self.endpoints]
        if self.managed is not None:
            hosts += [peer.host for peer in self.managed.peers]
            hosts += [self.managed.listen_host] if self.managed.listen_host else []
        return hosts
