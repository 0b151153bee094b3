"""Rare situations that a campaign has to meet: "sometimes" assertions. One that is never met proves nothing was tested.

`RARE` has them all; `FREQUENT` are those that some dozens of seeds meet for sure.
"""

from __future__ import annotations

FREQUENT = (
    "a caller with a stale table is set right",
    "a command of unknown outcome commits late",
    "a committed command is reported as unknown",
    "a definite failure is retried",
    "a follower cuts entries of a deposed leader",
    "a front loses a word between two leaders",
    "a front relays to another replica",
    "a front repeats a hello to another leader",
    "a grant of an older version than the newest is accepted",
    "a host gets a snapshot after a gap",
    "a host is buried while its process lives",
    "a lease runs out under live rights",
    "a removed host returns as a new incarnation",
    "a repeated request is recognised",
    "a replica restarts from its disk",
    "a silent stream is given up",
    "a slot is granted while its former owner is a zombie",
    "a snapshot of the tables is sent",
    "an older table comes after a newer one",
    "an operator's change is acknowledged after a retry",
    "an outcome is unknown",
    "an unknown outcome is retried",
    "two replicas think that they are in office",
)
SELDOM = (
    "a command of a deposed leader is refused",
    "a handoff goes on across a change of leader",
    "a host of policy eventual stops when isolated",
    "a round cuts silent streams and goes on",
    "a sidecar comes during a round",
    "a sidecar is brought up to date by a push",
    "a silent sidecar is cut",
    "an acknowledgement of an older round comes late",
    "an office ends since a batch has an unknown outcome",
    "two hosts may serve one slot under policy eventual",
    "a caller is shown an older table",
    "a host asks for a snapshot",
    "a host exits since its turns did not end",
    "a host pauses for longer than its lease",
    "a host pauses within its lease",
    "a host skips versions",
    "a lagging replica gets a snapshot",
    "a process learns that another took its name",
    "a restart under the same name while the former life still runs",
    "a storm of joins and leaves",
    "a tail that was not synced is lost",
    "a turn does not end when it is cancelled",
    "a turn finds the gate shut",
    "a turn is cancelled",
    "a zombie's access is refused by the store",
    "all replicas lose power",
    "an answer comes after the lease that it gives",
)
RARE = (*FREQUENT, *SELDOM)
