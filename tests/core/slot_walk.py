"""Random courses of one native namespace through the real apply, beside a replica that restarts now and then."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from attrs import define, evolve, field

from callboard.core import membership, snapshot
from callboard.core.commands import (
    Bury,
    Command,
    CommitNativeBatch,
    ConfirmClear,
    CreateNativeNamespace,
    FenceSpan,
    RaiseFeatureLevel,
    RaiseFences,
    RaiseGeneration,
    Removal,
    Request,
    SlotSpan,
    TakeOffice,
)
from callboard.core.records import Answer, ReplicatedState
from callboard.core.slot_records import HandoffSettings, HostMark, NativeHostRecord, NativeNamespace
from callboard.core.versions import Policy
from harness.violation import PropertyViolation
from tests.core.slot_checks import check_step

NAMESPACE = "shop"
NAMES = tuple(f"h{number}" for number in range(12))
KINDS = ("cart", "lamp", "user")
WEIGHTS = (100, 100, 100, 100, 50, 300)


@define(eq=False)
class Course:
    """One namespace. `equal`: all hosts have one weight."""

    random: Random
    policy: Policy = Policy.EXCLUSIVE
    slot_bits: int = 6
    equal: bool = False
    generation: int = 0
    state: ReplicatedState = field(init=False, factory=ReplicatedState)
    other: ReplicatedState = field(init=False, factory=ReplicatedState)
    tokens: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._apply(TakeOffice("r", "0"))
        self._apply(RaiseFeatureLevel(1, membership.KNOWN_FEATURE_LEVEL))
        if self.generation:
            self._apply(RaiseGeneration(self.generation))
        answer = self._apply(CreateNativeNamespace(NAMESPACE, self.policy, self.slot_bits, HandoffSettings()))
        assert answer.succeeded, answer

    @property
    def namespace(self) -> NativeNamespace:
        return self.state.native[NAMESPACE]

    def _apply(self, command: Command) -> Answer:
        self.state, answer = membership.apply(self.state, self.state.applied_index + 1, Request(command))
        self.other, theirs = membership.apply(self.other, self.other.applied_index + 1, Request(command))
        if answer != theirs:
            raise PropertyViolation("ReplicaAgreement", f"{command}: {answer} and {theirs}")
        return answer

    def carry_out(self, command: Command) -> None:
        """Apply and check one command."""
        before = self.namespace
        answer = self._apply(command)
        assert answer.succeeded, answer
        check_step(before, self.namespace, command)

    def restart_other(self) -> None:
        """The other replica goes on from this one's snapshot."""
        content = snapshot.encode_state(self.state)
        self.other = snapshot.decode_state(content)
        if self.other != self.state or snapshot.encode_state(self.other) != content:
            raise PropertyViolation("ReplicaAgreement", "a snapshot is not the state that it was taken of")

    def check_agreement(self) -> None:
        """Both replicas are in the same state."""
        if snapshot.encode_state(self.state) != snapshot.encode_state(self.other):
            raise PropertyViolation("ReplicaAgreement", "the replica that restarted is in another state")

    def record(self, name: str) -> NativeHostRecord:
        """A new process under a name."""
        self.tokens += 1
        kinds = tuple(sorted(self.random.sample(KINDS, self.random.choice((1, 2, 3, 3, 3)))))
        weight = 100 if self.equal else self.random.choice(WEIGHTS)
        return NativeHostRecord(name, f"{name}:1", kinds, f"p{self.tokens}", weight=weight)

    def batch(
        self,
        upserts: tuple[NativeHostRecord, ...] = (),
        removals: tuple[Removal, ...] = (),
        marks: tuple[HostMark, ...] = (),
    ) -> None:
        self.carry_out(CommitNativeBatch(self.state.epoch, NAMESPACE, upserts, removals, marks))


Step = Callable[[Course], None]


def join(course: Course) -> None:
    free = [name for name in NAMES if name not in course.namespace.members]
    chosen = course.random.sample(free, min(len(free), course.random.choice((1, 1, 1, 3))))
    course.batch(tuple(course.record(name) for name in chosen))


