------------------------------ MODULE MCLeases ------------------------------
(* Bounds for exhaustive checking.  Real time is not bounded: the view holds *)
(* ages instead of readings, and an age beyond which nothing changes any     *)
(* more counts as that age.                                                  *)
EXTENDS Leases, TLC

CONSTANTS MaxRenewals, MaxEpoch,
          Turns, Farewells      \* whether turns run, and whether hosts may say a last word

\* Which replica leads first makes no difference.
FirstReplica == CHOOSE r \in Replicas : \A q \in Replicas : r <= q

MCSendRenewal(h) == Len(sentAt[h]) < MaxRenewals /\ SendRenewal(h)
MCTakeOffice(r) ==
    /\ epoch < MaxEpoch
    /\ (epoch = 0 => r = FirstReplica)
    /\ TakeOffice(r)
MCSayFarewell(h) == Farewells /\ SayFarewell(h)
MCAdmit(h) == Turns /\ Admit(h)
MCNext ==
    \/ Tick
    \/ \E h \in Hosts :
           \/ MCSendRenewal(h) \/ HearAnswer(h) \/ MCSayFarewell(h)
           \/ MCAdmit(h) \/ Cancel(h) \/ Effect(h) \/ EndTurn(h)
    \/ \E r \in Replicas :
           \/ MCTakeOffice(r) \/ StepDown(r) \/ ProposeRound(r) \/ ConfirmRound(r) \/ EndRound(r)
    \/ \E r \in Replicas, h \in Hosts :
           \/ SendAnswer(r, h) \/ CommitRemoval(r, h) \/ HearFarewell(r, h) \/ Bury(r, h)

MCSpec == Init /\ [][MCNext]_vars

\* Waits and rates that the rules forbid, for the configs that must fail.
UnitShort == RoundedUp
RateIgnored == Lease + 1
TooFast == Slow..(Fast + 1)
StandsStill == 0..Fast

-----------------------------------------------------------------------------
(* Situations that must be reachable: each is denied, and must be violated.  *)

\* A deposed leader answers a round that was confirmed while it led.
NeverAnsweredByDeposed ==
    ~\E r \in Replicas, h \in Hosts :
        leads[r] # 0 /\ leads[r] < epoch /\ round[r].state = "confirmed" /\ round[r].items = {}
        /\ \E q \in Replicas : (leads[q] = epoch /\ GateOpen(h))
\* Two leaders, one of them deposed, both have waited long enough for a host.
NeverGoneInTwoOffices ==
    ~\E r, q \in Replicas, h \in Hosts : leads[r] # leads[q] /\ Gone(r, h) /\ Gone(q, h)
\* A lease goes on over the end of what the first answer gave.
NeverRenewedTwice ==
    ~\E h \in Hosts : Len(sentAt[h]) = 2 /\ base[h] = sentAt[h][2] /\ GateOpen(h) /\ HostNow(h) - sentAt[h][1] >= Lease
\* A host slept with a turn running until its gate was shut.
NeverPausedOverTheGate == ~\E h \in Hosts : turn[h].state = "running" /\ ~GateOpen(h)
\* A host is gone by its own word, well before the wait is over.
NeverGoneByFarewell == ~\E r \in Replicas, h \in Hosts : Gone(r, h) /\ ~WaitIsOver(r, h)

-----------------------------------------------------------------------------
(* The view.                                                                 *)
Least(a, b) == IF a < b THEN a ELSE b
Age(now, then, cap) == IF then = None THEN None ELSE Least(now - then, cap)

HostView(h) ==
    <<hostClock[h] % Unit,
      [n \in 1..Len(sentAt[h]) |-> Age(HostNow(h), sentAt[h][n], Lease)],
      Age(HostNow(h), base[h], Lease),
      stopped[h],
      IF turn[h].state = "none" THEN <<>> ELSE <<turn[h].state, Age(HostNow(h), turn[h].since, Drain)>>,
      paused[h]>>

ReplicaView(r) ==
    IF leads[r] = 0 THEN <<replicaClock[r] % Unit>>
    ELSE <<replicaClock[r] % Unit, leads[r],
           [h \in Hosts |-> Age(ReplicaNow(r), Later(office[r], lastAnswer[r][h]), SafeWait)],
           round[r], removed[r], farewells[r]>>

\* A renewal whose number is worth nothing any more, and its answer, are forgotten.
Useful(m) ==
    CASE m.kind = "renewal" -> (HostNow(m.from) - sentAt[m.from][m.number] < Lease /\ ~stopped[m.from])
      [] m.kind = "answer" -> /\ HostNow(m.to) - sentAt[m.to][m.number] < Lease
                              /\ (base[m.to] = None \/ base[m.to] < sentAt[m.to][m.number])
                              /\ ~stopped[m.to]
      [] OTHER -> TRUE

View == <<[h \in Hosts |-> HostView(h)], [r \in Replicas |-> ReplicaView(r)], epoch, out, buried,
          {m \in msgs : Useful(m)}>>
=============================================================================
