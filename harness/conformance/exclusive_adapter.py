"""`ExclusiveHandoff` on the replicated state machine, `NativeLeader` and `NativeHost`.

The specification's one slot stands for all slots of an actor type: they always move together here, because whoever is
not to own them is marked as draining in the same batch. So the choice of owners, which the specification leaves open,
is made by an operator's marks, and the assignment itself is the code's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import evolve

from callboard.core.commands import Bury, CommitNativeBatch, ConfirmClear, FenceSpan, RaiseFences, Request, SlotSpan
from callboard.core.membership import apply
from callboard.core.native_host_records import (
    AnswerReceived,
    Drained,
    GoneReceived,
    GrantsReceived,
    LeaveRequested,
    Right,
    TableReceived,
    WelcomeReceived,
)
from callboard.core.native_parting import Phase
from callboard.core.table_delta import TableDelta
from harness.conformance.exclusive_network import (
    CONNECTION,
    KIND,
    NAMESPACE,
    SETTINGS,
    SLOT_BITS,
    NativeNetwork,
    Process,
    ProtocolError,
    Said,
)
from harness.conformance.replay import Adapter, Difference
from harness.conformance.values import Record, State

SLOTS = tuple(range(1 << SLOT_BITS))
LAST_WORD_AT_ONCE = "last word at once"
"""Name of a gap: see harness/conformance/models.py."""
ALIVE = {"running", "leaving"}
ON_THE_WAY_MS = 7
"""How long an answer takes, on the host's clock."""


def name_of(incarnation: int) -> str:
    """MCHostOf: incarnations 1, 3, 5 are lives of one host, 2 and 4 of another."""
    return "a" if incarnation % 2 else "b"


def of(function: Any, argument: int) -> Any:
    """A function over 1..n at one argument."""
    return function[argument - 1] if isinstance(function, tuple) else function[argument]


def changed(before: Any, after: Any) -> int:
    """The argument at which two functions over 1..n differ, 0 if nowhere."""
    return next((at for at, (old, new) in enumerate(zip(before, after, strict=True), start=1) if old != new), 0)


