--------------------- MODULE LIVEBarrierDissemination ---------------------
(* Liveness of BarrierDissemination.  Faults (crashes, broken streams, new   *)
(* leaders, timeouts and removals that strike the innocent) cost one of a    *)
(* budget, so they stop at last.  What remains for ever are accurate         *)
(* timeouts: they strike only those who really do not answer.  The hosts in  *)
(* Slow are never obliged to do anything; they may come MaxStreams times.    *)
EXTENDS MCBarrierDissemination

CONSTANTS Budget, Slow

VARIABLE budget

LVars == <<vars, budget>>

Responsive(h) == /\ h \notin Slow /\ Linked(h)
                 /\ net[h][session[h]].open

LConnect(h)   == (h \in Slow => Len(net[h]) < MaxStreams) /\ B!Connect(h)
LRoundTimeout == (\A h \in Participants \ acked : ~Responsive(h)) /\ B!RoundTimeout
LGiveUp(h)    == (~up[h] \/ h \in Slow) /\ B!GiveUp(h)
LNone         == FALSE
LNoneOf(h)    == FALSE

LFault ==
    /\ budget > 0
    /\ budget' = budget - 1
    /\ \/ \E h \in Hosts : B!Crash(h) \/ B!Break(h) \/ B!GiveUp(h)
       \/ B!RoundTimeout
       \/ B!NewLeader

LInit == Init /\ budget = Budget
LNext == (Next /\ UNCHANGED budget) \/ LFault

LiveSpec == LInit /\ [][LNext]_LVars /\ LeaderFair /\ \A h \in Hosts \ Slow : HostFair(h)

\* A silent host costs the others a timeout: every round ends, and the others come into step.
SlowHostIsolation ==
    RoundsEnd /\ <>[](\A h \in Hosts \ Slow : up[h] => InStep(h))
=============================================================================
