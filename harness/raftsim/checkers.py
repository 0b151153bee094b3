"""Checkers: what must hold in every step of a simulated run, whatever the engine does inside.

The five properties of Raft (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", figure 3)
are checked on what is in the logs; the promises to clients (callboard.consensus.interface) on outcomes alone.
A checker raises `Violation` in the step that breaks the rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import define, field, frozen

from harness.raftsim.replica import Acknowledged, LogEntry, Outcome, Refused, View, next_digest


class Violation(Exception):
    """A property does not hold. `rule` is the property's name."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


@define(eq=False)
class ElectionSafety:
    """At most one leader per term."""

    leaders: dict[int, str] = field(factory=dict)

    def observe(self, replica: str, view: View) -> None:
        """See who leads now."""
        if view.is_leader:
            other = self.leaders.setdefault(view.term, replica)
            if other != replica:
                raise Violation("ElectionSafety", f"{other} and {replica} both lead in term {view.term}")


@define(eq=False)
class LeaderAppendOnly:
    """A leader never changes or removes entries of its own log (it may replace a beginning by a snapshot)."""

    def observe(self, replica: str, before: View | None, view: View) -> None:
        """Compare the logs of the same leader, in the same term, at two moments."""
        if before is None or not before.is_leader or not view.is_leader or before.term != view.term:
            return
        old, new = before.log, view.log
        skip = new[0][1] - old[0][1]
        kept = old[skip:] if skip > 0 else old
        if skip < 0 or len(new) < len(kept) or new[1 : len(kept)] != kept[1:]:
            raise Violation("LeaderAppendOnly", f"{replica} changed its log as leader of term {view.term}")


@define(eq=False)
class LogMatching:
    """Entries with the same index and term are the same in every log, and so are all entries before them."""

    known: dict[tuple[int, int], tuple[bytes, int]] = field(factory=dict)
    """(index, term) to (command, term of the entry before)."""
    cuts: int = 0
    """How often entries disappeared from the end of a log."""

    def observe(self, replica: str, before: View | None, view: View) -> None:
        """See the entries that this step put into a log."""
        log = view.log
        first = 1
        if before is not None and before.log[0][1] == log[0][1]:
            common = min(len(before.log), len(log))
            if before.log[:common] == log[:common]:
                first = max(1, common)
            self.cuts += before.log[:common] != log[:common] or len(log) < len(before.log)
        for position in range(first, len(log)):
            command, index, term = log[position]
            found = (command, log[position - 1][2])
            if index != log[position - 1][1] + 1:
                raise Violation("LogMatching", f"the log of {replica} jumps to index {index}")
            if self.known.setdefault((index, term), found) != found:
                raise Violation("LogMatching", f"{replica} has another entry {index} of term {term} than others had")


@define(eq=False)
class LeaderCompleteness:
    """What was committed in a term is in the log of every leader of a later term."""

    committed: dict[int, tuple[int, bytes, int]] = field(factory=dict)
    """index to (term of the entry, command, term in which it was first seen committed)."""
    checked: set[tuple[int, str]] = field(factory=set)

    def observe(self, replica: str, before: View | None, view: View) -> None:
        """Check a new leader against what is committed, then learn what this replica takes for committed."""
        if view.is_leader and (view.term, replica) not in self.checked:
            self.checked.add((view.term, replica))
            for index, (term, command, when) in self.committed.items():
                if when < view.term and not _holds(view.log, (command, index, term)):
                    raise Violation(
                        "LeaderCompleteness",
                        f"leader {replica} of {view.term} lacks committed entry {index} of term {term}",
                    )
        if before is not None and view.commit_index == before.commit_index:
            return
        base = view.log[0][1]
        for command, index, term in view.log[1 : view.commit_index - base + 1]:
            known = self.committed.get(index)
            if known is None:
                self.committed[index] = (term, command, view.term)
            elif known[:2] != (term, command):
                raise Violation(
                    "StateMachineSafety",
                    f"{replica} takes entry {index} of term {term} for committed, but that of term {known[0]} was",
                )


def _holds(log: Sequence[LogEntry], entry: LogEntry) -> bool:
    """Whether the entry is in the log, or at or below its first one, which may stand for a snapshot."""
    position = entry[1] - log[0][1]
    return position <= 0 or (position < len(log) and log[position] == entry)


