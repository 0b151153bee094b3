"""Why some actions are in no trace, and why some changes of a trace need not show.

tla/doc/Traces.md repeats all of it (`python -m harness.conformance.reasons` writes its tables). Reasons are checked: an
action that is seen, or a change that is rejected, though there is a reason why not, is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "tla" / "doc" / "Traces.md"
BEGIN, END = "<!-- reasons: begin, written by harness.conformance.reasons -->", "<!-- reasons: end -->"
EVERY_SOURCE = "every"
_COPIES = "enabled only after Lose: what is repeated is one more copy of what was said"
_SERVICE = "of the service above; to the engine an entry is opaque (AppendBarrier)"
_RESTORES = "of the service above: the membership's traces restore"
_LOOK = "it only looks at what may be said"
_SIMULATED_STORE = "the store of a simulated cluster compares fences by itself and writes no trace"
_REGAINED = "no host of this cluster need lose a right with its lease and ask for another one"

NEVER: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "ExclusiveHandoff": {
        EVERY_SOURCE: {
            "Lose": "what was said once stays true and may be heard later: a lost copy is one that nobody heard",
            **dict.fromkeys(("RepeatTable", "RepeatGrants", "RepeatReports"), _COPIES),
        },
        "simulation": dict.fromkeys(("StoreAccepts", "StoreRefuses"), _SIMULATED_STORE),
        "processes": {
            "Rebalance": "nobody gives a host of this cluster another weight",
            **dict.fromkeys(("RaiseFence", "SaysRequest"), _REGAINED),
            "EndTurn": "told where a host begins a turn under another right, and none need get a slot back",
            **dict.fromkeys(("StoreAccepts", "StoreRefuses"), "the actors of this cluster keep no store"),
        },
    },
    "EventualDissemination": {
        EVERY_SOURCE: {
            "Lose": "a lost message is one that nobody takes in",
            "Rot": "no memory goes wrong in these walks; what the network damages is a message that nobody takes in",
            "Cut": "a message that never arrives is one that nobody takes in",
            "Heal": "nobody is cut off",
        },
    },
    "RaftMembership": {
        EVERY_SOURCE: {
            **dict.fromkeys(("Call", "Submit", "SubmitExpiry", "AppendSubmitted", "Answer"), _SERVICE),
            **dict.fromkeys(("TakeBackup", "Restore"), _RESTORES),
        },
    },
}
"""By specification, source and action: why no trace has the action. Of processes: why none need have it, since what a
real cluster does is not the same each time."""

UNSEEN: Mapping[str, Mapping[tuple[str, str], str]] = {
    "ExclusiveHandoff": {
        ("HearOffice", "removed"): "the grant that is accepted next tells the same epoch",
        ("SaysGranted", "removed"): _LOOK,
        ("SaysReleased", "removed"): _LOOK,
        ("SaysRequest", "removed"): _LOOK,
        ("StoreRefuses", "removed"): "a write may stay on its way for ever",
    },
    "Leases": {
        ("Bury", "removed"): "nothing in this module follows from it",
        ("SaysGone", "removed"): _LOOK,
        ("StepDown", "removed"): "a leader that is deposed and does not know it may go on",
    },
    "Membership": {
        ("Answer", "removed"): "an answer may get lost",
        ("ReadAnswer", "removed"): "a read may stay open",
    },
    "EventualDissemination": {
        ("Serves", "removed"): _LOOK,
    },
    "RaftMembership": {
        ("Confirms", "removed"): "it only looks at what may be acknowledged",
        ("ReadAnswer", "removed"): "an answer may get lost",
        ("RefuseVote", "removed"): "the vote or the entry that follows brings the newer term as well",
    },
}
"""By specification, action and way of changing its lines: why the changed trace is a behaviour, too."""


def never(specification: str, source: str) -> dict[str, str]:
    """The actions that no trace of this source has, with the reason."""
    of_specification = NEVER.get(specification, {})
    return {**of_specification.get(EVERY_SOURCE, {}), **of_specification.get(source, {})}


def unseen(specification: str) -> Mapping[tuple[str, str], str]:
    """The changes, by action and way, that need not show, with the reason."""
    return UNSEEN.get(specification, {})


def tables() -> str:
    """The tables of Traces.md: actions at zero, and changes that need not show."""
    zeros = [
        f"| {specification} | {source} | `{action}` | {why} |"
        for specification, by_source in NEVER.items()
        for source, reasons in by_source.items()
        for action, why in reasons.items()
    ]
    changes = [
        f"| {specification} | `{action}` | {how} | {why} |"
        for specification, of_changes in UNSEEN.items()
        for (action, how), why in of_changes.items()
    ]
    head = "| specification | source | in no trace | why |", "|---|---|---|---|"
    other_head = "| specification | action | change | why it need not show |", "|---|---|---|---|"
    return "\n".join([*head, *zeros, "", *other_head, *changes])


def written(text: str) -> str:
    """The document with its tables replaced by the present ones."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
