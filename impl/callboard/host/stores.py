"""Where actors keep their state: behind one small interface, with versions and fences checked in one step.

The fence of an actor lives in the store. An access under a lower fence than the highest seen is refused: that is what
stops a host that was frozen between its last check and its write. Reads check it too, and raise it, so that the first
read of a successor shuts its predecessor out.

Reminders lie in the same store, under the same fences. They are found by the position of their actor (its slot among
the most slots that there can be), so that a host can look for those of the slots that it was granted.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Protocol

from attrs import frozen

from callboard.core.slot_records import SLOT_BITS_MAX, slot_of

VALUE_BYTES_MAX = 16 * 1024 * 1024
WAITING_MAX = 10_000
TYPE_BYTES_MAX = 255
ID_BYTES_MAX = 1024
REMINDER_NAME_BYTES_MAX = 255
REMINDER_PAYLOAD_BYTES_MAX = 64 * 1024
REMINDERS_PER_ACTOR_MAX = 100
PAGE_MAX = 1000


class StoreError(Exception):
    """The store did not do it."""


class StaleFenceError(StoreError):
    """Another host has used a higher fence for this actor: this one must not act for it any more."""


class VersionConflictError(StoreError):
    """The state is not the one that was read."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached, is full, or is damaged; the message names it and the reason. A write may have been
    done all the same: the next one under the old version then ends with VersionConflictError."""


@frozen
class ActorKey:
    """Whose state."""

    namespace: str
    actor_type: str
    actor_id: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.actor_type}/{self.actor_id}"

    @property
    def position(self) -> int:
        """The actor's slot if there were as many slots as there can be."""
        return slot_of(self.actor_type, self.actor_id, SLOT_BITS_MAX)


@frozen
class Stored:
    """A value and how often it was written: 0 and None for never."""

    value: bytes | None
    version: int


@frozen
class Reminder:
    """To be delivered to its actor at `due_ms` (milliseconds since 1970), and then every `period_ms`, if given.

    `token` changes with every write: what was delivered is taken off only if it is still the same.
    """

    key: ActorKey
    name: str
    due_ms: int
    period_ms: int | None
    payload: bytes
    token: str

    @property
    def place(self) -> tuple[int, str, str]:
        """Its place in the order of pages."""
        return self.key.position, self.key.actor_id, self.name


@frozen
class ReminderQuery:
    """Reminders of one actor type that are due before a time, of the positions from `first` on, in their order.

    `after`: the `place` of the last one of the page before. `limit`: of this page, at most PAGE_MAX.
    """

    namespace: str
    actor_type: str
    first: int
    count: int
    due_before_ms: int
    after: tuple[int, str, str] | None = None
    limit: int = PAGE_MAX


def positions(first_slot: int, slots: int, slot_bits: int) -> tuple[int, int]:
    """First and count of the positions that consecutive slots have."""
    width = SLOT_BITS_MAX - slot_bits
    return first_slot << width, slots << width


class StateStore(Protocol):
    """Every host of an exclusive namespace must use the same store: its id is compared when a host says hello.

    A `fence` of 0 is not checked. Every access raises StoreUnavailableError if the store cannot do it, StaleFenceError
    if it has seen a higher fence, and StoreError for keys and values beyond the limits. One that raises changes
    nothing, also no fence; only after StoreUnavailableError nobody knows.
    """

    async def open(self) -> str:
        """Ready the store and return its id. Idempotent. Raises StoreUnavailableError."""

    async def load(self, key: ActorKey, fence: int) -> Stored:
        """Read, under `fence`."""

    async def save(self, key: ActorKey, value: bytes, *, expected_version: int, fence: int) -> int:
        """Write if the version is the expected one, under `fence`. Returns the new version.

        Raises:
            VersionConflictError: it is not.
        """

    async def save_reminder(self, reminder: Reminder, *, fence: int, replaces: str | None = None) -> bool:
        """Write a reminder, in place of one of that name. With `replaces`: only if its token is that one; returns
        whether it was. Raises StoreError beyond REMINDERS_PER_ACTOR_MAX."""

    async def load_reminder(self, key: ActorKey, name: str, *, fence: int) -> Reminder | None:
        """Read one reminder, under `fence`."""

    async def delete_reminder(self, key: ActorKey, name: str, *, fence: int, token: str | None = None) -> bool:
        """Delete a reminder, with `token` only if it has that one. Returns whether there was one to delete."""

    async def list_reminders(self, query: ReminderQuery) -> tuple[Reminder, ...]:
        """One page, in the order of `Reminder.place`; shorter than the limit only if it is the last. No fence is
        looked at: what is found is to be read again before it is acted upon."""

    async def close(self) -> None:
        """Idempotent. Nothing else may follow."""


def check_key(key: ActorKey) -> None:
    """Raises StoreError if no store can keep such a key."""
    limits = (
        ("namespace", key.namespace, TYPE_BYTES_MAX),
        ("actor type", key.actor_type, TYPE_BYTES_MAX),
        ("actor id", key.actor_id, ID_BYTES_MAX),
    )
    for what, text, limit in limits:
        _check_text(what, text, limit)


def check_value(key: ActorKey, value: bytes) -> None:
    """Raises StoreError if the key or the value is too large."""
    check_key(key)
    if len(value) > VALUE_BYTES_MAX:
        raise StoreError(f"state of {key} has {len(value)} bytes; the limit is {VALUE_BYTES_MAX}")


