"""The demo's comparisons: they hold on a sound cluster, and each fails on a seeded fault."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from harness import demo_sidecars as demo_module
from harness.demo_sidecars import Demo
from harness.processes import Cluster
from harness.sidecars import Fleet, SidecarSettings, naive_owners
from harness.sidecars.tables import Order

PATIENT = ("--member-grace-period", "60s", "--disseminate-timeout", "60s")
"""For a machine that is busy with other tests: neither time-out is what these tests are about."""
QUICK = SidecarSettings(heartbeat_s=0.1, reconnect_pause_s=0.1, open_failed_pause_s=0.1)


def demo_of(cluster: Cluster, fleet: Fleet) -> Demo:
    return Demo(cluster, fleet, lambda _line: None, sidecars=6, actor_ids=500, settings=QUICK)


def broken(demo: Demo) -> set[str]:
    return {result.what for result in demo.results if not result.held}


@pytest_asyncio.fixture(loop_scope="function")
async def forgetful(tmp_path: Path) -> AsyncIterator[Demo]:
    """A demo, with its sidecars joined, on one replica that forgets everything when it dies."""
    cluster = Cluster(1, "memory", directory=tmp_path, flags=PATIENT)
    async with cluster, Fleet(cluster.addresses) as fleet:
        demo = demo_of(cluster, fleet)
        await demo.join()
        assert not broken(demo)
        yield demo


@pytest.mark.process
async def test_everything_holds_on_a_durable_cluster(tmp_path: Path) -> None:
    cluster = Cluster(3, "pysyncobj", directory=tmp_path, flags=PATIENT)
    async with cluster, Fleet(cluster.addresses) as fleet:
        demo = demo_of(cluster, fleet)
        await demo.run()
        assert [f"{result.what}: {result.detail}" for result in demo.results if not result.held] == []
        assert len(demo.results) == 17


@pytest.mark.process
async def test_a_cluster_that_forgets_is_caught(forgetful: Demo) -> None:
    await forgetful.kill_all()
    assert broken(forgetful) == {
        "members the same after the death of all",
        "version the same after the death of all",
        "no needless round after the death of all",
    }


@pytest.mark.process
async def test_one_wrong_owner_is_caught(forgetful: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly_right(ids: Iterable[str], hosts: Iterable[str], factor: int) -> Mapping[str, str]:
        hosts = list(hosts)
        owners = dict(naive_owners(ids, hosts, factor))
        if "basket-99" in owners:
            owners["basket-99"] = next(host for host in hosts if host != owners["basket-99"])
        return owners

    monkeypatch.setattr(demo_module, "naive_owners", nearly_right)
    await forgetful.compare_owners()
    assert broken(forgetful) == {"owners equal the naive computation"}


@pytest.mark.process
async def test_a_sidecar_that_loses_patience_is_caught(forgetful: Demo) -> None:
    """Half a round that nobody finishes, told to one sidecar behind the server's back."""
    machine = forgetful.fleet.sidecars[1].machine
    machine.note(0.0, "fail_safe")
    forgetful.check_patience()
    assert broken(forgetful) == {"no sidecar wedged or out of patience"}


@pytest.mark.process
async def test_an_order_out_of_order_is_caught(forgetful: Demo) -> None:
    """A second unlock, as if a sidecar had received it."""
    sidecar = forgetful.fleet.sidecars[0]
    forgetful.fleet.checks.saw(sidecar.machine.spec, sidecar.machine.attempt, Order("unlock", 1))
    forgetful.check_patience()
    assert broken(forgetful) == {"every order in order"}
