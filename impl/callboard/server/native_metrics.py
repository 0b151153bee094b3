"""Metrics of native namespaces, read at each scrape: who waits for whom, and how near hosts are to being given up.

Members and versions come from the replicated state, on every replica; the rest only from the replica in office.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from callboard.core.records import ReplicatedState
from callboard.server.native_runner import NativeRunner

GIVERS_MAX = 50
"""Label values for givers in one namespace; the slots of all others are counted under `other`."""


class NativeReplica(Protocol):
    """What the collector reads."""

    @property
    def state(self) -> ReplicatedState:
        """The replicated state as applied here."""

    def native_runners(self) -> dict[str, NativeRunner]:
        """Runners of all native namespaces while in office."""


class NativeCollector(Collector):
    """Gauges of all native namespaces of one replica."""

    def __init__(self, replica: NativeReplica) -> None:
        self._replica = replica

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See prometheus_client: called at each scrape."""
        state = self._replica.state
        members = _gauge("members", "Members in the replicated state")
        versions = _gauge("table_version", "Table version as on the wire")
        for name, namespace in sorted(state.native.items()):
            members.add_metric([name], len(namespace.members))
            versions.add_metric([name], namespace.version.wire)
        yield from (members, versions)
        yield from self._of_leader()

    def _of_leader(self) -> Iterator[GaugeMetricFamily]:
        ungranted = _gauge("ungranted_slots", "Slots whose owner waits for this earlier owner to let go", "giver")
        oldest = _gauge("oldest_wait_seconds", "Longest time that a slot has waited for its earlier owners")
        margin = _gauge("lease_margin_seconds", "Shortest time until a silent member is removed")
        overdue = _gauge("overdue_hosts", "Members that have not let go of slots in time; they are being removed")
        streams = _gauge("sessions", "Open sessions of hosts")
        for name, runner in sorted(self._replica.native_runners().items()):
            waiting, leases = runner.handoffs(), runner.leases()
            slots: Counter[str] = Counter()
            for item in waiting:
                for giver in item.givers:
                    slots[giver.name or f"incarnation {giver.incarnation}"] += item.count
            ranked = slots.most_common()
            for giver_name, count in ranked[:GIVERS_MAX]:
                ungranted.add_metric([name, giver_name], count)
            if ranked[GIVERS_MAX:]:
                ungranted.add_metric([name, "other"], sum(count for _, count in ranked[GIVERS_MAX:]))
            oldest.add_metric([name], max((item.waited_ms for item in waiting), default=0) / 1000)
            if leases:
                margin.add_metric([name], min(lease.margin_ms for lease in leases) / 1000)
            overdue.add_metric([name], len(runner.overdue()))
            streams.add_metric([name], runner.stream_count())
        yield from (ungranted, oldest, margin, overdue, streams)


def _gauge(name: str, what: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"callboard_native_{name}", what, labels=["namespace", *labels])
