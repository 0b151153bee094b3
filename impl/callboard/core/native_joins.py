"""Native hosts that want to become members, or to change their record: who may, and who waits for a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import define, field

from callboard.core.handoff_messages import NO_INCARNATION, Hello
from callboard.core.native_hellos import is_of
from callboard.core.slot_records import NativeHostRecord, NativeMember

FORMER_PROCESSES_MAX = 10_000
"""Processes remembered by one leader; the oldest are forgotten."""


@define(eq=False)
class Joins:
    """The newest word counts for each host name. At most one batch is in flight, of `items_max` hosts and `bytes_max`.

    When a batch is refused, single hosts are tried until one is found that is refused alone.
    """

    items_max: int
    bytes_max: int
    _waiting: dict[str, tuple[NativeHostRecord, int]] = field(init=False, factory=dict)
    _names: dict[int, str] = field(init=False, factory=dict)
    _in_flight: tuple[tuple[NativeHostRecord, int], ...] = field(init=False, default=())
    _singly: int = field(init=False, default=0)
    _former: dict[tuple[str, str], None] = field(init=False, factory=dict)
    """Names and tokens of processes that were members, the oldest first."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, host: NativeHostRecord, stream_id: int) -> int | None:
        """The stream asks for `host` to become a member. Returns another stream that it displaces, if any."""
        earlier = self._waiting.get(host.name)
        self._waiting[host.name] = (host, stream_id)
        self._names[stream_id] = host.name
        if earlier is not None and earlier[1] != stream_id:
            self._names.pop(earlier[1], None)
            return earlier[1]
        return None

    def forget_stream(self, stream_id: int) -> None:
        """Nobody is there any more to whom membership would be of use."""
        name = self._names.pop(stream_id, None)
        if name is not None:
            del self._waiting[name]

    def settle(self, members: Mapping[str, NativeMember]) -> list[int]:
        """Drop what is committed. Returns the streams of these hosts."""
        settled = []
        for name, (host, stream_id) in list(self._waiting.items()):
            member = members.get(name)
            if member is not None and member.host == host:
                settled.append(stream_id)
                self.forget_stream(stream_id)
        return settled

    def follow(self, before: Mapping[str, NativeMember], after: Mapping[str, NativeMember]) -> None:
        """Members changed: remember the processes that are none any more, and forget what they still wait for."""
        for name, member in before.items():
            present = after.get(name)
            if present is member or (present is not None and present.host.process == member.host.process):
                continue
            former = name, member.host.process
            self._former.pop(former, None)
            self._former[former] = None
            waiting = self._waiting.get(name)
            if waiting is not None and waiting[0].process == member.host.process:
                self.forget_stream(waiting[1])
        while len(self._former) > FORMER_PROCESSES_MAX:
            del self._former[next(iter(self._former))]

    def is_gone(self, hello: Hello, member: NativeMember | None) -> bool:
        """Whether it was a member, as far as this leader knows, and is none any more. `member`: who has its name."""
        if member is not None and is_of(hello, member):
            return False
        return hello.incarnation != NO_INCARNATION or self.was_member(hello.host)

    def was_member(self, host: NativeHostRecord) -> bool:
        """Whether the process of `host` was a member and was removed: it has to come as another (rule 7 of handoff).

        Its word may come late, from a process that is dead by now, and must not throw out the next one of its name. A
        leader knows those that it saw; what was sent to another one ended with its streams.
        """
        return (host.name, host.process) in self._former

    def next_batch(self) -> tuple[NativeHostRecord, ...]:
        """The hosts of the next batch; `refused` or `done` says what became of it."""
        limit = 1 if self._singly else self.items_max
        chosen: list[tuple[NativeHostRecord, int]] = []
        size = 0
        for host, stream_id in self._waiting.values():
            size += _record_bytes(host)
            if len(chosen) >= limit or (chosen and size > self.bytes_max):
                break
            chosen.append((host, stream_id))
        self._in_flight = tuple(chosen)
        return tuple(host for host, _ in chosen)

    def done(self) -> None:
        """The batch committed."""
        self._singly = max(0, self._singly - len(self._in_flight))

    def refused(self) -> int | None:
        """The batch was refused, and would be again. Returns the stream of the host that is to blame, if known."""
        tried, self._in_flight = self._in_flight, ()
        if len(tried) == 1:
            self._singly = max(0, self._singly - 1)
            return tried[0][1]
        self._singly = len(tried)
        return None


def _record_bytes(host: NativeHostRecord) -> int:
    strings: Iterable[str] = (host.name, host.address, host.process, *host.actor_types, *filter(None, (host.store_id,)))
    return 64 + sum(4 * len(text) + 3 for text in strings) + sum(4 * (len(a) + len(b)) + 7 for a, b in host.labels)
