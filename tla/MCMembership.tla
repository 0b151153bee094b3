---------------------------- MODULE MCMembership ----------------------------
(* Bounds for Membership: which commands there are. *)
EXTENDS Membership

MCSessionOf(c) == IF c \in {"a1", "a2"} THEN "a" ELSE "b"
MCSeqOf(c) == IF c = "a2" THEN 2 ELSE 1
MCBatchOf(c) ==
  CASE c = "a1" -> [join |-> {"h1"}, leave |-> {}]
    [] c = "a2" -> [join |-> {}, leave |-> {"h1"}]
    [] c = "b1" -> [join |-> {"h2"}, leave |-> {"h1"}]
=============================================================================
