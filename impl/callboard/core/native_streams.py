"""Streams of native hosts at a leader: what each said last of itself, whose it is, and what its hello waits for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import define, field

from callboard.core.handoff_messages import NO_INCARNATION, Hello

TAKEOVER_AFTER_MS = 500
"""A process that wants the name of a member that is connected has to say so again after this: hosts do after 1 s
(`native_host.HELLO_REPEAT_MS`)."""


@define(eq=False)
class Streams(Mapping[int, Hello]):
    """What was said last on each open one. A stream is open from its hello on, and of a member from its welcome on."""

    _hellos: dict[int, Hello] = field(init=False, factory=dict)
    _incarnations: dict[int, int] = field(init=False, factory=dict)
    _insisting: dict[int, int] = field(init=False, factory=dict)
    """When they first asked for the name of a member that is connected."""
    _doubtful: dict[int, int] = field(init=False, factory=dict)
    """The round that has to be confirmed before the hello is refused."""

    def __getitem__(self, stream_id: int) -> Hello:
        return self._hellos[stream_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._hellos)

    def __len__(self) -> int:
        return len(self._hellos)

    def opened(self, stream_id: int, hello: Hello) -> None:
        """A hello, the first or a later one."""
        self._hellos[stream_id] = hello
        self._doubtful.pop(stream_id, None)

    def forget(self, stream_id: int) -> int:
        """It has ended. Returns whose it was, or NO_INCARNATION."""
        for each in (self._hellos, self._insisting, self._doubtful):
            each.pop(stream_id, None)
        return self._incarnations.pop(stream_id, NO_INCARNATION)

    def attach(self, stream_id: int, incarnation: int) -> None:
        """It is this member's from here on."""
        self._incarnations[stream_id] = incarnation
        self._insisting.pop(stream_id, None)

    def detach(self, stream_id: int) -> None:
        """Its member is none any more; it stays open, for the last word."""
        del self._incarnations[stream_id]

    def incarnation(self, stream_id: int) -> int:
        """Whose it is, or NO_INCARNATION."""
        return self._incarnations.get(stream_id, NO_INCARNATION)

    @property
    def any_doubtful(self) -> bool:
        """Whether there is anything to ask a round for."""
        return bool(self._doubtful)

    def doubt(self, stream_id: int, round_id: int) -> None:
        """Its hello is to be refused, if this leader still leads: once that round, or a later one, has confirmed it."""
        self._doubtful[stream_id] = round_id

    def no_doubt(self, round_id: int) -> list[int]:
        """A round was confirmed. Returns the streams that waited for it."""
        sure = [stream_id for stream_id, least in self._doubtful.items() if least <= round_id]
        for stream_id in sure:
            del self._doubtful[stream_id]
        return sure

    def insists(self, stream_id: int, now_ms: int) -> bool:
        """The stream asks for the name of a member that is connected: whether it did so long enough ago already.

        A hello that was delayed on its way may be of a process that has died since, and would throw out the next one
        of its name. Whoever is there says it again; what piled up on its way comes all at once.
        """
        return now_ms - self._insisting.setdefault(stream_id, now_ms) >= TAKEOVER_AFTER_MS
