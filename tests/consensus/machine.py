"""A small deterministic state machine for tests of engines: it remembers every command in order."""

from __future__ import annotations

import json

from attrs import define, field

RAISE = b"raise "
"""A command that starts with this makes `apply` raise (after it was remembered, so that positions can be compared)."""


@define
class ListMachine:
    """Its state is the list of (index, command); `apply` returns how many commands there are.

    `calls` counts per index how often this object was asked to apply it: more than once breaks the contract.
    """

    entries: list[tuple[int, bytes]] = field(factory=list)
    calls: dict[int, int] = field(factory=dict)
    restores: int = 0

    def apply(self, index: int, command: bytes) -> object:
        """Remember `command`."""
        self.calls[index] = self.calls.get(index, 0) + 1
        self.entries.append((index, command))
        if command.startswith(RAISE):
            raise RuntimeError(command.decode())
        return len(self.entries)

    def snapshot(self) -> bytes:
        """The list as JSON."""
        return json.dumps([[index, command.hex()] for index, command in self.entries]).encode()

    def restore(self, snapshot: bytes) -> None:
        """Replace the list. Raises ValueError for other bytes."""
        self.entries = [(index, bytes.fromhex(command)) for index, command in json.loads(snapshot)]
        self.restores += 1

    @property
    def commands(self) -> list[bytes]:
        """Every remembered command in order."""
        return [command for _, command in self.entries]

    def assert_order(self) -> None:
        """Fail unless indexes rise and every one was applied once."""
        indexes = [index for index, _ in self.entries]
        assert indexes == sorted(set(indexes)), "positions must rise"
        assert all(count == 1 for count in self.calls.values()), "a position was applied twice"
