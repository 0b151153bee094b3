"""The action-pair cover of each small model, replayed on core (`make conformance` replays every edge)."""

from __future__ import annotations

import pytest

from harness.conformance.models import MODELS
from harness.conformance.paths import kept_graph, run_model
from harness.conformance.replay import Model

SMALL = [model for model in MODELS if not model.large]


@pytest.mark.parametrize("model", SMALL, ids=lambda model: model.name)
def test_code_follows_the_action_pairs(model: Model) -> None:
    result = run_model(model, kept_graph(model), "pairs")
    assert result.problem is None, f"{result.problem} after {' '.join(result.way)}"
    assert result.steps > result.pairs
