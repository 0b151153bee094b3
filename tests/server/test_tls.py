"""TLS on every port: who may connect, whose name counts, and files that cannot be used."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import pytest
from aiohttp import ClientSession
from attrs import evolve

from callboard.protos.generated import placement_pb2
from callboard.server.replica import Replica
from callboard.server.settings import ServerSettings, TlsFiles
from callboard.server.tls import TlsFileError, http_context
from tests.certificates import Authority
from tests.server.support import DEADLINE_S, HandSidecar, memory_settings, report_of, serving


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def server_files(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    ca, certificate, key = authority.write(tmp_path_factory.mktemp("tls"), "localhost", "127.0.0.1")
    return TlsFiles(ca, certificate, key)


@pytest.fixture
def settings(server_files: TlsFiles) -> ServerSettings:
    return evolve(memory_settings(), tls=server_files)


def credentials(
    authority: Authority, identity: str | None, trusted: Authority | None = None
) -> grpc.ChannelCredentials:
    """Of a client that trusts `trusted` and whose certificate names a SPIFFE id (or that has no certificate)."""
    root = (trusted or authority).certificate_pem
    if identity is None:
        return grpc.ssl_channel_credentials(root)
    certificate, key = authority.issue(identity)
    return grpc.ssl_channel_credentials(root, key, certificate)


async def ending(replica: Replica, client: grpc.ChannelCredentials, report: placement_pb2.Host) -> tuple[str, str]:
    hand = HandSidecar(replica.grpc_port, client)
    try:
        await hand.send(report)
        await hand.call.done_writing()
        return await hand.ending()
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    finally:
        await hand.close()


async def test_a_sidecar_with_its_certificate_is_served(authority: Authority, settings: ServerSettings) -> None:
    report = report_of("10.0.0.1:50002", "Cart")
    async with serving(settings) as replica:
        hand = HandSidecar(replica.grpc_port, credentials(authority, "spiffe://cluster.local/ns/default/shop"))
        try:
            await hand.send(report)
            await hand.complete_round(report)
        finally:
            await hand.close()


@pytest.mark.parametrize(
    ("identity", "code", "text"),
    [
        (
            "spiffe://cluster.local/ns/default/other",
            "PERMISSION_DENIED",
            "provided app ID shop doesn't match the one in the SPIFFE ID (other)",
        ),
        (
            "spiffe://cluster.local/ns/prod/shop",
            "PERMISSION_DENIED",
            "provided client namespace default doesn't match the one in the SPIFFE ID (prod)",
        ),
        ("shop.example", "UNAUTHENTICATED", "failed to get client ID from context"),
    ],
)
async def test_a_sidecar_speaks_only_for_its_certificate(
    authority: Authority, settings: ServerSettings, identity: str, code: str, text: str
) -> None:
    async with serving(settings) as replica:
        answer = await ending(replica, credentials(authority, identity), report_of("10.0.0.1:50002", "Cart"))
        assert answer == (code, text)
        assert "default" not in replica.state.namespaces, "a refused sidecar left a trace"


async def test_a_trust_domain_that_was_given_is_honoured(authority: Authority, settings: ServerSettings) -> None:
    report = report_of("10.0.0.1:50002", "Cart")
    client = credentials(authority, "spiffe://elsewhere/ns/default/shop")
    async with serving(evolve(settings, trust_domain="cluster.local")) as replica:
        code, text = await ending(replica, client, report)
        assert (code, text) == (
            "PERMISSION_DENIED",
            "SPIFFE ID of trust domain elsewhere; only cluster.local is accepted",
        )
    async with serving(settings) as replica:
        assert await ending(replica, client, report) == ("UNKNOWN", "EOF"), "any domain, as in Dapr's placement"


async def test_strangers_do_not_get_in(authority: Authority, settings: ServerSettings) -> None:
    stranger = Authority()
    report = report_of("10.0.0.1:50002", "Cart")
    async with serving(settings) as replica:
        foreign = credentials(stranger, "spiffe://cluster.local/ns/default/shop", trusted=authority)
        for client in (credentials(authority, None), foreign):
            code, _ = await ending(replica, client, report)
            assert code == "UNAVAILABLE"


async def test_admin_http_is_covered_and_probes_need_no_certificate(
    authority: Authority, settings: ServerSettings, tmp_path: Path
) -> None:
    without = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    with_certificate = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    _, certificate, key = authority.write(tmp_path, "operator.example")
    with_certificate.load_cert_chain(certificate, key)
    async with serving(settings) as replica, ClientSession() as http:
        base = f"https://127.0.0.1:{replica.healthz_port}"
        for path, context, status in (
            ("/healthz", without, 200),
            ("/readyz", without, 200),
            ("/placement/state", without, 403),
            ("/metrics", without, 403),
            ("/placement/state", with_certificate, 200),
            ("/metrics", with_certificate, 200),
        ):
            async with http.get(base + path, ssl=context) as answer:
                assert answer.status == status, path


@pytest.mark.parametrize("which", ["ca", "certificate", "key"])
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_unusable_files_are_named(server_files: TlsFiles, tmp_path: Path, which: str, damage: str) -> None:
    bad = tmp_path / "bad.pem"
    if damage == "garbage":
        bad.write_text("no PEM at all")
    with pytest.raises(TlsFileError, match=r"bad\.pem") as refused:
        http_context(evolve(server_files, **{which: bad}))
    assert "\n" not in str(refused.value)


def test_a_key_that_does_not_fit_is_named(server_files: TlsFiles, tmp_path: Path, authority: Authority) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(authority.issue("localhost")[1])
    with pytest.raises(TlsFileError, match=r"no matching PEM pair"):
        http_context(evolve(server_files, key=other))


@pytest.mark.parametrize(
    ("name", "allowed"), [("spiffe://cluster.local/ns/default/shop", False), ("ops.example", True)]
)
async def test_backups_are_for_named_operators_only(
    authority: Authority, settings: ServerSettings, name: str, allowed: bool
) -> None:
    settings = evolve(settings, operators=frozenset({"ops.example"}))
    async with serving(settings) as replica:
        options = [("grpc.ssl_target_name_override", "localhost")]
        target = f"127.0.0.1:{replica.grpc_port}"
        async with grpc.aio.secure_channel(target, credentials(authority, name), options=options) as channel:
            method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
                "/callboard.admin.v1.Admin/Backup"
            )
            call = method(b"", timeout=DEADLINE_S)
            if allowed:
                assert await call.read()
                return
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
