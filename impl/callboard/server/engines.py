"""Building the consensus engine that the settings name."""

from __future__ import annotations

from pathlib import Path

from callboard.consensus.interface import Engine, EngineStartError, StateMachine
from callboard.consensus.memory import MemoryEngine
from callboard.server.settings import EngineName, EngineSettings, ServerSettings


def build_engine(settings: ServerSettings, machine: StateMachine) -> Engine:
    """The engine over `machine`, not started. Raises EngineStartError for impossible settings."""
    match settings.engine.name:
        case EngineName.MEMORY:
            return MemoryEngine(machine, replica_id=settings.replica_id)
        case EngineName.PYSYNCOBJ:
            return _pysyncobj(settings.replica_id, settings.engine, machine)
        case EngineName.ETCD:
            return _etcd(settings.replica_id, settings.engine, machine)


def _data_dir(settings: EngineSettings) -> Path:
    if settings.data_dir is None:
        raise EngineStartError(f"engine {settings.name.value} needs a data directory: set --data-dir")
    return settings.data_dir


def _pysyncobj(replica_id: str, settings: EngineSettings, machine: StateMachine) -> Engine:
    from callboard.consensus.pysyncobj_engine.engine import PysyncobjEngine
    from callboard.consensus.pysyncobj_engine.options import PysyncobjOptions, TlsFiles

    tls = settings.tls
    options = PysyncobjOptions(
        data_dir=_data_dir(settings),
        replica_id=replica_id,
        peers=tuple(peer for peer in settings.peers if peer.replica_id != replica_id),
        listen_host=settings.listen_host,
        listen_port=settings.listen_port,
        tls=TlsFiles(tls.ca, tls.certificate, tls.key) if tls else None,
        allow_plaintext=settings.allow_plaintext,
    )
    return PysyncobjEngine(options, machine)


def _etcd(replica_id: str, settings: EngineSettings, machine: StateMachine) -> Engine:
    from callboard.consensus.etcd_engine import EtcdEngine, EtcdOptions, ManagedEtcd, ManagedPeer, TlsFiles

    managed = None
    if settings.etcd_managed:
        offset = settings.etcd_client_port_offset
        peers = tuple(ManagedPeer(p.replica_id, p.host, p.port, p.port + offset) for p in settings.peers)
        managed = ManagedEtcd(peers, listen_host=settings.listen_host, listen_peer_port=settings.listen_port)
    try:
        options = EtcdOptions(
            directory=_data_dir(settings),
            endpoints=settings.etcd_endpoints,
            prefix=settings.etcd_prefix,
            tls=TlsFiles(settings.etcd_ca, settings.etcd_certificate, settings.etcd_key) if settings.etcd_ca else None,
            allow_plaintext=settings.allow_plaintext,
            user=settings.etcd_user or None,
            password=_password(settings),
            lease_ttl_s=settings.etcd_lease_s,
            compact_history=settings.etcd_compact_history,
            managed=managed,
        )
        return EtcdEngine(machine, replica_id=replica_id, options=options)
    except ValueError as error:
        raise EngineStartError(f"etcd engine: {error}") from None


def _password(settings: EngineSettings) -> str | None:
    if settings.etcd_password_file is None:
        return None
    try:
        return settings.etcd_password_file.read_text().strip()
    except OSError as error:
        raise EngineStartError(
            f"--etcd-password-file: cannot read {settings.etcd_password_file}: {error.strerror}"
        ) from None
