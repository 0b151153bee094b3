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
GiveUpDue == ~grace /\ \E h \in members \ leaving : stream[h] = 0
Settled == ~PushDue /\ ~AdvanceDue /\ ~GiveUpDue

OwesNothing(h) ==
    IF stream[h] = 0 \/ h \in waiting THEN TRUE
    ELSE net[h][stream[h]].open /\ net[h][stream[h]].down = <<>> /\ net[h][stream[h]].up = <<>>

\* The grace period is far longer than the round timeout, which cuts whoever owes an answer.
PATHSGraceEnds == phase = "idle" /\ (\A h \in Hosts : OwesNothing(h)) /\ GraceEnds
\* A member that the new leader has seen is treated as any other: its grace is over.
PATHSStreamEnds(h) == ~grace /\ StreamEnds(h)
PATHSRoundTimeout == ~grace /\ RoundTimeout

Broken == {<<h, s>> \in Hosts \X (1..MaxStreams) :
              s <= Len(net[h]) /\ ~net[h][s].open /\ (stream[h] = s \/ session[h] = s)}
PATHSBreak(h) == Cardinality(Broken) < MaxBreaks /\ Break(h)

PATHSNext ==
    \/ \E h \in Hosts : (Push(h) /\ ~GiveUpDue) \/ GiveUp(h)
    \/ (AdvanceDue /\ ~GiveUpDue /\ Advance)
    \/ /\ Settled
       /\ \/ \E h \in Hosts :
                 \/ Attach(h) \/ PATHSStreamEnds(h) \/ RecvAck(h)
                 \/ HostStep(h) \/ Crash(h) \/ PATHSBreak(h)
          \/ PATHSGraceEnds \/ StartRound \/ PATHSRoundTimeout \/ NewLeader

PATHSSpec == Init /\ [][PATHSNext]_vars
=============================================================================
