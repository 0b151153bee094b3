---------------------- MODULE PATHSBarrierDissemination ----------------------
(* A small model of BarrierDissemination whose every edge is replayed        *)
(* against the code (harness/conformance, doc/Conformance.md).  It only      *)
(* takes behaviours away: the code's machine does some things at once that   *)
(* the protocol module may do later, so they are urgent here.                *)
EXTENDS MCBarrierDissemination

CONSTANT MaxBreaks      \* streams broken and not yet noticed by both ends, at a time

\* What the machine does in the same step as what made it possible: push to a member that came back,
\* go on with a round that waits for nobody, and give up a member whose stream ended.
PushDue == phase = "idle" /\ waiting \cap members # {}
AdvanceDue == phase # "idle" /\ Participants \subseteq acked
GiveUpDue == \E h \in members \ (leaving \cup unseen) : stream[h] = 0
Settled == ~PushDue /\ ~AdvanceDue /\ ~GiveUpDue

\* The leader sees nothing of a process before its hello, so it may as well start and connect at once.
StartDue == \E h \in Hosts : ~up[h]
ConnectDue == \E h \in Hosts : ENABLED MCConnect(h)
Quiet == Settled /\ ~StartDue /\ ~ConnectDue

OwesNothing(h) ==
    IF stream[h] = 0 \/ h \in waiting THEN TRUE
    ELSE net[h][stream[h]].open /\ net[h][stream[h]].down = <<>> /\ net[h][stream[h]].up = <<>>

\* The grace period is far longer than the round timeout, which cuts whoever owes an answer.
PATHSGraceEnds == Quiet /\ phase = "idle" /\ (\A h \in Hosts : OwesNothing(h)) /\ GraceEnds
PATHSStreamEnds(h) == Quiet /\ StreamEnds(h)
PATHSRoundTimeout == Quiet /\ RoundTimeout

Broken == {<<h, s>> \in Hosts \X (1..MaxStreams) :
              s <= Len(net[h]) /\ ~net[h][s].open /\ (stream[h] = s \/ session[h] = s)}
PATHSBreak(h) == Quiet /\ Cardinality(Broken) < MaxBreaks /\ Break(h)

\* By name, so that the graph of states can tell them apart.
PATHSPush(h) == ~GiveUpDue /\ Push(h)
PATHSAdvance == ~GiveUpDue /\ AdvanceDue /\ Advance
PATHSStart(h) == Settled /\ (\A g \in Hosts : (g < h => up[g])) /\ Start(h)
PATHSConnect(h) == Settled /\ ~StartDue /\ (\A g \in Hosts : (g < h => ~ENABLED MCConnect(g))) /\ Connect(h)

PATHSAttach(h) == Quiet /\ Attach(h)
PATHSRecvAck(h) == Quiet /\ RecvAck(h)
PATHSSessionEnds(h) == Quiet /\ SessionEnds(h)
PATHSRecvLock(h) == Quiet /\ RecvLock(h)
PATHSRecvUpdate(h) == Quiet /\ RecvUpdate(h)
PATHSRecvUnlock(h) == Quiet /\ RecvUnlock(h)
PATHSCrash(h) == Quiet /\ Crash(h)
PATHSStartRound == Quiet /\ StartRound
PATHSNewLeader == Quiet /\ NewLeader

PATHSNext ==
    \/ \E h \in Hosts :
           \/ PATHSPush(h) \/ GiveUp(h) \/ PATHSStart(h) \/ PATHSConnect(h)
           \/ PATHSAttach(h) \/ PATHSStreamEnds(h) \/ PATHSRecvAck(h)
           \/ PATHSSessionEnds(h) \/ PATHSRecvLock(h) \/ PATHSRecvUpdate(h) \/ PATHSRecvUnlock(h)
           \/ PATHSCrash(h) \/ PATHSBreak(h)
    \/ PATHSAdvance \/ PATHSGraceEnds \/ PATHSStartRound \/ PATHSRoundTimeout \/ PATHSNewLeader

PATHSSpec == Init /\ [][PATHSNext]_vars
=============================================================================
