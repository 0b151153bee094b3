"""The processes of one group: started, asked, killed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from harness.processes import HOST, LEASH, REPOSITORY, PortLease, wait_until

ENGINES = ("memory", "pysyncobj", "etcd", "unguarded")
ANSWER_S = 30.0
LINE_LIMIT = 64 * 1024 * 1024


class NodeError(RuntimeError):
    """A node ended or answered with an error."""


class NodeProcess:
    """One node, and the questions to it."""

    def __init__(self, config: dict[str, Any], log: Path) -> None:
        self.name: str = config["replica"]
        self.acknowledged: list[int] = []
        self._config = config
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = 0

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process; returns when the engine has started. Raises NodeError with the end of its log."""
        environment = {
            **os.environ,
            "PYTHONPATH": f"{REPOSITORY / 'impl'}{os.pathsep}{REPOSITORY}",
        }
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(LEASH), str(os.getpid())),
                *(sys.executable, "-m", "harness.enginebench.node", json.dumps(self._config)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment,
                limit=LINE_LIMIT,
            )
        started: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting = {0: started}
        self._reading = asyncio.ensure_future(self._read(self._process))
        await asyncio.wait_for(started, ANSWER_S)

    async def ask(self, do: str, *, timeout_s: float = ANSWER_S, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            NodeError: the node has ended, or answers with an error.
            TimeoutError: no answer.
        """
        return await asyncio.wait_for(self.begin(do, **arguments), timeout_s)

    def begin(self, do: str, **arguments: Any) -> asyncio.Future[dict[str, Any]]:
        """Send a request; the answer comes in the future."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self._process is None or self._process.stdin is None or not self.alive:
            future.set_exception(NodeError(f"{self.name} does not run"))
            return future
        self._numbers += 1
        self._waiting[self._numbers] = future
        self._process.stdin.write((json.dumps({"id": self._numbers, "do": do, **arguments}) + "\n").encode())
        return future

    def kill(self) -> None:
        """SIGKILL, without waiting."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def gone(self) -> None:
        """Wait until the process has ended and everything that it said is read."""
        if self._process is not None:
            await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if not line.endswith(b"\n"):
                break  # killed in the middle of a word
            answer = json.loads(line)
            if "acknowledged" in answer:
                self.acknowledged.extend(answer["acknowledged"])
                continue
            future = self._waiting.pop(answer.get("id", 0), None)
            if future is None or future.done():
                continue
            if "error" in answer:
                future.set_exception(NodeError(f"{self.name}: {answer['error']}"))
            else:
                future.set_result(answer)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NodeError(f"{self.name} has ended: {self._last_words()}"))
                future.exception()  # nobody need be waiting
        self._waiting.clear()

    def _last_words(self) -> str:
        with suppress(OSError):
            return self._log.read_text(errors="replace")[-600:].strip().replace("\n", " | ")
        return "no log"


class Group:
    """An async context manager over the processes of one group in a temporary directory."""

    def __init__(
        self, engine: str, size: int, *, snapshot_entries: int = 10_000, directory: Path | None = None
    ) -> None:
        self.engine = engine
        self.directory = Path(tempfile.mkdtemp(prefix=f"callboard-{engine}-", dir=directory))
        self._lease = PortLease(2 * size)
        names = [f"r{number}" for number in range(1, size + 1)]
        ports = dict(zip(names, self._lease.ports[:size], strict=True))
        client_ports = dict(zip(names, self._lease.ports[size:], strict=True))
        self.nodes: list[NodeProcess] = []
        for name in names:
            (self.directory / name).mkdir()
            config = {
                "engine": engine,
                "replica": name,
                "directory": str(self.directory / name),
                "listen": f"{HOST}:{ports[name]}",
                "peers": [{"id": peer, "host": HOST, "port": ports[peer]} for peer in names if peer != name],
                "client_ports": client_ports,
                "snapshot_entries": snapshot_entries,
            }
            self.nodes.append(NodeProcess(config, self.directory / f"{name}.log"))

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start every node that does not run, and wait until they have started."""
        await asyncio.gather(*(node.start() for node in self.nodes if not node.alive))

    async def kill_all(self) -> None:
        """SIGKILL to all nodes, all before the first is waited for."""
        for node in self.nodes:
            node.kill()
        await asyncio.gather(*(node.gone() for node in self.nodes))

    async def close(self) -> None:
        """Kill everything and remove the directory."""
        await self.kill_all()
        self._lease.release()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def leader(self) -> NodeProcess:
        """The node that leads. Waits for one; raises TimeoutError."""
        found: list[NodeProcess] = []

        async def known() -> bool:
            found[:] = [node for node in self.nodes if node.alive and (await node.ask("status"))["leads"]]
            return bool(found)

        await wait_until(known, deadline_s=60, what=f"a leader of {self.engine}")
        return found[-1]

    async def commit(self, command: str) -> None:
        """Get one command committed by whichever node can."""
        tries = [node.begin("first_commit", command=command) for node in self.nodes if node.alive]
        done, _ = await asyncio.wait(tries, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise TimeoutError(f"no commit of {self.engine} within 60 s")
