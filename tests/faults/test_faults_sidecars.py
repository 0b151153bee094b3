"""Faults around rounds of sidecars: what counts as a proof that they bit, and what does not."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from attrs import Factory, define

from harness.faults import sidecar_faults
from harness.faults.nemeses import KINDS, FaultSpec, Nemesis, World

OVER_S = 0.2
"""How long a fault lasts that never gets its proof."""
FOR_EVER_S = 60.0


@define
class Machine:
    """As far as faults ask it."""

    table_version: int = 0
    settled: bool = False

    @property
    def served(self) -> bool:
        return self.table_version > 0

    @property
    def locked(self) -> bool:
        return not self.settled


@define(eq=False)
class FakeSidecar:
    name: str
    machine: Machine = Factory(Machine)
    paused: bool = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


@define(eq=False)
class FakeSidecars:
    """Sidecars of a service that gives all but some the next table whenever one joins."""

    left_out: set[str] = Factory(set)
    all: list[FakeSidecar] = Factory(list)
    stuck: bool = False

    def add(self) -> FakeSidecar:
        self.all.append(FakeSidecar(f"s{len(self.all)}"))
        version = len(self.all)
        for sidecar in () if self.stuck else self.awake():
            if sidecar.name not in self.left_out:
                sidecar.machine = Machine(version, settled=True)
        return self.all[-1]

    async def kill(self, sidecar: FakeSidecar) -> None:
        self.all.remove(sidecar)

    def awake(self) -> list[FakeSidecar]:
        return [sidecar for sidecar in self.all if not sidecar.paused]


def world_of(sidecars: FakeSidecars | None) -> World:
    return World(cast("Any", SimpleNamespace(sidecars=sidecars, hosts={})), cast("Any", None), random.Random(1))


def nemesis(kind: str, duration_s: float = FOR_EVER_S) -> Nemesis:
    return KINDS[kind](FaultSpec(kind, 0, duration_s, target="leader"))


def three() -> FakeSidecars:
    sidecars = FakeSidecars()
    for _ in range(3):
        sidecars.add()
    return sidecars


async def test_a_silent_sidecar_does_not_keep_tables_from_others() -> None:
    sidecars, silent = three(), nemesis("sidecar_silent")
    sidecars.left_out.add("wedged")
    sidecars.all.append(FakeSidecar("wedged"))
    world = world_of(sidecars)
    name = await silent.resolve(world)
    await silent.inject(world)
    assert [sidecar.name for sidecar in sidecars.all if sidecar.paused] == [name]
    assert await silent.bit(world) == "4 others have a new table without it"
    await silent.heal(world)
    assert not any(sidecar.paused for sidecar in sidecars.all)


@pytest.mark.parametrize("bug", [{"stuck": True}, {"left_out": {"s4"}}], ids=["broken round", "one is left out"])
async def test_a_silent_sidecar_that_breaks_the_round_for_others_leaves_no_proof(bug: dict[str, Any]) -> None:
    sidecars, silent = three(), nemesis("sidecar_silent", OVER_S)
    world = world_of(sidecars)
    await silent.resolve(world)
    for name, value in bug.items():
        setattr(sidecars, name, value)
    await silent.inject(world)
    with pytest.raises(TimeoutError, match="a new table for all but the silent one"):
        await silent.bit(world)


@pytest.mark.parametrize("kind", ["sidecar_silent", "sidecar_storm"])
async def test_without_sidecars_nobody_is_hit(kind: str) -> None:
    assert await nemesis(kind).resolve(world_of(None)) == ""


async def test_a_storm_of_sidecars_makes_them_join_and_die() -> None:
    sidecars, storm = (
        FakeSidecars(),
        KINDS["sidecar_storm"](FaultSpec("sidecar_storm", 0, 1, parameters={"pause_ms": 1})),
    )
    world = world_of(sidecars)
    assert await storm.resolve(world)
    await storm.inject(world)
    assert "joins and deaths" in await storm.bit(world)
    await storm.heal(world)
    assert sidecars.all


async def test_a_pause_counts_in_a_round_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar_faults, "ROUND_DEADLINE_S", OVER_S)
    sidecars = three()
    world, idle = world_of(sidecars), nemesis("pause_in_round")
    await idle.inject(world)
    assert await idle.bit(world) == ""
    sidecars.all[0].machine.settled = False
    under_way = nemesis("pause_in_round")
    await under_way.inject(world)
    assert (await under_way.bit(world)).endswith("with 1 sidecars locked")
