"""The contract between callboard and the consensus engine below it.

An engine keeps a log of opaque commands (bytes) in one order on a fixed set of replicas and feeds every
committed command to a state machine. callboard never looks below this interface, and every engine passes
the same conformance suite (tests/consensus/conformance.py).

What an engine promises:

* **Linearizable.** `propose` takes effect at one instant between its call and its return; after `barrier`
  returns, the local state machine has applied every command whose `propose` returned anywhere before
  `barrier` was called.
* **Outcomes never lie.** `propose` returns only for a command that is committed and applied here. It raises
  `NotApplied` only when the command can never take effect, and `OutcomeUnknown` when nobody here can tell.
* **Durable before acknowledged.** What `propose` acknowledged survives the death of every replica, and the
  loss of everything unsynced on a minority (the memory engine is exempt and says so).
* **Applied once per position.** Every replica calls `StateMachine.apply` exactly once for each log position,
  in order, also when `apply` or a callback raises; an `apply` that raises counts as applied with the error.
* **Zombies are possible.** A command whose outcome is unknown may still be applied later. The caller makes
  it harmless with request ids kept in the state (ApplyOnce).
* **Leadership is an event.** `Leadership` changes reach every observer. Terms only order leaders of one
  replica group; callboard's own leader epoch is a command in the log.
* **Bounded.** At most `EngineLimits.pending_proposals` proposals wait; one more is refused with `NotApplied`.

An engine runs in the event loop that called `start`; none of its methods may be called from another thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attrs import field, frozen
from attrs.validators import ge


class EngineError(Exception):
    """Base of everything that an engine raises on purpose."""


class EngineStartError(EngineError):
    """The engine cannot start: foreign, corrupt or inconsistent files, a port in use, a wrong flag.

    The message is one line that names the file or setting and what to do about it.
    """


class EngineFailed(EngineError):
    """The engine stopped itself because going on could break its promises (for example a failed fsync)."""


class ProposalError(EngineError):
    """A proposal was not acknowledged; the subclass says what is known of it."""


class NotApplied(ProposalError):
    """The command was surely not applied and never will be. Retrying it is safe."""


class NotLeader(NotApplied):
    """Refused because this replica does not lead. `leader` is the id of the replica that may, if known."""

    def __init__(self, leader: str | None) -> None:
        super().__init__(f"this replica is not the leader (leader: {leader or 'unknown'})")
        self.leader = leader


class QueueFull(NotApplied):
    """Refused because too many proposals wait already."""


class OutcomeUnknown(ProposalError):
    """The command may have been applied, or may be applied later. Retry only under the same request id."""


class BarrierFailed(EngineError):
    """A linearizable read could not be confirmed in time. Nothing was changed."""


@frozen
class Leadership:
    """Who leads, as one replica sees it. `term` orders the leaders of one replica group; it never reaches hosts.

    `is_local` means that this replica may propose: it was elected and has not learnt otherwise. It is a hint
    and no proof; `Engine.barrier` and a committed `propose` are proof.
    """

    leader: str | None
    term: int
    is_local: bool


@frozen
class Applied:
    """The answer to an acknowledged proposal: its position in the log and what `StateMachine.apply` returned.

    If `apply` raised, `result` is that exception.
    """

    index: int
    result: object


@frozen
class Peer:
    """One replica of the group: its identity, and the address at which *this* replica dials it.

    Identity and dial address are separate: a proxy, a NAT or a test dials other addresses than the peer binds.
    """

    replica_id: str
    host: str
    port: int


@frozen
class EngineLimits:
    """Bounds that every engine keeps."""

    pending_proposals: int = field(default=4096, validator=ge(1))
    command_bytes: int = field(default=48 * 1024, validator=ge(1024))
    """Largest command; a larger one is refused with `NotApplied` before it is sent anywhere."""


@frozen
class EngineStatus:
    """For `callboard engine status`, the admin page and metrics. Values of `details` are for people."""

    engine: str
    replica_id: str
    leadership: Leadership
    applied_index: int
    commit_index: int
    durable: bool
    peers_connected: tuple[str, ...]
    details: tuple[tuple[str, str], ...] = ()


class StateMachine(Protocol):
    """What the engine feeds. Called only from the engine's event loop, one call at a time.

    `apply` must be deterministic. It should not raise: an error is a value that it returns.
    """

    def apply(self, index: int, command: bytes) -> object:
        """Apply the committed command at log position `index` (positions rise, and may skip numbers)."""

    def snapshot(self) -> bytes:
        """The whole state, in an encoding that `restore` reads on any replica."""

    def restore(self, snapshot: bytes) -> None:
        """Replace the state. Raises ValueError for bytes that `snapshot` never wrote."""


LeadershipObserver = Callable[[Leadership], None]


class Engine(Protocol):
    """A replica of a replicated log. See the module's docstring for the promises."""

    @property
    def replica_id(self) -> str:
        """The stable identity of this replica."""

    @property
    def limits(self) -> EngineLimits:
        """Bounds in force."""

    def leadership(self) -> Leadership:
        """The newest view of who leads."""

    def observe_leadership(self, observer: LeadershipObserver) -> None:
        """Call `observer` in the event loop on every change of `leadership()`; exceptions in it are logged."""

    def status(self) -> EngineStatus:
        """A snapshot of figures for people and metrics."""

    async def start(self) -> None:
        """Open files and sockets, restore state, join the group. Returns before a leader exists.

        Raises:
            EngineStartError: with a one-line reason.
        """

    async def stop(self) -> None:
        """Stop cleanly. Waiting proposals end with `OutcomeUnknown` or `NotApplied`. Idempotent."""

    async def wait_failed(self) -> EngineFailed:
        """Return only when the engine has stopped itself, with the reason. Cancel-safe."""

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """Append `command` to the log and wait until it is committed and applied here.

        Raises:
            NotApplied, NotLeader, QueueFull: surely without effect, now and later.
            OutcomeUnknown: timeout, lost leadership, or shutdown after the command was sent on.
        """

    async def barrier(self, *, timeout_ms: int) -> int:
        """Make local reads linearizable: see the contract. Returns the applied index.

        Works on every replica. Calls that overlap share one confirmation that starts after all of them.

        Raises:
            BarrierFailed: no quorum, no leader, or timeout.
        """
