"""A host that came back under its old address is called before it has a table: a pause for callers, not an error."""

from __future__ import annotations

import asyncio
from pathlib import Path

from callboard.core.slot_records import SlotTable
from callboard.core.table_delta import HostEntry, TableView, make_view
from callboard.host import Actor, CallSettings, Client, Host, SqliteStore, method
from callboard.host.clock import now_ms
from harness.processes import wait_until


class Lamp(Actor):
    """Does nothing."""

    @method
    async def glow(self) -> int:
        """One."""
        return 1


class OneTable:
    """A caller's older table."""

    trouble = ""

    def __init__(self, address: str) -> None:
        entry = HostEntry(1, "h1", address, ())
        self.view: TableView | None = make_view(1, 4, {1: entry}, {"Lamp": SlotTable((1,) * 16, (1,) * 16)})

    async def changed(self, timeout_s: float) -> None:
        """It never changes."""
        await asyncio.sleep(timeout_s)


async def test_a_host_without_a_table_is_asked_again(tmp_path: Path) -> None:
    host = Host(
        listen="127.0.0.1:0", cluster="127.0.0.1:1", actors=[Lamp], name="h1", store=SqliteStore(tmp_path / "state.db")
    )
    await host._start_server()
    client = Client("default", OneTable(host.address), now_ms, CallSettings(timeout_ms=60_000))
    call = asyncio.ensure_future(client.actor(Lamp, "l1").glow())

    async def tried_again() -> bool:
        assert not call.done(), "the call failed instead of being tried again"
        return client.figures.retried > 2

    try:
        await wait_until(tried_again, deadline_s=30, what="some attempts")
    finally:
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await client.close()
        await host.kill()
