--------------------------- MODULE RaftMembership ---------------------------
(***************************************************************************)
(* The membership replicated by a consensus log, as the embedded engine    *)
(* keeps it. It refines Membership.                                        *)
(*                                                                         *)
(* A replica has                                                           *)
(*   - memory: role and applied state. Any crash loses it.                 *)
(*   - what it has written: term, vote and log. The system keeps that when *)
(*     the process is killed, and loses what was not synced when power is  *)
(*     lost.                                                               *)
(*   - what it has synced: `meta` and `synced`. Only this survives a loss  *)
(*     of power.                                                           *)
(* A crash and the restart after it are one step: a replica that is down   *)
(* for a while is one that takes no steps.                                 *)
(*                                                                         *)
(* What was sent is never taken out of the network: each message can be    *)
(* received late, more than once, in any order, or never. So there is no   *)
(* action that loses or repeats a message, and to send early is to allow   *)
(* any later delivery: a leader sends an entry in the step that appends it.*)
(*                                                                         *)
(* Above the engine stands the service. A leader takes office when its     *)
(* epoch entry is applied; it submits commands under that epoch. The       *)
(* engine may hold a submitted command back and append it much later, in   *)
(* another leader's log: such a command is refused in apply because its    *)
(* epoch is stale. Clients repeat commands whose outcome they do not know; *)
(* sessions let apply recognise them.                                      *)
(*                                                                         *)
(* Left out: snapshots and compaction of the log (a restored backup stands *)
(* in place of the first state); changes of the set of replicas (it is     *)
(* fixed in callboard); batching of several entries in one message; the    *)
(* way in which a leader finds out how far back a follower's log agrees    *)
(* (messages for all entries are there from the start); timers.            *)
(*                                                                         *)
(* In the code: the consensus engines (term, vote, log, sync), the         *)
(* membership machine of the core (ApplyEntry), and the server (Submit,    *)
(* Answer, barriers before reads).                                         *)
(***************************************************************************)
EXTENDS Integers, FiniteSets, Sequences

CONSTANTS
  Replicas,       \* identities of the replicas
  Nobody,         \* not a replica
  Hosts,          \* names of hosts
  Sessions,       \* client sessions
  Commands,       \* commands that clients may call
  Reads,          \* reads that clients may call
  Epochs,         \* leader epochs and
  Indices,        \* log positions that are considered
  Generations,    \* generations that restores may use
  SessionOf(_),   \* the session of a command
  SeqOf(_),       \* its number in the session, from 1
  BatchOf(_)      \* what it does: [join |-> hosts, leave |-> hosts]

VARIABLES
  \* @owner: replica
  term,         \* highest term that a replica has written
  vote,         \* whom it voted for in that term
  meta,         \* the term and vote that it has synced
  log,          \* its log as written
  synced,       \* its log as synced
  role,         \* "follower", "candidate" or "leader"
  state,        \* the state machine, as far as it has applied the log
  \* @owner: network
  candidacies,  \* requests for votes: [term, from, idx, lastTerm]
  votes,        \* [term, from, to]
  appends,      \* entries sent by leaders: [term, from, idx, prevTerm, entry]
  confirmed,    \* "synced up to this entry of this term's leader": [term, from, idx]
  commits,      \* "committed up to here": [term, idx, entryTerm]
  requests,     \* commands sent by clients
  successes,    \* commands answered with success
  submissions,  \* what the service gave to the engine: [kind, what, epoch]
  readRequests, \* reads sent by clients
  readAnswers,  \* their answers: [what, idx, table]
  \* @owner: environment
  base,         \* the state that every replica starts from: the first one, or a restored backup
  backup,       \* a backup of some replica's state
  reported,     \* the highest generation that hosts and the operator know of
  \* @owner: ghost
  committed,    \* entries that some replica has applied, each with the state after it
  floor,        \* for each read: how many entries were committed, and which commands answered, when it was called
  past          \* tables that there were before the last restore

\* Groups of variables, to say what an action leaves alone.
votingVars == <<term, vote, meta>>
replicaVars == <<term, vote, meta, log, synced, role, state>>
electionVars == <<candidacies, votes>>
entryVars == <<appends, confirmed, commits>>
clientVars == <<requests, successes, submissions, readRequests, readAnswers>>
operatorVars == <<base, backup, reported, past>>
vars == <<replicaVars, electionVars, entryVars, clientVars, operatorVars, committed, floor>>

(***************************************************************************)
(* TRUE, in configs that say so: a replica also hears of a newer term      *)
(* without being asked for a vote, and remembers across terms what it      *)
(* knows to be committed, as the embedded engine does.                     *)
(***************************************************************************)
AsTheEngine == FALSE

Quorum(S) == 2 * Cardinality(S) > Cardinality(Replicas)

Expired == -1
NoBackup == [idx |-> -1]
NoFloor == [idx |-> 0, acked |-> {}]

-----------------------------------------------------------------------------
(* The state machine. It sees nothing but the state and the entry. *)

FirstState ==
  [idx     |-> 0,
   gen     |-> 1,
   version |-> 0,
   members |-> [h \in Hosts |-> 0],             \* number of the incarnation, 0 if not a member
   issued  |-> 0,                               \* highest incarnation number given out
   epoch   |-> 0,
   officer |-> 0,                               \* the term of the leader that took office for that epoch
   last    |-> [s \in Sessions |-> 0],          \* newest command of each session, or Expired
   times   |-> [c \in Commands |-> 0]]          \* how often each took effect; for the properties only

MembersAfter(st, batch) ==
  [h \in Hosts |-> IF h \in batch.join THEN st.issued + 1
                   ELSE IF h \in batch.leave THEN 0
                   ELSE st.members[h]]

TakeEffect(st, c) ==
  LET members == MembersAfter(st, BatchOf(c)) IN
  [st EXCEPT !.members = members,
             !.version = IF members = st.members THEN @ ELSE @ + 1,
             !.issued  = IF BatchOf(c).join = {} THEN @ ELSE @ + 1,
             !.last[SessionOf(c)] = SeqOf(c),
             !.times[c] = @ + 1]

ApplyCommand(st, e) ==
  IF e.epoch # st.epoch THEN st                                 \* submitted under a leader that is gone
  ELSE IF st.last[SessionOf(e.what)] = Expired THEN st          \* nobody can tell any more whether it was applied
  ELSE IF SeqOf(e.what) <= st.last[SessionOf(e.what)] THEN st   \* repeated, or overtaken
  ELSE TakeEffect(st, e.what)

ApplyExpiry(st, e) ==
  IF e.epoch # st.epoch THEN st ELSE [st EXCEPT !.last[e.what] = Expired]

ApplyEntry(st, e) ==
  LET next == [st EXCEPT !.idx = @ + 1] IN
  CASE e.kind = "epoch"   -> [next EXCEPT !.epoch = @ + 1, !.officer = e.term]
    [] e.kind = "command" -> ApplyCommand(next, e)
    [] e.kind = "expire"  -> ApplyExpiry(next, e)
    [] e.kind = "barrier" -> next

(* What clients see of a state. *)
TableOf(st) ==
  [gen     |-> st.gen,
   version |-> st.version,
   members |-> st.members,
   issued  |-> st.issued,
   applied |-> {c \in Commands : st.times[c] > 0},
   expired |-> {s \in Sessions : st.last[s] = Expired}]

-----------------------------------------------------------------------------
(* Entries and messages. All entries have the same fields. *)

Entry(t, kind, what, epoch) == [term |-> t, kind |-> kind, what |-> what, epoch |-> epoch]

TermAt(l, i) == IF i = 0 THEN 0 ELSE l[i].term

LastTerm(l) == TermAt(l, Len(l))

Candidacy(t, r, l) == [term |-> t, from |-> r, idx |-> Len(l), lastTerm |-> LastTerm(l)]
Vote(t, r, c) == [term |-> t, from |-> r, to |-> c]
AppendMessage(t, r, l, i) == [term |-> t, from |-> r, idx |-> i, prevTerm |-> TermAt(l, i - 1), entry |-> l[i]]
Confirmation(t, r, i) == [term |-> t, from |-> r, idx |-> i]
CommitMessage(t, i, e) == [term |-> t, idx |-> i, entryTerm |-> e.term]
Submission(kind, what, epoch) == [kind |-> kind, what |-> what, epoch |-> epoch]
ReadAnswerMessage(d, st) == [what |-> d, idx |-> st.idx, table |-> TableOf(st)]

(* Whether a log has the entry of a message at its place. *)
Has(l, m) == Len(l) >= m.idx /\ TermAt(l, m.idx) = m.entry.term

(***************************************************************************)
(* What replica r may confirm in term t when d is its synced log: the      *)
(* entries that the leader of that term has sent and that r holds. Raft    *)
(* guarantees that all earlier entries then agree as well.                 *)
(***************************************************************************)
Confirmations(r, t, d) ==
  {Confirmation(t, r, m.idx) : m \in {x \in appends : x.term = t /\ x.from # r /\ Has(d, x)}}

-----------------------------------------------------------------------------

Init ==
  /\ term = [r \in Replicas |-> 0]
  /\ vote = [r \in Replicas |-> Nobody]
  /\ meta = [r \in Replicas |-> [term |-> 0, vote |-> Nobody]]
  /\ log = [r \in Replicas |-> <<>>]
  /\ synced = [r \in Replicas |-> <<>>]
  /\ role = [r \in Replicas |-> "follower"]
  /\ state = [r \in Replicas |-> FirstState]
  /\ candidacies = {}
  /\ votes = {}
  /\ appends = {}
  /\ confirmed = {}
  /\ commits = {}
  /\ requests = {}
  /\ successes = {}
  /\ submissions = {}
  /\ readRequests = {}
  /\ readAnswers = {}
  /\ base = FirstState
  /\ backup = NoBackup
  /\ reported = 1
  /\ committed = <<>>
  /\ floor = [d \in Reads |-> NoFloor]
  /\ past = {}

(***************************************************************************)
(* Elections. A term and a vote are synced before anything is sent that    *)
(* rests on them.                                                          *)
(***************************************************************************)
\* @actor: replica r
Timeout(r) ==
  /\ role[r] # "leader"
  /\ term' = [term EXCEPT ![r] = @ + 1]
  /\ vote' = [vote EXCEPT ![r] = r]
  /\ meta' = [meta EXCEPT ![r] = [term |-> term[r] + 1, vote |-> r]]
  /\ role' = [role EXCEPT ![r] = "candidate"]
  /\ candidacies' = candidacies \cup {Candidacy(term[r] + 1, r, log[r])}
  /\ votes' = votes \cup {Vote(term[r] + 1, r, r)}
  /\ UNCHANGED <<log, synced, state, entryVars, clientVars, operatorVars, committed, floor>>

UpToDate(m, l) ==
  \/ m.lastTerm > LastTerm(l)
  \/ (m.lastTerm = LastTerm(l) /\ m.idx >= Len(l))

\* @actor: replica r
GrantVote(r, c) ==
  \E m \in candidacies :
    /\ m.from = c
    /\ \/ m.term > term[r]
       \/ (m.term = term[r] /\ vote[r] = Nobody)
    /\ UpToDate(m, log[r])
    /\ term' = [term EXCEPT ![r] = m.term]
    /\ vote' = [vote EXCEPT ![r] = c]
    /\ meta' = [meta EXCEPT ![r] = [term |-> m.term, vote |-> c]]
    /\ role' = [role EXCEPT ![r] = "follower"]
    /\ votes' = votes \cup {Vote(m.term, r, c)}
    /\ UNCHANGED <<log, synced, state, candidacies, entryVars, clientVars, operatorVars, committed, floor>>

\* @actor: replica r
RefuseVote(r, c) ==
  \E m \in candidacies :
    /\ m.from = c
    /\ m.term > term[r]
    /\ AsTheEngine \/ ~UpToDate(m, log[r])
    /\ term' = [term EXCEPT ![r] = m.term]
    /\ vote' = [vote EXCEPT ![r] = Nobody]
    /\ meta' = [meta EXCEPT ![r] = [term |-> m.term, vote |-> Nobody]]
    /\ role' = [role EXCEPT ![r] = "follower"]
    /\ UNCHANGED <<log, synced, state, electionVars, entryVars, clientVars, operatorVars, committed, floor>>

VotersFor(r) == {s \in Replicas : Vote(term[r], s, r) \in votes}

(***************************************************************************)
(* A new leader sends all its entries under its own term, and an epoch     *)
(* entry on top of them.                                                   *)
(***************************************************************************)
\* @actor: replica r
BecomeLeader(r) ==
  /\ role[r] = "candidate"
  /\ Quorum(VotersFor(r))
  /\ role' = [role EXCEPT ![r] = "leader"]
  /\ LET l == Append(log[r], Entry(term[r], "epoch", "", 0)) IN
       /\ log' = [log EXCEPT ![r] = l]
       /\ appends' = appends \cup {AppendMessage(term[r], r, l, i) : i \in 1..Len(l)}
  /\ UNCHANGED <<votingVars, synced, state, electionVars, confirmed, commits, clientVars, operatorVars,
                 committed, floor>>

(***************************************************************************)
(* Replication. An entry that is there already is left alone, and so are   *)
(* the entries behind it: a message that comes late must not cut the log.  *)
(* Nothing is done with a message that brings no news.                     *)
(***************************************************************************)
WithEntry(l, m) ==
  IF Has(l, m) THEN l ELSE Append(SubSeq(l, 1, m.idx - 1), m.entry)

BringsNews(r, m) ==
  \/ m.term > term[r]
  \/ role[r] = "candidate"
  \/ ~Has(log[r], m)
  \/ (Has(synced[r], m) /\ Confirmation(m.term, r, m.idx) \notin confirmed)

\* @actor: replica r
RecvAppend(r, i) ==
  \E m \in appends :
    /\ m.idx = i
    /\ m.from # r
    /\ m.term >= term[r]
    /\ i - 1 <= Len(log[r])
    /\ TermAt(log[r], i - 1) = m.prevTerm
    /\ BringsNews(r, m)
    /\ LET voted == IF m.term > term[r] THEN Nobody ELSE vote[r] IN
         /\ term' = [term EXCEPT ![r] = m.term]
         /\ vote' = [vote EXCEPT ![r] = voted]
         /\ meta' = [meta EXCEPT ![r] = [term |-> m.term, vote |-> voted]]
    /\ role' = [role EXCEPT ![r] = "follower"]
    /\ log' = [log EXCEPT ![r] = WithEntry(log[r], m)]
    /\ confirmed' = confirmed \cup Confirmations(r, m.term, synced[r])
    /\ UNCHANGED <<synced, state, electionVars, appends, commits, clientVars, operatorVars, committed, floor>>

\* @actor: replica r
Sync(r) ==
  /\ synced[r] # log[r]
  /\ synced' = [synced EXCEPT ![r] = log[r]]
  /\ confirmed' = confirmed \cup Confirmations(r, term[r], log[r])
  /\ UNCHANGED <<votingVars, log, role, state, electionVars, appends, commits, clientVars, operatorVars,
                 committed, floor>>

(***************************************************************************)
(* An entry is committed when a majority has it synced and an entry of the *)
(* leader's own term with it: entries of earlier terms are never committed *)
(* by counting alone.                                                      *)
(***************************************************************************)
Holders(r, k) ==
  {s \in Replicas :
     IF s = r
     THEN Len(synced[r]) >= k /\ TermAt(synced[r], k) = log[r][k].term
     ELSE \E m \in confirmed : m.from = s /\ m.term = term[r] /\ m.idx >= k}

LeaderKnowsCommitted(r, n) ==
  /\ role[r] = "leader"
  /\ \E k \in n..Len(log[r]) :
       /\ log[r][k].term = term[r]
       /\ Quorum(Holders(r, k))

FollowerKnowsCommitted(r, n) ==
  /\ AsTheEngine \/ role[r] # "leader"
  /\ \E m \in commits :
       /\ m.term = term[r] \/ (AsTheEngine /\ m.term < term[r])
       /\ m.idx >= n
       /\ m.idx <= Len(log[r])
       /\ TermAt(log[r], m.idx) = m.entryTerm

\* @actor: replica r
Apply(r) ==
  LET n    == state[r].idx + 1
      next == ApplyEntry(state[r], log[r][n])
  IN /\ n <= Len(log[r])
     /\ LeaderKnowsCommitted(r, n) \/ FollowerKnowsCommitted(r, n)
     /\ state' = [state EXCEPT ![r] = next]
     /\ commits' = IF role[r] = "leader" THEN commits \cup {CommitMessage(term[r], n, log[r][n])} ELSE commits
     /\ committed' = IF n > Len(committed) THEN Append(committed, [entry |-> log[r][n], state |-> next]) ELSE committed
     /\ UNCHANGED <<votingVars, log, synced, role, electionVars, appends, confirmed, clientVars, operatorVars,
                    floor>>

-----------------------------------------------------------------------------
(* Clients, and the service above the engine. *)

\* @actor: client
Call(c) ==
  /\ c \notin requests
  /\ \A d \in Commands : (SessionOf(d) = SessionOf(c) /\ SeqOf(d) < SeqOf(c)) => d \in requests
  /\ requests' = requests \cup {c}
  /\ UNCHANGED <<replicaVars, electionVars, entryVars, successes, submissions, readRequests, readAnswers,
                 operatorVars, committed, floor>>

InOffice(r) ==
  /\ role[r] = "leader"
  /\ state[r].officer = term[r]

Submits(sub) ==
  /\ sub \notin submissions
  /\ submissions' = submissions \cup {sub}
  /\ UNCHANGED <<replicaVars, electionVars, entryVars, requests, successes, readRequests, readAnswers,
                 operatorVars, committed, floor>>

\* @actor: replica r
Submit(r, c) ==
  /\ InOffice(r)
  /\ c \in requests
  /\ Submits(Submission("command", c, state[r].epoch))

\* @actor: replica r
SubmitExpiry(r, s) ==
  /\ InOffice(r)
  /\ Submits(Submission("expire", s, state[r].epoch))

(***************************************************************************)
(* The engine's leader appends what was submitted, whoever submitted it,   *)
(* and possibly twice, and sends the new entry.                            *)
(***************************************************************************)
LeaderAppends(r, e) ==
  /\ role[r] = "leader"
  /\ LET l == Append(log[r], e) IN
       /\ log' = [log EXCEPT ![r] = l]
       /\ appends' = appends \cup {AppendMessage(term[r], r, l, Len(l))}
  /\ UNCHANGED <<votingVars, synced, role, state, electionVars, confirmed, commits, clientVars, operatorVars,
                 committed, floor>>

\* @actor: replica r
AppendSubmitted(r, kind, what, epoch) ==
  /\ Submission(kind, what, epoch) \in submissions
  /\ LeaderAppends(r, Entry(term[r], kind, what, epoch))

(***************************************************************************)
(* Success is told by a replica that has applied the command. When a later *)
(* command of the session has overtaken it, nothing is known any more.     *)
(***************************************************************************)
\* @actor: replica r
Answer(r, c) ==
  /\ state[r].last[SessionOf(c)] = SeqOf(c)
  /\ c \notin successes
  /\ successes' = successes \cup {c}
  /\ UNCHANGED <<replicaVars, electionVars, entryVars, requests, submissions, readRequests, readAnswers,
                 operatorVars, committed, floor>>

\* @actor: client
ReadCall(d) ==
  /\ d \notin readRequests
  /\ readRequests' = readRequests \cup {d}
  /\ floor' = [floor EXCEPT ![d] = [idx |-> Len(committed), acked |-> successes]]
  /\ UNCHANGED <<replicaVars, electionVars, entryVars, requests, successes, submissions, readAnswers,
                 operatorVars, committed>>

(***************************************************************************)
(* A read waits for a barrier that was appended after the read arrived.    *)
(* Whoever has applied the barrier may answer; of several answers the      *)
(* client takes the first.                                                 *)
(***************************************************************************)
\* @actor: replica r
AppendBarrier(r, d) ==
  /\ d \in readRequests
  /\ LeaderAppends(r, Entry(term[r], "barrier", d, 0))

BarrierPassed(r, d) ==
  \E i \in 1..state[r].idx :
    /\ log[r][i].kind = "barrier"
    /\ log[r][i].what = d

\* @actor: replica r
ReadAnswer(r, d) ==
  /\ BarrierPassed(r, d)
  /\ \A m \in readAnswers : m.what # d
  /\ readAnswers' = readAnswers \cup {ReadAnswerMessage(d, state[r])}
  /\ UNCHANGED <<replicaVars, electionVars, entryVars, requests, successes, submissions, readRequests,
                 operatorVars, committed, floor>>

-----------------------------------------------------------------------------
(* Faults, and the operator. *)

\* @actor: environment
Kill(r) ==
  /\ role[r] # "follower" \/ state[r] # base
  /\ role' = [role EXCEPT ![r] = "follower"]
  /\ state' = [state EXCEPT ![r] = base]
  /\ UNCHANGED <<votingVars, log, synced, electionVars, entryVars, clientVars, operatorVars, committed, floor>>

(***************************************************************************)
(* Without anything unsynced, a loss of power is no more than a kill.      *)
(***************************************************************************)
\* @actor: environment
LosePower(r) ==
  /\ log[r] # synced[r] \/ meta[r] # [term |-> term[r], vote |-> vote[r]]
  /\ role' = [role EXCEPT ![r] = "follower"]
  /\ state' = [state EXCEPT ![r] = base]
  /\ term' = [term EXCEPT ![r] = meta[r].term]
  /\ vote' = [vote EXCEPT ![r] = meta[r].vote]
  /\ log' = [log EXCEPT ![r] = synced[r]]
  /\ UNCHANGED <<meta, synced, electionVars, entryVars, clientVars, operatorVars, committed, floor>>

\* @actor: environment
TakeBackup(r) ==
  /\ backup # state[r]
  /\ backup' = state[r]
  /\ UNCHANGED <<replicaVars, electionVars, entryVars, clientVars, base, reported, past, committed, floor>>

(* The state after n committed entries. *)
CommittedState(n) == IF n = 0 THEN base ELSE committed[n].state

Newest == CommittedState(Len(committed))

TablesSinceRestore == {TableOf(CommittedState(n)) : n \in 0..Len(committed)}

(***************************************************************************)
(* All replicas are stopped and start again from the backup with empty     *)
(* logs. The generation rises above what the backup, the hosts and the     *)
(* operator know. Requests of clients are repeated; nothing else of the    *)
(* old cluster arrives at the new one, which has another identity.         *)
(***************************************************************************)
\* @actor: environment
Restore ==
  LET known == IF reported > backup.gen THEN reported ELSE backup.gen
      start == [backup EXCEPT !.idx = 0, !.gen = known + 1, !.officer = 0]
  IN /\ backup # NoBackup
     /\ term' = [r \in Replicas |-> 0]
     /\ vote' = [r \in Replicas |-> Nobody]
     /\ meta' = [r \in Replicas |-> [term |-> 0, vote |-> Nobody]]
     /\ log' = [r \in Replicas |-> <<>>]
     /\ synced' = [r \in Replicas |-> <<>>]
     /\ role' = [r \in Replicas |-> "follower"]
     /\ state' = [r \in Replicas |-> start]
     /\ base' = start
     /\ candidacies' = {}
     /\ votes' = {}
     /\ appends' = {}
     /\ confirmed' = {}
     /\ commits' = {}
     /\ successes' = {}
     /\ submissions' = {}
     /\ readRequests' = {}
     /\ readAnswers' = {}
     /\ reported' = start.gen
     /\ committed' = <<>>
     /\ floor' = [d \in Reads |-> NoFloor]
     /\ past' = past \cup TablesSinceRestore
     /\ UNCHANGED <<requests, backup>>

Next ==
  \/ \E r \in Replicas : Timeout(r) \/ BecomeLeader(r) \/ Sync(r) \/ Apply(r)
  \/ \E r \in Replicas : Kill(r) \/ LosePower(r) \/ TakeBackup(r)
  \/ \E r, c \in Replicas : GrantVote(r, c) \/ RefuseVote(r, c)
  \/ \E r \in Replicas, i \in Indices : RecvAppend(r, i)
  \/ \E c \in Commands : Call(c)
  \/ \E r \in Replicas, c \in Commands : Submit(r, c) \/ Answer(r, c)
  \/ \E r \in Replicas, s \in Sessions : SubmitExpiry(r, s)
  \/ \E r \in Replicas, e \in Epochs, c \in Commands : AppendSubmitted(r, "command", c, e)
  \/ \E r \in Replicas, e \in Epochs, s \in Sessions : AppendSubmitted(r, "expire", s, e)
  \/ \E d \in Reads : ReadCall(d)
  \/ \E r \in Replicas, d \in Reads : AppendBarrier(r, d) \/ ReadAnswer(r, d)
  \/ Restore

Spec == Init /\ [][Next]_vars

(***************************************************************************)
(* Fairness, for progress under a leader that stays in office: each replica*)
(* goes on receiving, syncing and applying, and the service submits and    *)
(* answers. Nothing is assumed of elections, clients and faults. Weak      *)
(* fairness is enough because what was sent stays there to be received.    *)
(***************************************************************************)
Fairness ==
  /\ \A r \in Replicas : WF_vars(Sync(r)) /\ WF_vars(Apply(r))
  /\ \A r \in Replicas, i \in Indices : WF_vars(RecvAppend(r, i))
  /\ \A r \in Replicas, c \in Commands : WF_vars(Submit(r, c)) /\ WF_vars(Answer(r, c))
  /\ \A r \in Replicas, e \in Epochs, c \in Commands : WF_vars(AppendSubmitted(r, "command", c, e))
  /\ \A r \in Replicas, d \in Reads : WF_vars(AppendBarrier(r, d)) /\ WF_vars(ReadAnswer(r, d))

FairSpec == Spec /\ Fairness

-----------------------------------------------------------------------------
(* Properties. *)

TypeOK ==
  \A r \in Replicas :
    /\ term[r] \in Nat
    /\ vote[r] \in Replicas \cup {Nobody}
    /\ role[r] \in {"follower", "candidate", "leader"}
    /\ state[r].idx <= Len(log[r])
    /\ meta[r].term <= term[r]

OneLeaderInTerm ==
  \A r, s \in Replicas : (role[r] = "leader" /\ role[s] = "leader" /\ term[r] = term[s]) => r = s

(* An index and a term name one entry. *)
LogMatching ==
  \A r, s \in Replicas : \A i \in 1..Len(log[r]) :
    (i <= Len(log[s]) /\ TermAt(log[s], i) = log[r][i].term) => (log[s][i] = log[r][i])

(***************************************************************************)
(* Success is told only of what was called and has taken effect; a read    *)
(* answers with a table that was the newest at some instant since it was   *)
(* called, with all changes that were acknowledged before.                 *)
(***************************************************************************)
LinearizableMembership ==
  /\ \A c \in successes : c \in requests /\ Newest.times[c] > 0
  /\ \A m \in readAnswers :
       /\ m.idx \in floor[m.what].idx..Len(committed)
       /\ m.table = TableOf(CommittedState(m.idx))
       /\ floor[m.what].acked \subseteq m.table.applied

(***************************************************************************)
(* If all replicas lost power now, then whichever majority came back, any  *)
(* replica that it can elect has every acknowledged change.                *)
(***************************************************************************)
PositionOf(c) == CHOOSE n \in 0..Len(committed) :
  /\ CommittedState(n).times[c] > 0
  /\ (n > 0) => (CommittedState(n - 1).times[c] = 0)

Holds(l, n) == Len(l) >= n /\ (\A i \in 1..n : l[i] = committed[i].entry)

Electable(r, S) == \A s \in S :
  \/ LastTerm(synced[r]) > LastTerm(synced[s])
  \/ (LastTerm(synced[r]) = LastTerm(synced[s]) /\ Len(synced[r]) >= Len(synced[s]))

SurvivesPowerLoss(n) ==
  \A S \in SUBSET Replicas : Quorum(S) =>
    (\A r \in S : Electable(r, S) => Holds(synced[r], n))

DurableMembership ==
  \A c \in successes :
    /\ Newest.times[c] > 0
    /\ SurvivesPowerLoss(PositionOf(c))

(* The same for everything that any replica has applied, acknowledged or not. *)
CommittedSurvives == (committed # <<>>) => SurvivesPowerLoss(Len(committed))

(* Replicas that have applied the same index are in the same state. *)
ReplicaAgreement ==
  \A r \in Replicas :
    /\ state[r].idx <= Len(committed)
    /\ state[r] = CommittedState(state[r].idx)

(* The version rises by one exactly when the members change, and no version stands for two tables. *)
GenerationExact ==
  /\ \A n \in 1..Len(committed) :
       LET old == CommittedState(n - 1)
           new == CommittedState(n)
       IN new.version = (IF new.members = old.members THEN old.version ELSE old.version + 1)
  /\ \A t \in past : \A n \in 0..Len(committed) :
       LET st == CommittedState(n)
       IN (t.gen = st.gen /\ t.version = st.version) => (t.members = st.members)

(* However often a command was submitted, appended and repeated: it took effect at most once. *)
ApplyOnce == \A c \in Commands : Newest.times[c] <= 1

(* A command takes effect only in the epoch of the leader that submitted it. *)
EpochFenced ==
  \A n \in 1..Len(committed) :
    (CommittedState(n).times # CommittedState(n - 1).times) =>
      (committed[n].entry.epoch = CommittedState(n - 1).epoch)

(***************************************************************************)
(* While a leader stays in office and crashes have ended, every command    *)
(* and read that is open gets its answer. A leader alone is not enough:    *)
(* the others could lose power again and again before they sync.           *)
(***************************************************************************)
Served == \A c \in Commands : (c \in requests) => (c \in successes)
ReadsServed == \A d \in readRequests : \E m \in readAnswers : m.what = d
CrashesEnd == <>[][\A r \in Replicas : ~Kill(r) /\ ~LosePower(r)]_vars
Progress == (CrashesEnd /\ <>[](\E r \in Replicas : InOffice(r))) => []<>(Served /\ ReadsServed)

-----------------------------------------------------------------------------
(* The refinement: an entry takes effect when the first replica applies it. *)

Answers(d) == {m \in readAnswers : m.what = d}
NoAnswer == [gen |-> 0]

OpenReads == {d \in readRequests : Answers(d) = {}}

Abstract == INSTANCE Membership WITH
  called <- requests,
  acked  <- successes,
  table  <- TableOf(Newest),
  past   <- past \cup TablesSinceRestore,
  open   <- OpenReads,
  may    <- [d \in Reads |-> IF d \in OpenReads
                             THEN {TableOf(CommittedState(n)) : n \in floor[d].idx..Len(committed)}
                             ELSE {}],
  after  <- [d \in Reads |-> floor[d].acked],
  got    <- [d \in Reads |-> IF Answers(d) = {} THEN NoAnswer ELSE (CHOOSE m \in Answers(d) : TRUE).table]

RefinesMembership == Abstract!Spec
=============================================================================
