------------------------ MODULE BarrierDissemination ------------------------
(***************************************************************************)
(* The `barrier' policy: rounds of lock, update, unlock over streams.      *)
(*                                                                         *)
(* A leader commits a table (one version per batch of additions and        *)
(* removals) and carries it to the hosts in a round of three phases; every *)
(* stream that takes part acknowledges every phase.  A host that comes     *)
(* (back) without a change of the table is pushed the newest table on its  *)
(* own, between rounds.                                                    *)
(*                                                                         *)
(* Modelled: streams that break and whose two ends notice it at different  *)
(* times; orders and acknowledgements that die with their stream or come   *)
(* later than those of a newer stream; hosts that crash and return with    *)
(* nothing (a new incarnation) or reconnect with the table that they had;  *)
(* round timeouts that cut only the silent streams; batching; a change of  *)
(* leader, which ends all streams and keeps members and version.           *)
(*                                                                         *)
(* Left out: the wire format, namespaces (they never meet), hosts without  *)
(* actor types, clocks (a timeout may strike at any moment at which        *)
(* somebody owes an answer), consensus itself (see RaftMembership), fronts *)
(* (here a stream ends with its leader, the harder case for the host), and *)
(* a deposed leader that goes on sending: what it sent before is still in  *)
(* flight, but a leader admits a stream only after a quorum has confirmed  *)
(* its epoch.                                                              *)
(*                                                                         *)
(* The server's actions are the barrier round of the core and its stream   *)
(* handling; the host's actions are the host side of the core.             *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, Sequences

CONSTANTS
    Hosts,          \* names of hosts
    Keys,           \* actors
    Owner(_, _),    \* Owner(table, key): the host that runs the key
    LateOrders,     \* TRUE: a host also obeys orders of streams that it has given up
    TwoStepBatches  \* TRUE: a batch is proposed first and commits later, as in the code; FALSE: in one step

VARIABLES
  \* @owner: server
  members,          \* the newest committed table, a set of names (replicated)
  version,          \* its number (replicated)
  epoch,            \* leader epoch (replicated)
  unseen,           \* members that a new leader waits for: they have not come back to it yet
  leaving,          \* members given up, to be removed by the next batch
  stream,           \* number of the stream that the leader serves, 0 = none
  waiting,          \* hosts whose stream has not been served yet
  batch,            \* what is proposed and has not committed yet; stays empty without TwoStepBatches
  phase,            \* what the round is at, or "idle"
  acked,            \* hosts that answered the present phase
  \* @owner: host
  up,               \* is the process there
  session,          \* the stream that the host uses, 0 = none
  locked,           \* new calls are held back
  lk,               \* highest version that the host was locked for
  installed,        \* version of its table, 0 = none
  table,            \* the table itself
  active,           \* every actor that it may be running (an upper bound)
  \* @owner: network
  net,              \* net[h][s]: stream s of host h
  \* @owner: ghost
  took              \* the last order that each host took: <<stream, op, version>>

replicated == <<members, version, epoch>>
soft       == <<unseen, leaving, stream, waiting, batch, phase, acked>>
hostVars   == <<up, session, locked, lk, installed, table, active>>
vars       == <<replicated, soft, hostVars, net, took>>

Ops    == {"lock", "update", "unlock"}
Phases == Ops \cup {"idle"}

Hello == [op |-> "hello", v |-> 0]
NewStream == [open |-> TRUE, down |-> <<>>, up |-> <<Hello>>]

(* Streams. A closed stream takes nothing in; what it holds may still come. *)
Closed(s)    == [s EXCEPT !.open = FALSE]
Dropped(s)   == [s EXCEPT !.open = FALSE, !.up = <<>>]      \* closed by the server
Abandoned(s) == [s EXCEPT !.open = FALSE, !.down = <<>>]    \* nobody is left to read
Sent(s, ms)  == IF s.open THEN [s EXCEPT !.down = @ \o ms] ELSE s
Answered(s, op, v) ==
    [s EXCEPT !.down = Tail(@),
              !.up = IF s.open THEN Append(@, [op |-> op, v |-> v]) ELSE @]
Ignored(s)   == [s EXCEPT !.down = Tail(@)]

Nothing == <<0, "none", 0>>

NoBatch == [join |-> {}, leave |-> {}]

Order(op, v, m) == [op |-> op, v |-> v, t |-> IF op = "update" THEN m ELSE {}]

Owned(h, t) == {k \in Keys : t # {} /\ Owner(t, k) = h}

Init ==
    /\ members = {} /\ version = 0 /\ epoch = 1
    /\ unseen = {} /\ leaving = {} /\ waiting = {} /\ batch = NoBatch /\ phase = "idle" /\ acked = {}
    /\ stream = [h \in Hosts |-> 0]
    /\ up = [h \in Hosts |-> FALSE] /\ session = [h \in Hosts |-> 0]
    /\ locked = [h \in Hosts |-> TRUE] /\ lk = [h \in Hosts |-> 0]
    /\ installed = [h \in Hosts |-> 0] /\ table = [h \in Hosts |-> {}]
    /\ active = [h \in Hosts |-> {}]
    /\ net = [h \in Hosts |-> <<>>]
    /\ took = [h \in Hosts |-> Nothing]

-----------------------------------------------------------------------------
(* The leader.                                                             *)

Attached     == {h \in Hosts : stream[h] # 0}
Participants == Attached \ waiting
Joining      == waiting \ members

SendTo(S, ms) ==
    net' = [h \in Hosts |-> IF h \in S
                            THEN [net[h] EXCEPT ![stream[h]] = Sent(@, ms)]
                            ELSE net[h]]

\* A host says hello on a new stream; the newest stream of a name replaces the older one.
\* @actor: server
Attach(h) ==
    \E s \in 1..Len(net[h]) :
    /\ s > stream[h]
    /\ net[h][s].up # <<>> /\ Head(net[h][s].up) = Hello
    /\ stream' = [stream EXCEPT ![h] = s]
    /\ waiting' = waiting \cup {h}
    /\ acked' = acked \ {h}
    /\ leaving' = leaving \ {h}
    /\ unseen' = unseen \ {h}
    /\ net' = [net EXCEPT ![h] = [i \in 1..Len(@) |->
                   IF i = s THEN [@[i] EXCEPT !.up = Tail(@)]
                   ELSE IF i = stream[h] THEN Dropped(@[i])
                   ELSE @[i]]]
    /\ UNCHANGED <<replicated, batch, phase, hostVars, took>>

\* The leader's end of a stream learns that it broke.
\* @actor: server
StreamEnds(h) ==
    /\ stream[h] # 0 /\ ~net[h][stream[h]].open
    /\ stream' = [stream EXCEPT ![h] = 0]
    /\ waiting' = waiting \ {h}
    /\ acked' = acked \ {h}
    /\ net' = [net EXCEPT ![h][stream[h]] = Dropped(@)]
    /\ UNCHANGED <<replicated, unseen, leaving, batch, phase, hostVars, took>>

\* A member without a stream is given up, unless a new leader still waits for it. Its removal waits
\* for the next batch.
\* @actor: server
GiveUp(h) ==
    /\ h \in members \ leaving
    /\ stream[h] = 0
    /\ h \notin unseen
    /\ leaving' = leaving \cup {h}
    /\ UNCHANGED <<replicated, unseen, stream, waiting, batch, phase, acked, hostVars, net, took>>

\* A new leader has waited long enough for the members of its predecessor.
\* @actor: server
GraceEnds ==
    /\ unseen # {}
    /\ unseen' = {}
    /\ UNCHANGED <<replicated, leaving, stream, waiting, batch, phase, acked, hostVars, net, took>>

ComeUp   == [join |-> Joining, leave |-> leaving]
Ready    == IF TwoStepBatches THEN batch ELSE ComeUp
With(b)  == (members \ b.leave) \cup b.join

\* All additions and removals that have come up are proposed. What comes up from now on waits for the next batch.
\* @actor: server
ProposeBatch ==
    /\ TwoStepBatches
    /\ phase = "idle" /\ batch = NoBatch
    /\ ComeUp # NoBatch
    /\ batch' = ComeUp
    /\ UNCHANGED <<replicated, unseen, leaving, stream, waiting, phase, acked, hostVars, net, took>>

\* What was proposed surely had no effect; it has come up again.
\* @actor: server
BatchFails ==
    /\ batch # NoBatch
    /\ batch' = NoBatch
    /\ UNCHANGED <<replicated, unseen, leaving, stream, waiting, phase, acked, hostVars, net, took>>

\* A batch of additions and removals forms one version, and its round starts with everybody who is in that table.
\* @actor: server
StartRound ==
    /\ phase = "idle"
    /\ Ready # NoBatch
    /\ members' = With(Ready)
    /\ version' = version + 1
    /\ leaving' = leaving \ Ready.leave
    /\ waiting' = waiting \ members'
    /\ batch' = NoBatch /\ acked' = {}
    /\ phase' = "lock"
    /\ SendTo(Attached \ waiting', <<Order("lock", version', members')>>)
    /\ UNCHANGED <<epoch, unseen, stream, hostVars, took>>

\* A member that came back gets the newest table by itself: three orders at once, nobody else waits.
\* @actor: server
Push(h) ==
    /\ phase = "idle"
    /\ h \in waiting \cap members
    /\ h \notin batch.leave
    /\ waiting' = waiting \ {h}
    /\ SendTo({h}, <<Order("lock", version, members),
                     Order("update", version, members),
                     Order("unlock", version, members)>>)
    /\ UNCHANGED <<replicated, unseen, leaving, stream, batch, phase, acked, hostVars, took>>

\* An acknowledgement counts only for the operation and the version that are being waited for.
\* @actor: server
RecvAck(h) ==
    /\ stream[h] # 0
    /\ LET up1 == net[h][stream[h]].up IN
       /\ up1 # <<>>
       /\ acked' = IF /\ h \in Participants
                      /\ Head(up1).op = phase
                      /\ Head(up1).v = version
                   THEN acked \cup {h}
                   ELSE acked
    /\ net' = [net EXCEPT ![h][stream[h]].up = Tail(@)]
    /\ UNCHANGED <<replicated, unseen, leaving, stream, waiting, batch, phase, hostVars, took>>

\* Everybody who takes part has answered: the next order, or the end of the round.
\* @actor: server
Advance ==
    /\ phase # "idle"
    /\ Participants \subseteq acked
    /\ phase' = CASE phase = "lock" -> "update" [] phase = "update" -> "unlock" [] OTHER -> "idle"
    /\ acked' = {}
    /\ IF phase = "unlock"
       THEN net' = net
       ELSE SendTo(Participants, <<Order(phase', version, members)>>)
    /\ UNCHANGED <<replicated, unseen, leaving, stream, waiting, batch, hostVars, took>>

\* The round timeout cuts the streams that owe an answer; the round goes on for the rest.
\* @actor: server
RoundTimeout ==
    /\ phase # "idle"
    /\ LET silent == Participants \ acked IN
       /\ silent # {}
       /\ stream' = [h \in Hosts |-> IF h \in silent THEN 0 ELSE stream[h]]
       /\ net' = [h \in Hosts |-> IF h \in silent
                                  THEN [net[h] EXCEPT ![stream[h]] = Dropped(@)]
                                  ELSE net[h]]
    /\ UNCHANGED <<replicated, unseen, leaving, waiting, batch, phase, acked, hostVars, took>>

\* Another leader takes office: members and version are replicated, the rest is forgotten. A batch on its way
\* has committed by then, or never will.
\* @actor: server
NewLeader ==
    /\ epoch' = epoch + 1
    /\ \/ UNCHANGED <<members, version>>
       \/ batch # NoBatch /\ members' = With(batch) /\ version' = version + 1
    /\ unseen' = members'
    /\ leaving' = {} /\ waiting' = {} /\ batch' = NoBatch /\ phase' = "idle" /\ acked' = {}
    /\ stream' = [h \in Hosts |-> 0]
    /\ net' = [h \in Hosts |-> [s \in 1..Len(net[h]) |-> Dropped(net[h][s])]]
    /\ UNCHANGED <<hostVars, took>>

-----------------------------------------------------------------------------
(* The hosts.                                                              *)

\* A process starts: a new incarnation that has nothing.
\* @actor: host h
Start(h) ==
    /\ ~up[h]
    /\ up' = [up EXCEPT ![h] = TRUE]
    /\ UNCHANGED <<replicated, soft, session, locked, lk, installed, table, active, net, took>>

\* The host opens a stream and says hello.
\* @actor: host h
Connect(h) ==
    /\ up[h] /\ session[h] = 0
    /\ session' = [session EXCEPT ![h] = Len(net[h]) + 1]
    /\ net' = [net EXCEPT ![h] = Append(@, NewStream)]
    /\ UNCHANGED <<replicated, soft, up, locked, lk, installed, table, active, took>>

\* The host's end of a stream learns that it broke: no new calls, all actors are stopped, the table stays.
\* @actor: host h
SessionEnds(h) ==
    /\ up[h] /\ session[h] # 0 /\ ~net[h][session[h]].open
    /\ session' = [session EXCEPT ![h] = 0]
    /\ locked' = [locked EXCEPT ![h] = TRUE]
    /\ active' = [active EXCEPT ![h] = {}]
    /\ net' = IF LateOrders THEN net ELSE [net EXCEPT ![h][session[h]] = Abandoned(@)]
    /\ UNCHANGED <<replicated, soft, up, lk, installed, table, took>>

\* The streams that the host listens to.
Heard(h) == IF LateOrders THEN 1..Len(net[h]) ELSE {session[h]} \ {0}

\* Lock: hold back new calls, unless this very version is installed already.
\* @actor: host h
RecvLock(h) ==
    /\ up[h]
    /\ \E s \in Heard(h) :
       /\ net[h][s].down # <<>> /\ Head(net[h][s].down).op = "lock"
       /\ LET m == Head(net[h][s].down) IN
          /\ IF m.v >= lk[h]
             THEN /\ lk' = [lk EXCEPT ![h] = m.v]
                  /\ locked' = [locked EXCEPT ![h] = @ \/ m.v > installed[h]]
                  /\ net' = [net EXCEPT ![h][s] = Answered(@, "lock", m.v)]
             ELSE /\ net' = [net EXCEPT ![h][s] = Ignored(@)]
                  /\ UNCHANGED <<lk, locked>>
          /\ took' = [took EXCEPT ![h] = <<s, "lock", m.v>>]
    /\ UNCHANGED <<replicated, soft, up, session, installed, table, active>>

\* Update: install the table that the host was locked for; actors that moved away stop before the answer.
\* @actor: host h
RecvUpdate(h) ==
    /\ up[h]
    /\ \E s \in Heard(h) :
       /\ net[h][s].down # <<>> /\ Head(net[h][s].down).op = "update"
       /\ LET m == Head(net[h][s].down) IN
          /\ IF m.v = lk[h] /\ (m.v = installed[h] \/ locked[h])
             THEN /\ installed' = [installed EXCEPT ![h] = m.v]
                  /\ table' = [table EXCEPT ![h] = m.t]
                  /\ active' = [active EXCEPT ![h] = @ \cap Owned(h, m.t)]
                  /\ net' = [net EXCEPT ![h][s] = Answered(@, "update", m.v)]
             ELSE /\ net' = [net EXCEPT ![h][s] = Ignored(@)]
                  /\ UNCHANGED <<installed, table, active>>
          /\ took' = [took EXCEPT ![h] = <<s, "update", m.v>>]
    /\ UNCHANGED <<replicated, soft, up, session, locked, lk>>

\* Unlock: serve from the installed table, if the order is about that one and no later lock came.
\* @actor: host h
RecvUnlock(h) ==
    /\ up[h]
    /\ \E s \in Heard(h) :
       /\ net[h][s].down # <<>> /\ Head(net[h][s].down).op = "unlock"
       /\ LET m == Head(net[h][s].down) IN
          /\ IF m.v = installed[h] /\ m.v = lk[h]
             THEN /\ locked' = [locked EXCEPT ![h] = FALSE]
                  /\ active' = [active EXCEPT ![h] = Owned(h, table[h])]
                  /\ net' = [net EXCEPT ![h][s] = Answered(@, "unlock", m.v)]
             ELSE /\ net' = [net EXCEPT ![h][s] = Ignored(@)]
                  /\ UNCHANGED <<locked, active>>
          /\ took' = [took EXCEPT ![h] = <<s, "unlock", m.v>>]
    /\ UNCHANGED <<replicated, soft, up, session, lk, installed, table>>

-----------------------------------------------------------------------------
(* The environment.                                                        *)

\* A process dies with everything it holds; its streams break.
\* @actor: environment
Crash(h) ==
    /\ up[h]
    /\ up' = [up EXCEPT ![h] = FALSE]
    /\ session' = [session EXCEPT ![h] = 0] /\ locked' = [locked EXCEPT ![h] = TRUE]
    /\ lk' = [lk EXCEPT ![h] = 0] /\ installed' = [installed EXCEPT ![h] = 0]
    /\ table' = [table EXCEPT ![h] = {}] /\ active' = [active EXCEPT ![h] = {}]
    /\ net' = [net EXCEPT ![h] = [s \in 1..Len(@) |-> Abandoned(@[s])]]
    /\ took' = [took EXCEPT ![h] = Nothing]
    /\ UNCHANGED <<replicated, soft>>

\* The network breaks a host's stream; the two ends learn of it later, each for itself.
\* @actor: environment
Break(h) ==
    \E s \in 1..Len(net[h]) :
    /\ net[h][s].open
    /\ net' = [net EXCEPT ![h][s] = Closed(@)]
    /\ UNCHANGED <<replicated, soft, hostVars, took>>

-----------------------------------------------------------------------------
ServerStep(h) == Attach(h) \/ StreamEnds(h) \/ GiveUp(h) \/ Push(h) \/ RecvAck(h)
HostStep(h)   == Start(h) \/ Connect(h) \/ SessionEnds(h)
                 \/ RecvLock(h) \/ RecvUpdate(h) \/ RecvUnlock(h)
Fault(h)      == Crash(h) \/ Break(h)

Next ==
    \/ \E h \in Hosts : ServerStep(h) \/ HostStep(h) \/ Fault(h)
    \/ GraceEnds \/ ProposeBatch \/ BatchFails \/ StartRound \/ Advance \/ RoundTimeout \/ NewLeader

Spec == Init /\ [][Next]_vars

(* Fairness. Nothing is assumed of Start, Crash, Break, NewLeader or of the *)
(* order in which things happen. A process that is up goes on computing, a *)
(* stream that stays whole delivers, a stream's end learns of the break by *)
(* keepalive, timers run out.  None of these actions is disabled again and *)
(* again by others, so weak fairness is enough.                            *)
LeaderFair ==
    /\ \A h \in Hosts : WF_vars(Attach(h)) /\ WF_vars(StreamEnds(h)) /\ WF_vars(Push(h)) /\ WF_vars(RecvAck(h))
    /\ WF_vars(GraceEnds) /\ WF_vars(StartRound) /\ WF_vars(Advance) /\ WF_vars(RoundTimeout)
HostFair(h) ==
    /\ WF_vars(Connect(h)) /\ WF_vars(SessionEnds(h))
    /\ WF_vars(RecvLock(h)) /\ WF_vars(RecvUpdate(h)) /\ WF_vars(RecvUnlock(h))

-----------------------------------------------------------------------------
(* Properties. Names without a comment of their own are those of the       *)
(* project's list of properties.                                           *)

MessageOK(m) == m.op \in Ops /\ m.v \in Nat /\ m.t \subseteq Hosts
AckOK(m)     == m.op \in Ops \cup {"hello"} /\ m.v \in Nat

TypeOK ==
    /\ members \subseteq Hosts /\ version \in Nat /\ epoch \in Nat
    /\ unseen \subseteq members /\ leaving \subseteq members \ unseen /\ waiting \subseteq Attached
    /\ phase \in Phases /\ acked \subseteq Participants
    /\ batch.leave \subseteq members /\ batch.join \subseteq Hosts \ members
    /\ stream \in [Hosts -> Nat] /\ session \in [Hosts -> Nat]
    /\ up \in [Hosts -> BOOLEAN] /\ locked \in [Hosts -> BOOLEAN]
    /\ lk \in [Hosts -> Nat] /\ installed \in [Hosts -> Nat]
    /\ \A h \in Hosts :
       /\ table[h] \subseteq Hosts /\ active[h] \subseteq Keys
       /\ stream[h] <= Len(net[h]) /\ session[h] <= Len(net[h])
       /\ \A s \in 1..Len(net[h]) :
          /\ net[h][s].open \in BOOLEAN
          /\ \A i \in 1..Len(net[h][s].down) : MessageOK(net[h][s].down[i])
          /\ \A i \in 1..Len(net[h][s].up) : AckOK(net[h][s].up[i])

\* Every table, committed, installed or on its way, is the only one of its version.
Updates(q) == {<<q[i].v, q[i].t>> : i \in {j \in 1..Len(q) : q[j].op = "update"}}
Tables ==
    {<<version, members>>}
    \cup {<<installed[h], table[h]>> : h \in Hosts}
    \cup UNION {UNION {Updates(net[h][s].down) : s \in 1..Len(net[h])} : h \in Hosts}
TableAgreement ==
    \A a, b \in Tables : (a[1] = b[1] /\ a[1] # 0) => a[2] = b[2]

TableMonotonic ==
    [][\A h \in Hosts : (up[h] /\ up'[h]) => installed'[h] >= installed[h]]_vars

\* What a host takes from one stream is lock, update, unlock of one version, then of a later one.
Follows(a, b) ==
    IF a[1] # b[1] \/ a[2] = "none"
    THEN b[2] = "lock"
    ELSE \/ a[2] = "lock"   /\ b[2] = "update" /\ b[3] = a[3]
         \/ a[2] = "update" /\ b[2] = "unlock" /\ b[3] = a[3]
         \/ a[2] = "unlock" /\ b[2] = "lock"   /\ b[3] > a[3]
BarrierOrder ==
    [][\A h \in Hosts : (took'[h] # took[h] /\ took'[h] # Nothing) => Follows(took[h], took'[h])]_vars

\* (own) The point of the barrier: hosts whose streams both ends hold never admit calls by two tables ...
Linked(h) == up[h] /\ session[h] # 0 /\ session[h] = stream[h]
ConnectedAgreement ==
    \A g, h \in Hosts :
       (Linked(g) /\ Linked(h) /\ ~locked[g] /\ ~locked[h]) => installed[g] = installed[h]

\* (own) ... and never run one actor twice.
ConnectedSingleActivation ==
    \A g, h \in Hosts : (g # h /\ Linked(g) /\ Linked(h)) => active[g] \cap active[h] = {}

\* Does NOT hold under this policy: a host that was cut off and has not noticed goes on serving.
SingleActivation ==
    \A g, h \in Hosts : g # h => active[g] \cap active[h] = {}

\* (own) Whoever the leader serves is in the table, or waits to be.
ServedOrWaiting == Attached \subseteq members \cup waiting

\* The version rises by one exactly when the table changes, also across leaders.
GenerationExact ==
    [][/\ version' \in {version, version + 1}
       /\ (version' = version) = (members' = members)]_vars

\* (own) SlowHostIsolation, its safety side: while a stream is whole and its host has answered,
\* no timeout ends it.
AnsweredIsKept ==
    [][\A h \in acked : (epoch' = epoch /\ net[h][stream[h]].open) => stream'[h] # 0]_vars
\* ... and a timeout disturbs nothing else: the round of the others stays where it was.
TimeoutIsLocal ==
    [][(\E h \in Hosts : stream[h] # 0 /\ stream'[h] = 0 /\ epoch' = epoch)
          => (phase' = phase /\ version' = version)]_vars

\* (own) A member that a new leader still waits for is not removed. One that came back to it, and is
\* lost again, is a member like any other.
GraceKept == [][(unseen \cap unseen') \subseteq members']_vars

(* Liveness (see LIVEBarrierDissemination for the bounds).                 *)
InStep(h) == /\ h \in members /\ Linked(h) /\ ~locked[h]
             /\ installed[h] = version /\ table[h] = members
Convergence == <>[](\A h \in Hosts : up[h] => InStep(h))
\* A round that a silent host holds up ends all the same.
RoundsEnd == (phase # "idle") ~> (phase = "idle")
\* One activation at last; none is missing if no member is dead.
Running(k) == Cardinality({h \in Hosts : k \in active[h]})
ExactlyOneAfterHeal ==
    <>[](\A k \in Keys :
            /\ Running(k) <= 1
            /\ (members # {} /\ \A h \in members : up[h]) => Running(k) = 1)
=============================================================================
