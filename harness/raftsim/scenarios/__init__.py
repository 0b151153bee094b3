"""Each known defect of the library as one scripted run, for any engine.

A scenario is a function of a `Stage`. It drives real replicas step by step and returns a sentence about what went
wrong, or None; a `Violation` of a checker counts as such a sentence. Where the moment of one step decides, a scenario
tries every moment of a small range, so that an engine with another rhythm of messages is tried at its own bad moments.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from harness.raftsim.checkers import Violation
from harness.raftsim.runner import EngineKind
from harness.raftsim.scenarios import disk, protocol
from harness.raftsim.scenarios.stage import Stage
from harness.raftsim.unguarded import Unguarded, library_in_simulation


@frozen
class Scenario:
    """A defect and the run that shows it."""

    defect: str
    """Its number in DEFECTS.md."""
    title: str
    play: Callable[[Stage], str | None]
    library_only: bool = False
    """True for a function of the library that callboard's engine does not have at all."""


SCENARIOS: dict[str, Scenario] = {
    "pipelined_loss": Scenario(
        "V1", "a re-sent batch cuts acknowledged entries; the leader dies", protocol.pipelined_loss
    ),
    "resend_truncation": Scenario(
        "V1", "duplicate resets re-send and cut; the leader dies", protocol.resend_truncation
    ),
    "snapshot_commit": Scenario(
        "V2", "a snapshot chunk commits entries that were never compared", protocol.snapshot_commit
    ),
    "stale_ack": Scenario("V3", "an acknowledgement of an older term is counted", protocol.stale_ack),
    "stale_snapshot": Scenario("V4", "an older snapshot replaces newer state", protocol.stale_snapshot),
    "membership": Scenario(
        "V5", "two changes of membership at once split the group", protocol.membership, library_only=True
    ),
    "callback_raises": Scenario(
        "V6", "a client's callback raises, and the command is applied twice", protocol.callback_raises
    ),
    "poison": Scenario("V7", "a command that raises stops every replica for ever", protocol.poison),
    "conflict_livelock": Scenario(
        "V8", "a follower with a divergent tail is never caught up", protocol.conflict_livelock
    ),
    "snapshot_silence": Scenario(
        "V9", "a leader that sends a snapshot takes the follower for dead", protocol.snapshot_silence
    ),
    "disturbance": Scenario("V10", "a replica that was not heard deposes the leader", protocol.disturbance),
    "forgotten_callbacks": Scenario(
        "V11", "proposers whose commands a snapshot skips are never told", protocol.forgotten_callbacks
    ),
    "compaction_window": Scenario(
        "D1", "kill -9 of all replicas during compaction loses what followed", disk.compaction_window
    ),
    "power_loss": Scenario("D2", "acknowledged commands are not on the disk", disk.power_loss),
    "forgotten_vote": Scenario("D2", "a vote is not on the disk: two leaders in one term", disk.forgotten_vote),
    "unreadable_journal": Scenario(
        "D3", "a journal torn by a power loss cannot be opened again", disk.unreadable_journal
    ),
    "damaged_snapshot": Scenario("D4", "a damaged snapshot is started on as if it were empty", disk.damaged_snapshot),
}


def run_scenario(name: str, kind: EngineKind) -> str | None:
    """Play a scenario on an engine (those of a function that only the library has: on the library).

    Returns what went wrong, or None.
    """
    if SCENARIOS[name].library_only:
        kind = EngineKind(Unguarded(), library_in_simulation)
    with kind.environment():
        try:
            return SCENARIOS[name].play(Stage(kind.engine))
        except Violation as found:
            return str(found)
