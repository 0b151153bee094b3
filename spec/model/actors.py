"""Turn-based actors: what one host does with the calls that reach it.

A call runs as one turn of its actor. One turn at a time; the others wait in the order in which they came. A call whose
chain of calls already runs a turn of a reentrant actor runs inside that turn; in another actor it would wait for
itself, and is refused. A call ends in one of three ways:

    done      it ran, and its reply passed the gate
    not run   (definite) it surely did not run: it may be sent again, silently
    unknown   it may have run: nobody repeats it but the caller

    TurnBased          `TurnBased`: at most one turn, or turns of one chain
    DefiniteOrUnknown  `_end`: whoever began is never told "not run"
"""

from __future__ import annotations

from dataclasses import dataclass, field

DONE, NOT_RUN, UNKNOWN = "done", "not run", "unknown"


@dataclass
class Call:
    """One call. `chain` empty: it begins its own. `deadline`: on the host's clock."""

    number: int
    actor: str
    deadline: int
    chain: str = ""
    began: bool = False
    outcome: str | None = None
    early_until: int | None = None
    """It waits for the slot itself, until then."""


@dataclass
class Actor:
    """A live activation: whose turn it is, which calls run inside it, and who waits."""

    turn: Call | None = None
    inside: list[Call] = field(default_factory=list)
    waiting: list[Call] = field(default_factory=list)


