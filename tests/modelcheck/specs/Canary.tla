------------------------------- MODULE Canary -------------------------------
(***************************************************************************)
(* A specification with a known violation. The runner checks it before     *)
(* anything else: a model checker that finds nothing here, or that ends    *)
(* with another exit code than it announces, is not to be believed about   *)
(* the other modules either.                                               *)
(*                                                                         *)
(* Two clients take a lock by looking first and taking it in a later step. *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets

CONSTANT Clients

VARIABLES
  lock,   \* TRUE when somebody has taken it
  state   \* what each client is about to do

vars == <<lock, state>>

Init == /\ lock = FALSE
        /\ state = [c \in Clients |-> "idle"]

Look(c) == /\ state[c] = "idle"
           /\ ~lock
           /\ state' = [state EXCEPT ![c] = "saw it free"]
           /\ UNCHANGED lock

Take(c) == /\ state[c] = "saw it free"
           /\ lock' = TRUE
           /\ state' = [state EXCEPT ![c] = "inside"]

Leave(c) == /\ state[c] = "inside"
            /\ lock' = FALSE
            /\ state' = [state EXCEPT ![c] = "idle"]

Next == \E c \in Clients : Look(c) \/ Take(c) \/ Leave(c)

Spec == Init /\ [][Next]_vars

MutualExclusion == Cardinality({c \in Clients : state[c] = "inside"}) <= 1
=============================================================================