def leave(course: Course) -> None:
    members = list(course.namespace.members.values())
    chosen = course.random.sample(members, min(len(members), course.random.choice((1, 1, 1, 3))))
    course.batch(removals=tuple(Removal(member.name, member.incarnation) for member in chosen))


def restart(course: Course) -> None:
    """A new process takes over a name, with all that it had or with something else."""
    members = list(course.namespace.members.values())
    if members:
        host = course.random.choice(members).host
        fresh = course.record(host.name)
        course.batch((evolve(host, process=fresh.process) if course.random.random() < 0.7 else fresh,))


def change(course: Course) -> None:
    """A host changes its word of itself."""
    members = list(course.namespace.members.values())
    if members:
        host = course.random.choice(members).host
        course.batch((evolve(course.record(host.name), process=host.process),))


def come_and_go(course: Course) -> None:
    members = list(course.namespace.members.values())
    free = [name for name in NAMES if name not in course.namespace.members]
    if members and free:
        gone = course.random.choice(members)
        record = course.record(course.random.choice(free))
        course.batch((record,), (Removal(gone.name, gone.incarnation),))


def mark(course: Course) -> None:
    name = course.random.choice(NAMES)
    present = course.namespace.marks.get(name, HostMark(name))
    weights = (None,) if course.equal else (None, 10, 200)
    course.batch(
        marks=(
            course.random.choice(
                (
                    HostMark(name),
                    HostMark(name),
                    evolve(present, cordoned=True),
                    evolve(present, draining=True),
                    evolve(present, weight=course.random.choice(weights)),
                )
            ),
        )
    )


def say_again(course: Course) -> None:
    members = list(course.namespace.members.values())
    course.batch(tuple(member.host for member in members[:2]))


def _slots(course: Course) -> tuple[str, int, int] | None:
    kinds = list(course.namespace.rights)
    if not kinds:
        return None
    slots = course.namespace.slots
    first = course.random.randrange(slots)
    return course.random.choice(kinds), first, course.random.randint(1, min(16, slots - first))


def confirm(course: Course) -> None:
    """Of slots with their present `since`, or with any other."""
    chosen = _slots(course)
    if chosen is not None:
        kind, first, count = chosen
        since = course.namespace.tables[kind].since[first] - course.random.choice((0, 0, 0, 1))
        course.carry_out(ConfirmClear(NAMESPACE, (SlotSpan(kind, first, count, since),)))


def raise_fences(course: Course) -> None:
    chosen = _slots(course)
    if chosen is not None:
        kind, first, count = chosen
        since = course.namespace.tables[kind].since[first] - course.random.choice((0, 0, 0, 1))
        fence = course.namespace.rights[kind].fences[first] - course.random.choice((0, 0, 0, 1))
        course.carry_out(RaiseFences(NAMESPACE, (FenceSpan(kind, first, count, since, fence),)))


def bury(course: Course) -> None:
    """Of tombstones, and of members, which must not help."""
    namespace = course.namespace
    known = [*namespace.tombstones, *(member.incarnation for member in namespace.members.values())]
    if known and namespace.policy is Policy.EXCLUSIVE:
        course.carry_out(Bury(NAMESPACE, tuple(course.random.sample(known, min(len(known), 2)))))


def restart_replica(course: Course) -> None:
    course.restart_other()


STEPS: tuple[Step, ...] = (
    *(join, join, join, leave, leave, restart, change, come_and_go, mark, mark),
    *(say_again, confirm, confirm, raise_fences, bury, bury, restart_replica),
)


def walk(seed: int, steps: int) -> Course:
    """One course; every property is checked at every step."""
    random = Random(seed)
    course = Course(
        random,
        policy=random.choice((Policy.EXCLUSIVE, Policy.EXCLUSIVE, Policy.EXCLUSIVE, Policy.EVENTUAL)),
        slot_bits=random.choice((4, 6, 9)),
        equal=random.random() < 0.5,
        generation=random.choice((0, 0, 7)),
    )
    for _ in range(steps):
        random.choice(STEPS)(course)
    course.check_agreement()
    return course
