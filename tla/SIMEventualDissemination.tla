---------------------- MODULE SIMEventualDissemination ----------------------
(* Long random behaviours of three hosts, far beyond what can be exhausted.    *)
(* Faults are made rare, else no table ever settles.                           *)
EXTENDS MCEventualDissemination

Rarely(percent) == RandomElement(1..100) <= percent

SIMCrash(h)  == Rarely(2) /\ E!Crash(h)
SIMRemove(h) == Rarely(5) /\ E!Remove(h)
SIMLose(h)   == Rarely(10) /\ E!Lose(h)
SIMRot(h)    == Rarely(1) /\ E!Rot(h)
SIMCut(h)    == Rarely(3) /\ E!Cut(h)
SIMHeal(h)   == Rarely(10) /\ E!Heal(h)
SIMCompact   == Rarely(10) /\ E!Compact
SIMNewLeader == Rarely(5) /\ E!NewLeader

\* Tables that did not rot agree; a host's own table is one that was committed.
Sound(h) == installed[h] = 0 \/ table[h] = history[installed[h]]
             \/ \E g \in Hosts : table[h][g] = 0 /\ history[installed[h]][g] # 0
SoundTables == \A h \in Hosts : Sound(h)
=============================================================================
