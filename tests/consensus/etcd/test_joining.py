"""What a replica refuses at its start, and how it speaks to etcd: TLS, users, several endpoints."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import trustme

from callboard.consensus.etcd_engine import EtcdEngine, EtcdOptions, ManagedEtcd, TlsFiles
from callboard.consensus.etcd_engine.client import EtcdClient
from callboard.consensus.etcd_engine.errors import WrongEtcd
from callboard.consensus.interface import EngineLimits, EngineStartError
from harness.etcd import EtcdCluster
from harness.processes import PortLease
from tests.consensus.conformance import TIMEOUT_MS, settled
from tests.consensus.etcd.support import EtcdReplicas
from tests.consensus.machine import ListMachine

pytestmark = pytest.mark.process


def engine_on(etcd: EtcdCluster, directory: Path, replica_id: str = "a", **options: object) -> EtcdEngine:
    """An engine without links between."""
    settings = {"endpoints": etcd.endpoints, "directory": directory, "lease_ttl_s": 1, **options}
    return EtcdEngine(ListMachine(), replica_id=replica_id, options=EtcdOptions(**settings))  # type: ignore[arg-type]


async def refusal(engine: EtcdEngine) -> str:
    """The one line with which it refuses to start."""
    with pytest.raises(EngineStartError) as refused:
        await engine.start()
    await engine.stop()
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def test_a_directory_of_another_cluster_replica_or_prefix_is_refused(
    etcd1: EtcdCluster, etcd3: EtcdCluster, tmp_path: Path
) -> None:
    for etcd, name in ((etcd1, "one"), (etcd3, "three")):
        engine = engine_on(etcd, tmp_path / name, prefix="/joining/a")
        await engine.start()
        await engine.stop()
    assert "cluster id: directory says" in await refusal(engine_on(etcd3, tmp_path / "one", prefix="/joining/a"))
    assert "belongs to replica a, not b" in await refusal(engine_on(etcd1, tmp_path / "one", "b", prefix="/joining/a"))
    assert "belongs to etcd prefix /joining/a" in await refusal(engine_on(etcd1, tmp_path / "one", prefix="/other"))
    wanted = engine_on(etcd1, tmp_path / "new", prefix="/joining/a", cluster_id="mine")
    assert "cluster id: setting says mine" in await refusal(wanted)


async def test_a_known_directory_never_starts_on_an_empty_prefix(etcd1: EtcdCluster, tmp_path: Path) -> None:
    engine = engine_on(etcd1, tmp_path, prefix="/joining/lost")
    await engine.start()
    await engine.stop()
    await asyncio.to_thread(etcd1.delete, b"/joining/lost/")
    assert "etcd has no cluster under prefix /joining/lost" in await refusal(
        engine_on(etcd1, tmp_path, prefix="/joining/lost")
    )


async def test_a_prefix_with_strange_keys_is_refused(etcd1: EtcdCluster, tmp_path: Path) -> None:
    await asyncio.to_thread(etcd1.put, b"/joining/strange/thing", b"x")
    assert "holds /joining/strange/thing" in await refusal(engine_on(etcd1, tmp_path, prefix="/joining/strange"))


async def test_damaged_locked_and_foreign_directories_are_refused(etcd1: EtcdCluster, tmp_path: Path) -> None:
    engine = engine_on(etcd1, tmp_path / "used", prefix="/joining/used")
    await engine.start()
    assert "another process uses it" in await refusal(engine_on(etcd1, tmp_path / "used", prefix="/joining/used"))
    await engine.stop()
    identity = tmp_path / "used" / "identity.json"
    text = identity.read_text()
    identity.write_text(text.replace('"etcd"', '"other"'))
    assert "belongs to engine 'other'" in await refusal(engine_on(etcd1, tmp_path / "used", prefix="/joining/used"))
    identity.write_text(text[:20])
    assert "identity.json: damaged" in await refusal(engine_on(etcd1, tmp_path / "used", prefix="/joining/used"))
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "journal").write_text("another engine's")
    assert "holds journal but no identity.json" in await refusal(engine_on(etcd1, tmp_path / "strange"))
    (tmp_path / "file").write_text("")
    assert f"directory {tmp_path / 'file'}" in await refusal(engine_on(etcd1, tmp_path / "file"))


async def test_an_engine_starts_only_once(etcd1: EtcdCluster, tmp_path: Path) -> None:
    engine = engine_on(etcd1, tmp_path, prefix="/joining/once")
    await engine.start()
    with pytest.raises(EngineStartError):
        await engine.start()
    await engine.stop()
    with pytest.raises(EngineStartError):
        await engine.start()


async def test_unreachable_etcd_is_named(tmp_path: Path) -> None:
    lease = PortLease(1)
    endpoint = f"127.0.0.1:{lease.ports[0]}"
    options = EtcdOptions(directory=tmp_path, endpoints=(endpoint,), start_timeout_ms=300)
    message = await refusal(EtcdEngine(ListMachine(), replica_id="a", options=options))
    assert endpoint in message
    assert "within 300 ms" in message
    lease.release()


async def test_calls_go_to_the_endpoint_that_answers(etcd1: EtcdCluster) -> None:
    lease = PortLease(1)
    client = EtcdClient((f"127.0.0.1:{lease.ports[0]}", *etcd1.endpoints))
    await client.open()
    await client.range(b"x", timeout_ms=TIMEOUT_MS)
    assert client.endpoint == etcd1.endpoints[0]
    await client.close()
    lease.release()


async def test_endpoints_of_two_etcd_clusters_are_noticed(etcd1: EtcdCluster, etcd3: EtcdCluster) -> None:
    client = EtcdClient((etcd1.endpoints[0], etcd3.endpoints[0]))
    await client.open()
    await client.range(b"x", timeout_ms=TIMEOUT_MS)
    client._turn_from(client._endpoint())
    with pytest.raises(WrongEtcd, match="must belong to one etcd cluster"):
        await client.range(b"x", timeout_ms=TIMEOUT_MS)
    await client.close()


async def test_user_and_password(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path / "etcd", 1) as etcd:
        cluster = EtcdReplicas(["a", "b"], etcd, tmp_path, user="keeper", password="s3cret")
        etcd.add_user("keeper", "s3cret", prefix=cluster.prefix + "/", root_password="r00t")
        async with cluster:
            await cluster.append(b"one")
            etcd.kill(0)
            etcd.start(0)  # which forgets the tokens that it gave out
            await asyncio.to_thread(etcd.wait_healthy)
            await cluster.append(b"two")
            assert await cluster.engine(await cluster.leader()).write_snapshot()
            assert await settled(cluster) == [b"one", b"two"]
            wrong = engine_on(etcd, tmp_path / "w", "w", prefix=cluster.prefix, user="keeper", password="wrong")
            assert "authentication failed" in await refusal(wrong)
            assert "user name is empty" in await refusal(engine_on(etcd, tmp_path / "n", "n", prefix=cluster.prefix))
            elsewhere = engine_on(etcd, tmp_path / "e", "e", prefix="/elsewhere", user="keeper", password="s3cret")
            assert "permission denied" in await refusal(elsewhere)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    """Files of our own certificate authority, and of another one."""
    files = {}
    for owner in ("ours", "theirs"):
        folder = tmp_path_factory.mktemp(owner)
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(folder / "cert.pem", append=True)
        files[owner] = TlsFiles(ca=folder / "ca.pem", certificate=folder / "cert.pem", key=folder / "key.pem")
    return files


async def test_tls(tls: dict[str, TlsFiles], tmp_path: Path) -> None:
    ours, theirs = tls["ours"], tls["theirs"]
    with EtcdCluster(tmp_path / "etcd", 1, tls=ours) as etcd:
        async with EtcdReplicas(["a"], etcd, tmp_path, tls=ours) as cluster:
            await cluster.append(b"one")
            assert await settled(cluster) == [b"one"]
            for name, files in {
                "no certificate": TlsFiles(ca=ours.ca),
                "another authority's server": theirs,
                "another authority's client": TlsFiles(ca=ours.ca, certificate=theirs.certificate, key=theirs.key),
            }.items():
                engine = engine_on(etcd, tmp_path / name, "x", tls=files, start_timeout_ms=700)
                assert etcd.endpoints[0] in await refusal(engine), name
            assert etcd.endpoints[0] in await refusal(engine_on(etcd, tmp_path / "plain", "p", start_timeout_ms=700))
            missing = TlsFiles(ca=tmp_path / "missing.pem")
            assert "missing.pem" in await refusal(engine_on(etcd, tmp_path / "m", "m", tls=missing))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "endpoints"),
        ({"endpoints": ("127.0.0.1",)}, "endpoint '127.0.0.1' is not host:port"),
        ({"endpoints": ("http://127.0.0.1:2379",)}, "not host:port"),
        ({"endpoints": ("127.0.0.1:2379", "127.0.0.1:2379")}, "twice"),
        ({"endpoints": ("etcd.example:2379",)}, "etcd host etcd.example is not this machine alone"),
        ({"managed": ManagedEtcd((), listen_host="0.0.0.0")}, "etcd host 0.0.0.0"),
        ({"managed": ManagedEtcd(()), "user": "u", "password": "p"}, "managed mode protects etcd by TLS"),
        ({"managed": ManagedEtcd(()), "tls": TlsFiles(ca=Path("ca"))}, "managed mode needs them"),
        ({"endpoints": ("127.0.0.1:2379",), "managed": ManagedEtcd(())}, "not both"),
        ({"endpoints": ("127.0.0.1:2379",), "prefix": "callboard/"}, "prefix"),
        ({"endpoints": ("127.0.0.1:2379",), "user": "u"}, "user and password"),
        ({"endpoints": ("127.0.0.1:2379",), "lease_ttl_s": 0}, "lease_ttl_s"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        EtcdOptions(directory=tmp_path, **settings)  # type: ignore[arg-type]


def test_bad_names_and_limits_are_named(tmp_path: Path) -> None:
    options = EtcdOptions(directory=tmp_path, endpoints=("127.0.0.1:2379",))
    with pytest.raises(ValueError, match="replica id 'a/b'"):
        EtcdEngine(ListMachine(), replica_id="a/b", options=options)
    with pytest.raises(ValueError, match="command_bytes"):
        EtcdEngine(ListMachine(), replica_id="a", options=options, limits=EngineLimits(command_bytes=2**21))
    assert "s3cret" not in repr(EtcdOptions(directory=tmp_path, endpoints=("[::1]:1",), user="u", password="s3cret"))
