"""Serving rights, tables and turns of native hosts, by books of their own that the machines know nothing of.

Checked here: SingleActivation, FenceMonotonic, TableMonotonic, TableAgreement, OwnerAgreement, TurnBased,
DefiniteOrUnknown; and DrainIsGiven, which is no property of the whole but a promise to turns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from attrs import define, field

from callboard.core.handoff_messages import Held, Renewal, RenewalAnswer
from callboard.core.native_host_records import Ended, EndReason, Right
from callboard.core.slot_records import HandoffSettings, slot_of
from callboard.core.table_delta import TableDelta
from callboard.core.versions import Policy
from harness.simulation.actors import Result, Turn, slots_of
from harness.simulation.history import History
from harness.simulation.kernel import MS
from harness.violation import PropertyViolation

if TYPE_CHECKING:
    from harness.simulation.hosts import Host
    from harness.simulation.world import World

Place = tuple[str, str, int]
"""Namespace, actor type, slot."""
SAMPLE_IDS = ("a", "b", "c")


@define(eq=False)
class Book:
    """Of one incarnation: when it sent which renewal, what the newest answered one was, and what it holds."""

    host: Host
    settings: HandoffSettings
    sent_ms: dict[int, int] = field(factory=dict)
    base_ms: int | None = None
    epoch: int = 0
    """Of the newest answer."""
    held: dict[tuple[str, int], int] = field(factory=dict)
    dead: set[tuple[tuple[str, int], int]] = field(factory=set)
    """Rights that a lease ended: for good, whatever the host thinks."""
    lapsed: set[tuple[str, int]] = field(factory=set)

    @property
    def gate_until_ms(self) -> int:
        """On its clock."""
        return -1 if self.base_ms is None else self.base_ms + self.settings.lease_ms


@define(eq=False)
class Rights:
    """Who may serve what."""

    world: World
    books: dict[tuple[str, int], Book] = field(init=False, factory=dict)
    """By namespace and incarnation."""
    grants: int = field(init=False, default=0)
    _holders: dict[Place, dict[int, Book]] = field(init=False, factory=dict)
    _highest: dict[Place, int] = field(init=False, factory=dict)
    _last_holder: dict[Place, int] = field(init=False, factory=dict)
    _waited_for: set[int] = field(init=False, factory=set)
    """Buried by the wait of a leader that never answered them."""
    _was_shut: bool = field(init=False, default=False)

    def _book(self, host: Host) -> Book:
        key = (host.namespace, host.machine.incarnation)
        book = self.books.get(key)
        if book is None:
            book = self.books[key] = Book(host, self.world.settings_of(host.namespace))
        return book

    def renews(self, host: Host, renewal: Renewal) -> None:
        """A renewal is sent now."""
        self._book(host).sent_ms[renewal.number] = host.now_ms()

    def answered(self, host: Host, answer: RenewalAnswer) -> None:
        """An answer arrives."""
        book = self.books.get((host.namespace, answer.incarnation))
        self._was_shut = False
        if book is None or book.host is not host:
            return
        self._was_shut = host.now_ms() >= book.gate_until_ms
        self._note_epoch(book, answer)
        if self._was_shut and host.policy is Policy.EXCLUSIVE:
            book.dead |= set(book.held.items())
        sent_ms = book.sent_ms.get(answer.number)
        if sent_ms is not None:
            book.base_ms = sent_ms if book.base_ms is None else max(book.base_ms, sent_ms)
        if self._was_shut and host.now_ms() >= book.gate_until_ms:
            self.world.saw("an answer comes after the lease that it gives")

    def _note_epoch(self, book: Book, answer: RenewalAnswer) -> None:
        if answer.epoch < self.world.history.state.epoch:
            self.world.saw("an answer of a deposed leader arrives")
        if book.epoch and answer.epoch > book.epoch and book.held and not self._was_shut:
            self.world.saw("rights outlive a change of leader")
        if not answer.holding_known:
            self.world.saw("a leader asks for the whole of what a host holds")
        book.epoch = max(book.epoch, answer.epoch)

    def heard_since(self, host: Host, true_ms: int, epoch: int) -> bool:
        """Whether the leader of that epoch has answered something that the host said after a true time."""
        book = self.books.get((host.namespace, host.machine.incarnation))
        if book is None or book.base_ms is None:
            return False
        return book.epoch == epoch and book.base_ms > host.clock.read(true_ms * MS)

    def gate_may_have_opened(self, host: Host) -> None:
        """The machine took an answer in: if its gate was shut and is open now, nobody else may have what it holds."""
        if not self._was_shut or host.policy is not Policy.EXCLUSIVE or not _open(host):
            return
        incarnation = host.machine.incarnation
        book = self._book(host)
        for kind, slot in book.held:
            self._alone((host.namespace, kind, slot), incarnation, host)

    def begin(self, host: Host, spans: Iterable[Held]) -> None:
        """Rights begin."""
        book, incarnation = self._book(host), host.machine.incarnation
        exclusive = host.policy is Policy.EXCLUSIVE
        namespace = self.world.history.state.native[host.namespace]
        for span in spans:
            for slot in range(span.first, span.first + span.count):
                self.grants += 1
                place = (host.namespace, span.actor_type, slot)
                book.held[span.actor_type, slot] = span.fence
                holders = self._holders.setdefault(place, {})
                if exclusive:
                    highest = self._highest.get(place, -1)
                    if span.fence <= highest:
                        text = f"{host.name} takes {place} under fence {span.fence}, after {highest}"
                        raise PropertyViolation("FenceMonotonic", text)
                    self._highest[place] = span.fence
                    self._alone(place, incarnation, host)
                    self._note_rare(host, span, namespace.version.wire)
                    self._note_past(book, place, incarnation)
                else:
                    self._note_duplicates(place, incarnation)
                holders[incarnation] = book

    def _note_rare(self, host: Host, span: Held, newest: int) -> None:
        if span.since < newest:
            self.world.saw("a grant of an older version than the newest is accepted")
        if self.world.history.epochs.get((host.namespace, span.since), 0) < host.machine.epoch:
            self.world.saw("a handoff goes on across a change of leader")

    def _note_past(self, book: Book, place: Place, incarnation: int) -> None:
        if place[1:] in book.lapsed:
            book.lapsed.discard(place[1:])
            self.world.saw("a lapse is made good")
        if self._last_holder.get(place) in self._waited_for:
            self.world.saw("a slot is granted after a new leader's wait for an earlier lease")
        self._last_holder[place] = incarnation

    def _note_duplicates(self, place: Place, incarnation: int) -> None:
        for other, book in self._holders.get(place, {}).items():
            if other != incarnation and book.host.alive and _open(book.host, other):
                self.world.saw("two hosts may serve one slot under policy eventual")

    def _alone(self, place: Place, incarnation: int, host: Host) -> None:
        for other, book in self._holders.get(place, {}).items():
            if other != incarnation and book.host.alive and _open(book.host, other):
                raise PropertyViolation("SingleActivation", f"{host.name} and {book.host.name} both may serve {place}")
            if other != incarnation and book.host.alive:
                self.world.saw("a slot is granted while its former owner is a zombie")

    def end(self, host: Host, effect: Ended) -> None:
        """Rights end."""
        book, incarnation = self._book(host), host.machine.incarnation
        if effect.reason is EndReason.LEASE:
            exclusive = host.policy is Policy.EXCLUSIVE
            self.world.saw(
                "a lease runs out under live rights" if exclusive else "a host of policy eventual stops when isolated"
            )
        for kind, slot in slots_of(effect.spans):
            book.held.pop((kind, slot), None)
            if effect.reason is EndReason.LEASE:
                book.lapsed.add((kind, slot))
            self._holders.get((host.namespace, kind, slot), {}).pop(incarnation, None)

    def passes_gate(self, host: Host, right: Right) -> None:
        """An effect or reply passes: by our books it must be allowed to."""
        if host.policy is not Policy.EXCLUSIVE:
            return
        book = self._book(host)
        if book.held.get((right.actor_type, right.slot)) != right.fence:
            text = f"an effect of {host.name} at {right.actor_type}/{right.slot} passes under a right that ended"
            raise PropertyViolation("SingleActivation", text)
        if ((right.actor_type, right.slot), right.fence) in book.dead:
            text = (
                f"an effect of {host.name} at {right.actor_type}/{right.slot} passes under a right that a lease ended"
            )
            raise PropertyViolation("SingleActivation", text)
        if host.now_ms() >= book.gate_until_ms:
            text = f"an effect of {host.name} passes at {host.now_ms()} ms, its lease ended at {book.gate_until_ms} ms"
            raise PropertyViolation("SingleActivation", text)

    def buried(self, namespace: str, incarnations: set[int]) -> None:
        """These are taken for gone for certain."""
        for incarnation in sorted(incarnations):
            book = self.books.get((namespace, incarnation))
            if book is None:
                continue
            host = book.host
            if host.stopped or host.machine.incarnation != incarnation:
                continue
            if book.epoch < self.world.history.state.epoch:
                self._waited_for.add(incarnation)
            if host.alive:
                self.world.saw("a host is buried while its process lives")
                if book.held and _open(host, incarnation):
                    text = f"{incarnation} ({host.name}) is buried, but may serve {min(book.held)}"
                    raise PropertyViolation("SingleActivation", text)

    def removed(self, namespace: str, incarnations: set[int]) -> None:
        """These are no members any more."""
        for incarnation in sorted(incarnations):
            book = self.books.get((namespace, incarnation))
            if book is not None and book.held and book.host.alive and _open(book.host, incarnation):
                self.world.saw("a host is removed while it may serve")

    def table_comes(self, host: Host, delta: TableDelta) -> None:
        """For what is rare."""
        view = host.machine.view
        if view is not None and delta.is_snapshot:
            self.world.saw("a host gets a snapshot after a gap")
        if view is not None and delta.to_version <= view.version:
            self.world.saw("an older table comes after a newer one")
        if view is not None and delta.to_version > view.version + 1:
            self.world.saw("a host skips versions")


def _open(host: Host, incarnation: int | None = None) -> bool:
    """Whether effects of that incarnation may pass now, as the machine says."""
    if incarnation is not None and host.machine.incarnation != incarnation:
        return False
    return not host.stopped and host.machine.lease_remaining_ms(host.now_ms()) != 0


@define(eq=False)
class InstalledTables:
    """What hosts install."""

    world: World
    history: History
    installed_count: int = field(init=False, default=0)
    _owners: dict[tuple[str, int, str, str], str] = field(init=False, factory=dict)

    def installed(self, host: Host, version: int) -> None:
        """A table is in use."""
        view, name = host.machine.view, host.namespace
        assert view is not None
        self.installed_count += 1
        if version <= host.version:
            raise PropertyViolation("TableMonotonic", f"{host.name} installs {version} after {host.version}")
        committed = self.history.views.get((name, version))
        if committed is None or view.hosts != committed.hosts or view.tables != committed.tables:
            raise PropertyViolation("TableAgreement", f"{host.name} has another table {version} than was committed")
        for kind in view.tables:
            for actor_id in SAMPLE_IDS:
                entry = host.machine.owner_of(kind, slot_of(kind, actor_id, view.slot_bits))
                owner = "nobody" if entry is None else entry.name
                other = self._owners.setdefault((name, version, kind, actor_id), owner)
                if other != owner:
                    text = f"{host.name} takes {owner} for the owner of {kind}/{actor_id} at {version}, others {other}"
                    raise PropertyViolation("OwnerAgreement", text)


@define(eq=False)
class Turns:
    """What runs where, and what callers are told."""

    world: World
    begun: int = field(init=False, default=0)
    duplicates: int = field(init=False, default=0)
    _running: dict[tuple[str, str, str], list[Turn]] = field(init=False, factory=dict)
    _replied: dict[int, Result] = field(init=False, factory=dict)
    _counts: dict[tuple[str, str, str], int] = field(init=False, factory=dict)

    def begins(self, turn: Turn) -> None:
        """A turn begins."""
        self.begun += 1
        host, actor = turn.host, turn.call.actor
        turn.admitted_ms = host.now_ms()
        if host.policy is Policy.EXCLUSIVE:
            self._check_admission(turn)
        else:
            self._check_isolation(host)
        running = self._running.setdefault(actor, [])
        for other in running:
            if other.cut or not other.host.alive:
                continue
            if other.host is host:
                raise PropertyViolation("TurnBased", f"{host.name} runs two turns of {actor} at once")
            right = other.activation.right
            if other.host.machine.gate_open(right, other.host.now_ms()):
                self.duplicates += 1
                self.world.duplicate(host, other.host, actor)
        running.append(turn)

    def _check_admission(self, turn: Turn) -> None:
        host, right = turn.host, turn.activation.right
        book = self.world.rights.books[host.namespace, host.machine.incarnation]
        settings = book.settings
        until_ms = book.gate_until_ms - settings.margin_ms - settings.drain_ms
        if host.now_ms() >= until_ms:
            text = f"{host.name} admits a turn at {host.now_ms()} ms, though its lease lets it only until {until_ms} ms"
            raise PropertyViolation("DrainIsGiven", text)
        view = host.machine.view
        table = None if view is None else view.tables[right.actor_type]
        if (
            table is None
            or table.owners[right.slot] != host.machine.incarnation
            or table.since[right.slot] != right.since
        ):
            text = f"{host.name} admits to {right.actor_type}/{right.slot}, which is not its own by its table"
            raise PropertyViolation("SingleActivation", text)

    def _check_isolation(self, host: Host) -> None:
        """Policy `eventual` with a longest isolation: who has not been answered for so long has stopped."""
        book = self.world.rights.books.get((host.namespace, host.machine.incarnation))
        settings = self.world.settings_of(host.namespace)
        if settings.max_isolation_ms == 0:
            return
        base_ms = None if book is None else book.base_ms
        if base_ms is None or host.now_ms() >= base_ms + settings.max_isolation_ms:
            text = f"{host.name} runs a turn {settings.max_isolation_ms} ms or more after its last answered renewal"
            raise PropertyViolation("DuplicateWindow", text)

    def cancelled(self, turn: Turn, now_ms: int) -> None:
        """A turn is cancelled: it must have had its drain time since it was admitted."""
        spent_ms = now_ms - turn.admitted_ms
        self.world.saw("a turn is cancelled")
        if spent_ms <= self.world.settings_of(turn.host.namespace).drain_ms:
            raise PropertyViolation("DrainIsGiven", f"a turn of {turn.host.name} is cancelled after {spent_ms} ms")

    def ends(self, turn: Turn) -> None:
        """A turn is over."""
        running = self._running.get(turn.call.actor)
        if running is not None and turn in running:
            running.remove(turn)

    def reaches_store(self, turn: Turn, fence: int) -> None:
        """An access arrives: as long as its host may serve, no higher fence can have been there."""
        host, actor = turn.host, turn.call.actor
        highest = self.world.store.fences.get(actor, 0)
        if fence < highest and host.alive and host.machine.gate_open(turn.activation.right, host.now_ms()):
            text = f"{host.name} comes to {actor} with fence {fence} after {highest}, though its gate is open"
            raise PropertyViolation("FenceMonotonic", text)

    # ---- callers

    def called(self, actor: tuple[str, str, str]) -> int:
        """A caller begins: it has to see what was acknowledged before."""
        return self._counts.get(actor, 0)

    def returned(self, operation: int, actor: tuple[str, str, str], result: Result, count: int, began: int) -> None:
        """A caller is told what became of its operation."""
        self._replied[operation] = result
        if result is not Result.OK or count == 0:
            return
        if count <= began:
            text = (
                f"operation {operation} on {actor} made count {count}, though {began} was acknowledged before it began"
            )
            raise PropertyViolation("SingleActivation", text)
        self._counts[actor] = max(count, self._counts.get(actor, 0))

    def check_outcomes(self) -> None:
        """At the end: what was acknowledged was done once, what surely did not run was not, nothing was done twice."""
        accepted = self.world.store.accepted
        for operation, times in accepted.items():
            if times > 1:
                raise PropertyViolation("DefiniteOrUnknown", f"operation {operation} was done {times} times")
            result = self._replied.get(operation)
            if result is not None and result.definite:
                text = f"operation {operation} was done, but its caller was told {result.name}"
                raise PropertyViolation("DefiniteOrUnknown", text)
        for operation, result in self._replied.items():
            if result is Result.OK and operation not in accepted and operation in self.world.fenced_operations:
                raise PropertyViolation(
                    "DefiniteOrUnknown", f"operation {operation} was acknowledged, but is not there"
                )
