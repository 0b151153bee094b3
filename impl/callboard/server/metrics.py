"""Prometheus metrics of one replica: the four that Dapr's placement service has, under its names, and our own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """All metrics, in a registry of their own so that several replicas can run in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        gauge, by_namespace = self._gauge, ("namespace",)
        self.runtimes = gauge("dapr_placement_runtimes_total", "Streams of sidecars", ("host_namespace",))
        self.actor_runtimes = gauge(
            "dapr_placement_actor_runtimes_total", "Streams of sidecars that host actors", ("host_namespace",)
        )
        self.leader_status = gauge("dapr_placement_leader_status", "1 while this replica serves sidecars as leader")
        self.raft_leader_status = gauge("dapr_placement_raft_leader_status", "1 while this replica is elected")
        self.members = gauge("callboard_members", "Members in the replicated state", by_namespace)
        self.table_version = gauge("callboard_table_version", "Table version as on the wire", by_namespace)
        self.table_bytes = gauge("callboard_table_bytes", "Size of the newest serialised tables", by_namespace)
        self.delta_bytes = gauge(
            "callboard_native_table_bytes", "Size of the newest encoded delta or snapshot", ("namespace", "kind")
        )
        self.hosts_not_acking = gauge(
            "callboard_round_hosts_waiting", "Streams whose acknowledgement the running round waits for", by_namespace
        )
        self.term = gauge("callboard_consensus_term", "Newest term of the consensus engine")
        self.epoch = gauge("callboard_leader_epoch", "Leader epoch in the replicated state")
        self.applied_index = gauge("callboard_applied_index", "Newest log position applied here")
        self.window_bytes = gauge("callboard_window_bytes", "Bytes of orders in flight over all streams")
        self.rounds = self._counter("callboard_rounds", "Finished rounds", by_namespace)
        self.cut_streams = self._counter("callboard_cut_streams", "Streams cut by the round timeout", by_namespace)
        self.round_seconds = Histogram(
            "callboard_round_duration_seconds",
            "Duration of each phase of a round",
            ("namespace", "phase"),
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            "callboard_commit_latency_seconds",
            "From proposing a command to its application here",
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )

    def _gauge(self, name: str, what: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, what, labels, registry=self.registry)

    def _counter(self, name: str, what: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, what, labels, registry=self.registry)

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
