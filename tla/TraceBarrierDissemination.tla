-------------------- MODULE TraceBarrierDissemination --------------------
(* Is a trace of the implementation a behaviour of BarrierDissemination?     *)
(* As in TraceExclusiveHandoff, a line names an action and what was so       *)
(* after it.  Batches are proposed first and commit later, as in the code.   *)
(* The leader is the code's; the hosts are written to the module's rule, and *)
(* take what the leader really sent: each order's stream, version and table  *)
(* are compared.  doc/Traces.md says where the lines come from.              *)
EXTENDS BarrierDissemination, TraceData, TLC

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

\* The leader hears this answer next.
Hears(h) ==
    /\ stream[h] # 0
    /\ net[h][stream[h]].up # <<>>
    /\ Head(net[h][stream[h]].up) = [op |-> Line.op, v |-> Line.v]

Server ==
    \/ By("Attach") /\ Attach(Line.i) /\ stream'[Line.i] = Line.s
    \/ By("StreamEnds") /\ stream[Line.i] = Line.s /\ StreamEnds(Line.i)
    \/ By("GiveUp") /\ GiveUp(Line.i)
    \/ Is("GraceEnds") /\ unseen = Line.m /\ GraceEnds
    \/ Is("ProposeBatch") /\ ProposeBatch /\ batch' = [join |-> Line.j, leave |-> Line.d]
    \/ Is("BatchFails") /\ BatchFails
    \/ Is("StartRound") /\ StartRound /\ version' = Line.v /\ members' = Line.m /\ Participants' = Line.p
    \/ By("Push") /\ Push(Line.i) /\ version = Line.v /\ members = Line.m
    \/ By("RecvAck") /\ Hears(Line.i) /\ RecvAck(Line.i)
    \/ Is("Advance") /\ phase = Line.op /\ version = Line.v /\ Advance
    \/ /\ Is("RoundTimeout")
       /\ version = Line.v
       /\ RoundTimeout
       /\ Line.c = {h \in Hosts : stream[h] # 0 /\ stream'[h] = 0}
    \/ Is("NewLeader") /\ NewLeader /\ version' = Line.v /\ members' = Line.m

Host ==
    \/ By("Start") /\ Start(Line.i)
    \/ By("Connect") /\ Connect(Line.i) /\ session'[Line.i] = Line.s
    \/ By("SessionEnds") /\ session[Line.i] = Line.s /\ SessionEnds(Line.i)
    \/ By("RecvLock") /\ RecvLock(Line.i) /\ took'[Line.i] = <<Line.s, "lock", Line.v>> /\ locked'[Line.i] = Line.b
    \/ /\ By("RecvUpdate")
       /\ RecvUpdate(Line.i)
       /\ took'[Line.i] = <<Line.s, "update", Line.v>>
       /\ installed'[Line.i] = Line.n /\ table'[Line.i] = Line.m
    \/ /\ By("RecvUnlock")
       /\ RecvUnlock(Line.i)
       /\ took'[Line.i] = <<Line.s, "unlock", Line.v>>
       /\ locked'[Line.i] = Line.b

Around ==
    \/ By("Crash") /\ Crash(Line.i)
    \/ By("Break") /\ Break(Line.i) /\ Line.s \in DOMAIN net[Line.i]
       /\ net[Line.i][Line.s].open /\ ~net'[Line.i][Line.s].open

Safe == TypeOK /\ TableAgreement /\ ConnectedAgreement /\ ConnectedSingleActivation /\ ServedOrWaiting

TraceNext ==
    /\ l <= Len(Traces[tid])
    /\ (Server \/ Host \/ Around)
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
