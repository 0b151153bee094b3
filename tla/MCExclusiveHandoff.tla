------------------------- MODULE MCExclusiveHandoff -------------------------
(* Bounds for exhaustive checking: guards on the actions that could go on    *)
(* for ever (MCNext is Next with these), and a view that forgets what can no *)
(* longer matter.                                                            *)
EXTENDS ExclusiveHandoff, TLC

CONSTANTS MaxVersion,   \* batches stop here; the first grant is of version 1
          MaxEpoch,
          MaxFence,     \* bounds the lapses of a lease that are asked to be made good
          MaxWrites,    \* effects on their way to the store at the same time; 0: no turns at all
          MaxCrashes,
          MaxLosses,
          HearOffices,  \* whether hosts hear of a new leader otherwise than by its grants
          Leaves,       \* whether processes leave on their own account
          Lapses        \* whether leases also run out and start again where that only takes rights away

\* With one slot, and where an epoch is heard only by its grants, a higher fence never comes from a
\* lower epoch: no grant is ever refused for its epoch.
EpochsMatter == HearOffices \/ Cardinality(Slots) > 1

MCUpsert(i) == version < MaxVersion /\ Upsert(i)
MCRemove(i) == version < MaxVersion /\ Remove(i)
MCRebalance == version < MaxVersion /\ Rebalance
\* Where epochs do not matter to hosts (see EpochsMatter below), the view leaves them out, and leaders
\* may change without bound.
MCTakeOffice == (epoch < MaxEpoch \/ (~EpochsMatter /\ waited # {})) /\ TakeOffice
MCRaiseFence(s) == fence[s] < MaxFence /\ RaiseFence(s)
MCAdmit(i, s) == MaxWrites > 0 /\ Admit(i, s)
MCEffect(i, s) == Cardinality(writes) < MaxWrites /\ Effect(i, s)
MCHearOffice(i) == HearOffices /\ HearOffice(i)
MCLeave(i) == Leaves /\ Leave(i)
\* A lease that runs out while nothing is held only delays the next grant; that of a member whose right
\* would not be renewed, or of a removed incarnation that starts again, only takes rights away.
MCLeaseRunsOut(i) ==
    /\ \/ i \in tombs
       \/ \E s \in Slots : (right[i][s].live /\ (Lapses \/ fence[s] < MaxFence))
    /\ LeaseRunsOut(i)
MCLeaseStarts(i) == (Lapses \/ i \in members) /\ LeaseStarts(i)
MCCrash(i) ==
    /\ Cardinality({j \in Incarnations : process[j] = "crashed"}) < MaxCrashes
    /\ Crash(i)
\* Lost messages are not counted: only one at a time may be missing from what was ever sent.
MCLose == MaxLosses > 0 /\ Lose

\* Which of the first members owns the slots makes no difference (two names, alike).
MCInit == Init /\ \E s \in Slots : owner[s] = 1

MCNext ==
    \/ \E i \in Incarnations :
           \/ MCUpsert(i) \/ MCRemove(i) \/ Bury(i)
           \/ Start(i) \/ Install(i) \/ LearnGone(i) \/ MCLeave(i) \/ MCHearOffice(i)
           \/ RepeatReports(i) \/ SayFarewell(i)
           \/ MCLeaseRunsOut(i) \/ MCLeaseStarts(i) \/ WaitRunsOut(i) \/ MCCrash(i)
    \/ \E s \in Slots :
           \/ ProposeConfirm(s) \/ ApplyConfirm(s) \/ MCRaiseFence(s)
           \/ StoreAccepts(s) \/ StoreRefuses(s)
    \/ \E i \in Incarnations, s \in Slots :
           \/ LetGo(i, s) \/ Accept(i, s) \/ MCAdmit(i, s) \/ MCEffect(i, s) \/ EndTurn(i, s)
    \/ MCRebalance \/ RepeatTable \/ RepeatGrants \/ MCTakeOffice \/ MCLose

MCSpec == MCInit /\ [][MCNext]_vars

\* Names: incarnations 1, 3, 5 are lives of one host, 2 and 4 of another.
MCHostOf == [i \in Incarnations |-> IF i % 2 = 1 THEN "a" ELSE "b"]

-----------------------------------------------------------------------------
\* It can never again hold a right: its process has ended, or its last possible lease.
Spent(i) == \/ process[i] \in {"stopped", "crashed"}
            \/ (i \in over /\ i \notin members)

-----------------------------------------------------------------------------
(* The view.  It forgets what cannot make a difference any more:             *)
(* - a table that nobody can still install;                                  *)
(* - a grant that its addressee can never accept (it is spent, its table has *)
(*   passed the grant's since, the fence is used, the epoch is old);         *)
(* - a release below the slot's since, or from somebody not pending: since   *)
(*   only rises, and joins pending only together with a higher since;        *)
(* - a request whose since or fence is not the slot's: both only rise;       *)
(* - the last word of somebody buried;                                       *)
(* - a right that ended and is older than the table, except for the highest  *)
(*   fence ever used;                                                        *)
(* - whose the slots were in an installed table (since tells the grants      *)
(*   apart), and everything about an incarnation that is spent;              *)
(* - epochs, where they do not matter.                                       *)
Useful(m) ==
    CASE m.kind = "table" ->
             \E i \in Incarnations :
                 /\ ~Spent(i)
                 /\ \/ (process[i] = "unborn" /\ i \in m.members)
                    \/ (process[i] = "running" /\ m.version > table[i].version)
      [] m.kind = "grant" ->
             /\ process[m.to] \in {"unborn", "running"}
             /\ ~Spent(m.to)
             /\ table[m.to].since[m.slot] <= m.since
             /\ right[m.to][m.slot].fence < m.fence
             /\ (EpochsMatter => heard[m.to] <= m.epoch)
      [] m.kind = "released" -> (m.upto >= since[m.slot] /\ m.from \in pending[m.slot])
      [] m.kind = "request" -> (m.since = since[m.slot] /\ m.last = fence[m.slot])
      [] m.kind = "farewell" -> m.from \in tombs \cup members
      [] OTHER -> FALSE

MessageView(m) == IF m.kind = "grant" /\ ~EpochsMatter THEN [m EXCEPT !.epoch = 0] ELSE m

RightView(i) ==
    [s \in Slots |-> IF right[i][s].live \/ right[i][s].since = table[i].since[s] THEN right[i][s] ELSE NoRight]

UsedFence(s) == CHOOSE f \in 0..fence[s] :
                    /\ \E i \in Incarnations : f = right[i][s].fence
                    /\ \A i \in Incarnations : f >= right[i][s].fence

View == <<version, members, issued, tombs, owner, since, pending, fence,
          {c \in proposed : (c.since = since[c.slot] /\ pending[c.slot] # {})},
          IF EpochsMatter THEN epoch ELSE 0, waited,
          [i \in Incarnations |->
              IF Spent(i) THEN <<>>
              ELSE <<process[i], table[i].version, table[i].since, RightView(i), turn[i], lease[i],
                     IF EpochsMatter THEN heard[i] ELSE 0>>],
          [s \in Slots |-> UsedFence(s)],
          over \cap tombs, {MessageView(m) : m \in {x \in msgs : Useful(x)}}, writes, stored>>

-----------------------------------------------------------------------------
(* Situations that must be reachable: each is denied, and must be violated.  *)

Zombie(i) == i \in issued \ members /\ process[i] = "running"

\* A slot is served after its earlier owner ran out of its lease and was buried without a word.
NeverServedAfterLeaseRanOut ==
    ~\E i, j \in Incarnations, s \in Slots :
        /\ Holds(i, s)
        /\ right[j][s].live /\ ~lease[j] /\ right[j][s].fence < right[i][s].fence
\* Version, owner and since from one leader, the grant from the next.
NeverHandedOverAcrossLeaders ==
    ~\E i \in Incarnations, s \in Slots :
        /\ Holds(i, s) /\ heard[i] = 2
        /\ \E j \in Incarnations \ {i} : (right[j][s].fence # 0 /\ right[j][s].fence < right[i][s].fence)
        /\ \A m \in Messages("grant") : ((m.to = i /\ m.since = right[i][s].since) => m.epoch = 2)
\* Somebody who served under version 1 goes straight to version 3, lets go, and says so.
NeverReleasedAfterSkipping ==
    ~\E i \in Incarnations, s \in Slots :
        /\ i \in pending[s] /\ since[s] = 3 /\ Cardinality(pending[s]) = 2
        /\ right[i][s].fence = 1
        /\ Released(i, s, 3) \in msgs /\ Released(i, s, 2) \notin msgs
\* A removed incarnation, its old table still installed and its lease running, has a grant in reach.
NeverLateGrantForRemoved ==
    ~\E i \in Incarnations, s \in Slots : (Zombie(i) /\ ENABLED Accept(i, s))
\* Three lives wait for each other: two earlier owners are pending at the same time.
NeverTwoPending == \A s \in Slots : Cardinality(pending[s]) < 2
\* A restarted host serves again while its former life still runs and does not know.
NeverServedBesideZombie ==
    ~\E i, j \in Incarnations, s \in Slots :
        (i # j /\ HostOf[i] = HostOf[j] /\ Holds(i, s) /\ right[j][s].live /\ process[j] = "running")
\* The same incarnation serves the same slot twice with another one between.
NeverReturned ==
    ~\E i, j \in Incarnations, s \in Slots :
        (i # j /\ Holds(i, s) /\ right[i][s].fence >= 3 /\ right[j][s].fence \in 2..(right[i][s].fence - 1)
            /\ \E m \in Messages("released") : (m.from = i /\ m.upto >= 2))
\* A lease ran out and started again, and the slot is served again under a higher fence of the same since.
NeverRegranted ==
    ~\E i \in Incarnations, s \in Slots :
        (Holds(i, s) /\ Request(i, s, right[i][s].since, right[i][s].fence - 1) \in msgs)
\* A confirmation commits too late: another batch came before it.
NeverStaleProposal == \A c \in proposed : c.since = since[c.slot]
\* One of two slots that moved together is confirmed while the other one still waits.
NeverOneSlotWaits ==
    ~\E s, t \in Slots : (since[s] = since[t] /\ since[s] > 1 /\ pending[s] = {} /\ pending[t] # {})
\* The store meets a write of a former owner.
NeverStaleWrite == \A w \in writes : w.fence >= stored[w.slot]
\* A turn that was admitted under an earlier right meets a live right of its own host.
NeverTurnOutlivesRight ==
    ~\E i \in Incarnations, s \in Slots : (turn[i][s] # 0 /\ Holds(i, s) /\ right[i][s].fence # turn[i][s])
=============================================================================
