"""Records of policy `exclusive` as lines of Leases, for one incarnation and all terms of office.

Only where true time is known (walks and simulations): clocks are logged in parts of a millisecond as they ran. Why the
projection is sound is said in tla/doc/Traces.md.
"""

from __future__ import annotations

from typing import Any

from attrs import Factory, define

from harness.conformance.exclusive import NotProjectableError
from harness.conformance.tracelines import Line, Record, Trace

UNIT = 100
"""Parts of a clock's millisecond."""
PPM_OF_A_PART = 1_000_000 // UNIT


def incarnations(records: list[Record]) -> list[int]:
    """Incarnations that were welcomed, those first of which there is the most to tell."""
    weight: dict[int, int] = {}
    worth = {"Welcomed": 1, "Gone": 20, "HearAnswer": 1, "Effect": 1, "Cancel": 10, "HearFarewell": 10}
    for record in records:
        who = record.get("incarnation")
        if isinstance(who, int) and (who in weight or record["event"] == "Welcomed"):
            weight[who] = weight.get(who, 0) + worth.get(record["event"], 0)
    return sorted(weight, key=lambda who: (-weight[who], who))


def project(records: list[Record], who: int, label: str) -> Trace:
    """The trace of one incarnation. Raises NotProjectableError."""
    view = _Projection(who, records)
    for at, record in enumerate(records):
        view.take(at, record)
    clocks = {"host": view.host_start, "hostRate": view.host_rate, "starts": view.starts, "rates": view.rates}
    created = next(record for record in records if record["event"] == "CreateNamespace")
    settings = {key: created[key] for key in ("lease_ms", "drain_ms", "margin_ms", "rate_error_ppm")}
    return Trace(f"{label} incarnation {who}", tuple(view.lines), {"clocks": clocks, "settings": settings})


