"""Everything that can be set on a replica, with its default. Durations are in milliseconds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from attrs import Factory, field, frozen
from attrs.validators import ge, le

from callboard.consensus.interface import Peer
from callboard.core.slot_records import SLOT_BITS_DEFAULT, SLOT_BITS_MAX, SLOT_BITS_MIN, HandoffSettings
from callboard.core.versions import Policy

BARRIER_TIMEOUT_MS = 3000
"""What a linearizable read waits for its quorum at most."""


class EngineName(StrEnum):
    """The consensus engines."""

    MEMORY = "memory"
    PYSYNCOBJ = "pysyncobj"
    ETCD = "etcd"


@frozen
class TlsFiles:
    """PEM files of a replica: the authorities it trusts, its certificate chain, and its key."""

    ca: Path
    certificate: Path
    key: Path


@frozen
class SidecarSettings:
    """The service that Dapr sidecars talk to (policy `barrier`)."""

    replication_factor: int = field(default=100, validator=ge(1))
    round_timeout_ms: int = field(default=8000, validator=ge(1))
    coalesce_ms: int = field(default=0, validator=ge(0))
    member_grace_ms: int = field(default=30_000, validator=ge(0))
    """How long members that have not come back are kept after a change of leader."""
    repeat_push_ms: int = field(default=20_000, validator=ge(0))
    """When a sidecar of 1.16 gets the tables once more; see `BarrierSettings.repeat_push_ms`."""
    keepalive_time_ms: int = 2000
    keepalive_timeout_ms: int = 3000
    streams_max: int = field(default=20_000, validator=ge(1))
    window_bytes: int = field(default=16 * 1024 * 1024, validator=ge(1))
    """Bytes of orders that may be in flight over all streams together."""
    write_stall_ms: int = field(default=5000, validator=ge(1))
    """A stream that has not read an order for so long is cut if others wait for the window."""
    message_bytes_max: int = field(default=4 * 1024 * 1024, validator=ge(1024))
    """Largest message that is accepted from a sidecar."""


@frozen
class NativeSettings:
    """The service of native hosts (policies `eventual` and `exclusive`)."""

    policy: Policy = Policy.EXCLUSIVE
    """Of namespaces that are created by their first hello."""
    slot_bits: int = field(default=SLOT_BITS_DEFAULT, validator=[ge(SLOT_BITS_MIN), le(SLOT_BITS_MAX)])
    """Likewise: 2^slot_bits slots for each actor type."""
    handoff: HandoffSettings = Factory(HandoffSettings)
    """Likewise: the times, which are fixed with the namespace."""
    fronts: bool = True
    """Whether a replica that does not lead relays sessions to the leader; else it refuses them."""
    replicas: tuple[tuple[str, str], ...] = ()
    """(replica id, "host:port") of every replica's gRPC services, as this one dials them."""
    streams_max: int = field(default=20_000, validator=ge(1))
    """Sessions and watches that this replica holds."""
    waiting_messages_max: int = field(default=256, validator=ge(16))
    """Messages that wait for one slow stream before it is ended."""
    hello_timeout_ms: int = field(default=5000, validator=ge(1))
    leader_timeout_ms: int = field(default=60_000, validator=ge(1))
    """How long a session waits for a leader before it is ended."""


@frozen
class EngineSettings:
    """The consensus engine below this replica."""

    name: EngineName = EngineName.PYSYNCOBJ
    peers: tuple[Peer, ...] = ()
    """All replicas including this one; `host:port` is where this replica dials the peer."""
    data_dir: Path | None = None
    listen_host: str = "127.0.0.1"
    listen_port: int = 8201
    tls: TlsFiles | None = None
    """Of the embedded engine's links; the certificate names the replica id (DNS name)."""
    allow_plaintext: bool = False
    """Consensus traffic without TLS beyond loopback."""
    etcd_endpoints: tuple[str, ...] = ()
    etcd_prefix: str = "/callboard"
    etcd_user: str = ""
    etcd_password_file: Path | None = None
    etcd_ca: Path | None = None
    etcd_certificate: Path | None = None
    etcd_key: Path | None = None
    etcd_managed: bool = False
    etcd_lease_s: int = field(default=2, validator=ge(1))
    """A leader that cannot reach etcd stops leading after this time at the latest."""
    etcd_compact_history: bool = True
    """Compact etcd's history after snapshots; turn off where others use the same etcd."""
    etcd_client_port_offset: int = field(default=1, validator=ge(1))
    """In managed mode each etcd member's client port is its consensus port plus this."""


@frozen
class ServerSettings:
    """One replica."""

    replica_id: str = "dapr-placement-0"
    listen_address: str = "127.0.0.1"
    port: int = 50005
    healthz_address: str = "127.0.0.1"
    healthz_port: int = 8080
    metrics_enabled: bool = True
    metrics_address: str = "127.0.0.1"
    metrics_port: int = 9090
    metadata_enabled: bool = False
    """Whether /placement/state answers."""
    tls: TlsFiles | None = None
    trust_domain: str | None = None
    """With TLS: sidecars whose SPIFFE id is of another trust domain are refused. None accepts every domain that the
    authorities vouch for, as Dapr's placement does."""
    feature_level: int | None = None
    """The feature level that this replica raises its group to when it leads. None: the newest in a new group, else the
    group stays where it is, because replicas of an older callboard stop at a level that they do not know."""
    operators: frozenset[str] = frozenset()
    """With TLS: names in certificates (DNS names or SPIFFE ids) that may back up, restore and change things."""
    sidecars: SidecarSettings = SidecarSettings()
    native: NativeSettings = Factory(NativeSettings)
    engine: EngineSettings = EngineSettings()
    trace_file: Path | None = None
    """Where to write what the machines of core do, as actions of the specification (callboard.core.tracing)."""
    stop_grace_ms: int = field(default=5000, validator=ge(0))
