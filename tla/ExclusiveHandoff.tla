-------------------------- MODULE ExclusiveHandoff --------------------------
(* How a slot of an exclusive namespace passes from one incarnation of a     *)
(* host to the next, so that never two of them may serve it.                 *)
(*                                                                           *)
(* Modelled: the replicated table (members, owners, since, pending, fences,  *)
(* tombstones) and the commands that change it; leaders that know nothing of *)
(* their predecessors' waits; hosts that skip versions, let go, report,      *)
(* accept grants, lose and regain their lease, leave, crash and come back as *)
(* new incarnations while the old process may still run; a store that checks *)
(* fences.  Words travel by messages only: each is put into msgs as soon as  *)
(* it is true, and nothing leaves msgs except by Lose, so every message may  *)
(* be late, repeated, overtaken or never heard, including those of a deposed *)
(* leader.  The Repeat actions send again what was lost.                     *)
(*                                                                           *)
(* Time appears as one assumption, which module Leases justifies: once a     *)
(* leader has waited for a removed incarnation (WaitRunsOut), the lease of   *)
(* that incarnation has run out and never runs again.  Nothing else is known *)
(* about clocks: a lease may otherwise start and run out at any moment.      *)
(*                                                                           *)
(* Left out: which host a slot should go to (any choice is allowed here),    *)
(* the consensus engine (module RaftMembership: commands commit one by one), *)
(* how deltas are encoded (a host receives any newer table), sessions and    *)
(* fronts, the drain time (a host may let go at any moment).                 *)
(*                                                                           *)
(* In the implementation: the server's actions are the apply functions of    *)
(* the replicated state machine and the leader's side of the handoff in      *)
(* core; the host's actions are core's host side.  Rules: doc section of     *)
(* this module.                                                              *)
EXTENDS Naturals, FiniteSets

CONSTANTS
  Incarnations,     \* positive numbers; each stands for one life of one process
  HostOf,           \* Incarnations -> names; two incarnations of one name are a restart
  Slots,
  FirstMembers      \* members at version 1, at most one incarnation for each name

VARIABLES
  \* @owner: server
  version,          \* of the newest committed table
  members,          \* incarnations in the table
  issued,           \* incarnations that were ever members: their numbers are never used again
  tombs,            \* tombstones: removed incarnations not yet known to be gone
  owner,            \* Slots -> the incarnation that should serve, or Nobody
  since,            \* Slots -> version of the last change of owner
  pending,          \* Slots -> earlier owners not yet confirmed clear
  fence,            \* Slots -> fence of the right that the present owner may get
  proposed,         \* confirmations on their way through the log
  epoch,            \* leader epoch
  waited,           \* tombstones for which the leader of this epoch has waited long enough
  \* @owner: host
  process,          \* "unborn", "running", "leaving" (will never admit again), "stopped", "crashed"
  table,            \* what the incarnation installed: version, owners, since
  right,            \* per slot: is it live, its fence, and the since of its grant
  turn,             \* per slot: fence under which the running turn was admitted, 0 if none runs
  lease,            \* does the lease run, by the incarnation's own clock
  heard,            \* newest leader epoch heard
  \* @owner: environment
  over,             \* incarnations whose last possible lease has run out in real time
  \* @owner: network
  msgs,
  writes,           \* effects past a host's gate, on their way to the store
  \* @owner: store
  stored            \* per slot: the highest fence accepted

serverVars == <<version, members, issued, tombs, owner, since, pending, fence, proposed, epoch, waited>>
hostVars   == <<process, table, right, turn, lease, heard>>
vars       == <<serverVars, hostVars, over, msgs, writes, stored>>

Nobody == 0
NoRight == [live |-> FALSE, since |-> 0, fence |-> 0]

Table(v, m, o, n) == [kind |-> "table", version |-> v, members |-> m, owner |-> o, since |-> n]
Grant(s, o, n, f, e) == [kind |-> "grant", slot |-> s, to |-> o, since |-> n, fence |-> f, epoch |-> e]
Released(i, s, v) == [kind |-> "released", from |-> i, slot |-> s, upto |-> v]
Request(i, s, n, f) == [kind |-> "request", from |-> i, slot |-> s, since |-> n, last |-> f]
Farewell(i) == [kind |-> "farewell", from |-> i]
Office(e) == [kind |-> "office", epoch |-> e]

\* What the server has to say in a state with owners o, pending p, since n, fences f and epoch e:
\* every slot without pending earlier owners is granted to its owner.
Grants(o, p, n, f, e) ==
    {Grant(s, o[s], n[s], f[s], e) : s \in {x \in Slots : (o[x] # Nobody /\ p[x] = {})}}

\* What incarnation i has to say when it has table t and rights r: "I hold no right to this slot that
\* is older than my table", and "my right ended with its lease, though the slot is still mine".
Reports(i, t, r) ==
    {Released(i, s, t.version) : s \in {x \in Slots : ~r[x].live}}
    \cup {Request(i, s, r[s].since, r[s].fence) :
             s \in {x \in Slots : (/\ process[i] # "leaving"
                                 /\ ~r[x].live /\ r[x].fence # 0 /\ r[x].since = t.since[x])}}

Messages(kind) == {m \in msgs : m.kind = kind}

\* A serving right, as far as its holder can tell: the incarnation's process runs, was granted the
\* slot, and its lease runs.  Turns admitted under it may have effects.
Holds(i, s) == right[i][s].live /\ lease[i]

-----------------------------------------------------------------------------
Init ==
    /\ version = 1
    /\ members = FirstMembers
    /\ issued = FirstMembers
    /\ tombs = {}
    /\ owner \in [Slots -> FirstMembers]
    /\ since = [s \in Slots |-> 1]
    /\ pending = [s \in Slots |-> {}]
    /\ fence = [s \in Slots |-> 1]
    /\ proposed = {}
    /\ epoch = 1
    /\ waited = {}
    /\ process = [i \in Incarnations |-> IF i \in FirstMembers THEN "running" ELSE "unborn"]
    /\ table = [i \in Incarnations |->
                  IF i \in FirstMembers THEN [version |-> 1, owner |-> owner, since |-> since]
                  ELSE [version |-> 0, owner |-> [s \in Slots |-> Nobody], since |-> [s \in Slots |-> 0]]]
    /\ right = [i \in Incarnations |-> [s \in Slots |-> NoRight]]
    /\ turn = [i \in Incarnations |-> [s \in Slots |-> 0]]
    /\ lease = [i \in Incarnations |-> i \in FirstMembers]
    /\ heard = [i \in Incarnations |-> IF i \in FirstMembers THEN 1 ELSE 0]
    /\ over = {}
    /\ msgs = Grants(owner, pending, since, fence, epoch)
    /\ writes = {}
    /\ stored = [s \in Slots |-> 0]

-----------------------------------------------------------------------------
(* The server: commands of the replicated state machine, and its leader.     *)

\* One batch commits as the next version: new members, new owners.  A slot whose owner changes
\* remembers the old one in pending beside those still there, and gets a new since and fence.
Commit(newMembers, newOwner) ==
    LET moved == {s \in Slots : newOwner[s] # owner[s]}
        newSince == [s \in Slots |-> IF s \in moved THEN version + 1 ELSE since[s]]
        newPending == [s \in Slots |->
                          IF s \in moved THEN pending[s] \cup ({owner[s]} \ {Nobody}) ELSE pending[s]]
        newFence == [s \in Slots |-> IF s \in moved THEN fence[s] + 1 ELSE fence[s]]
    IN
    /\ version' = version + 1
    /\ members' = newMembers
    /\ tombs' = tombs \cup (members \ newMembers)
    /\ owner' = newOwner
    /\ since' = newSince
    /\ pending' = newPending
    /\ fence' = newFence
    /\ msgs' = msgs \cup {Table(version + 1, newMembers, newOwner, newSince)}
                   \cup Grants(newOwner, newPending, newSince, newFence, epoch)
    /\ UNCHANGED <<proposed, epoch, waited, hostVars, over, writes, stored>>

\* A process says hello and becomes a member as an incarnation that never was one; another
\* incarnation of the same name leaves the table in the same batch.
\* @actor: server
Upsert(i) ==
    /\ i \notin issued
    /\ issued' = issued \cup {i}
    /\ \E o \in [Slots -> {j \in members : HostOf[j] # HostOf[i]} \cup {i}] :
           Commit({j \in members : HostOf[j] # HostOf[i]} \cup {i}, o)

\* A member is removed: it failed, is overdue, or asked to leave.
\* @actor: server
Remove(i) ==
    /\ i \in members
    /\ UNCHANGED issued
    /\ \E o \in [Slots -> (members \ {i}) \cup {Nobody}] :
           /\ \A s \in Slots : (o[s] = Nobody <=> members = {i})
           /\ Commit(members \ {i}, o)

\* Slots move between members that stay (a weight, a cordon, a better balance).
\* @actor: server
Rebalance ==
    /\ UNCHANGED issued
    /\ \E o \in [Slots -> members] :
           /\ o # owner
           /\ Commit(members, o)

\* The table is sent again to whoever may have missed it.
\* @actor: server
RepeatTable ==
    /\ Table(version, members, owner, since) \notin msgs
    /\ msgs' = msgs \cup {Table(version, members, owner, since)}
    /\ UNCHANGED <<serverVars, hostVars, over, writes, stored>>

\* The leader has a release at or after since from every earlier owner of the slot, and proposes to
\* empty pending.  The proposal names the since that it is about: other batches may commit before it.
\* @actor: server
ProposeConfirm(s) ==
    /\ pending[s] # {}
    /\ \A i \in pending[s] : \E m \in Messages("released") : (m.from = i /\ m.slot = s /\ m.upto >= since[s])
    /\ [slot |-> s, since |-> since[s]] \notin proposed
    /\ proposed' = proposed \cup {[slot |-> s, since |-> since[s]]}
    /\ UNCHANGED <<version, members, issued, tombs, owner, since, pending, fence, epoch, waited,
                   hostVars, over, msgs, writes, stored>>

\* The confirmation commits.  It may have been proposed by an earlier leader: what it says stays true.
\* @actor: server
ApplyConfirm(s) ==
    /\ pending[s] # {}
    /\ \E c \in proposed :
           /\ c.slot = s
           /\ c.since = since[s]
    /\ pending' = [pending EXCEPT ![s] = {}]
    /\ msgs' = msgs \cup Grants(owner, pending', since, fence, epoch)
    /\ UNCHANGED <<version, members, issued, tombs, owner, since, fence, proposed, epoch, waited,
                   hostVars, over, writes, stored>>

\* A tombstone is released: its incarnation is gone for certain, by its own last word or by the wait.
\* @actor: server
Bury(i) ==
    /\ i \in tombs
    /\ (Farewell(i) \in msgs \/ i \in waited)
    /\ tombs' = tombs \ {i}
    /\ waited' = waited \ {i}
    /\ pending' = [s \in Slots |-> pending[s] \ {i}]
    /\ msgs' = msgs \cup Grants(owner, pending', since, fence, epoch)
    /\ UNCHANGED <<version, members, issued, owner, since, fence, proposed, epoch,
                   hostVars, over, writes, stored>>

\* The leader tells owners again that every earlier owner let go, until they have heard it.
\* @actor: server
RepeatGrants ==
    /\ ~(Grants(owner, pending, since, fence, epoch) \subseteq msgs)
    /\ msgs' = msgs \cup Grants(owner, pending, since, fence, epoch)
    /\ UNCHANGED <<serverVars, hostVars, over, writes, stored>>

\* The owner's right ended with its lease; it asks for another one, which needs a higher fence.
\* @actor: server
RaiseFence(s) ==
    /\ owner[s] # Nobody
    /\ Request(owner[s], s, since[s], fence[s]) \in msgs
    /\ fence' = [fence EXCEPT ![s] = @ + 1]
    /\ msgs' = msgs \cup Grants(owner, pending, since, fence', epoch)
    /\ UNCHANGED <<version, members, issued, tombs, owner, since, pending, proposed, epoch, waited,
                   hostVars, over, writes, stored>>

\* Another replica (or the same one again) takes office.  It knows the replicated state; it has
\* waited for nobody.
\* @actor: server
TakeOffice ==
    /\ epoch' = epoch + 1
    /\ waited' = {}
    /\ msgs' = msgs \cup {Office(epoch + 1)} \cup Grants(owner, pending, since, fence, epoch + 1)
    /\ UNCHANGED <<version, members, issued, tombs, owner, since, pending, fence, proposed,
                   hostVars, over, writes, stored>>

-----------------------------------------------------------------------------
(* A host's incarnation.                                                     *)

\* The process learns its number and starts from a snapshot in which it is a member.
\* @actor: host i
Start(i) ==
    /\ process[i] = "unborn"
    /\ \E m \in Messages("table") :
           /\ i \in m.members
           /\ table' = [table EXCEPT ![i] = [version |-> m.version, owner |-> m.owner, since |-> m.since]]
    /\ process' = [process EXCEPT ![i] = "running"]
    /\ lease' = [lease EXCEPT ![i] = FALSE]
    /\ right' = [right EXCEPT ![i] = [s \in Slots |-> NoRight]]
    /\ msgs' = msgs \cup Reports(i, table'[i], right'[i])
    /\ UNCHANGED <<serverVars, turn, heard, over, writes, stored>>

\* A newer table, whatever was skipped.  Slots that it takes away are not admitted from here on.
\* @actor: host i
Install(i) ==
    /\ process[i] = "running"
    /\ \E m \in Messages("table") :
           /\ m.version > table[i].version
           /\ i \in m.members
           /\ table' = [table EXCEPT ![i] = [version |-> m.version, owner |-> m.owner, since |-> m.since]]
    /\ msgs' = msgs \cup Reports(i, table'[i], right[i])
    /\ UNCHANGED <<serverVars, process, right, turn, lease, heard, over, writes, stored>>

\* A newer table without it (the answer GONE is the same word): this incarnation never admits again.
\* @actor: host i
LearnGone(i) ==
    /\ process[i] = "running"
    /\ \E m \in Messages("table") :
           /\ m.version > table[i].version
           /\ i \notin m.members
    /\ process' = [process EXCEPT ![i] = "leaving"]
    /\ UNCHANGED <<serverVars, table, right, turn, lease, heard, over, msgs, writes, stored>>

\* The process shuts down on its own account: an orderly stop, or it is overdue with a release.
\* @actor: host i
Leave(i) ==
    /\ process[i] = "running"
    /\ process' = [process EXCEPT ![i] = "leaving"]
    /\ UNCHANGED <<serverVars, table, right, turn, lease, heard, over, msgs, writes, stored>>

\* The right to a slot that the table took away ends: its turns have finished, or are cut off at the gate.
\* @actor: host i
LetGo(i, s) ==
    /\ right[i][s].live
    /\ (right[i][s].since # table[i].since[s] \/ process[i] = "leaving")
    /\ right' = [right EXCEPT ![i] = [@ EXCEPT ![s] = [@ EXCEPT !.live = FALSE]]]
    /\ msgs' = msgs \cup Reports(i, table[i], right'[i])
    /\ UNCHANGED <<serverVars, process, table, turn, lease, heard, over, writes, stored>>

\* Releases and requests are repeated until they have been heard.
\* @actor: host i
RepeatReports(i) ==
    /\ process[i] \in {"running", "leaving"}
    /\ ~(Reports(i, table[i], right[i]) \subseteq msgs)
    /\ msgs' = msgs \cup Reports(i, table[i], right[i])
    /\ UNCHANGED <<serverVars, hostVars, over, writes, stored>>

\* A grant is accepted iff it is for this incarnation and this since, not from a leader known to be
\* deposed, not used before, and the lease runs.
\* @actor: host i
Accept(i, s) ==
    /\ process[i] = "running"
    /\ lease[i]
    /\ \E m \in Messages("grant") :
           /\ m.to = i
           /\ m.slot = s
           /\ m.since = table[i].since[s]
           /\ m.epoch >= heard[i]
           /\ m.fence > right[i][s].fence
           /\ right' = [right EXCEPT ![i] = [@ EXCEPT ![s] = [live |-> TRUE, since |-> m.since, fence |-> m.fence]]]
           /\ heard' = [heard EXCEPT ![i] = m.epoch]
    /\ UNCHANGED <<serverVars, process, table, turn, lease, over, msgs, writes, stored>>

\* @actor: host i
HearOffice(i) ==
    /\ process[i] \in {"running", "leaving"}
    /\ \E m \in Messages("office") :
           /\ m.epoch > heard[i]
           /\ heard' = [heard EXCEPT ![i] = m.epoch]
    /\ UNCHANGED <<serverVars, process, table, right, turn, lease, over, msgs, writes, stored>>

\* The last word of an incarnation that stopped admitting for ever and holds nothing.
\* @actor: host i
SayFarewell(i) ==
    /\ process[i] = "leaving"
    /\ \A s \in Slots : ~right[i][s].live
    /\ process' = [process EXCEPT ![i] = "stopped"]
    /\ lease' = [lease EXCEPT ![i] = FALSE]
    /\ turn' = [turn EXCEPT ![i] = [s \in Slots |-> 0]]
    /\ msgs' = msgs \cup {Farewell(i)}
    /\ UNCHANGED <<serverVars, table, right, heard, over, writes, stored>>

\* A call is admitted: the table says mine, granted for this since, the lease runs.
\* @actor: host i
Admit(i, s) ==
    /\ process[i] = "running"
    /\ turn[i][s] = 0
    /\ right[i][s].live
    /\ lease[i]
    /\ right[i][s].since = table[i].since[s]
    /\ turn' = [turn EXCEPT ![i] = [@ EXCEPT ![s] = right[i][s].fence]]
    /\ UNCHANGED <<serverVars, process, table, right, lease, heard, over, msgs, writes, stored>>

\* An effect of the running turn passes the gate: the right under which it was admitted still lives.
\* From here on only the store can stop it.
\* @actor: host i
Effect(i, s) ==
    /\ turn[i][s] # 0
    /\ right[i][s].live
    /\ right[i][s].fence = turn[i][s]
    /\ lease[i]
    /\ writes' = writes \cup {[from |-> i, slot |-> s, fence |-> turn[i][s]]}
    /\ UNCHANGED <<serverVars, hostVars, over, msgs, stored>>

\* The turn ends, or is cancelled, or its reply finds the gate shut and is reported unknown.
\* @actor: host i
EndTurn(i, s) ==
    /\ turn[i][s] # 0
    /\ turn' = [turn EXCEPT ![i] = [@ EXCEPT ![s] = 0]]
    /\ UNCHANGED <<serverVars, process, table, right, lease, heard, over, msgs, writes, stored>>

-----------------------------------------------------------------------------
(* The store: accepts a write iff its fence is at least the highest seen.    *)

\* @actor: store
StoreAccepts(s) ==
    /\ \E w \in writes :
           /\ w.slot = s
           /\ w.fence >= stored[s]
           /\ stored' = [stored EXCEPT ![s] = w.fence]
           /\ writes' = writes \ {w}
    /\ UNCHANGED <<serverVars, hostVars, over, msgs>>

\* @actor: store
StoreRefuses(s) ==
    /\ \E w \in writes :
           /\ w.slot = s
           /\ w.fence < stored[s]
           /\ writes' = writes \ {w}
    /\ UNCHANGED <<serverVars, hostVars, over, msgs, stored>>

-----------------------------------------------------------------------------
(* Time, crashes, losses.                                                    *)

\* @actor: environment
LeaseRunsOut(i) ==
    /\ lease[i]
    /\ lease' = [lease EXCEPT ![i] = FALSE]
    /\ UNCHANGED <<serverVars, process, table, right, turn, heard, over, msgs, writes, stored>>

\* An answer to a renewal arrives after the lease had run out: all rights under the old lease have
\* ended for good.  Any incarnation may get such an answer unless its last possible lease is over;
\* to allow it to removed ones, from deposed leaders too, is more than Leases allows.
\* @actor: environment
LeaseStarts(i) ==
    /\ process[i] \in {"running", "leaving"}
    /\ ~lease[i]
    /\ (i \notin over \/ i \in members)
    /\ lease' = [lease EXCEPT ![i] = TRUE]
    /\ right' = [right EXCEPT ![i] = [s \in Slots |-> [right[i][s] EXCEPT !.live = FALSE]]]
    /\ msgs' = msgs \cup Reports(i, table[i], right'[i])
    /\ UNCHANGED <<serverVars, process, table, turn, heard, over, writes, stored>>

\* The one assumption about time (Leases, GoneImpliesGateShut): when the leader's wait for a removed
\* incarnation is over, the lease of that incarnation has run out, and no answer starts it again.
\* @actor: environment
WaitRunsOut(i) ==
    /\ i \in tombs
    /\ i \notin waited
    /\ ~lease[i]
    /\ waited' = waited \cup {i}
    /\ over' = over \cup {i}
    /\ UNCHANGED <<version, members, issued, tombs, owner, since, pending, fence, proposed, epoch,
                   hostVars, msgs, writes, stored>>

\* The process dies without a word.
\* @actor: environment
Crash(i) ==
    /\ process[i] \in {"running", "leaving"}
    /\ process' = [process EXCEPT ![i] = "crashed"]
    /\ lease' = [lease EXCEPT ![i] = FALSE]
    /\ right' = [right EXCEPT ![i] = [s \in Slots |-> [right[i][s] EXCEPT !.live = FALSE]]]
    /\ turn' = [turn EXCEPT ![i] = [s \in Slots |-> 0]]
    /\ UNCHANGED <<serverVars, table, heard, over, msgs, writes, stored>>

\* @actor: environment
Lose ==
    /\ \E m \in msgs : msgs' = msgs \ {m}
    /\ UNCHANGED <<serverVars, hostVars, over, writes, stored>>

-----------------------------------------------------------------------------
Next ==
    \/ \E i \in Incarnations :
           \/ Upsert(i) \/ Remove(i) \/ Bury(i)
           \/ Start(i) \/ Install(i) \/ LearnGone(i) \/ Leave(i) \/ HearOffice(i)
           \/ RepeatReports(i) \/ SayFarewell(i)
           \/ LeaseRunsOut(i) \/ LeaseStarts(i) \/ WaitRunsOut(i) \/ Crash(i)
    \/ \E s \in Slots :
           \/ ProposeConfirm(s) \/ ApplyConfirm(s) \/ RaiseFence(s)
           \/ StoreAccepts(s) \/ StoreRefuses(s)
    \/ \E i \in Incarnations, s \in Slots :
           \/ LetGo(i, s) \/ Accept(i, s) \/ Admit(i, s) \/ Effect(i, s) \/ EndTurn(i, s)
    \/ Rebalance \/ RepeatTable \/ RepeatGrants \/ TakeOffice \/ Lose

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* What is promised.                                                         *)

\* Rights of two incarnations to one slot never overlap.
SingleActivation ==
    \A i, j \in Incarnations, s \in Slots :
        ((i # j) => ~(Holds(i, s) /\ Holds(j, s)))

\* What the server needs to know in order to promise it: whoever may still serve a slot is its owner
\* or pending.
PendingCoversRights ==
    \A i \in Incarnations, s \in Slots :
        (Holds(i, s) => (i = owner[s] \/ i \in pending[s]))

\* No turn is admitted, and no effect passes the gate, outside the right that it belongs to.
TurnsInsideRights ==
    [][/\ \A i \in Incarnations, s \in Slots :
              ((turn'[i][s] # turn[i][s] /\ turn'[i][s] # 0)
                  => (Holds(i, s) /\ table[i].owner[s] = i /\ right[i][s].fence = turn'[i][s]))
       /\ \A w \in writes' \ writes :
              (Holds(w.from, w.slot) /\ right[w.from][w.slot].fence = w.fence)]_vars

\* Every right has a fence above those of all earlier rights to its slot, and the store never takes
\* an older fence after a newer one.
FenceMonotonic ==
    [][/\ \A i \in Incarnations, s \in Slots :
              ((Holds(i, s)' /\ (~Holds(i, s) \/ right'[i][s] # right[i][s]))
                  => (\A j \in Incarnations : right'[i][s].fence > right[j][s].fence))
       /\ \A s \in Slots : stored'[s] >= stored[s]]_vars

\* The fence of a right that lives is never one that the store would refuse.
OwnerNotRefused ==
    \A i \in Incarnations, s \in Slots : (Holds(i, s) => (right[i][s].fence >= stored[s]))

\* An incarnation never installs an older version after a newer one.
TableMonotonic ==
    [][\A i \in Incarnations : (table'[i].version >= table[i].version)]_vars

TypeOK ==
    /\ version \in Nat /\ epoch \in Nat
    /\ members \subseteq issued /\ tombs \subseteq issued /\ issued \subseteq Incarnations
    /\ members \cap tombs = {}
    /\ waited \subseteq tombs
    /\ \A s \in Slots :
           /\ owner[s] \in members \cup {Nobody}
           /\ pending[s] \subseteq members \cup tombs
           /\ since[s] \in 1..version
           /\ fence[s] \in Nat
    /\ \A i \in Incarnations :
           /\ process[i] \in {"unborn", "running", "leaving", "stopped", "crashed"}
           /\ lease[i] \in BOOLEAN
           /\ heard[i] \in 0..epoch
           /\ table[i].version \in 0..version
           /\ \A s \in Slots :
                  /\ right[i][s].live \in BOOLEAN
                  /\ right[i][s].fence \in 0..fence[s]
                  /\ turn[i][s] \in 0..right[i][s].fence
    /\ over \subseteq issued

-----------------------------------------------------------------------------
(* The same in one formula: handoff implements the abstract single owner.    *)
Abstract == INSTANCE SingleOwner WITH
    holder <- [s \in Slots |->
                 IF \E i \in Incarnations : Holds(i, s) THEN CHOOSE i \in Incarnations : Holds(i, s) ELSE Nobody],
    used <- [s \in Slots |->
                 CHOOSE f \in 0..fence[s] :
                     /\ \A i \in Incarnations : f >= right[i][s].fence
                     /\ \E i \in Incarnations : f = right[i][s].fence]

RefinesSingleOwner == Abstract!Spec
=============================================================================
