------------------------------ MODULE Counter ------------------------------
(* A host counts what a server sends, up to 3, and then starts anew. *)
EXTENDS Naturals

CONSTANTS Limit

VARIABLES
  \* @owner: server
  sent,
  \* @owner: host
  count,
  \* @owner: network
  wire

vars == <<sent, count, wire>>

Init == sent = 0 /\ count = 0 /\ wire = 0

\* @actor: server
Send == /\ wire = 0
        /\ wire' = 1
        /\ sent' = (sent + 1) % 4
        /\ UNCHANGED count

\* @actor: host
Receive == /\ wire = 1
           /\ count < Limit
           /\ wire' = 0
           /\ count' = count + 1
           /\ UNCHANGED sent

\* @actor: host
Restart == /\ count = Limit
           /\ wire = 1
           /\ wire' = 0
           /\ count' = 0
           /\ UNCHANGED sent

\* @actor: host
Overflow == /\ count > Limit
            /\ count' = 0
            /\ UNCHANGED <<sent, wire>>

Next == Send \/ Receive \/ Restart \/ Overflow

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ WF_vars(Next)

Bounded == count <= 3
Agree == (wire = 0) => (sent = count)
NeverFull == count # 3
Steps == [][count' \in {0, count, count + 1}]_vars
Returns == []<>(count = 0)
=============================================================================
