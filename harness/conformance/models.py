"""The small models that are replayed, and everything in them that is not compared."""

from __future__ import annotations

from harness.conformance.membership_adapter import MembershipAdapter
from harness.conformance.replay import Model, Uncompared

_MEMBERSHIP_UNCOMPARED = (
    Uncompared("called, acked", "what clients asked and were told; each answer is checked where the action Answer is"),
    Uncompared("past", "what was; each of its tables was compared when it was the newest"),
    Uncompared("open, may, after, got", "reads are the engine's promise, not core's (tests/consensus, RaftMembership)"),
)

MODELS: tuple[Model, ...] = (
    Model(
        name="membership",
        specification="Membership",
        config="PATHSMembership",
        adapter=MembershipAdapter,
        uncompared=_MEMBERSHIP_UNCOMPARED,
    ),
    Model(
        name="membership-restore",
        specification="Membership",
        config="PATHSMembership_Restore",
        adapter=MembershipAdapter,
        uncompared=_MEMBERSHIP_UNCOMPARED,
    ),
)
