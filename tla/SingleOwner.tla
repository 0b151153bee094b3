----------------------------- MODULE SingleOwner -----------------------------
(* What the exclusive policy promises, and nothing else: at every moment a   *)
(* slot is served by nobody or by one incarnation, and whoever begins to     *)
(* serve it does so under a fence above all that were used for it before.    *)
(* ExclusiveHandoff refines this module (property RefinesSingleOwner).       *)
(*                                                                           *)
(* Left out: everything about how it is done (tables, grants, leases), and   *)
(* when: this module never promises that a slot is served at all.            *)
EXTENDS Naturals

CONSTANTS Incarnations,   \* positive numbers
          Slots

VARIABLES holder,   \* Slots -> Incarnations, or 0 while nobody may serve the slot
          used      \* Slots -> the highest fence under which anybody ever served it

Nobody == 0

vars == <<holder, used>>

Init ==
    /\ holder = [s \in Slots |-> Nobody]
    /\ used = [s \in Slots |-> 0]

\* A right begins: only where there is none, and only under a fence above all earlier ones.
Begin(i, s) ==
    /\ holder[s] = Nobody
    /\ holder' = [holder EXCEPT ![s] = i]
    /\ used' \in {[used EXCEPT ![s] = f] : f \in (used[s] + 1)..(used[s] + 100)}

\* Rights end, any number of them at once: a lease that runs out ends all rights of one incarnation.
End ==
    /\ \A s \in Slots : holder'[s] \in {holder[s], Nobody}
    /\ UNCHANGED used

Next == End \/ \E i \in Incarnations, s \in Slots : Begin(i, s)

Spec == Init /\ [][Next]_vars
=============================================================================
