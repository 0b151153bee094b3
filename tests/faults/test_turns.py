"""What actors under test write down of turns that are cancelled."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from attrs import Factory, define

from harness.faults.checkers.activations import check_single_activation
from harness.faults.checkers.verdict import Verdict
from harness.faults.clock import real_ns
from harness.faults.history import History, Note
from harness.faults.workload_host import Journal, State, Trace, Traced

LONG_MS = 60_000
RIGHT = object()


@define
class FakeHost:
    """As far as turns ask it; it is its own session and machine."""

    name: str
    path: Path
    incarnation: int = 3
    open_right: object = RIGHT
    left_ms: int = 400
    trace: Trace = Factory(lambda self: Trace(os.open(self.path, os.O_WRONLY | os.O_CREAT)), takes_self=True)

    @property
    def session(self) -> SimpleNamespace:
        return SimpleNamespace(machine=self)

    def gate_open(self, right: object, _now_ms: int) -> bool:
        return right is self.open_right

    def journal(self) -> Journal:
        """An actor in this host."""
        actor = Journal()
        actor.context = cast(
            "Any",
            SimpleNamespace(
                actor_type="Journal",
                actor_id="k",
                fence=1,
                lease_remaining_ms=lambda: self.left_ms,
                _activation=SimpleNamespace(right=RIGHT),
            ),
        )
        actor.state = State([])
        return actor

    def turns(self) -> list[Note]:
        """What was written down."""
        lines = map(json.loads, self.path.read_text().splitlines())
        return [Note(line.pop("kind"), line.pop("at_ns"), line) for line in lines]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    fake = FakeHost("h1", tmp_path / "h1.jsonl")
    monkeypatch.setattr(Traced, "host", fake, raising=False)
    yield fake
    os.close(fake.trace.descriptor)


async def begun(host: FakeHost) -> asyncio.Task[Any]:
    """A long turn that has begun."""
    turn = asyncio.ensure_future(host.journal().append(1, "7", hold_ms=LONG_MS))
    await asyncio.sleep(0)
    return turn


async def cancelled(turn: asyncio.Task[Any]) -> None:
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn


async def test_a_cancelled_turn_counts_until_it_was_cancelled(host: FakeHost) -> None:
    turn = await begun(host)
    other_ns = real_ns()
    await cancelled(turn)
    (note,) = host.turns()
    assert note.kind == "turn"
    assert note.fields["begun_ns"] < other_ns < note.fields["ended_ns"] <= real_ns()
    assert {name: note.fields[name] for name in ("actor", "host", "incarnation", "fence", "method", "token")} == {
        "actor": "Journal/k",
        "host": "h1",
        "incarnation": 3,
        "fence": 1,
        "method": "append",
        "token": "7",
    }
    # A leader that had not waited for the release, and a new owner that served meanwhile.
    fields = {**note.fields, "host": "h2", "incarnation": 4, "fence": 2, "begun_ns": other_ns, "ended_ns": other_ns + 1}
    result = check_single_activation(History((), notes=(note, Note("turn", other_ns, fields))))
    assert result.verdict is Verdict.INVALID


@pytest.mark.parametrize(
    "ended", [{"open_right": object()}, {"left_ms": 0}, {"incarnation": 4}], ids=["gate", "lease", "incarnation"]
)
async def test_a_turn_that_is_cancelled_after_its_right_says_nothing(host: FakeHost, ended: dict[str, Any]) -> None:
    turn = await begun(host)
    for name, value in ended.items():
        setattr(host, name, value)
    await cancelled(turn)
    assert host.turns() == []
