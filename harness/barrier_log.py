"""The replicated state of one `barrier` namespace, for those who drive core's barrier machine without a server."""

from __future__ import annotations

from callboard.core import membership
from callboard.core.barrier_records import BatchCommitted, ProposeBatch, Started
from callboard.core.commands import Command, CommitBatch, CreateNamespace, Removal, Request, TakeOffice
from callboard.core.records import HostRecord, Namespace, ReplicatedState
from callboard.core.versions import Policy


class BarrierLog:
    """Commands commit one after the other, at once. The first leader is in office from the beginning."""

    def __init__(self, namespace_name: str = "default") -> None:
        self.namespace_name = namespace_name
        self.state = ReplicatedState()
        self.take_office()
        self.apply(CreateNamespace(namespace_name, Policy.BARRIER))

    @property
    def namespace(self) -> Namespace:
        """As all that has committed leaves it."""
        return self.state.namespaces[self.namespace_name]

    @property
    def started(self) -> Started:
        """What the machine of a leader that begins now is told first."""
        return Started(self.namespace.version, self.namespace.members)

    def apply(self, command: Command) -> None:
        """One more command commits.

        Raises:
            AssertionError: it is refused.
        """
        self.state, answer = membership.apply(self.state, self.state.applied_index + 1, Request(command))
        if not answer.succeeded:
            raise AssertionError(f"{command} is refused: {answer}")

    def commit(self, batch: ProposeBatch) -> BatchCommitted:
        """The batch of the leader in office commits. Raises AssertionError as `apply` does."""
        self.change(batch.upserts, batch.removals)
        return BatchCommitted(batch.batch_id, self.namespace.version, self.namespace.members)

    def change(self, upserts: tuple[HostRecord, ...], removals: tuple[Removal, ...]) -> Namespace:
        """Members change by somebody's batch. Raises AssertionError as `apply` does."""
        self.apply(CommitBatch(self.state.epoch, self.namespace_name, upserts, removals))
        return self.namespace

    def take_office(self) -> None:
        """A leader takes office: an epoch of its own."""
        self.apply(TakeOffice("r1", str(self.state.epoch)))