@define
class _Projection:
    who: int
    records: list[Record]
    lines: list[Line] = Factory(list)
    host_start: int = 0
    host_rate: int = UNIT
    starts: list[int] = Factory(list)
    rates: list[int] = Factory(list)
    offices: dict[int, int] = Factory(dict)
    rounds: dict[int, tuple[int, str]] = Factory(dict)
    """By office: the round that has this incarnation, and how far it is."""
    last_at: int = 0
    removal_at: int | None = None
    removal_by: int = 0
    following: tuple[str, int, int] | None = None
    """Actor type, slot and fence of the turn that is followed."""
    farewells: set[int] = Factory(set)
    buried: bool = False
    ended: bool = False

    def __attrs_post_init__(self) -> None:
        for record in self.records:
            if "clock_offset_ms" in record:
                start, rate = record["clock_offset_ms"] * UNIT, UNIT + record["clock_rate_ppm"] // PPM_OF_A_PART
                if record["event"] == "BeginOffice":
                    self.offices[record["epoch"]] = len(self.offices) + 1
                    self.starts.append(start)
                    self.rates.append(rate)
                elif record.get("incarnation") == self.who and record["process"].startswith("host"):
                    self.host_start, self.host_rate = start, rate
        self._place_removal()

    def _place_removal(self) -> None:
        """The specification has the leader see a removal as it commits. It does nothing with it before it does see it.

        So the removal counts from there; if another takes office first, from right after that, by the new leader.
        """
        commit = next((at for at, each in enumerate(self.records) if self.who in each.get("left", ())), None)
        if commit is None:
            return
        epoch = self.records[commit]["epoch"]
        later = list(enumerate(self.records))[commit:]
        seen = next(
            (at for at, each in later if self._is(each, "FollowLog", epoch) and self.who not in each["members"]), None
        )
        begun = next((at for at, each in later if each["event"] == "BeginOffice"), None)
        if seen is not None and (begun is None or seen < begun):
            self.removal_at, self.removal_by = seen, epoch
        elif seen is None:
            if begun is not None:
                self.removal_at, self.removal_by = begun, self.records[begun]["epoch"]
        else:
            between = [each for at, each in later if at < seen and self._is(each, "SendAnswer", epoch)]
            if any(each["incarnation"] == self.who for each in between):
                raise NotProjectableError("a deposed leader answered after a removal that it saw still later")
            self.removal_at, self.removal_by = commit, epoch

    @staticmethod
    def _is(record: Record, event: str, epoch: int) -> bool:
        return bool(record["event"] == event and record["epoch"] == epoch)

    # ---- lines

    def _line(self, record: Record, name: str, **fields: Any) -> None:
        if record["at"] > self.last_at:
            self.lines.append({"name": "Tick", "n": record["at"] - self.last_at})
            self.last_at = record["at"]
        self.lines.append({"name": name, **fields})

    def take(self, at: int, record: Record) -> None:
        """Turn one record into lines."""
        event = record["event"]
        if record["process"].startswith("leader"):
            getattr(self, f"_leader_{event}", _ignore)(record, self.offices[record["epoch"]])
        elif event == "ConfirmRound":
            office = self.offices[record["epoch"]]
            if self.rounds.get(office) == (record["round"], "proposed"):
                self.rounds[office] = (record["round"], "confirmed")
                self._line(record, "ConfirmRound", r=office)
        elif record.get("incarnation") == self.who and not self.ended:
            getattr(self, f"_host_{event}", _ignore)(record, at)
        if at == self.removal_at:
            self._line(record, "CommitRemoval", r=self.offices[self.removal_by])

    # ---- the host

    def _host_SendRenewal(self, record: Record, _at: int) -> None:  # noqa: N802 - named after the event
        self._line(record, "SendRenewal", k=record["number"], now=record["now_ms"])

    def _host_HearAnswer(self, record: Record, _at: int) -> None:  # noqa: N802
        self._line(record, "HearAnswer", k=record["number"], b=record["base_ms"], now=record["now_ms"])

    def _host_Admit(self, record: Record, at: int) -> None:  # noqa: N802
        """One turn at a time is followed: one of which an effect or a cancellation is to come."""
        key = (record["actor_type"], record["slot"], record["fence"])
        if self.following is None and self._has_an_end(key, at):
            self.following = key
            self._line(record, "Admit", now=record["now_ms"])

    def _has_an_end(self, key: tuple[str, int, int], at: int) -> bool:
        for record in self.records[at + 1 :]:
            if record.get("incarnation") == self.who:
                if record["event"] in {"Crash", "SayFarewell", "LetGo"}:
                    return False
                if record["event"] == "Cancel" or (record["event"] == "Effect" and self._right(record) == key):
                    return True
        return False

    @staticmethod
    def _right(record: Record) -> tuple[str, int, int]:
        return record["actor_type"], record["slot"], record["fence"]

    def _host_Effect(self, record: Record, _at: int) -> None:  # noqa: N802
        if self.following == self._right(record):
            self.following = None
            self._line(record, "Effect", now=record["now_ms"])
            self._line(record, "EndTurn")

    def _host_Cancel(self, record: Record, _at: int) -> None:  # noqa: N802
        if self.following is not None:
            self.following = None
            self._line(record, "Cancel", now=record["now_ms"])
            self._line(record, "EndTurn")

    def _host_SayFarewell(self, record: Record, _at: int) -> None:  # noqa: N802
        self.ended = True
        self._line(record, "SayFarewell")

    def _host_Crash(self, _record: Record, _at: int) -> None:  # noqa: N802
        self.ended = True

    # ---- leaders

    def _leader_BeginOffice(self, record: Record, office: int) -> None:  # noqa: N802
        self._line(record, "TakeOffice", r=office, e=office, now=record["now_ms"])

    def _leader_ProposeRound(self, record: Record, office: int) -> None:  # noqa: N802
        for who, number in record["items"]:
            if who == self.who:
                if office in self.rounds:
                    self._line(record, "EndRound", r=office)
                self.rounds[office] = (record["round"], "proposed")
                self._line(record, "ProposeRound", r=office, k=number)

    def _leader_SendAnswer(self, record: Record, office: int) -> None:  # noqa: N802
        if record["incarnation"] == self.who:
            self._line(record, "SendAnswer", r=office, k=record["number"], now=record["now_ms"])

    def _leader_EndRound(self, record: Record, office: int) -> None:  # noqa: N802
        if self.rounds.get(office, (0, ""))[0] == record["round"]:
            del self.rounds[office]
            self._line(record, "EndRound", r=office)

    def _leader_StepDown(self, record: Record, office: int) -> None:  # noqa: N802
        self.rounds.pop(office, None)
        self._line(record, "StepDown", r=office)

    def _leader_HearFarewell(self, record: Record, office: int) -> None:  # noqa: N802
        if record["incarnation"] == self.who and office not in self.farewells:
            self.farewells.add(office)
            self._line(record, "HearFarewell", r=office)

    def _leader_Gone(self, record: Record, office: int) -> None:  # noqa: N802
        if record["incarnation"] == self.who:
            self._line(record, "SaysGone" if self.buried else "Bury", r=office, now=record["now_ms"])
            self.buried = True


def _ignore(*_: object) -> None:
    """Records that say nothing about the lease."""
