"""The replicated state machine beside `spec.model.membership`.

The log is a list; one replica applies each entry at once, another lags, both crash and restart from snapshots. Limits
of sessions are small here, so that they are reached. Checked after every step: ApplyOnce, GenerationExact,
ReplicaAgreement, LinearizableMembership (each answer is the model's at its place in the log), DurableMembership (a
restart from a snapshot and the log after it is where it was before).
"""

from __future__ import annotations

import hashlib
from typing import Any

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from callboard.core import commands, membership, snapshot
from callboard.core.commands import (
    BeginRestore,
    Command,
    CommitBatch,
    CreateNamespace,
    DeleteNamespace,
    OpenSession,
    OperatorRequest,
    RaiseFeatureLevel,
    RaiseGeneration,
    Removal,
    RepeatRound,
    Request,
    RequestId,
    TakeOffice,
)
from callboard.core.records import Answer, HostRecord, Namespace, ReplicatedState
from callboard.core.versions import Policy
from spec.model.membership import GenerationExact, Host, IncarnationsUnique, Log, Version, wire
from spec.model.membership import Namespace as ModelNamespace
from tests.model.support import SideBySide, agree

NAMES = ("10.0.0.1:50002", "10.0.0.2:50002", "10.0.0.3:50002")
NAMESPACES = ("default", "other")
TYPES = ("Cart", "Lamp")
OPERATORS = ("a", "b", "c", "d")
ANSWERED_WITH_A_VERSION = (CreateNamespace, DeleteNamespace, CommitBatch, RepeatRound, RaiseGeneration)
LIMITS = {"SESSIONS_MAX": 4, "SESSION_IDLE_ENTRIES": 12, "ANSWERS_PER_SESSION_MAX": 5, "OPERATOR_ANSWERS_MAX": 2}

hosts = st.builds(
    HostRecord,
    name=st.sampled_from(NAMES),
    app_id=st.sampled_from(("shop", "house")),
    actor_types=st.sets(st.sampled_from(TYPES), min_size=1).map(lambda types: tuple(sorted(types))),
    process=st.sampled_from(("", "p1", "p2")),
)


def as_host(host: HostRecord) -> Host:
    """A host record as the model knows it."""
    return Host(host.name, (host.app_id, host.actor_types, host.port, host.process))


def members_of(namespace: Namespace) -> dict[str, tuple[Host, int]]:
    """Members with their incarnations."""
    return {name: (as_host(member.host), member.incarnation) for name, member in namespace.members.items()}


def members_of_model(namespace: ModelNamespace) -> dict[str, tuple[Host, int]]:
    """The same, of the model."""
    return {name: (host, namespace.incarnations[name]) for name, host in namespace.hosts.items()}


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


