---------------------- MODULE MCBarrierDissemination ----------------------
(* Bounds for BarrierDissemination: how often streams are opened and broken, *)
(* processes crash, leaders change and timeouts strike.  Versions are bound  *)
(* by the number of streams.                                                 *)
EXTENDS BarrierDissemination, TLC

CONSTANTS MaxStreams, MaxTotal, MaxVersion, MaxEpoch

ASSUME Hosts \subseteq Nat

\* the (k mod n)-th smallest name of the table runs key k
MCOwner(t, k) ==
    CHOOSE h \in t : Cardinality({g \in t : g < h}) = k % Cardinality(t)

B == INSTANCE BarrierDissemination WITH Owner <- MCOwner

RECURSIVE Total(_)
Total(S) == IF S = {} THEN 0
            ELSE LET h == CHOOSE g \in S : TRUE IN Len(net[h]) + Total(S \ {h})

MCConnect(h) == Len(net[h]) < MaxStreams /\ Total(Hosts) < MaxTotal /\ B!Connect(h)
MCStartRound == version < MaxVersion /\ B!StartRound
MCNewLeader  == epoch < MaxEpoch /\ B!NewLeader
=============================================================================
