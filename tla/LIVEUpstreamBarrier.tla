------------------------- MODULE LIVEUpstreamBarrier -------------------------
(* Nothing fails here: two hosts join, no stream breaks, no leader changes, no *)
(* timeout strikes, each with the fairness that it would like.  Hosts that set *)
(* a flag come into step; hosts that count locks may stay locked for ever.     *)
EXTENDS MCUpstreamBarrier

LConnect(h) == U!Connect(h)
LNone       == FALSE
LNoneOf(h)  == FALSE

LiveSpec == Spec /\ Fairness
=============================================================================
