"""What a leader of native hosts has proposed and waits for."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field


@define(eq=False)
class Proposals:
    """At most one proposal of each kind is in flight, and each kind may have to pause before its next."""

    _in_flight: dict[str, int] = field(init=False, factory=dict)
    _last: int = field(init=False, default=0)
    _not_before_ms: dict[str, int] = field(init=False, factory=dict)

    def is_in_flight(self, kind: str) -> bool:
        """Whether the newest of this kind has not ended."""
        return kind in self._in_flight

    def may_begin(self, kind: str, now_ms: int) -> bool:
        """Whether one of this kind may be made now."""
        return kind not in self._in_flight and now_ms >= self.not_before_ms(kind, now_ms)

    def not_before_ms(self, kind: str, otherwise_ms: int) -> int:
        """When the pause of this kind is or was over, or `otherwise_ms` if it never paused."""
        return self._not_before_ms.get(kind, otherwise_ms)

    def begin(self, kind: str) -> int:
        """One of this kind is made. Returns its number."""
        self._last += 1
        self._in_flight[kind] = self._last
        return self._last

    def end(self, number: int) -> str | None:
        """It ended, however it did. Returns its kind; None if nobody waits for it."""
        kind = next((each for each, in_flight in self._in_flight.items() if in_flight == number), None)
        if kind is not None:
            del self._in_flight[kind]
        return kind

    def pause(self, kind: str, until_ms: int) -> None:
        """None of this kind before then."""
        self._not_before_ms[kind] = until_ms

    def pauses_ms(self) -> Iterator[int]:
        """When pauses are or were over, of kinds of which none is in flight."""
        return (at_ms for kind, at_ms in self._not_before_ms.items() if kind not in self._in_flight)
