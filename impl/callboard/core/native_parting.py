"""The life of one incarnation of a native host, and how it ends (rule H8 of the handoff)."""

from __future__ import annotations

from enum import Enum, auto

from attrs import define


class Phase(Enum):
    """Where the incarnation is in its life."""

    JOINING = auto()
    RUNNING = auto()
    LEAVING = auto()
    OVER = auto()


@define(eq=False)
class Parting:
    """Why and how the incarnation leaves.

    `renews`: it keeps its lease while turns finish. `returns`: its process goes on as another incarnation. `replaced`:
    another process took over its name. `overdue`: turns outlived their right.
    """

    reason: str
    renews: bool
    returns: bool
    replaced: bool = False
    overdue: bool = False

    def joined_by(self, other: Parting) -> None:
        """There is another reason as well: nothing is kept that it gives up. The first one is the one that is told.

        Whoever learned from a table that it is gone has to know all the same that another process took its name: to
        return at once would throw that one out.
        """
        self.renews = self.renews and other.renews
        self.returns = self.returns and other.returns
        self.replaced = self.replaced or other.replaced

    def is_overdue(self) -> None:
        """Turns outlived their right: the process has to end."""
        self.renews, self.overdue, self.returns = False, True, False
