"""Traces of the embedded engine: its synchronous core on simulated disks and networks (harness.raftsim).

The library below has no place that tells of a vote or a commit. Lines come from what the engine does to its journal
(term and vote, entries, syncs), which entries it applies, which acknowledgements it sends and what it answers. What a
replica does after a change of its term that is not durable yet counts when that is. tla/doc/Traces.md says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from random import Random
from typing import Any
from unittest.mock import patch

from attrs import Factory, define, evolve

from callboard.consensus.pysyncobj_engine import codec
from callboard.consensus.pysyncobj_engine.core import Core
from callboard.consensus.pysyncobj_engine.journal import Journal
from callboard.consensus.pysyncobj_engine.raft_library import LEADER
from harness.conformance.exclusive import NotProjectableError
from harness.conformance.tracelines import Line, Trace
from harness.raftsim.checkers import Proposal, Violation
from harness.raftsim.hardened import Hardened, core_in_simulation
from harness.raftsim.network import Network
from harness.raftsim.replica import Acknowledged, Outcome
from harness.raftsim.runner import _Player
from harness.raftsim.schedule import LEADER as LEADS
from harness.raftsim.schedule import Event, generate
from harness.raftsim.world import World

SIZE = 3
NOTHING = 1
"""The first entry of every journal, which the module's logs do not have."""
FIRST_OF_LEADER = ""
UNKNOWN = "?"
LEFT_OUT = {"compact", "propose_to_deposed"}
PROPOSALS_MAX = 3

Entry = tuple[int, str]
"""Term, and what it is."""


@define
class _Books:
    """What the lines so far say of one replica."""

    term: int = 0
    vote: str | None = None
    role: str = "follower"
    log: list[Entry] = Factory(list)
    synced: list[Entry] = Factory(list)
    applied: int = 0
    held: list[tuple[Any, ...]] = Factory(list)
    """What it did since its term changed and was not durable yet."""
    holds: bool = False


@define(eq=False)
class RaftStory:
    """Listens to a world and writes lines."""

    lines: list[Line] = Factory(list)
    books: dict[str, _Books] = Factory(dict)
    names: dict[int, str] = Factory(dict)
    """Of replicas, by the identity of their disks."""
    entries: dict[tuple[int, int, bytes], str] = Factory(dict)
    """What each entry is: by index, term and content."""
    reads: list[str] = Factory(list)
    world: World | None = None

    def watch(self, world: World) -> None:
        """From here on."""
        self.world = world
        self.names = {id(world.disk(name)): name for name in world.names}
        self.books = {name: _Books() for name in world.names}

    def _line(self, name: str, **fields: Any) -> None:
        self.lines.append({"name": name, **fields})

    def name_of(self, journal: Journal) -> str | None:
        """Whose journal this is."""
        return self.names.get(id(getattr(journal._disk, "disk", None)))  # noqa: SLF001

    # ---- what happens

    def happens(self, who: str, *what: Any) -> None:
        """Now, or when the term that came before it is durable."""
        books = self.books[who]
        if what[0] == "term":
            books.holds = True
        if books.holds:
            books.held.append(what)
        else:
            getattr(self, f"_on_{what[0]}")(who, books, *what[1:])

    def synced(self, who: str) -> None:
        """All that is in the journal is durable now."""
        books = self.books[who]
        held, books.held, books.holds = books.held, [], False
        for what in held:
            getattr(self, f"_on_{what[0]}")(who, books, *what[1:])
        if books.log != books.synced:
            books.synced = list(books.log)
            self._line("Sync", r=who, n=len(books.log))

    def _on_term(self, who: str, books: _Books, term: int, vote: str | None) -> None:
        if (term, vote) == (books.term, books.vote):
            return
        if vote == who:
            books.role = "candidate"
            self._line("Timeout", r=who, e=term)
        elif vote is not None:
            books.role = "follower"
            self._line("GrantVote", r=who, c=vote, e=term)
        else:
            books.role = "follower"
            self._line("RefuseVote", r=who, e=term)
        books.term, books.vote = term, vote

    def _on_add(self, who: str, books: _Books, entry: tuple[int, int, bytes], leads: bool) -> None:
        index, term, _ = entry
        number = index - NOTHING
        if leads and books.role != "leader":
            books.role = "leader"
            self.entries[entry] = FIRST_OF_LEADER
            books.log.append((term, FIRST_OF_LEADER))
            self._line("BecomeLeader", r=who, e=term, n=number)
        elif leads:
            read = f"d{len(self.reads) + 1}"
            self.reads.append(read)
            self.entries[entry] = read
            books.log.append((term, read))
            self._line("ReadCall", w=read)
            self._line("AppendBarrier", r=who, e=term, n=number, w=read)
        else:
            what = self.entries.get(entry, UNKNOWN)
            books.role = "follower"
            books.log[number - 1 :] = [(term, what)]
            self._line("RecvAppend", r=who, e=books.term, n=number, t=term, w=what)

    def _on_apply(self, who: str, books: _Books, index: int, content: bytes) -> None:
        number = index - NOTHING
        term = books.log[number - 1][0] if 0 < number <= len(books.log) else 0
        books.applied = number
        self._line("Apply", r=who, n=number, w=self.entries.get((index, term, content), UNKNOWN))

    def confirms(self, who: str, term: int, index: int) -> None:
        """An acknowledgement leaves."""
        if index > NOTHING:
            self._line("Confirms", r=who, e=term, n=index - NOTHING)

    def answers(self, who: str, index: int) -> None:
        """A client is told that its command is committed."""
        log, number = self.books[who].log, index - NOTHING
        read = log[number - 1][1] if 0 < number <= len(log) else UNKNOWN
        if read != FIRST_OF_LEADER:
            self._line("ReadAnswer", r=who, w=read)

    # ---- crashes

    def starts(self, who: str) -> None:
        """A replica starts again, on what its disk kept: this is when it is known how it ended."""
        assert self.world is not None
        books, view = self.books[who], self.world.replica(who).core.inspect()  # type: ignore[attr-defined]
        written = [(index, term, command) for command, index, term in view.log[NOTHING:]]
        kept = [(entry[1], self.entries.get(entry, UNKNOWN)) for entry in written]
        if (view.term, view.voted_for, kept) != (books.term, books.vote, books.synced):
            # The last write was on the disk though its sync had not returned.
            self.synced(who)
        books.held, books.holds = [], False
        if books.log != books.synced:
            books.log = list(books.synced)
            self._line("LosePower", r=who, n=len(books.log))
        elif books.role != "follower" or books.applied:
            self._line("Kill", r=who)
        if (view.term, view.voted_for, kept) != (books.term, books.vote, books.log):
            raise NotProjectableError("a replica starts with something else than it had before a sync or after it")
        books.role, books.applied = "follower", 0


