"""The records of the replicated state. All of them are immutable values that compare by content."""

from __future__ import annotations

from enum import StrEnum

from attrs import Factory, evolve, frozen

from callboard.core.slot_records import NativeFloor, NativeNamespace
from callboard.core.versions import Policy, Version


@frozen
class HostRecord:
    """What a host says of itself; two equal records need no new table.

    `actor_types` are sorted and without duplicates. `process` is a random token that a native host draws once
    per process, so that a restart is a new incarnation; sidecars cannot say it and leave it empty.
    """

    name: str
    app_id: str = ""
    actor_types: tuple[str, ...] = ()
    port: int = 0
    process: str = ""


@frozen
class Member:
    """A host in the replicated state. `incarnation` is issued by the state machine and never used twice."""

    host: HostRecord
    incarnation: int

    @property
    def name(self) -> str:
        return self.host.name


@frozen
class Namespace:
    """Members and table version of one namespace. `members` maps host name to member, sorted by name."""

    policy: Policy
    version: Version
    members: dict[str, Member] = Factory(dict)


@frozen
class Session:
    """What ApplyOnce remembers of one client: answers of requests that it may still repeat.

    `last_used_entry` counts log entries, not time: it is what expiry is measured by. `forgotten_below` is the
    lowest sequence number whose answer is still kept; a lower one is refused as a stale repetition.
    """

    last_used_entry: int
    forgotten_below: int = 1
    answers: dict[int, Answer] = Factory(dict)


class AnswerCode(StrEnum):
    """What became of a command. Only `OK` and `UNCHANGED` are success."""

    OK = "ok"
    UNCHANGED = "unchanged"
    STALE_EPOCH = "stale_epoch"
    EXPIRED_SESSION = "expired_session"
    STALE_REQUEST = "stale_request"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    LIMIT = "limit"
    INVALID = "invalid"
    UNSUPPORTED = "unsupported"


@frozen
class Answer:
    """The result of one applied command. `number` is the issued number or version, if the command has one."""

    code: AnswerCode
    number: int = 0
    detail: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether the command had its effect, now or (for a repetition) before."""
        return self.code in {AnswerCode.OK, AnswerCode.UNCHANGED}


@frozen
class OperatorAnswer:
    """The answer that the first request with an operator's id got, at which position of the log, and a digest of what
    was asked."""

    request_id: str
    digest: bytes
    index: int
    answer: Answer


@frozen
class ReplicatedState:
    """Everything that the log decides. `apply` maps it and a command to the next one.

    `entries_applied` counts commands (log positions may skip numbers). `deleted_namespaces` keeps the version
    floor of namespaces that were deleted, so that a namespace created again under the name starts above it.
    `restored_from` is the digest of the backup that this state continues, if any. `native` holds the namespaces of
    native hosts (feature level 2); a name is in `namespaces` or in `native`, never in both. `operator_answers` (feature
    level 3) are in the order of the log.
    """

    feature_level: int = 1
    applied_index: int = 0
    entries_applied: int = 0
    generation: int = 0
    epoch: int = 0
    epoch_holder: str = ""
    next_incarnation: int = 1
    next_session: int = 1
    restored_from: str = ""
    sessions: dict[int, Session] = Factory(dict)
    namespaces: dict[str, Namespace] = Factory(dict)
    deleted_namespaces: dict[str, Version] = Factory(dict)
    native: dict[str, NativeNamespace] = Factory(dict)
    deleted_native: dict[str, NativeFloor] = Factory(dict)
    operator_answers: tuple[OperatorAnswer, ...] = ()

    def at(self, index: int) -> ReplicatedState:
        """The same state after log position `index`."""
        return evolve(self, applied_index=index, entries_applied=self.entries_applied + 1)
