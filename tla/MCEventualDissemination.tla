---------------------- MODULE MCEventualDissemination ----------------------
(* Bounds for EventualDissemination: versions, incarnations, leaders,       *)
(* messages in flight (one report per host among them).  Partitions are not *)
(* needed for safety: a message that is never delivered does the same.      *)
EXTENDS EventualDissemination, TLC

CONSTANTS MaxVersion, MaxIncarnation, MaxEpoch, MaxMsgs, RotOn

ASSUME Hosts \subseteq Nat

\* the (k mod n)-th smallest name of the table runs key k
MCOwner(t, k) ==
    CHOOSE h \in t : Cardinality({g \in t : g < h}) = k % Cardinality(t)

E == INSTANCE EventualDissemination WITH Owner <- MCOwner

Reporting(h) == \E m \in msgs : m.h = h /\ m.type = "report"
Room == Cardinality(msgs) < MaxMsgs

MCJoin(h)         == version < MaxVersion /\ E!Join(h)
MCRemove(h)       == version < MaxVersion /\ E!Remove(h)
MCStart(h)        == incarnation[h] < MaxIncarnation /\ E!Start(h)
MCRecvGone(h)     == incarnation[h] < MaxIncarnation /\ E!RecvGone(h)
MCNewLeader       == epoch < MaxEpoch /\ E!NewLeader
MCSendReport(h)   == Room /\ ~Reporting(h) /\ E!SendReport(h)
MCSendDelta(h)    == Room /\ E!SendDelta(h)
MCSendSnapshot(h) == Room /\ E!SendSnapshot(h)
MCCut(h)         == FALSE
MCRot(h)          == RotOn /\ E!Rot(h)
=============================================================================
