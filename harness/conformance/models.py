"""The small models that are replayed, and everything in them that is not compared or that the code does otherwise."""

from __future__ import annotations

from harness.conformance.barrier_adapter import BarrierAdapter
from harness.conformance.exclusive_adapter import LAST_WORD_AT_ONCE, ExclusiveAdapter
from harness.conformance.membership_adapter import MembershipAdapter
from harness.conformance.replay import Model, Uncompared

_MEMBERSHIP_UNCOMPARED = (
    Uncompared("called, acked", "what clients asked and were told; each answer is checked where the action Answer is"),
    Uncompared("past", "what was; each of its tables was compared when it was the newest"),
    Uncompared("open, may, after, got", "reads are the engine's promise, not core's (tests/consensus, RaftMembership)"),
)
_EXCLUSIVE_UNCOMPARED = (
    Uncompared("turn, writes, stored", "no turns in these models: in every state the answers of `admit` and `gate_open`"
               " are compared with whether Admit and Effect are enabled, for every right ever granted"),
    Uncompared("right.live", "compared where the lease runs; the code ends rights with the lease, the specification"
               " when the next lease starts"),
    Uncompared("lease, heard, right of who has ended", "the machine is over: nothing of it is used any more"),
    Uncompared("heard = 0", "the code's host has heard of the leader whose welcome it starts with"),
    Uncompared("proposed", "each must have been proposed by the code's leader; the code may propose what ProposeConfirm"
               " would allow before the step does"),
    Uncompared("waited", "not a variable of the code: the leader must want to bury those, or who said farewell"),
    Uncompared("over", "an assumption about time, which the clocks of the replay keep"),
    Uncompared("msgs", "tables and last words are real ones; what the code grants must be granted by the specification,"
               " and what its hosts report must have been said; grants, reports and offices of the specification"
               " that nobody takes up are not demanded"),
)  # fmt: skip
_BARRIER_UNCOMPARED = (
    Uncompared("batch", "stays empty: batches are proposed and committed in one step in these models"),
    Uncompared("leaving", "not a variable of the code: compared by the members of the next version"),
    Uncompared("unseen", "not visible from outside: compared by who is removed"),
    Uncompared("up, session, locked, lk, installed, table, active, took", "of hosts, which are Dapr's and not core's"),
    Uncompared("net[h][s].down of broken streams", "what is sent into a broken stream reaches nobody"),
    Uncompared("net[h][s].up", "what hosts say is taken from the specification"),
)
_EXCLUSIVE_GAPS = {
    LAST_WORD_AT_ONCE: "a host that leaves and holds nothing says its last word in the same step; until the"
    " specification's host says it, too, the code's is over already",
}


def _exclusive(name: str, config: str, *, large: bool = False) -> Model:
    return Model(
        name=name,
        specification="ExclusiveHandoff",
        config=config,
        adapter=ExclusiveAdapter,
        large=large,
        gaps=_EXCLUSIVE_GAPS,
        uncompared=_EXCLUSIVE_UNCOMPARED,
    )


def _membership(name: str, config: str) -> Model:
    return Model(name, "Membership", config, MembershipAdapter, uncompared=_MEMBERSHIP_UNCOMPARED)


def _barrier(name: str, config: str, *, large: bool = False) -> Model:
    return Model(name, "BarrierDissemination", config, BarrierAdapter, large, uncompared=_BARRIER_UNCOMPARED)


MODELS: tuple[Model, ...] = (
    _membership("membership", "PATHSMembership"),
    _membership("membership-restore", "PATHSMembership_Restore"),
    _barrier("barrier", "PATHSBarrierDissemination"),
    _barrier("barrier-reconnect", "PATHSBarrierDissemination_Reconnect"),
    _barrier("barrier-leaders", "PATHSBarrierDissemination_Leaders"),
    _barrier("barrier-crash", "PATHSBarrierDissemination_Crash", large=True),
    _barrier("barrier-full", "PATHSBarrierDissemination_Full", large=True),
    _exclusive("exclusive", "PATHSExclusiveHandoff"),
    _exclusive("exclusive-leaders", "PATHSExclusiveHandoff_Leaders"),
    _exclusive("exclusive-faults", "PATHSExclusiveHandoff_Faults"),
    _exclusive("exclusive-full", "PATHSExclusiveHandoff_Full", large=True),
)
