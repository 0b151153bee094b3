"""The newest tables of a namespace and the last changes that led to them: what a leader sends to hosts."""

from __future__ import annotations

from collections import deque

from attrs import define, field

from callboard.core.slot_records import NativeNamespace
from callboard.core.table_delta import TableDelta, TableView, diff, view_of


@define(eq=False)
class TableFeed:
    """Keeps `steps_kept` changes of version: hosts that missed more get a snapshot."""

    steps_kept: int
    view: TableView
    _steps: deque[tuple[bytes, TableDelta]] = field(init=False)
    """The digest before each kept change, and the change."""
    _snapshot: TableDelta | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._steps = deque(maxlen=self.steps_kept)

    def follow(self, namespace: NativeNamespace) -> None:
        """The namespace has another version now."""
        earlier, self.view, self._snapshot = self.view, view_of(namespace), None
        self._steps.append((earlier.digest, diff(earlier, self.view)))

    def path(self, version: int, digest: bytes | None = None) -> list[tuple[int, int]]:
        """Pairs of versions that lead from a table to the newest one; (0, newest) for a snapshot if no others do.

        `digest`: of the table; None if it is known to be right.
        """
        newest = self.view.version
        if version == newest and digest in {None, self.view.digest}:
            return []
        steps = [(before, step) for before, step in self._steps if step.from_version >= version]
        if not steps or steps[0][1].from_version != version or digest not in {None, steps[0][0]}:
            return [(0, newest)]
        return [(step.from_version, step.to_version) for _, step in steps]

    def delta(self, from_version: int, to_version: int) -> TableDelta:
        """What leads from one version of a pair of `path` to the other.

        Raises:
            KeyError: these versions are not at hand.
        """
        if from_version == 0 and to_version == self.view.version:
            if self._snapshot is None:
                self._snapshot = diff(None, self.view)
            return self._snapshot
        for _, step in reversed(self._steps):
            if (step.from_version, step.to_version) == (from_version, to_version):
                return step
        raise KeyError(f"no delta from version {from_version} to {to_version}; newest is {self.view.version}")
