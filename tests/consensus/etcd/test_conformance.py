"""The etcd engine keeps the contract on etcd clusters of one and of three members."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harness.etcd import EtcdCluster
from tests.consensus.conformance import Cluster, EngineConformance
from tests.consensus.etcd.support import EtcdReplicas

pytestmark = pytest.mark.process


class TestOneMember(EngineConformance):
    """The suite with one replica on one etcd member."""

    @pytest.fixture
    async def cluster(self, etcd1: EtcdCluster, tmp_path: Path) -> AsyncIterator[Cluster]:
        """A started cluster."""
        async with EtcdReplicas(["a"], etcd1, tmp_path, lease_ttl_s=2) as cluster:
            yield cluster


class TestThreeMembers(EngineConformance):
    """The suite with three replicas on three etcd members."""

    @pytest.fixture
    async def cluster(self, etcd3: EtcdCluster, tmp_path: Path) -> AsyncIterator[Cluster]:
        """A started cluster."""
        async with EtcdReplicas(["a", "b", "c"], etcd3, tmp_path, lease_ttl_s=2) as cluster:
            yield cluster
