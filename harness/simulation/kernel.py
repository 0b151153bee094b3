"""Virtual time: a queue of what is to happen, processes that can be paused and crash, and clocks of their own rates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from attrs import define, field

MS = 1000
"""Microseconds in a millisecond: true time is counted in microseconds, clocks of processes in milliseconds."""
_PPM = 1_000_000
_PPM_MS = _PPM * MS


class Kernel:
    """True time and what is to happen in it. Things of one instant happen in the order in which they were asked for."""

    __slots__ = ("_queue", "_sequence", "events", "now_us")

    def __init__(self) -> None:
        self.now_us = 0
        self.events = 0
        self._queue: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._sequence = 0

    def at(self, at_us: int, action: Callable[..., object], *arguments: Any) -> None:
        """Let `action(*arguments)` happen at a true time."""
        self._sequence += 1
        heappush(self._queue, (at_us, self._sequence, action, arguments))

    def after(self, delay_us: int, action: Callable[..., object], *arguments: Any) -> None:
        """Let `action(*arguments)` happen so much later."""
        self._sequence += 1
        heappush(self._queue, (self.now_us + delay_us, self._sequence, action, arguments))

    def run_until(self, until_us: int) -> None:
        """Let everything happen that is due until then."""
        queue, happened = self._queue, 0
        try:
            while queue and queue[0][0] <= until_us:
                self.now_us, _, action, arguments = heappop(queue)
                happened += 1
                action(*arguments)
        finally:
            self.events += happened
        self.now_us = until_us


class EventLog:
    """What happened, for people, and a digest of it. `lines` are kept only if `keep`; without both nothing is noted."""

    def __init__(self, kernel: Kernel, *, digest: bool = False, keep: bool = False) -> None:
        self.on = digest or keep
        self.lines: list[str] = []
        self._kernel = kernel
        self._keep = keep
        self._hashed = hashlib.blake2b(digest_size=16)

    def note(self, who: str, text: str) -> None:
        """Something happened to `who`. Callers ask `on` first, so that nothing is formatted in vain."""
        line = f"{self._kernel.now_us / MS:11.3f}  {who:<8} {text}"
        self._hashed.update(line.encode())
        self._hashed.update(b"\n")
        if self._keep:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """Of all lines so far."""
        return self._hashed.hexdigest()


@define
class Clock:
    """A monotonic clock in whole milliseconds with its own rate against true time (in millionths)."""

    offset_ms: int
    rate_ppm: int
    speed: int = field(init=False)
    """In millionths of true time."""

    def __attrs_post_init__(self) -> None:
        self.speed = _PPM + self.rate_ppm

    def read(self, true_us: int) -> int:
        """The reading at a true time."""
        return self.offset_ms + true_us * self.speed // _PPM_MS

    def when(self, reading_ms: int) -> int:
        """The first true time at which the clock reads so much."""
        return -(-(reading_ms - self.offset_ms) * _PPM_MS // self.speed)


@define(eq=False)
class Process:
    """Something with a clock that runs until it crashes. While it is paused, what comes for it waits.

    After a pause the messages that waited are handled before timers are looked at, as in a process that a signal
    stopped.
    """

    kernel: Kernel
    name: str
    node: str
    clock: Clock
    alive: bool = field(init=False, default=True)
    paused: bool = field(init=False, default=False)
    resumed_ms: int = field(init=False, default=0)
    deferred: int = field(init=False, default=0)
    """What had to wait since it was paused last."""
    _backlog: list[tuple[Callable[..., object], tuple[Any, ...]]] = field(init=False, factory=list)
    _tick_us: int | None = field(init=False, default=None)
    _tick_missed: bool = field(init=False, default=False)

    def now_ms(self) -> int:
        """Its clock."""
        clock = self.clock  # what `read` does; this is asked more often than anything else
        return clock.offset_ms + self.kernel.now_us * clock.speed // _PPM_MS

    def take(self, action: Callable[..., object], *arguments: Any) -> None:
        """Let it do something now, or as soon as it runs again, unless it is dead."""
        if not self.alive:
            return
        if self.paused:
            self.deferred += 1
            self._backlog.append((action, arguments))
        else:
            action(*arguments)

    def later(self, delay_ms: int, action: Callable[..., object], *arguments: Any) -> None:
        """Let it do something when its clock has gone so far."""
        at_us = self.clock.when(self.now_ms() + max(1, delay_ms))
        self.kernel.at(at_us, self.take, action, *arguments)

    def arm(self, deadline_ms: int | None) -> None:
        """Have `tick` called once its clock reads `deadline_ms`. A tick that is due earlier stays."""
        if deadline_ms is None:
            return
        at_us = max(self.clock.when(deadline_ms), self.kernel.now_us + MS)
        if self._tick_us is None or self._tick_us > at_us:
            self._tick_us = at_us
            self.kernel.at(at_us, self._tick_due, at_us)

    def _tick_due(self, at_us: int) -> None:
        if self._tick_us != at_us or not self.alive:
            return
        self._tick_us = None
        if self.paused:
            self.deferred += 1
            self._tick_missed = True
        else:
            self.tick()

    def tick(self) -> None:
        """Its timer fired. For subclasses."""

    def pause(self) -> None:
        """Stop it, as by SIGSTOP. What ran goes on as if nothing had happened after `resume`."""
        if self.alive:
            self.paused, self.deferred = True, 0

    def resume(self) -> None:
        """Let it run again."""
        if not self.paused:
            return
        self.paused = False
        self.resumed_ms = self.now_ms()
        backlog, self._backlog = self._backlog, []
        for at, (action, arguments) in enumerate(backlog):
            if not self.alive:
                return
            if self.paused:
                self._backlog += backlog[at:]
                return
            action(*arguments)
        if self._tick_missed and self.alive:
            self._tick_missed = False
            self.tick()

    def crash(self) -> None:
        """It is gone at once, with all that waited for it."""
        self.alive = self.paused = False
        self._backlog = []
