------------------------- MODULE SIMExclusiveHandoff ------------------------
(* Long random runs in bounds that are too large to exhaust.  Faults and     *)
(* batches are rolled for, so that hosts and leader get far enough between   *)
(* them to grant, serve and hand over.                                       *)
EXTENDS MCExclusiveHandoff

Chance(percent) == RandomElement(1..100) <= percent

SIMUpsert(i) == Chance(8) /\ MCUpsert(i)
SIMRemove(i) == Chance(5) /\ MCRemove(i)
SIMRebalance == Chance(10) /\ MCRebalance
SIMTakeOffice == Chance(5) /\ MCTakeOffice
SIMLearnGone(i) == Chance(30) /\ LearnGone(i)
SIMLeave(i) == Chance(2) /\ MCLeave(i)
SIMCrash(i) == Chance(2) /\ MCCrash(i)
SIMLose == Chance(2) /\ MCLose
SIMLeaseRunsOut(i) == Chance(10) /\ MCLeaseRunsOut(i)

SIMNext ==
    \/ \E i \in Incarnations :
           \/ SIMUpsert(i) \/ SIMRemove(i) \/ Bury(i)
           \/ Start(i) \/ Install(i) \/ SIMLearnGone(i) \/ SIMLeave(i) \/ MCHearOffice(i)
           \/ RepeatReports(i) \/ SayFarewell(i)
           \/ SIMLeaseRunsOut(i) \/ MCLeaseStarts(i) \/ WaitRunsOut(i) \/ SIMCrash(i)
    \/ \E s \in Slots :
           \/ ProposeConfirm(s) \/ ApplyConfirm(s) \/ MCRaiseFence(s)
           \/ StoreAccepts(s) \/ StoreRefuses(s)
    \/ \E i \in Incarnations, s \in Slots :
           \/ LetGo(i, s) \/ Accept(i, s) \/ MCAdmit(i, s) \/ MCEffect(i, s) \/ EndTurn(i, s)
    \/ SIMRebalance \/ RepeatTable \/ RepeatGrants \/ SIMTakeOffice \/ SIMLose

SIMSpec == MCInit /\ [][SIMNext]_vars
=============================================================================
