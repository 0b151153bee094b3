"""Hosts with certificates: a certificate names namespace and host, towards replicas and towards other hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from attrs import evolve

from callboard.core.slot_records import HandoffSettings
from callboard.host import (
    Actor,
    BadCallError,
    Host,
    HostRefusedError,
    HostSettings,
    HostTls,
    MemoryStore,
    NotServedError,
    Router,
    method,
)
from callboard.server.replica import Replica
from callboard.server.settings import NativeSettings, TlsFiles
from tests.certificates import Authority
from tests.server.support import memory_settings, serving, until

QUICK = HandoffSettings(lease_ms=1500, drain_ms=300, margin_ms=200, tick_ms=100, failure_timeout_ms=2500)
STORE = MemoryStore()


class Lamp(Actor):
    """Says which host it is on."""

    @method
    async def where(self) -> str:
        return str(self.context.actor_id)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def replica(authority: Authority, tmp_path: Path) -> AsyncIterator[Replica]:
    ca, certificate, key = authority.write(tmp_path, "localhost", "127.0.0.1")
    settings = evolve(
        memory_settings(), tls=TlsFiles(ca, certificate, key), native=NativeSettings(slot_bits=4, handoff=QUICK)
    )
    async with serving(settings) as replica:
        yield replica


def files(authority: Authority, folder: Path, *names: str) -> HostTls:
    folder.mkdir()
    return HostTls(*authority.write(folder, *names))


def host_of(replica: Replica, name: str, tls: HostTls | None) -> Host:
    return Host(
        listen="127.0.0.1:0",
        cluster=f"127.0.0.1:{replica.grpc_port}",
        actors=[Lamp],
        name=name,
        store=STORE,
        tls=tls,
        settings=HostSettings(linger_ms=0, stop_grace_ms=100),
    )


def identity(name: str, namespace: str = "default") -> tuple[str, str]:
    """Names in a host's certificate."""
    return f"spiffe://example.org/ns/{namespace}/{name}", "127.0.0.1"


async def test_hosts_call_each_other_under_their_names(replica: Replica, authority: Authority, tmp_path: Path) -> None:
    one = host_of(replica, "h1", files(authority, tmp_path / "h1", *identity("h1")))
    two = host_of(replica, "h2", files(authority, tmp_path / "h2", *identity("h2")))
    async with one, two:
        await until(lambda: one.view is not None and len(one.view.hosts) == 2, "both are in the table")
        for number in range(20):
            assert await one.client.actor(Lamp, f"a{number}").where() == f"a{number}"
        assert one.client.figures.local > 0
        assert one.client.figures.remote > 0


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (identity("h2"), "h2"),
        (identity("h1", "elsewhere"), "elsewhere"),
        (("127.0.0.1",), "no SPIFFE id"),
    ],
)
async def test_a_host_joins_only_under_its_own_name(
    replica: Replica, authority: Authority, tmp_path: Path, names: tuple[str, ...], words: str
) -> None:
    host = host_of(replica, "h1", files(authority, tmp_path / "host", *names))
    with pytest.raises(HostRefusedError, match=words):
        await host.start()
    assert not any(namespace.members for namespace in replica.state.native.values())


async def test_only_hosts_of_the_namespace_may_call(replica: Replica, authority: Authority, tmp_path: Path) -> None:
    tls = evolve(files(authority, tmp_path / "h1", *identity("h1")), trust_domain="example.org")
    async with host_of(replica, "h1", tls):
        friend = files(authority, tmp_path / "friend", *identity("router"))
        cluster = f"127.0.0.1:{replica.grpc_port}"
        async with Router(cluster=cluster, credentials=friend.channel()) as router:
            await until(lambda: router.view is not None and len(router.view.hosts) == 1, "the router has a table")
            assert await router.client.actor(Lamp, "a").where() == "a"
            stranger = files(authority, tmp_path / "stranger", *identity("router", "elsewhere"))
            router.client.credentials = stranger.channel()
            await router.client.close()
            with pytest.raises(BadCallError, match=r"ns/elsewhere/router, not of a host of namespace default"):
                await router.client.actor(Lamp, "a").where()
            for domain, path in (("example.org/ns/elsewhere", "router/ns/default/x"), ("other.org/ns/default", "r")):
                crafted = files(
                    authority, tmp_path / domain.replace("/", "-"), f"spiffe://{domain}/{path}", "127.0.0.1"
                )
                router.client.credentials = crafted.channel()
                await router.client.close()
                with pytest.raises(BadCallError, match=f"the certificate is of spiffe://{domain}"):
                    await router.client.actor(Lamp, "a").where()
            router.client.credentials = None
            await router.client.close()
            with pytest.raises(NotServedError):
                await router.client.actor(Lamp, "a", timeout_ms=500).where()
