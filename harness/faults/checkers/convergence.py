"""`Convergence`: Jepsen's set-full for tables. Each version that was committed reaches everybody who is connected,
within a bound from its commit or from the heal; whoever gets a newer version has the older one too.

Judged is what happens while no fault is active. A version that is followed by a fault before its bound is over counts
if it arrived, and is left out if it did not. After the last heal nothing is left out: a run waits for what has to
arrive until the bound is over, and if it did not, the verdict is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

from harness.faults.bounds import PROCESS_START_MS, convergence_ms, stalled_ms
from harness.faults.checkers.tables import COMMITTED, TABLE
from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.history import History
from harness.faults.windows import Window, quiet_windows

MS = 1_000_000
ARRIVING = "arriving"
"""Note of the moment from which the run only waited for what had to arrive: what is changed later does not have to."""


@frozen
class Arrival:
    """A version on its way to one receiver: `since_ns` is the latest of its commit, the heal and the receiver's start.
    `arrived_ns` is None if it was never seen to arrive."""

    receiver: str
    version: int
    since_ns: int
    arrived_ns: int | None
    bound_ms: int
    window: Window

    @property
    def in_place(self) -> bool:
        """Whether it was there before it had to be."""
        return self.arrived_ns is not None and self.arrived_ns <= self.since_ns

    @property
    def delay_ms(self) -> int | None:
        """How long it took."""
        return None if self.arrived_ns is None else max(0, self.arrived_ns - self.since_ns) // MS

    def late(self, stalled: int) -> bool:
        """Whether it took longer than the bound and what the machine stood still; False if a fault came before."""
        deadline_ns = self.since_ns + (self.bound_ms + stalled) * MS
        if self.arrived_ns is not None:
            return self.arrived_ns > deadline_ns
        return self.window.ended_ns > deadline_ns


def receivers(history: History, namespace: str) -> list[str]:
    """Who is connected at the end and has to have every version: hosts, watchers, sidecars."""
    watchers = {
        note.fields["host"]
        for note in history.notes_of(TABLE)
        if note.fields["namespace"] == namespace and note.fields["host"].startswith("watch-")
    }
    connected = {
        host
        for note in history.notes_of("connected")
        if note.fields["namespace"] == namespace
        for host in note.fields["hosts"]
    }
    settled = {host for note in history.notes_of("settled") for host in note.fields["hosts"]}
    return sorted(watchers | connected | (settled if namespace == "actors" else set()))


def arrivals(history: History, namespace: str) -> list[Arrival]:
    """What has to arrive while no fault is active: the newest version at the heal, and each one committed after it."""
    bound_ms = convergence_ms(history.settings, namespace)
    last_ns = max((note.at_ns for note in history.notes_of(ARRIVING)), default=None)
    versions = [each for each in _first_seen(history, namespace) if last_ns is None or each[1] <= last_ns]
    started = _started(history)
    found = []
    for receiver in receivers(history, namespace):
        tables = [
            (note.at_ns, note.fields["version"])
            for note in history.notes_of(TABLE)
            if note.fields["namespace"] == namespace and note.fields["host"] == receiver
        ]
        for window in quiet_windows(history):
            born_ns = max((at_ns for at_ns in started.get(receiver, ()) if at_ns < window.ended_ns), default=0)
            for version, committed_ns in _within(versions, window):
                since_ns, more_ms = max(committed_ns, window.begun_ns), 0
                if born_ns > since_ns - PROCESS_START_MS * MS:
                    # It has to start and to connect first, and begins with the newest table.
                    since_ns, more_ms = max(since_ns, born_ns), PROCESS_START_MS
                times = [at_ns for at_ns, seen in tables if seen >= version and at_ns >= born_ns]
                arrived_ns = min(times, default=None)
                if arrived_ns is not None and arrived_ns > window.ended_ns:
                    arrived_ns = None
                found.append(Arrival(receiver, version, since_ns, arrived_ns, bound_ms + more_ms, window))
    return found


def _first_seen(history: History, namespace: str) -> list[tuple[int, int]]:
    """Versions with the time at which anybody first had them, in order. (Sidecars' replicas are not watched.)"""
    seen: dict[int, int] = {}
    for kind in (COMMITTED, TABLE):
        for note in history.notes_of(kind):
            if note.fields["namespace"] == namespace:
                version = note.fields["version"]
                seen[version] = min(seen.get(version, note.at_ns), note.at_ns)
    return sorted(seen.items())


def _within(versions: Sequence[tuple[int, int]], window: Window) -> list[tuple[int, int]]:
    before = [entry for entry in versions if entry[1] <= window.begun_ns]
    return before[-1:] + [entry for entry in versions if window.begun_ns < entry[1] <= window.ended_ns]


def _started(history: History) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for note in history.notes_of("process"):
        if note.fields["what"] == "started":
            found.setdefault(note.fields["name"], []).append(note.at_ns)
    return found


def check_arrivals(history: History, namespace: str) -> CheckResult:
    """Everything arrives in time."""
    found = arrivals(history, namespace)
    delays = delays_ms(found)
    figures = {
        "arrivals": len(delays),
        "in_place": sum(arrival.in_place for arrival in found),
        "heals": len(quiet_windows(history)),
        "slowest_ms": max(delays, default=0),
        "left_out": sum(arrival.arrived_ns is None and not arrival.window.last for arrival in found),
    }
    checker = f"convergence_{namespace}"
    for arrival in found:
        end_ns = arrival.arrived_ns or arrival.window.ended_ns
        if arrival.late(stalled_ms(history, arrival.since_ns, end_ns)):
            return CheckResult(checker, Verdict.INVALID, _explanation(arrival), figures)
    for arrival in found:
        if arrival.arrived_ns is None and arrival.window.last:
            text = (
                f"the run ended before {arrival.receiver} had version {arrival.version} and before the bound was over"
            )
            return CheckResult(checker, Verdict.UNKNOWN, (text,), figures)
    verdict = Verdict.VALID if any(arrival.arrived_ns is not None for arrival in found) else Verdict.UNKNOWN
    lines = () if verdict is Verdict.VALID else ("nothing had to arrive anywhere",)
    return CheckResult(checker, verdict, lines, figures)


def delays_ms(found: Iterable[Arrival]) -> list[int]:
    """Of what arrived after it had to."""
    return [arrival.delay_ms for arrival in found if arrival.delay_ms is not None and not arrival.in_place]


def _explanation(arrival: Arrival) -> tuple[str, ...]:
    took = "never" if arrival.delay_ms is None else f"after {arrival.delay_ms} ms"
    return (
        f"{arrival.receiver} got version {arrival.version} {took}; the bound is {arrival.bound_ms} ms",
        f"  counted from {arrival.since_ns / 1e6:.3f} ms, the heal at {arrival.window.begun_ns / 1e6:.3f} ms",
    )


def convergence_figures(history: History, namespaces: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """For campaigns: all delays, by namespace."""
    found: dict[str, Mapping[str, Any]] = {}
    for name in namespaces:
        delays = delays_ms(arrivals(history, name))
        if delays:
            bound_ms = convergence_ms(history.settings, name)
            found[name] = {"delays_ms": delays, "bound_ms": bound_ms, "heals": len(quiet_windows(history))}
    return found
