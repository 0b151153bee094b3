"""Flags of `callboard serve` for native hosts."""

from __future__ import annotations

from typing import Any

import click

from callboard.cli.types import DurationMs, NamedAddresses, stacked
from callboard.core.slot_records import SLOT_BITS_DEFAULT, SLOT_BITS_MAX, SLOT_BITS_MIN, HandoffSettings
from callboard.core.versions import Policy
from callboard.server.settings import NativeSettings

NATIVE_FLAGS = stacked(
    click.option(
        "--native-policy",
        type=click.Choice([Policy.EXCLUSIVE.value, Policy.EVENTUAL.value]),
        default=Policy.EXCLUSIVE.value,
        show_default=True,
        help="Policy of namespaces that are created by the first hello of a native host.",
    ),
    click.option(
        "--slot-bits",
        type=click.IntRange(SLOT_BITS_MIN, SLOT_BITS_MAX),
        default=SLOT_BITS_DEFAULT,
        show_default=True,
        help="Likewise: 2^bits slots for each actor type.",
    ),
    click.option("--lease", "lease_ms", type=DurationMs("1ms"), default="6s", show_default=True, help="Likewise."),
    click.option("--drain", "drain_ms", type=DurationMs(), default="1500ms", show_default=True, help="Likewise."),
    click.option("--margin", "margin_ms", type=DurationMs(), default="500ms", show_default=True, help="Likewise."),
    click.option("--tick", "tick_ms", type=DurationMs("1ms"), default="500ms", show_default=True, help="Likewise."),
    click.option(
        "--clock-rate-error-ppm",
        "rate_error_ppm",
        type=click.IntRange(0, 500_000),
        default=10_000,
        show_default=True,
        help="Likewise: bound of each clock's rate error, in parts per million.",
    ),
    click.option(
        "--failure-timeout",
        "failure_timeout_ms",
        type=DurationMs("1ms"),
        default="7s",
        show_default=True,
        help="Likewise: a native host not heard of for so long is removed.",
    ),
    click.option(
        "--max-isolation",
        "max_isolation_ms",
        type=DurationMs(),
        default="0",
        show_default=True,
        help="Likewise, policy eventual: a host without contact for so long stops serving; 0 for never.",
    ),
    click.option(
        "--fronts",
        type=click.Choice(["all", "leader-only"]),
        default="all",
        show_default=True,
        help="Which replicas hold sessions of native hosts: any, relaying to the leader, or only the leader itself.",
    ),
    click.option(
        "--replicas",
        type=NamedAddresses(),
        help="ID=HOST:PORT,... of the replicas' gRPC services, for fronts. "
        "[default: the hosts of --initial-cluster with this replica's --port]",
    ),
)


def native_settings(context: click.Context, flags: dict[str, Any]) -> NativeSettings:
    """Check the flags against each other. Raises click.UsageError with the arithmetic."""
    policy = Policy(flags["native_policy"])
    handoff = HandoffSettings(
        lease_ms=flags["lease_ms"],
        drain_ms=flags["drain_ms"],
        margin_ms=flags["margin_ms"],
        tick_ms=flags["tick_ms"],
        rate_error_ppm=flags["rate_error_ppm"],
        failure_timeout_ms=flags["failure_timeout_ms"],
        max_isolation_ms=flags["max_isolation_ms"],
    )
    problem = handoff.creation_problem(policy)
    if problem is not None:
        flags_named = "--lease, --drain, --margin, --tick, --failure-timeout and --max-isolation"
        raise click.UsageError(f"{flags_named} do not fit: {problem}")
    return NativeSettings(
        policy=policy,
        slot_bits=flags["slot_bits"],
        handoff=handoff,
        fronts=flags["fronts"] == "all",
        replicas=_replicas(context, flags),
    )


def _replicas(context: click.Context, flags: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Where the gRPC services of all replicas are. Only the embedded engine knows its group by itself."""
    if flags["replicas"]:
        return tuple((name, _address(host, port)) for name, host, port in flags["replicas"])
    if context.get_parameter_source("initial_cluster") is click.core.ParameterSource.DEFAULT:
        return ()
    return tuple((name, _address(host, flags["port"])) for name, host, _ in flags["initial_cluster"])


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