def check_reminder(reminder: Reminder) -> None:
    """Raises StoreError if it is too large, or its times are no times."""
    check_key(reminder.key)
    _check_text("reminder", reminder.name, REMINDER_NAME_BYTES_MAX)
    who = f"reminder {reminder.name!r} of {reminder.key}"
    if len(reminder.payload) > REMINDER_PAYLOAD_BYTES_MAX:
        size = len(reminder.payload)
        raise StoreError(f"{who}: payload has {size} bytes; the limit is {REMINDER_PAYLOAD_BYTES_MAX}")
    if not 0 <= reminder.due_ms < 1 << 62:
        raise StoreError(f"{who}: due_ms {reminder.due_ms} is not between 0 and 2^62")
    if reminder.period_ms is not None and not 1 <= reminder.period_ms < 1 << 62:
        raise StoreError(f"{who}: period_ms {reminder.period_ms} is not between 1 and 2^62")


def check_page(query: ReminderQuery) -> None:
    """Raises StoreError if the page is too large."""
    if not 1 <= query.limit <= PAGE_MAX:
        raise StoreError(f"a page of {query.limit} reminders: the limit is between 1 and {PAGE_MAX}")


def _check_text(what: str, text: str, limit: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise StoreError(f"{what} {text!r} is no valid text: no store can keep it") from None
    if size > limit:
        raise StoreError(f"{what} {text[:20]!r}... has {size} bytes; the limit is {limit}")
    if not text or "\0" in text:
        raise StoreError(f"{what} {text!r} is empty or has a zero character: no store can keep it")


def stale(key: ActorKey, fence: int, newest: int) -> StaleFenceError:
    """The error for an access under an old fence."""
    return StaleFenceError(f"{key}: fence {fence} is older than {newest}")


def conflict(key: ActorKey, version: int, expected: int) -> VersionConflictError:
    """The error for a write that expected another version."""
    return VersionConflictError(f"{key} has version {version}, not {expected}")


def too_many(key: ActorKey) -> StoreError:
    """The error for one reminder more than an actor may have."""
    return StoreError(f"{key} has {REMINDERS_PER_ACTOR_MAX} reminders, the most allowed")


class MemoryStore:
    """For tests and for hosts of one process."""

    def __init__(self) -> None:
        self.store_id = f"memory-{secrets.token_hex(8)}"
        self._values: dict[ActorKey, Stored] = {}
        self._fences: dict[ActorKey, int] = {}
        self._reminders: dict[ActorKey, dict[str, Reminder]] = {}

    async def open(self) -> str:
        """See `StateStore`."""
        return self.store_id

    async def load(self, key: ActorKey, fence: int) -> Stored:
        """See `StateStore`."""
        check_key(key)
        self._check(key, fence)
        self._raise(key, fence)
        return self._values.get(key, Stored(None, 0))

    async def save(self, key: ActorKey, value: bytes, *, expected_version: int, fence: int) -> int:
        """See `StateStore`."""
        check_value(key, value)
        self._check(key, fence)
        present = self._values.get(key, Stored(None, 0))
        if present.version != expected_version:
            raise conflict(key, present.version, expected_version)
        self._raise(key, fence)
        self._values[key] = Stored(value, expected_version + 1)
        return expected_version + 1

    async def save_reminder(self, reminder: Reminder, *, fence: int, replaces: str | None = None) -> bool:
        """See `StateStore`."""
        check_reminder(reminder)
        self._check(reminder.key, fence)
        of_actor = self._reminders.get(reminder.key, {})
        present = of_actor.get(reminder.name)
        if replaces is None and present is None and len(of_actor) >= REMINDERS_PER_ACTOR_MAX:
            raise too_many(reminder.key)
        self._raise(reminder.key, fence)
        if replaces is not None and (present is None or present.token != replaces):
            return False
        self._reminders.setdefault(reminder.key, of_actor)[reminder.name] = reminder
        return True

    async def load_reminder(self, key: ActorKey, name: str, *, fence: int) -> Reminder | None:
        """See `StateStore`."""
        check_key(key)
        self._check(key, fence)
        self._raise(key, fence)
        return self._reminders.get(key, {}).get(name)

    async def delete_reminder(self, key: ActorKey, name: str, *, fence: int, token: str | None = None) -> bool:
        """See `StateStore`."""
        check_key(key)
        self._check(key, fence)
        self._raise(key, fence)
        of_actor = self._reminders.get(key, {})
        present = of_actor.get(name)
        if present is None or (token is not None and present.token != token):
            return False
        del of_actor[name]
        if not of_actor:
            del self._reminders[key]
        return True

    async def list_reminders(self, query: ReminderQuery) -> tuple[Reminder, ...]:
        """See `StateStore`."""
        check_page(query)
        found = sorted(self._matching(query), key=lambda reminder: reminder.place)
        return tuple(found[: query.limit])

    def _matching(self, query: ReminderQuery) -> Iterable[Reminder]:
        for key, of_actor in self._reminders.items():
            if (key.namespace, key.actor_type) != (query.namespace, query.actor_type):
                continue
            if not query.first <= key.position < query.first + query.count:
                continue
            for reminder in of_actor.values():
                if reminder.due_ms < query.due_before_ms and (query.after is None or reminder.place > query.after):
                    yield reminder

    def _check(self, key: ActorKey, fence: int) -> None:
        newest = self._fences.get(key, 0)
        if fence and fence < newest:
            raise stale(key, fence, newest)

    def _raise(self, key: ActorKey, fence: int) -> None:
        if fence:
            self._fences[key] = fence

    async def close(self) -> None:
        """See `StateStore`."""
