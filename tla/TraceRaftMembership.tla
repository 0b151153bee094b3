------------------------ MODULE TraceRaftMembership ------------------------
(* Is a trace of the embedded engine a behaviour of RaftMembership?  As in   *)
(* TraceExclusiveHandoff, a line names an action and what was so after it.   *)
(* To the engine an entry is opaque: each but a new leader's first counts as *)
(* the barrier of a read of its own.  What commands mean is judged by        *)
(* TraceMembership.  doc/Traces.md says where the lines come from.           *)
EXTENDS RaftMembership, TraceData, TLC

CONSTANT Checking

VARIABLES
  \* @owner: environment
  tid,                 \* which of the traces
  at                   \* the line to be taken next

traceVars == <<vars, tid, at>>

TraceReads == {ReadNames[i] : i \in 1..Len(ReadNames)}
TraceSessionOf(c) == c
TraceSeqOf(c) == 1
TraceBatchOf(c) == [join |-> {}, leave |-> {}]
Engine == TRUE

Line == Traces[tid][at]
Is(name) == Line.name = name
By(name) == Is(name) /\ Line.r \in Replicas
Me == Line.r

TraceInit == Init /\ tid \in 1..Len(Traces) /\ at = 1

\* What is acknowledged must be durable and the leader's; said again, it is no step.
Confirms ==
    /\ term[Me] = Line.e
    /\ \/ Confirmation(Line.e, Me, Line.n) \in confirmed /\ UNCHANGED vars
       \/ /\ Confirmation(Line.e, Me, Line.n) \notin confirmed
          /\ RecvAppend(Me, Line.n)
          /\ Confirmation(Line.e, Me, Line.n) \in confirmed'

Replica ==
    \/ By("Timeout") /\ Timeout(Me) /\ term'[Me] = Line.e
    \/ By("GrantVote") /\ Line.c \in Replicas /\ GrantVote(Me, Line.c) /\ term'[Me] = Line.e
    \/ By("RefuseVote") /\ (\E c \in Replicas : RefuseVote(Me, c)) /\ term'[Me] = Line.e
    \/ By("BecomeLeader") /\ BecomeLeader(Me) /\ term[Me] = Line.e /\ Len(log'[Me]) = Line.n
    \/ /\ By("RecvAppend")
       /\ RecvAppend(Me, Line.n)
       /\ term'[Me] = Line.e
       /\ Len(log'[Me]) = Line.n /\ log'[Me][Line.n].term = Line.t /\ log'[Me][Line.n].what = Line.w
    \/ By("Confirms") /\ Confirms
    \/ By("Sync") /\ Sync(Me) /\ Len(synced'[Me]) = Line.n
    \/ By("Apply") /\ Apply(Me) /\ state'[Me].idx = Line.n /\ log[Me][Line.n].what = Line.w
    \/ By("AppendBarrier") /\ Line.w \in Reads /\ AppendBarrier(Me, Line.w) /\ Len(log'[Me]) = Line.n
                           /\ term[Me] = Line.e
    \/ By("ReadAnswer") /\ Line.w \in Reads /\ ReadAnswer(Me, Line.w)

Around ==
    \/ Is("ReadCall") /\ Line.w \in Reads /\ ReadCall(Line.w)
    \/ By("Kill") /\ Kill(Me)
    \/ By("LosePower") /\ LosePower(Me) /\ Len(log'[Me]) = Line.n

Safe == TypeOK /\ OneLeaderInTerm /\ LogMatching /\ LinearizableMembership /\ CommittedSurvives /\ ReplicaAgreement

TraceNext ==
    /\ at <= Len(Traces[tid])
    /\ (Replica \/ Around)
    /\ at' = at + 1
    /\ tid' = tid
    /\ (Checking => Safe')

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

-----------------------------------------------------------------------------
Accepted == (at > Len(Traces[tid])) => PrintT(<<"ACCEPTED", tid>>)
Reached == PrintT(<<"AT", tid, at>>)
NotYet == ~(tid = StopTrace /\ at = StopLine)

ASSUME \A t \in 1..Len(Traces) : Len(Traces[t]) > 0
=============================================================================
