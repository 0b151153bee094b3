---------------------- MODULE MCEventualDissemination ----------------------
(* Bounds for EventualDissemination: versions, incarnations, leaders,       *)
(* messages in flight (one report per host among them).  Partitions are not *)
(* needed for safety: a message that is never delivered does the same.      *)
EXTENDS EventualDissemination, TLC

CONSTANTS MaxVersion, MaxIncarnation, MaxEpoch, MaxMsgs, RotOn

ASSUME Hosts \subseteq Nat

\* the (k mod n)-th smallest name of the table runs key k
MCOwner(t, k) ==
    CHOOSE h \in t : Cardinality({g \in t : g < h}) = k % Cardinality(t)

E == INSTANCE EventualDissemination WITH Owner <- MCOwner

Reporting(h) == \E m \in msgs : m.h = h /\ m.type = "report"
Room == Cardinality(msgs) < MaxMsgs

MCJoin(h)         == version < MaxVersion /\ E!Join(h)
MCRemove(h)       == version < MaxVersion /\ E!Remove(h)
MCStart(h)        == incarnation[h] < MaxIncarnation /\ E!Start(h)
MCRecvGone(h)     == incarnation[h] < MaxIncarnation /\ E!RecvGone(h)
MCNewLeader       == epoch < MaxEpoch /\ E!NewLeader
MCSendReport(h)   == Room /\ ~Reporting(h) /\ E!SendReport(h)
MCSendDelta(h)    == Room /\ E!SendDelta(h)
MCSendSnapshot(h) == Room /\ E!SendSnapshot(h)
Off              == FALSE
MCCut(h)         == Off /\ E!Cut(h)
MCRot(h)          == RotOn /\ E!Rot(h)

-----------------------------------------------------------------------------
(* Situations that must be reachable: each is denied here, and a config      *)
(* expects TLC to find it.                                                   *)

ToLiving(m) == up[m.h] /\ incarnation[m.h] = m.inc /\ installed[m.h] # 0
\* A delta starts from a version that its host has not seen.
NeverGap == ~(\E m \in msgs : m.type = "delta" /\ ToLiving(m) /\ m.from > installed[m.h])
\* A delta comes to a host that has gone beyond it.
NeverStaleDelta == ~(\E m \in msgs : m.type = "delta" /\ ToLiving(m) /\ m.to < installed[m.h])
\* A host with a table gets a snapshot because the leader's history does not reach back to it.
NeverTooLateForDelta ==
    ~(\E m \in msgs : m.type = "snapshot" /\ ToLiving(m) /\ installed[m.h] < base /\ base = m.to)
\* A removed host is back under its next incarnation.
NeverReturned ==
    ~(\E h \in Hosts : /\ up[h] /\ InStep(h) /\ incarnation[h] = 2
                       /\ \E v \in 2..version : history[v - 1][h] = 1 /\ history[v][h] = 0)
\* A host that was removed still serves from its last table.
NeverServesThoughRemoved == ~(\E h \in Hosts, k \in Keys : Runs(h, k) /\ members[h] = 0)
\* A report shows the leader that a host has the wrong content at the right version.
NeverWrongDigest ==
    ~(\E m \in msgs : m.type = "report" /\ m.v # 0 /\ m.v = version /\ m.digest # Digest(members))
=============================================================================
