------------------------- MODULE MCExclusiveHandoff -------------------------
(* Bounds for exhaustive checking: guards on the actions that could go on    *)
(* for ever, and a view that forgets messages which can no longer matter.    *)
EXTENDS ExclusiveHandoff, TLC

CONSTANTS MaxVersion,   \* batches stop here; the first grant is of version 1
          MaxEpoch,
          MaxFence,     \* bounds the lapses of a lease that are asked to be made good
          MaxWrites,    \* effects on their way to the store at the same time; 0: no turns at all
          MaxCrashes,
          MaxLosses, HearOffices, Leaves

Unbounded == INSTANCE ExclusiveHandoff

MCUpsert(i) == version < MaxVersion /\ Unbounded!Upsert(i)
MCRemove(i) == version < MaxVersion /\ Unbounded!Remove(i)
MCRebalance == version < MaxVersion /\ Unbounded!Rebalance
MCTakeOffice == epoch < MaxEpoch /\ Unbounded!TakeOffice
MCRaiseFence(s) == fence[s] < MaxFence /\ Unbounded!RaiseFence(s)
MCAdmit(i, s) == MaxWrites > 0 /\ Unbounded!Admit(i, s)
MCEffect(i, s) == Cardinality(writes) < MaxWrites /\ Unbounded!Effect(i, s)
MCHearOffice(i) == HearOffices /\ Unbounded!HearOffice(i)
MCLeave(i) == Leaves /\ Unbounded!Leave(i)
MCLeaseRunsOut(i) ==
    /\ (i \in tombs \/ \E s \in Slots : right[i][s].live)
    /\ Unbounded!LeaseRunsOut(i)
MCInit == Unbounded!Init /\ owner = [s \in Slots |-> 1]
MCCrash(i) ==
    /\ Cardinality({j \in Incarnations : process[j] = "crashed"}) < MaxCrashes
    /\ Unbounded!Crash(i)
\* Lost messages are not counted: only one at a time may be missing from what was ever sent.
MCLose == MaxLosses > 0 /\ Unbounded!Lose

\* Names: incarnations 1, 3, 5 are lives of one host, 2 and 4 of another.
MCHostOf == [i \in Incarnations |-> IF i % 2 = 1 THEN "a" ELSE "b"]

-----------------------------------------------------------------------------
Spent(i) == \/ process[i] \in {"stopped", "crashed"}
            \/ (i \in over /\ i \notin members)

(* The view.  A message is dropped from a state's fingerprint when no action *)
(* can ever again be enabled by it in that state or a later one:             *)
(* - a table not newer than what every running process installed, for those  *)
(*   processes, and without members that have yet to start;                  *)
(* - a grant that its addressee can never accept (its process has ended, its *)
(*   table has passed the grant's since, its fence is used);                 *)
(* - a release below the slot's since, or from somebody not pending: since   *)
(*   only rises, and joins pending only together with a higher since;        *)
(* - a request whose since or fence is not the slot's: both only rise.       *)
Useful(m) ==
    CASE m.kind = "table" ->
             \E i \in Incarnations :
                 \/ (process[i] = "unborn" /\ i \in m.members)
                 \/ (process[i] = "running" /\ m.version > table[i].version /\ ~Spent(i))
      [] m.kind = "grant" ->
             /\ process[m.to] \in {"unborn", "running"}
             /\ ~Spent(m.to)
             /\ table[m.to].since[m.slot] <= m.since
             /\ right[m.to][m.slot].fence < m.fence
             /\ heard[m.to] <= m.epoch
      [] m.kind = "released" -> (m.upto >= since[m.slot] /\ m.from \in pending[m.slot])
      [] m.kind = "request" -> (m.since = since[m.slot] /\ m.last = fence[m.slot])
      [] m.kind = "farewell" -> m.from \in tombs \cup members
      [] OTHER -> FALSE

View == <<version, members, issued, tombs, owner, since, pending, fence,
          {c \in proposed : (c.since = since[c.slot] /\ pending[c.slot] # {})},
          epoch, waited,
          [i \in Incarnations |->
              IF Spent(i) THEN <<right[i]>>
              ELSE <<process[i], table[i], right[i], turn[i], lease[i], heard[i]>>],
          over, {m \in msgs : Useful(m)}, writes, stored>>
=============================================================================
