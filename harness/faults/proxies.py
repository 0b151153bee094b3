"""Links through a real toxiproxy-server: one proxy for each ordered pair (who dials, who listens).

This is the only module that knows the client library toxiproxy-python. What it lacks is added in `_Requests`:
time limits, one connection kept per thread, and errors for status codes that it takes for success. Names are
checked, since it does not quote them.

What the server cannot do: lose single packets, drop a SYN (a black-holed dial succeeds and then hears nothing), or
half-close. Taking a black hole away closes the connections that were in it, so none survives with a hole in its stream.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import requests
import toxiproxy.api
from attrs import Factory, define, field, frozen
from toxiproxy import Proxy, Toxiproxy

from harness.processes import HOST, LEASH, REPOSITORY, PortLease, wait_until

REQUEST_TIMEOUT_S = 30.0
"""Longer than the server's own limit of 25 s, after which it answers 503."""
START_DEADLINE_S = 20.0
CALLS_AT_ONCE = 8
PORTS_AT_ONCE = 16
NAME = re.compile(r"[A-Za-z0-9_.-]+")
TOOL = REPOSITORY / ".tools" / "toxiproxy-server"


class ProxyError(RuntimeError):
    """The proxy server is missing, did not start, or refused a request; the message says which."""


class Style(StrEnum):
    """How a cut link looks to who uses it."""

    REFUSE = "refuse"
    """Open connections end and new ones are refused."""
    BLACK_HOLE = "black_hole"
    """Connections stay open, new ones are accepted, and nothing comes through."""


class Direction(StrEnum):
    """Along a link, seen from who dials."""

    FORWARD = "upstream"
    BACKWARD = "downstream"


Result = TypeVar("Result")
BOTH = (Direction.FORWARD, Direction.BACKWARD)


class _Requests:
    """Stands in for the module `requests` in the client library."""

    def __init__(self) -> None:
        self._local = threading.local()

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False  # a proxy of the environment is not meant for loopback
        session: requests.Session = self._local.session
        return session

    def _call(self, method: str, url: str, **options: Any) -> requests.Response:
        try:
            response = self._session().request(method, url, timeout=REQUEST_TIMEOUT_S, **options)
        except requests.RequestException as error:
            raise ProxyError(f"{method} {url}: {error}") from None
        if response.status_code >= 500 or response.status_code in {401, 403}:
            raise ProxyError(f"{method} {url}: {response.status_code} {response.text[:200]}")
        return response

    def get(self, url: str, **options: Any) -> requests.Response:
        """As `requests.get`."""
        return self._call("GET", url, **options)

    def post(self, url: str, **options: Any) -> requests.Response:
        """As `requests.post`."""
        return self._call("POST", url, **options)

    def delete(self, url: str, **options: Any) -> requests.Response:
        """As `requests.delete`."""
        return self._call("DELETE", url, **options)


toxiproxy.api.requests = _Requests()


def server_program() -> Path:
    """Where the toxiproxy server is: CALLBOARD_TOXIPROXY, what `make setup` built, or PATH. Raises ProxyError."""
    named = os.environ.get("CALLBOARD_TOXIPROXY")
    found = shutil.which("toxiproxy-server")
    for candidate in (named, str(TOOL), found):
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate)
    raise ProxyError("no toxiproxy-server: run `make setup`, or set CALLBOARD_TOXIPROXY to its path")


