"""`callboard serve`: one replica. Takes every flag of Dapr's placement process, and callboard's own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import click
import structlog

from callboard.cli.logs import LEVELS, configure_logging
from callboard.cli.native_flags import NATIVE_FLAGS, native_settings
from callboard.cli.types import Decorator, DurationMs, GoBoolean, HostPort, NamedAddresses, stacked
from callboard.consensus.interface import EngineError, Peer
from callboard.core.durations import format_duration_ms
from callboard.core.membership import KNOWN_FEATURE_LEVEL
from callboard.server.listening import AddressError, is_loopback
from callboard.server.replica import Replica, StartError
from callboard.server.settings import EngineName, EngineSettings, ServerSettings, SidecarSettings, TlsFiles
from callboard.server.tls import TlsFileError
from callboard.trace_file import VARIABLE

log = structlog.get_logger(__name__)

DEFAULT_DATA_ROOT = Path("/var/lib/callboard")
LOOPBACK = "127.0.0.1"

INERT_FLAGS = {
    "sentry_address": "certificates come from --tls-cert-file and --tls-key-file",
    "mode": "there is no difference between standalone and kubernetes here",
    "max_api_level": "sidecars are not refused by API level",
    "min_api_level": "sidecars are not refused by API level",
}
"""Flags of Dapr's placement process that are accepted and do nothing, with the reason that is logged."""