class MembershipMachine(SideBySide):
    """Rules are commands as leaders, retries and zombies would put them into the log."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = {name: getattr(membership, name) for name in LIMITS}
        for name, limit in LIMITS.items():
            setattr(membership, name, limit)
        self.log: list[bytes] = []
        self.first, self.lagging = Replica(), Replica()
        sessions, idle, answers, operators = LIMITS.values()
        self.model = Log(sessions, idle, answers, operators)
        self.history: dict[str, list[tuple[Version, frozenset[Host]]]] = {}
        self.next_sequence: dict[int, int] = {}
        self.protected: list[Request] = []
        self.asked: list[tuple[str, Command]] = []
        self.repeated = 0

    def submit(self, request: Request) -> None:
        """One more entry of the log: both take it, and answer alike."""
        self.log.append(commands.encode_request(request))
        self.first.catch_up(self.log, len(self.log))
        answer = self.first.answers[-1]
        identity = request.request_id
        if identity.session == commands.NO_SESSION:
            expected = self.model.entry(lambda: self.carry_out_asked(request))
        else:
            expected = self.model.once(
                identity.session,
                identity.sequence,
                identity.acknowledged_below,
                lambda: self.carry_out_asked(request),
            )
        agree(self.subject(request, {answer.code.value, expected[0]}), (answer.code.value, answer.number), expected)

    def subject(self, request: Request, codes: set[str]) -> str:
        """The property that answers which differ are about. A wrong version is that of the right members."""
        if codes & {"stale_request", "expired_session"} or request.operator is not None or request in self.protected:
            return "ApplyOnce"
        about_version = isinstance(request.command, ANSWERED_WITH_A_VERSION) and codes <= {"ok", "unchanged"}
        return "GenerationExact" if about_version and self.members_agree() else "LinearizableMembership"

    def members_agree(self) -> bool:
        """Whether every namespace has the model's members."""
        found = {name: members_of(namespace) for name, namespace in self.first.state.namespaces.items()}
        return found == {name: members_of_model(namespace) for name, namespace in self.model.namespaces.items()}

    def carry_out_asked(self, request: Request) -> tuple[str, int]:
        """The model's command, for an operator or not."""
        asked = request.operator
        if asked is None:
            return self.carry_out(request.command)
        return self.model.asked(asked.request_id, asked.digest, lambda: self.carry_out(request.command))

    def carry_out(self, command: Command) -> tuple[str, int]:
        """The model's command."""
        match command:
            case OpenSession():
                return self.model.open_session()
            case TakeOffice(replica_id, nonce):
                return self.model.take_office(f"{replica_id}/{nonce}")
            case RaiseFeatureLevel(epoch, level):
                return self.model.raise_level(epoch, level)
            case CreateNamespace(name, policy):
                return self.model.create(name, policy.value)
            case DeleteNamespace(name):
                return self.model.delete(name)
            case CommitBatch(epoch, name, upserts, removals):
                meant = {removal.name: removal.incarnation for removal in removals}
                return self.model.batch(epoch, name, [as_host(host) for host in upserts], meant)
            case RepeatRound(epoch, name):
                return self.model.repeat_round(epoch, name)
            case RaiseGeneration(generation):
                return self.model.raise_generation(generation)
            case BeginRestore(source, generation, epoch, next_incarnation):
                return self.model.begin_restore(source, generation, epoch, next_incarnation - 1)
        raise AssertionError(f"no rule for {command}")

    def protect(self, command: Command, data: Any, operator: OperatorRequest | None = None) -> None:
        """Under a session, as servers do."""
        session = data.draw(st.sampled_from(sorted(self.next_sequence)), label="session")
        sequence = self.next_sequence[session]
        self.next_sequence[session] = sequence + 1
        below = data.draw(st.integers(max(1, sequence - 3), sequence), label="acknowledged_below")
        request = Request(command, RequestId(session, sequence, below), operator)
        self.submit(request)
        self.protected.append(request)

    # -- rules -------------------------------------------------------------------------------------------

    @initialize(present=st.lists(hosts, max_size=3, unique_by=lambda host: host.name))
    def begin(self, present: list[HostRecord]) -> None:
        self.open_session()
        self.take_office("r1", "n1")
        self.submit(Request(RaiseFeatureLevel(1, membership.KNOWN_FEATURE_LEVEL)))
        if present:
            self.submit(Request(CreateNamespace(NAMESPACES[0], Policy.BARRIER)))
            self.submit(Request(CommitBatch(1, NAMESPACES[0], tuple(present))))

    @rule()
    def open_session(self) -> None:
        self.submit(Request(OpenSession()))
        self.next_sequence[self.first.answers[-1].number] = 1

    @rule(replica=st.sampled_from(("r1", "r2")), nonce=st.sampled_from(("n1", "n2", "n3")))
    def take_office(self, replica: str, nonce: str) -> None:
        self.submit(Request(TakeOffice(replica, nonce)))

    @rule(name=st.sampled_from(NAMESPACES), data=st.data())
    def create_namespace(self, name: str, data: Any) -> None:
        self.protect(CreateNamespace(name, Policy.BARRIER), data)

    @rule(name=st.sampled_from(NAMESPACES), data=st.data())
    def delete_namespace(self, name: str, data: Any) -> None:
        self.protect(DeleteNamespace(name), data)

    @rule(operator=st.sampled_from(OPERATORS), name=st.sampled_from(NAMESPACES), is_new=st.booleans(), data=st.data())
    def operate(self, *, operator: str, name: str, is_new: bool, data: Any) -> None:
        """An operator asks for something under an id that may have been used before."""
        self.asked.append((operator, CreateNamespace(name, Policy.BARRIER) if is_new else DeleteNamespace(name)))
        self._ask(self.asked[-1], data)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def operate_again(self, data: Any) -> None:
        """The same, asked of another leader: under another session, or another number."""
        self._ask(data.draw(st.sampled_from(self.asked), label="asked again"), data)

    def _ask(self, asked: tuple[str, Command], data: Any) -> None:
        request_id, command = asked
        content = commands.encode_request(Request(command))
        self.protect(command, data, OperatorRequest(request_id, hashlib.blake2b(content, digest_size=16).digest()))

    @rule(
        name=st.sampled_from(NAMESPACES),
        upserts=st.lists(hosts, max_size=3, unique_by=lambda host: host.name),
        removed=st.sets(st.sampled_from(NAMES)),
        stale=st.sampled_from((0, 0, 0, 1)),
        older=st.sampled_from((0, 0, 1)),
        data=st.data(),
    )
    def batch(
        self, *, name: str, upserts: list[HostRecord], removed: set[str], stale: int, older: int, data: Any
    ) -> None:
        state = self.first.state
        present = state.namespaces[name].members if name in state.namespaces else {}
        removals = tuple(
            Removal(host, present[host].incarnation - older) for host in sorted(removed) if host in present
        )
        self.protect(CommitBatch(max(state.epoch - stale, 0), name, tuple(upserts), removals), data)

    @rule(name=st.sampled_from(NAMESPACES), data=st.data())
    def leave_and_come_back(self, name: str, data: Any) -> None:
        """Everybody leaves and is there again within one batch: new incarnations, but the same table."""
        state = self.first.state
        members = list(state.namespaces[name].members.values()) if name in state.namespaces else []
        removals = tuple(Removal(member.name, member.incarnation) for member in members)
        self.protect(CommitBatch(state.epoch, name, tuple(member.host for member in members), removals), data)

    @rule(name=st.sampled_from(NAMESPACES), data=st.data())
    def empty(self, name: str, data: Any) -> None:
        """Everybody leaves, so that the namespace can be deleted."""
        state = self.first.state
        members = state.namespaces[name].members.values() if name in state.namespaces else ()
        removals = tuple(Removal(member.name, member.incarnation) for member in members)
        self.protect(CommitBatch(state.epoch, name, (), removals), data)

    @rule(name=st.sampled_from(NAMESPACES), data=st.data())
    def repeat_round(self, name: str, data: Any) -> None:
        self.protect(RepeatRound(self.first.state.epoch, name), data)

    @rule(step=st.integers(-1, 3))
    def raise_generation(self, step: int) -> None:
        if self.model.generation + step >= 1:
            self.submit(Request(RaiseGeneration(self.model.generation + step)))

    @rule(source=st.sampled_from(("backup", "another")), step=st.integers(0, 2), ahead=st.integers(0, 5))
    def begin_restore(self, source: str, step: int, ahead: int) -> None:
        generation = max(1, self.model.generation + step)
        issued = self.model.incarnations_issued + ahead
        self.submit(Request(BeginRestore(source, generation, self.model.epoch + ahead, issued + 1)))

    @precondition(lambda self: self.protected)
    @rule(data=st.data())
    def repeat_a_request(self, data: Any) -> None:
        """A retry or a zombie: the same entry stands in the log once more, at any later position."""
        request = data.draw(st.sampled_from(self.protected), label="repeated")
        self.submit(request)
        self.repeated += 1
        self.aim("repetitions", self.repeated)

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
        before = replica.state
        replica.crash()
        if not lagging:
            replica.catch_up(self.log, before.applied_index)
            agree("DurableMembership", snapshot.digest(replica.state), snapshot.digest(before))

    @rule()
    def install_snapshot(self) -> None:
        self.lagging.saved = snapshot.encode_state(self.first.state)
        self.lagging.answers = list(self.first.answers)
        self.lagging.crash()

    # -- invariants --------------------------------------------------------------------------------------

    @invariant()
    def linearizable_membership(self) -> None:
        """LinearizableMembership: the state is the model's, whole, after every entry."""
        state, model = self.first.state, self.model
        agree("GenerationExact", state.generation, model.generation)
        agree("LinearizableMembership", state.epoch, model.epoch)
        agree("LinearizableMembership", state.next_incarnation, model.incarnations_issued + 1)
        agree("LinearizableMembership", set(state.namespaces), set(model.namespaces))
        for name, expected in model.namespaces.items():
            namespace = state.namespaces[name]
            agree("LinearizableMembership", members_of(namespace), members_of_model(expected))
            agree("GenerationExact", namespace.version.wire, wire(expected.version))
        assert IncarnationsUnique(model)

    @invariant()
    def apply_once(self) -> None:
        """ApplyOnce: what is remembered of clients is what the model remembers."""
        state = self.first.state
        agree("ApplyOnce", set(state.sessions), set(self.model.sessions))
        for number, expected in self.model.sessions.items():
            answers = {key: (kept.code.value, kept.number) for key, kept in state.sessions[number].answers.items()}
            agree("ApplyOnce", answers, expected.answers)
        operators = [(kept.request_id, (kept.answer.code.value, kept.answer.number)) for kept in state.operator_answers]
        agree("ApplyOnce", operators, [(request_id, answer) for request_id, _, answer in self.model.operators])
        self.aim("answers kept", sum(len(session.answers) for session in state.sessions.values()))

    @invariant()
    def generation_exact(self) -> None:
        """GenerationExact and TableAgreement, over everything that ever was."""
        for name, namespace in self.first.state.namespaces.items():
            version = (namespace.version.generation, namespace.version.counter)
            table = frozenset(as_host(member.host) for member in namespace.members.values())
            known = self.history.setdefault(name, [])
            if not known or known[-1] != (version, table):
                known.append((version, table))
                agree("GenerationExact", GenerationExact(known), True)

    @invariant()
    def replica_agreement(self) -> None:
        """ReplicaAgreement, and the same answers everywhere."""
        lag = self.first.state.applied_index - self.lagging.state.applied_index
        if lag == 0:
            agree("ReplicaAgreement", snapshot.digest(self.lagging.state), snapshot.digest(self.first.state))
        agree("ReplicaAgreement", self.lagging.answers, self.first.answers[: len(self.lagging.answers)])
        self.aim("entries that the lagging replica lacks", lag)

    def finish(self) -> None:
        """The log alone is enough, and so is a snapshot alone."""
        fresh = Replica()
        fresh.catch_up(self.log, len(self.log))
        agree("ReplicaAgreement", snapshot.digest(fresh.state), snapshot.digest(self.first.state))
        agree("DurableMembership", snapshot.decode_state(snapshot.encode_state(fresh.state)), fresh.state)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            for name, limit in self.limits.items():
                setattr(membership, name, limit)


TestMembership = MembershipMachine.TestCase
TestMembership.settings = settings(stateful_step_count=40)
