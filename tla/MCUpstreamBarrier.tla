------------------------- MODULE MCUpstreamBarrier -------------------------
(* Bounds for UpstreamBarrier: streams, versions per leader, leaders and      *)
(* changes of what a host reports.                                            *)
EXTENDS UpstreamBarrier, TLC

CONSTANTS MaxStreams, MaxTotal, MaxVersion, MaxEpoch

ASSUME Hosts \subseteq Nat

\* the (k mod n)-th smallest name of the table runs key k
MCOwner(t, k) ==
    CHOOSE h \in t : Cardinality({g \in t : g < h}) = k % Cardinality(t)

U == INSTANCE UpstreamBarrier WITH Owner <- MCOwner

RECURSIVE Total(_)
Total(S) == IF S = {} THEN 0
            ELSE LET h == CHOOSE g \in S : TRUE IN Len(net[h]) + Total(S \ {h})

Again(h) == \E i \in 1..Len(net[h][session[h]].up) : net[h][session[h]].up[i] = ReportMsg

MCConnect(h)    == Len(net[h]) < MaxStreams /\ Total(Hosts) < MaxTotal /\ U!Connect(h)
MCJoin(h)       == version < MaxVersion /\ U!Join(h)
MCStreamEnds(h) == version < MaxVersion /\ U!StreamEnds(h)
MCRecvChange(h) == version < MaxVersion /\ U!RecvChange(h)
MCRoundTimeout  == version < MaxVersion /\ U!RoundTimeout
MCNewLeader     == epoch < MaxEpoch /\ U!NewLeader
MCChange(h)     == version < MaxVersion /\ session[h] # 0 /\ ~Again(h) /\ U!Change(h)
MCNoBreak(h)    == FALSE
MCNoChange(h)   == FALSE
=============================================================================
