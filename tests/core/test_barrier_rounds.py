"""The barrier machine in a model network: properties after every step, and bugs that they catch.

Checked here: `BarrierOrder`, `TableAgreement`, `TableMonotonic`, `SlowHostIsolation`, `Convergence`.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import Phase as HypothesisPhase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from callboard.core.barrier import BarrierNamespace
from callboard.core.barrier_records import BarrierSettings
from tests.core.barrier_mutants import MUTANTS, CutsEveryone, ForgetsChangesWhileCommitting, Prepare, RestartsRounds
from tests.core.barrier_network import BarrierNetwork, Link, PropertyViolation, Sidecar, one_move
from tests.core.barrier_walk import walk

WALKS = 120
STEPS = 400


def settings_of(seed: int) -> BarrierSettings:
    return BarrierSettings(
        round_timeout_ms=2000,
        phase_ms_min=500,
        coalesce_ms=(0, 100)[seed % 2],
        member_grace_ms=3000,
        retry_ms=100,
        batch_items_max=(2, 100)[seed // 2 % 2],
    )


def test_random_walks_keep_every_property() -> None:
    rounds = 0
    for seed in range(WALKS):
        network = BarrierNetwork(settings_of(seed))
        walk(network, Random(seed), STEPS)
        rounds += network.rounds_finished
    assert rounds > 3 * WALKS, "the walks hardly reached anything"


@pytest.mark.parametrize(("mutant", "prepare", "violated"), [case[1:] for case in MUTANTS], ids=[c[0] for c in MUTANTS])
def test_seeded_bug_is_caught(
    mutant: type[BarrierNamespace], prepare: Prepare, violated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    with pytest.raises(PropertyViolation) as caught:  # noqa: PT012 - the walk that fails is not known beforehand
        for seed in range(WALKS):
            walk(BarrierNetwork(settings_of(seed), mutant), Random(seed), STEPS)
    assert caught.value.name == violated


TYPES = st.sampled_from([(), ("T1",), ("T2",), ("T1", "T2")])
NAMES = st.sampled_from(["a", "b", "c", "d"])


class BarrierRounds(RuleBasedStateMachine):
    """Everything that may happen to one namespace, in any order."""

    network: BarrierNetwork
    make: type[BarrierNamespace] = BarrierNamespace

    @initialize(coalesce_ms=st.sampled_from([0, 100]), batch_items_max=st.sampled_from([1, 2, 100]))
    def begin(self, coalesce_ms: int, batch_items_max: int) -> None:
        self.network = BarrierNetwork(
            BarrierSettings(
                round_timeout_ms=2000,
                phase_ms_min=500,
                coalesce_ms=coalesce_ms,
                member_grace_ms=3000,
                retry_ms=100,
                batch_items_max=batch_items_max,
            ),
            self.make,
        )

    def some_sidecar(self, data: st.DataObject) -> Sidecar:
        return data.draw(st.sampled_from(self.network.sidecars))

    def some_link(self, data: st.DataObject) -> Link:
        return data.draw(st.sampled_from(list(self.network.links.values())))

    @rule(name=NAMES, types=TYPES, heartbeats=st.booleans())
    def start_sidecar(self, name: str, types: tuple[str, ...], heartbeats: bool) -> None:
        self.network.start_sidecar(name, types, heartbeats=heartbeats)

    @precondition(lambda self: self.network.sidecars)
    @rule(data=st.data())
    def stop_sidecar(self, data: st.DataObject) -> None:
        self.network.stop_sidecar(self.some_sidecar(data))

    @precondition(lambda self: self.network.sidecars)
    @rule(data=st.data(), types=TYPES)
    def change_types(self, data: st.DataObject, types: tuple[str, ...]) -> None:
        self.network.change_types(self.some_sidecar(data), types)

    @precondition(lambda self: self.network.sidecars)
    @rule(data=st.data())
    def fall_silent_or_wake(self, data: st.DataObject) -> None:
        sidecar = self.some_sidecar(data)
        sidecar.silent = not sidecar.silent

    @precondition(lambda self: self.network.sidecars)
    @rule(data=st.data())
    def reconnect(self, data: st.DataObject) -> None:
        sidecar = self.some_sidecar(data)
        if self.network.link_of(sidecar) is None:
            self.network.connect(sidecar)

    @precondition(lambda self: self.network.sidecars)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        self.network.heartbeat(self.some_sidecar(data))

    @precondition(lambda self: self.network.links)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        link = self.some_link(data)
        if not link.hung_up:
            self.network.hang_up(link)

    @precondition(lambda self: self.network.links)
    @rule(data=st.data())
    def flow(self, data: st.DataObject) -> None:
        self.network.flow(self.some_link(data))

    @precondition(lambda self: self.network.links)
    @rule(data=st.data(), moves=st.lists(st.integers(0, 2), min_size=1, max_size=12))
    def move(self, data: st.DataObject, moves: list[int]) -> None:
        link = self.some_link(data)
        for which in moves:
            if link.stream_id in self.network.links:
                one_move(self.network, link, which)

    @precondition(lambda self: self.network.batch is not None)
    @rule(how=st.sampled_from(["committed", "committed", "failed", "refused"]))
    def answer_batch(self, how: str) -> None:
        self.network.answer_batch(how)

    @rule(survives=st.booleans())
    def change_leader(self, survives: bool) -> None:
        self.network.take_office(batch_survives=survives)

    @rule()
    def repeat_round(self) -> None:
        self.network.repeat_round()

    @rule(duration_ms=st.sampled_from([10, 100, 500, 2000]))
    def advance(self, duration_ms: int) -> None:
        self.network.advance(duration_ms)

    @rule()
    def settle(self) -> None:
        self.network.settle()

    def teardown(self) -> None:
        if hasattr(self, "network"):
            self.network.settle()


TestBarrierRounds = BarrierRounds.TestCase
TestBarrierRounds.settings = hypothesis_settings(stateful_step_count=60)


@pytest.mark.parametrize(
    ("mutant", "violated"),
    [
        (RestartsRounds, "BarrierOrder"),
        (CutsEveryone, "SlowHostIsolation"),
        (ForgetsChangesWhileCommitting, "Convergence"),
    ],
)
def test_seeded_bug_is_caught_by_the_state_machine(mutant: type[BarrierNamespace], violated: str) -> None:
    class Buggy(BarrierRounds):
        make = mutant

    thorough = hypothesis_settings(
        max_examples=1000,
        stateful_step_count=60,
        derandomize=True,
        database=None,
        phases=[HypothesisPhase.generate],
        report_multiple_bugs=False,
        print_blob=False,
    )
    with pytest.raises(PropertyViolation) as caught:
        run_state_machine_as_test(Buggy, settings=thorough)
    assert caught.value.name == violated
