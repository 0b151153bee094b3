"""What an operator sets, and what of it the synchronous core needs."""

from __future__ import annotations

from pathlib import Path

from attrs import field, frozen
from attrs.validators import ge

from callboard.consensus.interface import EngineLimits, EngineStartError, Peer

GROUP_SIZES = (1, 3, 5)


@frozen
class CoreSettings:
    """Times and sizes of the replicated log. The defaults suit one site, and bear a busy machine."""

    election_min_ms: int = field(default=1500, validator=ge(1))
    """A follower that hears no leader for a random time between this ..."""
    election_max_ms: int = field(default=3000, validator=ge(2))
    """... and this asks for votes. A leader whose link breaks (it was killed) is replaced within a few heartbeats."""
    heartbeat_ms: int = field(default=150, validator=ge(1))
    """A leader speaks to every follower at least this often."""
    fallback_ms: int = field(default=2500, validator=ge(1))
    """A leader that no majority has answered for this long stops leading (two heartbeats later if it was held up)."""
    batch_bytes: int = field(default=256 * 1024, validator=ge(1))
    """Entries sent in one message: up to this many bytes, and one entry more."""
    snapshot_entries: int = field(default=10_000, validator=ge(2))
    """The log is replaced by a snapshot when it holds more entries than this ..."""
    snapshot_bytes: int = field(default=64 * 1024 * 1024, validator=ge(1))
    """... or more bytes of commands than this."""
    keep_entries: int = field(default=1000, validator=ge(0))
    """Entries kept before a snapshot, for followers that are a little behind."""
    chunk_bytes: int = field(default=256 * 1024, validator=ge(1))
    """Bytes of a snapshot sent in one message."""
    snapshot_limit_bytes: int = field(default=512 * 1024 * 1024, validator=ge(1))
    """The largest snapshot accepted from a leader."""

    def __attrs_post_init__(self) -> None:
        """Refuse times that cannot work together.

        Raises:
            EngineStartError: naming them.
        """
        if self.election_min_ms <= 3 * self.heartbeat_ms:
            raise EngineStartError(
                f"election_min_ms={self.election_min_ms} must exceed 3 x heartbeat_ms={self.heartbeat_ms}"
            )
        if self.election_max_ms <= self.election_min_ms:
            raise EngineStartError(
                f"election_max_ms={self.election_max_ms} must exceed election_min_ms={self.election_min_ms}"
            )
        if self.fallback_ms <= self.heartbeat_ms:
            raise EngineStartError(f"fallback_ms={self.fallback_ms} must exceed heartbeat_ms={self.heartbeat_ms}")
        if self.keep_entries >= self.snapshot_entries:
            raise EngineStartError(
                f"keep_entries={self.keep_entries} must be below snapshot_entries={self.snapshot_entries}"
            )


@frozen
class TlsFiles:
    """PEM files for mutual TLS. The certificate must carry the replica id as a DNS name (subjectAltName)."""

    ca: Path
    certificate: Path
    key: Path


@frozen
class PysyncobjOptions:
    """Everything that one replica of the embedded engine is told."""

    data_dir: Path
    replica_id: str
    peers: tuple[Peer, ...]
    """The other replicas, at the addresses where *this* replica dials them."""
    listen_host: str = "127.0.0.1"
    listen_port: int = field(default=0, validator=ge(0))
    tls: TlsFiles | None = None
    allow_plaintext: bool = False
    """Without TLS, addresses other than loopback are refused unless this is set."""
    settings: CoreSettings = field(factory=CoreSettings)
    limits: EngineLimits = field(factory=EngineLimits)
    tick_ms: int = field(default=20, validator=ge(1))
    """The engine looks at its clock at least this often."""
    reconnect_ms: int = field(default=200, validator=ge(1))
    """Pause between attempts to dial a peer."""
    silence_ms: int = field(default=2000, validator=ge(10))
    """A link on which nothing arrives for this long is closed; links that have nothing to say are kept busy."""
    handshake_ms: int = field(default=5000, validator=ge(10))
    """A caller that has not introduced itself by then is cut off."""
    link_buffer_bytes: int = field(default=8 * 1024 * 1024, validator=ge(1))
    """What may wait to be sent to one peer before the leader pauses."""

    def check(self) -> None:
        """Raises EngineStartError if the group cannot be: its size, or a name that occurs twice."""
        ids = [self.replica_id, *(peer.replica_id for peer in self.peers)]
        if len(set(ids)) != len(ids):
            raise EngineStartError(f"a replica id occurs twice among {', '.join(sorted(ids))}")
        if len(ids) not in GROUP_SIZES:
            raise EngineStartError(f"a group has 1, 3 or 5 replicas, not {len(ids)}: {', '.join(sorted(ids))}")
        for replica_id in ids:
            if not 1 <= len(replica_id) <= 200 or not replica_id.isprintable() or " " in replica_id:
                raise EngineStartError(
                    f"replica id {replica_id!r} must be 1 to 200 printable characters without spaces"
                )
