"""What happens to a simulated sidecar (events) and what it wants done (effects).

A stream has an attempt number, counted from 1 per sidecar. Events of an earlier attempt than the current one
are dropped, as daprd drops late orders of a stream that it has given up.
"""

from __future__ import annotations

from attrs import field, frozen

from harness.sidecars.tables import Order


@frozen
class SidecarSpec:
    """Who a sidecar is. `name` is "ip:port", its name on the ring."""

    name: str
    app_id: str
    actor_types: tuple[str, ...] = ()
    namespace: str = "default"


@frozen
class Report:
    """One message to the server. `host` is set on reports, and absent on acknowledgements."""

    operation: str
    namespace: str
    app_id: str
    version: int | None = None
    host: SidecarSpec | None = None


@frozen
class Started:
    """The sidecar process is up and may connect."""


@frozen
class StreamOpened:
    """The stream of this attempt can be written to."""

    attempt: int


@frozen
class OpenFailed:
    """The stream of this attempt could not be opened: nobody listens there, or the connection broke at once."""

    attempt: int
    detail: str = ""


@frozen
class OrderReceived:
    """An order arrived on the stream of this attempt."""

    attempt: int
    order: Order


@frozen
class StreamEnded:
    """The response side of this attempt's stream ended, with a gRPC status code's name and text."""

    attempt: int
    code: str = "OK"
    detail: str = ""


@frozen
class TimerFired:
    """A timer set by `SetTimer` is due."""

    timer: str


@frozen
class TypesChanged:
    """The application now hosts these actor types."""

    actor_types: tuple[str, ...]


@frozen
class ShutdownAsked:
    """SIGTERM: close the stream in the polite way and do not come back."""


Event = Started | StreamOpened | OpenFailed | OrderReceived | StreamEnded | TimerFired | TypesChanged | ShutdownAsked


@frozen
class Dial:
    """Open a stream to the address with this index, `after_s` seconds from now."""

    attempt: int
    address_index: int
    after_s: float = 0.0


@frozen
class Send:
    """Write one message to the current stream."""

    report: Report


@frozen
class CloseSend:
    """Half-close the current stream. Its response side stays open until the server ends it."""


@frozen
class SetTimer:
    """Fire `TimerFired(timer)` at this monotonic time; replaces a running timer of the same name."""

    timer: str
    at: float


@frozen
class CancelTimer:
    """Forget the timer, if it runs."""

    timer: str


Effect = Dial | Send | CloseSend | SetTimer | CancelTimer


@frozen
class SidecarSettings:
    """How long a simulated sidecar takes for things. The defaults are daprd's, except `refused_pause_s`.

    After an orderly refusal ("not a leader") daprd 1.18 dials the next address at once. Fifty sidecars that do
    so on the machine on which the replicas hold their election would take the processor away from it, which on
    as many machines they would not: hence a pause here, and 0 for daprd's own behaviour.
    """

    dissemination_timeout_s: float = 30.0
    """1.18: from lock to update; then the sidecar closes its stream."""
    drain_s: float = 0.0
    """How long it takes to drain actors that move away; 0 if they are idle."""
    open_failed_pause_s: float = 0.5
    """1.18: pause after a stream that could not be opened, drawn from half of it to one and a half."""
    refused_pause_s: float = 0.1
    """1.18: pause after a stream that ended before its first order, drawn likewise."""
    heartbeat_s: float = 1.0
    """1.16: time between reports."""
    reconnect_pause_s: float = 1.0
    """1.16: pause before every new stream but the first."""
    fail_safe_s: float = 15.0
    """1.16: a table that stays locked for longer is cleared and unlocked."""
    ignores_equal_version: bool = False
    """Up to 1.14: an update whose version string is the one it has is ignored, and a lock leaves the table alone."""


@frozen
class Note:
    """Something that happened, for tests and reports. `at` is monotonic seconds."""

    at: float
    what: str
    version: int = field(default=0)
