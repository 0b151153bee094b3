"""Real etcd clusters, one of each size for all tests that do not harm them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.etcd import EtcdCluster


@pytest.fixture(scope="session")
def etcd1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One member."""
    with EtcdCluster(tmp_path_factory.mktemp("etcd1"), 1) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def etcd3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Three members."""
    with EtcdCluster(tmp_path_factory.mktemp("etcd3"), 3) as cluster:
        yield cluster