@contextmanager
def _listening(story: RaftStory) -> Iterator[None]:
    """Have the engine's journal and core, and the world around them, tell the story."""
    with _journal_tells(story), _world_tells(story), core_in_simulation():
        yield


@contextmanager
def _journal_tells(story: RaftStory) -> Iterator[None]:
    set_term, add, sync = Journal.setCurrentTerm, Journal.add, Journal.sync

    def hears_term(journal: Journal, term: int, vote: str | None) -> None:
        set_term(journal, term, vote)
        if (who := story.name_of(journal)) is not None:
            story.happens(who, "term", term, vote)

    def hears_add(journal: Journal, command: bytes, idx: int, term: int) -> None:
        add(journal, command, idx, term)
        if (who := story.name_of(journal)) is not None:
            assert story.world is not None
            leads = story.world.replica(who).core._raft.role() == LEADER  # type: ignore[attr-defined]  # noqa: SLF001
            story.happens(who, "add", (idx, term, journal[-1][0]), leads)

    def hears_sync(journal: Journal) -> None:
        dirty = journal.dirty
        sync(journal)
        if dirty and (who := story.name_of(journal)) is not None:
            story.synced(who)

    with (
        patch.object(Journal, "setCurrentTerm", hears_term),
        patch.object(Journal, "add", hears_add),
        patch.object(Journal, "sync", hears_sync),
    ):
        yield


@contextmanager
def _world_tells(story: RaftStory) -> Iterator[None]:
    apply_entry, send, told, boot = Core.apply_entry, Network.send, World.told, World._boot  # noqa: SLF001

    def hears_apply(core: Core, index: int, kind: bytes, command: bytes) -> None:
        if story.world is not None:
            story.happens(core.replica_id, "apply", index, kind + command)
        apply_entry(core, index, kind, command)

    def hears_send(network: Network, source: str, target: str, message: bytes) -> bool:
        sent = send(network, source, target, message)
        if sent and story.world is not None:
            said = codec.decode(message)
            if isinstance(said, codec.Acknowledge) and said.success:
                story.confirms(source, said.term, said.next_index - 1)
        return sent

    def hears_told(world: World, proposal: Proposal, outcome: Outcome) -> None:
        if isinstance(outcome, Acknowledged) and proposal.command is not None and not world.disk(proposal.replica).dead:
            story.answers(proposal.replica, outcome.index)
        told(world, proposal, outcome)

    def hears_boot(world: World, name: str) -> bool:
        started = boot(world, name)
        if started and story.world is not None:
            story.starts(name)
        return started

    with (
        patch.object(Core, "apply_entry", hears_apply),
        patch.object(Network, "send", hears_send),
        patch.object(World, "told", hears_told),
        patch.object(World, "_boot", hears_boot),
    ):
        yield


def _events(seed: int, events: tuple[Event, ...]) -> Iterator[Event]:
    """Those of the schedule but for snapshots and long queues, with more crashes, elections and calm between."""
    random = Random(seed)
    for event in events:
        match event:
            case ("propose", who, count):
                yield ("propose", who, min(count, PROPOSALS_MAX))
            case _ if event[0] not in LEFT_OUT:
                yield event
            case _:
                pass
        one = random.randrange(SIZE)
        if random.random() < 0.4:
            yield ("round",)
        if random.random() < 0.3:
            extra: list[Event] = [("kill", one), ("crash_at_write", one, random.randrange(3), 0), ("elect", one)]
            yield random.choice([*extra, ("restart", one), ("restart", one), ("heal_all",), ("propose", LEADS, 1)])


def trace_raft(seed: int, events: int, *, broken: bool = False) -> Trace:
    """The trace of one schedule of three replicas, without snapshots.

    Args:
        broken: the engine has a seeded bug; where the simulator's own checkers see it, the trace ends.

    Raises:
        NotProjectableError: something that the specification has no word for.
        Violation: the simulator's checkers found something.
    """
    schedule = generate(seed, size=SIZE)
    settings = evolve(schedule.settings, compact_entries=1_000_000, keep_entries=0, natural_elections=False)
    story = RaftStory()
    with _listening(story):
        world = World(Hardened(), SIZE, settings, seed)
        story.watch(world)
        world.link_all()
        player = _Player(world, evolve(schedule, settings=settings))
        try:
            for event in islice(_events(seed, schedule.events), events):
                player.play(event)
        except Violation:
            if not broken:
                raise
    return Trace(f"schedule {seed}", tuple(story.lines), {"reads": story.reads})
