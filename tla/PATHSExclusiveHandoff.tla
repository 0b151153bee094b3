------------------------ MODULE PATHSExclusiveHandoff ------------------------
(* A small model of ExclusiveHandoff whose every edge is replayed against    *)
(* the code (harness/conformance, doc/Conformance.md).  It only takes        *)
(* behaviours away: each guard below is a step that the code takes in one    *)
(* order only, and says why.  No view: what is compared is the whole state.  *)
EXTENDS MCExclusiveHandoff

\* A leader counts what a host reports only once the host has heard of that leader: reports are told as
\* differences, from a full one that the leader's welcome asks for.  Who was welcomed when it started,
\* in the first epoch, has heard of it without a step of its own.
Speaks(i) == heard[i] = epoch \/ (epoch = 1 /\ heard[i] = 0)

\* Reports that an earlier leader heard are lost with it; who is pending speaks again to the next one.  Those
\* of removed incarnations are not listened to: they are buried after their last word, or after the wait.
PATHSProposeConfirm(s) == (\A i \in pending[s] : i \in members /\ Speaks(i)) /\ ProposeConfirm(s)
PATHSRaiseFence(s) == owner[s] # Nobody /\ Speaks(owner[s]) /\ MCRaiseFence(s)
\* A new leader's word goes to members only.
PATHSHearOffice(i) == i \in members /\ MCHearOffice(i)
\* Only members are answered, and an answer is also word of its leader's epoch.  Who leaves does not outlive
\* its lease.
PATHSLeaseStarts(i) == i \in members /\ process[i] = "running" /\ Speaks(i) /\ MCLeaseStarts(i)
\* The leader's clock is one clock: other waits would run out with this one.
PATHSWaitRunsOut(i) == tombs \ waited = {i} /\ WaitRunsOut(i)
\* Who leaves reports the end of its last right by its last word: LetGo, and the report is lost.
LetGoQuietly(i, s) ==
    /\ right[i][s].live
    /\ right' = [right EXCEPT ![i] = [@ EXCEPT ![s] = [@ EXCEPT !.live = FALSE]]]
    /\ UNCHANGED <<serverVars, process, table, turn, lease, heard, over, msgs, writes, stored>>
PATHSLetGo(i, s) == IF process[i] = "leaving" THEN LetGoQuietly(i, s) ELSE LetGo(i, s)

PATHSNext ==
    \/ \E i \in Incarnations :
           \/ MCUpsert(i) \/ MCRemove(i) \/ Bury(i)
           \/ Start(i) \/ Install(i) \/ LearnGone(i) \/ MCLeave(i) \/ PATHSHearOffice(i)
           \/ SayFarewell(i)
           \/ MCLeaseRunsOut(i) \/ PATHSLeaseStarts(i) \/ PATHSWaitRunsOut(i) \/ MCCrash(i)
    \/ \E s \in Slots : PATHSProposeConfirm(s) \/ ApplyConfirm(s) \/ PATHSRaiseFence(s)
    \/ \E i \in Incarnations, s \in Slots : PATHSLetGo(i, s) \/ Accept(i, s)
    \/ MCRebalance \/ MCTakeOffice

PATHSSpec == MCInit /\ [][PATHSNext]_vars
=============================================================================
