------------------------ MODULE LIVEExclusiveHandoff ------------------------
(* Liveness: however a bounded number of crashes, losses, lapses of a lease, *)
(* leader changes and false removals fall, every slot comes to be served     *)
(* again.  No view and no constraint: all bounds are guards.                 *)
EXTENDS MCExclusiveHandoff

VARIABLE
  \* @owner: environment
  losses            \* messages lost so far

liveVars == <<vars, losses>>

Dead(i) == process[i] \in {"stopped", "crashed"}

\* Removals of the dead are not counted against the bound on versions: failure detection may always
\* act on them.
LiveRemove(i) == (version < MaxVersion \/ Dead(i)) /\ Remove(i)
LiveLose == losses < MaxLosses /\ losses' = losses + 1 /\ Lose

LiveInit == MCInit /\ losses = 0

Others ==
    \/ \E i \in Incarnations :
           \/ MCUpsert(i) \/ LiveRemove(i) \/ Bury(i)
           \/ Start(i) \/ Install(i) \/ LearnGone(i) \/ MCLeave(i) \/ MCHearOffice(i)
           \/ RepeatReports(i) \/ SayFarewell(i)
           \/ MCLeaseRunsOut(i) \/ MCLeaseStarts(i) \/ WaitRunsOut(i) \/ MCCrash(i)
    \/ \E s \in Slots : ProposeConfirm(s) \/ ApplyConfirm(s) \/ MCRaiseFence(s)
    \/ \E i \in Incarnations, s \in Slots : LetGo(i, s) \/ Accept(i, s)
    \/ MCRebalance \/ RepeatTable \/ RepeatGrants \/ (epoch < MaxEpoch /\ TakeOffice)

LiveNext == (Others /\ UNCHANGED losses) \/ LiveLose

(* Fairness, and why it may be assumed.                                      *)
(* - Hosts that run do what they can: install, let go within the drain time, *)
(*   accept, report again with every renewal, leave when they are told.      *)
(* - The leader does what it can, and the log commits what it proposes       *)
(*   (RaftMembership): a leader epoch that lasts.                            *)
(* - A member that runs gets its lease, as its renewals are answered.        *)
(* - The failure detector removes the dead.                                  *)
(* - A removed incarnation is not answered any more, so its lease runs out   *)
(*   and stays out, and the leader's wait ends (Leases); since LeaseStarts   *)
(*   allows more than that, strong fairness is needed to say so.             *)
Fairness ==
    /\ \A i \in Incarnations :
           /\ WF_liveVars(Start(i) /\ UNCHANGED losses)
           /\ WF_liveVars(Install(i) /\ UNCHANGED losses)
           /\ WF_liveVars(LearnGone(i) /\ UNCHANGED losses)
           /\ WF_liveVars(RepeatReports(i) /\ UNCHANGED losses)
           /\ WF_liveVars(SayFarewell(i) /\ UNCHANGED losses)
           /\ WF_liveVars(Dead(i) /\ Remove(i) /\ UNCHANGED losses)
           /\ WF_liveVars(Bury(i) /\ UNCHANGED losses)
           /\ WF_liveVars(i \in members /\ LeaseStarts(i) /\ UNCHANGED losses)
           /\ WF_liveVars(i \in tombs /\ LeaseRunsOut(i) /\ UNCHANGED losses)
           /\ SF_liveVars(WaitRunsOut(i) /\ UNCHANGED losses)
    /\ \A s \in Slots :
           /\ WF_liveVars(ProposeConfirm(s) /\ UNCHANGED losses)
           /\ WF_liveVars(ApplyConfirm(s) /\ UNCHANGED losses)
           /\ WF_liveVars(MCRaiseFence(s) /\ UNCHANGED losses)
    /\ \A i \in Incarnations, s \in Slots :
           /\ WF_liveVars(LetGo(i, s) /\ UNCHANGED losses)
           /\ WF_liveVars(Accept(i, s) /\ UNCHANGED losses)
    /\ WF_liveVars(RepeatTable /\ UNCHANGED losses)
    /\ WF_liveVars(RepeatGrants /\ UNCHANGED losses)

LiveSpec == LiveInit /\ [][LiveNext]_liveVars /\ Fairness

Eligible == \E i \in members : process[i] \in {"unborn", "running"}
Served(s) == \E i \in Incarnations : (Holds(i, s) /\ process[i] = "running" /\ right[i][s].since = table[i].since[s])

\* While a live eligible member exists for good, every slot is served again and again.
EventuallyServed == \A s \in Slots : []<>(Served(s) \/ ~Eligible)
=============================================================================
