"""`callboard serve`: upstream's flags with their defaults, and wrong ones answered by one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from callboard.cli import serve as serve_module
from callboard.cli.main import main
from callboard.core.durations import format_duration_ms, parse_duration_ms
from callboard.server.settings import EngineName, ServerSettings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ServerSettings]:
    """Settings with which a server would have been started."""
    settings: list[ServerSettings] = []

    def run(given: ServerSettings) -> int:
        settings.append(given)
        return 0

    monkeypatch.setattr(serve_module, "run", run)
    monkeypatch.setattr(serve_module, "configure_logging", lambda *_args, **_options: None)
    return settings


def invoke(*arguments: str, environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, ["serve", *arguments], env=environment)


UPSTREAM_DEFAULTS: dict[str, Any] = {
    "id": "dapr-placement-0",
    "initial-cluster": "dapr-placement-0=127.0.0.1:8201",
    "port": 50005,
    "healthz-port": 8080,
    "tls-enabled": "false",
    "metadata-enabled": "false",
    "replicationFactor": 100,
    "keepalive-time": "2s",
    "keepalive-timeout": "3s",
    "disseminate-timeout": "8s",
    "disseminate-coalesce-window": "0s",
    "trust-domain": "localhost",
    "mode": "standalone",
    "max-api-level": 10,
    "min-api-level": 0,
    "log-level": "info",
    "log-as-json": "false",
    "enable-metrics": "true",
    "metrics-port": 9090,
}


@pytest.mark.parametrize("flag", sorted(UPSTREAM_DEFAULTS))
def test_upstream_flags_keep_their_defaults(flag: str) -> None:
    options = {name: option for option in serve_module.serve.params for name in option.opts}
    option = options[f"--{flag}"]
    assert option.default == UPSTREAM_DEFAULTS[flag]


@pytest.mark.parametrize("dash", ["-", "--"])
def test_every_upstream_flag_is_accepted_with_one_dash_or_two(
    dash: str, started: list[ServerSettings], tmp_path: Path
) -> None:
    given = {**UPSTREAM_DEFAULTS, "listen-address": "127.0.0.1", "healthz-listen-address": "127.0.0.1"}
    given |= {"metrics-listen-address": "127.0.0.1", "sentry-address": "dapr-sentry:443"}
    given |= {"raft-logstore-path": str(tmp_path), "inmem-store-enabled": "false", "trust-anchors-file": "ca.pem"}
    result = invoke(*(f"{dash}{name}={value}" for name, value in given.items()))
    assert result.exit_code == 0, result.output
    assert started[0].engine.data_dir == tmp_path
    assert started[0].engine.name is EngineName.PYSYNCOBJ


def test_values_may_follow_a_space_and_booleans_need_none(started: list[ServerSettings]) -> None:
    result = invoke("-port", "6000", "-metadata-enabled", "--disseminate-timeout", "1m30s", "-log-as-json")
    assert result.exit_code == 0, result.output
    settings = started[0]
    assert (settings.port, settings.metadata_enabled) == (6000, True)
    assert settings.sidecars.round_timeout_ms == 90_000


def test_environment_variables_count(started: list[ServerSettings]) -> None:
    environment = {"DAPR_PLACEMENT_METADATA_ENABLED": "true", "CALLBOARD_SERVE_PORT": "7001"}
    assert invoke(environment=environment).exit_code == 0
    assert (started[0].metadata_enabled, started[0].port) == (True, 7001)


def test_without_tls_everything_listens_on_loopback_unless_told(started: list[ServerSettings]) -> None:
    assert invoke().exit_code == 0
    assert invoke("--listen-address", "0.0.0.0").exit_code == 0
    assert [s.listen_address for s in started] == ["127.0.0.1", "0.0.0.0"]
    assert [s.healthz_address for s in started] == ["127.0.0.1", "0.0.0.0"]


def test_tls_files_select_tls_and_all_addresses(started: list[ServerSettings]) -> None:
    files = ("--tls-ca-file=ca", "--tls-cert-file=cert", "--tls-key-file=key")
    assert invoke("--tls-enabled", *files).exit_code == 0
    assert started[0].tls is not None
    assert started[0].listen_address == ""
    assert started[0].engine.tls == started[0].tls
    assert started[0].trust_domain is None
    assert invoke("--tls-enabled", *files, "--trust-domain=cluster.local").exit_code == 0
    assert started[1].trust_domain == "cluster.local"


def test_durable_by_default_and_memory_only_when_asked(started: list[ServerSettings]) -> None:
    assert invoke("--id=a", "--initial-cluster=a=127.0.0.1:1").exit_code == 0
    assert invoke("--inmem-store-enabled=true").exit_code == 0
    assert invoke("--inmem-store-enabled=false").exit_code == 0
    assert [s.engine.name for s in started] == [EngineName.PYSYNCOBJ, EngineName.MEMORY, EngineName.PYSYNCOBJ]
    assert started[0].engine.data_dir == Path("/var/lib/callboard/a")


def test_dial_addresses_are_apart_from_identities(started: list[ServerSettings]) -> None:
    cluster = "a=10.0.0.1:8201,b=10.0.0.2:8201,c=[::1]:8201"
    result = invoke(
        "--id=a", f"--initial-cluster={cluster}", "--raft-dial=b=127.0.0.1:99", "--raft-listen-address=[::]:7"
    )
    assert result.exit_code == 0, result.output
    engine = started[0].engine
    assert {peer.replica_id: (peer.host, peer.port) for peer in engine.peers} == {
        "a": ("10.0.0.1", 8201),
        "b": ("127.0.0.1", 99),
        "c": ("::1", 8201),
    }
    assert (engine.listen_host, engine.listen_port) == ("::", 7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port=99999",), "--port"),
        (("--port=http",), "--port"),
        (("--disseminate-timeout=soon",), "'soon' is not a duration"),
        (("--disseminate-timeout=8",), "'8' is not a duration"),
        (("--keepalive-time=11s",), "11s is out of range: 1s to 10s is allowed"),
        (("--keepalive-timeout=999ms",), "999ms is out of range"),
        (("--tls-enabled=perhaps",), "'perhaps' is not true or false"),
        (("--id=z",), "--id z is not in --initial-cluster, which lists dapr-placement-0"),
        (("--initial-cluster=a",), "'a' is not of the form id=host:port"),
        (("--initial-cluster=a=b:1,a=c:2",), "id 'a' stands twice"),
        (("--initial-cluster=a=::1:5",), "write an IPv6 address in brackets"),
        (("--id=a", "--initial-cluster=a=b:1,c=d:2"), "lists 2 replicas; 1, 3 or 5"),
        (("--raft-dial=x=127.0.0.1:1",), "--raft-dial names x"),
        (("--tls-enabled",), "--tls-enabled needs --tls-ca-file, --tls-cert-file, --tls-key-file"),
        (("--tls-cert-file=c",), "--tls-cert-file has no effect without --tls-enabled"),
        (("--operators=ops",), "--operators has no effect without --tls-enabled"),
        (("--etcd-ca-file=ca",), "--etcd-ca-file has no effect with --engine pysyncobj"),
        (("--etcd-user=u",), "--etcd-user has no effect with --engine pysyncobj"),
        (("--engine=etcd", "--raft-tls-key-file=k"), "--raft-tls-key-file has no effect with --engine etcd"),
        (("--engine=etcd", "--etcd-cert-file=c"), "need --etcd-ca-file"),
        (("--inmem-store-enabled=true", "--engine=etcd"), "contradicts --engine etcd"),
        (("--engine=memory", "--id=a", "--initial-cluster=a=b:1,c=d:2,e=f:3"), "the memory engine has one replica"),
        (("--engine=zookeeper",), "--engine"),
        (("--replicationFactor=0",), "--replicationFactor"),
        (("--no-such-flag",), "--no-such-flag"),
        (("--log-level=loud",), "--log-level"),
    ],
)
def test_wrong_flags_are_refused_with_flag_and_value(
    arguments: tuple[str, ...], words: str, started: list[ServerSettings]
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    message = result.output.strip().splitlines()[-1]
    assert message.startswith("Error: ")
    assert words in message
    assert not started


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("0", 0), ("8s", 8000), ("1m30s", 90_000), ("500ms", 500), ("1.5s", 1500), ("1h", 3_600_000), (".5s", 500)],
)
def test_durations(text: str, milliseconds: int) -> None:
    assert parse_duration_ms(text) == milliseconds
    assert parse_duration_ms(format_duration_ms(milliseconds)) == milliseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "-1s", "1s2", "1s ", "0.1ms", "1e3s", "٣s"])
def test_malformed_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|whole number"):
        parse_duration_ms(text)


def test_upstream_prints_durations_this_way() -> None:
    shown = [format_duration_ms(ms) for ms in (0, 500, 8000, 90_000, 3_600_000, 1500, -8000)]
    assert shown == ["0s", "500ms", "8s", "1m30s", "1h0m0s", "1.5s", "-8s"]


def test_help_explains_itself() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for words in ("--raft-logstore-path", "/var/lib/callboard/ID", "127.0.0.1 without"):
        assert words in result.output


def test_inert_flags_are_said_to_be_inert() -> None:
    names = {option.name for option in serve_module.serve.params if isinstance(option, click.Option)}
    assert set(serve_module.INERT_FLAGS) <= names
