-------------------------- MODULE TraceMembership --------------------------
(* Is a trace of the implementation a behaviour of Membership?  As in        *)
(* TraceExclusiveHandoff, a line names an action and what was so after it.   *)
(* Commands and sessions of all traces of a run are numbered together, so    *)
(* that they share SessionOf, SeqOf and BatchOf; doc/Traces.md says how real *)
(* traces are projected to this.                                             *)
EXTENDS Membership, TraceData, TLC

CONSTANT Checking

VARIABLES tid, l

traceVars == <<vars, tid, l>>

TraceCommands == 1..Len(CommandSessions)
TraceSessions == 1..SessionCount
TraceReads == 1..ReadCount
TraceHosts == 1..HostCount
TraceGenerations == 1..GenerationCount
TraceSessionOf(c) == CommandSessions[c]
TraceSeqOf(c) == CommandSequences[c]
TraceBatchOf(c) == [join |-> CommandJoins[c], leave |-> CommandLeaves[c]]

Line == Traces[tid][l]
Is(name) == Line.name = name

TraceInit == Init /\ tid \in 1..Len(Traces) /\ l = 1

TableIs == table'.gen = Line.g /\ table'.version = Line.v /\ table'.issued = Line.n
           /\ table'.members = Line.m
           /\ Cardinality(table'.applied) = Line.a /\ Cardinality(table'.expired) = Line.x

Clients ==
    \/ Is("Call") /\ Line.c \in Commands /\ Call(Line.c)
    \/ Is("Answer") /\ Answer(Line.c)
    \/ Is("ReadCall") /\ Line.r \in Reads /\ ReadCall(Line.r)
    \/ Is("ReadAnswer") /\ ReadAnswer(Line.r) /\ got'[Line.r].gen = Line.g /\ got'[Line.r].version = Line.v
       /\ got'[Line.r].members = Line.m
       /\ Cardinality(got'[Line.r].applied) = Line.a /\ Cardinality(got'[Line.r].expired) = Line.x

State ==
    \/ Is("Apply") /\ Line.c \in Commands /\ Apply(Line.c) /\ TableIs
    \/ Is("Expire") /\ Line.s \in Sessions /\ Expire(Line.s)
    \/ Is("Restore") /\ Restore(Line.g) /\ TableIs

Safe == TypeOK /\ LinearizableMembership /\ GenerationExact /\ ApplyOnce

TraceNext ==
    /\ l <= Len(Traces[tid])
    /\ (Clients \/ State)
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