class GoStyleCommand(click.Command):
    """Accepts long flags with one dash too (`-port 50005`), as Go programs do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rewritten = ["-" + arg if re.match(r"-[A-Za-z]{2,}", arg) else arg for arg in args]
        return super().parse_args(ctx, rewritten)


def boolean(name: str, *, default: bool, text: str, **attributes: Any) -> Decorator:
    """A flag that also takes =true or =false."""
    shown = "true" if default else "false"
    return click.option(
        name,
        is_flag=False,
        flag_value="true",
        default=shown,
        type=GoBoolean(),
        help=text,
        show_default=True,
        **attributes,
    )


def duration(name: str, *, default_ms: int, text: str, minimum: str = "0", maximum: str | None = None) -> Decorator:
    """A flag whose value is a duration; the program sees milliseconds."""
    kind = DurationMs(minimum, maximum)
    return click.option(name, default=format_duration_ms(default_ms), type=kind, help=text, show_default=True)


_PORT = click.IntRange(0, 65535)
_FILE = click.Path(path_type=Path)
_SIDECARS = SidecarSettings()

IDENTITY_FLAGS = stacked(
    click.option("--id", "replica_id", default="dapr-placement-0", show_default=True, help="Id of this replica."),
    click.option(
        "--initial-cluster",
        default="dapr-placement-0=127.0.0.1:8201",
        show_default=True,
        type=NamedAddresses(),
        help="All replicas (1, 3 or 5) with the addresses of their consensus ports.",
    ),
    click.option(
        "--engine",
        type=click.Choice([name.value for name in EngineName]),
        default=EngineName.PYSYNCOBJ.value,
        show_default=True,
        help="Consensus engine: embedded, etcd, or in memory (one process, nothing survives it).",
    ),
    click.option(
        "--data-dir",
        "--raft-logstore-path",
        "data_dir",
        type=_FILE,
        help="Directory of the replicated log.  [default: /var/lib/callboard/ID]",
    ),
    boolean(
        "--inmem-store-enabled",
        default=False,
        text="Given as true it selects --engine memory; Dapr's placement process has lost its durable store.",
    ),
    click.option(
        "--raft-listen-address",
        type=HostPort(),
        help="Address of the consensus port.  [default: this replica's entry in --initial-cluster]",
    ),
    click.option(
        "--raft-dial",
        type=NamedAddresses(),
        default=(),
        help="Dial these replicas at other addresses than --initial-cluster says (proxies, address translation).",
    ),
    click.option("--raft-tls-ca-file", type=_FILE, help="Authorities of the replicas.  [default: --tls-ca-file]"),
    click.option(
        "--raft-tls-cert-file",
        type=_FILE,
        help="Certificate that names this replica's id as a DNS name.  [default: --tls-cert-file]",
    ),
    click.option("--raft-tls-key-file", type=_FILE, help="Its key.  [default: --tls-key-file]"),
    boolean("--raft-allow-plaintext", default=False, text="Let consensus traffic leave this machine without TLS."),
)

ETCD_FLAGS = stacked(
    click.option("--etcd-endpoints", default="", help="With --engine etcd: comma-separated host:port of its members."),
    click.option("--etcd-prefix", default="/callboard", show_default=True, help="Keys of this cluster in etcd."),
    click.option("--etcd-user", default="", help="User name for etcd's authentication."),
    click.option("--etcd-password-file", type=_FILE, help="File with that user's password."),
    click.option("--etcd-ca-file", type=_FILE, help="Authorities of etcd's certificates; turns TLS to etcd on."),
    click.option("--etcd-cert-file", type=_FILE, help="Client certificate for etcd."),
    click.option("--etcd-key-file", type=_FILE, help="Its key."),
    boolean("--etcd-managed", default=False, text="Run an etcd member as a supervised child of this replica."),
    click.option(
        "--etcd-lease",
        "etcd_lease_s",
        default=2,
        show_default=True,
        type=click.IntRange(1, 60),
        help="Seconds after which a leader that cannot reach etcd has stopped leading.",
    ),
    boolean(
        "--etcd-compact-history",
        default=True,
        text="Compact etcd's history after snapshots. Turn it off where others use the same etcd.",
    ),
    click.option(
        "--etcd-client-port-offset",
        default=1,
        show_default=True,
        type=click.IntRange(1, 10_000),
        help="Managed mode: each member's client port is its port in --initial-cluster plus this.",
    ),
)

LISTEN_FLAGS = stacked(
    click.option("--port", default=50005, show_default=True, type=_PORT, help="Port of the placement service."),
    click.option(
        "--listen-address",
        default="",
        help="Address of the placement service.  [default: all addresses with TLS, 127.0.0.1 without]",
    ),
    click.option("--healthz-port", default=8080, show_default=True, type=_PORT, help="Port of /healthz and /readyz."),
    click.option("--healthz-listen-address", default="", help="[default: like --listen-address]"),
    boolean("--enable-metrics", default=True, text="Serve Prometheus metrics."),
    click.option("--metrics-port", default=9090, show_default=True, type=_PORT, help="Port of the metrics."),
    click.option("--metrics-listen-address", default="", help="[default: like --listen-address]"),
    boolean(
        "--metadata-enabled",
        default=False,
        text="Serve /placement/state on the healthz port.",
        envvar="DAPR_PLACEMENT_METADATA_ENABLED",
    ),
    click.option(
        "--feature-level",
        type=click.IntRange(1, KNOWN_FEATURE_LEVEL),
        help="Raise the group to this feature level when leading. Every replica must run a version that knows it. "
        "[default: the newest in a new group, else unchanged]",
    ),
    click.option(
        "--trace-file",
        type=_FILE,
        envvar=VARIABLE,
        help="Append trace events to this file ({pid} in its name is replaced), for checking the run against the "
        "specification (tla/doc/Traces.md).",
    ),
)

SECURITY_FLAGS = stacked(
    boolean("--tls-enabled", default=False, text="TLS with client certificates on the placement and HTTP ports."),
    click.option("--tls-ca-file", "--trust-anchors-file", type=_FILE, help="PEM file of the trusted authorities."),
    click.option("--tls-cert-file", type=_FILE, help="PEM file of this replica's certificate chain."),
    click.option("--tls-key-file", type=_FILE, help="PEM file of its key."),
    click.option(
        "--trust-domain",
        default="localhost",
        help="Given with TLS: the only trust domain whose sidecars are served.",
    ),
    click.option(
        "--operators",
        default="",
        help="With TLS: comma-separated certificate names (DNS or SPIFFE) that may change things, back up and restore.",
    ),
)

SIDECAR_FLAGS = stacked(
    click.option(
        "--replicationFactor",
        "--replication-factor",
        "replication_factor",
        default=_SIDECARS.replication_factor,
        show_default=True,
        type=click.IntRange(1, 10_000),
        help="Virtual nodes per host on the sidecars' rings.",
    ),
    duration(
        "--keepalive-time",
        default_ms=_SIDECARS.keepalive_time_ms,
        text="Silence after which a stream is probed.",
        minimum="1s",
        maximum="10s",
    ),
    duration(
        "--keepalive-timeout",
        default_ms=_SIDECARS.keepalive_timeout_ms,
        text="Silence after a probe that ends a stream.",
        minimum="1s",
        maximum="10s",
    ),
    duration(
        "--disseminate-timeout",
        default_ms=_SIDECARS.round_timeout_ms,
        text="How long a round waits before silent streams are cut.",
        minimum="100ms",
        maximum="10m",
    ),
    duration(
        "--disseminate-coalesce-window",
        default_ms=_SIDECARS.coalesce_ms,
        text="How long changes are gathered after a round.",
        maximum="1m",
    ),
    duration(
        "--member-grace-period",
        default_ms=_SIDECARS.member_grace_ms,
        text="How long members that have not come back are kept after a change of leader.",
        maximum="1h",
    ),
    click.option(
        "--send-window",
        default=_SIDECARS.window_bytes,
        show_default=True,
        type=click.IntRange(64 * 1024),
        help="Bytes of orders in flight over all streams together.",
    ),
    click.option(
        "--max-streams",
        default=_SIDECARS.streams_max,
        show_default=True,
        type=click.IntRange(1),
        help="Streams per namespace; one more is refused.",
    ),
)

LOG_AND_INERT_FLAGS = stacked(
    click.option("--log-level", default="info", show_default=True, type=click.Choice(LEVELS), help="Least level."),
    boolean("--log-as-json", default=False, text="Log one JSON object per line."),
    click.option("--sentry-address", default="", hidden=True),
    click.option("--mode", default="standalone", hidden=True),
    click.option("--max-api-level", default=10, type=int, hidden=True),
    click.option("--min-api-level", default=0, type=int, hidden=True),
)


@click.command(cls=GoStyleCommand, context_settings={"max_content_width": 110})
@stacked(IDENTITY_FLAGS, LISTEN_FLAGS, SECURITY_FLAGS, SIDECAR_FLAGS, NATIVE_FLAGS, ETCD_FLAGS, LOG_AND_INERT_FLAGS)
@click.pass_context
def serve(context: click.Context, /, **flags: Any) -> None:
    """Run one replica of the placement server until SIGINT or SIGTERM."""
    configure_logging(flags["log_level"], as_json=flags["log_as_json"])
    settings = settings_from_flags(context, flags)
    for name, reason in INERT_FLAGS.items():
        if _given(context, name):
            log.warning("flag has no effect", flag="--" + name.replace("_", "-"), because=reason)
    context.exit(run(settings))


def _given(context: click.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source not in {None, click.core.ParameterSource.DEFAULT, click.core.ParameterSource.DEFAULT_MAP}


def settings_from_flags(context: click.Context, flags: dict[str, Any]) -> ServerSettings:
    """Check flags against each other. Raises click.UsageError naming flag and value."""
    tls = _tls_files(context, flags)
    _refuse_inert_security(context, flags)
    address = flags["listen_address"] or ("" if tls else LOOPBACK)
    if not tls and not is_loopback(address):
        log.warning("without TLS anyone who reaches the port can act as a sidecar", listen_address=address)
    return ServerSettings(
        replica_id=flags["replica_id"],
        listen_address=address,
        port=flags["port"],
        healthz_address=flags["healthz_listen_address"] or address,
        healthz_port=flags["healthz_port"],
        metrics_enabled=flags["enable_metrics"],
        metrics_address=flags["metrics_listen_address"] or address,
        metrics_port=flags["metrics_port"],
        metadata_enabled=flags["metadata_enabled"],
        tls=tls,
        feature_level=flags["feature_level"],
        trace_file=flags["trace_file"],
        trust_domain=flags["trust_domain"] if tls and _given(context, "trust_domain") else None,
        operators=frozenset(name for name in flags["operators"].split(",") if name),
        sidecars=SidecarSettings(
            replication_factor=flags["replication_factor"],
            round_timeout_ms=flags["disseminate_timeout"],
            coalesce_ms=flags["disseminate_coalesce_window"],
            member_grace_ms=flags["member_grace_period"],
            keepalive_time_ms=flags["keepalive_time"],
            keepalive_timeout_ms=flags["keepalive_timeout"],
            window_bytes=flags["send_window"],
            streams_max=flags["max_streams"],
        ),
        native=native_settings(context, flags),
        engine=_engine_settings(context, flags, tls),
    )


def _tls_files(context: click.Context, flags: dict[str, Any]) -> TlsFiles | None:
    names = {"tls_ca_file": "--tls-ca-file", "tls_cert_file": "--tls-cert-file", "tls_key_file": "--tls-key-file"}
    if flags["tls_enabled"]:
        missing = [flag for name, flag in names.items() if flags[name] is None]
        if missing:
            raise click.UsageError(f"--tls-enabled needs {', '.join(missing)}: certificates come from files only")
        return TlsFiles(flags["tls_ca_file"], flags["tls_cert_file"], flags["tls_key_file"])
    needing_tls = {"tls_cert_file": "--tls-cert-file", "tls_key_file": "--tls-key-file", "operators": "--operators"}
    for name, flag in needing_tls.items():
        if _given(context, name):
            raise click.UsageError(f"{flag} has no effect without --tls-enabled: refusing to start without TLS")
    for name, flag in (("tls_ca_file", "--trust-anchors-file"), ("trust_domain", "--trust-domain")):
        if _given(context, name):  # deployments of Dapr give these with TLS switched off as well
            log.warning("flag has no effect", flag=flag, because="TLS is off")
    return None


def _refuse_inert_security(context: click.Context, flags: dict[str, Any]) -> None:
    """A security flag of an engine that is not in use would protect nothing: say so instead of starting."""
    engine = EngineName(flags["engine"])
    for owner, prefix, names in (
        (EngineName.PYSYNCOBJ, "raft_tls", ("ca_file", "cert_file", "key_file")),
        (EngineName.ETCD, "etcd", ("ca_file", "cert_file", "key_file", "user", "password_file")),
    ):
        for name in names:
            if engine is not owner and _given(context, f"{prefix}_{name}"):
                flag = f"--{prefix}_{name}".replace("_", "-")
                raise click.UsageError(
                    f"{flag} has no effect with --engine {engine.value}: refusing to start without it"
                )
    if engine is EngineName.ETCD and not flags["etcd_ca_file"]:
        for name in ("cert_file", "key_file"):
            if flags[f"etcd_{name}"]:
                raise click.UsageError(f"--etcd-{name.replace('_', '-')} and TLS to etcd need --etcd-ca-file")


def _raft_tls(flags: dict[str, Any], tls: TlsFiles | None) -> TlsFiles | None:
    names = ("raft_tls_ca_file", "raft_tls_cert_file", "raft_tls_key_file")
    own = [flags[name] for name in names]
    if not any(own):
        return tls
    inherited = [tls.ca, tls.certificate, tls.key] if tls else [None, None, None]
    files = [mine or shared for mine, shared in zip(own, inherited, strict=True)]
    missing = ["--" + name.replace("_", "-") for name, file in zip(names, files, strict=True) if file is None]
    if missing:
        raise click.UsageError(f"TLS between replicas also needs {', '.join(missing)}")
    ca, certificate, key = (Path(file) for file in files if file is not None)
    return TlsFiles(ca, certificate, key)


def _engine_settings(context: click.Context, flags: dict[str, Any], tls: TlsFiles | None) -> EngineSettings:
    engine = EngineName(flags["engine"])
    if flags["inmem_store_enabled"] and _given(context, "inmem_store_enabled"):
        if _given(context, "engine") and engine is not EngineName.MEMORY:
            raise click.UsageError(f"--inmem-store-enabled=true contradicts --engine {engine.value}")
        log.warning("--inmem-store-enabled=true selects the memory engine: nothing survives this process")
        engine = EngineName.MEMORY
    cluster: tuple[tuple[str, str, int], ...] = flags["initial_cluster"]
    replica_id: str = flags["replica_id"]
    by_id = {name: (host, port) for name, host, port in cluster}
    if replica_id not in by_id:
        raise click.UsageError(f"--id {replica_id} is not in --initial-cluster, which lists {', '.join(by_id)}")
    if engine is EngineName.MEMORY and len(cluster) > 1:
        raise click.UsageError(f"the memory engine has one replica; --initial-cluster lists {len(cluster)}")
    if len(cluster) not in {1, 3, 5}:
        raise click.UsageError(f"--initial-cluster lists {len(cluster)} replicas; 1, 3 or 5 are supported")
    dial = {name: (host, port) for name, host, port in flags["raft_dial"]}
    unknown = sorted(set(dial) - set(by_id))
    if unknown:
        raise click.UsageError(f"--raft-dial names {', '.join(unknown)}, which --initial-cluster does not list")
    listen_host, listen_port = flags["raft_listen_address"] or by_id[replica_id]
    return EngineSettings(
        name=engine,
        peers=tuple(Peer(name, *dial.get(name, address)) for name, address in by_id.items()),
        data_dir=flags["data_dir"] or DEFAULT_DATA_ROOT / replica_id,
        listen_host=listen_host,
        listen_port=listen_port,
        tls=_raft_tls(flags, tls),
        allow_plaintext=flags["raft_allow_plaintext"],
        etcd_endpoints=tuple(part for part in flags["etcd_endpoints"].split(",") if part),
        etcd_prefix=flags["etcd_prefix"],
        etcd_user=flags["etcd_user"],
        etcd_password_file=flags["etcd_password_file"],
        etcd_ca=flags["etcd_ca_file"],
        etcd_certificate=flags["etcd_cert_file"],
        etcd_key=flags["etcd_key_file"],
        etcd_managed=flags["etcd_managed"],
        etcd_client_port_offset=flags["etcd_client_port_offset"],
        etcd_lease_s=flags["etcd_lease_s"],
        etcd_compact_history=flags["etcd_compact_history"],
    )


def run(settings: ServerSettings) -> int:
    """Serve until a signal or a failure; returns the exit code."""
    try:
        return asyncio.run(_serve(settings))
    except (StartError, EngineError, AddressError, TlsFileError) as error:
        print(f"callboard: error: {error}", file=sys.stderr)
        return 1


async def _serve(settings: ServerSettings) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stopping.is_set():
            log.warning("second signal: stopping at once", signal=number.name)
            os._exit(1)
        log.info("stopping", signal=number.name)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    replica = Replica(settings)
    await replica.start()
    stop = asyncio.ensure_future(stopping.wait())
    failed = asyncio.ensure_future(replica.wait_failed())
    try:
        await asyncio.wait({stop, failed}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            print(f"callboard: error: {failed.result()}", file=sys.stderr)
            return 1
        return 0
    finally:
        stop.cancel()
        failed.cancel()
        await replica.stop()
