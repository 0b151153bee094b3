---------------------------- MODULE TraceLeases ----------------------------
(* Is a trace of the implementation a behaviour of Leases?  As in            *)
(* TraceExclusiveHandoff, a line names an action and what was so after it.   *)
(*                                                                           *)
(* A trace is about one incarnation and all terms of office; each term is a  *)
(* replica of its own, with its own clock.  Time is logged: a line Tick      *)
(* stands for as many instants as passed, in each of which every clock       *)
(* gained its own rate, within the bounds.  doc/Traces.md says how real      *)
(* traces are projected to this.                                             *)
EXTENDS Leases, TraceData, TLC

CONSTANT Checking

VARIABLES
  \* @owner: environment
  tid, l

traceVars == <<vars, tid, l>>

TraceReplicas == 1..Offices
H == 1

Line == Traces[tid][l]
HostRate == Clocks[tid].hostRate
ReplicaRate(r) == IF r \in DOMAIN Clocks[tid].rates THEN Clocks[tid].rates[r] ELSE Slow

TraceInit ==
    /\ tid \in 1..Len(Traces)
    /\ l = 1
    /\ hostClock = [h \in Hosts |-> Clocks[tid].host]
    /\ replicaClock = [r \in Replicas |-> IF r \in DOMAIN Clocks[tid].starts THEN Clocks[tid].starts[r] ELSE 0]
    /\ sentAt = [h \in Hosts |-> <<>>]
    /\ base = [h \in Hosts |-> None]
    /\ stopped = [h \in Hosts |-> FALSE]
    /\ turn = [h \in Hosts |-> NoTurn]
    /\ leads = [r \in Replicas |-> 0]
    /\ office = [r \in Replicas |-> 0]
    /\ round = [r \in Replicas |-> NoRound]
    /\ lastAnswer = [r \in Replicas |-> [h \in Hosts |-> None]]
    /\ removed = [r \in Replicas |-> {}]
    /\ farewells = [r \in Replicas |-> {}]
    /\ epoch = 0
    /\ out = {}
    /\ buried = {}
    /\ msgs = {}
    /\ paused = [h \in Hosts |-> FALSE]

-----------------------------------------------------------------------------
Is(name) == Line.name = name
By(name) == Is(name) /\ Line.r \in Replicas

\* Tick, so many times, each clock at its own rate.
Ticks(n) ==
    /\ n > 0
    /\ HostRate \in HostGain
    /\ \A r \in Replicas : ReplicaRate(r) \in ReplicaGain
    /\ hostClock' = [h \in Hosts |-> hostClock[h] + n * HostRate]
    /\ replicaClock' = [r \in Replicas |-> replicaClock[r] + n * ReplicaRate(r)]
    /\ paused' = [h \in Hosts |->
                    \/ paused[h]
                    \/ /\ turn[h].state = "running"
                       /\ Reading(hostClock[h] + (n - 1) * HostRate) - base[h] >= Lease - Margin]
    /\ UNCHANGED <<sentAt, base, stopped, turn, leads, office, round, lastAnswer, removed,
                   farewells, logVars, msgs>>

HostReads == HostNow(H) = Line.now
ReplicaReads(r) == ReplicaNow(r) = Line.now

Host ==
    \/ Is("SendRenewal") /\ SendRenewal(H) /\ HostReads /\ Len(sentAt'[H]) = Line.k
    \/ /\ Is("HearAnswer") /\ Line.k \in DOMAIN sentAt[H]
       /\ HearAnswer(H) /\ HostReads /\ base'[H] = sentAt[H][Line.k] /\ base'[H] = Line.b
    \/ Is("Admit") /\ Admit(H) /\ HostReads
    \/ Is("Cancel") /\ Cancel(H) /\ HostReads /\ HostNow(H) - turn[H].since > Drain
    \/ Is("Effect") /\ Effect(H) /\ HostReads
    \/ Is("EndTurn") /\ EndTurn(H)
    \/ Is("SayFarewell") /\ SayFarewell(H)

Replica ==
    \/ By("TakeOffice") /\ TakeOffice(Line.r) /\ ReplicaReads(Line.r) /\ epoch' = Line.e
    \/ By("ProposeRound") /\ <<H, Line.k>> \in Renewals /\ ProposeRoundOf(Line.r, {<<H, Line.k>>})
    \/ By("ConfirmRound") /\ ConfirmRound(Line.r)
    \/ By("SendAnswer") /\ SendAnswer(Line.r, H) /\ ReplicaReads(Line.r) /\ Answer(H, Line.k) \in msgs'
    \/ By("EndRound") /\ EndRound(Line.r)
    \/ By("StepDown") /\ StepDown(Line.r)
    \/ By("CommitRemoval") /\ CommitRemoval(Line.r, H)
    \/ By("HearFarewell") /\ HearFarewell(Line.r, H)
    \/ By("Bury") /\ Bury(Line.r, H) /\ ReplicaReads(Line.r)
    \/ By("SaysGone") /\ Gone(Line.r, H) /\ ReplicaReads(Line.r) /\ UNCHANGED vars

Safe == TypeOK /\ GoneImpliesGateShut /\ PromptTurnsEndInside

TraceNext ==
    /\ l <= Len(Traces[tid])
    /\ (Host \/ Replica \/ (Is("Tick") /\ Ticks(Line.n)))
    /\ l' = l + 1
    /\ tid' = tid
    /\ (Checking => Safe')

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

-----------------------------------------------------------------------------
Accepted == (l > Len(Traces[tid])) => PrintT(<<"ACCEPTED", tid>>)
Reached == PrintT(<<"AT", tid, l>>)
NotYet == ~(tid = StopTrace /\ l = StopLine)

ASSUME \A t \in 1..Len(Traces) : Len(Traces[t]) > 0
=============================================================================
