----------------------- MODULE TraceExclusiveHandoff -----------------------
(* Is a trace of the implementation a behaviour of ExclusiveHandoff?  Each   *)
(* line of a trace names an action, its arguments and what was so after it;  *)
(* a step takes the line if the action is enabled and leads to just that.    *)
(* A trace is accepted when its last line has been taken, and every state on *)
(* the way is checked against the invariants too (Safe).                     *)
(*                                                                           *)
(* A trace is about one slot and the incarnations that ever owned it or      *)
(* acted on it; harness/conformance projects it from what all processes      *)
(* wrote.  doc/Traces.md says how, and why that is sound.  The namespace     *)
(* begins empty here: version 1 is the one before the first batch.           *)
EXTENDS ExclusiveHandoff, TraceData, TLC

CONSTANT Checking      \* FALSE only to find out whether a rejected line is enabled, but not safe

VARIABLES
  \* @owner: environment
  tid,                 \* which of the traces
  l                    \* the line to be taken next

traceVars == <<vars, tid, l>>

TraceIncarnations == 1..Numbers
TraceHostOf == [i \in TraceIncarnations |-> (i - 1) % Names]
S == 1

Line == Traces[tid][l]

TraceInit ==
    /\ tid \in 1..Len(Traces)
    /\ l = 1
    /\ version = 1
    /\ members = {} /\ issued = {} /\ tombs = {}
    /\ owner = [s \in Slots |-> Nobody]
    /\ since = [s \in Slots |-> 1]
    /\ pending = [s \in Slots |-> {}]
    /\ fence = [s \in Slots |-> 1]
    /\ proposed = {}
    /\ epoch = 1
    /\ waited = {}
    /\ process = [i \in Incarnations |-> "unborn"]
    /\ table = [i \in Incarnations |->
                  [version |-> 0, owner |-> [s \in Slots |-> Nobody], since |-> [s \in Slots |-> 0]]]
    /\ right = [i \in Incarnations |-> [s \in Slots |-> NoRight]]
    /\ turn = [i \in Incarnations |-> [s \in Slots |-> 0]]
    /\ lease = [i \in Incarnations |-> FALSE]
    /\ heard = [i \in Incarnations |-> 0]
    /\ over = {}
    /\ msgs = {}
    /\ writes = {}
    /\ stored = [s \in Slots |-> 0]

-----------------------------------------------------------------------------
Is(name) == Line.name = name

\* A line may name anybody; only incarnations can act.
By(name) == Is(name) /\ Line.i \in Incarnations

\* What the replicated state says of the slot after the step.
ServerIs ==
    /\ version' = Line.v /\ members' = Line.m /\ tombs' = Line.t
    /\ owner'[S] = Line.o /\ since'[S] = Line.n /\ fence'[S] = Line.f /\ pending'[S] = Line.p

TableIs(i) == table'[i].version = Line.v /\ table'[i].owner[S] = Line.o /\ table'[i].since[S] = Line.n

Server ==
    \/ By("Upsert") /\ Upsert(Line.i) /\ ServerIs
    \/ By("Remove") /\ Remove(Line.i) /\ ServerIs
    \/ Is("Rebalance") /\ Rebalance /\ ServerIs
    \/ Is("ProposeConfirm") /\ ProposeConfirm(S) /\ since[S] = Line.n
    \/ Is("ApplyConfirm") /\ ApplyConfirm(S) /\ pending'[S] = Line.p
    \/ By("Bury") /\ Bury(Line.i) /\ pending'[S] = Line.p
    \/ Is("RaiseFence") /\ RaiseFence(S) /\ fence'[S] = Line.f
    \/ Is("TakeOffice") /\ TakeOffice /\ epoch' = Line.e

Host ==
    \/ By("Start") /\ Start(Line.i) /\ TableIs(Line.i)
    \/ By("Install") /\ Install(Line.i) /\ TableIs(Line.i)
    \/ By("LearnGone") /\ LearnGone(Line.i)
    \/ By("Leave") /\ Leave(Line.i)
    \/ By("LetGo") /\ LetGo(Line.i, S)
    \/ /\ By("Accept")
       /\ Accept(Line.i, S)
       /\ right'[Line.i][S] = [live |-> TRUE, since |-> Line.n, fence |-> Line.f]
       /\ heard'[Line.i] = Line.e
    \/ By("HearOffice") /\ HearOffice(Line.i) /\ heard'[Line.i] = Line.e
    \/ By("SayFarewell") /\ SayFarewell(Line.i)
    \/ By("Admit") /\ Admit(Line.i, S) /\ turn'[Line.i][S] = Line.f
    \/ By("Effect") /\ turn[Line.i][S] = Line.f /\ Effect(Line.i, S)
    \/ By("EndTurn") /\ EndTurn(Line.i, S)

Around ==
    \/ By("LeaseStarts") /\ LeaseStarts(Line.i)
    \/ By("LeaseRunsOut") /\ LeaseRunsOut(Line.i)
    \/ By("WaitRunsOut") /\ WaitRunsOut(Line.i)
    \/ By("Crash") /\ Crash(Line.i)
    \/ By("StoreAccepts") /\ StoreAccepts(S) /\ stored'[S] = Line.f
    \/ /\ By("StoreRefuses")
       /\ StoreRefuses(S)
       /\ writes' = writes \ {[from |-> Line.i, slot |-> S, fence |-> Line.f]}

\* What is said must be what may be said: no step of the protocol, only a look at it.
Said ==
    /\ \/ Is("SaysGranted") /\ Grant(S, Line.i, Line.n, Line.f, Line.e) \in msgs
       \/ Is("SaysReleased") /\ Released(Line.i, S, Line.v) \in msgs
       \/ Is("SaysRequest") /\ Request(Line.i, S, Line.n, Line.f) \in msgs
    /\ UNCHANGED vars

Safe == TypeOK /\ SingleActivation /\ PendingCoversRights /\ OwnerNotRefused

TraceNext ==
    /\ l <= Len(Traces[tid])
    /\ (Server \/ Host \/ Around \/ Said)
    /\ l' = l + 1
    /\ tid' = tid
    /\ (Checking => Safe')

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

-----------------------------------------------------------------------------
\* TLC has no other way to say which of many traces were matched.
Accepted == (l > Len(Traces[tid])) => PrintT(<<"ACCEPTED", tid>>)
Reached == PrintT(<<"AT", tid, l>>)
NotYet == ~(tid = StopTrace /\ l = StopLine)

ASSUME \A t \in 1..Len(Traces) : Len(Traces[t]) > 0
=============================================================================