@dataclass
class Host:
    """All slots of it are given, taken away and granted together. Times on its clock.

    `admits_until`, `cancels_at`, `gate_shuts_at`: of its lease (spec.model.leases). `cancel_lost_at`: when turns of
    lost slots are cancelled.
    """

    mailbox_max: int
    early_max: int
    early_wait: int
    drain: int
    now: int = 0
    owner: bool = False
    granted: bool = False
    reentrant: frozenset[str] = frozenset()
    admits_until: int = 0
    cancels_at: int = 0
    gate_shuts_at: int = 0
    cancel_lost_at: int | None = None
    actors: dict[str, Actor] = field(default_factory=dict)
    early: list[Call] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    @property
    def serves(self) -> bool:
        """Whether turns may begin."""
        return self.owner and self.granted and self.now < self.admits_until

    # -- what callers do

    def call(self, call: Call) -> None:
        """A call comes."""
        self.calls.append(call)
        if not self.owner:
            self._end(call, NOT_RUN)
        elif not self.serves:
            self._wait_early(call)
        else:
            self._at_the_actor(call)

    def _wait_early(self, call: Call) -> None:
        """The slot is this host's, but it may not serve it yet: bounded in time and number."""
        if len(self.early) >= self.early_max or call.deadline <= self.now:
            self._end(call, NOT_RUN)
        else:
            call.early_until = min(call.deadline, self.now + self.early_wait)
            self.early.append(call)

    def _at_the_actor(self, call: Call) -> None:
        actor = self.actors.setdefault(call.actor, Actor())
        own_turn = actor.turn is not None and call.chain != "" and call.chain == actor.turn.chain
        if actor.turn is None:
            actor.turn = call
            self._begin(actor, call)
        elif own_turn and call.actor in self.reentrant:
            self._begin(actor, call)
        elif own_turn or len(actor.waiting) >= self.mailbox_max:
            self._end(call, NOT_RUN)
        else:
            actor.waiting.append(call)

    def _begin(self, actor: Actor, call: Call) -> None:
        call.began = True
        actor.inside.append(call)

    def _end(self, call: Call, outcome: str) -> None:
        """DefiniteOrUnknown: the first outcome counts, and it is true."""
        if call.outcome is None:
            call.outcome = UNKNOWN if call.began and outcome == NOT_RUN else outcome

    # -- what turns do

    def finishes(self, call: Call) -> None:
        """The method returns. Its reply passes the gate, or nobody knows."""
        actor = self.actors.get(call.actor)
        if actor is None or call not in actor.inside:
            return
        self._end(call, DONE if self.owner_or_draining() and self.now < self.gate_shuts_at else UNKNOWN)
        self._leaves(actor, call)

    def _leaves(self, actor: Actor, call: Call) -> None:
        actor.inside.remove(call)
        if actor.turn is call:
            actor.turn = None
            self._next_turn(call.actor, actor)
            self._released()

    def _next_turn(self, name: str, actor: Actor) -> None:
        """First come, first served."""
        while actor.turn is None and actor.waiting:
            call = actor.waiting.pop(0)
            if call.outcome is None and self.serves:
                actor.turn = call
                self._begin(actor, call)
            else:
                self._end(call, NOT_RUN)
        if not self.serves and actor.turn is None and not self.owner:
            self.actors.pop(name, None)

    def owner_or_draining(self) -> bool:
        """Whether a right lives: it is served, or was taken away and turns still run."""
        return self.granted

    # -- what the leader does

    def gets(self) -> None:
        """The slots are this host's, not granted yet."""
        self.owner, self.granted, self.cancel_lost_at = True, False, None

    def is_granted(self) -> None:
        """Earlier owners let go."""
        self.granted = True
        self.look_again()

    def look_again(self) -> None:
        """Those who came early try again, in their order."""
        early, self.early = self.early, []
        for call in early:
            if call.outcome is None:
                if not self.owner:
                    self._end(call, NOT_RUN)
                elif self.serves:
                    self._at_the_actor(call)
                else:
                    self.early.append(call)

    def loses(self) -> None:
        """The slots have another owner: nothing begins any more, running turns have the drain time."""
        self.owner = False
        self.cancel_lost_at = self.now + self.drain + 1
        for name, actor in list(self.actors.items()):
            for call in actor.waiting:
                self._end(call, NOT_RUN)
            actor.waiting = []
            if actor.turn is None:
                del self.actors[name]
        self.look_again()
        self._released()

    def _released(self) -> None:
        if not self.owner and not self.actors:
            self.granted, self.cancel_lost_at = False, None

    # -- time

    def advances(self, until: int) -> None:
        """Time passes, one millisecond after the other, so that everything happens at its time."""
        while self.now < until:
            self.now += 1
            for call in self.calls:
                if call.outcome is None and self.now >= call.deadline:
                    self._end(call, UNKNOWN if call.began else NOT_RUN)
                    self._withdraw(call)
            for call in list(self.early):
                if call.early_until is not None and self.now >= call.early_until:
                    self._end(call, NOT_RUN)
                    self._withdraw(call)
            lost = self.cancel_lost_at is not None and self.now >= self.cancel_lost_at
            if lost or (self.granted and self.now >= self.cancels_at):
                self._cancel()
            if self.now >= self.gate_shuts_at:
                self._lapse()

    def _withdraw(self, call: Call) -> None:
        """Its caller does not wait any more; a turn that runs goes on."""
        if call in self.early:
            self.early.remove(call)
        for actor in self.actors.values():
            if call in actor.waiting:
                actor.waiting.remove(call)

    def _cancel(self) -> None:
        """Turns are cancelled: whatever they did, nobody knows."""
        for actor in list(self.actors.values()):
            for call in list(actor.inside):
                self._end(call, UNKNOWN)
                self._leaves(actor, call)
        if not self.owner:
            self.actors = {}
            self._released()

    def _lapse(self) -> None:
        """The lease is over: all rights end, and all that lives here."""
        self._cancel()
        for actor in self.actors.values():
            for call in actor.waiting:
                self._end(call, NOT_RUN)
        self.actors, self.granted, self.cancel_lost_at = {}, False, None


def TurnBased(host: Host) -> bool:
    """One turn at a time per actor, except calls of one chain inside it."""
    return all(
        len(actor.inside) <= 1 or all(call.chain and call.chain == actor.inside[0].chain for call in actor.inside)
        for actor in host.actors.values()
    )


def DefiniteOrUnknown(call: Call, ran: bool) -> bool:
    """What the caller was told is true of what happened."""
    return call.outcome is None or not ((ran and call.outcome == NOT_RUN) or (not ran and call.outcome == DONE))
