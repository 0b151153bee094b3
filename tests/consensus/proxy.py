"""A TCP proxy in the event loop that can swallow everything, as a broken network does: nobody is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Proxy:
    """Listens on one port for ever, and relays to wherever `target_port` says when a connection comes."""

    def __init__(self, target_port: Callable[[], int]) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.port = 0

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def swallow(self) -> None:
        """From now on nothing passes; connections stay open."""
        self._open.clear()

    def heal(self) -> None:
        """Let traffic pass again. Connections from before are reset: what was swallowed is lost."""
        if self._open.is_set():
            return
        self._open.set()
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        """Stop everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            other_reader, other = await asyncio.open_connection("127.0.0.1", self._target_port())
            self._writers.add(other)
            await asyncio.gather(self._relay(reader, other), self._relay(other_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for side in (writer, other):
                if side is not None:
                    side.transport.abort()
                    self._writers.discard(side)
            self._tasks.discard(task)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionError("one side is done")
