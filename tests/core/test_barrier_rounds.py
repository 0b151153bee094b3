"""The barrier machine in a model network, by random walks: properties after every step, and bugs that they catch.

Checked here: `BarrierOrder`, `TableAgreement`, `TableMonotonic`, `SlowHostIsolation`, `Convergence`.
"""

from __future__ import annotations

from random import Random

import pytest

from callboard.core.barrier_records import BarrierSettings
from harness.seeded_bugs.barrier import BUGS
from harness.seeded_bugs.registry import Bug
from harness.violation import PropertyViolation
from tests.core.barrier_network import BarrierNetwork
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


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_seeded_bug_is_caught(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.prepare(monkeypatch)
    with pytest.raises(PropertyViolation) as caught:  # noqa: PT012 - the walk that fails is not known beforehand
        for seed in range(WALKS):
            walk(BarrierNetwork(settings_of(seed)), Random(seed), STEPS)
    assert caught.value.name in bug.properties
