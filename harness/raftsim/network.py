"""Links between simulated replicas: first in, first out; they delay without bound and break, as TCP does."""

from __future__ import annotations

from collections import deque


class Network:
    """All links of a group. A link is up or down in both directions; going down loses what was under way."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._up: set[tuple[str, str]] = set()
        self.queues: dict[tuple[str, str], deque[bytes]] = {
            (source, target): deque() for source in names for target in names if source != target
        }
        self.pairs = sorted(self.queues)
        self.sent = 0

    def connect(self, one: str, other: str) -> bool:
        """Bring the link up; False if it was."""
        if (one, other) in self._up:
            return False
        self._up.update(((one, other), (other, one)))
        return True

    def disconnect(self, one: str, other: str) -> bool:
        """Take the link down and lose what was under way; False if it was down."""
        if (one, other) not in self._up:
            return False
        self._up.difference_update(((one, other), (other, one)))
        self.queues[one, other].clear()
        self.queues[other, one].clear()
        return True

    def send(self, source: str, target: str, message: bytes) -> bool:
        """Queue a message; False when the link is down."""
        if (source, target) not in self._up:
            return False
        self.queues[source, target].append(message)
        self.sent += 1
        return True

    def take(self, source: str, target: str) -> bytes | None:
        """The next message of this direction, or None."""
        queue = self.queues[source, target]
        return queue.popleft() if queue else None

    def waiting(self, source: str, target: str) -> int:
        """How many messages are under way in this direction."""
        return len(self.queues[source, target])
