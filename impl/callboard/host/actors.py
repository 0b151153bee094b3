"""Actors as applications write them: classes with methods, one instance for each id, one turn at a time.

    class Cart(Actor):
        async def on_activate(self) -> None:
            stored = await self.context.load()
            self.items = json.loads(stored) if stored else {}

        @method
        async def add(self, sku: str, quantity: int = 1) -> int: ...

Arguments and results travel as msgpack by their annotations (everything that msgspec converts), also within one
process: what a caller passes is always a copy.
"""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Any, ClassVar, Protocol, TypeVar, get_type_hints

import msgspec
from attrs import define, field, frozen

from callboard.host.errors import BadCallError

PAYLOAD_BYTES_MAX = 1024 * 1024
"""Of the encoded arguments, or the encoded result, of one call."""

Function = TypeVar("Function", bound=Callable[..., Any])


class DeactivationReason(StrEnum):
    """Why an activation ends."""

    IDLE = "idle"
    MOVED = "moved"
    LEASE = "lease"
    LEAVING = "leaving"


class ActorContext(Protocol):
    """What an actor knows of itself and may use of its host."""

    @property
    def actor_type(self) -> str:
        """The actor's type."""

    @property
    def actor_id(self) -> str:
        """Its id."""

    @property
    def fence(self) -> int:
        """The fencing token of the running turn; 0 under policy `eventual`. Pass it to whatever checks such tokens."""

    def lease_remaining_ms(self) -> int | None:
        """How long effects may still leave this host without another renewal; None for ever."""

    async def load(self) -> bytes | None:
        """The stored state. Raises StoreError, OutcomeUnknownError."""

    async def save(self, value: bytes) -> None:
        """Replace the stored state, under the turn's fence. Raises StoreError, OutcomeUnknownError."""

    def start_timer(self, name: str, callback: Callable[[], Any], *, due_ms: int, period_ms: int | None = None) -> None:
        """Call `callback` as a turn of this actor, once or again and again, while this activation lives.

        One under the same name is replaced. Timers do not keep an activation alive. Raises ValueError: too many.
        """

    def cancel_timer(self, name: str) -> None:
        """Idempotent."""

    async def remind(self, name: str, *, due_ms: int, period_ms: int | None = None, payload: bytes = b"") -> None:
        """Have `on_reminder` called in `due_ms` from now, and then every `period_ms`, wherever the actor is then.

        Kept in the state store, under the turn's fence, in place of one of that name. Delivered at least once: module
        `callboard.host.reminders` says when. Raises StoreError, OutcomeUnknownError; TypeError if the actor has no
        `on_reminder`.
        """

    async def cancel_reminder(self, name: str) -> bool:
        """Whether there was one. Raises StoreError, OutcomeUnknownError."""


class Actor:
    """Base of all actor classes. Instances are made by the host, without arguments."""

    reentrant: ClassVar[bool] = False
    """Whether a chain of calls that comes back to this actor may run within the turn that it left from."""
    reentrancy_depth_max: ClassVar[int] = 32
    idle_timeout_ms: ClassVar[int] = 600_000
    """An activation without a call for so long is deactivated."""
    mailbox_max: ClassVar[int] = 1000
    """Calls that wait for their turn; more are refused with BusyError."""
    context: ActorContext

    async def on_activate(self) -> None:
        """Called as the first turn. If it raises, the activation ends and the call fails."""

    async def on_deactivate(self, reason: DeactivationReason) -> None:
        """Called as the last turn, unless the lease is lost: then nothing may be done any more."""

    async def on_reminder(self, name: str, payload: bytes) -> None:
        """Called as a turn when a reminder is due. If it raises, it is called again after a pause."""
        raise NotImplementedError(f"{type(self).__name__} has no on_reminder")


def method(function: Function) -> Function:
    """Make a method callable from outside. It must be `async`, with every argument and the result annotated."""
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{function.__qualname__} is not async: methods of actors are")
    function.__callboard_method__ = True  # type: ignore[attr-defined]  # read by `ActorType.of`
    return function


