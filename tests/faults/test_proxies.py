"""Every kind of fault on a link, through a real toxiproxy-server to a real echo server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from harness.faults import proxies
from harness.faults.proxies import Change, Direction, Link, Network, ProxyError
from harness.processes import PORTS

DEADLINE_S = 30.0
SILENCE_S = 0.3
"""How long a black hole is listened to. Nothing may come, however long one waits."""


@pytest.fixture
async def echo() -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError), closing(writer.transport):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()

    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"{host}:{port}"
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Caller:
    """One connection through a link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def dial(cls, link: Link) -> Caller:
        host, port = link.address.rsplit(":", 1)
        return cls(*await asyncio.open_connection(host, int(port)))

    async def ask(self, data: bytes = b"ping") -> bytes:
        """What comes back; empty at the end of the connection."""
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.readexactly(len(data))
            except (asyncio.IncompleteReadError, ConnectionError):
                return b""

    async def hears_nothing(self, data: bytes = b"ping") -> bool:
        self.writer.write(data)
        try:
            async with asyncio.timeout(SILENCE_S):
                await self.reader.readexactly(1)
        except TimeoutError:
            return True
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        return False

    def close(self) -> None:
        self.writer.transport.abort()


async def test_a_link_that_is_closed_for_a_time_keeps_its_port(network: Network, tmp_path: Path) -> None:
    """The kernel gives none of these ports to outgoing connections, and other runs do not get them either."""
    links = [await network.connect("a", f"b{number}", "127.0.0.1:9") for number in range(proxies.PORTS_AT_ONCE + 2)]
    ports = {int(link.address.rsplit(":", 1)[1]) for link in links}
    assert len(ports) == len(links)
    assert ports <= set(PORTS)
    await network.apply(Change(link, Link.refuse) for link in links)
    async with Network(tmp_path / "other") as other:
        theirs = [await other.connect("a", f"b{number}", "127.0.0.1:9") for number in range(proxies.PORTS_AT_ONCE + 2)]
        assert not ports & {int(link.address.rsplit(":", 1)[1]) for link in theirs}
        await network.heal()


async def test_refusing_ends_open_connections_and_new_ones(network: Network, echo: str) -> None:
    link = await network.connect("a", "b", echo)
    caller = await Caller.dial(link)
    assert await caller.ask() == b"ping"
    await network.apply([Change(link, Link.refuse)])
    assert await caller.ask() == b""
    with pytest.raises(ConnectionRefusedError):
        await Caller.dial(link)
    await network.heal()
    caller.close()
    caller = await Caller.dial(link)
    assert await caller.ask() == b"ping"
    caller.close()


@pytest.mark.parametrize("directions", [(Direction.FORWARD,), (Direction.BACKWARD,), proxies.BOTH])
async def test_a_black_hole_swallows_and_heals(network: Network, echo: str, directions: tuple[Direction, ...]) -> None:
    link = await network.connect("a", "b", echo)
    caller = await Caller.dial(link)
    assert await caller.ask() == b"ping"
    await network.apply([Change(link, lambda link: link.black_hole(directions))])
    assert await caller.hears_nothing()
    late = await Caller.dial(link)
    assert await late.hears_nothing()
    await network.heal()
    healed = await Caller.dial(link)
    assert await healed.ask() == b"ping"
    for open_one in (caller, late, healed):
        open_one.close()


async def test_a_connection_ends_in_the_middle_of_what_is_sent(network: Network, echo: str) -> None:
    link = await network.connect("a", "b", echo)
    await network.apply([Change(link, lambda link: link.end_after(10))])
    caller = await Caller.dial(link)
    assert await caller.ask(b"x" * 64) == b""
    caller.close()


async def test_slices_delays_and_limits_lose_nothing(network: Network, echo: str) -> None:
    link = await network.connect("a", "b", echo)
    await network.apply(
        [
            Change(link, lambda link: link.slice(7)),
            Change(link, lambda link: link.delay(20)),
            Change(link, lambda link: link.throttle(500)),
        ]
    )
    caller = await Caller.dial(link)
    data = bytes(range(256)) * 16
    assert await caller.ask(data) == data
    caller.close()


async def test_a_reset_ends_connections_and_new_ones_are_welcome(network: Network, echo: str) -> None:
    link = await network.connect("a", "b", echo)
    caller = await Caller.dial(link)
    assert await caller.ask() == b"ping"
    await network.apply([Change(link, Link.reset)])
    assert await caller.ask() == b""
    for _ in range(2):
        caller.close()
        caller = await Caller.dial(link)
        assert await caller.ask() == b"ping", "it works between resets"
        await network.apply([Change(link, Link.reset)])
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(DEADLINE_S):
                await caller.reader.read()
    await network.heal()
    again = await Caller.dial(link)
    assert await again.ask() == b"ping"
    caller.close()
    again.close()


async def test_a_reset_does_not_open_a_link_that_is_refused(network: Network, echo: str) -> None:
    link = await network.connect("a", "b", echo)
    await network.apply([Change(link, Link.refuse)])
    await network.apply([Change(link, Link.reset)])
    with pytest.raises(ConnectionRefusedError):
        await Caller.dial(link)


async def test_links_between_two_sides(network: Network, echo: str) -> None:
    for source in "abc":
        for target in "abc":
            if source != target:
                await network.connect(source, target, echo)
    assert sorted(link.name for link in network.between("a", "bc")) == ["a->b", "a->c", "b->a", "c->a"]


async def test_wrong_names_and_a_port_in_use_are_refused(network: Network, echo: str) -> None:
    with pytest.raises(ProxyError, match="'a/b' is no name"):
        await network.connect("a/b", "c", echo)
    link = await network.connect("a", "b", echo)
    with pytest.raises(ProxyError, match="a link a->b already"):
        await network.connect("a", "b", echo)
    with pytest.raises(ProxyError, match="500"):
        await asyncio.to_thread(network._api.create, upstream=echo, name="other", listen=link.address)


async def test_a_missing_server_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(proxies, "TOOL", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CALLBOARD_TOXIPROXY", raising=False)
    with pytest.raises(ProxyError, match="run `make setup`"):
        async with Network(tmp_path):
            pass


async def test_faults_of_two_lanes_at_one_link_do_not_trip_over_each_other(network: Network, echo: str) -> None:
    link = await network.connect("a", "b", echo)
    both = (Direction.FORWARD, Direction.BACKWARD)

    def cut(link: Link) -> None:
        for _ in range(25):
            link.black_hole(both)

    def heal(link: Link) -> None:
        for _ in range(25):
            link.heal()

    await network.apply([Change(link, cut), Change(link, heal), Change(link, cut), Change(link, heal)])
    await network.heal()
    caller = await Caller.dial(link)
    assert await caller.ask() == b"ping"
    caller.writer.close()
