"""The replicated state machine driven by Hypothesis beside a plain model of what it promises.

The log is a list; one replica applies each entry at once, another lags, both crash and restart from snapshots.
Properties checked after every step: ApplyOnce, GenerationExact, ReplicaAgreement, LinearizableMembership (in its
sequential form: each answer fits the model at its log position), and the state's independence of how it was reached.
"""

from __future__ import annotations

from typing import Any

from attrs import define, evolve, field
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from callboard.core import commands, membership, snapshot
from callboard.core.commands import (
    CommitBatch,
    CreateNamespace,
    DeleteNamespace,
    OpenSession,
    RaiseGeneration,
    Removal,
    RepeatRound,
    Request,
    RequestId,
    TakeOffice,
)
from callboard.core.records import Answer, AnswerCode, HostRecord, ReplicatedState
from callboard.core.versions import Policy, Version

NAMES = ("10.0.0.1:50002", "10.0.0.2:50002", "10.0.0.3:50002")
NAMESPACES = ("default", "other")
TYPES = ("Cart", "Lamp")

hosts = st.builds(
    HostRecord,
    name=st.sampled_from(NAMES),
    app_id=st.sampled_from(("shop", "house")),
    actor_types=st.sets(st.sampled_from(TYPES), min_size=1).map(lambda types: tuple(sorted(types))),
    process=st.sampled_from(("", "p1", "p2")),
)


@define
class ModelNamespace:
    """What a namespace should hold: host records by name, its version, and every version it ever had."""

    version: Version
    members: dict[str, HostRecord] = field(factory=dict)


@define
class Replica:
    """One copy of the state, and the snapshot that it would restart from."""

    state: ReplicatedState = field(factory=ReplicatedState)
    saved: bytes = field(factory=lambda: snapshot.encode_state(ReplicatedState()))
    answers: list[Answer] = field(factory=list)

    def catch_up(self, log: list[bytes], until: int) -> None:
        while self.state.applied_index < until:
            index = self.state.applied_index + 1
            request = commands.decode_request(log[index - 1])
            self.state, answer = membership.apply(self.state, index, request)
            self.answers.append(answer)

    def crash(self) -> None:
        self.state = snapshot.decode_state(self.saved)
        del self.answers[self.state.applied_index :]


