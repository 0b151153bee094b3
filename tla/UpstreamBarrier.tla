--------------------------- MODULE UpstreamBarrier ---------------------------
(***************************************************************************)
(* What Dapr's placement does today (1.17 and 1.18), for comparison.       *)
(*                                                                         *)
(* The leader keeps the members in memory only: a new leader starts with   *)
(* none, at version 0, and rebuilds them from whoever connects first; the  *)
(* consensus engine serves to elect it and for nothing else.  A report     *)
(* that changes the members starts a round at once, also in the middle of  *)
(* another one (compressed rounds): a stream may be sent lock after lock.  *)
(* A host that is cut off and does not notice goes on serving.             *)
(*                                                                         *)
(* Modelled: reports, orders and acknowledgements over streams; streams    *)
(* whose two ends notice a break at different times; a host that changes   *)
(* what it reports; the round timeout that cuts the silent and starts a    *)
(* new round; a new leader.  Hosts are of one of two kinds: those that set *)
(* a flag (1.17 and later) and those that count locks and unlocks (1.16).  *)
(*                                                                         *)
(* Left out: additions and removals that wait behind a round, the coalesce *)
(* window, hosts without actor types, heartbeats of old hosts as implied   *)
(* acknowledgements, crashes (a host that reconnects has lost its actors   *)
(* all the same), the host's own timers.  They make the findings worse or  *)
(* later, not better.  An emergency timer that clears the lock after 15 s  *)
(* in 1.16 is left out; a late unlock defeats it.                          *)
(*                                                                         *)
(* Nothing in callboard implements this module; the barrier policy's       *)
(* BarrierDissemination is the answer to it.                               *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, Sequences

CONSTANTS
    Hosts,          \* names of hosts
    Keys,           \* actors
    Owner(_, _),    \* Owner(table, key): the host that runs the key
    Counting        \* TRUE: hosts count locks and unlocks, as 1.16 does

VARIABLES
  \* @owner: server
  members,          \* hosts known to the leader, in its memory
  version,          \* version of the last round, counted by this leader
  phase,            \* what the round is at, or "idle"
  stream,           \* number of the stream that the leader serves, 0 = none
  acked,            \* hosts that answered the present phase
  lastLock,         \* version of the last lock sent on the host's stream
  \* @owner: host
  session,          \* the stream that the host uses, 0 = none
  locks,            \* 0 = admits calls if it has a table (a flag, or a count of locks)
  installed,        \* version of its table, 0 = none
  table,            \* the table itself
  active,           \* every actor that it may be running (an upper bound)
  \* @owner: network
  net,              \* net[h][s]: stream s of host h
  \* @owner: ghost
  took,             \* the last order that each host took: <<stream, op, version>>
  epoch             \* how many leaders there have been

leader   == <<members, version, phase, stream, acked, lastLock>>
hostVars == <<session, locks, installed, table, active>>
vars     == <<leader, hostVars, net, took, epoch>>

Nothing   == <<0, "none", 0>>
ReportMsg == [op |-> "report", v |-> 0]
NewStream == [open |-> TRUE, down |-> <<>>, up |-> <<ReportMsg>>]

Dropped(s)   == [s EXCEPT !.open = FALSE, !.up = <<>>]
Abandoned(s) == [s EXCEPT !.open = FALSE, !.down = <<>>]
Sent(s, m)   == IF s.open THEN [s EXCEPT !.down = Append(@, m)] ELSE s
Answered(s, op, v) ==
    [s EXCEPT !.down = Tail(@),
              !.up = IF s.open THEN Append(@, [op |-> op, v |-> v]) ELSE @]
Ignored(s)   == [s EXCEPT !.down = Tail(@)]

Order(op, v, m) == [op |-> op, v |-> v, t |-> IF op = "update" THEN m ELSE {}]
Owned(h, t)     == {k \in Keys : t # {} /\ Owner(t, k) = h}

Init ==
    /\ members = {} /\ version = 0 /\ phase = "idle" /\ acked = {} /\ epoch = 1
    /\ stream = [h \in Hosts |-> 0] /\ lastLock = [h \in Hosts |-> 0]
    /\ session = [h \in Hosts |-> 0] /\ locks = [h \in Hosts |-> IF Counting THEN 0 ELSE 1]
    /\ installed = [h \in Hosts |-> 0] /\ table = [h \in Hosts |-> {}]
    /\ active = [h \in Hosts |-> {}]
    /\ net = [h \in Hosts |-> <<>>]
    /\ took = [h \in Hosts |-> Nothing]

-----------------------------------------------------------------------------
(* The leader.                                                             *)

\* A new round for the streams of `str', whatever was going on; `wire' is the network so far.
NewRound(str, wire) ==
    /\ version' = version + 1
    /\ phase' = "lock"
    /\ acked' = {}
    /\ lastLock' = [g \in Hosts |-> IF str[g] # 0 THEN version + 1 ELSE 0]
    /\ net' = [g \in Hosts |-> IF str[g] # 0
                               THEN [wire[g] EXCEPT ![str[g]] = Sent(@, Order("lock", version + 1, {}))]
                               ELSE wire[g]]

\* The first report on a stream makes a member, and a round at once.
\* @actor: server
Join(h) ==
    LET s == Len(net[h]) IN
    /\ s > stream[h]
    /\ net[h][s].up # <<>> /\ Head(net[h][s].up) = ReportMsg
    /\ members' = members \cup {h}
    /\ stream' = [stream EXCEPT ![h] = s]
    /\ NewRound([stream EXCEPT ![h] = s],
                [net EXCEPT ![h] = [i \in 1..Len(@) |->
                     IF i = s THEN [@[i] EXCEPT !.up = Tail(@)]
                     ELSE IF i = stream[h] THEN Dropped(@[i]) ELSE @[i]]])
    /\ UNCHANGED <<hostVars, took, epoch>>

\* A stream that ends takes its member along, and a round starts at once.
\* @actor: server
StreamEnds(h) ==
    /\ stream[h] # 0 /\ ~net[h][stream[h]].open
    /\ members' = members \ {h}
    /\ stream' = [stream EXCEPT ![h] = 0]
    /\ NewRound([stream EXCEPT ![h] = 0], [net EXCEPT ![h][stream[h]] = Dropped(@)])
    /\ UNCHANGED <<hostVars, took, epoch>>

\* A report on a stream that is known: the host changed its types, and a round starts at once.
\* @actor: server
RecvChange(h) ==
    /\ stream[h] # 0
    /\ LET q == net[h][stream[h]].up IN q # <<>> /\ Head(q) = ReportMsg
    /\ NewRound(stream, [net EXCEPT ![h][stream[h]].up = Tail(@)])
    /\ UNCHANGED <<members, stream, hostVars, took, epoch>>

\* An acknowledgement of the present version counts, whatever the phase; older ones are ignored.
\* @actor: server
RecvAck(h) ==
    /\ stream[h] # 0
    /\ LET q == net[h][stream[h]].up IN
       /\ q # <<>> /\ Head(q) # ReportMsg
       /\ acked' = IF Head(q).v >= version /\ phase # "idle" THEN acked \cup {h} ELSE acked
    /\ net' = [net EXCEPT ![h][stream[h]].up = Tail(@)]
    /\ UNCHANGED <<members, version, phase, stream, lastLock, hostVars, took, epoch>>

\* All streams have answered: the next order, or the end of the round.
\* @actor: server
Advance ==
    /\ phase # "idle"
    /\ {h \in Hosts : stream[h] # 0} \subseteq acked
    /\ phase' = CASE phase = "lock" -> "update" [] phase = "update" -> "unlock" [] OTHER -> "idle"
    /\ acked' = {}
    /\ net' = [h \in Hosts |->
                  IF phase # "unlock" /\ stream[h] # 0 /\ lastLock[h] = version
                  THEN [net[h] EXCEPT ![stream[h]] = Sent(@, Order(phase', version, members))]
                  ELSE net[h]]
    /\ UNCHANGED <<members, version, stream, lastLock, hostVars, took, epoch>>

\* The silent are cut, their members dropped, and a new round starts for the rest.
\* @actor: server
RoundTimeout ==
    /\ phase # "idle"
    /\ LET silent == {h \in Hosts : stream[h] # 0} \ acked
           rest   == [h \in Hosts |-> IF h \in silent THEN 0 ELSE stream[h]] IN
       /\ silent # {}
       /\ members' = members \ silent
       /\ stream' = rest
       /\ NewRound(rest, [h \in Hosts |-> IF h \in silent
                                          THEN [net[h] EXCEPT ![stream[h]] = Dropped(@)]
                                          ELSE net[h]])
    /\ UNCHANGED <<hostVars, took, epoch>>

\* Another leader: it knows nobody and counts versions from nothing.
\* @actor: server
NewLeader ==
    /\ epoch' = epoch + 1
    /\ members' = {} /\ version' = 0 /\ phase' = "idle" /\ acked' = {}
    /\ stream' = [h \in Hosts |-> 0] /\ lastLock' = [h \in Hosts |-> 0]
    /\ net' = [h \in Hosts |-> [s \in 1..Len(net[h]) |-> Dropped(net[h][s])]]
    /\ UNCHANGED <<hostVars, took>>

-----------------------------------------------------------------------------
(* The hosts.                                                              *)

\* @actor: host h
Connect(h) ==
    /\ session[h] = 0
    /\ session' = [session EXCEPT ![h] = Len(net[h]) + 1]
    /\ net' = [net EXCEPT ![h] = Append(@, NewStream)]
    /\ UNCHANGED <<leader, locks, installed, table, active, took, epoch>>

\* The host learns that its stream ended: it stops all its actors and holds back calls.
\* @actor: host h
SessionEnds(h) ==
    /\ session[h] # 0 /\ ~net[h][session[h]].open
    /\ session' = [session EXCEPT ![h] = 0]
    /\ locks' = [locks EXCEPT ![h] = IF Counting THEN 0 ELSE 1]
    /\ installed' = [installed EXCEPT ![h] = IF Counting THEN 0 ELSE @]
    /\ table' = [table EXCEPT ![h] = IF Counting THEN {} ELSE @]
    /\ active' = [active EXCEPT ![h] = {}]
    /\ net' = [net EXCEPT ![h][session[h]] = Abandoned(@)]
    /\ UNCHANGED <<leader, took, epoch>>

\* The host's set of actor types changes: it reports again.
\* @actor: host h
Change(h) ==
    /\ session[h] # 0 /\ net[h][session[h]].open
    /\ net' = [net EXCEPT ![h][session[h]].up = Append(@, ReportMsg)]
    /\ UNCHANGED <<leader, hostVars, took, epoch>>

Orders(h) == net[h][session[h]].down

\* @actor: host h
RecvLock(h) ==
    /\ session[h] # 0 /\ Orders(h) # <<>> /\ Head(Orders(h)).op = "lock"
    /\ locks' = [locks EXCEPT ![h] = IF Counting THEN @ + 1 ELSE 1]
    /\ net' = [net EXCEPT ![h][session[h]] = Answered(@, "lock", Head(Orders(h)).v)]
    /\ took' = [took EXCEPT ![h] = <<session[h], "lock", Head(Orders(h)).v>>]
    /\ UNCHANGED <<leader, session, installed, table, active, epoch>>

\* @actor: host h
RecvUpdate(h) ==
    /\ session[h] # 0 /\ Orders(h) # <<>> /\ Head(Orders(h)).op = "update"
    /\ LET m == Head(Orders(h)) IN
       /\ installed' = [installed EXCEPT ![h] = m.v]
       /\ table' = [table EXCEPT ![h] = m.t]
       /\ active' = [active EXCEPT ![h] = @ \cap Owned(h, m.t)]
       /\ net' = [net EXCEPT ![h][session[h]] = Answered(@, "update", m.v)]
       /\ took' = [took EXCEPT ![h] = <<session[h], "update", m.v>>]
    /\ UNCHANGED <<leader, session, locks, epoch>>

\* Obeyed only after an update of the same version; a host that counts takes one lock off.
\* @actor: host h
RecvUnlock(h) ==
    /\ session[h] # 0 /\ Orders(h) # <<>> /\ Head(Orders(h)).op = "unlock"
    /\ LET m    == Head(Orders(h))
           left == IF Counting /\ locks[h] > 0 THEN locks[h] - 1 ELSE 0 IN
       /\ IF m.v = installed[h]
          THEN /\ locks' = [locks EXCEPT ![h] = left]
               /\ active' = [active EXCEPT ![h] = IF left = 0 THEN Owned(h, table[h]) ELSE @]
               /\ net' = [net EXCEPT ![h][session[h]] = Answered(@, "unlock", m.v)]
          ELSE /\ net' = [net EXCEPT ![h][session[h]] = Ignored(@)]
               /\ UNCHANGED <<locks, active>>
       /\ took' = [took EXCEPT ![h] = <<session[h], "unlock", m.v>>]
    /\ UNCHANGED <<leader, session, installed, table, epoch>>

-----------------------------------------------------------------------------
\* The network breaks a host's stream; the two ends learn of it later, each for itself.
\* @actor: environment
Break(h) ==
    \E s \in 1..Len(net[h]) :
    /\ net[h][s].open
    /\ net' = [net EXCEPT ![h][s].open = FALSE]
    /\ UNCHANGED <<leader, hostVars, took, epoch>>

Next ==
    \/ \E h \in Hosts : \/ Join(h) \/ StreamEnds(h) \/ RecvChange(h) \/ RecvAck(h)
                        \/ Connect(h) \/ SessionEnds(h) \/ Change(h)
                        \/ RecvLock(h) \/ RecvUpdate(h) \/ RecvUnlock(h)
                        \/ Break(h)
    \/ Advance \/ RoundTimeout \/ NewLeader

Spec == Init /\ [][Next]_vars

(* The same fairness as BarrierDissemination grants itself.                *)
Fairness ==
    /\ \A h \in Hosts : /\ WF_vars(Join(h)) /\ WF_vars(StreamEnds(h)) /\ WF_vars(RecvChange(h)) /\ WF_vars(RecvAck(h))
                        /\ WF_vars(Connect(h)) /\ WF_vars(SessionEnds(h))
                        /\ WF_vars(RecvLock(h)) /\ WF_vars(RecvUpdate(h)) /\ WF_vars(RecvUnlock(h))
    /\ WF_vars(Advance) /\ WF_vars(RoundTimeout)

-----------------------------------------------------------------------------
(* What holds ...                                                          *)

TypeOK ==
    /\ members \subseteq Hosts /\ version \in Nat /\ phase \in {"idle", "lock", "update", "unlock"}
    /\ acked \subseteq Hosts
    /\ \A h \in Hosts :
       /\ stream[h] <= Len(net[h]) /\ session[h] <= Len(net[h])
       /\ locks[h] \in Nat /\ installed[h] \in Nat /\ lastLock[h] <= version
       /\ table[h] \subseteq Hosts /\ active[h] \subseteq Keys

\* Between hosts whose streams both ends hold, under one leader, the barrier does its work.
Linked(h) == session[h] # 0 /\ session[h] = stream[h]
Admits(h) == locks[h] = 0 /\ installed[h] # 0
ConnectedAgreement ==
    \A g, h \in Hosts :
       (Linked(g) /\ Linked(h) /\ Admits(g) /\ Admits(h)) => installed[g] = installed[h]
ConnectedSingleActivation ==
    \A g, h \in Hosts : (g # h /\ Linked(g) /\ Linked(h)) => active[g] \cap active[h] = {}

\* A host installs only what it was locked for: no update without its lock.
UpdateAfterLock ==
    [][\A h \in Hosts : (took'[h] # took[h] /\ took'[h][2] = "update")
                           => took[h] = <<took'[h][1], "lock", took'[h][3]>>]_vars

(* ... and what does not: each has a config that must find the violation.  *)
SingleActivation ==
    \A g, h \in Hosts : g # h => active[g] \cap active[h] = {}

TableMonotonic == [][\A h \in Hosts : installed'[h] >= installed[h]]_vars

TableAgreement ==
    \A g, h \in Hosts : (installed[g] = installed[h] /\ installed[g] # 0) => table[g] = table[h]

GenerationExact == [][version' \in {version, version + 1}]_vars

Follows(a, b) ==
    IF a[1] # b[1] \/ a[2] = "none"
    THEN b[2] = "lock"
    ELSE \/ a[2] = "lock"   /\ b[2] = "update" /\ b[3] = a[3]
         \/ a[2] = "update" /\ b[2] = "unlock" /\ b[3] = a[3]
         \/ a[2] = "unlock" /\ b[2] = "lock"   /\ b[3] > a[3]
BarrierOrder ==
    [][\A h \in Hosts : took'[h] # took[h] => Follows(took[h], took'[h])]_vars

\* Everybody who is connected comes to serve by the newest table. Fails for hosts that count.
InStep(h) == h \in members /\ Linked(h) /\ locks[h] = 0 /\ installed[h] = version
Convergence == <>[](\A h \in Hosts : InStep(h))
=============================================================================
