"""Before feature level 3, the replicated state has no store ids: the leader remembers what hosts say.

So just after an election a host with another store may join before the hellos of the others are repeated. From level 3
on apply refuses it (`slot_membership.store_problem`), and this is not used.
"""

from __future__ import annotations

from collections.abc import Collection

from attrs import define, field

from callboard.core.handoff_messages import Hello
from callboard.core.slot_membership import store_conflict


@define(eq=False)
class ConnectedStores:
    """Stores of the hosts of one namespace that are members or connected."""

    _stores: dict[str, str] = field(init=False, factory=dict)
    """By host name."""
    _names: dict[int, str] = field(init=False, factory=dict)
    """Of the host of each stream."""

    def refusal(self, stream_id: int, hello: Hello) -> str | None:
        """Why this host must keep out, or None; then its store counts."""
        name, store_id = hello.host.name, hello.host.store_id
        if store_id:
            for their_name, theirs in self._stores.items():
                if their_name != name and theirs != store_id:
                    return store_conflict(name, store_id, their_name, theirs)
            self._names[stream_id] = name
            self._stores[name] = store_id
        return None

    def disconnected(self, stream_id: int, members: Collection[str]) -> None:
        """A stream ended. A member's store counts also while it is not connected: it may still serve."""
        if self._names.pop(stream_id, None) is not None:
            self.members_changed(members)

    def members_changed(self, members: Collection[str]) -> None:
        """Forget stores of hosts that are gone."""
        for name in self._stores.keys() - set(members) - set(self._names.values()):
            del self._stores[name]
