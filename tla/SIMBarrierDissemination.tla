---------------------- MODULE SIMBarrierDissemination ----------------------
(* Long random behaviours of three hosts, far beyond what can be exhausted.    *)
(* Faults are made rare, else no round ever ends.                              *)
EXTENDS MCBarrierDissemination

Rarely(percent) == RandomElement(1..100) <= percent

SIMCrash(h)      == Rarely(2) /\ B!Crash(h)
SIMBreak(h)      == Rarely(5) /\ B!Break(h)
SIMGiveUp(h)     == Rarely(20) /\ B!GiveUp(h)
SIMRoundTimeout  == Rarely(5) /\ B!RoundTimeout
SIMNewLeader     == Rarely(2) /\ B!NewLeader
=============================================================================
