"""A model of the consensus interface (`callboard.consensus.interface`): one engine for each replica of the group.

It keeps the interface's promises in the plainest way with the same freedoms: elections with terms and durable votes,
a log per replica of which a crash loses what was not synced, commits by a majority of synced copies, snapshots for who
lags, outcomes that are unknown, commands that commit late, leaders that do not know yet that they are deposed. It is no
copy of an engine: harness/raftsim simulates the embedded one.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from attrs import define, field

from harness.simulation.engine_records import Answered, Append, Disk, EngineTimes, Entry, Machine, Observer, Outcome
from harness.simulation.kernel import MS, Process
from harness.simulation.network import Bites, Network


@define
class _Proposal:
    term: int
    command: bytes
    answered: Answered
    open: bool = True


@define
class _Read:
    round: int
    position: int
    answered: Callable[[int], None]


@define(eq=False)
class Engine:
    """The engine of one life of one replica. `peers` are the other replicas' engines as they are at present."""

    process: Process
    disk: Disk
    network: Network
    random: Random
    times: EngineTimes
    machine: Machine
    group: Group
    on_leadership: Callable[[], None]
    seen: Observer
    leader: str | None = field(init=False, default=None)
    leads: bool = field(init=False, default=False)
    commit: int = field(init=False)
    applied: int = field(init=False)
    slow_disk: tuple[int, Bites] | None = field(init=False, default=None)
    _votes: set[str] = field(init=False, factory=set)
    _match: dict[str, int] = field(init=False, factory=dict)
    _next: dict[str, int] = field(init=False, factory=dict)
    _heard_ms: dict[str, int] = field(init=False, factory=dict)
    _round_of: dict[str, int] = field(init=False, factory=dict)
    _round: int = field(init=False, default=0)
    _proposals: dict[int, _Proposal] = field(init=False, factory=dict)
    _reads: list[_Read] = field(init=False, factory=list)
    _waiting_reads: list[tuple[int, Callable[[int], None]]] = field(init=False, factory=list)
    _election_due_ms: int = field(init=False, default=0)
    _syncing: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self.commit = self.applied = self.disk.base
        if self.disk.snapshot:
            self.machine.restore(self.disk.snapshot)
        self._patience()
        self.process.later(self.random.randrange(1, self.times.heartbeat_ms + 1), self._heartbeat)

    @property
    def name(self) -> str:
        """Of the replica."""
        return self.process.name

    @property
    def term(self) -> int:
        """The newest heard of."""
        return self.disk.term

    # ---- the interface

    def propose(self, command: bytes, timeout_ms: int, answered: Answered) -> None:
        """Append a command; `answered` hears what became of it, once."""
        if not self.leads:
            self.process.kernel.after(0, self.process.take, answered, 0, Outcome.NOT_LEADER)
            return
        self.disk.entries.append(Entry(self.term, command))
        proposal = _Proposal(self.term, command, answered)
        self._proposals[self.disk.last] = proposal
        self.process.later(timeout_ms, self._timed_out, proposal)
        self._sync()
        self._broadcast()

    def barrier(self, timeout_ms: int, answered: Callable[[int], None]) -> None:
        """Answers with the applied position once reads here are linearizable, or with -1."""
        done = [False]

        def once(position: int) -> None:
            if not done[0]:
                done[0] = True
                answered(position)

        self.process.later(timeout_ms, once, -1)
        if self.leads:
            self._read(lambda position: self._when_applied(position, once))
            return
        leader = self.group.engines.get(self.leader or "")
        if leader is not None:
            self.network.datagram(self.process.node, leader.process, leader.read_for, self.name, once)

    def read_for(self, follower: str, answered: Callable[[int], None]) -> None:
        """A follower asks from which position on its reads are linearizable."""
        if self.leads:
            self._read(lambda position: self._send(follower, "_when_applied", position, answered))

    def _read(self, answered: Callable[[int], None]) -> None:
        if self.disk.term_at(self.commit) != self.term:
            return  # nothing of this term has committed yet: who asks gives up and asks again
        self._round += 1
        self._reads.append(_Read(self._round, self.commit, answered))
        self._broadcast()
        self._confirm_reads()

    def _when_applied(self, position: int, answered: Callable[[int], None]) -> None:
        if self.applied >= position:
            answered(self.applied)
        else:
            self._waiting_reads.append((position, answered))

    # ---- elections

    def _patience(self) -> None:
        times = self.times
        wait_ms = self.random.randrange(times.election_min_ms, times.election_max_ms + 1)
        self._election_due_ms = self.process.now_ms() + wait_ms

    def _heartbeat(self) -> None:
        now_ms = self.process.now_ms()
        if self.leads:
            self._check_quorum(now_ms)
        elif now_ms >= self._election_due_ms:
            self.stand()
        if self.leads:
            self._broadcast()
        self.process.later(self.times.heartbeat_ms, self._heartbeat)

    def _check_quorum(self, now_ms: int) -> None:
        heard = [at_ms for at_ms in self._heard_ms.values() if now_ms - at_ms <= self.times.election_max_ms]
        if self.times.check_quorum and len(heard) + 1 < self.group.majority:
            self._follow(None)

    def stand(self) -> None:
        """Stand for election."""
        disk = self.disk
        disk.term, disk.voted_for = disk.term + 1, self.name
        self._follow(None)
        self._votes = {self.name}
        self._patience()
        last = disk.last
        for peer in self.group.names:
            if peer != self.name:
                self._send(peer, "vote", self.name, disk.term, last, disk.term_at(last))
        self._count_votes()

    def vote(self, candidate: str, term: int, last: int, last_term: int) -> None:
        """A candidate asks for a vote."""
        self._hear_term(term)
        disk = self.disk
        if term < disk.term or disk.voted_for not in {"", candidate}:
            return
        if (last_term, last) < (disk.term_at(disk.last), disk.last):
            return
        disk.voted_for = candidate
        self._patience()
        self._send(candidate, "voted", self.name, term)

    def voted(self, voter: str, term: int) -> None:
        """A vote for us."""
        if term == self.disk.term and not self.leads:
            self._votes.add(voter)
            self._count_votes()

    def _count_votes(self) -> None:
        if len(self._votes) < self.group.majority or self.leads:
            return
        now_ms = self.process.now_ms()
        self.leads, self.leader = True, self.name
        others = [peer for peer in self.group.names if peer != self.name]
        self._match = dict.fromkeys(others, 0)
        self._next = dict.fromkeys(others, self.disk.last + 1)
        self._heard_ms = dict.fromkeys(others, now_ms)
        self._round_of = dict.fromkeys(others, 0)
        self.group.elected(self)
        self._sync()
        self._broadcast()
        self.on_leadership()

    def _hear_term(self, term: int) -> None:
        if term > self.disk.term:
            self.disk.term, self.disk.voted_for = term, ""
            self._follow(None)

    def _follow(self, leader: str | None) -> None:
        led, self.leads = self.leads, False
        self._votes = set()
        changed = self.leader != leader
        self.leader = leader
        if led:
            self._reads = []
            for proposal in list(self._proposals.values()):
                self._unknown(proposal)
            self._proposals = {}
        if led or changed:
            self.on_leadership()

    # ---- the log

    def _send(self, peer: str, what: str, *arguments: object) -> None:
        engine = self.group.engines.get(peer)
        if engine is not None:
            self.network.datagram(self.process.node, engine.process, getattr(engine, what), *arguments)

    def _broadcast(self) -> None:
        for peer in self._next:
            self._append_to(peer)

    def _append_to(self, peer: str) -> None:
        disk, following = self.disk, self._next[peer]
        if following <= disk.base:
            self._send(peer, "install", self.name, disk.term, disk.base, disk.base_term, disk.snapshot)
            following = disk.base + 1
        entries = tuple(disk.entries[following - disk.base - 1 :])
        before = following - 1
        term = disk.term_at(before)
        self._next[peer] = disk.last + 1
        self._send(peer, "append", Append(self.name, disk.term, before, term, entries, self.commit, self._round))

    def append(self, message: Append) -> None:
        """A leader's entries, or its heartbeat."""
        leader, term, before, asked = message.leader, message.term, message.before, message.round
        self._hear_term(term)
        disk = self.disk
        if term < disk.term:
            self._send(leader, "appended", self.name, disk.term, -1, 0)
            return
        if self.leader != leader:
            self._follow(leader)
        self._patience()
        if before > disk.last or (before >= disk.base and disk.term_at(before) != message.before_term):
            self._send(leader, "appended", self.name, term, -1 - max(self.commit, min(before - 1, disk.last)), asked)
            return
        for at, entry in enumerate(message.entries, before + 1):
            if at <= disk.base or (at <= disk.last and disk.term_at(at) == entry.term):
                continue
            if at <= disk.last:
                if at <= self.commit:
                    raise AssertionError(f"{self.name} would cut position {at}, which it knows to be committed")
                disk.cut(at - 1)
                self.seen.saw("a follower cuts entries of a deposed leader")
            disk.entries.append(entry)
        upto = before + len(message.entries)
        if upto <= disk.synced:
            self._send(leader, "appended", self.name, term, upto, asked)
        else:
            self._sync(leader, upto, asked)
        self._commit_to(min(message.commit, upto))

    def install(self, leader: str, term: int, base: int, base_term: int, snapshot: bytes) -> None:
        """A leader's snapshot, since it has not got the entries any more."""
        self._hear_term(term)
        disk = self.disk
        if term < disk.term or base <= self.commit:
            return
        if self.leader != leader:
            self._follow(leader)
        self._patience()
        kept = disk.entries[base - disk.base :] if base < disk.last and disk.term_at(base) == base_term else []
        disk.base, disk.base_term, disk.snapshot, disk.entries = base, base_term, snapshot, kept
        disk.synced = max(disk.synced, base) if kept else base
        self.machine.restore(snapshot)
        self.commit = self.applied = base
        self.seen.saw("a lagging replica gets a snapshot")
        self._apply()

    def _sync(self, leader: str = "", upto: int = 0, asked: int = 0) -> None:
        delay_us = self.random.randrange(self.times.sync_us // 2, self.times.sync_us * 2)
        if self.slow_disk is not None:
            more_us, fault = self.slow_disk
            delay_us += more_us
            fault.bites += 1
        last = self.disk.last
        self.process.kernel.after(delay_us, self.process.take, self._synced, last, leader, self.term, upto, asked)

    def _synced(self, last: int, leader: str, term: int, upto: int, asked: int) -> None:
        disk = self.disk
        if term != disk.term:
            return  # a newer leader may have cut what was being written
        disk.synced = max(disk.synced, min(last, disk.last))
        if leader:
            self._send(leader, "appended", self.name, term, upto, asked)
        elif self.leads:
            self._advance()

    def appended(self, follower: str, term: int, upto: int, asked: int) -> None:
        """A follower has synced so much, or (below 0) needs earlier entries."""
        self._hear_term(term)
        if not self.leads or term != self.disk.term:
            return
        self._heard_ms[follower] = self.process.now_ms()
        self._round_of[follower] = max(self._round_of[follower], asked)
        if upto < 0:
            self._next[follower] = max(self._match[follower] + 1, min(self._next[follower], -upto))
            self._append_to(follower)
        elif upto > self._match[follower]:
            self._match[follower] = upto
            self._advance()
        self._confirm_reads()

    def _advance(self) -> None:
        reached = sorted([*self._match.values(), self.acknowledged_upto()], reverse=True)
        commit = reached[self.group.majority - 1]
        if commit > self.commit and self.disk.term_at(commit) == self.term:
            self._commit_to(commit)
            self._broadcast()

    def acknowledged_upto(self) -> int:
        """Up to where this replica's own copy counts."""
        return self.disk.synced

    def _confirm_reads(self) -> None:
        if not self._reads:
            return
        confirmed = sorted([*self._round_of.values(), self._round], reverse=True)[self.group.majority - 1]
        done = [read for read in self._reads if read.round <= confirmed]
        self._reads = [read for read in self._reads if read.round > confirmed]
        for read in done:
            read.answered(read.position)

    def _commit_to(self, commit: int) -> None:
        if commit > self.commit:
            self.commit = min(commit, self.disk.last)
            self._apply()

    def _apply(self) -> None:
        while self.applied < self.commit and self.process.alive:
            self.applied += 1
            entry = self.disk.entries[self.applied - self.disk.base - 1]
            result = self.machine.apply(self.applied, entry.command)
            proposal = self._proposals.pop(self.applied, None)
            if proposal is not None and proposal.open:
                if self.random.randrange(100) < self.times.answers_lost_percent:
                    proposal.open = False
                    self.seen.saw("a committed command is reported as unknown")
                    proposal.answered(0, Outcome.UNKNOWN)
                else:
                    proposal.open = False
                    proposal.answered(self.applied, result)
        if self._waiting_reads:
            ready = [each for each in self._waiting_reads if each[0] <= self.applied]
            self._waiting_reads = [each for each in self._waiting_reads if each[0] > self.applied]
            for _, answered in ready:
                answered(self.applied)
        if self.applied - self.disk.base >= self.times.compact_entries:
            self._compact()

    def _compact(self) -> None:
        disk = self.disk
        upto = min(self.applied, disk.synced)
        if upto == self.applied:
            disk.base_term = disk.term_at(upto)
            del disk.entries[: upto - disk.base]
            disk.base, disk.snapshot = upto, self.machine.snapshot()

    # ---- outcomes

    def _timed_out(self, proposal: _Proposal) -> None:
        if proposal.open:
            self._unknown(proposal)

    def _unknown(self, proposal: _Proposal) -> None:
        if not proposal.open:
            return
        proposal.open = False
        self.seen.saw("an outcome is unknown")
        if self.random.randrange(100) < self.times.zombies_percent:
            self.group.revive(proposal.command, self.process.node)
        proposal.answered(0, Outcome.UNKNOWN)


@define(eq=False)
class Group:
    """The engines of a group as they are at present, by name, and commands that commit late."""

    names: tuple[str, ...]
    random: Random
    network: Network
    seen: Observer
    engines: dict[str, Engine] = field(init=False, factory=dict)
    leaders: dict[int, str] = field(init=False, factory=dict)
    """By term."""

    @property
    def majority(self) -> int:
        """So many are enough."""
        return len(self.names) // 2 + 1

    def elected(self, engine: Engine) -> None:
        """A term has a leader."""
        other = self.leaders.setdefault(engine.term, engine.name)
        if other != engine.name:
            raise AssertionError(f"term {engine.term} has two leaders, {other} and {engine.name}: the model is wrong")

    def newest_leader(self) -> Engine | None:
        """Who leads the highest term, as nobody within the group can know."""
        leading = [engine for engine in self.engines.values() if engine.leads and engine.process.alive]
        return max(leading, key=lambda engine: engine.term, default=None)

    def revive(self, command: bytes, node: str) -> None:
        """A command of unknown outcome: whoever leads a while later puts it into the log, if it gets there."""
        self.network.kernel.after(self.random.randrange(20 * MS, 1500 * MS), self._late, command, node)

    def _late(self, command: bytes, node: str) -> None:
        leader = self.newest_leader()
        if leader is None or leader.process.paused:
            return
        if node == leader.process.node or not self.network.is_blocked(node, leader.process.node):
            self.seen.saw("a command of unknown outcome commits late")
            leader.propose(command, 1 << 40, lambda _index, _result: None)
