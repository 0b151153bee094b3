------------------------ MODULE EventualDissemination ------------------------
(***************************************************************************)
(* The `eventual' policy: every host gets deltas and applies them at once; *)
(* a host that hears nothing goes on serving from its last table.          *)
(*                                                                         *)
(* Modelled: a leader that sends each host the delta from the version that *)
(* it believes the host to have, one or several versions at a time; deltas *)
(* that get lost or overtake each other, so that a host meets a gap; the   *)
(* digest with which a host checks what a delta made of its table and with *)
(* which its reports let the leader check the host; snapshots for hosts    *)
(* that are new, wrong, or older than what the leader still keeps of its   *)
(* history; removal of hosts that are silent though they may live, their   *)
(* return under a new incarnation; a change of leader; partitions that may *)
(* last for ever; optionally a longest isolation after which a host stops. *)
(*                                                                         *)
(* Left out: streams (messages may be lost and reordered at will, which    *)
(* covers them), time, consensus, the hash (a digest is the table itself), *)
(* and turns: a host counts as running each actor that it would admit.     *)
(* A deposed leader is covered: all that it can send is a delta or a       *)
(* snapshot of committed versions, and those may be sent or come late here.*)
(*                                                                         *)
(* The server's actions are the table feed of the core, the host's actions *)
(* the host side of the core.                                              *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, Sequences

CONSTANTS
    Hosts,          \* names of hosts
    Keys,           \* actors
    Owner(_, _),    \* Owner(set of names, key): the host that runs the key
    Isolation,      \* TRUE: a host stops when it has heard nothing for max_isolation_ms
    SnapshotsAnyTime \* TRUE: a host may ask for the whole table though deltas would do, as in the code

VARIABLES
  \* @owner: server
  history,          \* history[v]: the committed table of version v (replicated)
  gone,             \* gone[h]: the highest incarnation of h that was removed (replicated)
  epoch,            \* leader epoch (replicated)
  base,             \* the leader can compute deltas from this version on
  known,            \* known[h]: the version that the leader believes h to have
  \* @owner: host
  up,               \* is the process there
  incarnation,      \* which one it is
  installed,        \* version of its table, 0 = none
  table,            \* the table itself
  stopped,          \* it has stopped because nobody spoke to it
  \* @owner: network
  msgs,             \* messages in flight, a set: no order
  cut               \* hosts to and from which nothing is delivered

replicated == <<history, gone, epoch>>
soft       == <<base, known>>
hostVars   == <<up, incarnation, installed, table, stopped>>
vars       == <<replicated, soft, hostVars, msgs, cut>>

(* A table says which incarnation of each name belongs to it, 0 = none.    *)
Empty     == [h \in Hosts |-> 0]
Names(t)  == {h \in Hosts : t[h] # 0}
version   == Len(history)
At(v)     == IF v = 0 THEN Empty ELSE history[v]
members   == At(version)

(* A delta lists the entries that differ, <<name, incarnation>>.           *)
Changes(a, b) == {<<h, b[h]>> : h \in {g \in Hosts : a[g] # b[g]}}
Apply(t, d)   == [h \in Hosts |-> IF \E c \in d : c[1] = h
                                  THEN (CHOOSE c \in d : c[1] = h)[2]
                                  ELSE t[h]]
Digest(t)     == t

Report(h) == [type |-> "report", h |-> h, inc |-> incarnation[h],
              v |-> installed[h], digest |-> Digest(table[h])]
Delta(h, from, to) ==
    [type |-> "delta", h |-> h, inc |-> members[h], from |-> from, to |-> to,
     changes |-> Changes(At(from), At(to)), digest |-> Digest(At(to))]
Snapshot(h) == [type |-> "snapshot", h |-> h, inc |-> members[h], to |-> version, table |-> members]
Gone(h, i)  == [type |-> "gone", h |-> h, inc |-> i]
Same(h)     == [type |-> "same", h |-> h, inc |-> members[h]]

\* What the network would deliver, to or from host h.
Deliverable(h, type) == {m \in msgs : m.h = h /\ m.type = type /\ h \notin cut}

Init ==
    /\ history = <<>> /\ gone = [h \in Hosts |-> 0] /\ epoch = 1
    /\ base = 0 /\ known = [h \in Hosts |-> 0]
    /\ up = [h \in Hosts |-> FALSE] /\ incarnation = [h \in Hosts |-> 0]
    /\ installed = [h \in Hosts |-> 0] /\ table = [h \in Hosts |-> Empty]
    /\ stopped = [h \in Hosts |-> FALSE]
    /\ msgs = {} /\ cut = {}

-----------------------------------------------------------------------------
(* The leader.                                                             *)

\* A report of an incarnation that was removed: it must take a new one.
\* @actor: server
RefuseGone(h) ==
    \E m \in Deliverable(h, "report") :
    /\ m.inc <= gone[h]
    /\ msgs' = (msgs \ {m}) \cup {Gone(h, m.inc)}
    /\ UNCHANGED <<replicated, soft, hostVars, cut>>

\* A report of an incarnation that is new: it joins, and an older one under its name is removed with it.
\* @actor: server
Join(h) ==
    \E m \in Deliverable(h, "report") :
    /\ m.inc > gone[h] /\ m.inc > members[h]
    /\ history' = Append(history, [members EXCEPT ![h] = m.inc])
    /\ gone' = [gone EXCEPT ![h] = m.inc - 1]
    /\ known' = [known EXCEPT ![h] = 0]
    /\ msgs' = msgs \ {m}
    /\ UNCHANGED <<epoch, base, hostVars, cut>>

\* A member's report tells what it has; a version with another content than the leader's counts as nothing.
\* @actor: server
RecvReport(h) ==
    \E m \in Deliverable(h, "report") :
    /\ m.inc = members[h] /\ m.inc > gone[h]
    /\ LET good == m.v >= base /\ m.digest = Digest(At(m.v)) IN
       /\ known' = [known EXCEPT ![h] = IF good THEN m.v ELSE 0]
       /\ msgs' = (msgs \ {m}) \cup (IF Isolation /\ good /\ m.v = version THEN {Same(h)} ELSE {})
    /\ UNCHANGED <<replicated, base, hostVars, cut>>

\* A member's renewal is answered, whatever table the host has: it is a report of which the leader takes in only that
\* the host is there.
\* @actor: server
AnswerRenewal(h) ==
    /\ Isolation
    /\ \E m \in Deliverable(h, "report") : m.inc = members[h] /\ m.inc > gone[h]
    /\ msgs' = msgs \cup {Same(h)}
    /\ UNCHANGED <<replicated, soft, hostVars, cut>>

\* A delta up to some committed version, for a host that the leader's history reaches back to.
\* It is believed to have arrived; a report will tell otherwise.
\* @actor: server
SendDelta(h) ==
    /\ members[h] # 0
    /\ known[h] # 0 /\ known[h] >= base
    /\ \E to \in (known[h] + 1)..version :
       /\ msgs' = msgs \cup {Delta(h, known[h], to)}
       /\ known' = [known EXCEPT ![h] = to]
    /\ UNCHANGED <<replicated, base, hostVars, cut>>

\* The whole table, for a host that is new, wrong or too far behind, or that asked for it.
\* @actor: server
SendSnapshot(h) ==
    /\ members[h] # 0
    /\ known[h] < version
    /\ known[h] = 0 \/ known[h] < base \/ SnapshotsAnyTime
    /\ msgs' = msgs \cup {Snapshot(h)}
    /\ known' = [known EXCEPT ![h] = version]
    /\ UNCHANGED <<replicated, base, hostVars, cut>>

\* A host that is not heard is removed; it may well be alive.
\* @actor: server
Remove(h) ==
    /\ members[h] # 0
    /\ history' = Append(history, [members EXCEPT ![h] = 0])
    /\ gone' = [gone EXCEPT ![h] = members[h]]
    /\ UNCHANGED <<epoch, soft, hostVars, msgs, cut>>

\* The leader forgets the history before a version: hosts behind it will need a snapshot.
\* @actor: server
Compact ==
    /\ base < version
    /\ base' = version
    /\ UNCHANGED <<replicated, known, hostVars, msgs, cut>>

\* Another leader takes office. It takes everybody for up to date until their reports tell otherwise.
\* @actor: server
NewLeader ==
    /\ epoch' = epoch + 1
    /\ known' = [h \in Hosts |-> version]
    /\ UNCHANGED <<history, gone, base, hostVars, msgs, cut>>

-----------------------------------------------------------------------------
(* The hosts.                                                              *)

\* A process starts: a new incarnation that has nothing.
\* @actor: host h
Start(h) ==
    /\ ~up[h]
    /\ up' = [up EXCEPT ![h] = TRUE]
    /\ incarnation' = [incarnation EXCEPT ![h] = @ + 1]
    /\ UNCHANGED <<replicated, soft, installed, table, stopped, msgs, cut>>

\* A host says, again and again, who it is and what it has.
\* @actor: host h
SendReport(h) ==
    /\ up[h]
    /\ Report(h) \notin msgs
    /\ msgs' = msgs \cup {Report(h)}
    /\ UNCHANGED <<replicated, soft, hostVars, cut>>

\* A delta is applied at once if it starts from the table that the host has and gives the table that it should.
\* @actor: host h
RecvDelta(h) ==
    /\ up[h]
    /\ \E m \in Deliverable(h, "delta") :
       /\ msgs' = msgs \ {m}
       /\ IF /\ m.inc = incarnation[h]
             /\ m.from = installed[h]
             /\ Digest(Apply(table[h], m.changes)) = m.digest
          THEN /\ installed' = [installed EXCEPT ![h] = m.to]
               /\ table' = [table EXCEPT ![h] = Apply(table[h], m.changes)]
               /\ stopped' = [stopped EXCEPT ![h] = FALSE]
          ELSE UNCHANGED <<installed, table, stopped>>
    /\ UNCHANGED <<replicated, soft, up, incarnation, cut>>

\* A snapshot replaces the table unless it is older.
\* @actor: host h
RecvSnapshot(h) ==
    /\ up[h]
    /\ \E m \in Deliverable(h, "snapshot") :
       /\ msgs' = msgs \ {m}
       /\ IF m.inc = incarnation[h] /\ m.to >= installed[h]
          THEN /\ installed' = [installed EXCEPT ![h] = m.to]
               /\ table' = [table EXCEPT ![h] = m.table]
               /\ stopped' = [stopped EXCEPT ![h] = FALSE]
          ELSE UNCHANGED <<installed, table, stopped>>
    /\ UNCHANGED <<replicated, soft, up, incarnation, cut>>

\* The host learns that it was removed: it forgets everything and goes on under a new incarnation.
\* @actor: host h
RecvGone(h) ==
    /\ up[h]
    /\ \E m \in Deliverable(h, "gone") :
       /\ msgs' = msgs \ {m}
       /\ IF m.inc = incarnation[h]
          THEN /\ incarnation' = [incarnation EXCEPT ![h] = @ + 1]
               /\ installed' = [installed EXCEPT ![h] = 0]
               /\ table' = [table EXCEPT ![h] = Empty]
               /\ stopped' = [stopped EXCEPT ![h] = FALSE]
          ELSE UNCHANGED <<incarnation, installed, table, stopped>>
    /\ UNCHANGED <<replicated, soft, up, cut>>

\* A leader is there: the host knows that it is not isolated.
\* @actor: host h
RecvSame(h) ==
    /\ up[h]
    /\ \E m \in Deliverable(h, "same") :
       /\ msgs' = msgs \ {m}
       /\ stopped' = [stopped EXCEPT ![h] = @ /\ m.inc # incarnation[h]]
    /\ UNCHANGED <<replicated, soft, up, incarnation, installed, table, cut>>

\* With a longest isolation set, a host that has heard nothing for so long stops all its actors.
\* @actor: host h
Isolate(h) ==
    /\ Isolation
    /\ up[h] /\ ~stopped[h]
    /\ stopped' = [stopped EXCEPT ![h] = TRUE]
    /\ UNCHANGED <<replicated, soft, up, incarnation, installed, table, msgs, cut>>

-----------------------------------------------------------------------------
(* The environment.                                                        *)

\* A process dies with all that it holds and with what was on its way to it.
\* @actor: environment
Crash(h) ==
    /\ up[h]
    /\ up' = [up EXCEPT ![h] = FALSE]
    /\ installed' = [installed EXCEPT ![h] = 0] /\ table' = [table EXCEPT ![h] = Empty]
    /\ stopped' = [stopped EXCEPT ![h] = FALSE]
    /\ msgs' = {m \in msgs : m.h # h \/ m.type = "report"}
    /\ UNCHANGED <<replicated, soft, incarnation, cut>>

\* A message to or from a host gets lost.
\* @actor: environment
Lose(h) ==
    \E m \in msgs :
    /\ m.h = h
    /\ msgs' = msgs \ {m}
    /\ UNCHANGED <<replicated, soft, hostVars, cut>>

\* A host's table goes wrong unnoticed (a bug, a bad memory cell).
\* @actor: environment
Rot(h) ==
    /\ up[h] /\ installed[h] # 0
    /\ \E g \in Hosts :
       /\ table[h][g] # 0
       /\ table' = [table EXCEPT ![h][g] = 0]
    /\ UNCHANGED <<replicated, soft, up, incarnation, installed, stopped, msgs, cut>>

\* The network stops delivering anything to or from a host ...
\* @actor: environment
Cut(h) ==
    /\ h \notin cut
    /\ cut' = cut \cup {h}
    /\ UNCHANGED <<replicated, soft, hostVars, msgs>>

\* ... and resumes. What was in flight may still come.
\* @actor: environment
Heal(h) ==
    /\ h \in cut
    /\ cut' = cut \ {h}
    /\ UNCHANGED <<replicated, soft, hostVars, msgs>>

-----------------------------------------------------------------------------
ServerStep(h) == RefuseGone(h) \/ Join(h) \/ RecvReport(h) \/ AnswerRenewal(h) \/ SendDelta(h) \/ SendSnapshot(h) \/ Remove(h)
HostStep(h)   == Start(h) \/ SendReport(h) \/ RecvDelta(h) \/ RecvSnapshot(h)
                 \/ RecvGone(h) \/ RecvSame(h) \/ Isolate(h)
Fault(h)      == Crash(h) \/ Lose(h) \/ Rot(h) \/ Cut(h) \/ Heal(h)

Next ==
    \/ \E h \in Hosts : ServerStep(h) \/ HostStep(h) \/ Fault(h)
    \/ Compact \/ NewLeader

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* Properties. Names without a comment of their own are those of the       *)
(* project's list of properties.                                           *)

Versions == 0..version
MessageOK(m) ==
    /\ m.h \in Hosts /\ m.inc \in Nat
    /\ \/ m.type = "report" /\ m.v \in Nat
       \/ m.type = "delta" /\ m.from \in Versions /\ m.to \in Versions /\ m.from < m.to
       \/ m.type = "snapshot" /\ m.to \in Versions
       \/ m.type \in {"gone", "same"}

TypeOK ==
    /\ epoch \in Nat /\ base \in Versions /\ cut \subseteq Hosts
    /\ \A h \in Hosts :
       /\ gone[h] \in Nat /\ known[h] \in Versions
       /\ up[h] \in BOOLEAN /\ stopped[h] \in BOOLEAN
       /\ incarnation[h] \in Nat /\ installed[h] \in Versions
       /\ \A g \in Hosts : table[h][g] \in Nat
    /\ \A m \in msgs : MessageOK(m)

TableMonotonic ==
    [][\A h \in Hosts : (up[h] /\ up'[h] /\ incarnation'[h] = incarnation[h])
                           => installed'[h] >= installed[h]]_vars

\* Whatever is installed is the committed table of that version. (A table that rots is not installed.)
TableAgreement ==
    [][\A h \in Hosts : (installed'[h] # installed[h] /\ installed'[h] # 0)
                           => table'[h] = history'[installed'[h]]]_vars

\* The version rises by one exactly when the table changes, and what was committed stays.
GenerationExact ==
    [][/\ Len(history') \in {version, version + 1}
       /\ \A v \in 1..version : history'[v] = history[v]
       /\ (Len(history') > version) = (members' # members)]_vars

\* (own) A removed incarnation never comes back: those that enter the table are higher than all before.
GoneForGood ==
    [][\A h \in Hosts : (members'[h] # members[h] /\ members'[h] # 0)
                           => \A v \in 1..version : history[v][h] < members'[h]]_vars

\* (own) The leader computes deltas only from the history that it keeps.
OnlyKeptHistory ==
    [][\A m \in msgs' \ msgs : m.type = "delta" => m.from >= base]_vars

\* Every actor that a host would admit a call for.
Runs(h, k) ==
    /\ up[h] /\ ~stopped[h]
    /\ Names(table[h]) # {} /\ Owner(Names(table[h]), k) = h
    /\ table[h][h] = incarnation[h]

\* Does NOT hold under this policy: hosts switch one after the other, and one that is cut off not at all.
SingleActivation ==
    \A g, h \in Hosts : \A k \in Keys : (Runs(g, k) /\ Runs(h, k)) => g = h

(* Liveness. Fairness is assumed of what processes do by themselves and of *)
(* the network for hosts that are not cut off: they repeat their reports,  *)
(* the leader answers, messages that are neither lost nor cut off arrive.  *)
(* Nothing is assumed of starts, crashes, partitions, losses, compaction.  *)
Fairness ==
    \A h \in Hosts :
    /\ WF_vars(SendReport(h))
    /\ WF_vars(RefuseGone(h)) /\ WF_vars(Join(h)) /\ WF_vars(RecvReport(h))
    /\ WF_vars(SendDelta(h)) /\ WF_vars(SendSnapshot(h)) /\ WF_vars(Remove(h))
    /\ WF_vars(RecvDelta(h)) /\ WF_vars(RecvSnapshot(h)) /\ WF_vars(RecvGone(h)) /\ WF_vars(RecvSame(h))
    /\ WF_vars(Isolate(h))

InStep(h) == /\ members[h] = incarnation[h]
             /\ installed[h] = version /\ table[h] = members
             /\ ~stopped[h]
Convergence == <>[](\A h \in Hosts : (up[h] /\ h \notin cut) => InStep(h))

ExactlyOne == \A k \in Keys : Cardinality({h \in Hosts : Runs(h, k)}) = 1
AtMostOne  == \A k \in Keys : Cardinality({h \in Hosts : Runs(h, k)}) <= 1
\* The liveness side of DuplicateWindow: after the heal, one activation of each actor remains.
ExactlyOneAfterHeal ==
    (<>[](cut = {})) => <>[]((\E h \in Hosts : up[h]) => ExactlyOne)
\* ... and with a longest isolation, duplicates end even if the partition never does.
DuplicatesEndWithoutHeal == <>[]AtMostOne
=============================================================================
