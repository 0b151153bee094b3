-------------------------- MODULE MCRaftMembership --------------------------
(***************************************************************************)
(* Bounds for RaftMembership, as guards: nothing is cut off by constraints.*)
(* Crashes need no bound. They bring no new values, so their number does   *)
(* not make the model infinite.                                            *)
(***************************************************************************)
EXTENDS RaftMembership, TLC

CONSTANTS
  MaxTerm,      \* highest term that a replica may start
  MaxLog,       \* longest log that a leader may extend beyond its epoch entry
  MaxCopies,    \* how often one submitted command may stand in one log
  MaxGen,       \* highest generation that a restore may start
  MayExpire,    \* sessions that leaders may expire
  Faults,       \* "kill" and "power": which crashes there are
  First, Second \* who may stand in odd and in even terms; Nobody: anybody

MCEngine == TRUE

Raft == INSTANCE RaftMembership

Symmetry == Permutations(Replicas)

\* Session "a" joins h1 and then removes it; session "b" replaces h1, member or not, by h2.
MCSessionOf(c) == IF c \in {"a1", "a2"} THEN "a" ELSE "b"
MCSeqOf(c) == IF c = "a2" THEN 2 ELSE 1
MCBatchOf(c) ==
  CASE c = "a1" -> [join |-> {"h1"}, leave |-> {}]
    [] c = "a2" -> [join |-> {}, leave |-> {"h1"}]
    [] c = "b1" -> [join |-> {"h2"}, leave |-> {"h1"}]

MCIndices == 1..(MaxLog + MaxTerm)
MCEpochs == 1..MaxTerm
MCGenerations == 1..MaxGen

Copies(r, e) == Cardinality({i \in DOMAIN log[r] : log[r][i].kind = e.kind /\ log[r][i].what = e.what
                                                     /\ log[r][i].epoch = e.epoch})

MayStand(r, t) == IF t % 2 = 1 THEN First \in {Nobody, r} ELSE Second \in {Nobody, r}

MCTimeout(r) == term[r] < MaxTerm /\ MayStand(r, term[r] + 1) /\ Raft!Timeout(r)

MCSubmitExpiry(r, s) == s \in MayExpire /\ Raft!SubmitExpiry(r, s)

MCAppendSubmitted(r, kind, what, epoch) ==
  /\ Len(log[r]) < MaxLog
  /\ Copies(r, Entry(0, kind, what, epoch)) < MaxCopies
  /\ Raft!AppendSubmitted(r, kind, what, epoch)

MCAppendBarrier(r, d) ==
  /\ Len(log[r]) < MaxLog
  /\ Copies(r, Entry(0, "barrier", d, 0)) = 0
  /\ Raft!AppendBarrier(r, d)

MCKill(r) == "kill" \in Faults /\ Raft!Kill(r)

MCLosePower(r) == "power" \in Faults /\ Raft!LosePower(r)

MCTakeBackup(r) == MaxGen > 1 /\ Raft!TakeBackup(r)

MCRestore == reported < MaxGen /\ Raft!Restore

-----------------------------------------------------------------------------
(* Situations that must be reachable: each of these invariants must fail. *)

Took(n) == CommittedState(n).times # CommittedState(n - 1).times
Without(n, kind) == committed[n].entry.kind = kind /\ ~Took(n)

\* A command submitted under an older epoch was committed and refused.
NeverStaleEpochRefused == \A n \in 1..Len(committed) :
  ~(Without(n, "command") /\ committed[n].entry.epoch < CommittedState(n - 1).epoch)

\* A command that had taken effect was committed again and refused.
NeverRepeated == \A n \in 1..Len(committed) :
  ~(Without(n, "command") /\ CommittedState(n - 1).times[committed[n].entry.what] = 1)

\* A command of an expired session was committed and refused.
NeverExpired == \A n \in 1..Len(committed) :
  ~(Without(n, "command") /\ CommittedState(n - 1).last[SessionOf(committed[n].entry.what)] = Expired
     /\ committed[n].entry.epoch = CommittedState(n - 1).epoch)

\* A command overtaken by a later one of its session was committed and refused.
NeverOvertaken == \A n \in 1..Len(committed) :
  ~(Without(n, "command") /\ CommittedState(n - 1).times[committed[n].entry.what] = 0
     /\ CommittedState(n - 1).last[SessionOf(committed[n].entry.what)] > SeqOf(committed[n].entry.what))

\* A command that one leader appended was acknowledged by the next one, in office.
NeverFinishedByNextLeader == \A r \in Replicas :
  ~(InOffice(r) /\ \E i \in 1..state[r].idx :
      log[r][i].kind = "command" /\ log[r][i].term < term[r] /\ log[r][i].what \in successes)

\* A replica's synced log contradicts what is committed, and has to be cut.
NeverContradicts == \A r \in Replicas, n \in 1..Len(committed) :
  ~(Len(synced[r]) >= n /\ synced[r][n] # committed[n].entry)

\* Two replicas lead at the same time, in different terms, the older one in office.
NeverTwoLeaders == \A r, s \in Replicas :
  ~(InOffice(r) /\ role[s] = "leader" /\ term[s] > term[r])

\* A read was answered after a change of leader since its call.
NeverReadAcrossLeaders == \A m \in readAnswers :
  CommittedState(m.idx).epoch <= CommittedState(floor[m.what].idx).epoch

\* A restored cluster changed a table in its own way.
NeverForked == \A t \in past : Newest.gen > t.gen => (t.version # Newest.version \/ t.members = Newest.members)

\* Power was lost under a leader in office, and what it had not synced was committed all the same.
NeverCommittedUnsynced == \A r \in Replicas, n \in 1..Len(committed) :
  ~(committed[n].entry.kind = "command" /\ Len(synced[r]) < n /\ committed[n].entry.term = term[r]
     /\ vote[r] = r /\ role[r] = "follower" /\ Len(log[r]) < n)
=============================================================================
