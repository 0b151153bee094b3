"""What the log says, and what must hold of it: the properties of membership, checked when an entry is first applied.

Checked here: ReplicaAgreement, DurableMembership, LinearizableMembership, ApplyOnce, GenerationExact, MinimalMovement,
Balance, and (together with rights.py) that nobody is buried who may still serve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, evolve, field, frozen

from callboard.core.commands import (
    NO_SESSION,
    Bury,
    Command,
    CommitBatch,
    CommitNativeBatch,
    RepeatRound,
    Request,
    decode_request,
)
from callboard.core.records import AnswerCode, HostRecord, Namespace, ReplicatedState
from callboard.core.slot_records import HostMark, NativeNamespace
from callboard.core.snapshot import digest
from callboard.core.table_delta import TableView, view_of
from harness.simulation.marks import Marks
from harness.violation import PropertyViolation

COMPARED_EVERY = 8
"""Entries of which replicas' whole states are compared; answers, versions and namespaces always are."""


@frozen
class Applied:
    """One position of the log, as it was applied first."""

    command: bytes
    answer: object
    state: ReplicatedState


@define(eq=False)
class History:
    """The entries of the log in their order, whoever applied them first. `removed` is told of incarnations that are no
    members any more, `buried` of those that are taken for gone."""

    removed: Callable[[str, set[int]], None]
    buried: Callable[[str, set[int]], None]
    saw: Callable[[str], None]
    entries: dict[int, Applied] = field(init=False, factory=dict)
    last: int = field(init=False, default=0)
    views: dict[tuple[str, int], TableView] = field(init=False, factory=dict)
    """Tables of native namespaces by version."""
    members: dict[tuple[str, int], dict[str, HostRecord]] = field(init=False, factory=dict)
    """Members of barrier namespaces by version."""
    owner_changes: int = field(init=False, default=0)
    commands: int = field(init=False, default=0)
    newest_answer: int = field(init=False, default=0)
    marks: Marks = field(init=False, factory=Marks)
    operations: int = field(init=False, default=0)
    epochs: dict[tuple[str, int], int] = field(init=False, factory=dict)
    """In which epoch each version of a native namespace came to be."""
    _issued: set[int] = field(init=False, factory=set)
    _done: dict[tuple[int, int], object] = field(init=False, factory=dict)

    @property
    def state(self) -> ReplicatedState:
        """The newest that any replica applied."""
        return self.entries[self.last].state if self.last else ReplicatedState()

    def applied(
        self, replica: str, command: bytes, before: ReplicatedState, after: ReplicatedState, answer: object
    ) -> None:
        """A replica applied an entry."""
        index = after.applied_index
        known = self.entries.get(index)
        if known is None:
            self.entries[index] = Applied(command, answer, after)
            self.last = max(self.last, index)
            self._check_first(command, before, after, answer)
            return
        if known.command != command:
            raise PropertyViolation(
                "DurableMembership", f"position {index} of {replica} has another command than before"
            )
        if known.answer != answer:
            text = f"{replica} answers {answer} to position {index}, where another replica answered {known.answer}"
            raise PropertyViolation("ReplicaAgreement", text)
        if index % COMPARED_EVERY == 0:
            self._compare(replica, index, after)

    def restored(self, replica: str, state: ReplicatedState) -> None:
        """A replica installed a snapshot."""
        if state.applied_index:
            self._compare(replica, state.applied_index, state)

    def _compare(self, replica: str, index: int, state: ReplicatedState) -> None:
        if state != self.entries[index].state:
            raise PropertyViolation("ReplicaAgreement", f"{replica} has another state at position {index} than others")

    def compare_all(self, states: dict[str, ReplicatedState]) -> None:
        """Whole states and their digests, at the end of a run."""
        self._check_acknowledged(states)
        for replica, state in states.items():
            if state.applied_index:
                self._compare(replica, state.applied_index, state)
        newest = [state for state in states.values() if state.applied_index == self.last]
        if len({digest(state) for state in newest}) > 1:
            raise PropertyViolation("ReplicaAgreement", f"equal states at position {self.last} have other digests")

    def _check_acknowledged(self, states: dict[str, ReplicatedState]) -> None:
        """What operators were told is in the newest state, by what they know and not by the log."""
        state = max(states.values(), key=lambda each: each.applied_index)
        if state.applied_index < self.newest_answer:
            text = f"position {self.newest_answer} was acknowledged, but replicas end at {state.applied_index}"
            raise PropertyViolation("DurableMembership", text)
        self.marks.check(state)

    # ---- the first time

    def _check_first(self, command: bytes, before: ReplicatedState, after: ReplicatedState, answer: object) -> None:
        request = decode_request(command)
        self.commands += 1
        if getattr(answer, "code", None) is AnswerCode.STALE_EPOCH:
            self.saw("a command of a deposed leader is refused")
        self._check_once(request, before, after, answer)
        self._check_authority(request.command, before, after)
        for name, namespace in after.native.items():
            earlier = before.native.get(name)
            if earlier is not namespace:
                self.epochs.setdefault((name, namespace.version.wire), after.epoch)
                self._check_native(name, earlier, namespace, request)
        for name, of_sidecars in after.namespaces.items():
            self._check_sidecars(name, before.namespaces.get(name), of_sidecars, request)

    def _check_once(self, request: Request, before: ReplicatedState, after: ReplicatedState, answer: Any) -> None:
        identity = request.request_id
        if identity.session == NO_SESSION or answer.code is AnswerCode.EXPIRED_SESSION:
            return
        key = (identity.session, identity.sequence)
        if key not in self._done:
            self._done[key] = answer
            return
        self.saw("a repeated request is recognised")
        if answer.code is not AnswerCode.STALE_REQUEST and answer != self._done[key]:
            raise PropertyViolation("ApplyOnce", f"request {key} is answered {answer}, after {self._done[key]}")
        if _bare(before) != _bare(after):
            raise PropertyViolation("ApplyOnce", f"request {key} has a second effect: {request.command}")

    def _check_authority(self, command: Command, before: ReplicatedState, after: ReplicatedState) -> None:
        """Who is deposed changes nothing, removals mean one incarnation, and no incarnation is issued twice."""
        if not isinstance(command, (CommitNativeBatch, CommitBatch, RepeatRound)):
            return
        same = before.native.get(command.namespace) is after.native.get(command.namespace)
        same = same and before.namespaces.get(command.namespace) is after.namespaces.get(command.namespace)
        if command.epoch != before.epoch and not same:
            text = f"a command of epoch {command.epoch} takes effect in epoch {before.epoch}: {command}"
            raise PropertyViolation("LinearizableMembership", text)
        was, now = _incarnations(before, command.namespace), _incarnations(after, command.namespace)
        for name, incarnation in now.items():
            if was.get(name) == incarnation:
                continue
            if incarnation in self._issued:
                raise PropertyViolation("LinearizableMembership", f"incarnation {incarnation} is issued twice")
            self._issued.add(incarnation)
        if isinstance(command, RepeatRound):
            return
        kept = was.keys() - {host.name for host in command.upserts}
        removable = {removal.name: removal.incarnation for removal in command.removals}
        for name in sorted(kept - now.keys()):
            if removable.get(name) != was[name]:
                text = f"{name} is removed as incarnation {removable.get(name)}, but it is {was[name]}"
                raise PropertyViolation("LinearizableMembership", text)

    def _check_native(
        self, name: str, before: NativeNamespace | None, after: NativeNamespace, request: Request
    ) -> None:
        if before is None:
            self._note_view(name, after)
            return
        changed = before.members != after.members or before.tables != after.tables
        self._check_version(name, before.version.wire, after.version.wire, changed=changed)
        if changed:
            self._note_view(name, after)
            self._check_movement(name, before, after)
        if after.tombstones is not before.tombstones:
            self.removed(name, after.tombstones.keys() - before.tombstones.keys())
        if isinstance(request.command, Bury):
            self.buried(name, before.tombstones.keys() - after.tombstones.keys())
        for kind, rights in after.rights.items():
            earlier = before.rights.get(kind)
            if earlier is None or earlier is rights:
                continue
            for slot, (old, new) in enumerate(zip(earlier.fences, rights.fences, strict=True)):
                if new < old:
                    raise PropertyViolation(
                        "FenceMonotonic", f"fence of {name}/{kind}/{slot} falls from {old} to {new}"
                    )

    def _note_view(self, name: str, namespace: NativeNamespace) -> None:
        self.views[name, namespace.version.wire] = view_of(namespace)

    def _check_version(self, name: str, before: int, after: int, *, changed: bool) -> None:
        if after != before + (1 if changed else 0):
            text = (
                f"version of {name} goes from {before} to {after}, tables {'changed' if changed else 'did not change'}"
            )
            raise PropertyViolation("GenerationExact", text)
        if changed and ((name, after) in self.views or (name, after) in self.members):
            raise PropertyViolation("GenerationExact", f"version {after} of {name} is used twice")

    def _check_sidecars(self, name: str, before: Namespace | None, after: Namespace, request: Request) -> None:
        if before is after:
            return
        records = {member.name: member.host for member in after.members.values()}
        if before is not None:
            earlier = {member.name: member.host for member in before.members.values()}
            repeated = isinstance(request.command, RepeatRound)
            self._check_version(name, before.version.wire, after.version.wire, changed=repeated or records != earlier)
            if before.version == after.version:
                return
        self.members[name, after.version.wire] = records

    # ---- who owns what

    def _check_movement(self, name: str, before: NativeNamespace, after: NativeNamespace) -> None:
        for kind, table in after.tables.items():
            old = before.tables.get(kind)
            owners = (0,) * len(table.owners) if old is None else old.owners
            moved = [slot for slot, owner in enumerate(table.owners) if owner != owners[slot]]
            self.owner_changes += len(moved)
            self._check_balance(name, kind, after)
            stay = _hosts_of(before, kind) & _hosts_of(after, kind)
            came = _hosts_of(after, kind) - _hosts_of(before, kind)
            if before.marks or after.marks or _reweighed(before, after):
                continue
            self._check_floors(name, kind, after, came)
            self._check_restarts(name, kind, before, after)
            for slot in moved:
                from_one_who_stays = owners[slot] in stay
                equal = len(set(_weights(after).values())) == 1
                if from_one_who_stays and (not came or (equal and table.owners[slot] not in came)):
                    text = f"{name}/{kind}/{slot} moves from {owners[slot]} to {table.owners[slot]}, both of which stay"
                    raise PropertyViolation("MinimalMovement", text)

    def _check_restarts(self, name: str, kind: str, before: NativeNamespace, after: NativeNamespace) -> None:
        """Processes took the place of others of their names, and nobody else came or left: each has the slots that its
        predecessor had."""
        was = {member.name: member for member in before.members.values() if kind in member.host.actor_types}
        now = {member.name: member for member in after.members.values() if kind in member.host.actor_types}
        if was.keys() != now.keys() or kind not in before.tables:
            return
        successors = {was[host].incarnation: now[host].incarnation for host in was}
        for slot, (old, new) in enumerate(zip(before.tables[kind].owners, after.tables[kind].owners, strict=True)):
            if old in successors and new != successors[old]:
                text = f"{name}/{kind}/{slot} goes from {old} to {new}, not to {successors[old]} of the same name"
                raise PropertyViolation("MinimalMovement", text)

    def _check_floors(self, name: str, kind: str, namespace: NativeNamespace, came: set[int]) -> None:
        """Without marks: who came has at least its share rounded down."""
        owners = namespace.tables[kind].owners
        weights = {
            member.incarnation: member.host.weight
            for member in namespace.members.values()
            if kind in member.host.actor_types
        }
        for incarnation in came:
            share = len(owners) * weights[incarnation] // sum(weights.values())
            if owners.count(incarnation) < share:
                text = f"{incarnation} came and owns {owners.count(incarnation)} slots of {name}/{kind}, not {share}"
                raise PropertyViolation("Balance", text)

    def _check_balance(self, name: str, kind: str, namespace: NativeNamespace) -> None:
        owners = namespace.tables[kind].owners
        weights, draining = {}, set()
        for member in namespace.members.values():
            mark = namespace.marks.get(member.name, HostMark(member.name))
            if mark.draining:
                draining.add(member.incarnation)
            elif kind in member.host.actor_types and not mark.cordoned:
                weights[member.incarnation] = member.host.weight if mark.weight is None else mark.weight
        if not weights:
            return
        if not draining.isdisjoint(owners):
            text = f"{min(draining.intersection(owners))} owns slots of {name}/{kind}, though it is to be drained"
            raise PropertyViolation("Balance", text)
        shared = sum(1 for owner in owners if owner == 0 or owner in weights)
        for incarnation, weight in weights.items():
            share = -(-shared * weight // sum(weights.values()))
            owned = owners.count(incarnation)
            if owned > share:
                text = f"{incarnation} owns {owned} slots of {name}/{kind}, its share is {share} of {shared}"
                raise PropertyViolation("Balance", text)

    # ---- clients of the membership

    def calls(self) -> int:
        """A client begins a read or a change: what was acknowledged before has to be seen by it."""
        return self.newest_answer

    def acknowledges(self, began: int, index: int, command: bytes) -> None:
        """A change is acknowledged, `began` being what `calls` returned."""
        self.operations += 1
        known = self.entries.get(index)
        if index <= began or known is None or known.command != command:
            text = f"position {index} is acknowledged, but it holds something else, or lies before the call ({began})"
            raise PropertyViolation("LinearizableMembership", text)
        self.newest_answer = max(self.newest_answer, index)

    def reads(self, began: int, index: int) -> None:
        """A linearizable read saw the state at a position."""
        self.operations += 1
        if index < began:
            text = f"a read saw position {index}, but {began} was acknowledged before it began"
            raise PropertyViolation("LinearizableMembership", text)
        self.newest_answer = max(self.newest_answer, index)


def _reweighed(before: NativeNamespace, after: NativeNamespace) -> bool:
    """Whether a host that stays has another weight."""
    was, now = _weights(before), _weights(after)
    return any(now.get(name, weight) != weight for name, weight in was.items())


def _incarnations(state: ReplicatedState, namespace: str) -> dict[str, int]:
    found = state.native.get(namespace) or state.namespaces.get(namespace)
    return {} if found is None else {name: member.incarnation for name, member in found.members.items()}


def _bare(state: ReplicatedState) -> ReplicatedState:
    """Without what every entry changes."""
    return evolve(state, applied_index=0, entries_applied=0, sessions={})


def _hosts_of(namespace: NativeNamespace, kind: str) -> set[int]:
    return {member.incarnation for member in namespace.members.values() if kind in member.host.actor_types}


def _weights(namespace: NativeNamespace) -> dict[str, int]:
    return {member.name: member.host.weight for member in namespace.members.values()}
