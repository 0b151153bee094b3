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
MCProposeBatch == version < MaxVersion /\ B!ProposeBatch

\* Faults that a config can do without.
Off           == FALSE
MCNoCrash(h)  == Off /\ B!Crash(h)
MCNoGiveUp(h) == Off /\ B!GiveUp(h)
MCNoTimeout   == Off /\ B!RoundTimeout

MCNewLeader  == epoch < MaxEpoch /\ B!NewLeader

-----------------------------------------------------------------------------
(* Situations that must be reachable: each is denied here, and a config      *)
(* expects TLC to find it.                                                   *)

\* Two hosts serve by different tables, one of them cut off.
NeverServesBehind ==
    \A g, h \in Hosts : (~locked[g] /\ ~locked[h]) => installed[g] = installed[h]
\* A round comes to its last phase though a member of its table has been cut.
NeverRoundWithoutSilent ==
    ~(phase = "unlock" /\ Participants # {} /\ \E h \in members : stream[h] = 0)
\* An addition and a removal wait behind one round.
NeverBatchBehindRound == ~(phase # "idle" /\ Joining # {} /\ leaving # {})
\* Everybody is in step again under a new leader, without a new version.
NeverNewLeaderSameTable ==
    ~(epoch = 2 /\ version = Cardinality(Hosts) /\ members = Hosts /\ \A h \in Hosts : session[h] = 2 /\ InStep(h))
\* A round meets the acknowledgement of an earlier push.
NeverAckOfPush ==
    ~(phase = "lock" /\ \E h \in Participants \ acked :
        net[h][stream[h]].up # <<>> /\ Head(net[h][stream[h]].up).v < version)
\* Everybody is in step at the third version.
NeverThirdVersion == ~(version = 3 /\ members # {} /\ \A h \in members : InStep(h))
\* A host comes between the proposal of a batch and its commit, and the round that follows goes on without it.
NeverCameMeanwhile == ~(phase = "unlock" /\ Participants # {} /\ Attached \cap Joining # {} /\ members \subseteq Attached)
\* A lock waits in a stream that its host gave up, and the host serves by now.
NeverLateOrder ==
    ~(\E h \in Hosts : /\ ~locked[h] /\ session[h] = 2
                       /\ net[h][1].down # <<>> /\ Head(net[h][1].down).op = "lock")
=============================================================================
