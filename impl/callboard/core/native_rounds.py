"""What a leader says only once a round through the log has confirmed that it still leads."""

from __future__ import annotations

from attrs import define, field


@define(eq=False)
class RenewalRounds:
    """One round at a time, at least a tick apart, for all hosts together.

    `due_ms`: when the first may begin. `round_id`: of the newest round. Renewals are kept here; streams that wait for a
    round for another reason (`Streams.doubt`) are not, and only make one begin (`asked`).
    """

    due_ms: int
    round_id: int = field(init=False, default=0)
    running: bool = field(init=False, default=False)
    _collected: dict[int, int] = field(init=False, factory=dict)
    _in_round: dict[int, int] = field(init=False, factory=dict)

    def collect(self, incarnation: int, number: int) -> None:
        """This renewal is to be answered; it stands for all earlier ones of the incarnation."""
        self._collected[incarnation] = number

    def forget(self, incarnation: int) -> None:
        """Nothing is to be answered any more; whoever is in a round already is judged when it is confirmed."""
        self._collected.pop(incarnation, None)

    def begin_at_ms(self, *, asked: bool = False) -> int | None:
        """When the next round may begin, if there is something that it is for and none is running."""
        return self.due_ms if (self._collected or asked) and not self.running else None

    def begin(self, now_ms: int, tick_ms: int, *, asked: bool = False) -> dict[int, int] | None:
        """Renewal number by incarnation of a round that begins now; None if none does."""
        at_ms = self.begin_at_ms(asked=asked)
        if at_ms is None or now_ms < at_ms:
            return None
        self.running = True
        self.round_id += 1
        self.due_ms = now_ms + tick_ms
        self._in_round, self._collected = self._collected, {}
        return self._in_round

    def confirmed(self, round_id: int) -> dict[int, int] | None:
        """What may be answered now: what was collected before that round began. None if it is not the one running."""
        if round_id != self.round_id or not self.running:
            return None
        answered, self._in_round, self.running = self._in_round, {}, False
        return answered

    def failed(self, round_id: int) -> bool:
        """Whether that was the one running. What it was for may be confirmed by a later round as well."""
        if round_id != self.round_id or not self.running:
            return False
        self._collected = {**self._in_round, **self._collected}
        self._in_round, self.running = {}, False
        return True
