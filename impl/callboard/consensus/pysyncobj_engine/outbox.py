"""Messages that must not leave before the journal is synced."""

from __future__ import annotations

from attrs import define, field

from callboard.consensus.pysyncobj_engine import codec


@define
class Outbox:
    """What waits for the next flush, in the order in which it was handed over."""

    held: list[tuple[str, codec.Message]] = field(factory=list)

    def add(self, peer_id: str, message: codec.Message) -> None:
        """Hold a message. A later plain acknowledgement replaces an earlier one to the same peer."""
        if self.held and isinstance(message, codec.Acknowledge):
            last_peer, last = self.held[-1]
            if last_peer == peer_id and isinstance(last, codec.Acknowledge) and _replaces(message, last):
                self.held[-1] = (peer_id, message)
                return
        self.held.append((peer_id, message))

    def take(self) -> list[tuple[str, codec.Message]]:
        """Everything that waits; the box is empty then."""
        held, self.held = self.held, []
        return held


def _replaces(new: codec.Acknowledge, old: codec.Acknowledge) -> bool:
    plain = old.success and new.success and not old.reset and not new.reset
    return plain and new.term == old.term and new.next_index >= old.next_index
