"""Tables for those who only look: any replica shows what it has applied, and says how it stands with the leader."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from attrs import define, field

from callboard.core.records import ReplicatedState
from callboard.core.slot_records import NativeNamespace
from callboard.core.table_delta import view_of
from callboard.core.table_feed import TableFeed
from callboard.protos import convert
from callboard.protos.generated import host_pb2

STEPS_KEPT = 64
ENCODED_KEPT = 64


@define(eq=False)
class _Watched:
    """One namespace with watchers."""

    feed: TableFeed
    watchers: int = 0
    changed: asyncio.Event = field(factory=asyncio.Event)
    encoded: OrderedDict[tuple[int, int], bytes] = field(factory=OrderedDict)


class Watches:
    """All watches of this replica. `on_state` must be called after each applied command."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}

    def on_state(self, before: ReplicatedState, after: ReplicatedState) -> None:
        """Follow the replicated state."""
        for name, watched in self._watched.items():
            namespace = after.native.get(name)
            if namespace is not before.native.get(name):
                if namespace is not None and namespace.version.wire != watched.feed.view.version:
                    watched.feed.follow(namespace)
                watched.changed.set()
                watched.changed = asyncio.Event()

    def open(self, name: str, namespace: NativeNamespace) -> Watch:
        """A new watch, to be closed."""
        if name not in self._watched:
            self._watched[name] = _Watched(TableFeed(STEPS_KEPT, view_of(namespace)))
        watched = self._watched[name]
        watched.watchers += 1
        return Watch(self, name, watched)

    def close(self, name: str) -> None:
        """A watch ended; what nobody watches is forgotten."""
        watched = self._watched[name]
        watched.watchers -= 1
        if watched.watchers == 0:
            del self._watched[name]


@define(eq=False)
class Watch:
    """One watcher's place in the changes of a namespace."""

    _watches: Watches
    _name: str
    _watched: _Watched
    version: int = 0
    digest: bytes = b""

    def changes(self) -> list[bytes]:
        """What leads from what the watcher has to the newest tables, as WatchUpdates with nothing but a table: encoded
        once for all watchers. Further fields can be added behind, since messages may be written one after the other."""
        feed, encoded = self._watched.feed, self._watched.encoded
        path = feed.path(self.version, self.digest)
        messages = []
        for pair in path:
            if pair not in encoded:
                update = host_pb2.WatchUpdate(table=convert.delta_message(feed.delta(*pair)))
                encoded[pair] = update.SerializeToString()
                while len(encoded) > ENCODED_KEPT:
                    encoded.popitem(last=False)
            messages.append(encoded[pair])
        self.version, self.digest = feed.view.version, feed.view.digest
        return messages

    async def wait(self, timeout_s: float) -> None:
        """Until something may have changed, or the time is over."""
        changed = self._watched.changed
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        """Forget this watch."""
        self._watches.close(self._name)
