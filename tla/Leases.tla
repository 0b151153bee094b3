------------------------------- MODULE Leases -------------------------------
(* How long a leader must wait before it may say of a removed host "gone for *)
(* certain", when clocks run at different rates.                             *)
(*                                                                           *)
(* Modelled: a clock for each process, read in whole units, that gains       *)
(* between Slow and Fast parts of a unit in each instant of real time, so    *)
(* that (1 + rho) / (1 - rho) = Fast / Slow; renewals that carry a number;   *)
(* leaders that collect renewals, confirm their leadership by a round of the *)
(* log, and only then answer; leaders that were deposed and do not know it;  *)
(* removals; a host's last word; a host's three deadlines (admit, cancel,    *)
(* gate) and pauses of a host at any point.                                  *)
(*                                                                           *)
(* A host here is one incarnation: once removed it never comes back.  Left   *)
(* out: slots, tables and grants (module ExclusiveHandoff, which takes from  *)
(* here the one fact GoneImpliesGateShut), and how the log is kept (module   *)
(* RaftMembership): an entry commits in one step, in the epoch of that step. *)
(*                                                                           *)
(* In the implementation: the lease part of the host's side and of the       *)
(* leader's side in core.                                                    *)
EXTENDS Integers, Sequences, FiniteSets

CONSTANTS
  Hosts, Replicas,
  Unit,             \* parts in one unit of a clock reading; what is below a unit is cut off
  Slow, Fast,       \* parts that a clock gains per instant of real time, at least and at most
  Lease,            \* units, as are the next two
  Drain,            \* a turn gets at least this long before it is cancelled
  Margin            \* a cancelled turn has this long before the gate shuts

ASSUME /\ Slow \in Nat \ {0} /\ Fast >= Slow
       /\ Margin * Unit >= Fast          \* an instant is not longer than the margin
       /\ Lease > Drain + Margin

VARIABLES
  \* @owner: host
  hostClock,        \* in parts
  sentAt,           \* reading at which each renewal was sent, by number
  base,             \* send time of the newest renewal known to be answered, or None
  stopped,          \* it stopped admitting for ever and said so
  turn,             \* the running turn: state, and the reading at its admission
  \* @owner: replica
  replicaClock,     \* in parts
  leads,            \* the epoch in which the replica believes to lead, 0 if none
  office,           \* reading when it took office
  round,            \* the round that confirms leadership: state, and the renewals <<host, number>> collected for it
  lastAnswer,       \* reading at the last answer to each host in this office, or None
  removed,          \* hosts whose removal the replica applied
  farewells,        \* hosts whose last word it heard in this office
  \* @owner: network
  epoch,            \* the log: the newest committed leader epoch,
  out,              \* committed removals,
  buried,           \* hosts that some leader declared gone for certain
  msgs,
  \* @owner: ghost
  paused            \* the host slept over a deadline of its running turn

hostVars    == <<hostClock, sentAt, base, stopped, turn>>
replicaVars == <<replicaClock, leads, office, round, lastAnswer, removed, farewells>>
logVars     == <<epoch, out, buried>>
vars        == <<hostVars, replicaVars, logVars, msgs, paused>>

None == -1
NoTurn == [state |-> "none", since |-> 0]
NoRound == [state |-> "none", items |-> {}]

Reading(clock) == clock \div Unit
HostNow(h) == Reading(hostClock[h])
ReplicaNow(r) == Reading(replicaClock[r])
Later(a, b) == IF a = None THEN b ELSE IF b = None THEN a ELSE IF a > b THEN a ELSE b

\* lease * (1 + rho) / (1 - rho), rounded up.
RoundedUp == (Lease * Fast + Slow - 1) \div Slow

\* One unit more, because a difference of two readings that are cut off may show up to one unit more
\* than has passed.
SafeWait == RoundedUp + 1

\* The host's side: how much of the lease is used, on its own clock, counted from the moment at which
\* it sent the renewal.
Used(h) == HostNow(h) - base[h]
GateOpen(h) == ~stopped[h] /\ base[h] # None /\ Used(h) < Lease

\* The leader's side: the host will never pass its gate again.
WaitIsOver(r, h) == ReplicaNow(r) - Later(office[r], lastAnswer[r][h]) >= SafeWait
Gone(r, h) == leads[r] # 0 /\ h \in removed[r] /\ (h \in farewells[r] \/ WaitIsOver(r, h))

Renewal(h, n) == [kind |-> "renewal", from |-> h, number |-> n]
Answer(h, n) == [kind |-> "answer", to |-> h, number |-> n]
Farewell(h) == [kind |-> "farewell", from |-> h]

Init ==
    /\ hostClock = [h \in Hosts |-> 0]
    /\ sentAt = [h \in Hosts |-> <<>>]
    /\ base = [h \in Hosts |-> None]
    /\ stopped = [h \in Hosts |-> FALSE]
    /\ turn = [h \in Hosts |-> NoTurn]
    /\ replicaClock = [r \in Replicas |-> 0]
    /\ leads = [r \in Replicas |-> 0]
    /\ office = [r \in Replicas |-> 0]
    /\ round = [r \in Replicas |-> NoRound]
    /\ lastAnswer = [r \in Replicas |-> [h \in Hosts |-> None]]
    /\ removed = [r \in Replicas |-> {}]
    /\ farewells = [r \in Replicas |-> {}]
    /\ epoch = 0
    /\ out = {}
    /\ buried = {}
    /\ msgs = {}
    /\ paused = [h \in Hosts |-> FALSE]

-----------------------------------------------------------------------------
(* Time.  In one instant every clock gains its own amount within the bound.  *)
(* A host that is not paused handles a deadline before the next instant.     *)

CancelDue(h) == turn[h].state = "running" /\ Used(h) >= Lease - Margin

HostGain == Slow..Fast
ReplicaGain == Slow..Fast

\* @actor: environment
Tick ==
    /\ \E hostGain \in [Hosts -> HostGain], replicaGain \in [Replicas -> ReplicaGain] :
           /\ hostClock' = [h \in Hosts |-> hostClock[h] + hostGain[h]]
           /\ replicaClock' = [r \in Replicas |-> replicaClock[r] + replicaGain[r]]
    /\ paused' = [h \in Hosts |-> paused[h] \/ CancelDue(h)]
    /\ UNCHANGED <<sentAt, base, stopped, turn, leads, office, round, lastAnswer, removed,
                   farewells, logVars, msgs>>

-----------------------------------------------------------------------------
(* A host.                                                                   *)

\* @actor: host h
SendRenewal(h) ==
    /\ ~stopped[h]
    /\ sentAt' = [sentAt EXCEPT ![h] = Append(@, HostNow(h))]
    /\ msgs' = msgs \cup {Renewal(h, Len(sentAt[h]) + 1)}
    /\ UNCHANGED <<hostClock, base, stopped, turn, replicaVars, logVars, paused>>

\* The answer extends the lease from the send time of the renewal that it echoes.
\* @actor: host h
HearAnswer(h) ==
    /\ ~stopped[h]
    /\ \E m \in msgs :
           /\ m.kind = "answer"
           /\ m.to = h
           /\ sentAt[h][m.number] > base[h]
           /\ base' = [base EXCEPT ![h] = sentAt[h][m.number]]
    /\ UNCHANGED <<hostClock, sentAt, stopped, turn, replicaVars, logVars, msgs, paused>>

\* First deadline: a turn that may need the whole drain time must fit in.
\* @actor: host h
Admit(h) ==
    /\ turn[h].state = "none"
    /\ GateOpen(h)
    /\ Used(h) < Lease - Drain - Margin
    /\ turn' = [turn EXCEPT ![h] = [state |-> "running", since |-> HostNow(h)]]
    /\ UNCHANGED <<hostClock, sentAt, base, stopped, replicaVars, logVars, msgs, paused>>

\* Second deadline: what still runs is cancelled, early enough to end before the gate shuts.
\* @actor: host h
Cancel(h) ==
    /\ turn[h].state = "running"
    /\ Used(h) >= Lease - Margin
    /\ turn' = [turn EXCEPT ![h] = [@ EXCEPT !.state = "cancelled"]]
    /\ UNCHANGED <<hostClock, sentAt, base, stopped, replicaVars, logVars, msgs, paused>>

\* Third deadline: the gate.  The clock is read again at every effect and reply; no timer is trusted.
\* @actor: host h
Effect(h) ==
    /\ turn[h].state = "running"
    /\ GateOpen(h)
    /\ turn' = [turn EXCEPT ![h] = [@ EXCEPT !.state = "replied"]]
    /\ UNCHANGED <<hostClock, sentAt, base, stopped, replicaVars, logVars, msgs, paused>>

\* The turn is over; where its reply found the gate shut the caller is told "unknown".
\* @actor: host h
EndTurn(h) ==
    /\ (turn[h].state \in {"replied", "cancelled"} \/ (turn[h].state = "running" /\ ~GateOpen(h)))
    /\ turn' = [turn EXCEPT ![h] = NoTurn]
    /\ paused' = [paused EXCEPT ![h] = FALSE]
    /\ UNCHANGED <<hostClock, sentAt, base, stopped, replicaVars, logVars, msgs>>

\* The host stops for ever, and says so when nothing runs any more.
\* @actor: host h
SayFarewell(h) ==
    /\ ~stopped[h]
    /\ turn[h].state = "none"
    /\ stopped' = [stopped EXCEPT ![h] = TRUE]
    /\ msgs' = msgs \cup {Farewell(h)}
    /\ UNCHANGED <<hostClock, sentAt, base, turn, replicaVars, logVars, paused>>

-----------------------------------------------------------------------------
(* A replica that leads, or believes so.                                     *)

\* The epoch command commits; the replica has applied everything before it and knows nothing of the
\* leases that its predecessors gave.  The predecessor may not notice.
\* @actor: replica r
TakeOffice(r) ==
    /\ epoch' = epoch + 1
    /\ leads' = [leads EXCEPT ![r] = epoch + 1]
    /\ office' = [office EXCEPT ![r] = ReplicaNow(r)]
    /\ round' = [round EXCEPT ![r] = NoRound]
    /\ lastAnswer' = [lastAnswer EXCEPT ![r] = [h \in Hosts |-> None]]
    /\ removed' = [removed EXCEPT ![r] = out]
    /\ farewells' = [farewells EXCEPT ![r] = {}]
    /\ UNCHANGED <<hostVars, replicaClock, out, buried, msgs, paused>>

Renewals == {<<m.from, m.number>> : m \in {x \in msgs : x.kind = "renewal"}}

ProposeRoundOf(r, items) ==
    /\ leads[r] # 0
    /\ round[r].state = "none"
    /\ items # {}
    /\ round' = [round EXCEPT ![r] = [state |-> "proposed", items |-> items]]
    /\ UNCHANGED <<hostVars, replicaClock, leads, office, lastAnswer, removed, farewells, logVars, msgs, paused>>

\* Of the renewals that reached the replica some are collected, and wait for one entry of the log.
\* @actor: replica r
ProposeRound(r) == \E items \in SUBSET Renewals : ProposeRoundOf(r, items)

\* The entry commits.  It counts only if the log is still in the epoch in which it was proposed.
\* @actor: replica r
ConfirmRound(r) ==
    /\ round[r].state = "proposed"
    /\ epoch = leads[r]
    /\ round' = [round EXCEPT ![r] = [@ EXCEPT !.state = "confirmed"]]
    /\ UNCHANGED <<hostVars, replicaClock, leads, office, lastAnswer, removed, farewells,
                   logVars, msgs, paused>>

\* One host of the round is answered, unless the replica has seen its removal.  By now the replica may
\* have been deposed long ago.
\* @actor: replica r
SendAnswer(r, h) ==
    /\ round[r].state = "confirmed"
    /\ h \notin removed[r]
    /\ \E n \in {x[2] : x \in {y \in round[r].items : y[1] = h}} :
           /\ msgs' = msgs \cup {Answer(h, n)}
           /\ round' = [round EXCEPT ![r] = [@ EXCEPT !.items = @ \ {<<h, n>>}]]
    /\ lastAnswer' = [lastAnswer EXCEPT ![r] = [@ EXCEPT ![h] = ReplicaNow(r)]]
    /\ UNCHANGED <<hostVars, replicaClock, leads, office, removed, farewells, logVars, paused>>

\* @actor: replica r
EndRound(r) ==
    /\ round[r].state # "none"
    /\ round' = [round EXCEPT ![r] = NoRound]
    /\ UNCHANGED <<hostVars, replicaClock, leads, office, lastAnswer, removed, farewells,
                   logVars, msgs, paused>>

\* @actor: replica r
StepDown(r) ==
    /\ leads[r] # 0
    /\ leads' = [leads EXCEPT ![r] = 0]
    /\ round' = [round EXCEPT ![r] = NoRound]
    /\ UNCHANGED <<hostVars, replicaClock, office, lastAnswer, removed, farewells, logVars, msgs, paused>>

\* A removal commits; the leader applies it at once, a deposed one does not see it.
\* @actor: replica r
CommitRemoval(r, h) ==
    /\ leads[r] # 0
    /\ leads[r] = epoch
    /\ h \notin out
    /\ out' = out \cup {h}
    /\ removed' = [removed EXCEPT ![r] = @ \cup {h}]
    /\ UNCHANGED <<hostVars, replicaClock, leads, office, round, lastAnswer, farewells,
                   epoch, buried, msgs, paused>>

\* @actor: replica r
HearFarewell(r, h) ==
    /\ leads[r] # 0
    /\ Farewell(h) \in msgs
    /\ h \notin farewells[r]
    /\ farewells' = [farewells EXCEPT ![r] = @ \cup {h}]
    /\ UNCHANGED <<hostVars, replicaClock, leads, office, round, lastAnswer, removed,
                   logVars, msgs, paused>>

\* Gone for certain: from here on the slots of the host may be granted to others.
\* @actor: replica r
Bury(r, h) ==
    /\ Gone(r, h)
    /\ h \notin buried
    /\ buried' = buried \cup {h}
    /\ UNCHANGED <<hostVars, replicaVars, epoch, out, msgs, paused>>

-----------------------------------------------------------------------------
Next ==
    \/ Tick
    \/ \E h \in Hosts :
           \/ SendRenewal(h) \/ HearAnswer(h) \/ SayFarewell(h)
           \/ Admit(h) \/ Cancel(h) \/ Effect(h) \/ EndTurn(h)
    \/ \E r \in Replicas :
           \/ TakeOffice(r) \/ StepDown(r) \/ ProposeRound(r) \/ ConfirmRound(r) \/ EndRound(r)
    \/ \E r \in Replicas, h \in Hosts :
           \/ SendAnswer(r, h) \/ CommitRemoval(r, h) \/ HearFarewell(r, h) \/ Bury(r, h)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
TypeOK ==
    /\ \A h \in Hosts :
           /\ hostClock[h] \in Nat
           /\ base[h] \in Nat \cup {None}
           /\ turn[h].state \in {"none", "running", "cancelled", "replied"}
    /\ \A r \in Replicas :
           /\ leads[r] \in 0..epoch
           /\ round[r].state \in {"none", "proposed", "confirmed"}
           /\ removed[r] \subseteq out
    /\ buried \subseteq out

\* The fact that the handoff builds on: whoever is gone for certain, in the judgement of any replica,
\* now or at an earlier time, has its gate shut, now and for ever.
GoneImpliesGateShut ==
    \A h \in Hosts :
        ((h \in buried \/ \E r \in Replicas : Gone(r, h)) => ~GateOpen(h))

\* No effect passes the gate of a host that is gone for certain, or outside its lease.
EffectsInsideLease ==
    [][\A h \in Hosts :
          ((turn[h].state = "running" /\ turn'[h].state = "replied")
              => (GateOpen(h) /\ h \notin buried))]_vars

\* A turn has at least the drain time before it is cancelled.  A difference of readings that are cut
\* off must be greater for that.
DrainIsGiven ==
    [][\A h \in Hosts :
          ((turn[h].state = "running" /\ turn'[h].state = "cancelled")
              => HostNow(h) - turn[h].since > Drain)]_vars

\* A turn of a host that was not paused never meets a shut gate.
PromptTurnsEndInside ==
    \A h \in Hosts : ((turn[h].state = "running" /\ ~paused[h]) => GateOpen(h))
=============================================================================
