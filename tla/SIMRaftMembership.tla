------------------------- MODULE SIMRaftMembership -------------------------
(***************************************************************************)
(* Random behaviours of five replicas. Faults, elections and requests are  *)
(* made rare: without that hardly any behaviour gets as far as a commit.   *)
(***************************************************************************)
EXTENDS MCRaftMembership

Rarely(n) == RandomElement(1..n) = 1

SIMTimeout(r) == Rarely(40) /\ MCTimeout(r)
SIMKill(r) == Rarely(200) /\ MCKill(r)
SIMLosePower(r) == Rarely(60) /\ MCLosePower(r)
SIMSubmitExpiry(r, s) == Rarely(40) /\ MCSubmitExpiry(r, s)
SIMAppendBarrier(r, d) == Rarely(10) /\ MCAppendBarrier(r, d)
SIMAppendSubmitted(r, kind, what, epoch) == Rarely(4) /\ MCAppendSubmitted(r, kind, what, epoch)
=============================================================================
