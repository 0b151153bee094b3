--------------------- MODULE LIVEEventualDissemination ---------------------
(* Liveness of EventualDissemination.  Faults (crash, partition, loss, rot,   *)
(* compaction, new leader, removal of a host that is well) cost one of a      *)
(* budget, so they stop at last.  What remains for ever is accurate: only     *)
(* hosts that are dead or cut off are removed, only those that are cut off    *)
(* find themselves isolated.  A partition may heal or last.                   *)
EXTENDS MCEventualDissemination

CONSTANT Budget

VARIABLE budget

LVars == <<vars, budget>>

LSendReport(h) == (\A m \in msgs : m.h # h) /\ E!SendReport(h)
LRemove(h)     == (~up[h] \/ h \in cut) /\ E!Remove(h)
LIsolate(h)    == h \in cut /\ E!Isolate(h)
LNone          == FALSE
LNoneOf(h)     == FALSE

LFault ==
    /\ budget > 0
    /\ budget' = budget - 1
    /\ \/ \E h \in Hosts : \/ E!Crash(h) \/ E!Lose(h) \/ E!Cut(h) \/ E!Remove(h)
                           \/ (RotOn /\ E!Rot(h))
       \/ E!Compact
       \/ E!NewLeader

LInit == Init /\ budget = Budget
LNext == (Next /\ UNCHANGED budget) \/ LFault

LiveSpec == LInit /\ [][LNext]_LVars /\ Fairness
=============================================================================
