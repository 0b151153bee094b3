----------------------------- MODULE Membership -----------------------------
(***************************************************************************)
(* What clients of the membership are promised, without a word of          *)
(* replicas, logs or leaders. RaftMembership is shown to keep this.        *)
(*                                                                         *)
(* A command is a batch of joins and leaves. It takes effect as a whole,   *)
(* at one instant between its call and its answer, and at most once        *)
(* however often the client repeats it. A read answers with a table that   *)
(* was the newest one at some instant between its call and its answer.     *)
(*                                                                         *)
(* A command is named by a session and its place in that session. A later  *)
(* command of a session overtakes the earlier ones: what the client gave   *)
(* up before cannot take effect afterwards. Commands of an expired session *)
(* have no effect any more.                                                *)
(*                                                                         *)
(* Left out: namespaces (each has a table of its own), actor types and     *)
(* slots (derived from the members in apply), weights and labels (more     *)
(* fields of a member), and all that hosts do with a table.                *)
(*                                                                         *)
(* In the code: the membership machine of the pure core (apply), its       *)
(* sessions, and the engine interface's promise about proposals and reads. *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets

CONSTANTS
  Hosts,          \* names of hosts
  Sessions,       \* client sessions
  Commands,       \* commands that clients may call
  Reads,          \* reads that clients may call
  SessionOf(_),   \* the session of a command
  SeqOf(_),       \* its number in the session, from 1
  BatchOf(_),     \* what it does: [join |-> hosts, leave |-> hosts]
  Generations     \* generations that restores may use; 1 is the first

VARIABLES
  called,     \* commands called so far
  acked,      \* commands answered with success
  table,      \* the newest table
  past,       \* all tables that there have been, the newest one included
  open,       \* reads called and not answered
  may,        \* for each open read: the tables that may be its answer
  after,      \* for each read: the commands that were answered before it was called
  got         \* for each read: its answer, a table or NoAnswer

vars == <<called, acked, table, past, open, may, after, got>>

NoAnswer == [gen |-> 0]

FirstTable ==
  [gen     |-> 1,                        \* raised by restores only
   version |-> 0,                        \* raised by changes of the members only
   members |-> [h \in Hosts |-> 0],      \* number of the incarnation, 0 if not a member
   issued  |-> 0,                        \* highest incarnation number ever given out
   applied |-> {},                       \* commands that took effect
   expired |-> {}]                       \* sessions that have ended

VersionOf(t) == <<t.gen, t.version>>

(***************************************************************************)
(* The effect of a batch. A join always starts a new incarnation: it takes *)
(* the place of an older one of the same name within the same batch. To    *)
(* remove a host that is not a member changes nothing, and so raises       *)
(* nothing.                                                                *)
(***************************************************************************)
MembersAfter(t, batch) ==
  [h \in Hosts |-> IF h \in batch.join THEN t.issued + 1
                   ELSE IF h \in batch.leave THEN 0
                   ELSE t.members[h]]

TableAfter(t, c) ==
  LET members == MembersAfter(t, BatchOf(c)) IN
  [t EXCEPT !.members = members,
            !.version = IF members = t.members THEN @ ELSE @ + 1,
            !.issued  = IF BatchOf(c).join = {} THEN @ ELSE @ + 1,
            !.applied = @ \cup {c}]

Overtaken(t, c) ==
  \E d \in t.applied : SessionOf(d) = SessionOf(c) /\ SeqOf(d) > SeqOf(c)

MayTakeEffect(t, c) ==
  /\ c \notin t.applied
  /\ SessionOf(c) \notin t.expired
  /\ ~Overtaken(t, c)

Init ==
  /\ called = {}
  /\ acked = {}
  /\ table = FirstTable
  /\ past = {FirstTable}
  /\ open = {}
  /\ may = [r \in Reads |-> {}]
  /\ after = [r \in Reads |-> {}]
  /\ got = [r \in Reads |-> NoAnswer]

Call(c) ==
  /\ c \notin called
  /\ \A d \in Commands : (SessionOf(d) = SessionOf(c) /\ SeqOf(d) < SeqOf(c)) => d \in called
  /\ called' = called \cup {c}
  /\ UNCHANGED <<acked, table, past, open, may, after, got>>

(***************************************************************************)
(* The table becomes t. Every open read may be answered with it from now   *)
(* on.                                                                     *)
(***************************************************************************)
BecomesTable(t) ==
  /\ table' = t
  /\ past' = past \cup {t}
  /\ may' = [r \in Reads |-> IF r \in open THEN may[r] \cup {t} ELSE may[r]]

Apply(c) ==
  /\ c \in called
  /\ MayTakeEffect(table, c)
  /\ BecomesTable(TableAfter(table, c))
  /\ UNCHANGED <<called, acked, open, after, got>>

Answer(c) ==
  /\ c \in table.applied
  /\ acked' = acked \cup {c}
  /\ UNCHANGED <<called, table, past, open, may, after, got>>

Expire(s) ==
  /\ s \notin table.expired
  /\ BecomesTable([table EXCEPT !.expired = @ \cup {s}])
  /\ UNCHANGED <<called, acked, open, after, got>>

ReadCall(r) ==
  /\ r \notin open
  /\ got[r] = NoAnswer
  /\ open' = open \cup {r}
  /\ may' = [may EXCEPT ![r] = {table}]
  /\ after' = [after EXCEPT ![r] = acked]
  /\ UNCHANGED <<called, acked, table, past, got>>

ReadAnswer(r) ==
  /\ r \in open
  /\ \E t \in may[r] : got' = [got EXCEPT ![r] = t]
  /\ open' = open \ {r}
  /\ may' = [may EXCEPT ![r] = {}]
  /\ UNCHANGED <<called, acked, table, past, after>>

(***************************************************************************)
(* An operator restores a backup: some earlier table comes back under a    *)
(* generation that was never used. What was acknowledged after the backup  *)
(* is lost by that decision, and reads have to be called again.            *)
(***************************************************************************)
Restore(g) ==
  /\ \A t \in past : g > t.gen
  /\ \E t \in past :
       LET restored == [t EXCEPT !.gen = g] IN
       /\ table' = restored
       /\ past' = past \cup {restored}
  /\ acked' = {}
  /\ open' = {}
  /\ may' = [r \in Reads |-> {}]
  /\ after' = [r \in Reads |-> {}]
  /\ got' = [r \in Reads |-> NoAnswer]
  /\ UNCHANGED called

Next ==
  \/ \E c \in Commands : Call(c) \/ Apply(c) \/ Answer(c)
  \/ \E s \in Sessions : Expire(s)
  \/ \E r \in Reads : ReadCall(r) \/ ReadAnswer(r)
  \/ \E g \in Generations : Restore(g)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------

TypeOK ==
  /\ called \subseteq Commands
  /\ acked \subseteq called
  /\ table \in past
  /\ open \subseteq Reads

(* Success is told only of commands that were called and took effect, and a *)
(* read sees every change that was acknowledged before it was called.       *)
LinearizableMembership ==
  /\ acked \subseteq table.applied
  /\ table.applied \subseteq called
  /\ \A r \in Reads : (got[r] # NoAnswer) => (got[r] \in past /\ after[r] \subseteq got[r].applied)

(* What took effect stays so, except by an operator's restore. *)
DurableMembership ==
  [][(table'.gen = table.gen) => (table.applied \subseteq table'.applied)]_vars

(* The version rises by one exactly when the members change. *)
VersionStep ==
  [][(table'.gen = table.gen) =>
        \/ (table'.members = table.members /\ table'.version = table.version)
        \/ (table'.members # table.members /\ table'.version = table.version + 1)]_vars

(* No version ever stands for two tables, also across restores. *)
GenerationExact ==
  \A t, u \in past : (VersionOf(t) = VersionOf(u)) => (t.members = u.members)

(* The commands of a session take effect in their order, and none after the end of the session. *)
SessionOrder ==
  [][(table'.gen = table.gen) =>
        \A c \in table'.applied \ table.applied :
          /\ SessionOf(c) \notin table.expired
          /\ \A d \in table.applied : (SessionOf(d) = SessionOf(c)) => (SeqOf(d) < SeqOf(c))]_vars

(* Incarnation numbers are given out once for each effect: an effect that came twice would need two. *)
ApplyOnce ==
  table.issued = Cardinality({c \in table.applied : BatchOf(c).join # {}})
=============================================================================
