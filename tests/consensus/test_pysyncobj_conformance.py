"""The embedded engine keeps the contract, with one, three and five replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.consensus.conformance import Cluster, EngineConformance
from tests.consensus.pysyncobj_cluster import PysyncobjCluster


@pytest.fixture(params=[1, 3, 5], ids=["one", "three", "five"])
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A started cluster."""
    cluster = PysyncobjCluster(tmp_path, [f"r{number}" for number in range(1, request.param + 1)])
    await cluster.open()
    await cluster.start_all()
    yield cluster
    await cluster.close()


class TestPysyncobj(EngineConformance):
    """The suite, over proxied links."""