@define
class Link:
    """One ordered pair: `source` dials `address` and reaches `target`, which itself listens at `upstream`."""

    source: str
    target: str
    proxy: Proxy
    address: str
    upstream: str
    _toxics: dict[str, str] = Factory(dict)
    _cut: bool = False
    _lock: threading.RLock = Factory(threading.RLock)
    """Faults of two lanes may begin and end at the same link at once, in threads."""

    @property
    def name(self) -> str:
        """For people and histories."""
        return f"{self.source}->{self.target}"

    def refuse(self) -> None:
        """End open connections and refuse new ones."""
        with self._lock:
            self._cut = True
            self.proxy.disable()

    def black_hole(self, directions: Iterable[Direction] = BOTH) -> None:
        """Let nothing through in these directions."""
        for direction in directions:
            self._add("timeout", direction, timeout=0)

    def delay(self, latency_ms: int, directions: Iterable[Direction] = BOTH) -> None:
        """Let everything through later. Jitter is drawn by the caller: the server's own cannot be repeated."""
        for direction in directions:
            self._add("latency", direction, latency=latency_ms, jitter=0)

    def throttle(self, kilobytes_per_s: int, directions: Iterable[Direction] = BOTH) -> None:
        """Limit the bandwidth."""
        for direction in directions:
            self._add("bandwidth", direction, rate=kilobytes_per_s)

    def slice(self, bytes_each: int, delay_us: int = 0, directions: Iterable[Direction] = BOTH) -> None:
        """Cut what is sent into pieces, so that frames arrive in parts."""
        for direction in directions:
            self._add("slicer", direction, average_size=bytes_each, size_variation=bytes_each // 2, delay=delay_us)

    def end_after(self, count_bytes: int, direction: Direction = Direction.FORWARD) -> None:
        """End each connection after so many bytes, which may be in the middle of a frame."""
        self._add("limit_data", direction, bytes=count_bytes)

    def reset(self) -> None:
        """End open connections, those that were made since the first reset with a TCP reset. New ones are welcome."""
        with self._lock:
            # The server decides when a connection begins how it will be closed, so the toxic has to be there before. It
            # lets everything through: at work it would close connections only, without a reset of those already open.
            if "reset_peer_downstream" not in self._toxics:
                self._add("reset_peer", Direction.BACKWARD, toxicity=0.0, timeout=0)
            if not self._cut:
                self.proxy.disable()
                self.proxy.enable()

    def heal(self) -> None:
        """Undo everything. Idempotent."""
        with self._lock:
            while self._toxics:
                self._remove(next(iter(self._toxics)))
            if self._cut:
                self.proxy.enable()
                self._cut = False

    def _add(self, kind: str, direction: Direction, *, toxicity: float = 1.0, **attributes: int) -> None:
        name = f"{kind}_{direction.value}"
        with self._lock:
            if name in self._toxics:
                self._remove(name)
            self._toxics[name] = kind
            self.proxy.add_toxic(type=kind, stream=direction.value, name=name, toxicity=toxicity, attributes=attributes)

    def _remove(self, name: str) -> None:
        with suppress(toxiproxy.exceptions.NotFound):  # gone already: that is all that was wanted
            self.proxy.destroy_toxic(name)
        del self._toxics[name]


@frozen
class Change:
    """What to do to one link."""

    link: Link
    act: Callable[[Link], None]


@define
class Network:
    """All links of one run, over one proxy server process that dies with the run."""

    directory: Path
    links: dict[tuple[str, str], Link] = Factory(dict)
    _leases: list[PortLease] = Factory(list)
    _free_ports: list[int] = Factory(list)
    _process: subprocess.Popen[bytes] | None = None
    _api: Toxiproxy = Factory(Toxiproxy)
    _pool: ThreadPoolExecutor = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="toxiproxy")

    async def __aenter__(self) -> Self:
        program = server_program()
        self._start(program, self._port())
        try:
            await wait_until(self._answers, deadline_s=START_DEADLINE_S, what="the proxy server's first answer")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    def _start(self, program: Path, port: int) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "toxiproxy.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(LEASH), str(os.getpid())),
                    *(str(program), "-host", HOST, "-port", str(port)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"LOG_LEVEL": "warn"},
            )
        self._api.update_api_consumer(HOST, port)

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._pool.shutdown()
        for lease in self._leases:
            lease.release()

    def _port(self) -> int:
        """One that nobody else has, also while the link that listens there is closed for a time."""
        if not self._free_ports:
            self._leases.append(PortLease(PORTS_AT_ONCE))
            self._free_ports += self._leases[-1].ports
        return self._free_ports.pop()

    async def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            log = (self.directory / "toxiproxy.log").read_text(errors="replace")
            raise ProxyError(f"toxiproxy-server ended with exit code {self._process.returncode}: {log[-500:]}")
        return bool(await asyncio.to_thread(self._api.running))

    async def version(self) -> str:
        """Of the proxy server."""
        answer = await asyncio.to_thread(self._api.version)
        return bytes(answer).decode().strip()

    async def connect(self, source: str, target: str, upstream: str) -> Link:
        """A new link; `source` must dial its `address` to reach `upstream` ("host:port").

        Raises:
            ProxyError: a name that cannot be used, or used already, or a refusal of the server.
        """
        name = f"{source}-to-{target}"
        for part in (source, target):
            if not NAME.fullmatch(part):
                raise ProxyError(f"{part!r} is no name for an end of a link: letters, digits, dot, dash, underscore")
        if (source, target) in self.links:
            raise ProxyError(f"there is a link {source}->{target} already")

        port = self._port()

        def create() -> Proxy:
            try:
                return self._api.create(upstream=upstream, name=name, listen=f"{HOST}:{port}")
            except toxiproxy.exceptions.ProxyExists:
                raise ProxyError(f"there is a proxy {name} already") from None

        proxy = await self._in_thread(create)
        link = Link(source, target, proxy, proxy.listen, upstream)
        self.links[source, target] = link
        return link

    async def apply(self, changes: Iterable[Change]) -> None:
        """Make all changes, several at once. The links turn one after the other, within some tens of milliseconds."""
        await asyncio.gather(*(self._in_thread(partial(change.act, change.link)) for change in changes))

    async def heal(self) -> None:
        """Undo everything on every link."""
        await self.apply(Change(link, Link.heal) for link in self.links.values())

    def between(self, left: Iterable[str], right: Iterable[str]) -> list[Link]:
        """Links from one side to the other, either way."""
        ones, others = frozenset(left), frozenset(right)
        return [
            link
            for (source, target), link in self.links.items()
            if (source in ones and target in others) or (source in others and target in ones)
        ]

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
