-------------------- MODULE TraceEventualDissemination --------------------
(* Is a trace of the implementation a behaviour of EventualDissemination?    *)
(* As in TraceExclusiveHandoff, a line names an action and what was so       *)
(* after it.  Incarnations are counted by their hosts, as in the module: the *)
(* code's numbers are those of the log, and doc/Traces.md says how one       *)
(* becomes the other.                                                        *)
EXTENDS EventualDissemination, TraceData, TLC

CONSTANT Checking

VARIABLES
  \* @owner: environment
  tid, l

traceVars == <<vars, tid, l>>

TraceHosts == 1..HostCount
TraceOwner(t, k) == CHOOSE h \in t : Cardinality({g \in t : g < h}) = k % Cardinality(t)

Line == Traces[tid][l]
Is(name) == Line.name = name
By(name) == Is(name) /\ Line.i \in Hosts

TraceInit == Init /\ tid \in 1..Len(Traces) /\ l = 1

\* The reports that a line may be about.
Said(i, k, v) == {m \in msgs : m.h = i /\ m.type = "report" /\ m.inc = k /\ m.v = v}
Took(ms) == ms # {} /\ msgs' \cap ms = {}

\* A host has the committed table of version d, and says that it is version v.
Has(i, v, d) == installed'[i] = v /\ d \in 1..version /\ table'[i] = At(d)

Server ==
    \/ By("RefuseGone") /\ RefuseGone(Line.i) /\ Took(Said(Line.i, Line.k, Line.v))
    \/ By("Join") /\ Join(Line.i) /\ history'[Len(history')][Line.i] = Line.k /\ Len(history') = Line.v
    \/ By("RecvReport") /\ RecvReport(Line.i) /\ Took(Said(Line.i, Line.k, Line.v))
    \/ By("AnswerRenewal") /\ Said(Line.i, Line.k, Line.v) # {} /\ AnswerRenewal(Line.i) /\ members[Line.i] = Line.k
    \/ By("SendDelta") /\ known[Line.i] = Line.f /\ SendDelta(Line.i) /\ known'[Line.i] = Line.v
    \/ /\ By("SendSnapshot")
       /\ Line.q \/ known[Line.i] = 0 \/ known[Line.i] < base
       /\ SendSnapshot(Line.i)
       /\ known'[Line.i] = Line.v
    \/ By("Remove") /\ members[Line.i] = Line.k /\ Remove(Line.i) /\ Len(history') = Line.v
    \/ Is("Compact") /\ Compact /\ base' = Line.v
    \/ Is("NewLeader") /\ NewLeader /\ version = Line.v /\ epoch' = Line.e

Host ==
    \/ By("Start") /\ Start(Line.i) /\ incarnation'[Line.i] = Line.k
    \/ By("SendReport") /\ SendReport(Line.i) /\ incarnation[Line.i] = Line.k /\ installed[Line.i] = Line.v
    \/ /\ By("RecvDelta") /\ installed[Line.i] = Line.f /\ stopped[Line.i] = Line.s
       /\ RecvDelta(Line.i) /\ Has(Line.i, Line.v, Line.d)
    \/ /\ By("RecvSnapshot") /\ stopped[Line.i] = Line.s
       /\ RecvSnapshot(Line.i) /\ Has(Line.i, Line.v, Line.d)
    \/ By("Isolate") /\ Isolate(Line.i) /\ incarnation[Line.i] = Line.k
    \/ /\ By("RecvSame") /\ stopped[Line.i] /\ incarnation[Line.i] = Line.k
       /\ RecvSame(Line.i) /\ ~stopped'[Line.i]
    \/ By("RecvGone") /\ RecvGone(Line.i) /\ incarnation'[Line.i] = Line.k

\* It runs turns.
Look == /\ By("Serves") /\ up[Line.i] /\ ~stopped[Line.i] /\ incarnation[Line.i] = Line.k
        /\ table[Line.i][Line.i] = Line.k
        /\ UNCHANGED vars

Around == By("Crash") /\ Crash(Line.i) /\ incarnation[Line.i] = Line.k

\* No table rots here, so what is installed is at all times what was committed.
InstalledIsCommitted == \A h \in Hosts : installed[h] # 0 => table[h] = At(installed[h])
Safe == TypeOK /\ InstalledIsCommitted

TraceNext ==
    /\ l <= Len(Traces[tid])
    /\ (Server \/ Host \/ Around \/ Look)
    /\ l' = l + 1
    /\ tid' = tid
    /\ (Checking => Safe')

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

-----------------------------------------------------------------------------
Accepted == (l > Len(Traces[tid])) => PrintT(<<"ACCEPTED", tid>>)
Reached == PrintT(<<"AT", tid, l>>)
NotYet == ~(tid = StopTrace /\ l = StopLine)

ASSUME \A t \in 1..Len(Traces) : Len(Traces[t]) > 0
=============================================================================
