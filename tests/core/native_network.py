"""Leader and host machines against each other, over the real replicated state, in a model network with real time.

`NativeNetwork` carries effects out, keeps true time and a clock with its own rate for each process, and checks the
properties after every step. Words on one connection keep their order or are lost; those of several connections, and
those of a deposed leader, come whenever they like. What a leader put into the log commits late, or never, also after
it was deposed. `PropertyViolation` names the property that a step broke.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from attrs import Factory, define, evolve, field

from callboard.core.commands import (
    Command,
    CreateNativeNamespace,
    RaiseFeatureLevel,
    Request,
    TakeOffice,
)
from callboard.core.handoff_messages import NO_INCARNATION, Gone, SlotRun, Tick
from callboard.core.membership import KNOWN_FEATURE_LEVEL, apply
from callboard.core.native_host import NativeHost
from callboard.core.native_host_records import (
    AnswerReceived,
    BecomeNewIncarnation,
    CancelTurns,
    Connected,
    Disconnected,
    Drained,
    Ended,
    GoneReceived,
    Granted,
    GrantsReceived,
    HostEffect,
    HostEvent,
    Right,
    SendFarewell,
    SendHello,
    SendRenewal,
    SendTableRequest,
    StopAdmitting,
    Stopped,
    TableReceived,
    WelcomeReceived,
)
from callboard.core.native_leader import NativeLeader
from callboard.core.native_leader_records import (
    CloseStream,
    FarewellReceived,
    HelloReceived,
    LeaderEffect,
    LeaderEvent,
    ProposalDone,
    ProposalFailed,
    Propose,
    RenewalReceived,
    RequestRound,
    RoundConfirmed,
    RoundFailed,
    SendAnswer,
    SendGone,
    SendGrants,
    SendTable,
    SendWelcome,
    StateChanged,
    StreamEnded,
    TableRequested,
)
from callboard.core.records import Answer, ReplicatedState
from callboard.core.slot_records import HandoffSettings, NativeHostRecord, NativeNamespace
from callboard.core.table_delta import make_view, view_of
from callboard.core.versions import Policy
from harness.violation import PropertyViolation
from tests.core.native_checks import check_rights
from tests.core.native_parts import (
    NAMESPACE,
    RATE_ERROR_PPM,
    SETTINGS,
    SLOT_BITS,
    STEP_MS,
    Clock,
    Entry,
    Office,
    Path,
    Process,
    Slot,
    Turn,
)


@define(eq=False)
class NativeNetwork:
    """Everything there is. `policy` and `settings` of its one namespace."""

    random: Random
    policy: Policy = Policy.EXCLUSIVE
    settings: HandoffSettings = SETTINGS
    true_ms: int = 0
    state: ReplicatedState = Factory(ReplicatedState)
    offices: list[Office] = Factory(list)
    processes: list[Process] = Factory(list)
    paths: list[Path] = Factory(list)
    entries: list[Entry] = Factory(list)
    digests: dict[int, bytes] = Factory(dict)
    highest_fence: dict[Slot, int] = Factory(dict)
    stored: dict[Slot, int] = Factory(dict)
    removed: set[int] = Factory(set)
    members: set[int] = Factory(set)
    streams: int = 0
    tokens: int = 0
    grants_seen: int = 0
    leader_of_a_later_epoch_seen: bool = field(init=False, default=False)
    rejoins: int = 0

    def __attrs_post_init__(self) -> None:
        self._apply(TakeOffice("r", "0"))
        self._apply(RaiseFeatureLevel(1, KNOWN_FEATURE_LEVEL))
        answer = self._apply(CreateNativeNamespace(NAMESPACE, self.policy, SLOT_BITS, self.settings))
        assert answer.succeeded, answer
        self._open_office()

    # ---- the log

    @property
    def namespace(self) -> NativeNamespace:
        return self.state.native[NAMESPACE]

    @property
    def office(self) -> Office:
        """The current one."""
        return self.offices[-1]

    def _apply(self, command: Command) -> Answer:
        self.state, answer = apply(self.state, self.state.applied_index + 1, Request(command))
        if NAMESPACE in self.state.native:
            namespace = self.namespace
            digest = view_of(namespace).digest
            assert self.digests.setdefault(namespace.version.wire, digest) == digest
            members = {member.incarnation for member in namespace.members.values()}
            self.removed |= self.members - members
            self.members = members
        return answer

    def _clock(self) -> Clock:
        return Clock(self.random.randrange(10_000), self.random.choice([-RATE_ERROR_PPM, 0, RATE_ERROR_PPM]))

    def _open_office(self) -> None:
        clock = self._clock()
        epoch = self.state.epoch
        machine = NativeLeader(NAMESPACE, epoch, self.namespace, clock.read(self.true_ms))
        self.offices.append(Office(epoch, clock, machine))
        del self.offices[:-3]

    def take_office(self, *, follows: bool = False) -> None:
        """Another leader. Fronts move some connections over at once; the others break some time.

        `follows`: the old one goes on following the log.
        """
        old = self.office
        self._apply(TakeOffice("r", str(self.state.epoch)))
        old.follows = follows
        if follows:
            old.inbox.append(StateChanged(self.namespace, self.state.epoch))
        self._open_office()
        for path in list(self.paths):
            current = path.process.machine._connection == path.connection and path.hello is not None
            if current and self.random.random() < 0.7:
                self._move(path)

    def _move(self, path: Path) -> None:
        """A front attaches a connection to the newest leader, repeating its hello."""
        assert path.hello is not None
        moved = self._path(path.process, path.connection)
        moved.hello = path.hello
        moved.up.append(HelloReceived(moved.stream_id, evolve(path.hello, by_front=True)))

    def commit(self, entry: Entry, *, lost: bool = False) -> None:
        """An entry of the log commits, or never will."""
        self.entries.remove(entry)
        office = entry.office
        current = office.epoch == self.state.epoch
        if entry.command is None:
            office.inbox.append(RoundConfirmed(entry.number) if current and not lost else RoundFailed(entry.number))
            return
        if lost:
            office.inbox.append(ProposalFailed(entry.number))
            return
        answer = self._apply(entry.command)
        for each in self.offices:
            if each.follows:
                each.inbox.append(StateChanged(self.namespace, self.state.epoch))
        if office.follows:
            office.inbox.append(ProposalDone(entry.number, answer))

    def hear_log(self, office: Office) -> None:
        """A leader takes in the oldest event of the log that is on its way to it."""
        self._lead(office, office.inbox.popleft())

    # ---- processes and connections

    def start(self, name: str, kinds: tuple[str, ...]) -> None:
        """A new process. One of the same name may still run."""
        process = Process(name, kinds, self._clock(), self._machine(name, kinds))
        self.processes.append(process)
        self.connect(process)

    def _machine(self, name: str, kinds: tuple[str, ...]) -> NativeHost:
        self.tokens += 1
        record = NativeHostRecord(name, f"{name}:{self.tokens}", kinds, f"token-{self.tokens}")
        return NativeHost(NAMESPACE, self.policy, record)

    def connect(self, process: Process, office: Office | None = None) -> None:
        """A new session, whatever became of the one before. `office`: that a front still takes for the leader's."""
        if process.crashed or process.stopped or process.paused:
            return
        process.connections += 1
        self._path(process, process.connections, office)
        self._host(process, Connected(process.connections))

    def _path(self, process: Process, connection: int, office: Office | None = None) -> Path:
        self.streams += 1
        path = Path(self.streams, office or self.office, process, connection)
        self.paths.append(path)
        return path

    def break_path(self, path: Path) -> None:
        """Both ends will notice, after what is on its way."""
        if path in self.paths and (not path.up or path.up[-1] is not None):
            path.up.append(None)
            path.down.append(None)

    def crash(self, process: Process) -> None:
        process.crashed = True
        process.turns.clear()
        for path in list(self.paths):
            if path.process is process:
                path.up.append(None)

    def deliver_up(self, path: Path) -> None:
        event = path.up.popleft()
        if event is None:
            self._lead(path.leader, StreamEnded(path.stream_id))
            if path in self.paths:
                self.paths.remove(path)
        else:
            self._lead(path.leader, event)

    def deliver_down(self, path: Path) -> None:
        event = path.down.popleft()
        process = path.process
        if process.crashed:
            return
        self._host(process, Disconnected(path.connection) if event is None else event)

    def corrupt_down(self, path: Path) -> None:
        """A table is damaged on its way."""
        event = path.down[0] if path.down else None
        if isinstance(event, TableReceived) and event.delta.changes:
            path.down[0] = evolve(event, delta=evolve(event.delta, changes=event.delta.changes[1:]))

    # ---- time

    def advance(self, duration_ms: int, *, settle: bool = False) -> None:
        """Let true time pass, with ticks for everybody who is due and not paused. `settle`: and everything flows."""
        until_ms = self.true_ms + duration_ms
        while self.true_ms < until_ms:
            self.true_ms += min(STEP_MS, until_ms - self.true_ms)
            if settle:
                self.flow_all()
            for office in self.offices:
                due_ms = office.machine.next_deadline_ms()
                if due_ms is not None and office.clock.read(self.true_ms) >= due_ms:
                    self._lead(office, Tick())
            for process in self.processes:
                self.tick(process)
            check_rights(self)

    def tick(self, process: Process) -> None:
        if process.paused or process.crashed:
            return
        due_ms = process.machine.next_deadline_ms()
        now_ms = process.clock.read(self.true_ms)
        if due_ms is not None and now_ms >= due_ms:
            self._host(process, Tick())
            following = process.machine.next_deadline_ms()
            if following is not None and following <= now_ms:
                raise PropertyViolation("Convergence", f"host {process.name} wants ticks for ever at {now_ms}")

    def flow_all(self) -> None:
        """Everything that is on its way arrives, everything that may drain drains."""
        for _ in range(200):
            busy = False
            for entry in list(self.entries):
                self.commit(entry)
                busy = True
            for office in self.offices:
                while office.inbox:
                    self.hear_log(office)
                    busy = True
            for path in list(self.paths):
                while path.up and path in self.paths:
                    self.deliver_up(path)
                    busy = True
                while path.down:
                    self.deliver_down(path)
                    busy = True
            for process in self.processes:
                busy = self.drain(process) or busy
            if not busy:
                return
        raise PropertyViolation("Convergence", "machines keep each other busy for ever")

    # ---- turns

    def admit(self, process: Process, kind: str, slot: int, *, stubborn: bool = False) -> None:
        """A call comes. The machine says whether it may start a turn."""
        now_ms = process.clock.read(self.true_ms)
        if process.crashed or process.paused:
            return
        right = process.machine.admit(kind, slot, now_ms)
        if not isinstance(right, Right):
            return
        view = process.machine.view
        assert view is not None
        table = view.tables[kind]
        if table.owners[slot] != process.machine.incarnation or table.since[slot] != right.since:
            text = f"{process.name} admits to {kind}/{slot} at version {view.version}, which is not its own"
            raise PropertyViolation("TurnsInsideRights", text)
        process.turns.append(Turn(right, now_ms, stubborn))

    def effect(self, process: Process, turn: Turn) -> None:
        """A turn wants to write to the store, which compares fences."""
        now_ms = process.clock.read(self.true_ms)
        if process.crashed or not process.machine.gate_open(turn.right, now_ms):
            return
        key = (turn.right.actor_type, turn.right.slot)
        live = process.machine._rights.live.get(key[0], {}).get(key[1])
        if live is None or live.fence != turn.right.fence:
            raise PropertyViolation("TurnsInsideRights", f"{process.name} writes to {key} under a right that ended")
        if self.policy is Policy.EXCLUSIVE:
            if turn.right.fence < self.stored.get(key, 0):
                raise PropertyViolation("FenceMonotonic", f"{process.name} is refused at {key} though its gate is open")
            self.stored[key] = turn.right.fence

    def drain(self, process: Process) -> bool:
        """The runtime reports slots in which nothing runs any more."""
        if process.paused or process.crashed:
            return False
        busy = {(turn.right.actor_type, turn.right.slot) for turn in process.turns if not turn.cut_off}
        done = sorted(process.draining - busy)
        process.draining &= busy
        for kind, slot in done:
            self._host(process, Drained(kind, (slot,)))
        return bool(done)

    # ---- carrying out effects

    def _lead(self, office: Office, event: LeaderEvent) -> None:
        for effect in office.machine.handle(event, office.clock.read(self.true_ms)):
            self._carry_out_leader(office, effect)

    def _carry_out_leader(self, office: Office, effect: LeaderEffect) -> None:
        match effect:
            case RequestRound(round_id):
                self.entries.append(Entry(office, round_id, None))
                return
            case Propose(proposal_id, command):
                self.entries.append(Entry(office, proposal_id, command))
                return
            case _:
                pass
        path = next((each for each in self.paths if each.stream_id == effect.stream_id), None)
        if path is None:
            return
        match effect:
            case SendWelcome(_, welcome):
                path.down.append(WelcomeReceived(path.connection, welcome))
            case SendTable(_, from_version, to_version):
                path.down.append(TableReceived(path.connection, office.machine.delta(from_version, to_version)))
            case SendAnswer(_, answer):
                path.down.append(AnswerReceived(path.connection, answer))
            case SendGrants(_, grants):
                path.down.append(GrantsReceived(path.connection, grants))
            case SendGone(_, gone):
                self.is_true(gone, office.machine._streams[path.stream_id].host)
                path.down.append(GoneReceived(path.connection, gone))
            case CloseStream(_, status, text):
                # Walks lose hellos, which no stream does.
                if status != "ABORTED" and text != "a renewal came before the hello":
                    raise PropertyViolation("Convergence", f"{path.process.name} did nothing wrong: {status}: {text}")
                self.break_path(path)

    def is_true(self, gone: Gone, host: NativeHostRecord) -> None:
        """Whichever leader says it to this host, deposed or not: the log has no such member."""
        member = self.namespace.members.get(host.name)
        is_member = member is not None and member.host.process == host.process
        if gone.incarnation in self.members or (gone.incarnation == NO_INCARNATION and is_member):
            raise PropertyViolation("Convergence", f"a member is told that {gone.text}")

    def _host(self, process: Process, event: HostEvent) -> None:
        if process.stopped and not isinstance(event, Tick):
            return
        machine = process.machine
        for effect in machine.handle(event, process.clock.read(self.true_ms)):
            self._carry_out_host(process, effect)
        view = machine.view
        if view is not None and machine is process.machine:
            if view.version < process.version:
                text = f"{process.name} installs {view.version} after {process.version}"
                raise PropertyViolation("TableMonotonic", text)
            if view.digest != self.digests[view.version] or self._actual_digest(machine) != view.digest:
                raise PropertyViolation("TableAgreement", f"{process.name} has another table {view.version}")
            process.version = view.version

    def _actual_digest(self, machine: NativeHost) -> bytes:
        view = machine.view
        assert view is not None
        return make_view(view.version, view.slot_bits, view.hosts, view.tables).digest

    def _up(self, connection: int, process: Process, make: Callable[[int], LeaderEvent]) -> None:
        """To the newest path of a connection."""
        path = next(
            (each for each in reversed(self.paths) if each.process is process and each.connection == connection), None
        )
        if path is not None and (not path.up or path.up[-1] is not None):
            event = make(path.stream_id)
            path.up.append(event)
            if isinstance(event, HelloReceived):
                path.hello = event.hello

    def _carry_out_host(self, process: Process, effect: HostEffect) -> None:
        match effect:
            case SendHello(connection, hello):
                self._up(connection, process, lambda stream_id: HelloReceived(stream_id, hello))
            case SendRenewal(connection, renewal):
                self._up(connection, process, lambda stream_id: RenewalReceived(stream_id, renewal))
            case SendFarewell(connection, farewell):
                self._up(connection, process, lambda stream_id: FarewellReceived(stream_id, farewell))
            case SendTableRequest(connection, request):
                self._up(connection, process, lambda stream_id: TableRequested(stream_id, request))
            case Granted(spans):
                for kind, slot, fence in ((each.actor_type, s, each.fence) for each in spans for s in _slots(each)):
                    self._right_begins(process, (kind, slot), fence)
            case StopAdmitting(spans):
                process.draining |= _keys(spans)
            case CancelTurns(spans):
                self._cancel(process, _keys(spans))
            case Ended(spans):
                for turn in process.turns:
                    if (turn.right.actor_type, turn.right.slot) in _keys(spans):
                        turn.cut_off = True
                process.draining -= _keys(spans)
            case BecomeNewIncarnation():
                self._reborn(process)
            case Stopped():
                process.stopped = True

    def _reborn(self, process: Process) -> None:
        process.machine = self._machine(process.name, process.kinds)
        process.version, process.draining = 0, set()
        process.lives += 1
        self.rejoins += 1
        self.connect(process)

    def _right_begins(self, process: Process, key: Slot, fence: int) -> None:
        self.grants_seen += 1
        if self.policy is not Policy.EXCLUSIVE:
            return
        if fence <= self.highest_fence.get(key, 0):
            text = f"{process.name} takes {key} under fence {fence}, after {self.highest_fence[key]}"
            raise PropertyViolation("FenceMonotonic", text)
        self.highest_fence[key] = fence

    def _cancel(self, process: Process, keys: set[Slot]) -> None:
        now_ms = process.clock.read(self.true_ms)
        for turn in list(process.turns):
            if (turn.right.actor_type, turn.right.slot) not in keys or turn.cut_off:
                continue
            if now_ms - turn.admitted_ms <= self.settings.drain_ms:
                text = f"a turn of {process.name} is cancelled after {now_ms - turn.admitted_ms} ms"
                raise PropertyViolation("DrainIsGiven", text)
            if not turn.stubborn:
                process.turns.remove(turn)

    def alive(self) -> list[Process]:
        return [each for each in self.processes if not each.crashed and not each.stopped]


def _slots(span: SlotRun | object) -> range:
    first, count = getattr(span, "first", 0), getattr(span, "count", 0)
    return range(first, first + count)


def _keys(spans: Iterable[SlotRun]) -> set[Slot]:
    return {(span.actor_type, slot) for span in spans for slot in _slots(span)}