class ExclusiveAdapter(Adapter):
    """See the module's description. `members`, `owners` etc. are of the specification's incarnations."""

    def __init__(self) -> None:
        super().__init__()
        self.network = NativeNetwork()
        self.said: frozenset[Record] = frozenset()
        """The specification's messages as of the present step: whatever is brought must be among them."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.network.reindex()

    # ---- the beginning

    def begin(self, state: State) -> None:
        network = self.network
        network.create()
        self.said = state["msgs"]
        for incarnation in sorted(state["members"]):
            network.new_process(incarnation, name_of(incarnation))
            network.code_number[incarnation] = incarnation
            network.lose("batch")
        network.pass_time(SETTINGS.tick_ms)
        self._commit_batch(state, "batch")
        for incarnation in sorted(state["members"]):
            process = network.processes[incarnation]
            network.tell(process, WelcomeReceived(CONNECTION, process.welcomes[1]))
            network.tell(process, TableReceived(CONNECTION, network.snapshots[1]))
            self._start_lease(process, state)

    def _commit_batch(self, after: State, proposal: str | None, command: CommitNativeBatch | None = None) -> None:
        network = self.network
        if proposal is not None:
            if proposal not in network.proposals:
                raise Difference("the leader proposes no batch, though a host says hello")
            proposed = network.proposals[proposal][1]
            assert isinstance(proposed, CommitNativeBatch)
            command = proposed
        members = {incarnation: name_of(incarnation) for incarnation in after["members"]}
        network.commit(network.batch(of(after["owner"], 1), members, command), proposal)

    # ---- steps

    def step(self, action: str, before: State, after: State) -> None:
        self.said = after["msgs"]
        try:
            getattr(self, f"_{action}")(before, after)
        except ProtocolError as problem:
            raise Difference(f"{action}: {problem}") from None
        self._check_proposals(after)

    def _Upsert(self, before: State, after: State) -> None:
        (incarnation,) = after["issued"] - before["issued"]
        network = self.network
        network.lose("batch")
        network.pass_time(SETTINGS.tick_ms)
        network.code_number[incarnation] = network.state.next_incarnation
        network.new_process(incarnation, name_of(incarnation))
        self._commit_batch(after, "batch")
        if not network.processes[incarnation].welcomes:
            raise Difference("Upsert: the new member is not welcomed")

    def _Remove(self, before: State, after: State) -> None:
        """By the leader, if it knows that the host leaves; else as if by an operator: see `NativeNetwork.removal`."""
        (incarnation,) = before["members"] - after["members"]
        network = self.network
        if of(before["process"], incarnation) == "stopped":
            network.bring_farewell(network.processes[incarnation])
            network.pass_time(SETTINGS.tick_ms)
        _, proposed = network.proposals.get("batch", (0, None))
        removals = proposed.removals if isinstance(proposed, CommitNativeBatch) else ()
        if [each.incarnation for each in removals] == [network.code_number[incarnation]]:
            self._commit_batch(after, "batch")
        elif of(before["process"], incarnation) == "stopped":
            raise Difference(f"Remove: {incarnation} said its last word, but the leader does not remove it")
        else:
            self._commit_batch(after, None, network.removal(incarnation))

    def _Rebalance(self, before: State, after: State) -> None:
        self._commit_batch(after, None)

    def _ProposeConfirm(self, before: State, after: State) -> None:
        since = of(before["since"], 1)
        for incarnation in sorted(of(before["pending"], 1)):
            self._bring(self.network.processes[incarnation], after)
        if since not in self.network.confirms:
            self.network.lose("confirm")  # one for an earlier since is under way: it is in nobody's way
        if since not in self.network.confirms:
            raise Difference(f"ProposeConfirm: the leader does not propose to confirm since {since}")

    def _ApplyConfirm(self, before: State, after: State) -> None:
        command = self.network.confirms[of(before["since"], 1)]
        present = self.network.proposals.get("confirm")
        self.network.commit(command, "confirm" if present is not None and present[1] == command else None)

    def _Bury(self, before: State, after: State) -> None:
        (incarnation,) = before["tombs"] - after["tombs"]
        network = self.network
        number = network.code_number[incarnation]
        if incarnation not in before["waited"]:
            network.bring_farewell(network.processes[incarnation])
        self._want_buried(number)
        _, command = network.proposals.get("bury", (0, None))
        if not isinstance(command, Bury) or number not in command.incarnations:
            raise Difference(f"Bury: the leader does not propose to bury {incarnation}, but {command}")
        if command.incarnations == (number,):
            network.commit(command, "bury")
        else:  # one at a time, as in the specification: the others are proposed anew
            network.commit(evolve(command, incarnations=(number,)))
            network.lose("bury")

    def _want_buried(self, number: int) -> None:
        """An earlier proposal for others alone is lost, so that the leader proposes for all anew."""
        _, command = self.network.proposals.get("bury", (0, None))
        if isinstance(command, Bury) and number not in command.incarnations:
            self.network.lose("bury")

    def _RaiseFence(self, before: State, after: State) -> None:
        network = self.network
        wanted = (of(before["since"], 1), of(before["fence"], 1))
        self._bring(network.processes[of(before["owner"], 1)], before)
        if self._fence_proposed() != wanted:
            network.lose("fence")
        if self._fence_proposed() != wanted:
            raise Difference(f"RaiseFence: the leader does not propose another fence than {wanted}")
        network.commit(network.proposals["fence"][1], "fence")

    def _fence_proposed(self) -> tuple[int, int] | None:
        _, command = self.network.proposals.get("fence", (0, None))
        return (command.spans[0].since, command.spans[0].fence) if isinstance(command, RaiseFences) else None

    def _TakeOffice(self, before: State, after: State) -> None:
        """The owner's next renewal brings out the new leader's grants, which may then come at any time."""
        self.network.take_office()
        owner = self.network.processes.get(of(after["owner"], 1))
        if owner is not None and not owner.crashed and of(after["process"], owner.number) == "running":
            self.network.renew(owner)
            self._bring(owner, after)
            self.network.round_trip()

    def _WaitRunsOut(self, before: State, after: State) -> None:
        """To the millisecond: one earlier, the leader must not want to bury anybody."""
        (incarnation,) = after["waited"] - before["waited"]
        over_ms = self.network.wait_over_ms(self.network.processes[incarnation])
        self.network.pass_time(max(0, over_ms - 1 - self.network.leader_ms))
        self._check_proposals(before)
        self.network.pass_time(over_ms - self.network.leader_ms)
        self._want_buried(self.network.code_number[incarnation])

    # ---- steps of hosts

    def _Start(self, before: State, after: State) -> None:
        process = self.network.processes[changed(before["process"], after["process"])]
        self.network.tell(process, WelcomeReceived(CONNECTION, process.welcomes[min(process.welcomes)]))
        self.network.tell(process, TableReceived(CONNECTION, self._table(0, of(after["table"], process.number))))
        self.network.speak(process)

    def _Install(self, before: State, after: State) -> None:
        incarnation = changed(before["table"], after["table"])
        process = self.network.processes[incarnation]
        installed = of(before["table"], incarnation)["version"]
        self.network.tell(process, TableReceived(CONNECTION, self._table(installed, of(after["table"], incarnation))))
        self.network.speak(process)

    def _table(self, installed: int, wanted: Record) -> TableDelta:
        """The delta if it leads there, else the snapshot: a host may have skipped versions."""
        version = wanted["version"]
        return self.network.deltas[version] if version == installed + 1 else self.network.snapshots[version]

    def _LearnGone(self, before: State, after: State) -> None:
        incarnation = changed(before["process"], after["process"])
        process = self.network.processes[incarnation]
        versions = [
            message["version"]
            for message in before["msgs"]
            if message["kind"] == "table"
            and message["version"] > of(before["table"], incarnation)["version"]
            and incarnation not in message["members"]
        ]
        if process.gone is not None and self.network.leader_ms % 2:
            self.network.tell(process, GoneReceived(CONNECTION, process.gone))
        else:
            self.network.tell(process, TableReceived(CONNECTION, self.network.snapshots[min(versions)]))

    def _Leave(self, before: State, after: State) -> None:
        process = self.network.processes[changed(before["process"], after["process"])]
        self.network.tell(process, LeaveRequested("stop"))

    def _LetGo(self, before: State, after: State) -> None:
        process = self.network.processes[changed(before["right"], after["right"])]
        self.network.tell(process, Drained(KIND, SLOTS))
        self.network.speak(process)

    def _Accept(self, before: State, after: State) -> None:
        incarnation = changed(before["right"], after["right"])
        process = self.network.processes[incarnation]
        right = of(of(after["right"], incarnation), 1)
        epoch = of(after["heard"], incarnation)
        number = self.network.code_number[incarnation]
        key = (number, right["since"], right["fence"], epoch)
        if key not in self.network.grants and epoch == self.network.state.epoch:
            self.network.renew(process)
            self._bring(process, after)
            self.network.round_trip()
        if key not in self.network.grants:
            raise Difference(f"Accept: the leader of epoch {epoch} never granted {key} ({self.network.grants.keys()})")
        self.network.tell(process, GrantsReceived(CONNECTION, self.network.grants[key]))
        admitted = process.machine.admit(KIND, SLOTS[0], process.clock_ms)
        if not isinstance(admitted, Right):
            raise Difference(f"Accept: incarnation {incarnation} does not admit: {admitted}")
        process.rights.append(admitted)
        if epoch != of(before["heard"], incarnation) and epoch in process.welcomes:
            # The leader's welcome is heard now, if not before: only then does the host report in full.
            self.network.tell(process, WelcomeReceived(CONNECTION, process.welcomes[epoch]))
        self.network.speak(process)

    def _HearOffice(self, before: State, after: State) -> None:
        incarnation = changed(before["heard"], after["heard"])
        process = self.network.processes[incarnation]
        epoch = of(after["heard"], incarnation)
        if epoch not in process.welcomes:
            raise Difference(f"HearOffice: the leader of epoch {epoch} does not welcome {incarnation}")
        self.network.tell(process, WelcomeReceived(CONNECTION, process.welcomes[epoch]))
        self.network.speak(process)

    def _SayFarewell(self, before: State, after: State) -> None:
        process = self.network.processes[changed(before["process"], after["process"])]
        if process.farewell is None:
            self.network.speak(process)
        if process.farewell is None:
            raise Difference(f"SayFarewell: incarnation {process.number} says none")

    def _LeaseRunsOut(self, before: State, after: State) -> None:
        process = self.network.processes[changed(before["lease"], after["lease"])]
        process.clock_ms += process.machine.lease_remaining_ms(process.clock_ms) or 0

    def _LeaseStarts(self, before: State, after: State) -> None:
        self._start_lease(self.network.processes[changed(before["lease"], after["lease"])], after)

    def _start_lease(self, process: Process, state: State) -> None:
        """A renewal, and the answer to it, which takes a while."""
        network = self.network
        network.renew(process)
        earlier = process.last_answer
        self._bring(process, state)
        network.round_trip()
        if process.last_answer is None or process.last_answer == earlier:
            raise Difference(f"LeaseStarts: incarnation {process.number} is not answered")
        process.clock_ms += ON_THE_WAY_MS
        network.answer(process)
        passed_ms = process.clock_ms - process.sent_ms[process.last_answer.number]
        remaining_ms = process.machine.lease_remaining_ms(process.clock_ms)
        self.demand("LeaseStarts: what is left of the lease", remaining_ms, SETTINGS.lease_ms - passed_ms)

    def _Crash(self, before: State, after: State) -> None:
        self.network.processes[changed(before["process"], after["process"])].crashed = True

    # ---- reports

    def _bring(self, process: Process, state: State) -> None:
        """The leader hears what the host said, as far as the specification's host has said it, too."""
        said = [each for each in process.unheard if self._is_said(process, each, state)]
        if said:
            self.network.bring(process, process.unheard.index(said[-1]) + 1)

    def _is_said(self, process: Process, said: Said, state: State) -> bool:
        """Whether a renewal claims nothing that matters (to a slot that waits for its sender) and was not said."""
        number = process.number
        waited_for = number in of(state["pending"], 1) and said.version >= of(state["since"], 1)
        released = said.holds or not waited_for
        released = released or any(
            message["kind"] == "released" and message["from"] == number and message["upto"] >= said.version
            for message in state["msgs"]
        )
        present = (of(state["since"], 1), of(state["fence"], 1))
        requested = all(
            (each.since, each.fence) != present
            or Record({"kind": "request", "from": number, "slot": 1, "since": each.since, "last": each.fence})
            in state["msgs"]
            for each in said.renewal.requests
        )
        return released and requested

    def _check_proposals(self, state: State) -> None:
        """Whatever the leader wants to put into the log, the specification would allow."""
        numbers = {number: incarnation for incarnation, number in self.network.code_number.items()}
        for kind, (_, command) in self.network.proposals.items():
            match command:
                case Bury(_, incarnations):
                    for number in incarnations:
                        said = any(m["kind"] == "farewell" and m["from"] == numbers[number] for m in state["msgs"])
                        if numbers[number] not in state["waited"] and not said:
                            raise Difference(f"the leader wants to bury {numbers[number]} too early")
                case ConfirmClear(_, (span,)) if span.since == of(state["since"], 1):
                    for giver in of(state["pending"], 1):
                        if not any(
                            m["kind"] == "released" and m["from"] == giver and m["upto"] >= span.since
                            for m in state["msgs"]
                        ):
                            raise Difference(f"the leader wants to confirm since {span.since}, but {giver} holds on")
                case CommitNativeBatch(removals=removals):
                    for removal in removals:
                        if of(state["process"], numbers[removal.incarnation]) not in {"leaving", "stopped", "crashed"}:
                            raise Difference(f"the leader wants to remove {numbers[removal.incarnation]}: {kind}")
                case _:
                    pass

    # ---- comparing

    def compare(self, state: State) -> None:
        self._compare_server(state)
        for incarnation, process in self.network.processes.items():
            if not process.crashed and of(state["process"], incarnation) != "unborn":
                self._compare_host(state, process)
        self._compare_grants(state)

    def _compare_server(self, state: State) -> None:
        namespace, numbers = self.network.namespace, self.network.code_number
        self.demand("version", namespace.version.wire, state["version"])
        self.demand("epoch", self.network.state.epoch, state["epoch"])
        members = {member.incarnation for member in namespace.members.values()}
        self.demand("members", members, {numbers[each] for each in state["members"]})
        self.demand("issued", numbers.keys(), set(state["issued"]))
        self.demand("tombs", set(namespace.tombstones), {numbers[each] for each in state["tombs"]})
        table, rights = namespace.tables[KIND], namespace.rights[KIND]
        owner, since, fence = (of(state[name], 1) for name in ("owner", "since", "fence"))
        self.demand("owner", set(table.owners), {numbers.get(owner, 0)})
        self.demand("since", set(table.since), {since})
        self.demand("fence", set(rights.fences), {fence})
        pending = {rights.pending.get(slot, ()) for slot in SLOTS}
        self.demand("pending", pending, {tuple(sorted(numbers[each] for each in of(state["pending"], 1)))})
        proposed = {each["since"] for each in state["proposed"]}
        self.demand("proposed, and not by the code", proposed - self.network.confirms.keys(), set())
        if state["waited"]:
            _, command = self.network.proposals.get("bury", (0, None))
            waited = {numbers[each] for each in state["waited"]}
            self.demand("waited", set(command.incarnations) & waited if isinstance(command, Bury) else (), waited)

    def _compare_host(self, state: State, process: Process) -> None:
        machine, now_ms, i = process.machine, process.clock_ms, process.number
        life = of(state["process"], i)
        right = of(of(state["right"], i), 1)
        if machine.phase is Phase.OVER and life == "leaving" and not (right["live"] and of(state["lease"], i)):
            self.gaps[LAST_WORD_AT_ONCE] += 1
            return
        phases = {"running": Phase.RUNNING, "leaving": Phase.LEAVING, "stopped": Phase.OVER}
        self.demand(f"process[{i}]", machine.phase, phases[life])
        if life == "stopped":
            return
        view, table = machine.view, of(state["table"], i)
        assert view is not None
        self.demand(f"table[{i}].version", view.version, table["version"])
        owner = self.network.code_number.get(of(table["owner"], 1), 0)
        self.demand(f"table[{i}].owner", set(view.tables[KIND].owners), {owner})
        self.demand(f"table[{i}].since", set(view.tables[KIND].since), {of(table["since"], 1)})
        if of(state["heard"], i):
            self.demand(f"heard[{i}]", machine.epoch, of(state["heard"], i))
        remaining_ms = machine.lease_remaining_ms(now_ms)
        self.demand(f"lease[{i}]", remaining_ms is None or remaining_ms > 0, of(state["lease"], i))
        holds = right["live"] and of(state["lease"], i)
        self._compare_rights(process, right, holds=holds)
        admits = holds and life == "running" and right["since"] == of(table["since"], 1)
        for slot in SLOTS:
            self.demand(f"Admit({i}) enabled", isinstance(machine.admit(KIND, slot, now_ms), Right), admits)

    def _compare_rights(self, process: Process, right: Record, *, holds: bool) -> None:
        """The gate passes the effects of turns admitted under the live right, and of no other."""
        for each in process.rights:
            expected = holds and (each.since, each.fence) == (right["since"], right["fence"])
            is_open = process.machine.gate_open(each, process.clock_ms)
            self.demand(f"Effect({process.number}) under fence {each.fence} enabled", is_open, expected)
        if holds and not process.rights:
            raise Difference(f"right[{process.number}] lives, but the host was never granted anything")

    def _compare_grants(self, state: State) -> None:
        """The code never grants what the specification does not."""
        numbers = self.network.code_number
        granted = {
            (numbers[message["to"]], message["since"], message["fence"], message["epoch"])
            for message in state["msgs"]
            if message["kind"] == "grant"
        }
        for key in self.network.grants:
            if key not in granted:
                raise Difference(f"the code grants {key} (to, since, fence, epoch), the specification only {granted}")

    # ---- what the specification refuses

    def probe(self, state: State) -> None:
        self._probe_apply(state)
        for process in list(self.network.processes.values()):
            if process.crashed or of(state["process"], process.number) not in ALIVE:
                continue
            for message in self._refused_grants(state, process):
                self.network.tell(process, message)
            for version, snapshot in self.network.snapshots.items():
                if version <= of(state["table"], process.number)["version"]:
                    self.network.tell(process, TableReceived(CONNECTION, snapshot))
            right = of(of(state["right"], process.number), 1)
            table = of(state["table"], process.number)
            keeps = right["since"] == of(table["since"], 1) and of(state["process"], process.number) == "running"
            if keeps:
                self.network.tell(process, Drained(KIND, SLOTS))
            for answer in process.answers:
                self.network.tell(process, AnswerReceived(CONNECTION, answer))
        self.compare(state)

    def _refused_grants(self, state: State, process: Process) -> Iterator[GrantsReceived]:
        """Grants that the host must not accept: its own that do not fit, and those of others."""
        i = process.number
        right, table = of(of(state["right"], i), 1), of(state["table"], i)
        for (to, since, fence, epoch), grants in self.network.grants.items():
            if epoch > process.machine.epoch:
                continue
            fits = since == of(table["since"], 1) and fence > right["fence"] and epoch >= of(state["heard"], i)
            mine = to == self.network.code_number[i]
            if mine and fits and of(state["lease"], i) and of(state["process"], i) == "running":
                continue
            yield GrantsReceived(CONNECTION, grants)

    def _probe_apply(self, state: State) -> None:
        """Commands that are about another since, fence, incarnation or epoch change nothing."""
        numbers = self.network.code_number
        since, fence = of(state["since"], 1), of(state["fence"], 1)
        slots = len(SLOTS)
        others = [other for other in range(state["version"] + 1) if other != since]
        commands: list[Any] = [ConfirmClear(NAMESPACE, (SlotSpan(KIND, 0, slots, other),)) for other in others]
        commands += [RaiseFences(NAMESPACE, (FenceSpan(KIND, 0, slots, other, fence),)) for other in others]
        commands += [RaiseFences(NAMESPACE, (FenceSpan(KIND, 0, slots, since, fence - 1),))]
        commands += [Bury(NAMESPACE, tuple(numbers[each] for each in sorted(state["issued"] - state["tombs"])))]
        gone = sorted(state["issued"] - state["members"])
        commands += [self.network.removal(each) for each in gone]
        commands += [evolve(self.network.removal(each), epoch=state["epoch"] - 1) for each in sorted(state["members"])]
        for command in commands:
            after, _ = apply(self.network.state, self.network.state.applied_index + 1, Request(command))
            if after.native != self.network.state.native:
                raise Difference(f"{command} has an effect")
