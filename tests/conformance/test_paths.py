"""The action-pair cover of each small model, replayed on core (`make conformance` replays every edge)."""

from __future__ import annotations

import pytest

from harness.conformance.models import MODELS
from harness.conformance.paths import run_model, state_graph
from harness.conformance.replay import Model


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_code_follows_the_action_pairs(model: Model) -> None:
    graph, tlc_s = state_graph(model)
    result = run_model(model, graph, "pairs", tlc_s)
    assert result.problem is None, f"{result.problem} after {' '.join(result.way)}"
    assert result.steps > result.pairs
