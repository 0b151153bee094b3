"""The network: delays, links that block, streams that keep order or break, and datagrams that may get lost.

A blocked link holds what streams carry, as TCP does, until it opens or one end gives the stream up. A stream that
breaks loses what is on its way. Nodes are names: processes of one name share a node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from attrs import define, field, frozen

from harness.simulation.kernel import MS, Kernel, Process

UNAVAILABLE = "UNAVAILABLE"
SEND_MAX = 1024
"""Messages that one direction of a stream holds; more break it."""


class Bites(Protocol):
    """A fault that counts how often it had an effect."""

    bites: int


@frozen
class NetworkTimes:
    """Of the network, in microseconds: drawn delays lie between `fastest` and `slowest`, sometimes at `straggler`.

    `keepalive_ms`: a stream over a blocked link is given up after so long, by each end for itself.
    """

    fastest_us: int = 200
    slowest_us: int = 3 * MS
    straggler_us: int = 40 * MS
    stragglers_percent: int = 2
    keepalive_ms: int = 700


@define(eq=False)
class Network:
    """See the module's description."""

    kernel: Kernel
    random: Random
    times: NetworkTimes = field(factory=NetworkTimes)
    streams: dict[int, Stream] = field(init=False, factory=dict)
    slow: dict[str, tuple[int, Bites]] = field(init=False, factory=dict)
    """Nodes whose messages take so many microseconds more, each way."""
    messages: int = field(init=False, default=0)
    _blocked: dict[tuple[str, str], list[Bites]] = field(init=False, factory=dict)
    _last_stream: int = field(init=False, default=0)

    def delay_us(self, source: str, target: str) -> int:
        """How long a message takes."""
        times, draw = self.times, self.random.random()
        if draw * 100 < times.stragglers_percent:
            delay = times.straggler_us
        else:
            delay = times.fastest_us + int(draw * (times.slowest_us - times.fastest_us))
        if self.slow:
            for node in (source, target):
                if node in self.slow:
                    more_us, fault = self.slow[node]
                    fault.bites += 1
                    delay += more_us
        return delay

    # ---- links

    def block(self, source: str, target: str, fault: Bites) -> None:
        """From now on nothing gets from one node to the other."""
        self._blocked.setdefault((source, target), []).append(fault)
        for stream in self.streams.values():
            if {end.process.node for end in stream.ends} == {source, target}:
                stream.keep_alive()

    def unblock(self, fault: Bites) -> None:
        """Take back what a fault blocked; what streams held is on its way again."""
        for pair, faults in list(self._blocked.items()):
            kept = [each for each in faults if each is not fault]
            if kept:
                self._blocked[pair] = kept
            else:
                del self._blocked[pair]
        for stream in list(self.streams.values()):
            stream.flush()

    def blocks(self, source: str, target: str) -> bool:
        """Whether the link is blocked; whoever blocks it has bitten."""
        if not self._blocked:
            return False
        faults = self._blocked.get((source, target))
        if not faults:
            return False
        for fault in faults:
            fault.bites += 1
        return True

    def is_blocked(self, source: str, target: str) -> bool:
        """The same as an observer sees it."""
        return (source, target) in self._blocked

    # ---- datagrams and streams

    def datagram(self, source: str, target: Process, action: Callable[..., object], *arguments: Any) -> bool:
        """Have the target do something, if the message gets there. Returns whether it left."""
        self.messages += 1
        if self._blocked and self.blocks(source, target.node):
            return False
        self.kernel.after(self.delay_us(source, target.node), target.take, action, *arguments)
        return True

    def connect(self, client: End, server: End) -> Stream:
        """A new stream."""
        self._last_stream += 1
        stream = Stream(self, self._last_stream, (client, server))
        self.streams[stream.number] = stream
        stream.keep_alive()
        return stream


@define(eq=False)
class End:
    """One end of a stream: whose it is, and what to do with messages and with the stream's end."""

    process: Process
    receive: Callable[[Any], None]
    ended: Callable[[str], None]
    open: bool = True


@define(eq=False)
class Stream:
    """Both directions keep their order. Side 0 opened it."""

    network: Network
    number: int
    ends: tuple[End, End]
    broken: bool = field(init=False, default=False)
    _last_us: list[int] = field(init=False, factory=lambda: [0, 0])
    _held: tuple[deque[tuple[Callable[..., object], Any]], ...] = field(init=False, factory=lambda: (deque(), deque()))
    _giving_up: bool = field(init=False, default=False)

    def send(self, side: int, payload: Any) -> None:
        """From that side to the other."""
        if self.ends[side].open:
            self._post(side, self._arrive, payload)

    def _post(self, side: int, action: Callable[..., object], payload: Any) -> None:
        network = self.network
        network.messages += 1
        if self.broken:
            return
        held = self._held[side]
        source, target = self.ends[side].process.node, self.ends[1 - side].process.node
        if held or network.blocks(source, target):
            held.append((action, payload))
            if len(held) > SEND_MAX:
                self.cut()
            return
        at_us = max(network.kernel.now_us + network.delay_us(source, target), self._last_us[side] + 1)
        self._last_us[side] = at_us
        network.kernel.at(at_us, action, 1 - side, payload)

    def _arrive(self, side: int, payload: Any) -> None:
        end = self.ends[side]
        if end.open and not self.broken:
            end.process.take(self._receive, end, payload)

    def _receive(self, end: End, payload: Any) -> None:
        if end.open:
            end.receive(payload)

    def flush(self) -> None:
        """Links opened: send what was held."""
        for side in (0, 1):
            source, target = self.ends[side].process.node, self.ends[1 - side].process.node
            if self._held[side] and not self.network.is_blocked(source, target):
                held = list(self._held[side])
                self._held[side].clear()
                for action, payload in held:
                    self._post(side, action, payload)

    def keep_alive(self) -> None:
        """A link between the ends was blocked: unless it opens soon, pings are not answered, and the stream is cut."""
        if not self._giving_up and self._is_blocked():
            self._giving_up = True
            self.network.kernel.after(self.network.times.keepalive_ms * MS, self._give_up)

    def _is_blocked(self) -> bool:
        one, other = (end.process.node for end in self.ends)
        return self.network.is_blocked(one, other) or self.network.is_blocked(other, one)

    def _give_up(self) -> None:
        self._giving_up = False
        if self._is_blocked():
            self.cut()

    def end(self, side: int, status: str) -> None:
        """That side ends the stream; the other hears of it after what was sent before."""
        end = self.ends[side]
        if end.open:
            end.open = False
            self._post(side, self._ended, status)
            self._forget()

    def _ended(self, side: int, status: str) -> None:
        end = self.ends[side]
        if end.open:
            end.process.take(self._notice, end, status)

    def _notice(self, end: End, status: str) -> None:
        if end.open:
            end.open = False
            self._forget()
            end.ended(status)

    def _forget(self) -> None:
        if self.broken or not any(end.open for end in self.ends):
            self.network.streams.pop(self.number, None)

    def cut(self) -> None:
        """It breaks: what is on its way is lost, and each end notices for itself."""
        if self.broken:
            return
        self.broken = True
        for held in self._held:
            held.clear()
        self._forget()
        for side, end in enumerate(self.ends):
            if end.open:
                delay_us = self.network.delay_us(end.process.node, end.process.node)
                self.network.kernel.after(delay_us, self._ended, side, UNAVAILABLE)

    def process_died(self, side: int) -> None:
        """The system of that side's process ends it for it. What was sent before may still arrive."""
        self.ends[side].open = False
        self._post(side, self._ended, UNAVAILABLE)
        self._forget()