class MembershipMachine(RuleBasedStateMachine):
    """Rules are commands as leaders, retries and zombies would put them into the log."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[bytes] = []
        self.first, self.lagging = Replica(), Replica()
        self.model: dict[str, ModelNamespace] = {}
        self.floors: dict[str, Version] = {}
        self.versions_with_tables: dict[tuple[str, Version], frozenset[HostRecord]] = {}
        self.generation = 0
        self.sessions: list[int] = []
        self.next_sequence: dict[int, int] = {}
        self.protected: list[tuple[Request, Answer]] = []

    def append(self, request: Request) -> Answer:
        self.log.append(commands.encode_request(request))
        self.first.catch_up(self.log, len(self.log))
        return self.first.answers[-1]

    def identity(self, data: Any) -> RequestId:
        session = data.draw(st.sampled_from(self.sessions), label="session")
        sequence = self.next_sequence[session]
        self.next_sequence[session] = sequence + 1
        below = data.draw(st.integers(1, sequence), label="acknowledged_below")
        return RequestId(session, sequence, below)

    # -- rules -------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.open_session()
        self.take_office("r1", "n1")

    @rule()
    def open_session(self) -> None:
        answer = self.append(Request(OpenSession()))
        assert answer.code is AnswerCode.OK
        assert answer.number not in self.next_sequence, "a session number was issued twice"
        self.sessions.append(answer.number)
        self.next_sequence[answer.number] = 1

    @rule(replica=st.sampled_from(("r1", "r2")), nonce=st.sampled_from(("n1", "n2", "n3")))
    def take_office(self, replica: str, nonce: str) -> None:
        before = self.first.state
        answer = self.append(Request(TakeOffice(replica, nonce)))
        same = before.epoch_holder == f"{replica}/{nonce}"
        assert answer.number == before.epoch + (0 if same else 1)

    @rule(name=st.sampled_from(NAMESPACES), data=st.data())
    def create_namespace(self, name: str, data: Any) -> None:
        answer = self.protect(CreateNamespace(name, Policy.BARRIER), data)
        if name in self.model:
            assert answer.code is AnswerCode.UNCHANGED
            return
        assert answer.code is AnswerCode.OK
        version = Version.from_wire(answer.number)
        floor = self.floors.get(name, Version())
        assert version >= floor, "a namespace created again starts below its floor"
        self.model[name] = ModelNamespace(version)

    @rule(name=st.sampled_from(NAMESPACES), data=st.data())
    def delete_namespace(self, name: str, data: Any) -> None:
        answer = self.protect(DeleteNamespace(name), data)
        if name not in self.model:
            assert answer.code is AnswerCode.NOT_FOUND
        elif self.model[name].members:
            assert answer.code is AnswerCode.CONFLICT
        else:
            assert answer.code is AnswerCode.OK
            self.floors[name] = self.model.pop(name).version

    @rule(
        name=st.sampled_from(NAMESPACES),
        upserts=st.lists(hosts, max_size=3, unique_by=lambda host: host.name),
        removed=st.sets(st.sampled_from(NAMES)),
        stale=st.sampled_from((0, 0, 0, 1)),
        data=st.data(),
    )
    def batch(self, name: str, upserts: list[HostRecord], removed: set[str], stale: int, data: Any) -> None:
        state = self.first.state
        present = state.namespaces[name].members if name in state.namespaces else {}
        wrong = data.draw(st.booleans(), label="removals name an older incarnation")
        removals = tuple(
            Removal(host, present[host].incarnation - int(wrong)) for host in sorted(removed) if host in present
        )
        command = CommitBatch(max(state.epoch - stale, 0), name, tuple(upserts), removals)
        answer = self.protect(command, data)
        if stale and state.epoch > 0:
            assert answer.code is AnswerCode.STALE_EPOCH, "a deposed leader's batch took effect"
            return
        if name not in self.model:
            assert answer.code is AnswerCode.NOT_FOUND
            return
        model = self.model[name]
        after = {k: v for k, v in model.members.items() if wrong or k not in removed}
        after |= {host.name: host for host in upserts}
        if after == model.members:
            assert answer.code is AnswerCode.UNCHANGED
        else:
            assert answer.code is AnswerCode.OK
            model.version = Version(model.version.generation, model.version.counter + 1)
        model.members = after
        assert answer.number == model.version.wire

    @rule(name=st.sampled_from(NAMESPACES), data=st.data())
    def repeat_round(self, name: str, data: Any) -> None:
        answer = self.protect(RepeatRound(self.first.state.epoch, name), data)
        if name in self.model:
            self.model[name].version = self.model[name].version.next()
            assert answer.number == self.model[name].version.wire

    @rule(step=st.integers(-1, 3))
    def raise_generation(self, step: int) -> None:
        wanted = self.generation + step
        if wanted < 1:
            return
        answer = self.append(Request(RaiseGeneration(wanted)))
        if step <= 0:
            assert answer.code is AnswerCode.INVALID
            return
        self.generation = wanted
        for model in self.model.values():
            model.version = Version(wanted, 1)

    def protect(self, command: Any, data: Any) -> Answer:
        request = Request(command, self.identity(data))
        answer = self.append(request)
        self.protected.append((request, answer))
        return answer

    @precondition(lambda self: self.protected)
    @rule(data=st.data())
    def repeat_a_request(self, data: Any) -> None:
        """A retry or a zombie: the same entry stands in the log once more, at any later position."""
        request, first_answer = data.draw(st.sampled_from(self.protected), label="repeated")
        before = self.first.state
        answer = self.append(request)
        refused = {AnswerCode.STALE_REQUEST, AnswerCode.EXPIRED_SESSION}
        assert answer == first_answer or answer.code in refused, "a repetition got another answer"
        assert self.first.state == evolve(
            before, applied_index=before.applied_index + 1, entries_applied=before.entries_applied + 1
        ), "a repetition changed the state (ApplyOnce)"

    @rule(count=st.integers(1, 20))
    def lagging_replica_applies(self, count: int) -> None:
        self.lagging.catch_up(self.log, min(len(self.log), self.lagging.state.applied_index + count))

    @rule(lagging=st.booleans())
    def save_snapshot(self, lagging: bool) -> None:
        replica = self.lagging if lagging else self.first
        replica.saved = snapshot.encode_state(replica.state)

    @rule(lagging=st.booleans())
    def crash_and_restart(self, lagging: bool) -> None:
        replica = self.lagging if lagging else self.first
        replica.crash()
        if not lagging:
            replica.catch_up(self.log, len(self.log))

    @rule()
    def install_snapshot(self) -> None:
        self.lagging.saved = snapshot.encode_state(self.first.state)
        self.lagging.answers = list(self.first.answers)
        self.lagging.crash()

    # -- invariants --------------------------------------------------------------------------------------

    @invariant()
    def members_are_those_of_the_model(self) -> None:
        state = self.first.state
        assert set(state.namespaces) == set(self.model)
        for name, model in self.model.items():
            namespace = state.namespaces[name]
            assert {k: member.host for k, member in namespace.members.items()} == model.members
            assert namespace.version == model.version, "GenerationExact: the version is not what the changes make it"

    @invariant()
    def incarnations_are_unique(self) -> None:
        numbers = [m.incarnation for n in self.first.state.namespaces.values() for m in n.members.values()]
        assert len(numbers) == len(set(numbers))
        assert all(number < self.first.state.next_incarnation for number in numbers)

    @invariant()
    def one_table_per_version(self) -> None:
        """GenerationExact and TableAgreement: a version never names two tables, also across generations."""
        for name, namespace in self.first.state.namespaces.items():
            table = frozenset(member.host for member in namespace.members.values())
            known = self.versions_with_tables.setdefault((name, namespace.version), table)
            assert known == table, f"version {namespace.version} of {name} was used for two tables"

    @invariant()
    def replicas_agree(self) -> None:
        """ReplicaAgreement, and determinism across crashes: compare with a replay from nothing now and then."""
        if self.lagging.state.applied_index == self.first.state.applied_index:
            assert snapshot.digest(self.lagging.state) == snapshot.digest(self.first.state)
        assert self.lagging.answers == self.first.answers[: len(self.lagging.answers)], "answers differ"

    def teardown(self) -> None:
        fresh = Replica()
        fresh.catch_up(self.log, len(self.log))
        assert snapshot.digest(fresh.state) == snapshot.digest(self.first.state)
        assert snapshot.decode_state(snapshot.encode_state(fresh.state)) == fresh.state