@frozen
class Method:
    """One callable method with its types."""

    name: str
    function: Callable[..., Any]
    signature: inspect.Signature
    hints: dict[str, Any]

    def encode_arguments(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bytes:
        """Raises BadCallError if they do not fit."""
        try:
            bound = self.signature.bind(None, *arguments, **keywords)
        except TypeError as error:
            raise BadCallError(f"{self.function.__qualname__}: {error}") from None
        values = {name: value for name, value in bound.arguments.items() if name != self._self}
        return self._encoded(values)

    @property
    def _self(self) -> str:
        return next(iter(self.signature.parameters))

    def decode_arguments(self, payload: bytes) -> dict[str, Any]:
        """Raises BadCallError if they do not fit the annotations."""
        try:
            raw = msgspec.msgpack.decode(payload, type=dict[str, msgspec.Raw])
            values = {
                name: msgspec.msgpack.decode(value, type=self.hints.get(name, Any)) for name, value in raw.items()
            }
            self.signature.bind(None, **values)
        except (msgspec.MsgspecError, TypeError) as error:
            raise BadCallError(f"arguments of {self.function.__qualname__}: {error}") from None
        return values

    def encode_result(self, result: Any) -> bytes:
        """Raises BadCallError if it cannot be encoded."""
        return self._encoded(result)

    def decode_result(self, payload: bytes) -> Any:
        """Raises BadCallError if it does not fit the annotation."""
        try:
            return msgspec.msgpack.decode(payload, type=self.hints.get("return", Any))
        except msgspec.MsgspecError as error:
            raise BadCallError(f"result of {self.function.__qualname__}: {error}") from None

    def _encoded(self, value: Any) -> bytes:
        try:
            payload = msgspec.msgpack.encode(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadCallError(f"{self.function.__qualname__}: {error}") from None
        if len(payload) > PAYLOAD_BYTES_MAX:
            text = f"{self.function.__qualname__}: {len(payload)} bytes; the limit is {PAYLOAD_BYTES_MAX}"
            raise BadCallError(text)
        return payload


@define
class ActorType:
    """An actor class with its callable methods. The type's name is the class's."""

    name: str
    actor_class: type[Actor]
    methods: dict[str, Method] = field(factory=dict)

    @property
    def has_reminders(self) -> bool:
        """Whether the class hears reminders."""
        return self.actor_class.on_reminder is not Actor.on_reminder

    @classmethod
    def of(cls, actor_class: type[Actor]) -> ActorType:
        """Raises TypeError for a method without annotations."""
        made = cls(actor_class.__name__, actor_class)
        for name, function in inspect.getmembers(actor_class, inspect.isfunction):
            if not getattr(function, "__callboard_method__", False):
                continue
            hints, signature = get_type_hints(function), inspect.signature(function)
            missing = [name for name in list(signature.parameters)[1:] if name not in hints]
            if missing or "return" not in hints:
                raise TypeError(f"{function.__qualname__} needs annotations for {', '.join(missing) or 'its result'}")
            made.methods[name] = Method(name, function, signature, hints)
        return made


@frozen
class Chain:
    """A chain of calls: who began it, and how deep it is."""

    chain_id: str = ""
    depth: int = 0
    path: tuple[str, ...] = ()
    """"type/id" of the actors whose turns wait for this call, outermost first."""


NO_CHAIN = Chain()
current_chain: contextvars.ContextVar[Chain] = contextvars.ContextVar("callboard_chain", default=NO_CHAIN)
"""Of the turn that runs in this task; calls that it makes continue it."""
current_deadline_ms: contextvars.ContextVar[int | None] = contextvars.ContextVar("callboard_deadline", default=None)
"""Of the call whose turn runs in this task, on the host's clock: calls that it makes end then at the latest."""