@define(eq=False)
class StateMachineSafety:
    """No two replicas apply different commands at the same position; each applies every position once, in order."""

    history: dict[int, bytes] = field(factory=dict)
    position_of: dict[bytes, int] = field(factory=dict)
    digests: dict[int, int] = field(factory=dict)
    last: dict[str, int] = field(factory=dict)

    def started(self, replica: str) -> None:
        """A new incarnation begins with nothing applied."""
        self.last[replica] = 0

    def applied(self, replica: str, index: int, command: bytes, digest_before: int) -> None:
        """A replica applies a command."""
        if index <= self.last[replica]:
            raise Violation("StateMachineSafety", f"{replica} applies position {index} after {self.last[replica]}")
        self.last[replica] = index
        if self.history.setdefault(index, command) != command:
            raise Violation("StateMachineSafety", f"{replica} applies another command at position {index}")
        if self.position_of.setdefault(command, index) != index:
            first = self.position_of[command]
            raise Violation("StateMachineSafety", f"one proposal is applied twice, at {first} and {index}")
        digest = next_digest(digest_before, index, command)
        if self.digests.setdefault(index, digest) != digest:
            raise Violation("StateMachineSafety", f"{replica} reached position {index} in another state than others")

    def restored(self, replica: str, items: list[tuple[int, bytes]], digest: int) -> None:
        """A replica's state is replaced by a snapshot."""
        index = items[-1][0] if items else 0
        if index < self.last[replica]:
            raise Violation(
                "StateMachineSafety", f"the state of {replica} goes back from {self.last[replica]} to {index}"
            )
        self.last[replica] = index
        if index and self.digests.get(index) != digest:
            raise Violation("StateMachineSafety", f"the snapshot of {replica} at {index} is not a state of the group")


@frozen(eq=False)
class Proposal:
    """One command of a client."""

    number: int
    replica: str
    command: bytes | None
    """None for a barrier."""
    floor: int
    """The highest position acknowledged to anybody before this proposal was made."""


@define(eq=False)
class Linearizability:
    """Outcomes are true, and positions respect real time: what is acknowledged before another proposal or barrier
    begins comes before it. With one order of applied positions (StateMachineSafety) this is linearizability.
    """

    acknowledged: dict[bytes, int] = field(factory=dict)
    refused: set[bytes] = field(factory=set)
    finished: set[int] = field(factory=set)
    highest: int = 0
    proposals: int = 0

    def begin(self, replica: str, command: bytes | None) -> Proposal:
        """A client proposes a command, or asks for a barrier (None)."""
        self.proposals += 1
        return Proposal(self.proposals, replica, command, self.highest)

    def end(self, proposal: Proposal, outcome: Outcome, safety: StateMachineSafety) -> None:
        """The client is told the outcome."""
        if proposal.number in self.finished:
            raise Violation("Linearizability", f"proposal {proposal.number} has two outcomes")
        self.finished.add(proposal.number)
        if isinstance(outcome, Refused) and proposal.command is not None:
            self.refused.add(proposal.command)
            if proposal.command in safety.position_of:
                raise Violation("Linearizability", f"{proposal.command!r} is refused but was applied")
        if not isinstance(outcome, Acknowledged):
            return
        index = outcome.index
        if proposal.command is None:
            if min(index, safety.last[proposal.replica]) < proposal.floor:
                raise Violation(
                    "Linearizability", f"a barrier at {index} misses what was acknowledged at {proposal.floor}"
                )
            return
        if safety.history.get(index) != proposal.command:
            raise Violation("Linearizability", f"{proposal.command!r} is acknowledged at {index} but was not applied")
        if index <= proposal.floor:
            raise Violation("Linearizability", f"{proposal.command!r} at {index} comes before {proposal.floor}")
        self.acknowledged[proposal.command] = index
        self.highest = max(self.highest, index)

    def applied(self, command: bytes) -> None:
        """A command is applied somewhere."""
        if command in self.refused:
            raise Violation("Linearizability", f"{command!r} was refused and is applied later")


def check_durability(acknowledged: dict[bytes, int], replica: str, items: Iterable[tuple[int, bytes]]) -> None:
    """Every acknowledged command is in this replica's state, once the group has healed."""
    present = {command: index for index, command in items}
    lost = sorted(index for command, index in acknowledged.items() if present.get(command) != index)
    if lost:
        raise Violation(
            "DurableMembership", f"{len(lost)} acknowledged commands are lost on {replica}, first at {lost[0]}"
        )


@define(eq=False)
class Checkers:
    """All checkers of one run."""

    election: ElectionSafety = field(factory=ElectionSafety)
    append_only: LeaderAppendOnly = field(factory=LeaderAppendOnly)
    matching: LogMatching = field(factory=LogMatching)
    completeness: LeaderCompleteness = field(factory=LeaderCompleteness)
    safety: StateMachineSafety = field(factory=StateMachineSafety)
    clients: Linearizability = field(factory=Linearizability)
    views: dict[str, View] = field(factory=dict)

    def started(self, replica: str) -> None:
        """A new incarnation of this replica."""
        self.views.pop(replica, None)
        self.safety.started(replica)

    def observe(self, replica: str, view: View) -> None:
        """Look at a replica after a step."""
        if not view.log:
            raise Violation("LogMatching", f"the log of {replica} has become empty")
        before = self.views.get(replica)
        self.views[replica] = view
        self.election.observe(replica, view)
        self.append_only.observe(replica, before, view)
        self.matching.observe(replica, before, view)
        self.completeness.observe(replica, before, view)

    def applied(self, replica: str, index: int, command: bytes, digest_before: int) -> None:
        """A replica applies a command."""
        self.clients.applied(command)
        self.safety.applied(replica, index, command, digest_before)
