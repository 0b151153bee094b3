"""Records of policy `exclusive` as lines of ExclusiveHandoff, for one slot.

Why the projection is sound is said in tla/doc/Traces.md. Versions, fences and epochs become their ranks; a batch of the
implementation becomes one step for each member that came or left, and the slot moves in the one in which it may.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from attrs import Factory, define, field

from harness.conformance.tracelines import Line, Record, Trace

UNKNOWN = 999
"""Stands for a number that the replicated state never gave out: no line with it is ever allowed."""
TURN_EVENTS = {"Admit", "Effect", "StoreAccepts", "StoreRefuses"}


class NotProjectableError(Exception):
    """The records show what the specification leaves out; the text says what."""


def projections(records: list[Record], namespace: str) -> list[tuple[str, int]]:
    """Slots of a namespace that had an owner, those with the most to tell first."""
    changes: dict[tuple[str, int], int] = {}
    for record in records:
        if record.get("namespace") == namespace and record["event"] in {"Commit", "RaiseFence", "ApplyConfirm"}:
            for kind, slot, *_ in record["slots"]:
                changes[kind, slot] = changes.get((kind, slot), 0) + 2
        elif record["event"] in TURN_EVENTS and (record["actor_type"], record["slot"]) in changes:
            changes[record["actor_type"], record["slot"]] += 1
    return sorted(changes, key=lambda key: (-changes[key], key))


def project(records: list[Record], namespace: str, kind: str, slot: int, label: str) -> Trace:
    """The trace of one slot. Raises NotProjectableError."""
    view = _Projection(namespace, kind, slot)
    view.look_ahead(records)
    for record in with_lapses(records):
        view.take(record)
    lives: dict[int, tuple[int, int]] = {}
    names = sorted({view.names[i] for i in view.relevant})
    for incarnation in sorted(view.relevant):
        index = names.index(view.names[incarnation])
        lives[incarnation] = (index, sum(1 for each in lives.values() if each[0] == index))
    return Trace(f"{label} {kind}/{slot}", tuple(view.lines), {"lives": lives, "names": len(names)})


def with_lapses(records: list[Record]) -> Iterator[Record]:
    """The records, and among them where each incarnation's lease ran out in real time.

    A host's decision that was made before that, on its own clock, may have been written down after it: then the lease
    counts as over only after that record.
    """
    ends: dict[int, tuple[float, int]] = {}
    for record in records:
        yield from _lapsed(ends, record)
        who = record.get("incarnation")
        if record["event"] == "HearAnswer" and isinstance(who, int):
            ends[who] = (record["ends_at"], record["gate_until_ms"])
        elif record["event"] in {"Crash", "SayFarewell"}:
            ends.pop(who or 0, None)
        yield record


def _lapsed(ends: dict[int, tuple[float, int]], record: Record) -> Iterator[Record]:
    own, reading = record.get("incarnation"), record.get("now_ms")
    by_host = str(record["process"]).startswith("host")
    for who, (ends_at, until_ms) in sorted(ends.items(), key=lambda item: item[1]):
        late = by_host and who == own and isinstance(reading, int) and reading < until_ms
        if record["at"] >= ends_at and not late:
            del ends[who]
            yield {"at": ends_at, "process": "time", "event": "LeaseRunsOut", "incarnation": who}


@define
class _Host:
    """What the lines so far say of one incarnation."""

    process: str = "unborn"
    version: int = 0
    table: tuple[int, int] = (0, 0)
    live: bool = False
    live_in_lines: bool = False
    since: int = 0
    lease: bool = False
    heard: int = 0
    epoch: int = 0
    turn: int = 0
    turns: int = 0
    holding: bool = False


@define
class _Projection:
    namespace: str
    kind: str
    slot: int
    lines: list[Line] = Factory(list)
    names: dict[int, str] = Factory(dict)
    relevant: set[int] = Factory(set)
    hosts: dict[int, _Host] = Factory(dict)
    fences: list[int] = Factory(list)
    versions: dict[int, int] = Factory(dict)
    sinces: dict[int, int] = Factory(lambda: {0: 1})
    epochs: dict[int, int] = Factory(dict)
    version: int = 1
    members: set[int] = Factory(set)
    issued: set[int] = Factory(set)
    tombs: set[int] = Factory(set)
    owner: int = 0
    since: int = 0
    fence: int = 0
    pending: set[int] = Factory(set)
    waited: set[int] = Factory(set)
    over: set[int] = Factory(set)
    proposed: set[int] = Factory(set)
    gone_by: dict[int, str] = Factory(dict)
    said: set[tuple[object, ...]] = Factory(set)
    writes: set[tuple[int, int]] = Factory(set)
    begun: bool = field(init=False, default=False)

    # ---- what is known only at the end

    def look_ahead(self, records: Iterable[Record]) -> None:
        """Find who ever owned the slot or acted on it, and all fences of it."""
        fences = {0}
        for record in records:
            event = record["event"]
            if event == "Commit" and record["namespace"] == self.namespace:
                self.names.update((who, name) for who, name in record["joined"])
            if record.get("namespace") == self.namespace and event in {"Commit", "RaiseFence"}:
                for kind, slot, owner, _, fence, _ in record["slots"]:
                    if (kind, slot) == (self.kind, self.slot):
                        self.relevant |= {owner} - {0}
                        fences.add(fence)
            elif (event in TURN_EVENTS and self._mine(record)) or (event == "Accept" and self._spans(record["rights"])):
                self.relevant.add(record["incarnation"])
        self.relevant &= self.names.keys()
        self.fences = sorted(fences)

    def _mine(self, record: Record) -> bool:
        return (record["actor_type"], record["slot"]) == (self.kind, self.slot)

    def _spans(self, spans: Iterable[list[Any]]) -> list[list[Any]]:
        """Those of [actor type, first, count, ...] that hold the slot."""
        return [each for each in spans if each[0] == self.kind and each[1] <= self.slot < each[1] + each[2]]

    def _fence(self, fence: int) -> int:
        return self.fences.index(fence) + 1 if fence in self.fences else UNKNOWN

    def _since(self, since: int) -> int:
        return self.sinces.get(since, UNKNOWN)

    def _epoch(self, epoch: int) -> int:
        return self.epochs.get(epoch, UNKNOWN)

    def _line(self, name: str, **fields: Any) -> None:
        self.lines.append({"name": name, **fields})

    # ---- records

    def take(self, record: Record) -> None:
        """Turn one record into lines."""
        event = record["event"]
        if event == "CreateNamespace" and record["namespace"] == self.namespace:
            if record["tombstones"]:
                raise NotProjectableError("the namespace begins with a tombstone for hosts of a former life")
            self.begun = True
            self.versions[record["version"]] = 1
        elif event == "TakeOffice":
            self._take_office(record)
        elif not self.begun or record.get("namespace", self.namespace) != self.namespace:
            pass
        elif "index" in record:
            getattr(self, f"_applied_{event}", _ignore)(record)
        elif record["process"].startswith("leader") or record["process"].startswith("replica"):
            getattr(self, f"_leader_{event}", _ignore)(record)
        elif record.get("incarnation") in self.relevant:
            host = self.hosts.setdefault(record["incarnation"], _Host())
            getattr(self, f"_host_{event}", _ignore)(record, record["incarnation"], host)

    # ---- the log

    def _take_office(self, record: Record) -> None:
        self.epochs[record["epoch"]] = len(self.epochs) + 1 if self.begun else 1
        if not self.begun:
            self.epochs = {record["epoch"]: 1}
            return
        self.waited.clear()
        self._line("TakeOffice", e=self.epochs[record["epoch"]])

    def _applied_Commit(self, record: Record) -> None:  # noqa: N802 - named after the event
        hosting = {who for who, *kinds in record["hosting"] if self.kind in kinds} & self.relevant
        joiners, leavers = hosting - self.members, self.members - hosting
        returned = joiners & self.issued
        if returned:
            raise NotProjectableError(f"incarnations {sorted(returned)} take up {self.kind} after they gave it up")
        owner, since, fence, pending = self._slot_after(record)
        if owner == 0 and hosting:
            raise NotProjectableError("nobody owns the slot although it has members: they are cordoned or draining")
        self.issued |= joiners
        self.tombs |= leavers & set(record["tombstones"])
        moves = since != self.since
        steps = self._batch(joiners, leavers, moves, owner)
        if not steps and moves:
            steps = [("Rebalance", 0, set(self.members))]
        first = self.owner == 0
        members, tombs = set(self.members), self.tombs - leavers
        for at, (name, who, after) in enumerate(steps):
            self.version += 1
            tombs |= members - after
            members = after
            if moves and at == (0 if first else len(steps) - 1):
                self.owner, self.since, self.fence, self.pending = owner, since, fence, pending
                self.sinces[since] = self.version
            self._server_line(name, who, members, tombs)
        self.members, self.tombs = hosting, tombs
        self.versions[record["version"]] = self.version

    def _slot_after(self, record: Record) -> tuple[int, int, int, set[int]]:
        for kind, slot, owner, since, fence, pending in record["slots"]:
            if (kind, slot) == (self.kind, self.slot):
                return owner, since, fence, set(pending)
        return self.owner, self.since, self.fence, self.pending

    def _batch(self, joiners: set[int], leavers: set[int], moves: bool, owner: int) -> list[tuple[str, int, set[int]]]:
        """Upserts and removals one by one, with the members after each: the step that ends the owner comes last."""
        by_name = {self.names[who]: who for who in self.members}
        replaced = {by_name[self.names[who]]: who for who in joiners if self.names[who] in by_name}
        order: list[tuple[str, int]] = [("Upsert", who) for who in sorted(joiners, key=lambda who: (who != owner, who))]
        order += [("Remove", who) for who in sorted(leavers - replaced.keys())]
        last = replaced.get(self.owner, self.owner if self.owner in leavers else None)
        if moves and last is not None:
            order.sort(key=lambda step: step[1] == last)
        members = set(self.members)
        steps = []
        for name, who in order:
            if name == "Upsert":
                members = {each for each in members if self.names[each] != self.names[who]} | {who}
            else:
                members = members - {who}
            steps.append((name, who, members))
        return steps

    def _server_line(self, name: str, who: int, members: set[int], tombs: set[int]) -> None:
        state = {"v": self.version, "o": self.owner, "n": self._since(self.since), "f": self._fence(self.fence)}
        self._line(name, i=who, **state, p=set(self.pending), m=set(members), t=set(tombs))

    def _applied_ApplyConfirm(self, record: Record) -> None:  # noqa: N802
        pending = self._slot_after(record)[3]
        if pending != self.pending:
            self.pending = pending
            self._line("ApplyConfirm", p=set(pending))

    def _applied_RaiseFence(self, record: Record) -> None:  # noqa: N802
        fence = self._slot_after(record)[2]
        if fence != self.fence:
            self.fence = fence
            self._line("RaiseFence", f=self._fence(fence))

    def _applied_Bury(self, record: Record) -> None:  # noqa: N802
        pending = self._slot_after(record)[3]
        for who in record["incarnations"]:
            if who in self.tombs:
                if self.gone_by.get(who) != "farewell":
                    self._wait_over(who)
                self.tombs.discard(who)
                self.waited.discard(who)
                self.pending = self.pending - {who}
                last = who == record["incarnations"][-1]
                self._line("Bury", i=who, p=set(pending if last else self.pending))
        self.pending = pending

    # ---- leaders

    def _wait_over(self, who: int) -> None:
        if who in self.tombs and who not in self.waited:
            self.waited.add(who)
            self.over.add(who)
            self._line("WaitRunsOut", i=who)

    def _leader_Gone(self, record: Record) -> None:  # noqa: N802
        self.gone_by[record["incarnation"]] = record["by"]
        if record["by"] == "wait":
            self._wait_over(record["incarnation"])

    def _leader_ProposeConfirm(self, record: Record) -> None:  # noqa: N802
        for _, _, _, since in self._spans(record["slots"]):
            # A leader that lags behind the log proposes what apply will leave alone.
            if since == self.since and self.pending and since not in self.proposed:
                self.proposed.add(since)
                self._line("ProposeConfirm", n=self._since(since))

    def _leader_SendGrants(self, record: Record) -> None:  # noqa: N802
        for _, _, _, since, fence in self._spans(record["grants"]):
            if record["incarnation"] in self.relevant:
                to = {"n": self._since(since), "f": self._fence(fence), "e": self._epoch(record["epoch"])}
                self._say("SaysGranted", i=record["incarnation"], **to)

    _leader_SendAnswer = _leader_SendGrants  # noqa: N815

    def _say(self, name: str, **fields: int) -> None:
        key = (name, *fields.items())
        if key not in self.said:
            self.said.add(key)
            self._line(name, **fields)

    # ---- hosts

    def _host_Start(self, record: Record, who: int, host: _Host) -> None:  # noqa: N802
        self._start(who, host, record["version"], *self._in_table(record))

    def _start(self, who: int, host: _Host, version: int, owner: int, since: int) -> None:
        host.process, host.version = "running", self.versions.get(version, UNKNOWN)
        host.table = (owner, since)
        self._line("Start", i=who, v=host.version, o=self._owner(owner), n=self._since(since))
        if host.epoch > 1:
            host.heard = host.epoch
            self._line("HearOffice", i=who, e=host.epoch)
        if host.lease:
            self._line("LeaseStarts", i=who)

    def _in_table(self, record: Record) -> tuple[int, int]:
        for _, _, _, owner, since in self._spans(record["tables"]):
            return owner, since
        return 0, 0

    def _owner(self, owner: int) -> int:
        return owner if owner in self.relevant or owner == 0 else UNKNOWN

    def _host_Install(self, record: Record, who: int, host: _Host) -> None:  # noqa: N802
        version, table = self.versions.get(record["version"], UNKNOWN), self._in_table(record)
        if version != host.version or table != host.table:
            host.version, host.table = version, table
            self._line("Install", i=who, v=version, o=self._owner(table[0]), n=self._since(table[1]))
            self._end_lapsed(who, host)

    def _born(self, who: int, host: _Host) -> None:
        """One that leaves before its first table counts as one that started from the table that made it a member."""
        if host.process == "unborn":
            version = next(key for key, value in self.versions.items() if value >= self._joined_at(who))
            self._start(who, host, version, *self._table_at(self.versions[version]))

    def _joined_at(self, who: int) -> int:
        return next(int(line["v"]) for line in self.lines if line["name"] == "Upsert" and line["i"] == who)

    def _table_at(self, version: int) -> tuple[int, int]:
        state = {"o": 0, "n": 1}
        for line in self.lines:
            if line["name"] in {"Upsert", "Remove", "Rebalance"} and line["v"] <= version:
                state = line
        since = next(key for key, value in self.sinces.items() if value == state["n"])
        return state["o"], since

    def _host_LearnGone(self, _record: Record, who: int, host: _Host) -> None:  # noqa: N802
        self._leaves("LearnGone", who, host)

    def _host_Leave(self, _record: Record, who: int, host: _Host) -> None:  # noqa: N802
        self._leaves("Leave", who, host)

    def _leaves(self, name: str, who: int, host: _Host) -> None:
        self._born(who, host)
        host.process = "leaving"
        self._line(name, i=who)
        self._end_lapsed(who, host)

    def _end_lapsed(self, who: int, host: _Host) -> None:
        """A right that ended with its lease, where the specification can say so only now."""
        if host.live_in_lines and not host.live and (host.process == "leaving" or host.table[1] != host.since):
            host.live_in_lines = False
            self._line("LetGo", i=who)

    def _host_HearOffice(self, record: Record, who: int, host: _Host) -> None:  # noqa: N802
        host.epoch = self._epoch(record["epoch"])
        if host.process in {"running", "leaving"} and host.epoch > host.heard:
            host.heard = host.epoch
            self._line("HearOffice", i=who, e=host.epoch)

    def _host_Welcomed(self, record: Record, _who: int, host: _Host) -> None:  # noqa: N802
        host.epoch = self._epoch(record["epoch"])

    def _host_HearAnswer(self, record: Record, who: int, host: _Host) -> None:  # noqa: N802
        if not host.lease and record["ends_at"] > record["at"]:
            host.lease = True
            if host.process != "unborn":
                host.live_in_lines = False
                self._line("LeaseStarts", i=who)

    def _host_LeaseRunsOut(self, _record: Record, who: int, host: _Host) -> None:  # noqa: N802
        if host.lease:
            host.lease = False
            if host.process in {"running", "leaving"}:
                self._line("LeaseRunsOut", i=who)

    def _host_Accept(self, record: Record, who: int, host: _Host) -> None:  # noqa: N802
        for _, _, _, since, fence in self._spans(record["rights"]):
            host.live = host.live_in_lines = True
            host.since, host.heard = since, self._epoch(record["epoch"])
            self._line("Accept", i=who, n=self._since(since), f=self._fence(fence), e=host.heard)

    def _host_LetGo(self, record: Record, who: int, host: _Host) -> None:  # noqa: N802
        if not self._spans(record["slots"]) or not host.live:
            return
        host.live = False
        if record["reason"] == "released":
            host.live_in_lines = False
            self._line("LetGo", i=who)
        elif not host.lease and (who not in self.over or who in self.members):
            # With its lease; that a lease may start and at once run out again is how the specification says this.
            host.live_in_lines = False
            self._line("LeaseStarts", i=who)
            self._line("LeaseRunsOut", i=who)
        else:
            self._end_lapsed(who, host)

    def _host_SendRenewal(self, record: Record, who: int, host: _Host) -> None:  # noqa: N802
        taken, dropped = self._spans(record["taken"]), self._spans(record["dropped"])
        host.holding = bool(taken) or (host.holding and not dropped and record["base_number"] != 0)
        if record["version"] and host.process != "unborn" and not host.holding and who not in self.over:
            self._say("SaysReleased", i=who, v=self.versions.get(record["version"], UNKNOWN))
        for _, _, _, since, fence in self._spans(record["requests"]):
            if who not in self.over:
                self._say("SaysRequest", i=who, n=self._since(since), f=self._fence(fence))

    def _host_SayFarewell(self, _record: Record, who: int, host: _Host) -> None:  # noqa: N802
        self._born(who, host)
        self._end_lapsed(who, host)
        host.process, host.lease, host.turn = "stopped", False, 0
        self._line("SayFarewell", i=who)

    def _host_Crash(self, _record: Record, who: int, host: _Host) -> None:  # noqa: N802
        if host.process in {"running", "leaving"}:
            self._line("Crash", i=who)
        host.process, host.lease, host.turn, host.live, host.live_in_lines = "crashed", False, 0, False, False

    # ---- turns and the store

    def _host_Admit(self, record: Record, who: int, host: _Host) -> None:  # noqa: N802
        """Of turns that run at the same time under one right the first to begin and the last to end are told."""
        fence = self._fence(record["fence"])
        if self._mine(record) and host.turn == fence:
            host.turns += 1
        elif self._mine(record):
            if host.turn:
                self._line("EndTurn", i=who)
            host.turn, host.turns = fence, 1
            self._line("Admit", i=who, f=fence)

    def _host_EndTurn(self, record: Record, who: int, host: _Host) -> None:  # noqa: N802
        if self._mine(record) and host.turn == self._fence(record["fence"]):
            host.turns -= 1
            if host.turns == 0:
                host.turn = 0
                self._line("EndTurn", i=who)

    def _host_Effect(self, record: Record, who: int, _host: _Host) -> None:  # noqa: N802
        """Equal writes on their way are one in the specification."""
        if self._mine(record):
            self.writes.add((who, record["fence"]))
            line = {"name": "Effect", "i": who, "f": self._fence(record["fence"])}
            if self.lines[-1:] != [line]:
                self.lines.append(line)

    def _host_StoreAccepts(self, record: Record, who: int, _host: _Host) -> None:  # noqa: N802
        """Of equal writes on their way the first to arrive: the others change nothing any more."""
        if self._mine(record) and (who, record["fence"]) in self.writes:
            self.writes.discard((who, record["fence"]))
            self._line(record["event"], i=who, f=self._fence(record["fence"]))

    _host_StoreRefuses = _host_StoreAccepts  # noqa: N815


def _ignore(*_: object) -> None:
    """Records that say nothing about the slot."""
